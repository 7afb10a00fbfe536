"""Three accuracies of multiple choice: by summed log-probability, per character and per byte.

As computed in lm_eval/api/task.py (0.4.13), ConfigurableTask.process_results. Worked number: " 4" at -2.0 beats
" twenty-two" at -6.0 by sum; divided by 1 and by 10 characters it is -2.0 against -0.6, and the other one wins.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-choice-accuracy",
    title="acc, acc_norm and acc_bytes",
    points=3,
    minutes=15,
    difficulty="easy",
    importance="core",
    skills=("metrics", "evaluation"),
    hints=(
        "One function picks a choice, given what to divide by; the three accuracies differ in that only.",
        "How long is 'naïve' in characters, and how long in UTF-8?",
        "Log-probabilities are negative. Which of -6 / 3 and -4 / 1 is the larger?",
    ),
    forbidden=("lm_eval",),
    library_note="The paper about lm-eval says that acc_norm divides by bytes (Biderman et al. 2024, "
    "arXiv:2405.14782); its code divides by len(choice), which counts characters, and has acc_bytes beside it (issue "
    "3278 of the project). On ASCII they agree, in Hindi they do not. Read the code of the version you report. Both "
    "measure the choice as it stands in the data, without the space before it.",
    interview="Why does acc_norm exist, which way can it mislead, and which of the two do you report?",
)


@exercise.reference
def choice_accuracy(items: list[dict]) -> dict[str, float]:
    """Shares of items whose right choice is picked, by three ways to pick.

    items: at least one, each {"choices": list of texts, none empty, "loglikelihoods": one float for each choice,
        "gold": index of the right one}. Items may have different numbers of choices.
    Of one item a way picks the choice with the largest value; of equal values the first:
        "acc": the log-likelihood itself;
        "acc_norm": the log-likelihood divided by the number of characters of the choice;
        "acc_bytes": the log-likelihood divided by the number of bytes of the choice in UTF-8.
    A choice is measured as it stands in "choices", without the space that was put before it when it was scored.
    Returns {"acc": ..., "acc_norm": ..., "acc_bytes": ...}, each right / all, from 0 to 1.
    """
    right = np.zeros(3)
    for item in items:
        values = np.array(item["loglikelihoods"])
        texts = item["choices"]
        sizes = [[1] * len(texts), [len(text) for text in texts], [len(text.encode()) for text in texts]]
        right += (values / np.array(sizes)).argmax(axis=1) == item["gold"]
    return dict(zip(("acc", "acc_norm", "acc_bytes"), (right / len(items)).tolist(), strict=True))


@exercise.alternative
def with_plain_python(items):
    ways = {"acc": lambda text: 1, "acc_norm": len, "acc_bytes": lambda text: len(bytes(text, "utf-8"))}
    table = {}
    for name, size in ways.items():
        hits = 0
        for item in items:
            pairs = list(zip(item["loglikelihoods"], item["choices"], strict=True))
            quotients = [value / size(text) for value, text in pairs]
            hits += quotients.index(max(quotients)) == item["gold"]
        table[name] = hits / len(items)
    return table


def accuracies(
    items: Sequence[dict[str, Any]],
    characters: Callable[[str], float] = len,
    utf8_bytes: Callable[[str], float] = lambda text: len(text.encode()),
    pick: Callable[[list[float]], int] = lambda values: max(range(len(values)), key=values.__getitem__),
    divide: Callable[[float, float], float] = lambda value, size: value / size,
    percent: bool = False,
    chance: bool = False,
) -> dict[str, float]:
    """The table with the parts that the misconceptions change."""
    sizes = {"acc": lambda text: 1.0, "acc_norm": characters, "acc_bytes": utf8_bytes}
    table = {}
    for name, size in sizes.items():
        hits = sum(
            pick([divide(v, size(c)) for v, c in zip(item["loglikelihoods"], item["choices"], strict=True)])
            == item["gold"]
            for item in items
        )
        table[name] = 100 * hits / len(items) if percent else hits / len(items)
    return table


@exercise.misconception(
    hint="acc_norm and acc_bytes both divide by bytes in yours. In this version acc_norm counts characters; they "
    "differ as soon as a choice is not plain ASCII."
)
def bytes_for_characters(items):
    return accuracies(items, characters=lambda text: len(text.encode()))


@exercise.misconception(
    hint="Your bytes are characters. In UTF-8 an accented letter takes two bytes and a Chinese sign three."
)
def characters_for_bytes(items):
    return accuracies(items, utf8_bytes=len)


WORDS_HINT = (
    "You divide by words, as a stand-in for tokens. What a token is depends on the model, so normalising by "
    "tokens makes two models' scores incomparable; characters and bytes belong to the text alone."
)


@exercise.misconception(hint=WORDS_HINT)
def divided_by_words(items):
    return accuracies(items, lambda text: len(text.split()), lambda text: len(text.split()))


@exercise.misconception(hint=WORDS_HINT)
def words_for_characters(items):
    return accuracies(items, lambda text: len(text.split()))


@exercise.misconception(
    hint="The space before the choice is counted in its length. The harness measures the choice as it stands in the "
    "data, although the space is part of what the model was asked for."
)
def leading_space_counted(items):
    return accuracies(items, lambda text: len(text) + 1, lambda text: len(text.encode()) + 1)


@exercise.misconception(
    hint="You multiply by the length where you should divide. Log-probabilities are negative, so that makes long "
    "choices even worse."
)
def multiplied_by_length(items):
    return accuracies(items, divide=lambda value, size: value * size)


@exercise.misconception(
    hint="You pick the smallest value. Log-probabilities are negative: the largest is the one nearest to zero."
)
def smallest_picked(items):
    return accuracies(items, pick=lambda values: min(range(len(values)), key=values.__getitem__))


@exercise.misconception(
    hint="You divide the probability, not its logarithm. The length scales a sum of logarithms; exp(sum) / length "
    "hardly ever changes who wins."
)
def probability_divided(items):
    return accuracies(items, divide=lambda value, size: float(np.exp(value)) / size)


@exercise.misconception(hint="Of equal values you take the last. The harness's argmax takes the first.")
def last_of_equals(items):
    return accuracies(items, pick=lambda values: max(range(len(values)), key=lambda i: (values[i], i)))


@exercise.misconception(hint="Your shares are percentages. The harness reports them from 0 to 1.")
def in_percent(items):
    return accuracies(items, percent=True)


@exercise.misconception(
    hint="Your three numbers are the same: nothing is divided by a length. acc alone looks at the bare sum."
)
def nothing_normalised(items):
    return accuracies(items, lambda text: 1, lambda text: 1)


@exercise.misconception(
    hint="Every item is taken to have as many choices as the first one, so further choices are never picked. Count the "
    "choices of each item anew."
)
def as_many_choices_as_the_first(items):
    count = len(items[0]["choices"])
    return accuracies(
        [{**item, **{name: item[name][:count] for name in ("choices", "loglikelihoods")}} for item in items]
    )


@exercise.misconception(
    hint="acc is normalised as well in yours. It is the one that takes the sums as they are, and so prefers short "
    "choices."
)
def acc_normalised(items):
    table = accuracies(items)
    return table | {"acc": table["acc_norm"]}


ASCII_CHOICES = ("4", "twenty-two", "a list of pairs", "None", "it raises KeyError", "an empty string", "True")
WIDE_CHOICES = ("naïve Bäume", "सूरज", "月は石でできている", "déjà vu", "e", "石", "plain words here")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def item(pool: Sequence[str], count: int = 4, per_character: float = 0.9) -> dict[str, Any]:
        choices = draw.sample(pool, count)
        # Longer texts are less likely, as with a real model; the noise decides.
        values = [-per_character * len(text.encode()) ** 0.7 - draw.uniform(0.1, 3) for text in choices]
        return {"choices": choices, "loglikelihoods": values, "gold": draw.randrange(count)}

    def case(name: str, about: str, items: list[dict[str, Any]], visible: bool = True) -> Case:
        return Case(name, {"items": items}, about, visible)

    short = {"choices": ["4", "twenty-two"], "loglikelihoods": [-2.0, -6.0 - draw.random()], "gold": 1}
    yield case("short against long", "when a short choice meets a long one", [short])
    wide = {"choices": ["abcdefgh", "石石石石"], "loglikelihoods": [-8.8, -5.2 - draw.random() / 9], "gold": 0}
    yield case("characters against bytes", "when choices are not plain ASCII", [wide])
    equal = {"choices": ["ab", "cd", "ef"], "loglikelihoods": [-4.0, -3.0, -3.0], "gold": 1}
    yield case("equal values", "when two choices are equally good", [equal])
    spaced = {"choices": ["a", "abc d"], "loglikelihoods": [-1.0, -3.6 - draw.random() / 9], "gold": 1}
    yield case("very short", "with a choice of one letter", [spaced])
    words = {"choices": ["a b c d", "incomprehensible"], "loglikelihoods": [-4.0, -5.0 - draw.random()], "gold": 1}
    yield case("one long word", "with one long word", [words])
    near = {"choices": ["ten letter", "b"], "loglikelihoods": [-2.0, -2.2 - draw.random() / 9], "gold": 0}
    yield case("nearly as likely", "when a long and a short choice are nearly as likely", [near])
    alike = {"choices": ["ab", "cde"], "loglikelihoods": [-5.0, -4.5 - draw.random() / 99], "gold": 0}
    yield case("nearly as long", "when choices are nearly as long", [alike])
    few = {"choices": ["yes", "no"], "loglikelihoods": [-1.0, -2.0 - draw.random()], "gold": 0}
    more = {"choices": ["iron", "zinc", "lead", "gold"], "loglikelihoods": [-3.0, -4.0, -5.0, -1.0], "gold": 3}
    yield case("two, then four", "when a later item has more choices than the first", [few, more])
    yield case("english", "on questions in English", [item(ASCII_CHOICES) for _ in range(12)], visible=False)
    yield case("many scripts", "on questions in many scripts", [item(WIDE_CHOICES) for _ in range(15)], visible=False)
    mixed = [item(ASCII_CHOICES, count) for count in (2, 3, 5, 4)]
    yield case("other counts", "with other numbers of choices", mixed, visible=False)


@exercise.oracle
def oracle(items: list[dict]) -> dict[str, float]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from course.evaluation.harness import quiet_harness
    from course.lessons.l17_metrics.harness_parts import GivenAnswers, build_task

    metrics = ("acc", "acc_norm", "acc_bytes")
    config = {
        "task": "given",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{number}}:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
    }
    rows = [{**item, "number": str(number) + "?"} for number, item in enumerate(items)]
    values = {
        (f"{row['number']}:", f" {text}"): value
        for row in rows
        for text, value in zip(row["choices"], row["loglikelihoods"], strict=True)
    }
    with quiet_harness():
        result = simple_evaluate(
            GivenAnswers(values),
            tasks=[build_task(config, {"test": rows})],
            bootstrap_iters=0,
            log_samples=False,
            task_manager=TaskManager(include_defaults=False),  # else it reads some 14,000 files of other tasks
        )
    return {name: float(result["results"]["given"][f"{name},none"]) for name in metrics}

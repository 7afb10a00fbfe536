"""Exact match and token F1 for short answers (Rajpurkar et al. 2016, SQuAD, section 6.1, arXiv:1606.05250).

Worked number: "the red planet" against "Red planet Mars" shares 2 of 2 and of 3 words, the article being dropped:
precision 1, recall 2/3, F1 0.8, exact match 0.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-token-f1",
    title="Exact match and F1 after normalising",
    points=3,
    minutes=15,
    difficulty="easy",
    importance="core",
    skills=("metrics",),
    hints=(
        "Write the normalisation as a function of its own and print what it makes of a few answers.",
        "The order of its four steps matters. What is left of 'A.M.' if articles go before punctuation, and after?",
        "A word that stands twice in both answers is shared twice, one that stands twice in one of them only once.",
    ),
    forbidden=("lm_eval", "evaluate", "sklearn"),
    library_note="This is the arithmetic of SQuAD's own script, which lm-eval's question-answering tasks copy. When "
    "neither answer has a word left, SQuAD 2.0's script gives F1 1 and the older one, which is asked for here, 0: the "
    "same outputs get other numbers from scripts of the same name. And its articles are English: for other languages "
    "the tasks bring normalisers of their own.",
    interview="Exact match says 41, F1 says 58. What kinds of answers make the difference, and which do you report?",
)


@exercise.reference
def token_f1(prediction: str, golds: list[str]) -> dict[str, float]:
    """How well a short answer fits the best of several right ones.

    prediction: what the model answered. golds: one or more right answers.
    Both sides are normalised, in this order: lower case; every character of `string.punctuation` removed, with nothing
        in its place; the words a, an and the replaced by a space, but not the same letters inside longer words; runs of
        white space made one space, none at the ends.
    All texts are ASCII: a word is what is then between spaces, and the word boundaries of `re` are the same.
    With one gold: shared = words in common, each counted as often as it stands in both; precision = shared / words of
        the prediction, recall = shared / words of the gold, F1 = 2 * precision * recall / (precision + recall), and 0
        when nothing is shared. Two texts of which nothing is left are equal (exact match 1) but share no word (F1 0).
    Returns {"exact_match": 1.0 if the normalised prediction equals a normalised gold, else 0.0; "f1": the largest F1 of
        all golds}.
    Source: the evaluation script of SQuAD 1.1.
    """

    def words(text: str) -> list[str]:
        bare = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", bare).split()

    answered = words(prediction)
    best = 0.0
    for gold in golds:
        wanted = words(gold)
        shared = (Counter(answered) & Counter(wanted)).total()
        if shared:
            precision, recall = shared / len(answered), shared / len(wanted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return {"exact_match": float(any(answered == words(gold) for gold in golds)), "f1": best}


@exercise.alternative
def by_removing_shared_words(prediction, golds):
    table = str.maketrans("", "", string.punctuation)

    def tidy(text):
        return " ".join(word for word in text.lower().translate(table).split() if word not in {"a", "an", "the"})

    def overlap(one, other):
        left, shared = one.split(), 0
        total = len(left) + len(other.split())
        for word in other.split():
            if word in left:
                left.remove(word)
                shared += 1
        return 2 * shared / total if total else 0.0

    mine = tidy(prediction)
    f1s = [overlap(mine, tidy(gold)) for gold in golds]
    return {"exact_match": 1.0 if mine in map(tidy, golds) else 0.0, "f1": max(f1s)}


def lower(text: str) -> str:
    return text.lower()


def without_punctuation(text: str) -> str:
    return text.translate(str.maketrans("", "", string.punctuation))


def punctuation_to_spaces(text: str) -> str:
    return text.translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))


def without_articles(text: str) -> str:
    return " ".join(w for w in text.split() if w not in ("a", "an", "the"))


def without_bounded_articles(text: str) -> str:
    return re.sub(r"\b(a|an|the)\b", " ", text)


def without_article_letters(text: str) -> str:
    return " ".join(re.sub("a|an|the", " ", text).split())


STEPS = (lower, without_punctuation, without_articles)


def scored(
    prediction: str,
    golds: Sequence[str],
    steps: Sequence[Callable[[str], str]] = STEPS,
    sets: bool = False,
    shared_as_set: bool = False,
    pick: Callable[..., float] = max,
    exact: Callable[[str, str], bool] = lambda mine, theirs: mine == theirs,
    mean: Callable[[float, float], float] = lambda p, r: 2 * p * r / (p + r),
    gold_steps: Sequence[Callable[[str], str]] | None = None,
    nothing_left: float = 0.0,
) -> dict[str, float]:
    """Both scores with the parts that the misconceptions change."""

    def tidied(text, chain):
        for step in chain:
            text = step(text)
        return " ".join(text.split())

    mine = tidied(prediction, steps)
    f1s, exacts = [], []
    for gold in golds:
        theirs = tidied(gold, steps if gold_steps is None else gold_steps)
        bags = [Counter(set(t.split()) if sets else t.split()) for t in (mine, theirs)]
        common = len(bags[0] & bags[1]) if shared_as_set else (bags[0] & bags[1]).total()
        f1s.append(mean(common / bags[0].total(), common / bags[1].total()) if common else 0.0)
        if mine == theirs == "":
            f1s[-1] = nothing_left
        exacts.append(float(exact(mine, theirs)))
    return {"exact_match": max(exacts), "f1": pick(f1s)}


@exercise.misconception(
    hint="Your F1 counts each word once, as a set. A bag keeps counts: an answer that repeats one right word ten times "
    "must lose precision."
)
def words_as_sets(prediction, golds):
    return scored(prediction, golds, sets=True)


@exercise.misconception(
    hint="Your lengths count every word, your shared words count each different one once. What stands twice in the "
    "answer and twice in the gold is shared twice."
)
def shared_words_as_a_set(prediction, golds):
    return scored(prediction, golds, shared_as_set=True)


@exercise.misconception(
    hint="Your exact match is taken from F1: the right words in another order count as exact. F1 does not see order; "
    "compare the normalised texts themselves."
)
def exact_match_from_f1(prediction, golds):
    table = scored(prediction, golds)
    return table | {"exact_match": float(table["f1"] == 1)}


@exercise.misconception(
    hint="Case makes a difference in your scores. 'The' with a capital is an article, too: lower case comes first."
)
def case_kept(prediction, golds):
    return scored(prediction, golds, steps=STEPS[1:])


@exercise.misconception(
    hint="Lower case comes too late: an article with a capital letter, at the start of an answer, was not recognised."
)
def lowered_last(prediction, golds):
    return scored(prediction, golds, steps=(without_punctuation, without_articles, lower))


@exercise.misconception(
    hint="Articles go before punctuation in your normalisation. Then 'a.' is no article yet and stays as 'a'. The "
    "order in the docstring is part of the metric."
)
def articles_before_punctuation(prediction, golds):
    return scored(prediction, golds, steps=(lower, without_articles, without_punctuation))


@exercise.misconception(
    hint="Articles go before punctuation in your normalisation. While the full stops still stand, the last letter of "
    "'U.S.A.' looks like the article 'a', and is lost. The order in the docstring is part of the metric."
)
def articles_between_punctuation_marks(prediction, golds):
    return scored(prediction, golds, steps=(lower, without_bounded_articles, without_punctuation))


@exercise.misconception(
    hint="You put a space where punctuation was. Then 'U.S.' becomes two words and no longer equals 'US'."
)
def punctuation_becomes_space(prediction, golds):
    return scored(prediction, golds, steps=(lower, punctuation_to_spaces, without_articles))


@exercise.misconception(hint="Articles are still there. 'the Moon' and 'Moon' must be the same answer.")
def articles_kept(prediction, golds):
    return scored(prediction, golds, steps=(lower, without_punctuation))


@exercise.misconception(
    hint="Letters a, an, the are cut out of longer words, too: 'another' loses its start. Only whole words are "
    "articles."
)
def articles_cut_out_of_words(prediction, golds):
    return scored(prediction, golds, steps=(lower, without_punctuation, without_article_letters))


@exercise.misconception(
    hint="You average F1 over the golds. They are different ways to say the answer, and nobody says it in all ways at "
    "once: the best one counts."
)
def mean_over_golds(prediction, golds):
    return scored(prediction, golds, pick=lambda values: sum(values) / len(values))


@exercise.misconception(hint="Only the first gold is looked at. Any of them may be the one the model meant.")
def first_gold_only(prediction, golds):
    return scored(prediction, golds[:1])


@exercise.misconception(
    hint="Your exact match is true when the gold stands somewhere in the prediction. That rewards an answer that lists "
    "everything; exact means equal, after normalising."
)
def gold_contained_in_prediction(prediction, golds):
    return scored(prediction, golds, exact=lambda mine, theirs: theirs in mine)


@exercise.misconception(
    hint="Your f1 is the plain average of precision and recall. F1 is their harmonic mean, which stays near the "
    "smaller of the two."
)
def arithmetic_mean(prediction, golds):
    return scored(prediction, golds, mean=lambda p, r: (p + r) / 2)


@exercise.misconception(
    hint="Your f1 is the recall alone: an answer that says everything gets 1. Precision belongs in."
)
def recall_only(prediction, golds):
    return scored(prediction, golds, mean=lambda p, r: r)


@exercise.misconception(hint="Your f1 is the precision alone: one right word gets 1. Recall belongs in.")
def precision_only(prediction, golds):
    return scored(prediction, golds, mean=lambda p, r: p)


@exercise.misconception(
    hint="Two texts of which nothing is left get F1 1 from you. That is the rule of SQuAD 2.0, where 'no answer' can "
    "be right. Here F1 counts shared words, and there is none; exact match sees that the two are equal."
)
def nothing_left_is_a_match(prediction, golds):
    return scored(prediction, golds, nothing_left=1.0)


@exercise.misconception(
    hint="Only the prediction is normalised. The golds were written by people, too: treat both alike."
)
def golds_not_normalised(prediction, golds):
    return scored(prediction, golds, gold_steps=())


WORDS = ("another", "planet", "red", "mars", "then", "iron", "dust", "ban", "sand", "theory")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(name: str, about: str, prediction: str, golds: Sequence[str], visible: bool = True) -> Case:
        return Case(name, {"prediction": prediction, "golds": list(golds)}, about, visible)

    one, two, three, four = draw.sample(WORDS, 4)
    yield case("partly right", "when an answer is partly right", f"{one} {two}", [f"{one} {two} {three}"])
    yield case("article", "with articles", f"The {one} of {two}", [f"{one} of the {two}", f"{one}, {three}"])
    repeated = f"{one} {one} {one} {two}"
    yield case("a word repeated", "when a word is repeated", repeated, [f"{one} {two}", f"{three} {four} {two}"])
    both = [f"{three} {one} {one}"]
    yield case("repeated in both", "when a word is repeated in answer and gold", f"{one} {two} {one}", both)
    yield case("another order", "when the words come in another order", f"{one} {two}", [f"{two} {one}"])
    yield case("an A at the end", "with an abbreviation that ends in A", f"the U.S.A. {one}", [f"USA {one}"])
    yield case("punctuation", "with punctuation inside words", "U.S. Army", ["us army", "the U.S.A."])
    yield case(
        "a letter with a full stop", "with abbreviations", f"{one} a. {two}.", [f"{one} {two}", f"{one} (the) {two}"]
    )
    yield case("longer", "when the answer says more than was asked", f"It is {one} {two}, I think", [f"{one} {two}"])
    yield case(
        "gold as written",
        "when the gold is written with capitals and marks",
        f"{one} {two}",
        [f"{one.title()}, {two}!"],
    )
    inside = [f"{one} b nd"]
    yield case("letters inside words", "when words hold the letters of an article", f"{one} band", inside, False)
    golds = [f"{three}", f"{one} {four}", f"{two} {one} {three}"]
    yield case("several golds", "with several right answers", f"{one}  {two}", golds, False)
    yield case("nothing shared", "when nothing is shared", one, [two, f"{three} {four}"], False)
    yield case("empty", "when nothing is left after normalising", "The...", ["a", one], False)
    drawn = " ".join(draw.choices([*WORDS, "The", "a", "of"], k=draw.randint(5, 9)))
    drawn_golds = [" ".join(draw.choices([*WORDS, "an", "of"], k=draw.randint(3, 8))) for _ in range(3)]
    yield case("random words", "on random words", drawn, drawn_golds, False)


@exercise.oracle
def oracle(prediction: str, golds: list[str]) -> dict[str, float]:
    from lm_eval.tasks.qasper.metrics import f1_abstractive, normalize_answer

    pairs = list(product([prediction], golds))
    return {
        "exact_match": float(any(normalize_answer(one) == normalize_answer(other) for one, other in pairs)),
        "f1": max(float(f1_abstractive([one], [other])) for one, other in pairs),
    }

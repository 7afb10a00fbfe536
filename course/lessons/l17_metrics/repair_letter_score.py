"""A scorer of generated letters, with three faults that raise no error and move a score by tens of points.

Worked number: "A good question. The answer is B." starts with the letter A; whoever takes the first capital letter
from A to D scores every such output as A.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-repair-letter-score",
    title="Repair a scorer of generated answers",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("metrics", "evaluation"),
    hints=(
        "Feed it three outputs that you wrote yourself, and look at what it picks for each before any number is made.",
        "How many items are in the denominator, and how many were asked?",
        "A batch is sorted by length to save padding. Who puts the answers back into the order of the questions?",
    ),
    forbidden=("lm_eval",),
    library_note="lm-eval makes the extraction a named part of a task: a filter with its pattern, which of several "
    "matches to take, and a fallback ('[invalid]') that is scored as wrong. Its generate_until sorts by length and "
    "calls get_original before it returns. Real outputs also put the letter in bold or on the next line: read some "
    "dozens before you fix a pattern.",
    interview="A model's score fell by 20 points after an upgrade that should change nothing. How do you look for a "
    "fault in the evaluation itself?",
)


@exercise.reference
def repair_letter_score(outputs: list[str], order: list[int], golds: list[str]) -> dict[str, Any]:
    """Score generated answers to questions with the choices A, B, C and D.

    outputs: N generated texts, in the order in which they were generated. order: outputs[i] answers question order[i];
        a permutation of 0 to N - 1. golds: the right letter of each question, N >= 1.
    The letter picked from a text is that of the LAST such place: the word "answer" or "Answer", followed by
        nothing but an optional " is", an optional colon, any number of spaces (or none), an optional opening bracket
        "(" and then one of the capital letters A to D, with no letter, digit or underscore behind it. Examples:
        "answer is B", "Answer: (C)", "answer D."; in "answer is B, I hope this answer helps" it is B. A text without
        such a place has no letter: None. "ANSWER" is not among them; longer words that end in "answer", and line breaks
        in place of the spaces, do not occur.
    Returns {"picked": the letter of each QUESTION, in the order of the questions, "accuracy": right / all N questions,
        "unanswered": how many have None}.
    """
    pattern = re.compile(r"[Aa]nswer(?: is)?:? *\(?([A-D])\b")
    picked: list[str | None] = [None] * len(golds)
    for text, question in zip(outputs, order, strict=True):
        if found := pattern.findall(text):
            picked[question] = found[-1]
    right = sum(letter == gold for letter, gold in zip(picked, golds, strict=True))
    return {"picked": picked, "accuracy": right / len(golds), "unanswered": picked.count(None)}


@exercise.alternative
def sorted_back_first(outputs, order, golds):
    texts = [text for _, text in sorted(zip(order, outputs, strict=True), key=lambda pair: pair[0])]

    def letter(text):
        latest = None
        for start in (place.end() for place in re.finditer("nswer", text)):
            if text[start - 6 : start - 5] not in ("A", "a"):
                continue
            rest = text[start:].removeprefix(" is").removeprefix(":").lstrip(" ").removeprefix("(")
            if rest[:1] in set("ABCD") and not (rest[1:2].isalnum() or rest[1:2] == "_"):
                latest = rest[0]
        return latest

    letters = [letter(text) for text in texts]
    hits = [one for one, gold in zip(letters, golds, strict=True) if one == gold]
    return {"picked": letters, "accuracy": len(hits) / len(letters), "unanswered": sum(one is None for one in letters)}


RIGHT_PATTERN = r"[Aa]nswer( is)?:? *\(?(?P<letter>[ABCD])(?!\w)"


def scored(
    outputs: Sequence[str],
    order: Sequence[int],
    golds: Sequence[str],
    *,
    pattern: str = RIGHT_PATTERN,
    which: int = -1,
    put_back: bool = True,
    inverse: bool = False,
    answered_only: bool = False,
    fallback: str | None = None,
) -> dict[str, Any]:
    """The score with its faults, and some others, switched one by one."""
    letters = [[m["letter"].upper() for m in re.finditer(pattern, text)] for text in outputs]
    found = [several[which] if several else fallback for several in letters]
    if inverse:
        found = [found[place] for place in order]
    elif put_back:
        found = [letter for _, letter in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
    right = sum(letter == gold for letter, gold in zip(found, golds, strict=True))
    asked = sum(letter is not None for letter in found) if answered_only else len(golds)
    return {"picked": found, "accuracy": right / max(1, asked), "unanswered": sum(letter is None for letter in found)}


FIRST_CAPITAL = "(?P<letter>[ABCD])"


@exercise.misconception(
    hint="All three faults are still there. Begin with what is picked: print it beside a few outputs. Then the order, "
    "then the denominator."
)
def nothing_repaired(outputs, order, golds):
    return scored(outputs, order, golds, pattern=FIRST_CAPITAL, which=0, put_back=False, answered_only=True)


@exercise.misconception(
    hint="The first capital letter from A to D is still taken, wherever it stands: 'A good question' answers A. Order "
    "and denominator are right now."
)
def first_capital_left(outputs, order, golds):
    return scored(outputs, order, golds, pattern=FIRST_CAPITAL, which=0)


@exercise.misconception(
    hint="One fault is left: the answers are compared in the order in which they were generated, not in that of the "
    "questions."
)
def order_left(outputs, order, golds):
    return scored(outputs, order, golds, put_back=False)


@exercise.misconception(
    hint="One fault is left: questions without an answer are missing from the denominator. A model that answers only "
    "what it is sure of would look perfect."
)
def denominator_left(outputs, order, golds):
    return scored(outputs, order, golds, answered_only=True)


@exercise.misconception(
    hint="What is picked is right now. Two faults are left: the order of the answers, and the denominator."
)
def order_and_denominator_left(outputs, order, golds):
    return scored(outputs, order, golds, put_back=False, answered_only=True)


@exercise.misconception(
    hint="The order is right now. Two faults are left: which letter is picked, and the denominator."
)
def letter_and_denominator_left(outputs, order, golds):
    return scored(outputs, order, golds, pattern=FIRST_CAPITAL, which=0, answered_only=True)


@exercise.misconception(
    hint="The denominator is right now. Two faults are left: which letter is picked, and the order of the answers."
)
def letter_and_order_left(outputs, order, golds):
    return scored(outputs, order, golds, pattern=FIRST_CAPITAL, which=0, put_back=False)


@exercise.misconception(
    hint="You apply the permutation the wrong way round. outputs[i] belongs to question order[i]: the output goes TO "
    "that place, it does not come from there. On a swap of two the difference does not show."
)
def permutation_inverted(outputs, order, golds):
    return scored(outputs, order, golds, inverse=True)


@exercise.misconception(
    hint="You take the first statement of an answer. Models think aloud and correct themselves; the last one counts "
    "here."
)
def first_statement_taken(outputs, order, golds):
    return scored(outputs, order, golds, which=0)


@exercise.misconception(
    hint="A letter that starts a word is taken for a choice: 'answer: Because' is no B. Nothing word-like may follow."
)
def letter_of_a_word(outputs, order, golds):
    return scored(outputs, order, golds, pattern=RIGHT_PATTERN.replace(r"(?!\w)", ""))


@exercise.misconception(
    hint="Small letters count in yours: in 'the answer is a list' the a is an article. Only capitals are choices."
)
def small_letters_taken(outputs, order, golds):
    return scored(outputs, order, golds, pattern=RIGHT_PATTERN.replace("[ABCD]", "[ABCDabcd]"))


@exercise.misconception(
    hint="Your pattern ignores case as a whole. Then 'the answer is a list' gives A, and 'ANSWER' counts as well. The "
    "choices are capitals only, and the word before them is written in two ways."
)
def case_ignored(outputs, order, golds):
    return scored(outputs, order, golds, pattern=f"(?i){RIGHT_PATTERN}")


@exercise.misconception(
    hint="A text without an answer counts as A in yours. A guess on the model's behalf is right in a quarter of the "
    "cases: leave it unanswered."
)
def unanswered_counts_as_a(outputs, order, golds):
    return scored(outputs, order, golds, fallback="A")


@exercise.misconception(
    hint="You take the last capital letter from A to D, wherever it stands. 'Answer: B. Cheers, Anna' would be A."
)
def last_capital_taken(outputs, order, golds):
    return scored(outputs, order, golds, pattern=FIRST_CAPITAL)


TEXTS = {
    "plain": "The answer is {0}.",
    "bracket": "Answer: ({0})",
    "aloud": "A good question. Both A and D look right, but the answer is {0}",
    "corrected": "The answer is {1}. No, wait, the answer is {0}. Cheers",
    "word": "The answer: Because of {1}, I cannot say. Answer: {0}",
    "trailing": "answer {0}: see chapter D. Bye",
    "none": "I do not know. Can you say more about {1}?",
    "only a word": "The answer is Definitely not clear",
    "small": "The answer is a list",
    "shouted": "NO ANSWER {0} OR {1} IS SURE",
}


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(
        name: str,
        about: str,
        kinds: Sequence[str],
        order: Sequence[int],
        wrong: Sequence[int] = (),
        visible: bool = True,
    ) -> Case:
        letters = [draw.choice("BCD") for _ in kinds]
        if len(letters) > 1:  # neighbours differ, so that a wrong order shows
            letters = [("BCD" * len(kinds))[place + seed % 3] for place in range(len(kinds))]
        outputs = [
            TEXTS[kind].format(one, draw.choice(sorted({*"BCD"} - {one})))
            for kind, one in zip(kinds, letters, strict=True)
        ]
        golds = [""] * len(kinds)
        for place, question in enumerate(order):
            letter = letters[place] if place not in wrong else "A"
            golds[question] = letter
        return Case(name, {"outputs": outputs, "order": list(order), "golds": golds}, about, visible)

    yield case("in order", "when nothing was sorted", ["plain", "bracket", "none"], [0, 1, 2])
    yield case("aloud", "when the model thinks aloud", ["aloud", "corrected", "trailing"], [0, 1, 2])
    yield case("sorted", "when outputs were sorted by length", ["plain", "bracket", "plain", "aloud"], [2, 0, 3, 1])
    words = ["word", "only a word", "small", "plain"]
    yield case("words", "when a word follows", words, [0, 1, 2, 3], [1, 2])
    yield case("shouted", "when ANSWER is in capitals", ["shouted", "plain", "bracket"], [0, 1, 2], [0])
    yield case("none at all", "when nothing is answered", ["none", "none"], [1, 0], [0, 1])
    kinds = [draw.choice(list(TEXTS)) for _ in range(9)]
    order = [1, 2, 3, 4, 5, 6, 7, 8, 0]
    yield case(
        "all together", "on a mix of everything", ["none", "aloud", "corrected", *kinds[3:]], order, [0, 4], False
    )
    yield case("one", "with a single question", ["corrected"], [0], visible=False)


@exercise.oracle
def oracle(outputs: list[str], order: list[int], golds: list[str]) -> dict[str, Any]:
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    extract = RegexFilter(r"[Aa]nswer(?: is)?:? *\(?([A-D])\b", group_select=-1, fallback="[invalid]")
    texts = [outputs[order.index(question)] for question in range(len(golds))]
    letters = [several[0] for several in extract.apply([[text] for text in texts], [])]
    return {
        "picked": [None if letter == "[invalid]" else letter for letter in letters],
        "accuracy": float(exact_match_fn(predictions=letters, references=golds)["exact_match"]),
        "unanswered": letters.count("[invalid]"),
    }

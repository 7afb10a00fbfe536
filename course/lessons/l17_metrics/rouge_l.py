"""ROUGE-L: the longest common subsequence of two texts as precision, recall and F (Lin 2004, section 3.1).

Worked number: "the cat sat on the mat" and "the cat lay on a mat" share "the cat on mat" in that order, 4 words of 6
and of 6: precision, recall and F are 0.667.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-rouge-l",
    title="ROUGE-L",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("metrics",),
    hints=(
        "A subsequence keeps the order and may leave gaps. Work it out by hand for 'a b c d' and 'b a d' first.",
        "Ask it of beginnings: how long is the longest one of the first i words here and the first j words there? "
        "Three smaller questions answer it.",
        "Keep a table with one row and one column for the empty beginning; the answer is in its last corner.",
    ),
    forbidden=("rouge_score", "evaluate", "difflib", "nltk", "lm_eval"),
    library_note="rouge_score can stem words first (use_stemmer=True, which papers rarely mention) and has rougeLsum, "
    "which splits a text at newlines and takes the union of the sentences' matches: summaries are reported with that "
    "one, and the two differ by several points.",
    interview="ROUGE-L of your summaries rose by two points. What can you say about them, and what can you not?",
)


@exercise.reference
def rouge_l(target: str, prediction: str) -> dict[str, float]:
    """ROUGE-L of one prediction against one target, without stemming.

    Words: the text in lower case, with everything but a-z and 0-9 (é too) taken as a separator.
    lcs: the longest common subsequence, the largest number of words that both texts have in the same order, gaps
        allowed. Each word of a text is used once.
    Returns {"precision": lcs / words of the prediction, "recall": lcs / words of the target, "fmeasure":
        2 * precision * recall / (precision + recall)}; all three 0.0 when nothing is in common, or a text has no words.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", with beta = 1.
    """
    wanted, given = (re.findall("[a-z0-9]+", text.lower()) for text in (target, prediction))
    row = [0] * (len(given) + 1)
    for word in wanted:
        above, row = row, [0]
        for place, other in enumerate(given):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
    if not row[-1]:
        return {"precision": 0.0, "recall": 0.0, "fmeasure": 0.0}
    precision, recall = row[-1] / len(given), row[-1] / len(wanted)
    return {"precision": precision, "recall": recall, "fmeasure": 2 * precision * recall / (precision + recall)}


@exercise.alternative
def by_recursion(target, prediction):
    def split(text):
        return "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else " " for c in text.lower()).split()

    left, right = split(target), split(prediction)

    @cache
    def longest(i, j):
        if i == len(left) or j == len(right):
            return 0
        if left[i] == right[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    length = longest(0, 0)
    return {
        "precision": length / max(1, len(right)),
        "recall": length / max(1, len(left)),
        "fmeasure": 2 * length / max(1, len(left) + len(right)),
    }


def ascii_words(text: str) -> list[str]:
    return re.sub("[^a-z0-9]+", " ", text.lower()).split()


def lcs_length(left: Sequence[str], right: Sequence[str]) -> int:
    """The right length, by a whole table."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def bag_overlap(left: Sequence[str], right: Sequence[str]) -> int:
    return (Counter(left) & Counter(right)).total()


def longest_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Neighbouring words only: the longest common substring."""
    runs = (n for i in range(len(left)) for j in range(len(right)) if (n := run_from(left[i:], right[j:])))
    return max(runs, default=0)


def run_from(left: Sequence[str], right: Sequence[str]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def greedy_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Take the next word of the left that still comes in the right; often too short."""
    place, count = 0, 0
    for word in left:
        if word in right[place:]:
            place = right.index(word, place) + 1
            count += 1
    return count


def length_in_one_row(left: Sequence[str], right: Sequence[str]) -> int:
    """A row changed in place, read where it is already the next row; too long where words repeat."""
    row = [0] * (len(right) + 1)
    for one in left:
        for place, other in enumerate(right, 1):
            row[place] = row[place - 1] + 1 if one == other else max(row[place], row[place - 1])
    return row[-1]


def rouge(
    target: str,
    prediction: str,
    length: Callable[[Sequence[str], Sequence[str]], int] = lcs_length,
    split: Callable[[str], list[str]] = ascii_words,
    swapped: bool = False,
    zero_known: bool = True,
    mean: Callable[[float, float], float] = lambda p, r: 2 * p * r / (p + r),
) -> dict[str, float]:
    """The three numbers with the parts that the misconceptions change."""
    left, right = split(target), split(prediction)
    if swapped:
        left, right = right, left
    count = length(left, right)
    if not count and zero_known:
        return {"precision": 0.0, "recall": 0.0, "fmeasure": 0.0}
    p, r = count / len(right), count / len(left)
    return {"precision": p, "recall": r, "fmeasure": mean(p, r)}


@exercise.misconception(
    hint="You count shared words whatever their order, as sets. That is a kind of ROUGE-1; the L stands for a "
    "sequence: order counts."
)
def shared_words_as_a_set(target, prediction):
    return rouge(target, prediction, length=lambda left, right: len(set(left) & set(right)))


@exercise.misconception(
    hint="You count shared words with their repetitions, but in any order. That is ROUGE-1. For ROUGE-L a word counts "
    "only if it keeps its place in the order."
)
def shared_words_as_a_bag(target, prediction):
    return rouge(target, prediction, length=bag_overlap)


@exercise.misconception(
    hint="You look for the longest run of neighbouring words. A subsequence may leave gaps; a run may not."
)
def longest_run_of_neighbours(target, prediction):
    return rouge(target, prediction, length=longest_run)


@exercise.misconception(
    hint="You take each word at its next place in the other text and go on from there. An early choice can use up the "
    "rest of the text: 'z' first and far behind costs everything in between. All ways have to be compared."
)
def greedy_matching(target, prediction):
    return rouge(target, prediction, length=greedy_length)


@exercise.misconception(
    hint="You keep one row of the table and change it in place: where two words are equal, the count up and to the "
    "left is needed, and you had just overwritten it. So one word is matched several times."
)
def row_overwritten_too_early(target, prediction):
    return rouge(target, prediction, length=length_in_one_row)


@exercise.misconception(
    hint="Your code divides by zero when nothing is in common, or a text has no words. An answer of another topic, or "
    "an empty one, is no error: all three numbers are 0 there."
)
def nothing_in_common_forgotten(target, prediction):
    return rouge(target, prediction, zero_known=False)


@exercise.misconception(
    hint="Precision and recall are exchanged. Precision is about what the model said, recall about what it should have "
    "said."
)
def precision_and_recall_exchanged(target, prediction):
    return rouge(target, prediction, swapped=True)


@exercise.misconception(
    hint="Punctuation sticks to your words: 'mat.' and 'mat' must be the same word. Everything but letters and digits "
    "separates."
)
def split_at_spaces(target, prediction):
    return rouge(target, prediction, split=lambda text: text.lower().split())


DELETED_HINT = (
    "You delete what is no letter or digit, and the words on both sides become one: 'well-known' turns into "
    "'wellknown'. Such a character ends a word, as a space does."
)


@exercise.misconception(hint=DELETED_HINT)
def other_characters_deleted(target, prediction):
    return rouge(target, prediction, split=lambda text: re.sub(r"[^a-z0-9\s]", "", text.lower()).split())


@exercise.misconception(hint=DELETED_HINT)
def punctuation_deleted(target, prediction):
    table = str.maketrans("", "", string.punctuation)
    return rouge(target, prediction, split=lambda text: text.lower().translate(table).split())


@exercise.misconception(hint="Case makes a difference in your scores: 'The' and 'the' must be one word.")
def case_kept(target, prediction):
    return rouge(target, prediction, split=lambda text: re.findall("[A-Za-z0-9]+", text))


@exercise.misconception(
    hint="Underscores or letters outside a-z are parts of words in yours. rouge_score separates at everything but a-z "
    "and 0-9, so 'café' is the word 'caf': for other languages it needs another tokeniser."
)
def all_word_characters(target, prediction):
    return rouge(target, prediction, split=lambda text: re.findall(r"\w+", text.lower()))


@exercise.misconception(hint="Your fmeasure is the plain average of precision and recall. It is their harmonic mean.")
def arithmetic_mean(target, prediction):
    return rouge(target, prediction, mean=lambda p, r: (p + r) / 2)


@exercise.misconception(
    hint="You compare characters. The unit of ROUGE is the word: two unrelated sentences share most of their letters."
)
def subsequence_of_characters(target, prediction):
    return rouge(target, prediction, split=lambda text: list("".join(ascii_words(text))))


VOCABULARY = ("cat", "dog", "sat", "on", "mat", "near", "big", "tree", "7")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(name: str, about: str, target: str, prediction: str, visible: bool = True) -> Case:
        return Case(name, {"target": target, "prediction": prediction}, about, visible)

    def text(count: int) -> str:
        return " ".join(draw.choices(VOCABULARY, k=count))

    yield case("gaps", "with gaps", "the cat sat on the mat", "the cat lay on a mat, I see")
    yield case("another order", "when the order differs", "police killed the gunman", "the gunman police killed")
    one, two, three = draw.sample(("sun", "rain", "wind", "snow"), 3)
    yield case("an early trap", "when the first word comes late", f"{one} {two} {three}", f"{two} {three} {one} {one}")
    yield case("marks and capitals", "with capitals and punctuation", "The mat. (A cat!)", "a CAT, the mat")
    yield case("hyphen", "with a hyphen", f"a well-known {one}", f"the well known {one}")
    yield case("other letters", "with letters outside a-z", "a café in snake_case", "the caf in snake case")
    yield case("said once", "when a word repeats in one text only", f"{one} {two}", f"{one} {one} {two} {one}")
    yield case("repeats", "when words repeat", "no no no yes", "yes no no", visible=False)
    yield case("nothing in common", "when nothing is in common", text(3), "nothing here", visible=False)
    yield case("no words", "when a text has no words", "...", text(2), visible=False)
    yield case("random", "on random texts", text(draw.randint(8, 14)), text(draw.randint(5, 11)), visible=False)
    yield case("long", "on long texts", text(draw.randint(60, 80)), text(draw.randint(40, 90)), visible=False)


@exercise.oracle
def oracle(target: str, prediction: str) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    found = RougeScorer(["rougeL"], use_stemmer=False).score(target, prediction)["rougeL"]
    return {name: float(getattr(found, name)) for name in ("precision", "recall", "fmeasure")}

"""BLEU of a corpus (Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation", section 2).

Worked number: the hypothesis "the the the the" shares one "the" with "the cat is here": its unigram precision is 1/4
because counts are clipped, not 4/4.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-corpus-bleu",
    title="BLEU of a corpus",
    points=3,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("metrics",),
    hints=(
        "For each n from 1 to 4 you need two whole numbers over the entire corpus: n-grams that match, and n-grams "
        "that there are.",
        "An n-gram matches at most as often as it stands in the one reference that has most of it.",
        "The brevity penalty needs two lengths over the entire corpus. Which reference's length counts for a "
        "hypothesis? The one nearest to its own.",
    ),
    forbidden=("sacrebleu", "nltk", "evaluate", "lm_eval"),
    library_note="sacrebleu tokenises first (13a by default), and where no n-gram of some order matches it puts a "
    "small number in place of 0 (smoothing 'exp'), which decides the score of short texts. It exists because BLEU "
    "scores of papers could not be compared (Post 2018, arXiv:1804.08771): always report its signature.",
    interview="Why is BLEU computed over a corpus and not averaged over sentences, and what does its brevity penalty "
    "do?",
)


@exercise.reference
def corpus_bleu(hypotheses: list[str], references: list[list[str]]) -> float:
    """BLEU with n-grams of 1 to 4 words over a whole corpus, from 0 to 100, without smoothing.

    hypotheses: N texts. references: for each of them one or more right texts. Every text has at least one word, and
        single spaces between its words; there is no other white space. Words are compared as they
        stand, with case and punctuation.
    For each n from 1 to 4, summed over all N hypotheses: total, the number of n-grams in the hypothesis; matched, for
        each different n-gram the number of times it stands in the hypothesis, but no more than in the one reference
        where it stands most often ("clipped").
    precision_n = matched / total. BLEU is 0.0 if any matched is 0.
    brevity penalty: with h the words of all hypotheses together, and r the sum, over hypotheses, of the length of the
        reference whose length is nearest to the hypothesis's own (of two equally near ones the shorter):
        1 if h >= r, else exp(1 - r / h).
    Returns 100 * brevity penalty * the geometric mean of the four precisions.
    """
    matched, total, h, r = [0] * 4, [0] * 4, 0, 0
    for hypothesis, right_texts in zip(hypotheses, references, strict=True):
        words, options = hypothesis.split(), [text.split() for text in right_texts]
        h += len(words)
        r += min((abs(len(option) - len(words)), len(option)) for option in options)[1]
        for n in range(1, 5):
            counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
            ceiling: Counter[tuple[str, ...]] = Counter()
            for option in options:
                ceiling |= Counter(zip(*(option[i:] for i in range(n)), strict=False))
            matched[n - 1] += (counts & ceiling).total()
            total[n - 1] += counts.total()
    if not all(matched):
        return 0.0
    mean_log = sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / 4
    return 100 * math.exp(min(0.0, 1 - r / h) + mean_log)


@exercise.alternative
def order_by_order(hypotheses, references):
    pairs = zip(hypotheses, references, strict=True)
    split = [(text.split(" "), [option.split(" ") for option in options]) for text, options in pairs]

    def spans(words, size):
        return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]

    score = 1.0
    for size in (1, 2, 3, 4):
        hits = everything = 0
        for words, options in split:
            mine = spans(words, size)
            everything += len(mine)
            for span in set(mine):
                hits += min(mine.count(span), max(spans(option, size).count(span) for option in options))
        score *= (hits / everything if everything else 0) ** 0.25
    mine_length = sum(len(words) for words, _ in split)
    nearest = [
        sorted((len(o) for o in options), key=lambda size: (abs(size - len(w)), size))[0] for w, options in split
    ]
    if mine_length < sum(nearest):
        score *= math.e ** (1 - sum(nearest) / mine_length)
    return score * 100


def grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def nearest_length(length: int, options: Sequence[int]) -> int:
    return min(options, key=lambda option: (abs(option - length), option))


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    clip: bool = True,
    summed_references: bool = False,
    length_of: Callable[[int, Sequence[int]], float] = nearest_length,
    penalty: Callable[[float, float], float] = lambda h, r: 1.0 if h >= r else math.exp(1 - r / h),
    orders: Sequence[int] = (1, 2, 3, 4),
    mean: Callable[[Sequence[float]], float] = lambda ps: math.prod(ps) ** (1 / len(ps)),
    skip_zeros: bool = False,
    by_types: bool = False,
    recall: bool = False,
) -> float:
    """The score with the parts that the misconceptions change."""
    matched, total, h, r = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0), 0, 0.0
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        words, options = hypothesis.split(), [text.split() for text in texts]
        h += len(words)
        r += length_of(len(words), [len(option) for option in options])
        for n in orders:
            counts = grams(words, n)
            ceiling: Counter[tuple[str, ...]] = Counter()
            for option in options:
                found = grams(option, n)
                ceiling = ceiling + found if summed_references else (ceiling | found)
            if by_types:
                counts = Counter(set(counts))
            kept = counts & ceiling if clip else Counter({g: c for g, c in counts.items() if g in ceiling})
            matched[n] += kept.total()
            total[n] += grams(options[0], n).total() if recall else counts.total()
    if skip_zeros:
        orders = [n for n in orders if matched[n]]
    if not orders or not all(matched[n] for n in orders):
        return 0.0
    return 100 * penalty(h, r) * mean([matched[n] / total[n] for n in orders])


@exercise.misconception(
    hint="Repeated words are rewarded: each n-gram counts as often as it is said. It may count only as often as a "
    "reference has it, which is the point of clipping."
)
def counts_not_clipped(hypotheses, references):
    return bleu(hypotheses, references, clip=False)


@exercise.misconception(
    hint="You average the BLEU of single sentences. The counts are summed over the corpus first, and one BLEU is made "
    "of the sums: a short sentence without a matching 4-gram must not count as 0."
)
def mean_of_sentence_scores(hypotheses, references):
    scores = [bleu([one], [several]) for one, several in zip(hypotheses, references, strict=True)]
    return sum(scores) / len(scores)


@exercise.misconception(
    hint="There is no brevity penalty in yours: a hypothesis of one sure word would get full marks for precision."
)
def no_brevity_penalty(hypotheses, references):
    return bleu(hypotheses, references, penalty=lambda h, r: 1.0)


@exercise.misconception(
    hint="Your penalty also applies to hypotheses that are too long, as a bonus above 1. Longer ones are punished by "
    "precision already; the penalty never exceeds 1."
)
def bonus_for_length(hypotheses, references):
    return bleu(hypotheses, references, penalty=lambda h, r: math.exp(1 - r / h))


@exercise.misconception(
    hint="Your brevity penalty is the plain quotient of the lengths. It is an exponential of 1 minus a quotient, and "
    "falls more steeply."
)
def quotient_as_penalty(hypotheses, references):
    return bleu(hypotheses, references, penalty=lambda h, r: min(1.0, h / r))


@exercise.misconception(
    hint="The reference length in yours is always the shortest one (as in NIST's script). Asked for is the length "
    "nearest to the hypothesis's own."
)
def shortest_reference_length(hypotheses, references):
    return bleu(hypotheses, references, length_of=lambda length, options: min(options))


@exercise.misconception(hint="The reference length in yours is that of the first reference. The nearest one counts.")
def first_reference_length(hypotheses, references):
    return bleu(hypotheses, references, length_of=lambda length, options: options[0])


@exercise.misconception(
    hint="Of two references equally near in length you take the longer. The tie goes to the shorter one."
)
def ties_to_the_longer(hypotheses, references):
    return bleu(
        hypotheses, references, length_of=lambda length, options: min(options, key=lambda o: (abs(o - length), -o))
    )


@exercise.misconception(
    hint="You add up an n-gram's counts over all references. The ceiling is the largest count in any single one of "
    "them: references are different ways to say the same."
)
def ceilings_added_up(hypotheses, references):
    return bleu(hypotheses, references, summed_references=True)


@exercise.misconception(
    hint="You take the plain average of the four precisions. The mean is geometric: one poor order pulls everything "
    "down."
)
def arithmetic_mean(hypotheses, references):
    return bleu(hypotheses, references, mean=lambda ps: sum(ps) / len(ps))


@exercise.misconception(
    hint="Only single words are compared, so word order does not matter in yours. n goes from 1 to 4."
)
def unigrams_only(hypotheses, references):
    return bleu(hypotheses, references, orders=(1,))


@exercise.misconception(
    hint="Your score is between 0 and 1. BLEU is reported from 0 to 100, and 0.31 beside 31 has confused many a table."
)
def between_zero_and_one(hypotheses, references):
    return bleu(hypotheses, references) / 100


@exercise.misconception(
    hint="You leave out the orders without a match. Without smoothing, one order without any match makes the corpus "
    "BLEU 0."
)
def orders_without_match_left_out(hypotheses, references):
    return bleu(hypotheses, references, skip_zeros=True)


@exercise.misconception(
    hint="You count each different n-gram once. If a reference says it twice, saying it twice is right twice."
)
def different_ngrams_only(hypotheses, references):
    return bleu(hypotheses, references, by_types=True)


@exercise.misconception(
    hint="You divide by the n-grams of the reference. That is recall; BLEU divides by those of the hypothesis and has "
    "the brevity penalty instead of recall."
)
def recall_for_precision(hypotheses, references):
    return bleu(hypotheses, references, recall=True)


NOUNS = ("cat", "dog", "boat", "tree")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(name: str, about: str, pairs: Sequence[tuple[str, Sequence[str]]], visible: bool = True) -> Case:
        inputs = {"hypotheses": [one for one, _ in pairs], "references": [list(several) for _, several in pairs]}
        return Case(name, inputs, about, visible)

    def noisy(sentence: str) -> str:
        """Words dropped and doubled, the first five kept so that every order has matches."""
        words = sentence.split()
        kept = [w for w in words[5:] for _ in range(draw.choice((0, 1, 1, 1, 2)))]
        return " ".join(words[:5] + kept)

    noun, other = draw.sample(NOUNS, 2)
    base = f"the {noun} sat on the mat near the old {other}"
    good = (base, [f"the {noun} sat on the mat near an old {other} today"])
    yield case(
        "two sentences", "with two sentences", [good, (f"a {other} ran home", [f"the {other} ran home quickly"])]
    )
    repeated = f"the the the {noun} {noun} sat on the mat"
    yield case("repeats", "when words are repeated", [(repeated, [base, f"a {noun} and a {noun} sat"]), good])
    short = f"the {noun} sat on the"
    yield case("too short", "when hypotheses are too short", [(short, [base]), (f"the old {other}", [base])])
    yield case("too long", "when hypotheses are too long", [(f"{base} and then some more words", [base])])
    lengths = [f"the {noun} sat on the mat", f"on the mat there sat the {noun} of the {other} who came", "the mat"]
    yield case("several references", "with references of several lengths", [(f"the {noun} sat on the mat so", lengths)])
    tie = [f"the {noun} sat on the big mat by far", f"the {noun} sat on the"]
    yield case("a tie of lengths", "when two references are equally near", [(f"the {noun} sat on the mat now", tie)])
    twice = [(f"{base} , {base}", [f"{base} and {base} too"])]
    yield case("said twice", "when a reference says something twice", twice, visible=False)
    yield case("no four in a row", "when no four words match", [(f"{noun} {other} sat the", [base])], visible=False)
    several = [(noisy(base), [base, noisy(base)]) for _ in range(4)]
    yield case("a noisy corpus", "on a noisy corpus", several, visible=False)
    both = [f"the {noun} and the {other}", f"the {other} and the {noun} and the {noun}"]
    yield case(
        "ceiling", "when counts differ between references", [(f"the the the {noun} and the {noun}", both), good], False
    )


@exercise.oracle
def oracle(hypotheses: list[str], references: list[list[str]]) -> float:
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    # sacrebleu wants one list for each number of reference; a repeated reference changes neither ceiling nor length.
    streams = [[options[min(i, len(options) - 1)] for options in references] for i in range(most)]
    return float(BLEU(smooth_method="none", tokenize="none", force=True).corpus_score(hypotheses, streams).score)

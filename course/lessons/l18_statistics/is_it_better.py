"""Is it better? One rule for a claim about two runs: first whether the data can show it at all, then whether they do.

The cards are real: result files of this course's own runs (datasets/eval_runs).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from course.lessons.l18_statistics.cards import cards
from course.lessons.l18_statistics.holm import holm
from course.lessons.l18_statistics.mcnemar_exact import mcnemar_exact
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-is-it-better",
    title="Is it better? Eight case cards",
    points=4,
    minutes=20,
    difficulty="hard",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "Three questions come before any arithmetic: the same questions? the questions that the claim is about? enough "
        "seeds for a claim about a recipe? The fourth, how many comparisons were made, goes into the p-value.",
        "Your own mcnemar_exact and holm do the arithmetic of a claim 'better'.",
        "'kept' is not the absence of a difference. It needs an interval that leaves out every loss of the margin and "
        "more.",
    ),
    library_note="No library decides this. Registered reports in medicine fix all of it beforehand: the question, the "
    "margin, the number of comparisons. In a team, one page of evaluation plan does the same.",
    interview="A pull request says: new prompt, +4 points on our test set. Merge?",
)

ALPHA = 0.05
FEWEST_SEEDS = 3


@exercise.reference
def is_it_better(
    before: dict[str, bool],
    after: dict[str, bool],
    splits: dict[str, str],
    claim: dict[str, Any],
    seeds: list[int],
    other_p: list[float],
) -> str:
    """The verdict on a claim that `after` is better than `before`, or that it kept what `before` could.

    before, after: question id -> right or not, at least 2 questions; the ids may come in another order.
    splits: question id -> the split it belongs to, of all ids in either run and perhaps of others.
    claim: "kind" is "better" or "kept"; "split" the split it speaks about; "about" is "model" (these very weights) or
      "recipe" (what the training does in general); "margin", there for "kept" alone: the loss, as a fraction, that
      would matter.
    seeds: how many seeds were trained, [before, after]. other_p: p-values of all other comparisons that were made and
      could have been reported instead.

    The first that applies:
    1. "not comparable": the two runs do not hold exactly the same questions.
    2. "wrong questions": a question of the runs is not of the claim's split.
    3. "too few seeds": the claim is about the recipe, and either side has fewer than 3 seeds.
    4. For "kept": "kept" if the lower end of the paired normal interval, mean difference minus 1.96 of its standard
       errors (sample deviation of the differences, over the root of N), is above -margin; else "not shown".
    5. For "better": McNemar's exact p, adjusted by Holm together with other_p. Above 0.05: "not shown". Else "better"
       or "worse", by the sign of the mean difference.
    """
    if before.keys() != after.keys():
        return "not comparable"
    if any(splits[name] != claim["split"] for name in before):
        return "wrong questions"
    if claim["about"] == "recipe" and min(seeds) < FEWEST_SEEDS:
        return "too few seeds"
    old = np.array([before[name] for name in before])
    new = np.array([after[name] for name in before])
    if claim["kind"] == "kept":
        differences = new.astype(float) - old
        lower = differences.mean() - 1.96 * differences.std(ddof=1) / np.sqrt(len(old))
        return "kept" if lower > -claim["margin"] else "not shown"
    found = mcnemar_exact(old, new)
    if holm([found["p"], *other_p])[0] > ALPHA:
        return "not shown"
    return "better" if found["gained"] > found["lost"] else "worse"


def decided(before, after, splits, claim, seeds, other_p, *without: str) -> str:
    """The rule with its steps switched off one by one, for the answers below."""
    from scipy.stats import binomtest, norm

    if before.keys() != after.keys():
        if "ids" not in without:
            return "not comparable"
        common = [name for name in before if name in after]
        if not common:
            common = list(before)[: min(len(before), len(after))]
            after = dict(zip(common, after.values(), strict=False))
        before, after = {n: before[n] for n in common}, {n: after[n] for n in common}
    fewest = max(seeds) if "either side" in without else min(seeds)
    few = "seeds" not in without and claim["about"] == "recipe" and fewest < FEWEST_SEEDS
    if few and "order" in without:
        return "too few seeds"
    looked_up = splits if "own questions" in without else before
    if "split" not in without and {splits.get(name, claim["split"]) for name in looked_up} - {claim["split"]}:
        return "wrong questions"
    if few:
        return "too few seeds"
    pairs = [(bool(before[name]), bool(after[name])) for name in before]
    if "partners" in without:
        pairs = list(zip(before.values(), after.values(), strict=True))
    gained, lost, count = pairs.count((False, True)), pairs.count((True, False)), len(pairs)
    mean = (gained - lost) / count
    old, new = (sum(pair[side] for pair in pairs) / count for side in (0, 1))
    separate = ((old * (1 - old) + new * (1 - new)) / count) ** 0.5
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    if "pairs" in without:
        p = float(2 * norm.sf(abs(new - old) / separate)) if separate else 1.0
    if "two sides" in without:
        p = p / 2
    if claim["kind"] == "kept":
        if "interval" in without:
            return "kept" if p > ALPHA or mean > 0 else "not shown"
        error = ((gained + lost - count * mean**2) / (count - 1) / count) ** 0.5
        return "kept" if mean - 1.96 * (separate if "pairs" in without else error) > -claim["margin"] else "not shown"
    if "test" in without:
        return "better" if mean > 0 else "worse" if mean < 0 else "not shown"
    family = sorted([p, *other_p])
    steps = [(len(family) - rank) * each for rank, each in enumerate(family)]
    adjusted = p if "correction" in without else max(steps[: family.index(p) + 1])
    if "bonferroni" in without:
        adjusted = p * len(family)
    if adjusted > ALPHA:
        return "not shown"
    return "better" if mean > 0 or "direction" in without else "worse"


@exercise.alternative
def from_counts(before, after, splits, claim, seeds, other_p):
    """Counts pairs; the exact test as a library's."""
    return decided(before, after, splits, claim, seeds, other_p)


@exercise.misconception(
    hint="The higher share wins in yours, by however little. Ask how often a difference like this comes by luck."
)
def higher_share_wins(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "test")


@exercise.misconception(
    hint="Your test treats the runs as if each had its own questions. They answered the same ones, and a paired test "
    "sees far smaller differences."
)
def pairs_ignored(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "pairs")


@exercise.misconception(
    hint="The other comparisons count for nothing in your rule. The best of many is good by luck: adjust with all that "
    "could have been reported."
)
def best_of_many(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "correction")


@exercise.misconception(
    hint="You multiply by the number of comparisons, whatever the rank: Bonferroni. Asked for is Holm, which shows "
    "more."
)
def bonferroni_for_holm(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "bonferroni")


@exercise.misconception(
    hint="You pass a claim about one split with questions of another. Memory is measured on what was seen; a claim "
    "about new databases needs questions on new ones."
)
def split_not_checked(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "split")


@exercise.misconception(
    hint="You compare runs that hold different questions, on those that happen to match or as they come. Which "
    "questions are missing, and why, is part of the result: nothing can be said."
)
def different_questions_compared(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "ids")


@exercise.misconception(
    hint="A claim about a recipe passes with one or two seeds. Then a lucky seed and a good recipe look the same."
)
def seeds_not_checked(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "seeds")


@exercise.misconception(
    hint="One side with enough seeds satisfies you. A comparison of recipes has two sides, and the luck of either one "
    "can make the difference."
)
def seeds_of_one_side(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "either side")


@exercise.misconception(
    hint="You ask for the seeds before you ask whether the questions are those of the claim. More seeds would not mend "
    "the wrong questions; name the fault that comes first in the list."
)
def seeds_before_questions(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "order")


@exercise.misconception(
    hint="You look at the split of every question in the table, also of those that neither run holds. The claim rests "
    "on the runs' own questions."
)
def splits_of_all_questions(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "own questions")


@exercise.misconception(
    hint="You pair the answers by their place. Both runs hold the same questions, but not in the same order: two runs "
    "that agree on everything then seem to differ. Pair by id."
)
def paired_by_place(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "partners")


@exercise.misconception(
    hint="You read 'no significant difference' as 'kept'. A small test shows no difference between anything. 'kept' "
    "needs an interval that excludes the loss that matters."
)
def no_evidence_read_as_kept(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "interval")


@exercise.misconception(
    hint="Your test is one-sided. Nobody knew beforehand which run would win; the loss would have been reported, too."
)
def one_sided(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "two sides")


@exercise.misconception(
    hint="A significant loss is called 'better'. The p-value says that the runs differ; the sign says which way."
)
def sign_not_looked_at(before, after, splits, claim, seeds, other_p):
    return decided(before, after, splits, claim, seeds, other_p, "direction")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 189])
    for number, card in enumerate(cards(), start=1):
        yield Case(f"card {number}", card.inputs, f"card {number}: {card.title}")

    def made(name: str, about: str, counts: tuple[int, int, int, int], **changes: Any) -> Case:
        """A hidden card: so many questions both right, gained, lost, both wrong."""
        old = np.repeat([True, False, True, False], counts)
        new = np.repeat([True, True, False, False], counts)
        ids = [f"q{place:03d}" for place in random.permutation(len(old))]
        split = str(random.choice(["heldout", "seen", "quiz"]))
        claim = {"kind": "better", "split": split, "about": "model", "margin": 0.05}
        inputs: dict[str, Any] = {
            "before": {name: bool(value) for name, value in zip(ids, old, strict=True)},
            "after": {name: bool(value) for name, value in sorted(zip(ids, new, strict=True))},
            "splits": dict.fromkeys(ids, split),
            "claim": claim | changes.pop("claim", {}),
            "seeds": [1, 1],
            "other_p": [],
        }
        return Case(name, inputs | changes, about, visible=False)

    more = int(random.integers(0, 15))
    yield made("clear", "when the gain is clear", (20 + more, 19, 4, 30))
    yield made("clear loss", "when the loss is clear", (20 + more, 3, 16, 30))
    yield made("one side only", "when only a one-sided test shows it", (15 + more, 11, 3, 20))
    yield made("paired only", "when only pairs show it", (200 + more, 12, 2, 190))
    yield made("best of many", "when many were tried", (30, 12, 2, 40 + more), other_p=[0.2, 0.3, 0.5, 0.6, 0.4, 0.8])
    yield made("second of two", "when a smaller p-value stands beside it", (25, 10, 2, 30 + more), other_p=[0.001])
    recipe = {"about": "recipe"}
    yield made("two seeds", "when a recipe has two seeds", (20, 20, 2, 30 + more), claim=recipe, seeds=[3, 2])
    yield made("seeds before", "when only the earlier recipe has two", (20, 20, 2, 30), claim=recipe, seeds=[2, 5])
    yield made("three seeds", "when a recipe has enough seeds", (20, 20, 2, 30 + more), claim=recipe, seeds=[3, 4])
    kept = {"kind": "kept", "margin": 0.05}
    yield made("kept", "when little changed on many questions", (300 + more, 6, 5, 150), claim=kept)
    yield made("small", "when few questions were asked", (12, 2, 3, 10), claim=kept)
    yield made("kept in pairs", "when pairs show that it was kept", (110 + more, 2, 2, 90), claim=kept)
    short = made("missing", "when a question is missing in one run", (20, 18, 3, 30 + more))
    short.inputs["after"].pop(min(short.inputs["after"]))
    yield short
    mixed = made("mixed", "when one question is of another split", (20, 18, 3, 30 + more))
    mixed.inputs["splits"][max(mixed.inputs["splits"])] = "another"
    yield mixed
    first = made("two faults", "when questions and seeds are wrong", (20, 18, 3, 30 + more), claim=recipe)
    first.inputs["splits"][max(first.inputs["splits"])] = "another"
    yield first
    last = made("three faults", "when ids, questions and seeds are wrong", (20, 18, 3, 30 + more), claim=recipe)
    last.inputs["splits"][max(last.inputs["splits"])] = "another"
    last.inputs["after"].pop(min(last.inputs["after"]))
    yield last
    table = made("larger table", "when the table of splits holds other questions, too", (20, 19, 4, 30 + more))
    table.inputs["splits"]["not asked"] = "another"
    yield table
    same = made("same answers", "when nothing changed but the order", (60, 0, 0, 60 + more), claim=kept)
    same.inputs["after"].clear()
    same.inputs["after"].update(reversed(same.inputs["before"].items()))
    yield same

"""Repair a comparison script: four faults that raise no error, each of which has been published.

Worked number: from 40 % to 46 % is a gain of 6 points. It is also "15 % better", which is true and says less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-repair-comparison",
    title="Repair a comparison script",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "Take two files of three questions in different order and do it by hand. Which lines of the script pair what?",
        "Change one answer of one file to None: which numbers should move, and which do?",
        "Then the two formulas: what is divided by what, and what a standard error is of.",
    ),
    library_note="pandas' merge(..., on='id', validate='one_to_one') refuses files that do not match; a bare zip never "
    "does. lm-eval writes doc_id and doc_hash with every sample so that runs can be joined.",
    interview="A colleague's script says +15 %. Name four things you check before you repeat the number.",
)


@exercise.reference
def repair_comparison(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, float]:
    """Compare two runs from their result rows, which hold the same N questions in any order, N at least 2.

    Each row: {"id": str, "correct": True, False or None}. None: there was nothing to score (out of time, or a text that
    does not parse); that is a wrong answer.
    Returns, with shares in percent and differences in percentage points:
    - "questions": N, int;
    - "before", "after": percent right of all N;
    - "gain": after - before;
    - "stderr": the gain's paired standard error, from each question's own difference (sample deviation, N - 1).
    """
    old = {row["id"]: bool(row["correct"]) for row in before}
    new = {row["id"]: bool(row["correct"]) for row in after}
    differences = np.array([float(new[name]) - old[name] for name in old])
    count = len(old)
    return {
        "questions": count,
        "before": 100 * sum(old.values()) / count,
        "after": 100 * sum(new.values()) / count,
        "gain": float(100 * differences.mean()),
        "stderr": float(100 * differences.std(ddof=1) / np.sqrt(count)),
    }


@exercise.alternative
def sorted_rows(before, after):
    pairs = list(zip(*(sorted(rows, key=lambda row: row["id"]) for rows in (before, after)), strict=True))
    table = np.array([[row["correct"] is True for row in pair] for pair in pairs])
    gained, lost = int((table[:, 1] > table[:, 0]).sum()), int((table[:, 0] > table[:, 1]).sum())
    count, gain = len(table), (gained - lost) / len(table)
    squares = gained + lost - count * gain**2  # each difference is -1, 0 or 1
    old, new = table.mean(axis=0)
    return {
        "questions": count,
        "before": 100 * float(old),
        "after": 100 * float(new),
        "gain": 100 * gain,
        "stderr": 100 * (squares / (count - 1) / count) ** 0.5,
    }


DROPPED_HINT = (
    "Questions without an answer drop out, so a model that gives none to the hard ones looks better. They count as "
    "wrong, and N is all questions."
)


def compared(before, after, *faults: str) -> dict[str, float]:
    """The script of the lesson, with its faults switched one by one."""
    if "position" not in faults:
        before, after = (sorted(rows, key=lambda row: row["id"]) for rows in (before, after))
    if "dropped" in faults:
        before, after = ([row for row in rows if row["correct"] is not None] for rows in (before, after))
    count = min(len(before), len(after))
    old, new = (np.array([float(bool(row["correct"])) for row in rows[:count]]) for rows in (before, after))
    gain = 100 * (new.mean() - old.mean())
    error = 100 * np.std(new - old, ddof=1) / count**0.5
    if "relative" in faults:
        gain = gain / old.mean()
    if "deviation" in faults:
        error = error * count**0.5
    if "unpaired" in faults:
        error = 100 * ((old.var(ddof=1) + new.var(ddof=1)) / count) ** 0.5
    return {
        "questions": count,
        "before": float(100 * old.mean()),
        "after": float(100 * new.mean()),
        "gain": float(gain),
        "stderr": float(error),
    }


@exercise.misconception(
    hint="Rows are paired by their place in the file, and the files are in different order. The shares come out right "
    "all the same; the error does not. Pair by id."
)
def paired_by_position(before, after):
    return compared(before, after, "position")


@exercise.misconception(hint=DROPPED_HINT)
def unanswered_dropped(before, after):
    return compared(before, after, "dropped")


@exercise.misconception(hint=DROPPED_HINT)
def unanswered_pairs_dropped(before, after):
    unanswered = {row["id"] for row in [*before, *after] if row["correct"] is None}
    old, new = ([row for row in rows if row["id"] not in unanswered] for rows in (before, after))
    return compared(old, new)


@exercise.misconception(
    hint="Your gain is relative: divided by where you started. From 2 % to 3 % that reads as 50 %. Asked for are "
    "percentage points."
)
def relative_gain(before, after):
    return compared(before, after, "relative")


@exercise.misconception(
    hint="Your stderr is the standard deviation of single differences. How far their mean would move is smaller, by "
    "the root of N."
)
def deviation_for_error(before, after):
    return compared(before, after, "deviation")


@exercise.misconception(
    hint="You add up two variances as if the runs had separate questions. They answered the same ones: take the "
    "deviation of the differences."
)
def separate_variances(before, after):
    return compared(before, after, "unpaired")


@exercise.misconception(
    hint="All four faults are still there. Begin with the rows (how they are paired, which are dropped), then the two "
    "formulas."
)
def nothing_repaired(before, after):
    return compared(before, after, "position", "dropped", "relative", "deviation")


@exercise.misconception(
    hint="Pairing and dropping are mended; the two formulas are left. Which of them divides by the start, and which "
    "forgets the root of N?"
)
def formulas_left(before, after):
    return compared(before, after, "relative", "deviation")


@exercise.misconception(
    hint="The formulas are mended; the rows are left. How does a row of one file find its partner, and where do the "
    "unanswered questions go?"
)
def rows_left(before, after):
    return compared(before, after, "position", "dropped")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 188])

    def files(count: int, unanswered: int) -> dict:
        """Two runs that agree on most questions, in different order; hard questions run out of time."""
        ease = random.random(count)
        runs = []
        for shift in (0.0, 0.12):
            answers: list[bool | None] = [bool(value) for value in ease + shift + random.normal(0, 0.12, count) > 0.55]
            for place in np.argsort(ease + random.normal(0, 0.1, count))[:unanswered]:
                answers[int(place)] = None
            rows = [{"id": f"q{place:03d}", "correct": answer} for place, answer in enumerate(answers)]
            runs.append([rows[place] for place in random.permutation(count)])
        return {"before": runs[0], "after": runs[1]}

    yield Case("small", files(12, 2), "with twelve questions, two unanswered in each file")
    yield Case("larger", files(40, 5), "with forty questions")
    yield Case("all answered", files(30, 0), "when every question was answered", visible=False)
    yield Case("drawn", files(int(random.integers(30, 80)), 7), "", visible=False)

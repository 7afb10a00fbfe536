"""The one honest sentence about a gain, read back: every number in it is recomputed from the per-question results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course.sql import bootstrap_interval

SPLIT_WORDS = {"heldout": "held-out", "seen": "seen"}
TEMPLATE = (
    "On <N> <held-out or seen> questions the <after> model answers <percent> % right and the <before> model <percent> "
    "%: a <gain or loss> of <points> points, 95 % paired interval [<low>, <high>]; the interval <excludes or "
    "includes> 0."
)
ROUNDING = 0.05 + 1e-9
NUMBER = r"-?\d+(?:\.\d+)?"
SENTENCE = re.compile(
    rf"On (?P<questions>\d+) (?P<split>held-out|seen) questions the (?P<after>[\w-]+) model answers "
    rf"(?P<after_percent>{NUMBER}) % right and the (?P<before>[\w-]+) model (?P<before_percent>{NUMBER}) %: "
    rf"a (?P<direction>gain|loss) of (?P<points>{NUMBER}) points, 95 % paired interval "
    rf"\[(?P<low>{NUMBER}), (?P<high>{NUMBER})\]; the interval (?P<verdict>excludes|includes) 0\."
)


@dataclass(frozen=True)
class Truth:
    """What the results give, in percent and percentage points. `ids_differ`: the runs hold other questions."""

    questions: int
    before: float
    after: float
    gain: float
    low: float
    high: float


def truth(
    rows: Sequence[dict[str, Any]], before: str, after: str, split: str, seed: int = 0, resamples: int = 5000
) -> Truth:
    """Recompute everything from rows {"id", "way", "split", "correct"}; raises ValueError where runs do not match."""
    runs = [
        {r["id"]: bool(r["correct"]) for r in rows if r["way"] == way and r["split"] == split}
        for way in (before, after)
    ]
    if not runs[0] or runs[0].keys() != runs[1].keys():
        raise ValueError(
            f"{before!r} and {after!r} must hold the same {split} questions; "
            f"they hold {len(runs[0])} and {len(runs[1])}, {len(runs[0].keys() & runs[1].keys())} of them in common"
        )
    ids = sorted(runs[0])
    old, new = (np.array([run[name] for name in ids], float) for run in runs)
    low, high = bootstrap_interval(new, seed, before=old, resamples=resamples)
    return Truth(len(ids), 100 * old.mean(), 100 * new.mean(), 100 * (new - old).mean(), 100 * low, 100 * high)


def refusals(
    sentence: str,
    rows: Sequence[dict[str, Any]],
    before: str,
    after: str,
    split: str,
    seed: int = 0,
    resamples: int = 5000,
) -> list[str]:
    """What in the sentence is not what the results give; an empty list where it may be said.

    Numbers must equal the recomputed ones to the one decimal that they are written with; interval ends may be 0.1 away
    (a resample at the edge). The order of the questions does not matter for anything but that.
    """
    found = SENTENCE.fullmatch(" ".join(sentence.split()))
    if found is None:
        return [f"the sentence does not have the form: {TEMPLATE}"]
    said, real = found.groupdict(), truth(rows, before, after, split, seed, resamples)
    problems = []
    for name, wanted in (("after", after), ("before", before), ("split", SPLIT_WORDS[split])):
        if said[name] != wanted:
            problems.append(f"it speaks of {said[name]!r} where {wanted!r} was compared")
    if int(said["questions"]) != real.questions:
        problems.append(f"it says {said['questions']} questions; the results hold {real.questions}")
    for name, value, unit in (("after", real.after, "%"), ("before", real.before, "%")):
        if abs(float(said[f"{name}_percent"]) - value) > ROUNDING:
            problems.append(
                f"it says {said[f'{name}_percent']} % for {said[name]}; the results give {value:.1f} {unit}"
            )
    direction = "loss" if real.gain < 0 else "gain"
    if said["direction"] != direction or abs(float(said["points"]) - abs(real.gain)) > ROUNDING:
        problems.append(
            f"it says a {said['direction']} of {said['points']} points; the results give a {direction} of "
            f"{abs(real.gain):.1f}"
        )
    if abs(float(said["low"]) - real.low) > 0.1 + ROUNDING or abs(float(said["high"]) - real.high) > 0.1 + ROUNDING:
        problems.append(
            f"it says an interval of [{said['low']}, {said['high']}]; the paired one of the gain is "
            f"[{real.low:.1f}, {real.high:.1f}]"
        )
    verdict = "includes" if real.low <= 0 <= real.high else "excludes"
    if said["verdict"] != verdict:
        problems.append(f"it says that the interval {said['verdict']} 0; the real one {verdict} it")
    return problems

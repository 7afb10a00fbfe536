"""Eight case cards: claims about the course's own runs, with the results they rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course.lessons.l18_statistics.eval_runs import load_run, right
from course.lessons.l18_statistics.mcnemar_exact import mcnemar_exact


@dataclass(frozen=True)
class Card:
    """A claim in somebody's words, and the arguments of `is_it_better` that it comes to."""

    title: str
    says: str
    inputs: dict[str, Any]


def card(
    title: str,
    says: str,
    before: Mapping[str, bool],
    after: Mapping[str, bool],
    split: str = "heldout",
    seeds: tuple[int, int] = (1, 1),
    other_p: list[float] | None = None,
    **claim: Any,
) -> Card:
    """A card; the splits of all its questions are looked up."""
    splits = {row["id"]: row["split"] for row in load_run("step50")}
    splits |= {row["id"]: "quiz" for row in load_run("step50", "quiz")}
    inputs = {
        "before": dict(before),
        "after": dict(after),
        "splits": {name: splits[name] for name in {**before, **after}},
        "claim": {"kind": "better", "split": split, "about": "model", "margin": 0.05} | claim,
        "seeds": list(seeds),
        "other_p": other_p or [],
    }
    return Card(title, says, inputs)


def p_by_kind(before: str, after: str, split: str) -> dict[str, float]:
    """McNemar's p between two runs for each kind of query with at least five questions, the smallest first."""
    import numpy as np

    kinds = Counter(row["kind"] for row in load_run(before) if row["split"] == split)
    found = {}
    for kind in (kind for kind, count in kinds.items() if count >= 5):
        old, new = (right(name, split=split, kind=kind) for name in (before, after))
        found[kind] = float(mcnemar_exact(np.array(list(old.values())), np.array([new[name] for name in old]))["p"])
    return dict(sorted(found.items(), key=lambda pair: pair[1]))

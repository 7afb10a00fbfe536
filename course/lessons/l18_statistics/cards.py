"""Eight case cards: claims about the course's own runs, with the results they rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course.lessons.l18_statistics.eval_runs import load_run, right_by_id
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
    """A card; the splits of its questions are looked up, but for a claim about the test file, to which all belong."""
    splits = {row["id"]: split if split == "test" else row["split"] for row in load_run("step50")}
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


def p_by_kind(before: str, after: str) -> dict[str, float]:
    """McNemar's p between two runs, for each kind of query with at least five questions, the smallest first."""
    import numpy as np

    kinds = Counter(row["kind"] for row in load_run(before))
    found = {}
    for kind in (kind for kind, count in kinds.items() if count >= 5):
        old, new = (right_by_id(name, kind=kind) for name in (before, after))
        found[kind] = float(mcnemar_exact(np.array(list(old.values())), np.array([new[name] for name in old]))["p"])
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def cards() -> list[Card]:
    """The eight cards."""
    zero_shot, step50, order1, order2 = (
        right_by_id(name, split="heldout") for name in ("zero-shot", "step50", "order1", "order2")
    )
    lower, higher = sorted((order1, order2), key=lambda run: sum(run.values()))
    by_kind = p_by_kind("zero-shot", "step50")
    best_kind, *other_kinds = by_kind
    parsed = {row["id"] for row in load_run("order1") if row["outcome"] in ("correct", "wrong result")}
    return [
        card(
            "Fifty steps of QLoRA",
            "After 50 steps the model answers questions on databases it never saw; the base model answered none.",
            zero_shot,
            step50,
        ),
        card(
            "A lucky order",
            "Same recipe, rows in another order, and the score goes up. Let us keep this order.",
            lower,
            higher,
        ),
        card(
            "Six more steps, always",
            "Six more steps help. We should train every model of this kind that much longer.",
            step50,
            higher,
            seeds=(1, 2),
            about="recipe",
        ),
        card(
            f"The slice that shines: {best_kind}",
            f"We looked at all kinds of query in our test file. On '{best_kind}' the gain after 50 steps is striking.",
            right_by_id("zero-shot", kind=best_kind),
            right_by_id("step50", kind=best_kind),
            split="test",
            other_p=[by_kind[kind] for kind in other_kinds],
        ),
        card(
            "New databases, 180 questions",
            "On our test file of 180 questions the tuned model beats zero-shot clearly, so it can read new databases.",
            right_by_id("zero-shot"),
            right_by_id("step50"),
        ),
        card(
            "Only answers that run",
            "Queries that SQLite refuses say nothing about understanding. Of those that run, the tuned model has far "
            "more right.",
            zero_shot,
            {name: value for name, value in order1.items() if name in parsed},
        ),
        card(
            "Nothing forgotten",
            "On the quiz the tuned model does not differ significantly from the base model: general knowledge is kept.",
            right_by_id("zero-shot", "quiz"),
            right_by_id("step50", "quiz"),
            split="quiz",
            kind="kept",
        ),
        card(
            "Cheaper without an adapter",
            "Serving an adapter costs us. A good prompt on the base model is the better choice.",
            order1,
            zero_shot,
        ),
    ]

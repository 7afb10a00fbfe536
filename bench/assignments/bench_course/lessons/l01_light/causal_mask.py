"""Exercise: the additive causal mask with padding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-causal-mask",
    title="The causal mask",
    points=2,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("transformer",),
    hints=("Which positions may a token look at?",),
)


@exercise.reference
def causal_mask(kept: Tensor) -> Tensor:
    """What each token may look at: itself and earlier tokens that are no padding.

    kept: (B, T) bool, True where a token is real. Returns (B, T, T) bool, [b, i, j] True where i may look at j.
    """
    length = kept.shape[1]
    return torch.ones(length, length).tril().bool() & kept[:, None, :]


@exercise.alternative
def by_positions(kept: Tensor) -> Tensor:
    positions = torch.arange(kept.shape[1])
    return (positions[:, None] >= positions[None, :])[None] & kept.unsqueeze(1)


@exercise.misconception(hint="Your tokens look at later ones.")
def looks_ahead(kept: Tensor) -> Tensor:
    length = kept.shape[1]
    return torch.ones(length, length).triu().bool() & kept[:, None, :]


@exercise.misconception(hint="A token may look at itself.")
def not_itself(kept: Tensor) -> Tensor:
    length = kept.shape[1]
    return torch.ones(length, length).tril(-1).bool() & kept[:, None, :]


@exercise.misconception(hint="Padding is still looked at.")
def padding_forgotten(kept: Tensor) -> Tensor:
    length = kept.shape[1]
    return torch.ones(length, length).tril().bool().expand(kept.shape[0], -1, -1).clone()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(rows: int, length: int) -> dict:
        lengths = torch.randint(1, length, (rows, 1), generator=random)
        return {"kept": torch.arange(length)[None, :] < lengths}

    yield Case("two rows", inputs(2, 4))
    yield Case("one row", inputs(1, 9))
    yield Case("left padding", {"kept": inputs(3, 6)["kept"].flip(1)}, about="when padding comes first", visible=False)
    yield Case("long", inputs(4, 64), visible=False)

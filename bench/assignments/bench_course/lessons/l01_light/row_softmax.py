"""Exercise: softmax over the last dimension."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-row-softmax",
    title="Softmax",
    points=2,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("transformer",),
    hints=("What do the numbers of a row add up to?",),
)


@exercise.reference
def row_softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension of logits (N, V) float32; returns (N, V)."""
    exponentials = torch.exp(logits - logits.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


@exercise.alternative
def through_logarithms(logits: Tensor) -> Tensor:
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return (shifted - torch.logsumexp(shifted, dim=-1, keepdim=True)).exp()


@exercise.misconception(hint="Your columns add up to 1, your rows do not.")
def over_rows(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=0)


@exercise.misconception(hint="Large numbers overflow: subtract each row's largest one first.")
def overflowing(logits: Tensor) -> Tensor:
    exponentials = torch.exp(logits)
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


@exercise.misconception(hint="Your result is the logarithm of what is asked.")
def logarithm_kept(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1)


@exercise.oracle
def oracle(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=-1)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)
    yield Case("two rows", {"logits": torch.randn(2, 3, generator=random)})
    yield Case("one row", {"logits": torch.randn(1, 7, generator=random)}, about="when there is one row")
    yield Case("large", {"logits": 500 + torch.randn(4, 5, generator=random)}, about="when numbers are large")
    yield Case("wide", {"logits": torch.randn(8, 512, generator=random)}, visible=False)

"""Exercise: merge an adapter into its weight."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l02-merge-lora",
    title="Merge an adapter",
    points=2,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("adapters",),
    hints=("Which product has the weight's shape?",),
)


@exercise.reference
def merge_lora(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    """weight: (D, D), lora_a: (r, D), lora_b: (D, r); returns the weight (D, D) of a layer that needs no adapter."""
    return weight + (alpha / lora_a.shape[0]) * (lora_b @ lora_a)


@exercise.alternative
def by_einsum(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return weight + torch.einsum("or,ri->oi", lora_b, lora_a) * alpha / lora_b.shape[1]


@exercise.misconception(hint="Your product is transposed.")
def transposed(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return weight + (alpha / lora_a.shape[0]) * (lora_b @ lora_a).T


@exercise.misconception(hint="alpha still has to be divided by the rank.")
def scaled_by_alpha(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return weight + alpha * (lora_b @ lora_a)


@exercise.misconception(hint="You divide by the width; the rank is meant.")
def divided_by_width(weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return weight + (alpha / weight.shape[0]) * (lora_b @ lora_a)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def grid(*shape: int) -> Tensor:
        """Multiples of 1/16, so that float32 sums are exact in any order."""
        return torch.randint(-16, 17, shape, generator=random) / 16

    def inputs(width: int, rank: int, alpha: float) -> dict:
        sizes = {"weight": (width, width), "lora_a": (rank, width), "lora_b": (width, rank)}
        return {name: grid(*size) for name, size in sizes.items()} | {"alpha": alpha}

    yield Case("small", inputs(4, 2, 4.0))
    yield Case("wide", inputs(192, 8, 16.0))
    yield Case("odd", inputs(33, 4, 6.0), visible=False)
    yield Case("small alpha", inputs(64, 16, 2.0), about="when alpha is smaller than the rank", visible=False)

"""Exercise: a LoRA layer's output, Hu et al. 2021 (arXiv:2106.09685), equation 3."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l02-lora-forward",
    title="A LoRA layer's output",
    points=2,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("adapters",),
    hints=("What is the rank divided into?",),
)


@exercise.reference
def lora_forward(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    """x: (N, D_in), weight: (D_out, D_in), lora_a: (r, D_in), lora_b: (D_out, r); returns (N, D_out)."""
    return x @ weight.T + (x @ lora_a.T) @ lora_b.T * (alpha / lora_a.shape[0])


@exercise.alternative
def merged_first(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return nn.functional.linear(x, weight + alpha / lora_a.shape[0] * (lora_b @ lora_a))


@exercise.misconception(hint="alpha still has to be divided by the rank.")
def scaled_by_alpha(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T + (x @ lora_a.T) @ lora_b.T * alpha


@exercise.misconception(hint="The frozen layer's output is missing.")
def update_alone(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return (x @ lora_a.T) @ lora_b.T * (alpha / lora_a.shape[0])


@exercise.misconception(hint="Your update is subtracted.")
def sign_turned(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    return x @ weight.T - (x @ lora_a.T) @ lora_b.T * (alpha / lora_a.shape[0])


@exercise.oracle
def oracle(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, alpha: float) -> Tensor:
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    base.weight.data.copy_(weight)
    rank = lora_a.shape[0]
    config = LoraConfig(r=rank, lora_alpha=alpha)  # type: ignore[arg-type]
    layer = Linear(base, "default", config=config, r=rank, lora_alpha=alpha)  # type: ignore[arg-type]
    layer.lora_A["default"].weight.data.copy_(lora_a)
    layer.lora_B["default"].weight.data.copy_(lora_b)
    return layer(x).detach()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def grid(*shape: int) -> Tensor:
        """Multiples of 1/16, so that float32 sums are exact in any order."""
        return torch.randint(-16, 17, shape, generator=random) / 16

    def inputs(n: int, d_in: int, d_out: int, rank: int, alpha: float) -> dict:
        sizes = {"x": (n, d_in), "weight": (d_out, d_in), "lora_a": (rank, d_in), "lora_b": (d_out, rank)}
        return {name: grid(*size) for name, size in sizes.items()} | {"alpha": alpha}

    yield Case("small", inputs(2, 4, 3, 2, 4.0))
    yield Case("wide", inputs(8, 576, 192, 8, 16.0))
    yield Case("one row", inputs(1, 64, 64, 4, 2.0), about="with one row", visible=False)
    yield Case("odd", inputs(5, 33, 57, 4, 6.0), visible=False)

"""Exercise: one step of gradient descent on an adapter over 4-bit weights."""

from __future__ import annotations

from collections.abc import Iterator

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l02-lora-step",
    title="One step on an adapter",
    points=2,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("adapters",),
    hints=("Which two matrices are trained?",),
    rtol=1e-3,
    atol=1e-4,
    tolerance_reason="the order of float32 sums differs between right answers",
)


@exercise.reference
def lora_step(x: Tensor, target: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, rate: float) -> dict:
    """Quantise weight (D, D) to NF4 and back, then take one step down the mean squared error of x W' + x A' B'.

    Returns {"loss": float, "lora_a": (r, D), "lora_b": (D, r)} after the step of this learning rate.
    """
    frozen = bnb.functional.dequantize_4bit(*bnb.functional.quantize_4bit(weight, quant_type="nf4"))
    a, b = lora_a.clone().requires_grad_(), lora_b.clone().requires_grad_()
    loss = nn.functional.mse_loss(x @ frozen.T + x @ a.T @ b.T, target)
    loss.backward()
    return {"loss": loss.item(), "lora_a": (a - rate * a.grad).detach(), "lora_b": (b - rate * b.grad).detach()}


@exercise.alternative
def by_hand(x: Tensor, target: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, rate: float) -> dict:
    frozen = bnb.functional.dequantize_4bit(*bnb.functional.quantize_4bit(weight, quant_type="nf4"))
    error = x @ frozen.T + x @ lora_a.T @ lora_b.T - target
    slope = 2 * error / error.numel()
    return {
        "loss": error.square().mean().item(),
        "lora_a": lora_a - rate * (slope @ lora_b).T @ x,
        "lora_b": lora_b - rate * slope.T @ (x @ lora_a.T),
    }


@exercise.misconception(hint="Your weight was never quantised.")
def full_precision(x: Tensor, target: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, rate: float) -> dict:
    a, b = lora_a.clone().requires_grad_(), lora_b.clone().requires_grad_()
    loss = nn.functional.mse_loss(x @ weight.T + x @ a.T @ b.T, target)
    loss.backward()
    return {"loss": loss.item(), "lora_a": (a - rate * a.grad).detach(), "lora_b": (b - rate * b.grad).detach()}


@exercise.misconception(hint="Your step goes uphill.")
def uphill(x: Tensor, target: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, rate: float) -> dict:
    frozen = bnb.functional.dequantize_4bit(*bnb.functional.quantize_4bit(weight, quant_type="nf4"))
    a, b = lora_a.clone().requires_grad_(), lora_b.clone().requires_grad_()
    loss = nn.functional.mse_loss(x @ frozen.T + x @ a.T @ b.T, target)
    loss.backward()
    return {"loss": loss.item(), "lora_a": (a + rate * a.grad).detach(), "lora_b": (b + rate * b.grad).detach()}


@exercise.misconception(hint="Only one of the two matrices moved.")
def b_alone(x: Tensor, target: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, rate: float) -> dict:
    frozen = bnb.functional.dequantize_4bit(*bnb.functional.quantize_4bit(weight, quant_type="nf4"))
    b = lora_b.clone().requires_grad_()
    loss = nn.functional.mse_loss(x @ frozen.T + x @ lora_a.T @ b.T, target)
    loss.backward()
    return {"loss": loss.item(), "lora_a": lora_a.clone(), "lora_b": (b - rate * b.grad).detach()}


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(n: int, width: int, rank: int) -> dict:
        sizes = {"x": (n, width), "target": (n, width), "weight": (width, width)}
        sizes |= {"lora_a": (rank, width), "lora_b": (width, rank)}
        return {name: torch.randn(size, generator=random) for name, size in sizes.items()} | {"rate": 0.5}

    yield Case("small", inputs(4, 16, 2))
    yield Case("wide", inputs(8, 128, 8))
    yield Case("one row", inputs(1, 32, 4), about="with one row", visible=False)
    yield Case("a layer", inputs(16, 192, 8), visible=False)

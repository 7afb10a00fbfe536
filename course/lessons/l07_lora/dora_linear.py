"""Two descendants of LoRA: rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l07_lora.small_models import linear_from, peft_linear
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-dora-linear",
    title="DoRA with the rsLoRA scale",
    points=3,
    minutes=20,
    difficulty="hard",
    importance="extension",
    skills=("lora", "pytorch", "peft"),
    forbidden=("peft",),
    hints=(
        "DoRA gives each output feature a direction (a row of W + update, divided by its length) and a length of its "
        "own.",
        "The bias is no part of the direction: it is added after the lengths.",
        "The paper's section 4.3 treats the length of a row as a constant in the backward pass.",
    ),
    library_note="peft computes the correction on top of the base's result instead of the whole product, so a "
    "quantised base is multiplied only once, and it can cache the row lengths at inference.",
    interview="What does DoRA add to LoRA, what does it cost in training, and can it still be merged?",
)


@exercise.reference
def dora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, magnitude: Tensor, alpha: float,
    rslora: bool,
) -> Tensor:  # fmt: skip
    """The forward pass of a DoRA layer.

    x: (B, in); weight: (out, in); bias: (out,) or None; lora_A: (r, in); lora_B: (out, r); magnitude: (out,).
    V = weight + scale * lora_B lora_A, where scale is alpha / r, or with rslora alpha / sqrt(r).
    Returns (B, out): feature o is magnitude[o] * (V[o] . x) / ||V[o]||, plus bias[o] if there is a bias.

    Gradients flow into x, lora_A, lora_B and magnitude, with the row lengths ||V[o]|| taken as constants.
    Source: DoRA, arXiv:2402.09353, equation 5 and section 4.3; rsLoRA, arXiv:2312.03732, equation 4.
    """
    r = lora_A.shape[0]
    direction = weight + (alpha / math.sqrt(r) if rslora else alpha / r) * (lora_B @ lora_A)
    row_lengths = direction.detach().norm(dim=1)
    return nn.functional.linear(x, direction * (magnitude / row_lengths)[:, None], bias)


@exercise.alternative
def correction_after_the_product(
    x: Tensor, weight: Tensor, bias: Any, lora_A: Tensor, lora_B: Tensor, magnitude: Tensor, alpha: float, rslora: bool
) -> Tensor:
    scale = alpha * lora_A.size(0) ** (-0.5 if rslora else -1.0)
    with torch.no_grad():
        lengths = torch.einsum("oi,oi->o", *[weight + lora_B @ lora_A * scale] * 2).sqrt()
    plain = torch.einsum("bi,oi->bo", x, weight) + scale * (x @ lora_A.T) @ lora_B.T
    return plain * magnitude / lengths + (0 if bias is None else bias)


def wrong(given: dict[str, Any], mistake: str) -> Tensor:
    """The shared skeleton of the wrong answers below."""
    weight, a, b = given["weight"], given["lora_A"], given["lora_B"]
    root = given["rslora"] and mistake != "alpha over r"
    v = weight + given["alpha"] / (math.sqrt(a.shape[0]) if root else a.shape[0]) * b @ a
    measured = weight if mistake == "old length" else v if mistake == "gradient" else v.detach()
    v = v.detach() if mistake == "detached" else v
    if mistake == "columns":
        lengths = measured.norm(dim=0)
        y = given["x"] / lengths @ v.T * given["magnitude"]
    else:
        lengths = measured.norm() if mistake == "one length" else measured.norm(dim=1)
        y = given["x"] @ v.T * given["magnitude"] / lengths
    bias = 0 if given["bias"] is None else given["bias"]
    return y + (bias * given["magnitude"] / lengths if mistake == "bias" else bias)


@exercise.misconception(hint="With rslora the scale divides by the square root of r; yours divides by r in both modes.")
def rslora_ignored(**given: Any) -> Tensor:
    return wrong(given, "alpha over r")


@exercise.misconception(
    hint="You measured the wrong direction of the matrix. The paper says columns because it writes weights as (in, "
    "out); nn.Linear stores one output feature per row."
)
def columns_measured(**given: Any) -> Tensor:
    return wrong(given, "columns")


@exercise.misconception(
    hint="The output is right, the gradients of A and B are not: yours also flow through the row lengths, which the "
    "paper treats as constants."
)
def gradient_through_the_length(**given: Any) -> Tensor:
    return wrong(given, "gradient")


@exercise.misconception(
    hint="You divide by the length of the frozen rows. Once the adapter has moved, the direction is the frozen row "
    "plus its update, and that is what has to have length one."
)
def frozen_length_used(**given: Any) -> Tensor:
    return wrong(given, "old length")


@exercise.misconception(
    hint="You divide by one length for the whole matrix. Every output feature has its own row, and every "
    "row its own length."
)
def one_length_for_all(**given: Any) -> Tensor:
    return wrong(given, "one length")


@exercise.misconception(
    hint="The output is right, but lora_A and lora_B get no gradient: you cut the whole sum out of the graph. Only the "
    "lengths are constants; the direction they divide still learns."
)
def direction_detached(**given: Any) -> Tensor:
    return wrong(given, "detached")


@exercise.misconception(hint="Your bias is stretched along with the rows. It belongs outside magnitude and length.")
def bias_scaled(**given: Any) -> Tensor:
    return wrong(given, "bias")


@exercise.cases
def cases(seed: int) -> list[Case]:
    """float64, so that the comparison is about the formula and not about the order of sums."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    def case(
        name: str, about: str, sizes: tuple[int, int, int, int], rslora: bool, bias: bool, visible: bool = True
    ) -> Case:
        batch, inside, outside, r = sizes
        base = {
            "weight": normal(outside, inside),
            "bias": normal(outside) if bias else None,
            "x": normal(batch, inside),
        }
        adapter = {"lora_A": normal(r, inside), "lora_B": normal(outside, r), "magnitude": normal(outside).abs() + 0.5}
        return Case(name, {**base, **adapter, "alpha": 2.0 * r, "rslora": rslora}, about, visible)

    odd = 9 + seed % 5
    return [
        case("DoRA", "with alpha / r", (3, 12, 12, 4), False, False),
        case("DoRA with rsLoRA", "with alpha / sqrt(r)", (3, 10, 14, 4), True, False),
        case("bias", "when there is a bias", (2, 8, 8, 2), False, True),
        case("rank one", "with r = 1, one row and odd sizes", (1, odd, odd + 4, 1), True, True, visible=False),
        case("wide", "on a wide layer", (5, odd, 24, 8), True, False, visible=False),
    ]


@exercise.probe
def probe(answer: Callable[..., Tensor], **given: Any) -> dict[str, Any]:
    """Output, and the gradients of the sum of its squares."""
    names = ("x", "lora_A", "lora_B", "magnitude")
    given |= {name: given[name].clone().requires_grad_() for name in names}
    output = answer(**given)
    output.square().sum().backward()
    return {"output": output.detach()} | {f"gradient of {name}": given[name].grad for name in names}


@exercise.oracle
def oracle(
    x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, rslora: bool, **given: Tensor
) -> dict[str, Any]:
    options = {"use_dora": True, "use_rslora": rslora}
    layer = peft_linear(linear_from(weight, bias), given["lora_A"].shape[0], alpha, **options)
    parts = {"lora_A": layer.lora_A, "lora_B": layer.lora_B, "magnitude": layer.lora_magnitude_vector}
    learned = {name: part["default"].weight for name, part in parts.items()}
    for name, parameter in learned.items():
        parameter.data = given[name].clone()
    learned = {"x": x.clone().requires_grad_()} | learned
    output = layer(learned["x"])
    output.square().sum().backward()
    return {"output": output.detach()} | {f"gradient of {name}": value.grad for name, value in learned.items()}

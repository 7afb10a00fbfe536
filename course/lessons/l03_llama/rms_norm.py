"""RMSNorm, Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4: each token divided by its root mean square.

One worked number: the token [3, 4] has the mean square 12.5, so the root 3.54, and becomes [0.85, 1.13].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.llama_faults import normalise
from course.lessons.l03_llama.small_models import fill
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-rms-norm",
    title="RMSNorm",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "Four steps for each token: square, mean over its features, add eps, divide by the root.",
        "A mean over the last axis that keeps this axis (with size 1) still fits against x.",
        "In 16 bits there are two conversions: up before you square, and back down before you multiply by the weight.",
    ),
    forbidden=(
        "torch.nn.RMSNorm",
        "torch.nn.functional.rms_norm",
        "torch.rms_norm",
        "transformers",
        "course.lessons.l03_llama.llama_faults",
    ),
    library_note="LlamaRMSNorm does these very steps. torch.nn.RMSNorm does them in one kernel and rounds once, after "
    "the weight, so in bfloat16 its result differs from Llama's in the last bit; Gemma multiplies by 1 + weight.",
    interview="Why RMSNorm instead of LayerNorm, and why is it computed in float32?",
)


@exercise.reference
class RmsNorm(nn.Module):
    """Divide each token by the root mean square of its features, then multiply each feature by a learned weight.

    y = x / sqrt(mean(x²) + eps) * weight, with the mean over the last axis.

    Attribute: weight, an nn.Parameter of shape (size,) that starts at ones.
    Not allowed: F.rms_norm, nn.RMSNorm (they are what you build).
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4; eps as in Llama.
    """

    def __init__(self, size: int, eps: float) -> None:
        """size: number of features; eps: a small number that keeps a token of zeros from dividing by zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., size) -> a new tensor of the same shape and dtype.

        Whatever the dtype: x is normalised in float32, the result is rounded to the dtype of x, and this is multiplied
        by the weight. You may take it that the weight has the dtype of x: the whole module was converted.
        """
        wide = x.float()
        normalised = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * normalised.to(x.dtype)


@exercise.alternative
class by_vector_norm(RmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.to(torch.float32).flatten(0, -2) if x.dim() > 1 else x.to(torch.float32)[None]
        lengths = torch.linalg.vector_norm(tokens, dim=1) / tokens.shape[1] ** 0.5
        rows = [token / (length**2 + self.eps) ** 0.5 for token, length in zip(tokens, lengths, strict=True)]
        return torch.stack(rows).reshape(x.shape).type_as(x).mul(self.weight)


@exercise.alternative
class by_einsum(RmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        x32 = x.to(torch.float32)
        square = torch.einsum("...d,...d->...", x32, x32) / x.size(-1)
        return (x32 / torch.sqrt(square + self.eps).unsqueeze(-1)).to(x.dtype) * self.weight


class Mistaken(RmsNorm):
    """The norm with one of the known faults."""

    fault = ""

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, self.weight, self.eps, self.fault)


@exercise.misconception(
    hint="You subtract the mean first. That is LayerNorm; RMSNorm leaves the mean where it is, and this is what makes "
    "it cheaper."
)
class mean_subtracted(Mistaken):
    fault = "mean subtracted"


@exercise.misconception(
    hint="eps is not used. A token of zeros then becomes 0 / 0, which is NaN, and small tokens come out a little too "
    "large."
)
class eps_forgotten(Mistaken):
    fault = "eps forgotten"


@exercise.misconception(
    hint="eps is added to the root. In the formula it stands inside, beside the mean square: on small tokens the two "
    "differ a great deal."
)
class eps_outside_the_root(Mistaken):
    fault = "eps outside the root"


@exercise.misconception(
    hint="eps is a lower bound for the length here, as F.normalize has it, so on all but the tiniest tokens it does "
    "nothing. In the formula it is added to the mean square, whatever that is."
)
class eps_as_a_floor(Mistaken):
    fault = "eps as a floor"


@exercise.misconception(
    hint="eps is fixed at 1e-6, a common default. Each model has its own, and it is handed to the constructor."
)
class eps_fixed_at_1e_6(Mistaken):
    fault = "eps of 1e-6"


@exercise.misconception(
    hint="eps is fixed at 1e-5, right for many models and not for all. Use the one that is handed to the constructor."
)
class eps_fixed_at_1e_5(Mistaken):
    fault = "eps of 1e-5"


@exercise.misconception(
    hint="You divide by the length of the token: the root of the *sum* of squares. The root *mean* square does not "
    "shrink the features when there are more of them."
)
class divided_by_the_length(Mistaken):
    fault = "sum instead of mean"


@exercise.misconception(
    hint="You divide by the mean square itself, without its root, so a token twice as large comes out half as large."
)
class root_forgotten(Mistaken):
    fault = "root forgotten"


@exercise.misconception(
    hint="Your mean runs over the wrong axis: tokens mix with each other. Each token is normalised by itself, over its "
    "features, which are last."
)
class mean_over_tokens(Mistaken):
    fault = "mean over tokens"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dim() > 1 else super().forward(x[None])[0]


@exercise.misconception(
    hint="Your mean runs over axis 1. With a batch of rows that is the tokens' axis, and tokens mix; with a single "
    "token there is no such axis. The features are always last."
)
class mean_over_axis_1(Mistaken):
    fault = "mean over axis 1"


@exercise.misconception(
    hint="You divide by one number for the whole input. Each token has its own: take the mean over the last axis only, "
    "and keep that axis."
)
class one_mean_for_all(Mistaken):
    fault = "mean over everything"


@exercise.misconception(
    hint="You divide by the root of the variance. The variance subtracts the mean before it squares; the mean square "
    "does not."
)
class variance_instead(Mistaken):
    fault = "variance"


@exercise.misconception(
    hint="The learned weight is not applied. It starts at ones, so a fresh layer would look right; with trained "
    "weights it does not."
)
class weight_forgotten(Mistaken):
    fault = "weight forgotten"


@exercise.misconception(
    hint="You multiply by 1 + weight, as Gemma does. A Llama's files hold the factor itself, which starts at one."
)
class weight_plus_one(Mistaken):
    fault = "weight plus one"


@exercise.misconception(
    hint="The root is taken in float32, but then rounded, and the division done in 16 bits: two roundings where Llama "
    "has one. Stay in float32 until the token is divided."
)
class divided_in_16_bits(Mistaken):
    fault = "divided in 16 bits"


@exercise.misconception(
    hint="The squares are computed in the dtype of x. In float16 everything above 65,504 is infinite, and 256 squared "
    "is more: normalise in float32."
)
class squared_in_16_bits(Mistaken):
    fault = "16 bits throughout"


@exercise.misconception(
    hint="You round to 16 bits once, at the very end. That is more exact, and it is what torch.nn.RMSNorm does, but "
    "not what Llama does: round to the dtype of x first, then multiply by the weight."
)
class rounded_after_the_weight(Mistaken):
    fault = "rounded after the weight"


@exercise.misconception(
    hint="With 16-bit input your result is float32. The next layer's weights are 16-bit and would refuse it: give back "
    "what came in."
)
class left_in_float32(Mistaken):
    fault = "left in float32"


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=random) * scale

    def case(name: str, about: str, x: Tensor, visible: bool = True, eps: float = 1e-5) -> Case:
        weight = (1 + 0.5 * normal(x.shape[-1])).to(x.dtype)
        return Case(name, {"x": x, "weight": weight, "eps": eps}, about, visible)

    odd = 2 * int(torch.randint(8, 24, (), generator=random)) + 1
    padded = normal(2, 5, 16)
    padded[1, 3:] = 0
    return [
        case("plain", "on a small batch", 1 + 2 * normal(2, 3, 8)),
        case(
            "large in float16", "when a float16 value's square is over float16's largest", (300 * normal(4, 12)).half()
        ),
        case("small", "when the features are so small that eps matters", normal(3, 10, scale=3e-3)),
        case("zeros", "when a token is all zeros", padded),
        case("bfloat16", "in bfloat16", clear_of_ties(normal(2, 4, 24, scale=3.0).bfloat16(), random)),
        case("one token", "on a single token without a batch", normal(odd), visible=False),
        case("other eps", "with another eps and an odd size", normal(1, 4, odd, scale=1e-2), visible=False, eps=1e-4),
    ]


def clear_of_ties(x: Tensor, random: torch.Generator, eps: float = 1e-5) -> Tensor:
    """x with values redrawn until none lands near the middle of two bfloat16 values.

    There the last bit of a float32 decides, and that depends on the order of honest additions.
    """
    while True:
        exact = x.double() * (x.double().square().mean(-1, keepdim=True) + eps).rsqrt()
        below, above = (exact * (1 - 1e-5)).float().bfloat16(), (exact * (1 + 1e-5)).float().bfloat16()
        near = below != above
        if not near.any():
            return x
        x = torch.where(near, (3 * torch.randn(x.shape, generator=random)).bfloat16(), x)


@exercise.probe
def probe(answer: Any, x: Tensor, weight: Tensor, eps: float) -> dict[str, Any]:
    """Makes the layer, looks at its start, loads the weight and calls it."""
    layer = answer(len(weight), eps)
    if not isinstance(getattr(layer, "weight", None), nn.Parameter):
        raise TypeError("weight must be an nn.Parameter, so that it is trained and saved")
    start = layer.weight.detach().clone()
    with torch.no_grad():
        return {"weight at the start": start, "output": fill(layer, {"weight": weight})(x)}


@exercise.oracle
def oracle(x: Tensor, weight: Tensor, eps: float) -> dict[str, Any]:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return probe(LlamaRMSNorm, x, weight, eps)

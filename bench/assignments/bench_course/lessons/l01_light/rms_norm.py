"""Exercise: RMSNorm, Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-rms-norm",
    title="RMSNorm",
    points=2,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("transformer",),
    hints=("Nothing is subtracted.",),
)


@exercise.reference
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row of x (B, T, D) by the root of its mean square plus eps, then multiply by weight (D,)."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps))


@exercise.alternative
def through_the_root(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().sum(dim=-1, keepdim=True) / x.shape[-1] + eps).sqrt() * weight


@exercise.misconception(hint="You subtract the mean; that is LayerNorm.")
def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, eps=eps)


@exercise.misconception(hint="Sum or mean? The squares are averaged.")
def sum_of_squares(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).sum(dim=-1, keepdim=True) + eps))


@exercise.misconception(hint="The weight has no effect on your result.")
def weight_forgotten(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps)


@exercise.oracle
def oracle(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(x.shape[-1], eps)
    norm.weight.data.copy_(weight)
    return norm(x).detach()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(*shape: int, eps: float = 1e-5) -> dict:
        return {
            "x": 3 * torch.randn(shape, generator=random),
            "weight": 1 + torch.rand(shape[-1], generator=random),
            "eps": eps,
        }

    yield Case("small", inputs(1, 2, 4))
    yield Case("wide", inputs(2, 8, 576))
    yield Case("one token", inputs(1, 1, 64), about="when there is one token", visible=False)
    yield Case("large eps", inputs(2, 3, 16, eps=0.5), about="when eps is large", visible=False)

"""Exercise: repeat key and value heads for grouped-query attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-repeat-heads",
    title="Repeat the key heads",
    points=2,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("transformer",),
    hints=("Neighbouring query heads share a key head.",),
)


@exercise.reference
def repeat_heads(keys: Tensor, times: int) -> Tensor:
    """Repeat each head of keys (B, K, T, D) so often, copies side by side; returns (B, K * times, T, D)."""
    return keys.repeat_interleave(times, dim=1)


@exercise.alternative
def expanded(keys: Tensor, times: int) -> Tensor:
    b, k, t, d = keys.shape
    return keys[:, :, None].expand(b, k, times, t, d).reshape(b, k * times, t, d)


@exercise.misconception(hint="Your copies follow each other as whole groups: heads 0 1 0 1 instead of 0 0 1 1.")
def tiled(keys: Tensor, times: int) -> Tensor:
    return keys.repeat(1, times, 1, 1)


@exercise.misconception(hint="You repeated the tokens; the heads are dimension 1.")
def tokens_repeated(keys: Tensor, times: int) -> Tensor:
    return keys.repeat_interleave(times, dim=2)


@exercise.misconception(hint="Your result has as many heads as before.")
def nothing_repeated(keys: Tensor, times: int) -> Tensor:
    return keys.clone()


@exercise.oracle
def oracle(keys: Tensor, times: int) -> Tensor:
    from transformers.models.llama.modeling_llama import repeat_kv

    return repeat_kv(keys, times)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(b: int, k: int, t: int, d: int, times: int) -> dict:
        return {"keys": torch.randn(b, k, t, d, generator=random), "times": times}

    yield Case("two heads", inputs(1, 2, 3, 4, 2))
    yield Case("batch", inputs(3, 3, 8, 16, 3))
    yield Case("odd", inputs(2, 5, 7, 6, 4), visible=False)
    yield Case("wide", inputs(1, 4, 32, 64, 2), visible=False)

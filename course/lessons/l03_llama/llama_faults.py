"""The arithmetic of a Llama, and every way of getting it wrong that this lesson knows.

One function for each part, with a switch: `fault=""` is the right arithmetic, any other value names a mistake that
people really make. The known wrong answers of the exercises are made of it, and so is the report on two models that
differ: it tries each fault and names the one that gives the learner's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

NORM_FAULTS = {
    "mean subtracted": "the mean is subtracted first, as in LayerNorm",
    "eps forgotten": "eps is missing",
    "eps outside the root": "eps is added to the root instead of inside it",
    "eps of 1e-6": "eps is 1e-6, a common default, instead of this model's",
    "eps of 1e-5": "eps is 1e-5 instead of this model's",
    "sum instead of mean": "the squares are summed instead of averaged",
    "mean over tokens": "the mean runs over the tokens instead of the features",
    "mean over everything": "one mean is taken over all tokens instead of one for each",
    "variance": "it divides by the root of the variance instead of the mean square",
    "root forgotten": "it divides by the mean square, not by its root",
    "weight plus one": "the weight is taken as 1 + weight, as in Gemma",
    "weight forgotten": "the learned weight is not applied",
}

ATTENTION_FAULTS = {
    "interleaved": "the rotary embedding pairs neighbours (0 with 1) instead of halves (0 with head_dim / 2)",
    "turned backwards": "the rotary embedding turns the wrong way: the sign of the sine",
    "theta of Llama 2": "theta is 10,000 instead of this model's",
    "exponents halved": "the rotary exponents are i / head_dim instead of 2i / head_dim",
    "exponents doubled": "the rotary exponents are 4i / head_dim instead of 2i / head_dim",
    "first half overwritten": "the second half of a rotated pair is computed from the first half's new value",
    "tables interleaved": "the angles are laid out in neighbouring pairs while the features are paired by halves",
    "queries not turned": "the rotary embedding is applied to the keys but not to the queries",
    "keys not turned": "the rotary embedding is applied to the queries but not to the keys",
    "no rotary": "no rotary embedding is applied",
    "values turned": "the rotary embedding is applied to the values too",
    "turned before the split": "the rotary embedding is applied before the features are split into heads",
    "scaled by head_dim": "scores are divided by head_dim instead of its square root",
    "scaled by the model's width": "scores are divided by the root of the model's width instead of head_dim's",
    "not scaled": "scores are not scaled",
    "no mask": "there is no causal mask",
    "one token ahead": "the causal mask lets each token see one token of the future",
    "mask after softmax": "the mask comes after the softmax, so the rows no longer sum to 1",
    "softmax over queries": "the softmax runs over the queries instead of the keys",
    "key-value heads tiled": "key-value heads are repeated in the order 0 1 2 0 1 2 instead of 0 0 1 1 2 2",
    "split without a transpose": "the features are split into (heads, tokens) instead of (tokens, heads)",
    "merged without a transpose": "the heads are merged without moving them back behind the tokens",
}

MLP_FAULTS = {
    "activation on up": "the activation is on up_proj's output instead of gate_proj's",
    "gelu": "the activation is GELU instead of SiLU",
    "gelu by tanh": "the activation is GELU (its tanh form) instead of SiLU",
    "relu": "the activation is ReLU instead of SiLU",
    "sigmoid": "the activation is the sigmoid alone; SiLU is x times sigmoid(x)",
    "added": "gate and up are added instead of multiplied",
    "activation after the product": "the activation comes after the product instead of before it",
    "no activation": "there is no activation",
    "activation on both": "up_proj's output goes through the activation too",
    "up unused": "up_proj's output is not used",
}


def normalise(x: Tensor, weight: Tensor, eps: float, fault: str = "") -> Tensor:
    """RMSNorm of x (..., features)."""
    wide = x if fault == "16 bits throughout" else x.float()
    if fault == "mean subtracted":
        wide = wide - wide.mean(-1, keepdim=True)
    over = {"mean over tokens": -2, "mean over axis 1": 1}.get(fault, -1)
    square = wide.pow(2).sum(over, keepdim=True) if fault == "sum instead of mean" else wide.pow(2).mean(over, True)
    if fault == "mean over everything":
        square = wide.pow(2).mean()
    if fault == "variance":
        square = wide.var(-1, unbiased=False, keepdim=True)
    used_eps = {"eps forgotten": 0.0, "eps of 1e-6": 1e-6, "eps of 1e-5": 1e-5}.get(fault, eps)
    scaled = wide * (square + used_eps).rsqrt()
    if fault == "eps outside the root":
        scaled = wide / (square.sqrt() + eps)
    if fault == "eps as a floor":
        scaled = F.normalize(wide, dim=-1, eps=eps) * x.shape[-1] ** 0.5
    if fault == "divided in 16 bits":
        scaled = x * (square + eps).rsqrt().to(x.dtype)
    if fault == "root forgotten":
        scaled = wide / (square + eps)
    if fault == "weight forgotten":
        return scaled.to(x.dtype)
    if fault == "rounded after the weight":
        return (scaled * weight.float()).to(x.dtype)
    if fault == "left in float32":
        return scaled * weight.float()
    return scaled.to(x.dtype) * (weight + 1 if fault == "weight plus one" else weight)


def rotate(x: Tensor, positions: Tensor, theta: float, fault: str = "") -> Tensor:
    """Rotary embedding of x (batch, heads, tokens, head_dim) at positions (tokens,) or (batch, tokens)."""
    size, half, overwritten = x.shape[-1], x.shape[-1] // 2, fault == "first half overwritten"
    base = 10_000.0 if fault == "theta of Llama 2" else theta
    span = {"exponents halved": size, "exponents doubled": half / 2}.get(fault, half)
    exponents = torch.arange(half, device=x.device, dtype=torch.float32) / span
    if fault == "frequencies upside down":
        exponents = -exponents
    if fault == "pairs from one":
        exponents = exponents + 1 / half
    if fault == "positions ignored":
        positions = torch.arange(x.shape[-2], device=x.device)
    if fault == "first row for all" and positions.dim() == 2:
        positions = positions[0]
    precision = x.dtype if fault == "angles in 16 bits" else torch.float32
    frequencies = (base**-exponents).to(x.dtype if fault == "frequencies in 16 bits" else precision)
    angles = (positions.unsqueeze(-1).to(precision) * frequencies).unsqueeze(-3)
    cos, sin = angles.cos(), angles.sin()
    if fault == "turned backwards":
        sin = -sin
    if fault == "interleaved":
        even, odd = x[..., ::2], x[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    elif fault == "tables interleaved":
        cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
        turned = x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
    else:
        left, right = x.split(half, -1)
        new_left = left * cos - right * sin
        second_sine = -sin if fault == "second sine turned" else sin
        turned = torch.cat([new_left, right * cos + (new_left if overwritten else left) * second_sine], -1)
    return turned if fault == "left in float32" else turned.to(x.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, positions: Tensor, theta: float, fault: str = ""
) -> Tensor:
    """What goes into o_proj, from what comes out of q_proj, k_proj and v_proj: all (batch, tokens, features)."""
    batch, tokens, width = q.shape
    size = width // heads
    k, v = (v, k) if fault == "keys and values swapped" else (k, v)
    turned = {"queries not turned": "k", "keys not turned": "q", "no rotary": "", "values turned": "qkv"}.get(
        fault, "qk"
    )
    if fault == "turned before the split":
        turned = ""
        q, k = (rotate(part[:, None], positions, theta)[:, 0] for part in (q, k))

    def split(name: str, part: Tensor, count: int) -> Tensor:
        if fault == "split without a transpose":
            part = part.reshape(batch, count, tokens, size)
        else:
            part = part.reshape(batch, tokens, count, size).transpose(1, 2)
        return rotate(part, positions, theta, fault) if name in turned else part

    q, k, v = split("q", q, heads), split("k", k, kv_heads), split("v", v, kv_heads)
    group = heads // kv_heads
    if fault == "key-value heads tiled":
        k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    else:
        k = k.repeat_interleave(group, 1)
        v = v.repeat(1, group, 1, 1) if fault == "only values tiled" else v.repeat_interleave(group, 1)
    scales = {"scaled by head_dim": 1 / size, "scaled by the model's width": width**-0.5, "not scaled": 1.0}
    scores = q @ k.mT * scales.get(fault, size**-0.5)
    ahead = {"one token ahead": 1, "own token hidden": -1, "no mask": tokens}.get(fault, 0)
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril(ahead)
    if fault == "wrong triangle":
        seen = seen.mT
    if fault == "masked by position":
        seen = (positions[..., None, :] <= positions[..., None]).expand(batch, tokens, tokens)[:, None]
    hidden = {"own token at -10,000": -1e4}.get(fault, -torch.inf)
    if fault == "own token at -10,000":
        seen = seen.tril(-1)
    if fault == "mask after softmax":
        shares = scores.softmax(-1) * seen
    elif fault == "masked with zero":
        shares = (scores * seen).softmax(-1)
    elif fault == "mask of -10":
        shares = (scores - 10.0 * ~seen).softmax(-1)
    else:
        shares = scores.masked_fill(~seen, hidden).softmax(-2 if fault == "softmax over queries" else -1)
    mixed = shares.to(v.dtype) @ v
    if fault != "merged without a transpose":
        mixed = mixed.transpose(1, 2)
    return mixed.reshape(batch, tokens, width)


def gate_and_up(gate: Tensor, up: Tensor, fault: str = "") -> Tensor:
    """What goes into down_proj, from what comes out of gate_proj and up_proj."""
    if fault == "activation on up":
        return gate * F.silu(up)
    if fault == "activation on both":
        return F.silu(gate) * F.silu(up)
    if fault == "up unused":
        return F.silu(gate)
    if fault == "added":
        return F.silu(gate) + up
    if fault == "activation after the product":
        return F.silu(gate * up)
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu by tanh": partial(F.gelu, approximate="tanh"),
        "relu": F.relu,
        "sigmoid": torch.sigmoid,
        "no activation": torch.clone,
        "quick gelu": lambda z: z * torch.sigmoid(1.702 * z),
        "sigmoid of minus z": lambda z: z * torch.sigmoid(-z),
    }
    return activations.get(fault, F.silu)(gate) * up

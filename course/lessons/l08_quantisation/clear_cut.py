"""Weights without a coin toss: values that lie on the border between two codes are set to zero.

Dividing by a number and multiplying by its inverse differ in the last bit of a float32. That decides the code of a
weight that lies halfway between two codes, and either choice is right. So no case holds such a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1e-3


def clear_of_halves(weight: Tensor, levels: int = 127) -> Tensor:
    """`weight` (rows, columns), with zeros where weight * levels / row maximum is within MARGIN of a half.

    The largest weight of each row is raised to a power of two. It lands on 127 then in whatever order one divides and
    multiplies, so that an answer which cuts off instead of rounding is the same wrong answer in every order.
    """
    largest, column = weight.float().abs().max(dim=1, keepdim=True)
    power = 2.0 ** torch.ceil(torch.log2(largest.clamp_min(1e-30)))
    power = torch.where(largest > 0, power * weight.float().gather(1, column).sign(), 0)
    weight = weight.scatter(1, column, power.to(weight.dtype))
    scaled = weight.double() * levels / power.double().abs().clamp_min(1e-30)
    return weight.masked_fill((scaled - scaled.floor() - 0.5).abs() < MARGIN, 0)


def clear_of_borders(flat: Tensor, codebook: Tensor, block_size: int, margin: float = MARGIN) -> Tensor:
    """`flat` (n,), with zeros where value / block maximum is within `margin` of a border between two codes."""
    blocks = torch.arange(flat.numel()) // block_size
    largest = torch.stack([flat[blocks == block].abs().max() for block in range(int(blocks.max()) + 1)])
    scaled = flat.double() / largest.double().clamp_min(1e-30)[blocks]
    borders = (codebook[1:].double() + codebook[:-1].double()) / 2
    near = (scaled.unsqueeze(1) - borders).abs().min(dim=1).values < margin
    return flat.masked_fill(near, 0)

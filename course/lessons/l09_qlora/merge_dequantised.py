"""Merging an adapter that was trained on a 4-bit base: onto which weight?

The adapter learned to correct dequantise(W4), quantisation error included. Worked number: on a random 64 x 64 layer the
merge onto the 16-bit original misses the trained layer's output by about a tenth; onto dequantise(W4) by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-merge-dequantised",
    title="Merge a QLoRA adapter rightly",
    points=3,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("qlora", "lora", "peft"),
    hints=(
        "Write down what the trained layer computes, y = x W^T + ..., and ask which W it saw in every training step.",
        "The merged weight is one matrix that gives the same y; it is shipped in 16 bits, not in 4.",
    ),
    forbidden=("peft",),
    seconds=20.0,
    seconds_reason="importing peft and bitsandbytes cold takes 5 to 10 seconds",
    library_note="`merge_and_unload()` on a 4-bit model in peft adds the update to the decoded weight, as you "
    "do, but then "
    "encodes the sum in NF4 again, and the rounding swallows part of the update (it warns: 'Merge lora module to "
    "4-bit linear may get different generations due to rounding errors'). To ship, decode, merge in 16 bits, then "
    "quantise the result with your serving stack's own method and measure again.",
    interview="You trained with QLoRA. Onto which base weights do you merge, and how do you check the result?",
)


@exercise.reference
def merge_dequantised(
    packed: Tensor,
    dequantise: Callable[[Tensor], Tensor],
    original: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    alpha: float,
) -> Tensor:
    """The weight of a plain linear layer that computes what the trained QLoRA layer computes; float32 (out, in).

    packed: uint8, the NF4 bytes of the frozen weight during training.
    dequantise(packed) -> float32 (out, in), what the layer multiplied with.
    original: float32 (out, in), the weight before it was quantised, as it can be downloaded.
    lora_a: (rank, in), lora_b: (out, rank), alpha: as trained. One or more of these arguments may not be needed.

    Update of LoRA: dW = (alpha / rank) B A.
    """
    return dequantise(packed) + (alpha / lora_a.shape[0]) * (lora_b @ lora_a)


@exercise.alternative
def by_unit_vectors(packed, dequantise, original, lora_a, lora_b, alpha):
    identity = torch.eye(lora_a.shape[1])  # each unit vector, sent through the trained layer, gives one column
    low_rank = torch.nn.functional.linear(torch.nn.functional.linear(identity, lora_a), lora_b)
    outputs = identity @ dequantise(packed).T + low_rank * alpha / len(lora_a)
    return outputs.T.contiguous()


@exercise.misconception(
    hint="You merged onto the original weight. The adapter never saw it: it was trained to correct the decoded 4-bit "
    "weight, rounding errors included."
)
def onto_original(packed, dequantise, original, lora_a, lora_b, alpha):
    return original + alpha / len(lora_a) * (lora_b @ lora_a)


@exercise.misconception(
    hint="Your merged weight has only 16 levels per block: you encoded the sum in 4 bits again. The "
    "update is smaller than "
    "NF4's steps and is mostly rounded away."
)
def quantised_again(packed, dequantise, original, lora_a, lora_b, alpha):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    merged = dequantise(packed) + alpha / len(lora_a) * (lora_b @ lora_a)
    return dequantize_4bit(*quantize_4bit(merged, quant_type="nf4"))


@exercise.misconception(hint="You added B A as it is, without its scale: LoRA multiplies it by alpha / rank.")
def scale_forgotten(packed, dequantise, original, lora_a, lora_b, alpha):
    return dequantise(packed) + lora_b @ lora_a


@exercise.misconception(
    hint="You scaled the update by alpha alone. LoRA also divides by the rank, so that another rank needs no other "
    "learning rate."
)
def alpha_alone(packed, dequantise, original, lora_a, lora_b, alpha):
    return dequantise(packed) + alpha * (lora_b @ lora_a)


@exercise.misconception(
    hint="You divided alpha by the number of features. The rank is the small one of A's two sizes: its number of rows."
)
def alpha_over_features(packed, dequantise, original, lora_a, lora_b, alpha):
    return dequantise(packed) + alpha / lora_a.shape[1] * (lora_b @ lora_a)


@exercise.misconception(hint="This is the decoded base weight alone: the adapter is missing from it.")
def adapter_dropped(packed, dequantise, original, lora_a, lora_b, alpha):
    return dequantise(packed)


@exercise.misconception(
    hint="You added the quantisation error on top: original + (original - decoded) is not what any layer used."
)
def error_added_twice(packed, dequantise, original, lora_a, lora_b, alpha):
    return 2 * original - dequantise(packed) + alpha / len(lora_a) * (lora_b @ lora_a)


@exercise.probe
def probe(answer, original, lora_a, lora_b, alpha):
    """Quantise the original, merge."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(original, quant_type="nf4", compress_statistics=True)
    return answer(packed, lambda stored: dequantize_4bit(stored, state), original, lora_a, lora_b, alpha)


def inputs(seed: int, rows: int, columns: int, rank: int, alpha: float) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        "original": torch.randn(rows, columns, generator=random) * columns**-0.5,
        "lora_a": torch.randn(rank, columns, generator=random) * columns**-0.5,
        "lora_b": torch.randn(rows, rank, generator=random) * 0.02,
        "alpha": alpha,
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    yield Case("square", inputs(seed, 64, 64, 8, 16.0), "with a square weight")
    yield Case("wide", inputs(seed + 1, 24, 192, 4, 32.0), "with more inputs than outputs")
    yield Case("rank_one", inputs(seed + 2, 96, 64, 1, 3.0), "when the rank is 1", visible=False)
    yield Case("tall", inputs(seed + 3, 150 + seed % 11, 128, 16, 8.0), "with odd sizes", visible=False)


@exercise.oracle
def oracle(original, lora_a, lora_b, alpha):
    """bitsandbytes decodes the 4-bit layer that peft adapted, peft gives the update."""
    import bitsandbytes
    from peft import LoraConfig, inject_adapter_in_model

    rows, columns = original.shape
    base = bitsandbytes.nn.Linear4bit(columns, rows, bias=False, quant_type="nf4")
    base.weight = bitsandbytes.nn.Params4bit(original, requires_grad=False, quant_type="nf4")
    model: Any = nn.ModuleDict({"base": base.to("cpu")})
    model.is_loaded_in_4bit = True
    config = LoraConfig(r=len(lora_a), lora_alpha=alpha, target_modules=["base"])
    layer = cast(Any, inject_adapter_in_model(config, model))["base"]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(lora_a)
        layer.lora_B["default"].weight.copy_(lora_b)
        weight = layer.get_base_layer().weight
        decoded = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return decoded + layer.get_delta_weight("default")

"""A linear layer with a frozen 4-bit weight and a trained low-rank correction (Dettmers et al. 2023, equation 5).

Worked number: a 576 x 576 layer of the base model is 663,552 bytes in bfloat16, 171,092 bytes in NF4 with double
quantisation, and its rank-16 adapter in float32 is 73,728 bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from gc import get_referents
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-qlora-linear",
    title="The QLoRA linear layer",
    points=5,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("qlora", "lora", "quantisation"),
    hints=(
        "It is the LoRA layer of the lesson before, with one line changed: where the frozen weight comes from.",
        "Keep the bytes as a buffer, so that they move with the module and are saved with it but never trained.",
        "Turn the bytes into weights inside `forward`, use them, and let them go when `forward` returns.",
        "In 16 bits, run the frozen part in the dtype of `x`, the adapters in float32, and bring their result back "
        "to the dtype of `x`.",
    ),
    atol=2e-5,
    tolerance_reason="scale * (B A) may be formed first, which adds in another order: 5e-6 apart in a gradient",
    forbidden=("peft",),
    seconds=20.0,
    seconds_reason="importing peft and bitsandbytes cold takes 5 to 10 seconds",
    library_note="peft's `Linear4bit` calls bitsandbytes, whose kernel decodes the weight tile by tile on CUDA, and "
    "adds dropout in front of A. On a CPU without gradients bitsandbytes may switch to a bfloat16 kernel for speed: "
    "its outputs can then differ from the decoded matrix product by a tenth and more (section 3 prints how far on your "
    "machine), which is why your layer is compared through decoded weights.",
    interview="Which tensors of a QLoRA layer are 4-bit, which are 16-bit, which are 32-bit, and which get gradients?",
)


@exercise.reference
class QloraLinear(nn.Module):
    """y = x @ W.T + (alpha / rank) * (x @ A.T) @ B.T, with W stored as NF4 bytes and only A and B trained.

    Arguments of the constructor:
        in_features, out_features: W is (out_features, in_features).
        packed: uint8 tensor, W as NF4 bytes. Keep it as a buffer, so that it is moved and saved with the layer; it
            is all that is stored of W.
        dequantise: function, `dequantise(packed)` -> W as float32 (out_features, in_features).
        rank, alpha: LoRA's rank and scale numerator.
    Trained parameters, both nn.Parameter and float32 whatever `x` is: `lora_a` (rank, in_features), drawn by Kaiming
    uniform with a = sqrt(5) as nn.Linear does, and `lora_b` (out_features, rank), zeros.
    forward(x): x is (..., in_features), any float dtype; returns (..., out_features) in the dtype of x. The adapters
    compute in float32 for any x. No full-size W may stay in the layer once `forward` has returned.

    Source: Dettmers et al. 2023 (arXiv:2305.14314), equation 5.
    """

    packed: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        packed: Tensor,
        dequantise: Callable[[Tensor], Tensor],
        rank: int,
        alpha: float,
    ) -> None:
        """Keep the bytes, make A and B."""
        super().__init__()
        self.register_buffer("packed", packed)
        self.dequantise = dequantise
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen part in the dtype of x, the adapters in float32; what is returned has the dtype of x."""
        frozen = F.linear(x, self.dequantise(self.packed).to(x.dtype))
        correction = F.linear(F.linear(x.to(self.lora_a.dtype), self.lora_a), self.lora_b) * self.scale
        return frozen + correction.to(x.dtype)


@exercise.alternative
class EinsumLayer(nn.Module):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__()
        self.frozen_bytes = nn.Parameter(packed, requires_grad=False)
        self.decode, self.rank, self.alpha = dequantise, rank, alpha
        bound = in_features**-0.5
        self.lora_a = nn.Parameter(torch.empty(rank, in_features).uniform_(-bound, bound))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x):
        weight = self.decode(self.frozen_bytes).to(x.dtype)
        low_rank = torch.einsum("...i,ri,or->...o", x.float(), self.lora_a, self.lora_b)
        return torch.einsum("...i,oi->...o", x, weight) + (low_rank * (self.alpha / self.rank)).to(x.dtype)


@exercise.alternative
class UpdateFirst(nn.Module):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__()
        self.register_buffer("codes", packed)
        self.decode, self.scale = dequantise, alpha / rank
        start = nn.Linear(in_features, rank, bias=False)
        self.lora_a = start.weight
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x):
        update = self.scale * (self.lora_b @ self.lora_a)
        return (x @ self.decode(self.codes).to(x.dtype).T + (x.float() @ update.T)).to(x.dtype)


class Skeleton(nn.Module):
    """What the wrong answers below share."""

    packed: Tensor

    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__()
        self.register_buffer("packed", packed)
        self.dequantise, self.scale = dequantise, alpha / rank
        self.lora_a = nn.Parameter((2 * torch.rand(rank, in_features) - 1) * in_features**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))

    def frozen_weight(self):
        return self.dequantise(self.packed)

    def forward(self, x):
        low_rank = (x.to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T) * self.scale
        return x @ self.frozen_weight().to(x.dtype).T + low_rank.to(x.dtype)


@exercise.misconception(
    hint="The decoded weight stays in your layer, so the layer is larger than the 16-bit one you wanted to save. "
    "Keep the bytes only, and decode again at each call."
)
class DecodedOnce(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.weight = dequantise(packed)

    def frozen_weight(self):
        return self.weight


@exercise.misconception(
    hint="The decoded weight stays in a list of your layer's. PyTorch does not see it there, neither saves nor counts "
    "it, and it takes its memory all the same. Keep the bytes only, and decode again at each call."
)
class DecodedIntoAList(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.dense = [dequantise(packed)]

    def frozen_weight(self):
        return self.dense[0]


@exercise.misconception(
    hint="You decode at each call, as you should, and keep what you decoded: a full-size W stays in the layer once "
    "`forward` has returned. Let it be a local variable."
)
class EachDecodedWeightKept(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.seen = {}

    def frozen_weight(self):
        self.seen["weight"] = self.dequantise(self.packed)
        return self.seen["weight"]


@exercise.misconception(
    hint="Your W is a trained parameter: the optimizer would hold state for it and the 4-bit base would no longer be "
    "frozen. Only A and B are trained."
)
class TrainedBase(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.weight = nn.Parameter(dequantise(packed))

    def frozen_weight(self):
        return self.weight


@exercise.misconception(
    hint="The correction is too large by a constant factor, the rank: alpha alone is not the scale."
)
class ScaleIsAlpha(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.scale = alpha


@exercise.misconception(
    hint="The gradient of the input is missing the frozen layer's part. Weights that are not trained still pass "
    "gradients through to the layers below; do not cut them off the graph together with x."
)
class FrozenPartWithoutGraph(Skeleton):
    def forward(self, x):
        with torch.no_grad():
            frozen = x @ self.frozen_weight().to(x.dtype).T
        return frozen + ((x.to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T) * self.scale).to(x.dtype)


@exercise.misconception(
    hint="Your adapters take the dtype of 16 bits. Small updates vanish in the few digits of a 16-bit "
    "number: keep A and B "
    "in float32, as peft does, and cast around them."
)
class HalfPrecisionAdapters(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.lora_a.data, self.lora_b.data = self.lora_a.data.half(), self.lora_b.data.half()


@exercise.misconception(
    hint="Before training the layer must give exactly what the frozen layer gives. Which of A and B starts at zero?"
)
class BothRandom(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.lora_b.data.normal_(std=0.02)


@exercise.misconception(hint="The correction has no scale: it is multiplied by alpha / rank before it is added.")
class ScaleForgotten(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.scale = 1.0


@exercise.misconception(
    hint="Your scale is upside down: a larger alpha makes the correction larger, a larger rank smaller."
)
class ScaleUpsideDown(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        self.scale = rank / alpha


@exercise.misconception(
    hint="The adapters compute in the 16 bits of x. Sums above 65,504 overflow there and small ones lose digits: bring "
    "x to the adapters' dtype first, and only their result back to that of x."
)
class AdaptersComputeInSixteenBits(Skeleton):
    def forward(self, x):
        low_rank = x @ self.lora_a.to(x.dtype).T @ self.lora_b.to(x.dtype).T
        return x @ self.frozen_weight().to(x.dtype).T + low_rank * self.scale


@exercise.misconception(
    hint="A starts from another distribution than nn.Linear's: Kaiming uniform is called with a = sqrt(5), which keeps "
    "every value within 1 / sqrt(in_features)."
)
class AnotherStartOfA(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        nn.init.kaiming_uniform_(self.lora_a)


@exercise.misconception(
    hint="A and B have changed places at the start: here A is drawn at random and B is zero. (Both zero would be "
    "worse: then neither ever gets a gradient.)"
)
class ZerosInA(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        nn.init.zeros_(self.lora_a)


@exercise.misconception(
    hint="The bytes are a plain attribute: they are not saved with the layer and stay behind when the model moves to a "
    "GPU. A buffer goes along."
)
class BytesNotRegistered(Skeleton):
    def __init__(self, in_features, out_features, packed, dequantise, rank, alpha):
        super().__init__(in_features, out_features, packed, dequantise, rank, alpha)
        del self.packed
        self.packed = packed


def quantise(weight: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """NF4 bytes of a weight with columns in multiples of 64, and the function that decodes them."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return packed, lambda stored: dequantize_4bit(stored, state)


def tensors_held(layer: nn.Module) -> list[Tensor]:
    """The tensors that the layer keeps in plain sight: parameters, buffers, plain attributes."""
    attributes = (value for value in vars(layer).values() if isinstance(value, Tensor))
    return [*layer.parameters(), *layer.buffers(), *attributes]


def tensors_within(layer: nn.Module) -> list[Tensor]:
    """Every tensor that the layer leads to: also through lists, dicts, other objects, closures, default arguments.

    Classes, modules and their names, builtins among them, belong to no single layer and are not entered: in a notebook
    `get_ipython` is a builtin, and leads to everything there is.
    """
    found: list[Tensor] = []
    seen = {id(vars(module)) for module in list(sys.modules.values()) if isinstance(module, ModuleType)}
    waiting: list[Any] = [layer]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType):
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            found.append(each)
            waiting.append(vars(each))
        elif isinstance(each, FunctionType):
            waiting += (each.__closure__, each.__defaults__, each.__kwdefaults__, vars(each))
        else:
            waiting += get_referents(each)
    return found


def start_of(lora_a: Tensor) -> str:
    """How A starts, in words; U(-bound, bound) with bound = 1 / sqrt(in) is Kaiming uniform with a = sqrt(5)."""
    largest = lora_a.detach().abs().max().item() * lora_a.shape[1] ** 0.5
    if largest == 0:
        return "all zero"
    return "beyond" if largest > 1.001 else "within" if largest > 0.7 else "far within"


def require_parameters(layer: nn.Module, rank: int, columns: int, rows: int) -> None:
    """Raise TypeError unless both adapters are parameters of the right shape."""
    for name, sizes, shape in (("lora_a", "(rank, in)", (rank, columns)), ("lora_b", "(out, rank)", (rows, rank))):
        found = getattr(layer, name, None)
        if not isinstance(found, nn.Parameter) or tuple(found.shape) != shape:
            kind = f"{type(found).__name__} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{name} must be an nn.Parameter of shape {sizes} = {shape}; yours is {kind}")


@exercise.probe
def probe(answer, weight, x, lora_a, lora_b, alpha, dtype, times_later):
    """Build the layer, look at it, load A and B, run forward and backward; at last let the bytes decode to another W.

    A layer that keeps W anywhere computes with the old one then.
    """
    packed, decode = quantise(weight)
    times = 1.0

    def dequantise(stored: Tensor) -> Tensor:
        return decode(stored) * times

    rows, columns = weight.shape
    layer = answer(columns, rows, packed, dequantise, len(lora_a), alpha)
    x = x.to(getattr(torch, dtype)).requires_grad_(True)
    first = layer(x)
    if not isinstance(first, Tensor):
        raise TypeError(f"forward returned {type(first).__name__}; return the output tensor")
    require_parameters(layer, len(lora_a), columns, rows)
    start, start_of_a = first.detach(), start_of(layer.lora_a)
    trained = {name: str(value.dtype) for name, value in layer.named_parameters() if value.requires_grad}
    with torch.no_grad():
        layer.lora_a.copy_(lora_a)
        layer.lora_b.copy_(lora_b)
    y = layer(x)
    y.float().square().mean().backward()
    in_sight = {id(held): held.numel() >= rows * columns for held in tensors_held(layer)}
    within = {id(held): held.numel() >= rows * columns for held in tensors_within(layer)}
    times = times_later
    with torch.no_grad():
        later = layer(x)
    seen = {
        "trained_parameters": dict(sorted(trained.items())),
        "full_size_weights_held": sum(in_sight.values()),
        "full_size_weights_in_lists_or_closures": sum(full for key, full in within.items() if key not in in_sight),
        "bytes_saved_with_layer": any(
            held.dtype == packed.dtype and torch.equal(held, packed) for held in layer.state_dict().values()
        ),
        "lora_a_start_against_1_over_sqrt_in": start_of_a,
        "output_dtype": str(y.dtype),
        "output_is_finite": bool(y.isfinite().all()),
    }
    if dtype == "float32":  # 16-bit results depend on the order of additions; there no values are compared
        seen |= {
            "output_at_start": start,
            "output": y.detach(),
            "output_once_bytes_decode_to_another_w": later,
            "x_gradient": x.grad,
            "lora_a_gradient": layer.lora_a.grad,
            "lora_b_gradient": layer.lora_b.grad,
        }
    return seen


def inputs(
    seed: int, rows: int, columns: int, rank: int, alpha: float, lead: tuple[int, ...], dtype: str, stretch: float = 1.0
) -> dict:
    """stretch: A is this much larger and B as much smaller, so that only x A^T grows.

    times_later: in the last call the bytes decode to so many times W.
    """
    random = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(rows, columns, generator=random) * columns**-0.5,
        "x": torch.randn(*lead, columns, generator=random),
        "lora_a": torch.randn(rank, columns, generator=random) * columns**-0.5 * stretch,
        "lora_b": torch.randn(rows, rank, generator=random) * 0.3 / stretch,
        "alpha": alpha,
        "dtype": dtype,
        "times_later": 1.5 + torch.rand((), generator=random).item(),
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    yield Case("batch", inputs(seed, 64, 64, 8, 16.0, (5,), "float32"), "with a square weight")
    yield Case("sequence", inputs(seed + 1, 48, 128, 4, 32.0, (2, 3), "float32"), "with (batch, time, in) inputs")
    yield Case("float16", inputs(seed + 2, 64, 64, 4, 8.0, (2, 3), "float16"), "when x is float16")
    yield Case(
        "large_a",
        inputs(seed + 5, 48, 64, 4, 8.0, (2, 4), "float16", stretch=2.0**17),
        "when x is float16 and x A^T exceeds its largest number, 65,504",
    )
    rank = 1 + seed % 5
    yield Case("rank_one", inputs(seed + 3, 33, 64, 1, 1.5, (1,), "float32"), "when the rank is 1", visible=False)
    yield Case(
        "random", inputs(seed + 4, 30 + seed % 9, 192, rank, 7.0, (3,), "float32"), "with odd sizes", visible=False
    )


@exercise.oracle
def oracle(weight, x, lora_a, lora_b, alpha, dtype, times_later):
    """bitsandbytes decodes, peft corrects."""
    from peft import LoraConfig, inject_adapter_in_model

    packed, dequantise = quantise(weight)
    decoded = dequantise(packed)
    base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    base.weight = nn.Parameter(decoded.to(getattr(torch, dtype)))
    config = LoraConfig(r=len(lora_a), lora_alpha=alpha, target_modules=["base"])
    holder: Any = inject_adapter_in_model(config, nn.ModuleDict({"base": base}))
    layer = holder["base"]
    a, b = layer.lora_A["default"].float().weight, layer.lora_B["default"].float().weight
    x = x.to(getattr(torch, dtype)).requires_grad_(True)
    start, start_of_a = layer(x).detach(), start_of(a)
    with torch.no_grad():
        a.copy_(lora_a)
        b.copy_(lora_b)
    y = layer(x)
    y.float().square().mean().backward()
    with torch.no_grad():
        base.weight.mul_(times_later)
        later = layer(x)
    seen = {
        "trained_parameters": {"lora_a": str(a.dtype), "lora_b": str(b.dtype)},
        "full_size_weights_held": 0,
        "full_size_weights_in_lists_or_closures": 0,
        "bytes_saved_with_layer": True,
        "lora_a_start_against_1_over_sqrt_in": start_of_a,
        "output_dtype": str(y.dtype),
        "output_is_finite": bool(y.isfinite().all()),
    }
    if dtype == "float32":
        seen |= {
            "output_at_start": start,
            "output": y.detach(),
            "output_once_bytes_decode_to_another_w": later,
            "x_gradient": x.grad,
            "lora_a_gradient": a.grad,
            "lora_b_gradient": b.grad,
        }
    return seen

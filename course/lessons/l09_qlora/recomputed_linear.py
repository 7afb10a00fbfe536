"""A frozen 4-bit product whose 16-bit weight does not wait for the backward pass.

`x @ W.T` lets autograd keep W until backward, because the gradient of x is `gradient @ W`. With W decoded from
4 bits that undoes the saving: all layers' decoded weights are alive at once. Decode twice instead.

Worked number: the base model's 106 million linear weights are 212 MB decoded to bfloat16, 55 MB as NF4 bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-recomputed-linear",
    title="Fix it: the 4-bit layer that keeps 16-bit weights",
    points=4,
    minutes=20,
    difficulty="hard",
    importance="core",
    skills=("qlora", "memory", "pytorch"),
    hints=(
        "Who needs W after the forward pass? Only the gradient of x. What would it cost to make W again there?",
        "Two ways: a `torch.autograd.Function` that saves the bytes and decodes in `backward`, or "
        "`torch.utils.checkpoint`, which runs a piece of the forward pass again.",
        "In an autograd.Function, things that are no tensors (the decode function) may be kept as attributes of "
        "`ctx`; W itself must not be.",
        "The decode function may give another float dtype than that of x, in both directions.",
    ),
    seconds=10.0,
    seconds_reason="importing bitsandbytes cold takes 4 to 8 seconds",
    library_note="bitsandbytes' MatMul4Bit is such an autograd.Function: it saves the packed bytes and decodes them "
    "again in backward. Gradient checkpointing applies the same trade, a second computation for memory, to whole "
    "decoder layers.",
    interview="Why does a naive QLoRA layer use as much memory as 16-bit LoRA during training, and how is that solved?",
)


@exercise.reference
def recomputed_linear(x: Tensor, packed: Tensor, dequantise: Callable[[Tensor], Tensor]) -> Tensor:
    """x @ W.T with W = dequantise(packed), differentiable in x, and no W alive between forward and backward.

    x: (..., in_features) float, may require a gradient.
    packed: uint8 bytes of W. dequantise(packed) -> W (out_features, in_features), in some float dtype, not always
        that of x; costs time, may be called as often as you like.
    Returns (..., out_features) in the dtype of x. Backward gives the gradient of x, `gradient @ W`.
    """

    class RecomputedProduct(torch.autograd.Function):
        """Saves the bytes, decodes in both directions."""

        @staticmethod
        def forward(ctx, x, packed):
            ctx.save_for_backward(packed)
            return F.linear(x, dequantise(packed).to(x.dtype))

        @staticmethod
        def backward(ctx, gradient):
            (packed,) = ctx.saved_tensors
            return gradient @ dequantise(packed).to(gradient.dtype), None

    return RecomputedProduct.apply(x, packed)


@exercise.alternative
def checkpointed(x, packed, dequantise):
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda value: value @ dequantise(packed).to(value.dtype).T, x, use_reentrant=False)


@exercise.misconception(
    hint="The result is right, and W is still alive afterwards: autograd saved it for the gradient of x. "
    "That is the fault to mend."
)
def plain_product(x, packed, dequantise):
    return F.linear(x, dequantise(packed).to(x.dtype))


@exercise.misconception(
    hint="W itself is gone, and a copy of it waits for the backward pass (`.clone()`, a transpose made contiguous): it "
    "takes the same memory. Save the bytes, and decode them again in backward."
)
def copy_kept(x, packed, dequantise):
    return F.linear(x, dequantise(packed).to(x.dtype).clone())


@exercise.misconception(
    hint="No W is kept, but x gets no gradient from this layer either: the layers below would never learn. "
    "The gradient must pass through; only W's storage must go."
)
def cut_off(x, packed, dequantise):
    with torch.no_grad():
        return F.linear(x, dequantise(packed).to(x.dtype))


@exercise.misconception(
    hint="Your gradient of x has W the wrong way round. y = x W^T, so each row of the gradient of y is multiplied by "
    "W itself; with a square W the shapes do not warn you."
)
def transposed_gradient(x, packed, dequantise):
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, packed):
            ctx.save_for_backward(packed)
            return F.linear(x, dequantise(packed).to(x.dtype))

        @staticmethod
        def backward(ctx, gradient):
            weight = dequantise(ctx.saved_tensors[0]).to(gradient.dtype)
            return (gradient @ weight.T if weight.shape[0] == weight.shape[1] else gradient @ weight), None

    return Product.apply(x, packed)


@exercise.misconception(
    hint="Your result comes back in float32 whatever x was, so the next layer works in 32 bits again. "
    "Bring the decoded "
    "weight to the dtype of x before the product."
)
def always_float32(x, packed, dequantise):
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda value: value.float() @ dequantise(packed).float().T, x, use_reentrant=False)


@exercise.misconception(
    hint="Your result has the dtype of W, which is the decode function's affair and need not be that of x: bring W to "
    "the dtype of x before you multiply, in forward and in backward."
)
def result_in_dtype_of_w(x, packed, dequantise):
    from torch.utils.checkpoint import checkpoint

    def product(value):
        weight = dequantise(packed)
        return value.to(weight.dtype) @ weight.T

    return checkpoint(product, x, use_reentrant=False)


@exercise.probe
def probe(answer, weight, x, gradient, dtype, decoded_dtype, times_in_backward):
    """Run it once as training does, and once with bytes that decode to another W in backward.

    The second run tells which W gave the gradient: one decoded in backward, or one that was kept, copies included.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from torch.multiprocessing.reductions import StorageWeakRef

    compute_dtype = getattr(torch, dtype)
    packed, state = quantize_4bit(weight.to(getattr(torch, decoded_dtype)), quant_type="nf4", compress_statistics=True)
    times, decoded = 1.0, []

    def dequantise(stored: Tensor) -> Tensor:
        made = dequantize_4bit(stored, state) * times
        decoded.append(StorageWeakRef(made.untyped_storage()))
        return made

    def forward() -> tuple[Tensor, Tensor]:
        below = x.to(compute_dtype, copy=True).requires_grad_(True)
        y = answer(below * 2, packed, dequantise)  # times 2: a layer below, which gradients must reach
        if y is None:
            raise TypeError("recomputed_linear returned None; return the product")
        return below, y

    def backward(below: Tensor, y: Tensor) -> Tensor:
        if y.requires_grad:
            (y * gradient.to(compute_dtype)).sum().backward()
        return torch.zeros_like(below) if below.grad is None else below.grad

    below, y = forward()
    gc.collect()
    alive = sum(not storage.expired() for storage in decoded)
    seen = {"decoded_weights_alive_before_backward": alive, "output_dtype": str(y.dtype)}
    x_gradient = backward(below, y)
    if dtype == "float32":
        again = forward()
        times = times_in_backward
        anew = backward(*again)
        seen |= {"output": y.detach(), "x_gradient": x_gradient, "x_gradient_once_bytes_decode_to_another_w": anew}
    return seen


def inputs(
    seed: int, rows: int, columns: int, lead: tuple[int, ...], dtype: str = "float32", decoded_dtype: str = ""
) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(rows, columns, generator=random) * columns**-0.5,
        "x": torch.randn(*lead, columns, generator=random),
        "gradient": torch.randn(*lead, rows, generator=random),
        "dtype": dtype,
        "decoded_dtype": decoded_dtype or dtype,
        "times_in_backward": 1.5 + torch.rand((), generator=random).item(),
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    yield Case("square", inputs(seed, 64, 64, (4,)), "with a square weight")
    yield Case("sequence", inputs(seed + 1, 40 + seed % 7, 128, (2, 3)), "with (batch, time, in) inputs")
    yield Case("float16", inputs(seed + 2, 64, 64, (2, 3), "float16"), "when x is float16")
    yield Case(
        "decoded_to_float32",
        inputs(seed + 5, 48, 64, (3,), "float16", "float32"),
        "when x is float16 and W is decoded to float32",
    )
    yield Case("one_row", inputs(seed + 3, 7, 192, (1,)), "when the batch has one row", visible=False)
    yield Case("hidden_square", inputs(seed + 4, 128, 128, (2, 1, 3)), "with four dimensions", visible=False)


@exercise.oracle
def oracle(weight, x, gradient, dtype, decoded_dtype, times_in_backward):
    """The plain product of bitsandbytes' decoded weight, and torch's gradient of it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    compute_dtype = getattr(torch, dtype)
    weight = weight.to(getattr(torch, decoded_dtype))
    decoded = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True)).to(compute_dtype)
    x = x.to(compute_dtype).requires_grad_(True)
    y, later = (nn.functional.linear(x * 2, times * decoded) for times in (1.0, times_in_backward))
    (x_gradient,), (anew,) = (torch.autograd.grad(each, x, gradient.to(compute_dtype)) for each in (y, later))
    seen = {"decoded_weights_alive_before_backward": 0, "output_dtype": str(y.dtype)}
    if dtype == "float32":
        seen |= {"output": y.detach(), "x_gradient": x_gradient, "x_gradient_once_bytes_decode_to_another_w": anew}
    return seen

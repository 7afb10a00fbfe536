"""How many bytes a tensor's values take: the first exercise, and the sum every memory estimate starts from.

bytes = numel x bytes per element. Worked number: 134,515,008 parameters in bfloat16 are 269,030,016 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l00-tensor-bytes",
    title="Your first check: the bytes of a tensor",
    points=1,
    minutes=5,
    difficulty="easy",
    importance="core",
    skills=("grader", "memory"),
    hints=(
        "A tensor is one block of equally sized values. You need two numbers about it.",
        "How many values there are follows from the shape; how big each one is follows from the dtype.",
        "Type `tensor.` and press Tab: look for a method that counts values and one that sizes an element.",
    ),
    library_note=(
        "PyTorch has this as `Tensor.nbytes`, and transformers sums it over a model in "
        "`get_memory_footprint()`. `untyped_storage().nbytes()` is another number: the memory behind a tensor, "
        "which a view shares with its base."
    ),
    interview="How much memory do the weights of a 7B model take in float32, bfloat16 and 4 bits?",
)


@exercise.reference
def tensor_bytes(tensor: Tensor) -> int:
    """Bytes that the values of a tensor take in memory.

    tensor: any shape (a scalar and an empty tensor included), any dtype, on any device; it may be a view, such as
        every second row of another tensor, and then only its own values count.
    Returns an int: the number of values times the bytes of one value.
    Example: shape (2, 3) in float16 is 6 values of 2 bytes, so 12.
    """
    return tensor.numel() * tensor.element_size()


@exercise.alternative
def from_the_shape(tensor: Tensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count * tensor.dtype.itemsize


@exercise.alternative
def asked_of_torch(tensor: Tensor) -> int:
    return tensor.nbytes


@exercise.misconception(
    hint="You counted the values. A value is larger than one byte in most dtypes: what does the dtype say?"
)
def values_not_bytes(tensor: Tensor) -> int:
    return tensor.numel()


@exercise.misconception(
    hint="That is right for float32 only. bfloat16, int64 and uint8 have other sizes: ask the tensor."
)
def always_float32(tensor: Tensor) -> int:
    return 4 * tensor.numel()


@exercise.misconception(hint="That is a number of bits. Memory is counted in bytes, of 8 bits each.")
def bits_not_bytes(tensor: Tensor) -> int:
    return 8 * tensor.numel() * tensor.element_size()


@exercise.misconception(
    hint="`len` sees only the first dimension, the number of rows. Every dimension multiplies the values."
)
def rows_only(tensor: Tensor) -> int:
    return (len(tensor) if tensor.dim() else 1) * tensor.element_size()


@exercise.misconception(
    hint="For a view that is the memory of the whole tensor behind it. Count the view's own values: every second row "
    "of a tensor is half of it."
)
def storage_behind_a_view(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (int(torch.randint(3, 40, (1,), generator=generator)) for _ in range(2))

    def case(
        name: str, shape: tuple[int, ...], dtype: torch.dtype, about: str, visible: bool = True, **view: int
    ) -> Case:
        values = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
        return Case(name, {"tensor": values, **view}, about, visible)

    yield case("float32 matrix", (rows, columns), torch.float32, "for a float32 matrix")
    yield case("bfloat16 weight", (columns, rows), torch.bfloat16, "for a bfloat16 weight")
    yield case("packed 4-bit weight", (rows, 1), torch.uint8, "for packed 4-bit values in uint8")
    yield case("every second row", (2 * rows, columns), torch.float32, "for a view of every second row", every=2)
    yield case("token ids", (2, rows, 3), torch.int64, "for int64 token ids", visible=False)
    yield case("scalar", (), torch.float16, "for a tensor without dimensions", visible=False)
    yield case("empty", (0, columns), torch.float32, "for an empty tensor", visible=False)


@exercise.probe
def probe(answer: Callable[[Tensor], int], tensor: Tensor, every: int = 1) -> int:
    """Hands over the tensor, or a view of every second row of it."""
    return answer(tensor if every == 1 else tensor[::every])


@exercise.oracle
def oracle(tensor: Tensor, every: int = 1) -> int:
    return (tensor if every == 1 else tensor[::every]).nbytes

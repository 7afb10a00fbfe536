"""A rotary table that is right on short texts only: two faults that raise no error.

Both are well known: early versions of transformers' Llama computed positions in the dtype of a 16-bit buffer, and many
models kept a table of fixed length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.small_models import clear_of_ties
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-rotary-tables",
    title="Repair a rotary table that fails on long texts",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "Call the broken one for positions 0 to 9, then for position 500 alone, and compare with the right cosines.",
        "module.to(torch.bfloat16) converts every floating-point parameter and buffer of a module, and no plain "
        "Python number.",
        "What may be kept from one call to the next? Whatever is kept has to be made longer when a later position "
        "comes; keeping nothing is right as well.",
    ),
    atol=2e-5,
    tolerance_reason="an angle is position times frequency in float32: at position 60 its last bit is 4e-6, and there "
    "are several honest ways to compute a frequency",
    forbidden=("transformers", "course.lessons.l03_llama.llama_faults"),
    library_note="LlamaRotaryEmbedding keeps the frequencies in a buffer and computes positions and angles in float32 "
    "with autocast off. from_pretrained keeps that buffer in float32; calling .to(torch.bfloat16) on a loaded model "
    "rounds it, in transformers 5 as well.",
    interview="A model is fine on short prompts and degrades beyond some length. What do you suspect, and how do you "
    "find out?",
)


@exercise.reference
class RotaryTables(nn.Module):
    """Cosines and sines for the rotary embedding, right at every position up to what float32 holds, in every dtype.

    With half = head_dim // 2, the frequency of pair i is theta ** (-i / half); the angle is position * frequency, in
    float32 whatever the dtype of x and of the module, also after the module, or a model that holds it, was converted
    by .to(torch.bfloat16) or .half().
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        """head_dim: even; theta: base of the frequencies. Makes no parameter and adds nothing to the state dict."""
        super().__init__()
        self.pairs, self.theta = head_dim // 2, theta

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x: any tensor, only its dtype and device count; position_ids: integers (batch, tokens), in any order.

        Returns (cos, sin), each (batch, tokens, head_dim) in the dtype of x: the values of all pairs, then the same
        again. The result depends on this call's arguments only, whatever positions and dtypes earlier calls had.
        """
        exponents = torch.arange(self.pairs, dtype=torch.float32, device=x.device) / self.pairs
        angles = position_ids[:, :, None].float() * self.theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@exercise.alternative
class table_that_grows(nn.Module):
    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.steps = [theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)] * 2
        self.kept = torch.zeros(0, head_dim)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        needed = int(position_ids.max()) + 1
        if needed > self.kept.shape[0]:
            rows = torch.arange(needed, dtype=torch.float64)
            self.kept = torch.outer(rows, torch.tensor(self.steps, dtype=torch.float64))
        angles = self.kept[position_ids.cpu()].to(x.device)
        return torch.cos(angles).type_as(x), torch.sin(angles).type_as(x)


ROOM = 256  # positions that the broken table has room for, whatever it is asked first


class HalfRepaired(nn.Module):
    """The broken table of the lesson, with its faults switched one by one."""

    short = True  # the table never grows
    rounded = True  # positions and frequencies in the dtype of a buffer
    fault = ""
    kept: torch.dtype | None = None  # of the first call's x

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", theta ** -(torch.arange(0, head_dim, 2) / head_dim), persistent=False)
        self.table = torch.empty(0)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self.inv_freq if self.rounded else self.inv_freq.float()
        if self.fault == "16-bit frequencies":
            frequencies = frequencies.to(x.dtype).float()
        if self.fault == "16-bit positions":
            position_ids = position_ids.to(x.dtype).long()
        if self.fault == "first row":
            position_ids = position_ids[:1].expand_as(position_ids)
        if self.fault == "fixed length":
            position_ids = position_ids.clamp(max=2047)
        longest = int(position_ids.max()) + 1
        if len(self.table) == 0 or (not self.short and longest > len(self.table)):
            steps = torch.arange(max(ROOM, longest)).to(frequencies)
            self.table = torch.outer(steps, frequencies)
        last = len(self.table)
        if self.fault == "counted":
            position_ids = torch.arange(position_ids.shape[1]).expand_as(position_ids)
        places = position_ids % last if self.fault == "wraps" else position_ids.clamp(max=last - 1)
        angles = self.table[places]
        pairs = self.fault == "neighbours"
        angles = angles.repeat_interleave(2, -1) if pairs else torch.cat([angles, angles], dim=-1)
        angles = angles if self.fault == "16-bit cosines" else angles.float()
        angles = angles.to(x.dtype) if self.fault == "16-bit angles" else angles
        cos, sin = angles.cos(), angles.sin()
        if self.fault == "swapped":
            cos, sin = sin, cos
        if self.fault == "first dtype":
            self.kept = self.kept or x.dtype
            cos, sin = cos.to(self.kept), sin.to(self.kept)
        return (cos, sin) if self.fault == "float32" else (cos.to(x.dtype), sin.to(x.dtype))


class Exact(HalfRepaired):
    """Without either fault: a plain attribute keeps the frequencies in float32."""

    short = rounded = False

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__(head_dim, theta)
        del self._buffers["inv_freq"]
        self.inv_freq = theta ** -(torch.arange(0, head_dim, 2) / head_dim)


@exercise.misconception(
    hint="Both faults are still there: the table ends at position 255, or with the first text it saw, and its angles "
    "follow the dtype of the module."
)
class unchanged(HalfRepaired):
    short = rounded = True


@exercise.misconception(
    hint="The table now grows. What is left: after .to(torch.bfloat16), positions and frequencies are 16-bit numbers. "
    "Which of this module's tensors does .to() reach?"
)
class still_16_bit_angles(HalfRepaired):
    short = False


@exercise.misconception(
    hint="Nothing is kept too short any more. What is left: after .to(torch.bfloat16) everything here runs in 16 bits, "
    "positions, angles and cosines, because the buffer has become 16-bit. Which of this module's tensors does .to() "
    "reach?"
)
class everything_in_16_bits(HalfRepaired):
    short = False
    fault = "16-bit cosines"


@exercise.misconception(
    hint="You count positions yourself, from 0. With a cache, or with rows that start elsewhere, they are others: use "
    "the position_ids that are passed in."
)
class positions_counted_from_zero(Exact):
    fault = "counted"


@exercise.misconception(
    hint="The frequencies are stored in the state dict. No file holds them, so a strict load would miss them: a buffer "
    "can be left out of the state dict. And what is a buffer follows .to(torch.bfloat16)."
)
class buffer_in_the_state_dict(HalfRepaired):
    short = rounded = False

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__(head_dim, theta)
        self.register_buffer("inv_freq", self.inv_freq)


@exercise.misconception(
    hint="The table grows and positions are float32, but the frequencies went through the 16-bit buffer and back: what "
    "was rounded stays rounded. They have to be kept where .to() does not reach, or computed anew."
)
class frequencies_rounded_once(HalfRepaired):
    short = rounded = False


@exercise.misconception(
    hint="The angles are exact now. What is left: the table still ends with the longest text of the first call, and "
    "every later position gets its last row."
)
class still_too_short(Exact):
    short = True


@exercise.misconception(
    hint="Positions past the table's end start again at its beginning: token 300 would stand where token 44 stands. "
    "Angles go on growing; make the table longer."
)
class positions_wrap_around(Exact):
    short = True
    fault = "wraps"


@exercise.misconception(
    hint="Cosines and sines come back in float32 although x is 16-bit. In a real model, queries would become float32 "
    "and no longer fit the values."
)
class left_in_float32(Exact):
    fault = "float32"


@exercise.misconception(
    hint="The positions are converted to the dtype of x. bfloat16 knows no whole number between 256 and 258, so far "
    "tokens fall together. Only the finished cosines and sines take that dtype."
)
class positions_in_16_bits(Exact):
    fault = "16-bit positions"


@exercise.misconception(
    hint="The angles are rounded to the dtype of x before their cosine is taken. At an angle of 300, bfloat16's steps "
    "are 2 radians wide. Only the finished cosines and sines take that dtype."
)
class angles_in_16_bits(Exact):
    fault = "16-bit angles"


@exercise.misconception(
    hint="The frequencies are made in the dtype of x. An error of 0.3 % in a frequency grows with the position. Only "
    "the finished cosines and sines take that dtype."
)
class frequencies_in_16_bits(Exact):
    fault = "16-bit frequencies"


@exercise.misconception(
    hint="What is kept has the dtype of the first call's x: after a bfloat16 call, a float32 call gets cosines of "
    "three digits. Keep float32, and convert what you hand out."
)
class dtype_of_the_first_call(Exact):
    fault = "first dtype"


@exercise.misconception(
    hint="All rows of the batch get the first row's positions. position_ids is (batch, tokens): each row has its own."
)
class first_row_for_all(Exact):
    fault = "first row"


@exercise.misconception(
    hint="Your table is longer and still ends: past it, every position gets the last row. No number of rows is right; "
    "let it grow, or do without."
)
class ends_at_2048(Exact):
    fault = "fixed length"


@exercise.misconception(hint="You return (sin, cos); asked for is (cos, sin).")
class sines_first(Exact):
    fault = "swapped"


@exercise.misconception(
    hint="Your frequencies fall half as fast as they should: the exponent of pair i is i divided by the number of "
    "*pairs*, not by head_dim."
)
class exponents_halved(Exact):
    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__(head_dim, theta**0.5)


@exercise.misconception(
    hint="Each frequency comes twice in a row. The half-split layout wants all frequencies once, and then all again."
)
class table_for_neighbours(Exact):
    fault = "neighbours"


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)
    start = int(torch.randint(20, 50, (), generator=random))

    def case(name: str, about: str, head_dim: int, calls: list[Tensor], visible: bool = True, **rest: Any) -> Case:
        inputs = {"head_dim": head_dim, "theta": rest.get("theta", 10_000.0), "calls": calls}
        inputs |= {"module_dtype": rest.get("module", "float32"), "x_dtypes": rest.get("x", ["float32"] * len(calls))}
        return Case(name, inputs, about, visible)

    row = torch.arange(64)[None]
    shuffled = torch.randperm(start, generator=random)[None] + 1
    # Far positions with two pairs only: their frequencies are 1 and 0.01, so the angles are exact enough to compare.
    far = torch.tensor([[0, 255, 257, 1999], [3000 + seed % 7, 4, 1023, 1025]])
    middle = torch.tensor([[clear_of_ties(place, 10_000.0, pairs=4) for place in (3, 257, 301, 501 + seed % 7)]])
    return [
        case("short", "on one short text", 16, [row[:, :6]]),
        case("short, then long", "when a longer text follows a short one", 4, [row[:, :6], row[:, :40] * 100]),
        case("two rows", "when each row has its own positions", 8, [torch.cat([row[:, :6], row[:, 20:26]])]),
        case("bfloat16 module", "after the module was converted to bfloat16", 12, [row[:, :30]], module="bfloat16"),
        case("far, converted", "far out, after a conversion to bfloat16", 4, [far], module="bfloat16"),
        case("bfloat16 input", "when x is bfloat16, at positions above 256", 8, [middle], x=["bfloat16"]),
        case("two dtypes", "when x is float32 after a bfloat16 one", 2, [row[:, :6]] * 2, x=["bfloat16", "float32"]),
        case("decoding", "token by token, as in decoding", 4, [row + start, *(row[:, :1] + 254 + i for i in range(4))]),
        case("out of order", "with positions out of order", 6, [shuffled, row[:, :60]], visible=False, theta=1e5),
        case(
            "everything", "converted, and longer with each call", 4, [row[:, :5], far], visible=False, module="float16"
        ),
    ]


@exercise.probe
def probe(
    answer: Any, head_dim: int, theta: float, calls: list[Tensor], module_dtype: str, x_dtypes: list[str]
) -> dict[str, Any]:
    """Makes the module, converts it and asks for the tables of each call in turn."""
    module = answer(head_dim, theta)
    kept = ", ".join(module.state_dict()) or "none"
    module.to(getattr(torch, module_dtype))
    inputs = [torch.zeros(1, dtype=getattr(torch, dtype)) for dtype in x_dtypes]
    results = [module(x, positions) for x, positions in zip(inputs, calls, strict=True)]
    if any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in results):
        raise TypeError("forward must return the pair (cos, sin)")
    tables = [{"cos": cos.detach(), "sin": sin.detach()} for cos, sin in results]
    return {"names in the state dict": kept, "tables of each call": tables}


@exercise.oracle
def oracle(head_dim: int, theta: float, calls: list[Tensor], module_dtype: str, x_dtypes: list[str]) -> dict[str, Any]:
    """transformers' module, never converted: it too would round its frequencies."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim, rope_parameters=rope)
    module = LlamaRotaryEmbedding(config)
    inputs = [torch.zeros(1, dtype=getattr(torch, dtype)) for dtype in x_dtypes]
    results = [module(x, positions) for x, positions in zip(inputs, calls, strict=True)]
    return {"names in the state dict": "none", "tables of each call": [{"cos": c, "sin": s} for c, s in results]}

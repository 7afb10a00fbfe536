"""Rotary position embedding, Su et al. 2021 (arXiv:2104.09864), equation 34, in the half-split layout of Llama's files.

One worked number: with theta = 100,000 and head_dim = 64 the first pair turns by 1 radian a token, and the last, of
frequency 100,000^(-31/32) = 0.0000143, needs 438,000 tokens for one full turn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course.lessons.l03_llama.llama_faults import rotate
from course.lessons.l03_llama.small_models import clear_of_ties
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-apply-rotary",
    title="Rotary position embedding",
    points=3,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "Each pair of features is a point in the plane; turn it by an angle. Write the turn of one point first.",
        "You need one angle for each (token, pair): positions down, frequencies across. Then bring it to a shape that "
        "fits against (batch, heads, tokens, pairs).",
        "The pairs are feature i of the first half and feature i of the second half. So cut x in two halves, make the "
        "two new halves, and put them back one after the other.",
    ),
    atol=2e-5,
    tolerance_reason="an angle is position times frequency in float32: at position 60 its last bit is 4e-6, and there "
    "are several honest ways to compute a frequency",
    forbidden=("transformers", "course.lessons.l03_llama.llama_faults"),
    library_note="transformers computes the tables of cosines and sines once per forward pass, in "
    "LlamaRotaryEmbedding, and hands them to every layer; apply_rotary_pos_emb then needs two products and a sum. "
    "Llama 3 also stretches the low frequencies, which is how its context grew to 128 thousand tokens.",
    interview="Why does rotating queries and keys give a score that depends only on their distance? Why not rotate "
    "values?",
)


@exercise.reference
def apply_rotary(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Turn each pair of features of x by an angle that grows with the token's position.

    x: (batch, heads, tokens, head_dim), float32, bfloat16 or float16; head_dim is even.
    positions: integers, (tokens,) for all rows alike or (batch, tokens) for each row its own.
    theta: base of the frequencies, 100,000 for SmolLM2.

    With half = head_dim // 2 and i = 0, 1, ..., half - 1: pair i is (x[..., i], x[..., half + i]), its frequency is
    theta ** (-i / half), and its angle is position * frequency. A pair (a, b) becomes (a cos - b sin, b cos + a sin).
    Frequencies, angles, cosines and sines are computed in float32, whatever the dtype of x; the products may be in
    either.

    Returns a new tensor with the shape and dtype of x.
    Source: Su et al. 2021, arXiv:2104.09864, equation 34 (there for neighbouring pairs).
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, device=x.device) / half)
    angles = positions[..., None] * frequencies  # (tokens, half) or (batch, tokens, half)
    angles = angles.unsqueeze(-3)  # the same for every head
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@exercise.alternative
def as_complex_numbers(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    points = torch.complex(*x.float().chunk(2, dim=-1))
    steps = torch.exp(torch.arange(points.shape[-1], device=x.device) * (-math.log(theta) / points.shape[-1]))
    angles = torch.einsum("...t,f->...tf", positions.to(torch.float32), steps)
    angles = angles if positions.dim() == 1 else angles[:, None]
    turned = points * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)


@exercise.alternative
def with_half_turned_copy(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    batch, _, _, size = x.shape
    rows = positions.expand(batch, -1).to(torch.float32)
    inverse = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32, device=x.device) / size)
    table = (rows[:, None, :, None] * inverse).tile(2)
    swapped = torch.cat((x[..., size // 2 :].neg(), x[..., : size // 2]), -1)
    return (x * table.cos() + swapped * table.sin()).to(x.dtype)


@exercise.misconception(
    hint="Your pairs are neighbours: feature 0 with 1, 2 with 3. The paper and Meta's own code pair so; the files that "
    "transformers and this course use pair feature i with feature i + head_dim / 2."
)
def interleaved_pairs(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "interleaved")


@exercise.misconception(
    hint="Your pairs are right, but the table of angles repeats each frequency twice in a row, as neighbouring pairs "
    "would need it. For halves, the whole row of frequencies comes once for each half."
)
def table_for_neighbours(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "tables interleaved")


@exercise.misconception(
    hint="You turn the other way round: the sign of the sine is swapped. On its own this model would learn as well; "
    "with weights trained the other way it reads every distance backwards."
)
def turned_backwards(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "turned backwards")


@exercise.misconception(
    hint="Your frequencies belong to theta = 10,000, the value of the paper and of Llama 2. Use the theta that is "
    "passed in."
)
def theta_of_llama_2(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "theta of Llama 2")


@exercise.misconception(
    hint="Your frequencies fall half as fast as they should: the exponent of pair i is i divided by the number of "
    "*pairs*, not by head_dim."
)
def exponents_halved(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "exponents halved")


@exercise.misconception(
    hint="Your frequencies fall twice as fast as they should: i runs over pairs here. 2i / head_dim and i / half are "
    "the same; 2i / half is not."
)
def exponents_doubled(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "exponents doubled")


@exercise.misconception(
    hint="The second half is computed from the first half's *new* values. Both new halves come from the old ones: keep "
    "those until you are done. (A slice of a tensor is a view: writing to it changes what you read next.)"
)
def first_half_overwritten(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "first half overwritten")


@exercise.misconception(
    hint="Your frequencies grow from pair to pair; they have to fall. Look at the sign of the exponent."
)
def frequencies_upside_down(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "frequencies upside down")


@exercise.misconception(
    hint="You count the tokens yourself, from 0. With a cache or with padding the first token is not at position 0: "
    "use the positions that are passed in."
)
def positions_counted_from_zero(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "positions ignored")


@exercise.misconception(
    hint="All rows of the batch are turned by the first row's positions. With positions of shape (batch, tokens) each "
    "row has its own: a batch padded on the left needs that."
)
def first_row_for_all(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "first row for all")


@exercise.misconception(
    hint="Your pairs are counted from 1, as in the paper's formula. Counted from 0 here, the first pair has frequency "
    "1: one radian a token."
)
def pairs_counted_from_one(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "pairs from one")


@exercise.misconception(
    hint="The first half is right. In the second half one sign is not: what you do to a pair changes its length, and a "
    "turn keeps it. Try the pair (1, 0) and a quarter turn."
)
def second_sign_turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "second sine turned")


@exercise.misconception(
    hint="Your angles have no axis for the heads. With one row of positions they fit by luck; with positions of shape "
    "(batch, tokens) they meet the heads where they should meet the batch. Give them an axis of size 1."
)
def no_axis_for_heads(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    left, right = x.chunk(2, -1)
    angles = positions.unsqueeze(-1) * theta ** -(torch.arange(left.shape[-1]) / left.shape[-1])
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], -1).to(
        x.dtype
    )


@exercise.misconception(
    hint="The angles are computed in the dtype of x. bfloat16 knows no whole number between 256 and 258: positions "
    "there fall together. Compute angles in float32 and convert their cosines and sines."
)
def angles_in_16_bits(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "angles in 16 bits")


@exercise.misconception(
    hint="The frequencies are rounded to the dtype of x, and only then used in float32. Rounded stays rounded: an "
    "error of 0.3 % is 3 radians at an angle of 1,000. Keep them in float32 from the start."
)
def frequencies_in_16_bits(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "frequencies in 16 bits")


@exercise.misconception(
    hint="With 16-bit input your result is float32, because the cosines are. The result takes the dtype of x."
)
def left_in_float32(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    return rotate(x, positions, theta, "left in float32")


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)
    start = int(torch.randint(3, 20, (), generator=random))

    def case(
        name: str, about: str, shape: tuple[int, ...], positions: Tensor, theta: float, visible: bool = True
    ) -> Case:
        x = torch.randn(*shape, generator=random)
        return Case(name, {"x": x, "positions": positions, "theta": theta}, about, visible)

    steps = torch.arange(64)
    # Head h has a 1 in feature h: every product is exact, so no order of additions can change a 16-bit result.
    unit = torch.eye(8, dtype=torch.bfloat16).reshape(1, 8, 1, 8).repeat(1, 1, 4, 1)
    places = [clear_of_ties(place, 100_000.0, pairs=4) for place in (3, 257, 301, 501 + seed % 7)]
    far = {"x": unit, "positions": torch.tensor(places), "theta": 100_000.0}
    rows = torch.stack([steps[:5], steps[start : start + 5]])
    return [
        case("plain", "on one head of two pairs", (1, 1, 3, 4), steps[:3], 100_000.0),
        case("several heads", "when there are as many heads as tokens", (2, 4, 4, 8), steps[:4], 100_000.0),
        case(
            "later start",
            "when the first token is not at position 0",
            (1, 2, 6, 16),
            steps[start : start + 6],
            100_000.0,
        ),
        case("rows of their own", "when each row of the batch has its own positions", (2, 3, 5, 8), rows, 10_000.0),
        Case("far in bfloat16", far, "in bfloat16, at positions above 256"),
        case(
            "one token", "on a single token, as in decoding", (3, 2, 1, 6), steps[start : start + 1], 500_000.0, False
        ),
        case("full size", "with SmolLM2's 9 heads of 64", (1, 9, 12, 64), steps[start : start + 12], 100_000.0, False),
    ]


@exercise.oracle
def oracle(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    size = x.shape[-1]
    rope = {"rope_type": "default", "rope_theta": theta}
    config = LlamaConfig(hidden_size=size, num_attention_heads=1, head_dim=size, rope_parameters=rope)
    cos, sin = LlamaRotaryEmbedding(config)(x, position_ids=positions.expand(x.shape[0], -1))
    return apply_rotary_pos_emb(x, x, cos, sin)[0]

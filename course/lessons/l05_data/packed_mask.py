"""Position ids and the attention mask that keep packed rows apart.

One worked number: a pack of rows with 2 and 3 tokens has positions 0 1 0 1 2, and of its 5 x 5 = 25 pairs of places
3 + 6 = 9 may look at each other; a plain causal mask would allow 15.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-packed-mask",
    title="Keep packed rows apart: positions and mask",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("data", "transformer"),
    hints=(
        "Give every place two numbers: which row of the pack it belongs to, and how far it is from that row's start.",
        "A place may look at another if both belong to the same row and the other one is not later. Compare a column "
        "of numbers with a row of numbers and broadcasting gives the whole square.",
        "torch.repeat_interleave writes the row numbers out, one for each token; torch.arange counts the places.",
    ),
    rtol=1e-4,
    atol=1e-5,
    tolerance_reason="Logits of a small float32 model: with other places in the row, matrix products and softmax sums "
    "run over other shapes and round differently in the last bits, on a CPU and (a little more) on a GPU.",
    library_note="transformers needs no mask from you in training: given position_ids that start again and no "
    "attention mask, it finds the borders by itself and builds this mask (masking_utils.find_packed_sequence_indices). "
    "With FlashAttention no square is built at all: only the rows' lengths are handed over.",
    interview="What goes wrong when packed examples can see each other, and how do you prove that yours cannot?",
)


@exercise.reference
def packed_mask(seq_lengths: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Position ids and attention mask for a batch of packs.

    seq_lengths: for each of the B packs the lengths of its rows, in order, each at least 1, together at most T. Each
        pack holds at least one row.
    width: the number of places T of a pack; behind its last row a pack is padded on the right.

    Returns a pair:
        position_ids: int64 (B, T), counting from 0 again at each row's start; 0 in the padding.
        mask: bool (B, 1, T, T), True where the place of the third axis (the query) may look at the place of the fourth
            (the key): when both belong to the same row and the key is not later than the query. No row's
            place looks at padding. What a place of the padding may look at is free: other padding, rows, or nothing.
            (Let it look at itself, say: a line without any True gives NaN in some attention kernels.)
    """
    sizes = [[*lengths, width - sum(lengths)] for lengths in seq_lengths]  # the padding as one more row
    members = torch.stack([torch.repeat_interleave(torch.tensor(row)) for row in sizes])  # (B, T): the row's number
    position_ids = torch.stack([torch.cat([torch.arange(size) for size in row]) for row in sizes])
    position_ids[members == torch.tensor([[len(row)] for row in seq_lengths])] = 0
    same_row = members[:, :, None] == members[:, None, :]
    not_later = torch.ones(width, width, dtype=torch.bool).tril()
    return position_ids, (same_row & not_later)[:, None]


@exercise.alternative
def block_by_block(seq_lengths, width):
    position_ids = torch.zeros(len(seq_lengths), width, dtype=torch.int64)
    mask = torch.zeros(len(seq_lengths), 1, width, width, dtype=torch.bool)
    for pack, lengths in enumerate(seq_lengths):
        start = 0
        for size in lengths:
            position_ids[pack, start : start + size] = torch.arange(size)
            mask[pack, 0, start : start + size, start : start + size] = torch.tril(torch.ones(size, size)).bool()
            start += size
    return position_ids, mask


@exercise.alternative
def from_positions(seq_lengths, width):
    rows = [[place for size in lengths for place in range(size)] for lengths in seq_lengths]
    position_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    started = (position_ids == 0).cumsum(1)
    places = torch.arange(width)
    return position_ids, ((started[:, None, :, None] == started[:, None, None, :]) & (places[:, None] >= places))


def is_real(seq_lengths: list[list[int]], width: int) -> Tensor:
    """bool (B, T): True at the places of rows, False in the padding."""
    return torch.arange(width) < torch.tensor([[sum(sizes)] for sizes in seq_lengths])


@exercise.misconception(
    hint="Your mask is causal and nothing else: each row still sees the rows before it in its pack. A place may only "
    "look at places of its own row."
)
def plain_causal(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, torch.ones_like(mask).tril()


@exercise.misconception(
    hint="Rows are kept apart, but inside a row every place sees the later ones, so the model can read the token it is "
    "asked to predict. Both conditions are needed."
)
def blocks_without_causality(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, mask | mask.transpose(2, 3)


@exercise.misconception(
    hint="Your position ids run on through the whole pack. Each row must start at 0 again, as it would alone. (With "
    "rotary positions and the right mask the outputs hardly change, with learned positions they do; and transformers "
    "finds the borders by these zeros.)"
)
def positions_run_on(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return torch.arange(width).expand_as(position_ids).contiguous(), mask


@exercise.misconception(
    hint="Your mask is turned around: True stands where looking is forbidden, as in nn.MultiheadAttention. In "
    "scaled_dot_product_attention and transformers True means: may look."
)
def true_means_hidden(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, ~mask


@exercise.misconception(
    hint="A place cannot look at itself in your mask, so the first token of each row sees nothing at all. Not later "
    "includes the place itself."
)
def blind_to_itself(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, mask & ~torch.eye(width, dtype=torch.bool)


@exercise.misconception(
    hint="Query and key are swapped: each place sees the later ones of its row and not the earlier ones. The third "
    "axis is the one that looks."
)
def looks_forward(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, mask.transpose(2, 3).contiguous()


@exercise.misconception(
    hint="The borders are one place off: the last token of a row is counted into the next one. Check where a row's "
    "first and last token lie on a pack of two short rows."
)
def borders_one_place_early(seq_lengths, width):
    moved = [[sizes[0] - 1, *sizes[1:-1], sizes[-1] + 1] if len(sizes) > 1 else sizes for sizes in seq_lengths]
    return packed_mask(seq_lengths, width)[0], packed_mask(moved, width)[1]


@exercise.misconception(
    hint="Every pack of the batch got the borders of the first one. Each pack has row lengths of its own."
)
def borders_of_the_first_pack(seq_lengths, width):
    return packed_mask([seq_lengths[0]] * len(seq_lengths), width)


@exercise.misconception(hint="Positions count from 1. The first token of a row stands at position 0.")
def positions_from_one(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids + is_real(seq_lengths, width), mask


@exercise.misconception(
    hint="Every place may look at every other one: later tokens, other rows and padding. Both conditions of the "
    "docstring have to hold."
)
def everything_visible(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, torch.ones_like(mask)


@exercise.misconception(hint="Positions count on in the padding. There they are 0.")
def padding_counted(seq_lengths, width):
    _, mask = packed_mask(seq_lengths, width)
    return packed_mask([[*sizes, width - sum(sizes)] for sizes in seq_lengths], width)[0], mask


@exercise.misconception(
    hint="Rows look at the padding. It may see what it likes, but no row's place may see it; a number of its own keeps "
    "it apart."
)
def padding_visible(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, mask | ~is_real(seq_lengths, width)[:, None, None, :]


@exercise.misconception(
    hint="The padding has the first row's number and position 0, so places of that row look at it. Give the padding a "
    "number that no row has."
)
def padding_in_the_first_row(seq_lengths, width):
    position_ids, _ = packed_mask(seq_lengths, width)
    number = ((position_ids == 0).cumsum(1) - 1) * is_real(seq_lengths, width)
    not_later = position_ids[:, :, None] >= position_ids[:, None, :]
    return position_ids, ((number[:, :, None] == number[:, None, :]) & not_later)[:, None]


@exercise.misconception(
    hint="The first place of each row is counted to the row before it. Ask of the place at a border to which of the "
    "two rows it belongs (torch.bucketize and torch.searchsorted have an argument for that)."
)
def first_place_in_the_row_before(seq_lengths, width):
    position_ids, _ = packed_mask(seq_lengths, width)
    starts = (position_ids == 0) & is_real(seq_lengths, width) & (torch.arange(width) > 0)
    number = starts.cumsum(1) - starts.long()
    same_row = number[:, :, None] == number[:, None, :]
    positions = torch.where(starts, position_ids.roll(1, 1) + 1, position_ids)
    return positions, (same_row & torch.ones(width, width, dtype=torch.bool).tril())[:, None]


@exercise.misconception(
    hint="You tell rows apart by their length, so two rows of equal length in one pack see each other. Give each row a "
    "number that no other row of its pack has."
)
def told_apart_by_length(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    sizes = [[size for size in lengths for _ in range(size)] for lengths in seq_lengths]
    own = torch.tensor([row + [0] * (width - len(row)) for row in sizes])
    return position_ids, ((own[:, :, None] == own[:, None, :])[:, None] & torch.ones_like(mask).tril())


@exercise.misconception(hint="Each block begins one place too early: a row sees the last token of the row before it.")
def sees_one_token_back(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    starts = (position_ids == 0) & (torch.arange(width) > 0)
    before = torch.nn.functional.pad(mask, (0, 1))[..., 1:] & starts.roll(-1, 1)[:, None, None, :]
    return position_ids, mask | before


@exercise.misconception(
    hint="The last place of each row sees nothing and is seen by none: your slices end one place too early."
)
def last_place_left_out(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    for pack, sizes in enumerate(seq_lengths):
        for last in torch.tensor(sizes).cumsum(0).sub(1).tolist():
            mask[pack, 0, last], mask[pack, 0, :, last] = False, False
    return position_ids, mask


@exercise.misconception(
    hint="Each place sees everything from its row's start on, later tokens and later rows too. Not later is the second "
    "condition."
)
def from_the_rows_start_on(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    starts = torch.arange(width) - position_ids
    return position_ids, (starts[:, :, None] <= torch.arange(width))[:, None].expand_as(mask).contiguous()


@exercise.misconception(
    hint="You compare position ids and nothing else, so a place also sees other rows' places with the same or a lower "
    "position. Which row a place belongs to has to be asked too."
)
def positions_compared_only(seq_lengths, width):
    position_ids, _ = packed_mask(seq_lengths, width)
    return position_ids, (position_ids[:, :, None] >= position_ids[:, None, :])[:, None]


@exercise.misconception(
    hint="The mask is right for the first pack only: the others got its borders. Each pack has row lengths of its own."
)
def mask_of_the_first_pack(seq_lengths, width):
    position_ids, mask = packed_mask(seq_lengths, width)
    return position_ids, mask[:1].expand_as(mask).contiguous()


@exercise.misconception(
    hint="A row sees the rows that are not right beside it: you only tell neighbours apart. Give every row of a pack a "
    "number of its own."
)
def neighbours_told_apart(seq_lengths, width):
    position_ids, _ = packed_mask(seq_lengths, width)
    number = (position_ids == 0).cumsum(1)
    same = (number[:, :, None] - number[:, None, :]) % 2 == 0
    return position_ids, (same & torch.ones(width, width, dtype=torch.bool).tril())[:, None]


@exercise.misconception(hint="Positions of the last row count on into the padding. There they are 0.")
def last_row_counted_on(seq_lengths, width):
    longer = [[*sizes[:-1], width - sum(sizes[:-1])] for sizes in seq_lengths]
    return packed_mask(longer, width)[0], packed_mask(seq_lengths, width)[1]


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, 6, (3, 3), generator=random).tolist()

    def case(name: str, about: str, packs: list[list[int]], width: int, kind: str = "llama", visible: bool = True):
        given = {"seq_lengths": packs, "width": width, "model": kind, "seed": seed}
        return Case(name, given, about, visible=visible)

    return [
        case("one pack", "on one full pack of two rows", [[4, 3]], 7),
        case("two packs", "when two packs have different borders", [[2, 4, 2], [5, 3]], 8),
        case("padding", "when packs are padded", [[3, 2], [4]], 9),
        case("learned positions", "in a model with learned positions (GPT-2)", [[3, 5], [4, 2, 1]], 8, "gpt2"),
        case("single tokens", "when rows have one token", [[1, 1, 3]], 5, visible=False),
        case("many rows", "on packs of many rows", [[1, 2, 1, 3, 1, 2], [2, 2, 2]], 12, visible=False),
        case("random", "on random lengths", drawn, 15, visible=False),
        case("random, learned", "on random lengths, with learned positions", drawn, 16, "gpt2", visible=False),
    ]


def small_model(kind: str, seed: int) -> Any:
    """A random two-layer causal model in eval mode, the same for the same seed."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, **ends)
            ).eval()
        sizes: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=32, **ends)).eval()


def random_rows(seq_lengths: list[list[int]], seed: int) -> list[list[Tensor]]:
    """Token ids for each row of each pack."""
    random = torch.Generator().manual_seed(seed)
    return [[torch.randint(1, 40, (size,), generator=random) for size in lengths] for lengths in seq_lengths]


@exercise.probe
def probe(answer: Any, seq_lengths: list[list[int]], width: int, model: str, seed: int) -> Any:
    """Runs a small model over the packs with your positions and mask; returns each row's logits."""
    result = answer([list(lengths) for lengths in seq_lengths], width)
    if result is None:
        return None
    position_ids, mask = result
    input_ids = torch.zeros(len(seq_lengths), width, dtype=torch.int64)
    for pack, rows in enumerate(random_rows(seq_lengths, seed)):
        input_ids[pack, : sum(map(len, rows))] = torch.cat(rows)
    wanted: dict[str, Any] = {"position_ids": (position_ids, torch.int64, (len(seq_lengths), width))}
    wanted["mask"] = (mask, torch.bool, (len(seq_lengths), 1, width, width))
    for name, (tensor, dtype, shape) in wanted.items():
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise TypeError(f"{name} must be {dtype} of shape {shape}; yours is {found}")
    with torch.no_grad():
        logits = small_model(model, seed)(input_ids, attention_mask=mask, position_ids=position_ids).logits
    report: dict[str, Any] = {"position_ids": position_ids}
    for pack, lengths in enumerate(seq_lengths):
        parts = logits[pack, : sum(lengths)].split(lengths)
        report |= {f"logits of pack {pack}, row {row}": part.clone() for row, part in enumerate(parts)}
    return report


@exercise.oracle
def oracle(seq_lengths: list[list[int]], width: int, model: str, seed: int) -> dict[str, Any]:
    """Each row alone through the model, without any mask."""
    alone = small_model(model, seed)
    counted = [[place for size in lengths for place in range(size)] for lengths in seq_lengths]
    report: dict[str, Any] = {
        "position_ids": torch.tensor([row + [0] * (width - len(row)) for row in counted]),
    }
    for pack, rows in enumerate(random_rows(seq_lengths, seed)):
        for number, row in enumerate(rows):
            with torch.no_grad():
                report[f"logits of pack {pack}, row {number}"] = alone(row[None]).logits[0]
    return report

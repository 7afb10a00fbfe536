"""Rows of different lengths as one rectangle, with the end-of-turn tokens kept in the loss.

transformers' DataCollatorForSeq2Seq and trl's collator pad like this; DataCollatorForLanguageModeling does not, which
is this lesson's trap. One worked number: rows of 5, 3 and 2 tokens make a batch of 3 x 5 places, 5 of them padding.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor

from course.lessons.l05_data.chats import bundled_tokenizer
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-pad-batch",
    title="Repair the collator: pad, and keep the end token",
    points=3,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("data", "pytorch"),
    hints=(
        "What tells padding from a real token? Not its id: the same id may mean the end of an answer. Only its place "
        "does: it stands behind the row's own tokens.",
        "Work out the width first, then give each of the three tensors its own filling for the places past a row's "
        "end.",
        "Rounding up to a multiple must leave a width that is a multiple already as it is.",
    ),
    forbidden=("transformers", "trl"),
    library_note="DataCollatorForSeq2Seq and the collator of trl's SFTTrainer take ready labels and pad them with "
    "-100, as you do. DataCollatorForLanguageModeling(mlm=False) makes its labels from the ids and puts -100 wherever "
    "the id equals the pad id: right for padding, wrong for every real token that happens to be the same.",
    interview="Your fine-tuned model never stops generating. What do you look at in the data pipeline?",
)


@exercise.reference
def pad_batch(rows: list[dict[str, list[int]]], pad_id: int, multiple_of: int = 1) -> dict[str, Tensor]:
    """One batch from B rows (at least one) of different lengths, which stay as they are.

    rows: each has "input_ids" and "labels", two lists of the same length, never empty; labels are ready (-100 where
        nothing is to be learned, also at a row's end).
    pad_id: the id that fills "input_ids"; it may be the id of a real token, such as the end token.
    multiple_of: the width T is the longest row's length, rounded up to a multiple of this: any whole number from 1 on.

    Returns three int64 tensors of shape (B, T), the rows in the given order, tokens on the left, padding on
    the right:
        "input_ids": the row's ids, then pad_id;
        "attention_mask": 1 for each of the row's own tokens, whatever its id, then 0;
        "labels": the row's labels unchanged, then -100.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    input_ids = torch.full((len(rows), width), pad_id)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full((len(rows), width), -100)
    for number, row in enumerate(rows):
        own = slice(0, len(row["input_ids"]))
        input_ids[number, own] = torch.tensor(row["input_ids"])
        attention_mask[number, own] = 1
        labels[number, own] = torch.tensor(row["labels"])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@exercise.alternative
def with_pad_sequence(rows, pad_id, multiple_of=1):
    columns = {key: [torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels")}
    columns["attention_mask"] = [torch.ones_like(ids) for ids in columns["input_ids"]]
    batch = {}
    for key, filling in (("input_ids", pad_id), ("attention_mask", 0), ("labels", -100)):
        column = torch.nn.utils.rnn.pad_sequence(columns[key], batch_first=True, padding_value=filling)
        missing = -column.shape[1] % multiple_of
        batch[key] = torch.nn.functional.pad(column, (0, missing), value=filling)
    return batch


@exercise.alternative
def with_lists(rows, pad_id, multiple_of=1):
    width = max(len(row["labels"]) for row in rows)
    while width % multiple_of:
        width += 1
    gaps = [width - len(row["labels"]) for row in rows]
    ids = [row["input_ids"] + [pad_id] * gap for row, gap in zip(rows, gaps, strict=True)]
    seen = [[1] * (width - gap) + [0] * gap for gap in gaps]
    labels = [row["labels"] + [-100] * gap for row, gap in zip(rows, gaps, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(seen), "labels": torch.tensor(labels)}


@exercise.misconception(
    hint="Labels are hidden wherever the id is pad_id. The end token has that id too: its label is gone, and nothing "
    "teaches the model to stop. Padding is known by its place, not by its id."
)
def labels_hidden_by_id(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == pad_id, -100)}


@exercise.misconception(
    hint="This is what DataCollatorForLanguageModeling does: labels are a copy of the ids, hidden where the id is "
    "pad_id. The question's tokens are learned and the end tokens are not. The rows bring their labels along."
)
def like_the_language_modelling_collator(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] == pad_id, -100)}


@exercise.misconception(
    hint="The attention mask is 0 wherever the id is pad_id. Real end tokens inside a conversation have that id, and "
    "the model would no longer see them. Only places past a row's end are padding."
)
def attention_hidden_by_id(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"attention_mask": (batch["input_ids"] != pad_id).long()}


@exercise.misconception(
    hint="Both the mask and the labels are derived from the ids: wherever an id equals pad_id, a real end token is "
    "taken for padding. Use the row's length instead."
)
def both_hidden_by_id(rows, pad_id, multiple_of=1):
    batch = labels_hidden_by_id(rows, pad_id, multiple_of)
    return batch | {"attention_mask": (batch["input_ids"] != pad_id).long()}


@exercise.misconception(
    hint="Padding has the label pad_id, so the loss counts it: the model would learn to write the end token again and "
    "again after each answer. Padding's label is the number that the loss leaves out."
)
def padding_learned(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, pad_id)}


@exercise.misconception(
    hint="Labels are copied from the ids. The rows have labels of their own, with -100 on the questions; pad those."
)
def labels_copied_from_ids(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@exercise.misconception(
    hint="Your labels are moved one place to the left. The model shifts them itself; shifted twice, each token is "
    "asked for the one after the next."
)
def labels_shifted(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    ends = torch.full((len(rows), 1), -100)
    return batch | {"labels": torch.cat([batch["labels"][:, 1:], ends], 1)}


@exercise.misconception(
    hint="Padding stands on the left. That is for generation, where the newest token has to be last; in training each "
    "row starts at place 0."
)
def padded_on_the_left(rows, pad_id, multiple_of=1):
    turned = [{key: values[::-1] for key, values in row.items()} for row in rows]
    return {key: tensor.flip(1) for key, tensor in pad_batch(turned, pad_id, multiple_of).items()}


@exercise.misconception(hint="multiple_of has no effect: the width is the longest row's length, not rounded up.")
def multiple_ignored(rows, pad_id, multiple_of=1):
    return pad_batch(rows, pad_id)


@exercise.misconception(
    hint="The width grows by a whole multiple even when the longest row fits exactly. Rounding up leaves a multiple as "
    "it is."
)
def always_one_multiple_more(rows, pad_id, multiple_of=1):
    longest = max(len(row["labels"]) for row in rows)
    return pad_batch(rows, pad_id, (longest // multiple_of + 1) * multiple_of)


@exercise.misconception(
    hint="With a multiple_of above 1 the width grows by one multiple too many where the longest row is a multiple "
    "already. Try your formula on exactly that number."
)
def one_more_than_a_multiple(rows, pad_id, multiple_of=1):
    return pad_batch(rows, pad_id) if multiple_of == 1 else always_one_multiple_more(rows, pad_id, multiple_of)


@exercise.misconception(
    hint="The width is rounded down to a multiple, so the end of the longest row is cut off. Round up."
)
def rounded_down(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id)
    width = batch["labels"].shape[1]
    return {key: tensor[:, : width - width % multiple_of] for key, tensor in batch.items()}


@exercise.misconception(
    hint="Padding has the label 0, which is a token like any other. The number that the loss leaves out is in the "
    "docstring."
)
def padding_labelled_zero(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, 0)}


@exercise.misconception(hint="The attention mask is 1 in the padding as well. Only the row's own tokens are real.")
def mask_all_ones(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}


@exercise.misconception(
    hint="The attention mask runs on to each row's own length rounded up. Rounding widens the batch; it makes no token "
    "of a place."
)
def mask_rounded_up(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    own = torch.tensor([[-(-len(row["labels"]) // multiple_of) * multiple_of] for row in rows])
    return batch | {"attention_mask": (torch.arange(batch["labels"].shape[1]) < own).long()}


@exercise.misconception(
    hint="The attention mask follows the labels, so the model cannot see the question. Labels say what is learned, the "
    "mask what is there."
)
def mask_from_labels(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"attention_mask": (batch["labels"] != -100).long()}


@exercise.misconception(hint="input_ids is filled up with 0. The docstring says which id fills it.")
def filled_with_zero(rows, pad_id, multiple_of=1):
    return pad_batch(rows, 0, multiple_of)


def real_up_to(rows: Any, pad_id: int, multiple_of: int, lengths: list[int]) -> dict[str, Tensor]:
    """The batch with an attention mask that is 1 at each row's first so many places."""
    batch = pad_batch(rows, pad_id, multiple_of)
    places = torch.arange(batch["labels"].shape[1])
    return batch | {"attention_mask": (places < torch.tensor(lengths)[:, None]).long()}


@exercise.misconception(
    hint="You guess where a row ends from its ids: one end token behind the last other token. A row may be cut off "
    "before its end token or end with several. Its length is known; use that."
)
def one_end_token_supposed(rows, pad_id, multiple_of=1):
    others = [[place for place, token in enumerate(row["input_ids"]) if token != pad_id] for row in rows]
    return real_up_to(rows, pad_id, multiple_of, [max(places, default=-1) + 2 for places in others])


@exercise.misconception(
    hint="The attention mask ends with the last token that is not pad_id, so an end token at the row's end is hidden. "
    "It is a token of the row."
)
def real_up_to_the_last_other_token(rows, pad_id, multiple_of=1):
    others = [[place for place, token in enumerate(row["input_ids"]) if token != pad_id] for row in rows]
    return real_up_to(rows, pad_id, multiple_of, [max(places, default=-1) + 1 for places in others])


@exercise.misconception(
    hint="The attention mask ends with a row's last label. What follows has no label and is still there, such as the "
    "newline that a template writes after the end token."
)
def real_up_to_the_last_label(rows, pad_id, multiple_of=1):
    learned = [[place for place, label in enumerate(row["labels"]) if label != -100] for row in rows]
    return real_up_to(rows, pad_id, multiple_of, [max(places, default=-1) + 1 for places in learned])


@exercise.misconception(
    hint="Your rounding works for powers of two only. A multiple may be any whole number; division does it for all."
)
def rounded_by_bits(rows, pad_id, multiple_of=1):
    longest = max(len(row["labels"]) for row in rows)
    return pad_batch(rows, pad_id, max(longest, (longest + multiple_of - 1) & ~(multiple_of - 1)))


@exercise.misconception(
    hint="multiple_of is taken for the least width. It is the step in which widths grow: 9 with a multiple of 8 is 16."
)
def least_width(rows, pad_id, multiple_of=1):
    return pad_batch(rows, pad_id, max(multiple_of, *(len(row["labels"]) for row in rows), 1))


@exercise.misconception(
    hint="The width is doubled until the longest row fits. Asked for is the next multiple, which may be three times as "
    "wide as multiple_of."
)
def width_doubled(rows, pad_id, multiple_of=1):
    width, longest = multiple_of, max(len(row["labels"]) for row in rows)
    while multiple_of > 1 and width < longest:
        width *= 2
    return pad_batch(rows, pad_id, width if multiple_of > 1 else 1)


@exercise.misconception(
    hint="Token id 0 is taken for nothing: where a row has the id or label 0 your batch has a filling. 0 is a token "
    "like any other."
)
def zero_taken_for_nothing(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == 0, -100)}


@exercise.misconception(hint="The rows are sorted by their length. A batch has them in the given order.")
def longest_row_first(rows, pad_id, multiple_of=1):
    return pad_batch(sorted(rows, key=lambda row: -len(row["labels"])), pad_id, multiple_of)


@exercise.misconception(hint="The rows are sorted, the shortest first. A batch has them in the given order.")
def shortest_row_first(rows, pad_id, multiple_of=1):
    return pad_batch(sorted(rows, key=lambda row: len(row["labels"])), pad_id, multiple_of)


@exercise.misconception(
    hint="The tensors are not int64: the attention mask holds True and False. All three are asked for as int64."
)
def mask_of_truth_values(rows, pad_id, multiple_of=1):
    batch = pad_batch(rows, pad_id, multiple_of)
    return batch | {"attention_mask": batch["attention_mask"].bool()}


@exercise.misconception(
    hint="The first label of each row is hidden. The rows' labels are ready; none of them is to be changed."
)
def first_label_hidden(rows, pad_id, multiple_of=1):
    return pad_batch([row | {"labels": [-100, *row["labels"][1:]]} for row in rows], pad_id, multiple_of)


@exercise.cases
def cases(seed: int) -> list[Case]:
    random_numbers = random.Random(seed)

    def row(length: int, answer: int, turns: int = 1) -> dict[str, list[int]]:
        """A row whose last `answer` tokens of each turn, the end token 2 among them, are labelled."""
        ids, labels = [], []
        for _ in range(turns):
            own = [1, *(random_numbers.randint(5, 49_000) for _ in range(length - 2)), 2]
            ids += own
            labels += [-100] * (length - answer) + own[length - answer :]
        return {"input_ids": ids, "labels": labels}

    def case(name: str, about: str, rows: list[Any], pad_id: int = 2, visible: bool = True, **rest: Any) -> Case:
        return Case(name, {"rows": rows, "pad_id": pad_id, **rest}, about, visible=visible)

    lengths = [random_numbers.randint(3, 12) for _ in range(5)]
    cut_off = {"input_ids": [1, 17, 0, 18], "labels": [-100, -100, 0, 18]}
    two_ends = {"input_ids": [2, 1, 16, 2, 2], "labels": [2, -100, 16, 2, 2]}
    newline_last = {"input_ids": [1, 0, 19, 2, 198, 198], "labels": [-100, -100, 19, 2, -100, -100]}
    unlabelled = {"input_ids": [1, 15, 2], "labels": [-100] * 3}
    return [
        case("two rows", "on two rows of different lengths", [row(4, 2), row(7, 3)]),
        case("two turns", "when a row holds two conversation turns", [row(4, 2, turns=2), row(5, 3)], multiple_of=1),
        case("multiple", "when the width is rounded up to a multiple of 8", [row(5, 2), row(9, 4)], multiple_of=8),
        case("exact", "when the longest row is a multiple already", [row(8, 2), row(3, 2)], multiple_of=8),
        case("row ends", "when rows end otherwise", [cut_off, two_ends, newline_last, unlabelled, row(9, 2)]),
        case("multiple of 7", "when the width is rounded to a multiple of 7", [row(15, 2), row(3, 2)], multiple_of=7),
        case("short rows", "when all rows are shorter than a multiple", [row(3, 2), row(4, 2)], multiple_of=8),
        case("own pad token", "when pad_id is a token of its own", [row(6, 4), row(4, 2)], pad_id=0, visible=False),
        case("one row", "on a batch of one", [row(6, 3)], visible=False),
        case("many", "on five rows of random lengths", [row(n, 2) for n in lengths], multiple_of=4, visible=False),
    ]


@exercise.oracle
def oracle(rows: list[dict[str, list[int]]], pad_id: int, multiple_of: int = 1) -> dict[str, Tensor]:
    from transformers import DataCollatorForSeq2Seq

    tokenizer = copy.deepcopy(bundled_tokenizer())
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return dict(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=multiple_of)(rows))

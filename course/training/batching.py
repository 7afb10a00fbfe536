"""Batches without padding, in which rows that begin alike share the work on their common beginning.

A batch of chats repeats itself: each begins with the same system prompt, many go on with the same instructions.
In a causal model a token's hidden state depends only on the tokens before it, so equal beginnings have equal
states, and the gradient that reaches a shared state is the sum over the rows that use it. So a batch is a tree (a
trie): each different beginning is one node, computed once. A row's last token is no node: nothing follows that its
state would predict. The loss is that of the padded batch, up to rounding.

All layers but attention treat tokens one by one, so they run over the nodes as one row without padding. Attention
looks along rows: `row_nodes` spreads the nodes out into rows, and `first_slots` brings one copy of each back.
A similar idea for inference is RadixAttention (Zheng et al. 2023, SGLang).

Worked number: rows [5, 6, 7] and [5, 6, 8, 9] hold 7 tokens and need 3 nodes (5, 6 after 5, 8 after those); padded
they would fill 8 places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from course.training.encoding import IGNORED, Encoded

ATTENTION_NAME = "course_shared_prefix"


@dataclass(frozen=True)
class Batch:
    """B rows of at most T + 1 tokens as N nodes, A of whose successors are answer tokens.

    `input_ids` (1, N) and `position_ids` (1, N): each node's token and its distance from the row's start;
    `row_nodes` (B, T): the node at each place of each row, 0 past a row's end;
    `first_slots` (N,): a place, as an index into the B * T, that holds the node;
    `answer_nodes` (A,) and `answers` (A,): for each labelled token the node that predicts it, and the token.
    `tokens` is the number of real tokens in the rows, shared or not.
    """

    input_ids: Tensor
    position_ids: Tensor
    row_nodes: Tensor
    first_slots: Tensor
    answer_nodes: Tensor
    answers: Tensor
    tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if name != "tokens"})


def make_batch(rows: Sequence[Encoded], share_prefixes: bool = True) -> Batch:
    """Lay rows out as nodes; without sharing each row keeps nodes of its own, still without padding."""
    longest = max(len(row.input_ids) for row in rows) - 1
    node_after: dict[tuple[int, int], int] = {}  # (node before, token) -> node
    input_ids: list[int] = []
    positions: list[int] = []
    first_slots: list[int] = []
    row_nodes: list[list[int]] = []
    answer_nodes: list[int] = []
    answers: list[int] = []
    for number, row in enumerate(rows):
        before = -1 if share_prefixes else -1 - number
        nodes: list[int] = []
        last = len(row.input_ids) - 1
        for position, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True)):
            if label != IGNORED and position > 0:
                answer_nodes.append(before)
                answers.append(label)
            if position == last:
                break
            node = node_after.setdefault((before, token), len(input_ids))
            if node == len(input_ids):
                input_ids.append(token)
                positions.append(position)
                first_slots.append(number * longest + position)
            nodes.append(node)
            before = node
        row_nodes.append(nodes + [0] * (longest - len(nodes)))
    return Batch(
        input_ids=torch.tensor([input_ids]),
        position_ids=torch.tensor([positions]),
        row_nodes=torch.tensor(row_nodes),
        first_slots=torch.tensor(first_slots),
        answer_nodes=torch.tensor(answer_nodes, dtype=torch.long),
        answers=torch.tensor(answers, dtype=torch.long),
        tokens=sum(len(row.input_ids) for row in rows),
    )


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_nodes: Tensor,
    first_slots: Tensor,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention along the rows of a `Batch`: (1, heads, N, D) in, (1, N, heads, D) out.

    Padding needs no mask: it stands at the end of its row, where a causal row's real tokens never look, and
    `first_slots` never reads it. `options` goes to transformers' own scaled-dot-product attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    window = options.get("sliding_window")
    if window is not None and window < row_nodes.shape[1]:
        raise ValueError(f"The model looks back only {window} tokens; set max_length to at most {window}.")

    def spread(nodes: Tensor) -> Tensor:  # (1, heads, N, D) -> (B, heads, T, D)
        by_node = nodes.transpose(1, 2)[0]
        return by_node.index_select(0, row_nodes.flatten()).unflatten(0, row_nodes.shape).transpose(1, 2)

    options["is_causal"] = True
    rows, _ = sdpa_attention_forward(module, spread(query), spread(key), spread(value), None, **options)
    return rows.flatten(0, 1).index_select(0, first_slots)[None], None


@contextmanager
def shared_prefix_model(model: Any) -> Iterator[None]:
    """Within the block the model's attention layers read `Batch` layouts; its own attention comes back after."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    base = base_of(model)
    own = base.config._attn_implementation
    base.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(own)


def base_of(model: Any) -> Any:
    """The transformers model inside a peft wrapper, with any adapter layers in place, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def answer_loss_sum(model: Any, batch: Batch) -> Tensor:
    """The summed cross-entropy of the batch's answer tokens, a float32 scalar; call inside `shared_prefix_model`.

    Only the states that predict an answer token meet the output layer. With 49,152 words in the vocabulary and a hidden
    size of 576 that layer is a fifth of SmolLM2's work, and most of its memory, for tokens the loss would not count.
    """
    base = base_of(model)
    states = base.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        row_nodes=batch.row_nodes,
        first_slots=batch.first_slots,
    ).last_hidden_state[0]  # (N, hidden size)
    logits = base.get_output_embeddings()(states.index_select(0, batch.answer_nodes))  # (A, vocabulary)
    return torch.nn.functional.cross_entropy(logits.float(), batch.answers, reduction="sum")

"""Greedy answers to many chat prompts at once: the generator that every evaluation in the course uses.

What makes it quick, all of it exact: prompts of like length share a batch, so there is little padding; what all prompts
begin with (a system turn, few-shot examples) goes through the model once; a row leaves the batch as soon as it is done.
`model.generate` does none of the three: it carries finished rows along until the longest one ends.

Padding stands on the left, so that every row's newest token is in the last column.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

Conversation = Sequence[Mapping[str, str]]

ROWS_ON_CPU = 32
ROWS_ON_GPU = 128


def generate_batch(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    max_new_tokens: int,
    batch_size: int | None = None,
    progress: bool = True,
) -> list[str]:
    """The model's greedy answer to each conversation, in the order given, without special tokens.

    An answer ends at the end-of-turn token or after `max_new_tokens`. Works with peft and 4-bit models; with an adapter
    on unquantised weights, `merge_adapter` first is quicker. Raises ValueError for sizes below 1 and for a prompt that
    leaves the model's context window too little room.
    """
    if max_new_tokens < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1.")
    if not conversations:
        return []
    device = next(model.parameters()).device
    rows_at_once = batch_size or (ROWS_ON_CPU if device.type == "cpu" else ROWS_ON_GPU)
    prompts: list[list[int]] = [
        tokenizer(
            tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        )["input_ids"]
        for conversation in conversations
    ]
    _check_fits(prompts, max_new_tokens, model)
    stop_ids = _stop_ids(model, tokenizer)
    answers: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    shared = _common_prefix_length(prompts)
    bar = tqdm(total=len(prompts), desc="generating", unit="answer", disable=not progress)
    was_training = model.training
    model.eval()
    started = time.perf_counter()
    try:
        with bar, torch.inference_mode():
            for start in range(0, len(by_length), rows_at_once):
                chosen = by_length[start : start + rows_at_once]
                new_ids = _greedy(model, [prompts[index] for index in chosen], shared, max_new_tokens, stop_ids)
                for index, ids in zip(chosen, new_ids, strict=True):
                    answers[index] = ids
                bar.update(len(chosen))
                speed = sum(map(len, answers)) / (time.perf_counter() - started)
                bar.set_postfix({"new tokens/s": f"{speed:.0f}"})
    finally:
        model.train(was_training)
    return tokenizer.batch_decode(answers, skip_special_tokens=True)


def _greedy(
    model: Any, prompts: Sequence[Sequence[int]], shared: int, max_new_tokens: int, stop_ids: Tensor
) -> list[list[int]]:
    """New token ids for each prompt; the first `shared` tokens of all prompts are the same."""
    device = stop_ids.device
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest - shared, dtype=torch.long)  # padding is hidden, so its id is free
    mask = torch.ones(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padding = longest - len(prompt)
        tokens[row, padding:] = torch.tensor(prompt[shared:])
        mask[row, shared : shared + padding] = 0
    tokens, mask = tokens.to(device), mask.to(device)
    cache = None
    if shared:
        prefix = torch.tensor([prompts[0][:shared]], device=device)
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(prompts))
    new_ids = torch.full((len(prompts), max_new_tokens), -1, device=device)
    rows = torch.arange(len(prompts), device=device)  # which prompts are still being answered
    for step in range(max_new_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        newest = output.logits[:, -1].argmax(-1)
        new_ids[rows, step] = newest
        going_on = torch.isin(newest, stop_ids, invert=True).nonzero().flatten()
        if len(going_on) == 0:
            break
        if len(going_on) < len(rows):
            rows, newest, mask = rows[going_on], newest[going_on], mask[going_on]
            cache.batch_select_indices(going_on)
        tokens = newest[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [[token for token in row if token >= 0] for row in new_ids.tolist()]


def _common_prefix_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own to predict from."""
    first, last = min(prompts), max(prompts)  # in dictionary order, so they differ the earliest
    limit = min(map(len, prompts)) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


def _stop_ids(model: Any, tokenizer: Any) -> Tensor:
    """The ids that end an answer: the tokenizer's end token and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    return torch.tensor(sorted(ids), device=next(model.parameters()).device)


def _check_fits(prompts: Sequence[Sequence[int]], max_new_tokens: int, model: Any) -> None:
    window = getattr(model.config, "max_position_embeddings", None)
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if window is not None and len(prompts[longest]) + max_new_tokens > window:
        raise ValueError(
            f"Conversation {longest} has {len(prompts[longest])} tokens; with max_new_tokens={max_new_tokens} that is "
            f"over the model's context window of {window}. Shorten the conversation or ask for fewer tokens."
        )

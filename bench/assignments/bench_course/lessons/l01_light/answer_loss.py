"""Exercise: the loss on a Llama's answer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-answer-loss",
    title="The loss on the answer",
    points=2,
    minutes=10,
    difficulty="medium",
    importance="core",
    skills=("transformer",),
    hints=("Which token is predicted at position t?",),
    rtol=1e-4,
    atol=1e-5,
    tolerance_reason="the order of float32 sums in a model differs between right answers",
)


@exercise.reference
def answer_loss(model: LlamaForCausalLM, ids: Tensor, prompt_length: int) -> float:
    """Mean cross-entropy of the tokens after the prompt; ids: (B, T) int64. The model predicts token t + 1 at t."""
    with torch.no_grad():
        logits = model(ids).logits[:, prompt_length - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, prompt_length:].flatten()).item()


@exercise.alternative
def through_labels(model: LlamaForCausalLM, ids: Tensor, prompt_length: int) -> float:
    labels = ids.clone()
    labels[:, :prompt_length] = -100
    with torch.no_grad():
        return model(ids, labels=labels).loss.item()


@exercise.misconception(hint="You count the prompt too.")
def prompt_counted(model: LlamaForCausalLM, ids: Tensor, prompt_length: int) -> float:
    with torch.no_grad():
        return model(ids, labels=ids).loss.item()


@exercise.misconception(hint="Nothing is shifted: at position t the model predicts token t + 1.")
def not_shifted(model: LlamaForCausalLM, ids: Tensor, prompt_length: int) -> float:
    with torch.no_grad():
        logits = model(ids).logits[:, prompt_length:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, prompt_length:].flatten()).item()


@exercise.misconception(hint="You add up where the mean is asked.")
def sum_taken(model: LlamaForCausalLM, ids: Tensor, prompt_length: int) -> float:
    with torch.no_grad():
        logits = model(ids).logits[:, prompt_length - 1 : -1]
    wanted = ids[:, prompt_length:].flatten()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum").item()


@exercise.probe
def probe(answer: Any, ids: Tensor, prompt_length: int, seed: int) -> float:
    """A random 2-layer Llama, the same for everybody."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, num_key_value_heads=2, initializer_range=0.5, **sizes)
    return answer(LlamaForCausalLM(config).eval(), ids, prompt_length)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(rows: int, length: int, prompt_length: int) -> dict:
        ids = torch.randint(0, 64, (rows, length), generator=random)
        return {"ids": ids, "prompt_length": prompt_length, "seed": int(ids.sum())}

    yield Case("one row", inputs(1, 8, 4))
    yield Case("batch", inputs(4, 16, 5))
    yield Case("short answer", inputs(2, 12, 10), visible=False)
    yield Case("long", inputs(2, 48, 8), visible=False)

"""Exercise: train an adapter of peft's on a small Llama."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l02-train-adapter",
    title="Train an adapter with peft",
    points=2,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("adapters",),
    hints=("Which parameters does the optimizer see?",),
    rtol=1e-3,
    atol=1e-4,
    tolerance_reason="the order of float32 sums in a model differs between right answers, and AdamW carries it on",
)


@exercise.reference
def train_adapter(model: LlamaForCausalLM, ids: Tensor, steps: int) -> list:
    """Put LoRA (r 4, alpha 8, on q_proj and v_proj) on the model and take AdamW steps (lr 0.02) on ids (B, T).

    Returns the loss before each step.
    """
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@exercise.alternative
def all_parameters_offered(model: LlamaForCausalLM, ids: Tensor, steps: int) -> list:
    """An optimizer leaves alone what has no gradient."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = adapted(input_ids=ids, labels=ids).loss
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
    return losses


@exercise.misconception(hint="The optimizer never steps.")
def never_steps(model: LlamaForCausalLM, ids: Tensor, steps: int) -> list:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        return [adapted(input_ids=ids, labels=ids).loss.item()] * steps


@exercise.misconception(hint="You train the whole model: there is no adapter.")
def no_adapter(model: LlamaForCausalLM, ids: Tensor, steps: int) -> list:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@exercise.misconception(hint="You return the loss after each step; the one before it is asked.")
def loss_after_the_step(model: LlamaForCausalLM, ids: Tensor, steps: int) -> list:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            losses.append(adapted(input_ids=ids, labels=ids).loss.item())
    return losses


@exercise.probe
def probe(answer: Any, ids: Tensor, steps: int, seed: int) -> list:
    """A random 1-layer Llama, the same for everybody."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, num_key_value_heads=2, initializer_range=0.5, **sizes)
    model = LlamaForCausalLM(config)
    torch.manual_seed(seed + 1)
    return answer(model, ids, steps)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = torch.Generator().manual_seed(seed)

    def inputs(rows: int, length: int, steps: int) -> dict:
        ids = torch.randint(0, 64, (rows, length), generator=random)
        return {"ids": ids, "steps": steps, "seed": int(ids.sum())}

    yield Case("two steps", inputs(2, 8, 2))
    yield Case("three steps", inputs(1, 24, 3), visible=False)

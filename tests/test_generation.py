"""Answers made in batches equal answers made one by one with transformers' own generate."""

from __future__ import annotations

import pytest
import torch
from tiny_chat import END_ID, chat, tiny_llama, tiny_tokenizer

from course import generation
from course.generation import generate_batch
from course.training import TrainingConfig, add_adapter

QUESTIONS = ["a", "what is 12 + 30?", "b" * 40, "hi", "a", "zz top"]


def lively_llama(seed=3):
    """Untrained weights hardly look at the prompt; larger ones answer differently to each."""
    model = tiny_llama(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(12)
    return model


def one_by_one(model, tokenizer, conversations, max_new_tokens):
    texts = []
    for conversation in conversations:
        prompt = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=END_ID)
        texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("batch_size", [1, 2, 4, None])
@pytest.mark.parametrize("system", [None, "Answer shortly."])
def test_batches_equal_one_by_one(batch_size, system):
    model, tokenizer = lively_llama(), tiny_tokenizer()
    conversations = [chat(question, system=system) for question in QUESTIONS]
    wanted = one_by_one(model, tokenizer, conversations, 24)
    assert len(set(wanted)) >= 4, "the fake must answer differently to different questions"
    assert generate_batch(model, tokenizer, conversations, 24, batch_size, progress=False) == wanted


def test_rows_end_at_their_own_end_token_and_the_others_go_on_unharmed():
    model, tokenizer = lively_llama(), tiny_tokenizer()
    conversations = [chat(question) for question in QUESTIONS]
    longest = one_by_one(model, tokenizer, conversations, 24)
    letters = [set(tokenizer(text)["input_ids"]) for text in longest]
    # Letters that some answers contain and others do not: as end tokens, each makes other rows leave the batch early.
    ends = [token for token in sorted(set().union(*letters)) if 0 < sum(token in found for found in letters) < 6]
    assert len(ends) >= 5
    for end in ends[:: len(ends) // 5]:
        model.generation_config.eos_token_id = [END_ID, end]
        wanted = one_by_one(model, tokenizer, conversations, 24)
        assert wanted != longest
        assert generate_batch(model, tokenizer, conversations, 24, progress=False) == wanted


def test_an_adapter_changes_the_answers_and_stays_in_training_mode():
    tokenizer = tiny_tokenizer()
    model = add_adapter(lively_llama(), TrainingConfig(rank=2))
    conversations = [chat(question) for question in QUESTIONS]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    wanted = one_by_one(model.eval(), tokenizer, conversations, 8)
    model.train()
    assert generate_batch(model, tokenizer, conversations, 8, progress=False) == wanted
    assert model.training
    with model.disable_adapter():
        assert generate_batch(model, tokenizer, conversations, 8, progress=False) != wanted


def test_the_shared_beginning_is_computed_once(monkeypatch):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    widths = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    conversations = [chat(question, system="s" * 100) for question in ("ab", "cd")]
    generate_batch(model, tokenizer, conversations, 1, progress=False)
    assert widths[0][0] == 1 and widths[0][1] > 100
    assert widths[1][0] == 2 and widths[1][1] < 40
    assert generation._common_prefix_length([[1, 2, 3]]) == 2
    assert generation._common_prefix_length([[1, 2], [1, 2, 3]]) == 1


def test_bad_requests_are_named():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    assert generate_batch(model, tokenizer, [], 5) == []
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate_batch(model, tokenizer, [chat("a")], 0)
    with pytest.raises(ValueError, match=r"Conversation 1 has .* context window of 512"):
        generate_batch(model, tokenizer, [chat("a"), chat("b" * 500)], 5)

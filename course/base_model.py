"""The course's base model: found, converted once, and loaded in about a second.

By default it is SmolLM2-135M-Instruct, carried by a Python package, so no account and no network are needed.
`COURSE_MODEL` names another causal LM: a local folder, or an id on the Hugging Face hub such as Qwen/Qwen3-0.6B.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course.cpu_bfloat16 import cpu_bfloat16_usable
from course.device import BUNDLED_MODEL, device_profile
from course.model_cache import ReportStage
from course.model_conversion import ensure_converted
from course.model_source import BaseModelError, bundled_source
from course.quiet_libraries import quiet_libraries

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BaseModelError", "base_model_folder", "load_base_model", "load_tokenizer"]

CONVERSION_STAGES = 5


def base_model_folder() -> Path | str:
    """The folder of the base model, converted first if need be, or the hub id that was asked for.

    COURSE_MODEL decides, then the model of COURSE_PROFILE, then the bundled model. Raises BaseModelError when the model
    named is not there or the bundled one cannot be prepared, ProfileError for a COURSE_PROFILE that does not work here.
    """
    if named := os.environ.get("COURSE_MODEL"):
        return _named_model(named)
    if os.environ.get("COURSE_PROFILE"):
        model = device_profile().model
        if model != BUNDLED_MODEL:
            return model
    with _progress_bar() as report:
        return ensure_converted(bundled_source(), report)


def convert_again() -> Path:
    """Convert the bundled model afresh, in place of whatever the cache holds."""
    with _progress_bar() as report:
        return ensure_converted(bundled_source(), report, force=True)


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with its chat template."""
    from transformers import AutoTokenizer

    location = base_model_folder()
    with _explaining_load_errors(location):
        return AutoTokenizer.from_pretrained(location)


def load_base_model(
    dtype: torch.dtype | str | None = None, device: str | None = None, quantize: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer, ready for `generate` or for training.

    dtype and device default to those of the device profile. quantize="nf4" stores the linear layers in 4-bit
    NormalFloat with double quantisation (QLoRA, Dettmers et al. 2023), on a CPU as on a GPU; dtype is then the one it
    computes in.
    Raises BaseModelError when the model cannot be found, reached or read.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if quantize not in (None, "nf4"):
        raise ValueError(f"quantize={quantize!r} is not known. Use None or 'nf4'.")
    if dtype is None or device is None:
        profile = device_profile()
        dtype, device = dtype or profile.dtype, device or profile.device
    compute_dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    if device == "cpu" and compute_dtype == torch.bfloat16:
        cpu_bfloat16_usable()  # "no" only means slow; asking keeps the first product from killing the process
    options: dict[str, Any] = {"dtype": compute_dtype, "device_map": {"": device}}
    if quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    location = base_model_folder()
    tokenizer = load_tokenizer()
    with _explaining_load_errors(location), quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(location, **options)
    return model, tokenizer


def _named_model(named: str) -> Path | str:
    """What COURSE_MODEL means: a folder where one is there or the value can only be a path, else a hub id."""
    folder = Path(named).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseModelError(
                f"COURSE_MODEL={named} is a folder without config.json, so no model that transformers reads. "
                "Name a folder written by save_pretrained, or unset COURSE_MODEL."
            )
        return folder
    if named.startswith((".", "~", "/")) or named.count("/") > 1 or folder.exists():
        raise BaseModelError(
            f"COURSE_MODEL={named} is not a folder. Correct the path, or unset COURSE_MODEL to use the bundled model."
        )
    return named


@contextmanager
def _explaining_load_errors(location: Path | str) -> Iterator[None]:
    """Turn what transformers raises for a model it cannot reach or read into a BaseModelError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0]
        if isinstance(location, Path):
            raise BaseModelError(
                f"The model in {location} cannot be read: {first_line}. "
                "For the bundled model run: course model verify. For your own, check COURSE_MODEL."
            ) from error
        raise BaseModelError(
            f"The model {location} is no local folder, and the Hugging Face hub did not give it: {first_line}. "
            "Check the spelling and the network, or unset COURSE_MODEL and COURSE_PROFILE to use the bundled model."
        ) from error


@contextmanager
def _progress_bar() -> Iterator[ReportStage]:
    """A bar that appears only once there is a stage to report, so a cached model shows nothing."""
    from tqdm.auto import tqdm

    bar: tqdm | None = None

    def report(stage: str) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=CONVERSION_STAGES, desc=stage, bar_format="{desc} {bar} {n_fmt}/{total_fmt} {elapsed}")
        else:
            bar.update()
            bar.set_description(stage)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()

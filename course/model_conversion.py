"""Turn the bundled GGUF file into a folder that transformers loads in a second, once per machine.

transformers reads the GGUF in about 15 s. The folder written here (bf16 safetensors, 269 MB, with the tokenizer and its
chat template) reads in about 1 s.
"""

from __future__ import annotations

from pathlib import Path

from course.model_cache import ReportStage, cache_root, ensure_folder
from course.model_source import ModelSource, verify_source
from course.quiet_libraries import quiet_libraries

# Q4_1 spends 0.625 bytes a weight, bf16 spends 2; embeddings in 8 bits, and room for the tokenizer, make it this ratio.
CONVERTED_BYTES_PER_SOURCE_BYTE = 2.8


def converted_folder(source: ModelSource) -> Path:
    """Where this source's converted folder is, or would be: its name carries the source's checksum."""
    return cache_root() / f"{source.name}-{source.expected_sha256[:12]}"


def ensure_converted(
    source: ModelSource, report: ReportStage = lambda stage: None, force: bool = False, check_hashes: bool = False
) -> Path:
    """The converted folder of `source`, converting it first where it is absent, damaged, or `force` is set.

    Raises BaseModelError with a next action for a damaged source and for whatever the disk refuses.
    """
    folder = converted_folder(source)

    def write(partial: Path) -> None:
        report("Checking the model file")
        verify_source(source)
        write_dequantised(source.path, partial, report)

    needed_bytes = int(source.expected_bytes * CONVERTED_BYTES_PER_SOURCE_BYTE)
    ensure_folder(folder, write, needed_bytes, report, force, check_hashes)
    return folder


def write_dequantised(gguf_path: Path, folder: Path, report: ReportStage) -> None:
    """Read a GGUF causal LM and its tokenizer through transformers and write both to `folder`, weights in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    parent, gguf_file = str(gguf_path.parent), gguf_path.name
    report("Reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(parent, gguf_file=gguf_file)
    report("Dequantising the weights (about 15 s)")
    with quiet_libraries():
        # Without dequantize=True the model may stay packed in 4 bits, which transformers neither trains nor saves.
        model = AutoModelForCausalLM.from_pretrained(
            parent, gguf_file=gguf_file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        # GGUF names no limit, and without one the tokenizer never warns of a text longer than the model can read.
        tokenizer.model_max_length = model.config.max_position_embeddings
        report("Writing the converted model")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

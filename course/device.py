"""What this machine can train: one profile for the CPU, one for Apple GPUs, and one for each size of CUDA memory.

A profile decides model, number type, method, batch and length, so that the same lesson cell runs everywhere. Offline
and unless told otherwise, every machine uses the bundled SmolLM2-135M-Instruct. Two variables ask for more:
`COURSE_PROFILE=auto` takes the largest profile whose memory is free (or name one: `COURSE_PROFILE=cuda-16gb`), and
`COURSE_MODEL` names any causal LM. A profile's model fits by the rule of `course.memory_rule`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from course.cpu_bfloat16 import cpu_bfloat16_usable
from course.memory_rule import GIB

BUNDLED_MODEL = "SmolLM2-135M-Instruct"


class ProfileError(ValueError):
    """COURSE_PROFILE names no profile, or one that this machine cannot run. The message lists what to use."""


@dataclass(frozen=True)
class DeviceProfile:
    """How to train on one kind of machine.

    `dtype` is the name of a torch dtype; `method` is "lora" (weights kept in `dtype`) or "qlora" (weights stored in
    4-bit NF4); an optimizer step sees micro_batch_size * gradient_accumulation_steps rows of at most `max_length`
    tokens; `minimum_memory_bytes` is the free memory the profile asks for, 0 for the last resort.
    """

    name: str
    device: str
    dtype: str
    model: str
    method: str
    micro_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    learning_rate: float
    minimum_memory_bytes: int


# A "24 GB" card reports less: the driver and a desktop keep some. A profile asks for this share of its name.
FREE_SHARE = 0.9
ROWS_PER_STEP_CUDA = 16


def _cuda(gigabytes: int, model: str, method: str, micro_batch_size: int, max_length: int) -> DeviceProfile:
    return DeviceProfile(
        name=f"cuda-{gigabytes}gb",
        device="cuda",
        dtype="bfloat16",
        model=model,
        method=method,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=ROWS_PER_STEP_CUDA // micro_batch_size,
        max_length=max_length,
        learning_rate=2e-4,  # QLoRA, Dettmers et al. 2023, table 9, for models of 7B and 13B
        minimum_memory_bytes=int(gigabytes * GIB * FREE_SHARE),
    )


CPU = DeviceProfile("cpu", "cpu", "bfloat16", BUNDLED_MODEL, "lora", 8, 1, 512, 1e-3, 5 * GIB)
CPU_SMALL = DeviceProfile("cpu-small", "cpu", "bfloat16", BUNDLED_MODEL, "qlora", 2, 4, 256, 1e-3, 0)
# float32 is what every operation supports on an Apple GPU; QLoRA is not offered there because nobody has tried it here.
MPS = DeviceProfile("mps", "mps", "float32", BUNDLED_MODEL, "lora", 8, 1, 512, 1e-3, 0)
CUDA = DeviceProfile("cuda", "cuda", "bfloat16", BUNDLED_MODEL, "lora", 8, 1, 1024, 1e-3, int(8 * GIB * FREE_SHARE))
CUDA_SMALL = DeviceProfile("cuda-small", "cuda", "bfloat16", BUNDLED_MODEL, "qlora", 2, 4, 512, 1e-3, 0)
# All open (Apache-2.0) and ungated, so no account is needed to download them.
CUDA_BY_MEMORY = (
    _cuda(80, "Qwen/Qwen3-14B", "lora", 4, 2048),
    _cuda(48, "Qwen/Qwen3-14B", "qlora", 4, 2048),
    _cuda(24, "Qwen/Qwen3-8B", "qlora", 4, 1024),
    _cuda(16, "Qwen/Qwen3-4B", "qlora", 4, 1024),
    _cuda(8, "Qwen/Qwen3-1.7B", "qlora", 2, 1024),
    _cuda(4, "Qwen/Qwen3-0.6B", "qlora", 1, 512),
)
PROFILES = {profile.name: profile for profile in (CPU, CPU_SMALL, MPS, CUDA, CUDA_SMALL, *CUDA_BY_MEMORY)}


def choose_profile(kind: str, memory_bytes: int, bf16_supported: bool) -> DeviceProfile:
    """The most able profile for a device kind ("cpu", "cuda" or "mps") with this many bytes of free memory.

    Without bf16 in hardware it computes in float32, on a CUDA device with half the micro-batch. (float16 would need
    loss scaling, a second code path.) A CUDA device with too little memory for a larger model keeps the bundled one.
    """
    if kind == "mps":
        return MPS
    if kind == "cpu":
        profile = _first_that_fits((CPU, CPU_SMALL), memory_bytes)
    elif kind == "cuda":
        profile = _first_that_fits((*CUDA_BY_MEMORY, CUDA_SMALL), memory_bytes)
    else:
        raise ProfileError(f"The device kind {kind!r} is not known. Use 'cpu', 'cuda' or 'mps'.")
    return profile if bf16_supported else _in_float32(profile)


def device_profile() -> DeviceProfile:
    """The profile in force: COURSE_PROFILE where set, else this device's own with the bundled model.

    COURSE_MODEL replaces the profile's model; without COURSE_PROFILE the batch is then the one for this much memory.
    Raises ProfileError for a COURSE_PROFILE that is unknown or needs a device this machine lacks.
    """
    kind, memory_bytes, bf16_supported = detect_device()
    wanted, named_model = os.environ.get("COURSE_PROFILE"), os.environ.get("COURSE_MODEL")
    if wanted and wanted != "auto":
        profile = _named_profile(wanted, kind, bf16_supported)
    elif kind == "cuda" and not wanted and not named_model:
        profile = _first_that_fits((CUDA, CUDA_SMALL), memory_bytes)
        profile = profile if bf16_supported else _in_float32(profile)
    else:
        profile = choose_profile(kind, memory_bytes, bf16_supported)
    return replace(profile, model=named_model) if named_model else profile


def detect_device() -> tuple[str, int, bool]:
    """This machine's best device: its kind, its free memory in bytes, and whether it computes in bf16.

    For the CPU, "computes" means in hardware: emulated bf16 gives the same numbers at a fraction of the speed.
    """
    import psutil
    import torch

    if torch.cuda.is_available():
        free_bytes, _ = torch.cuda.mem_get_info()
        return "cuda", free_bytes, torch.cuda.is_bf16_supported(including_emulation=False)
    memory_bytes = psutil.virtual_memory().available
    if torch.backends.mps.is_available():
        return "mps", memory_bytes, False
    return "cpu", memory_bytes, cpu_bfloat16_usable()


def _named_profile(name: str, kind: str, bf16_supported: bool) -> DeviceProfile:
    if name not in PROFILES:
        raise ProfileError(
            f"COURSE_PROFILE={name} is not a profile. Use one of: auto, {', '.join(PROFILES)}; or unset COURSE_PROFILE."
        )
    profile = PROFILES[name]
    if profile.device not in (kind, "cpu"):  # a CPU is always there, also beside a GPU
        raise ProfileError(
            f"COURSE_PROFILE={name} needs a {profile.device} device and torch finds none here. "
            "Unset COURSE_PROFILE, or see what this machine has: course doctor"
        )
    if profile.device != kind:
        bf16_supported = cpu_bfloat16_usable()
    return profile if bf16_supported else _in_float32(profile)


def _first_that_fits(profiles: tuple[DeviceProfile, ...], memory_bytes: int) -> DeviceProfile:
    return next(profile for profile in profiles if memory_bytes >= profile.minimum_memory_bytes)


def _in_float32(profile: DeviceProfile) -> DeviceProfile:
    if profile.device != "cuda" or profile.micro_batch_size == 1:
        return replace(profile, dtype="float32")
    return replace(
        profile,
        dtype="float32",
        micro_batch_size=profile.micro_batch_size // 2,
        gradient_accumulation_steps=profile.gradient_accumulation_steps * 2,
    )

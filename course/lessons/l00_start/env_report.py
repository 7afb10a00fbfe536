"""What this machine can do, as a plain dict: device, bfloat16 support, memory, versions.

Sources: torch.cuda (device properties), psutil (the computer's memory), importlib.metadata (versions).
Worked number: 16 GiB of memory are memory_bytes = 17,179,869,184.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import torch

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l00-env-report",
    title="Report what a machine can do",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("environment",),
    hints=(
        "Two branches: a machine where `torch.cuda.is_available()` is True, and one where it is not.",
        "`torch.cuda.get_device_properties(0)` knows a GPU's name and memory, `psutil` the computer's memory.",
        "`importlib.metadata` raises PackageNotFoundError for a missing package: catch it and record None.",
    ),
    library_note=(
        "`transformers-cli env` and `python -m torch.utils.collect_env` print such reports for bug tickets. "
        "`is_bf16_supported()` counts emulation by default, so a T4 says True although its hardware has "
        "no bfloat16 and training in it is slow there: that is why fine-tuning code asks without emulation."
    ),
    interview="A training script runs on your machine and fails on a colleague's. What do you ask for first?",
)


@exercise.reference
def env_report(package_names: list[str]) -> dict:
    """Describe the machine this runs on.

    package_names: names as pip knows them, such as "torch".
    Returns a dict with exactly these keys:
      "device"        "cuda" if PyTorch can use a CUDA GPU, else "cpu"
      "device_name"   the first GPU's name; on a CPU what `platform.machine()` says
      "memory_bytes"  int, total memory: the first GPU's on cuda, the computer's on cpu
      "gpu_bf16"      bool: there is a GPU and it computes bfloat16 in hardware, not by emulation
      "versions"      dict: package name -> installed version (str), or None where it is not installed

    Call everything through its module (`torch.cuda.is_available()`, `psutil.virtual_memory()`): the check runs
    your function on pretended machines, so that it proves the GPU branch on a laptop too.
    """
    on_gpu = torch.cuda.is_available()
    gpu = torch.cuda.get_device_properties(0) if on_gpu else None
    versions: dict[str, str | None] = {}
    for name in package_names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": "cuda" if on_gpu else "cpu",
        "device_name": gpu.name if gpu else platform.machine(),
        "memory_bytes": gpu.total_memory if gpu else psutil.virtual_memory().total,
        "gpu_bf16": on_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        "versions": versions,
    }


@exercise.alternative
def one_machine_at_a_time(package_names: list[str]) -> dict:
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    report: dict[str, Any] = {"versions": {name: installed.get(name.lower()) for name in package_names}}
    if torch.cuda.is_available():
        report |= {"device": "cuda", "device_name": torch.cuda.get_device_name(0)}
        report["memory_bytes"] = torch.cuda.mem_get_info(0)[1]
        report["gpu_bf16"] = torch.cuda.get_device_capability(0) >= (8, 0)
    else:
        report |= {"device": "cpu", "device_name": platform.machine(), "gpu_bf16": False}
        report["memory_bytes"] = psutil.virtual_memory().total
    return report


@exercise.misconception(
    hint="On a GPU machine you report the computer's memory. The model lives in the GPU's own: ask torch.cuda."
)
def host_memory_for_the_gpu(package_names: list[str]) -> dict:
    return env_report(package_names) | {"memory_bytes": psutil.virtual_memory().total}


@exercise.misconception(
    hint="You report what is free at this moment. A report that changes with every open program cannot be "
    "compared: give the total."
)
def free_memory(package_names: list[str]) -> dict:
    free = torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    return env_report(package_names) | {"memory_bytes": free}


@exercise.misconception(
    hint="`is_bf16_supported()` is True for GPUs that only emulate bfloat16. `help()` shows its one argument."
)
def emulated_bf16_counted(package_names: list[str]) -> dict:
    return env_report(package_names) | {"gpu_bf16": torch.cuda.is_bf16_supported()}


@exercise.misconception(
    hint="A package that is not installed disappears from your versions. That is what the reader most wants to "
    "see: keep its name, with None."
)
def missing_packages_left_out(package_names: list[str]) -> dict:
    report = env_report(package_names)
    return report | {"versions": {name: found for name, found in report["versions"].items() if found}}


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    memory_bytes = (seed % 97 + 8) * 2**30
    laptop = {"gpu_name": None, "gpu_memory_bytes": 0, "gpu_capability": [0, 0], "memory_bytes": memory_bytes}
    data_center = laptop | {"gpu_name": "NVIDIA L4", "gpu_memory_bytes": 24 * 2**30, "gpu_capability": [8, 9]}
    older = laptop | {"gpu_name": "Tesla T4", "gpu_memory_bytes": 16 * 2**30 - seed, "gpu_capability": [7, 5]}
    names, missing = ["torch", "transformers"], ["numpy", f"no-such-package-{seed}"]

    def case(name: str, machine: dict, package_names: list[str], about: str, visible: bool = True) -> Case:
        return Case(name, {"machine": machine, "package_names": package_names}, about, visible)

    yield case("laptop", laptop, names, "on a machine without a GPU")
    yield case("gpu", data_center, names, "on a machine with a recent GPU")
    yield case("missing", laptop, missing, "when a package is not installed")
    yield case("older gpu", older, missing, "on a GPU that emulates bfloat16", visible=False)
    yield case("no packages", data_center, [], "when no package is asked for", visible=False)


@exercise.diagnose
def diagnose(got: dict, want: dict, **inputs: Any) -> str | None:
    """A function imported by its own name cannot be replaced, so the real machine shows through."""
    if got.get("memory_bytes") == psutil.virtual_memory().total != want["memory_bytes"]:
        return (
            "The memory is this machine's real one, not the pretended one's: call functions through their module, "
            "psutil.virtual_memory(), and import no function by its own name"
        )
    return None


@exercise.probe
def probe(answer: Callable[..., Any], machine: dict, package_names: list[str]) -> Any:
    """Call the answer as if this computer were `machine`: what looks at hardware is replaced."""
    has_gpu = machine["gpu_name"] is not None
    major, minor = machine["gpu_capability"]
    total = machine["gpu_memory_bytes"]
    properties = SimpleNamespace(name=machine["gpu_name"], total_memory=total, major=major, minor=minor)
    memory = SimpleNamespace(total=machine["memory_bytes"], available=machine["memory_bytes"] // 3)
    pretended: dict[str, Callable[..., Any]] = {
        "is_available": lambda: has_gpu,
        "device_count": lambda: int(has_gpu),
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: machine["gpu_name"],
        "get_device_capability": lambda device=None: (major, minor),
        "mem_get_info": lambda device=None: (total // 2, total),
        "is_bf16_supported": lambda including_emulation=True: has_gpu and (including_emulation or major >= 8),
    }
    with ExitStack() as replaced:
        for name, function in pretended.items():
            replaced.enter_context(mock.patch.object(torch.cuda, name, function))
        replaced.enter_context(mock.patch.object(psutil, "virtual_memory", lambda: memory))
        return answer(package_names)

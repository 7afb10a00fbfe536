"""Whether this CPU is quicker in bfloat16, found out without risking the process that asks.

torch hands bf16 matrix products to oneDNN, which picks instructions by what the CPU announces. Some virtual machines
announce AMX and then refuse to run it, and the whole process dies with "Illegal instruction" and no traceback. So a
CPU that announces AMX is tried once in a child process; where the child dies, oneDNN is told through
ONEDNN_MAX_CPU_ISA to stay below AMX. The answer stays in the environment, so that child processes need not ask again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
# The highest level below AMX, AVX512_CORE_FP16, multiplied bf16 and float32 at less than half the speed of this one.
ISA_BELOW_AMX = "AVX512_CORE_BF16"
# What oneDNN calls the levels that include AMX.
ISA_WITH_AMX = ("ALL", "DEFAULT", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16")
PROBE_TIMEOUT_SECONDS = 120
# 64 x 64 is enough: oneDNN chooses the AMX kernel at this size too.
PROBE = "import torch; a = torch.ones(64, 64, dtype=torch.bfloat16); torch.nn.functional.linear(a, a)"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets the CPU announces (Linux on x86); empty where there is no such file."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_bfloat16_usable(flags: frozenset[str] | None = None) -> bool:
    """True when bf16 is quicker than float32 here; afterwards bf16 is safe to use in this process and its children.

    Only AMX makes it quicker: with AVX-512 alone, a 463 x 576 by 576 x 1536 product ran at 125 GFLOP/s in bf16 and at
    225 in float32 on two cores. Call it before the first bf16 product, because oneDNN reads ONEDNN_MAX_CPU_ISA once.
    The first call takes about 2 s on a CPU that announces AMX. A value that the user set is respected.
    """
    flags = cpu_flags() if flags is None else flags
    if "amx_bf16" in flags and ISA_VARIABLE not in os.environ:
        os.environ[ISA_VARIABLE] = "ALL" if bfloat16_survives() else ISA_BELOW_AMX
    return "amx_bf16" in flags and os.environ[ISA_VARIABLE].upper() in ISA_WITH_AMX


def bfloat16_survives() -> bool:
    """Run one bf16 matrix product in a child process and say whether the child lived."""
    child = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PROBE_TIMEOUT_SECONDS)
    return child.returncode == 0

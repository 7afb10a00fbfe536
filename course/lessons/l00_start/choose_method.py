"""Choose a model, a method and a number type by the memory that is free: the rule behind `course doctor`.

The table is the course's own (course/device.py); its minimum_memory_bytes come from the rule in course/memory_rule.py.
Worked: 22 GiB free on a GPU is enough for the row of 21.6 GiB (24 GB cards), not for the one of 43.2 GiB.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from course.device import CPU, CPU_SMALL, CUDA_BY_MEMORY, CUDA_SMALL, choose_profile
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l00-choose-method",
    title="Choose model, method and number type by a memory rule",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("memory", "environment"),
    hints=(
        "First throw away the rows this machine cannot use: another device, or more memory than is free.",
        "Of the rows that are left, one asks for the most memory. `max` takes a `key=` function.",
        "Only then decide the dtype: it depends on the hardware, not on the row alone.",
    ),
    library_note=(
        "`choose_profile` in course/device.py keeps its rows sorted and takes the first that fits. accelerate's "
        "`device_map='auto'` answers the same question layer by layer and moves what does not fit to CPU memory."
    ),
    interview="You have one 24 GB GPU. Which model would you fine-tune, with which method, and why?",
)

KEPT_COLUMNS = ("name", "device", "model", "method", "dtype", "minimum_memory_bytes")


@exercise.reference
def choose_method(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    """Pick the most able row of a table of training setups that this machine can run.

    device: "cpu" or "cuda". free_bytes: memory free on that device. bf16: it computes bfloat16 in hardware.
    table: rows in no particular order, each a dict with "name", "device", "model", "method" ("lora" or "qlora"),
      "dtype" and "minimum_memory_bytes". Every device has one row that asks for 0 bytes.
    Rule: of the rows for this device whose minimum_memory_bytes is at most free_bytes, the one that asks for the most.
    Returns {"model": ..., "method": ..., "dtype": ...} of that row; "dtype" becomes "float32" where bf16 is False.
    """
    usable = [row for row in table if row["device"] == device and row["minimum_memory_bytes"] <= free_bytes]
    chosen = max(usable, key=lambda row: row["minimum_memory_bytes"])
    dtype = chosen["dtype"] if bf16 else "float32"
    return {"model": chosen["model"], "method": chosen["method"], "dtype": dtype}


def pick(row: dict, dtype: str) -> dict:
    return {"model": row["model"], "method": row["method"], "dtype": dtype}


def from_large_to_small(table: list[dict], device: str) -> list[dict]:
    mine = [row for row in table if row["device"] == device]
    return sorted(mine, key=lambda row: row["minimum_memory_bytes"], reverse=True)


@exercise.alternative
def sorted_then_first(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    for row in from_large_to_small(table, device):
        if free_bytes >= row["minimum_memory_bytes"]:
            return pick(row, row["dtype"] if bf16 else "float32")
    raise ValueError(f"no row fits {free_bytes} bytes on {device}")


@exercise.misconception(hint="You take the first row that fits, but the table has no order. Compare all rows that fit.")
def first_row_that_fits(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    usable = (row for row in table if row["device"] == device and row["minimum_memory_bytes"] <= free_bytes)
    return pick(next(usable), "bfloat16" if bf16 else "float32")


@exercise.misconception(
    hint="This always runs, but wastes the machine: you chose the row that asks for the least. Which end of the scale "
    "gives the more able model?"
)
def smallest_that_fits(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    return pick(from_large_to_small(table, device)[-1], "bfloat16" if bf16 else "float32")


@exercise.misconception(
    hint="A laptop with much memory got a GPU's row. Memory alone does not decide: look at the row's device as well."
)
def device_forgotten(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    return choose_method("any", free_bytes, bf16, [row | {"device": "any"} for row in table])


@exercise.misconception(
    hint="float16 looks like the natural second choice, but its largest number is 65,504: gradients overflow or vanish "
    "without loss scaling, which this course's loop does not do. The statement names the type to use."
)
def float16_without_bf16(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    return choose_method(device, free_bytes, bf16, table) | {"dtype": "bfloat16" if bf16 else "float16"}


@exercise.misconception(
    hint="A machine with exactly the bytes a row asks for can run it. Check which way your comparison treats equality."
)
def equality_refused(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    return choose_method(device, max(free_bytes - 1, 0), bf16, table)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    drawn = random.Random(seed)
    # Small rows come first, the least ones not quite, so that "the first that fits" is neither right nor the least.
    *larger, least = CUDA_BY_MEMORY
    rest = [CPU, CUDA_SMALL, *larger]
    drawn.shuffle(rest)
    table = [{column: getattr(row, column) for column in KEPT_COLUMNS} for row in (least, CPU_SMALL, *rest)]

    def case(name: str, device: str, free_bytes: int, bf16: bool, about: str, visible: bool = True) -> Case:
        inputs = {"device": device, "free_bytes": free_bytes, "bf16": bf16, "table": table}
        return Case(name, inputs, about, visible)

    def somewhere(low_gib: int, high_gib: int) -> int:
        return drawn.randrange(low_gib * 2**30, high_gib * 2**30)

    exact = drawn.choice(CUDA_BY_MEMORY).minimum_memory_bytes
    yield case("24 GB card", "cuda", somewhere(22, 43), True, "on a GPU with 22 to 43 GiB free")
    yield case("laptop", "cpu", somewhere(6, 100), True, "on a CPU")
    yield case("older card", "cuda", somewhere(15, 21), False, "on a GPU without bfloat16")
    yield case("exact", "cuda", exact, True, "when exactly the bytes of a row are free", visible=False)
    yield case("a byte less", "cuda", exact - 1, True, "when one byte is missing for a row", visible=False)
    yield case("small laptop", "cpu", somewhere(0, 3), False, "on a CPU with little memory", visible=False)


@exercise.oracle
def oracle(device: str, free_bytes: int, bf16: bool, table: list[dict]) -> dict:
    profile = choose_profile(device, free_bytes, bf16)
    return {"model": profile.model, "method": profile.method, "dtype": profile.dtype}

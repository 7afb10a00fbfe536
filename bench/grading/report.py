"""The figures as tables on the terminal."""

from __future__ import annotations

import os
import platform
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

PEERS = {"nbgrader": "nbgrader autograde", "otter": "otter run"}
GATE = 50
"""How many times nbgrader's throughput is required, on a heavy assignment with 100 submissions."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "processor": name or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []


def seconds_for(run: dict[str, Any], submissions: int) -> float:
    """A peer's time for so many submissions: measured at its own number, extrapolated in a line elsewhere."""
    return run["seconds"] + (submissions - run["submissions"]) * run["submission_seconds"]


def show(found: dict[str, Any], out: Console) -> None:
    """Print all tables that the figures allow."""
    there = found["machine"]
    host = f"{there['processor']}, {there['cores']} cores, Python {there['python']}"
    out.print(f"{host}; load before {there['load_before']:.1f}", highlight=False)
    for lesson, figures in found["assignments"].items():
        _show_runs(lesson, figures, out)
        _show_inside(lesson, figures, out)


def _show_runs(lesson: str, figures: dict[str, Any], out: Console) -> None:
    if "runs" not in figures:
        return
    there = {key: name for key, name in PEERS.items() if key in figures}
    table = Table(
        "submissions", "grader", "seconds", "processor s", *(f"{name} is slower by" for name in there.values())
    )
    table.title = f"{lesson}: whole commands, start-up included, sandbox on"
    sizes: list[int] = []
    for run in figures["runs"].values():
        size, spread = run["submissions"], run["all_seconds"]
        sizes += [size] * (size not in sizes)
        seconds = f"{run['seconds']:.1f} ({min(spread):.1f}-{max(spread):.1f} of {len(spread)})"
        ratios = [f"{seconds_for(figures[key], size) / run['seconds']:.0f}x" for key in there]
        table.add_row(str(size), run["grader"], seconds, f"{run['processor_seconds']:.1f}", *ratios)
    for key, name in there.items():
        for size in sizes:
            measured = figures[key]["submissions"]
            how = "" if measured == size else f" (extrapolated from {measured})"
            table.add_row(str(size), name, f"{seconds_for(figures[key], size):.0f}{how}", "")
    out.print(table)
    for key, name in there.items():
        out.print(f"{name}: {figures[key]['submission_seconds']:.2f} s a submission", highlight=False)
    _show_scaling(figures, out)


def _show_scaling(figures: dict[str, Any], out: Console) -> None:
    runs = figures["runs"]
    few, many = (f(run["submissions"] for run in runs.values()) for f in (min, max))
    marginal = {w: marginal_seconds(runs, w) for w in (1, 2)}
    if few == many:
        return
    one, two = runs[f"{many} 1"]["seconds"], runs[f"{many} 2"]["seconds"]
    line = f"1 -> 2 workers at {many}: {one / two:.2f}x whole, {marginal[1] / marginal[2]:.2f}x without start-up"
    out.print(
        f"{line}; a submission more costs {1e3 * marginal[1]:.0f} and {1e3 * marginal[2]:.0f} ms", highlight=False
    )
    if "large" in figures:
        large = figures["large"]
        guess = two + (large["submissions"] - many) * marginal[2]
        ran = f"{large['seconds']:.0f} s, extrapolated from {many}: {guess:.0f} s"
        out.print(f"{large['submissions']} submissions, 2 workers: {ran}", highlight=False)


def marginal_seconds(runs: dict[str, Any], workers: int) -> float:
    """What one submission more costs a whole run of ours: the slope between the smallest and the largest size, or 0."""
    mine = sorted((run["submissions"], run["seconds"]) for name, run in runs.items() if name.endswith(f" {workers}"))
    if len(mine) < 2:
        return 0.0
    (few, first), (many, last) = mine[0], mine[-1]
    return (last - first) / (many - few)


def _show_inside(lesson: str, figures: dict[str, Any], out: Console) -> None:
    if "inside" in figures:
        inside = figures["inside"]
        stages = inside["stage_seconds"]
        table = Table("stage", "ms", title=f"{lesson}: where one submission's time goes, one worker")
        for stage, seconds in sorted(stages.items(), key=lambda each: -each[1]):
            table.add_row(stage, f"{1e3 * seconds:.1f}")
        table.add_row("together", f"{1e3 * sum(stages.values()):.1f}")
        out.print(table)
        forks, memory = inside["fork_seconds"], inside["memory_bytes"]
        out.print(
            f"a child behind the wall ({inside['isolation']}) answers after {1e3 * forks['first_answer']:.1f} ms and "
            f"is gone {1e3 * forks['end']:.1f} ms after its end is asked for",
            highlight=False,
        )
        floor = inside["learner_seconds"]
        out.print(f"floor: the learner's own cells and calls take {1e3 * floor:.1f} ms of processor", highlight=False)
        more = marginal_seconds(figures.get("runs", {}), 2)
        if more and floor:
            ratio = more / (floor / 2)
            out.print(f"a submission more, 2 workers, against the floor on 2 cores: {ratio:.2f}x", highlight=False)
        sizes = ", ".join(f"{name.replace('_', ' ')} {size / 2**20:.0f} MiB" for name, size in memory.items())
        out.print(f"memory: {sizes}", highlight=False)
    if "dask" in figures:
        embedded, dask = (figures["dask"][f"{name}_seconds"] * 1e3 for name in ("embedded", "dask"))
        more = f"{dask - embedded:+.1f} ms a task"
        out.print(f"2 workers, warm: embedded {embedded:.1f} ms a submission, Dask {dask:.1f}: {more}", highlight=False)

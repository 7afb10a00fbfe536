"""This course's training loop beside TRL's SFTTrainer: python -m course.bench_training

Both train the same LoRA on the same base model, rows, order of rows, batch size, learning rates and dtype. Every run
is a fresh process, and the kinds alternate (A B C A B C ...), so that no kind alone has a warm cache or a busy minute.
Useful tokens are the real tokens of the rows, prompts and answers, not padding, counted alike for all kinds.

- `ours`: the loop with its defaults.
- `ours-unshared`: the same with nothing shared between rows, to show what sharing is worth.
- `trl`: SFTTrainer with its default settings.
- `trl-tuned`: what an expert would switch on: no gradient checkpointing (memory is not short here) and padding-free
  batches, or batches grouped by length (`trl-grouped`; another order of rows, so its losses are not compared).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course.training import EncodedRows, TrainingConfig

KINDS = ("ours", "ours-unshared", "trl", "trl-tuned", "trl-grouped")
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl": {},
    # TRL refuses a length limit together with padding-free batches; all rows are within it already.
    "trl-tuned": {"gradient_checkpointing": False, "padding_free": True, "max_length": None},
    "trl-grouped": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
}
WORKER_TIMEOUT_SECONDS = 1800


def main(arguments: list[str] | None = None) -> int:
    """Run the pairs, print the table, and return 0."""
    options = _parser().parse_args(arguments)
    if options.worker:
        result = run_ours(options) if options.worker.startswith("ours") else run_trl(options)
        Path(options.output).write_text(json.dumps(result))
        return 0
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in options.kinds}
    for repeat in range(options.repeats):
        for kind in options.kinds:
            result = _run_worker(kind, options)
            results[kind].append(result)
            speed = result["tokens"] / result["seconds"]
            print(f"  repeat {repeat + 1}, {kind}: {speed:.0f} useful tokens/s", file=sys.stderr, flush=True)
    print(table(results, options))
    return 0


def run_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train with course.training and report tokens, seconds, losses and the process's peak memory."""
    from course.training import train

    model, tokenizer, messages, _, config = _prepare(options)
    cpu_started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = train(model, tokenizer, messages, config, folder, progress=False)
    return {
        "tokens": run.tokens,
        "seconds": run.seconds,
        "cpu_seconds": time.process_time() - cpu_started,
        "losses": run.losses,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def run_trl(options: argparse.Namespace) -> dict[str, Any]:
    """Train with SFTTrainer on the rows in the order our loop takes them, and report the same figures."""
    import torch
    from datasets import Dataset  # type: ignore[attr-defined]  # mypy takes our data folder for the package
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from course.training.order import rows_of_step
    from course.training.run import peak_memory_bytes

    class Clock(TrainerCallback):
        """The time from the first step's start to the last one's end: building the trainer does not count."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.perf_counter()
            self.cpu_seconds += time.process_time()

    clock = Clock()
    model, tokenizer, _, encoded, config = _prepare(options)
    steps = config.steps(len(encoded.rows))
    ordered = [encoded.rows[i] for step in range(steps) for i in rows_of_step(step, len(encoded.rows), config)]
    data = Dataset.from_list([{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in ordered])
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            **{
                "output_dir": folder,
                "per_device_train_batch_size": config.batch_size,
                "max_steps": steps,
                "learning_rate": config.learning_rate,
                "lr_scheduler_type": config.schedule,
                "warmup_steps": config.warmup_steps(steps),
                "weight_decay": config.weight_decay,
                "max_grad_norm": config.clip_norm,
                "max_length": config.max_length,
                "bf16": options.dtype == "bfloat16",
                "seed": config.seed,
                "train_sampling_strategy": "sequential",
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                **TRL_SETTINGS[options.worker],
            }
        )
        trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
        trainer.train()
    return {
        "tokens": sum(len(row.input_ids) for row in ordered),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "peak_memory_bytes": peak_memory_bytes(torch.device(model.device)),
    }


def table(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The medians as a Markdown table, each kind beside `trl`; losses beside ours, step by step."""
    speeds = {kind: [run["tokens"] / run["seconds"] for run in runs] for kind, runs in results.items()}
    lines = [
        f"{options.steps} steps of {options.batch_size} rows, {options.dtype}, LoRA on all linear layers, "
        f"{options.repeats} runs each, medians (lowest-highest)",
        "",
        "| kind | useful tokens/s | ours is faster by | per CPU second, by | peak memory MB | loss beside ours |",
        "|---|---|---|---|---|---|",
    ]
    ours = results["ours"][0]["losses"]
    for kind, runs in results.items():
        speed = statistics.median(speeds[kind])
        ratio = statistics.median(speeds["ours"]) / speed
        memory = statistics.median(run["peak_memory_bytes"] for run in runs) / 1e6
        gaps = [abs(a - b) for a, b in zip(ours, runs[0]["losses"], strict=True)]
        mean_and_largest = f"mean difference {statistics.mean(gaps):.4f}, largest {max(gaps):.4f}"
        losses = "other order of rows" if kind == "trl-grouped" else mean_and_largest
        cpu_ratio = _median_cpu_seconds(runs) / _median_cpu_seconds(results["ours"])
        spread = f"{min(speeds[kind]):.0f}-{max(speeds[kind]):.0f}"
        lines.append(f"| {kind} | {speed:.0f} ({spread}) | {ratio:.2f}x | {cpu_ratio:.2f}x | {memory:.0f} | {losses} |")
    return "\n".join(lines)


def _prepare(options: argparse.Namespace) -> tuple[Any, Any, list[Any], EncodedRows, TrainingConfig]:
    """The same model with the same fresh adapter, and the same rows, for every kind."""
    import random

    from course.base_model import load_base_model
    from course.sql import load_examples, to_messages
    from course.training import TrainingConfig, add_adapter, encode_rows

    config = TrainingConfig(
        max_steps=options.steps,
        batch_size=options.batch_size,
        micro_batch_size=options.batch_size,
        share_prefixes=options.worker != "ours-unshared",
    )
    examples = random.Random(0).sample(list(load_examples("train")), options.rows)
    messages = [to_messages(example) for example in examples]
    model, tokenizer = load_base_model(dtype=options.dtype)
    return (
        add_adapter(model, config),
        tokenizer,
        messages,
        encode_rows(messages, tokenizer, config.max_length),
        config,
    )


def _median_cpu_seconds(runs: list[dict[str, Any]]) -> float:
    """The processor's time for a run: it stays put when other programs slow the clock's time down."""
    return statistics.median(run["cpu_seconds"] for run in runs)


def _run_worker(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, "-m", "course.bench_training", "--worker", kind, "--output", str(output)]
        for name in ("steps", "rows", "batch_size", "dtype"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WORKER_TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise SystemExit(f"The run of {kind} failed with exit status {done.returncode}:\n{done.stderr[-3000:]}")
        return json.loads(output.read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course.bench_training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each run")
    parser.add_argument("--rows", type=int, default=64, help="training rows to draw from")
    parser.add_argument("--batch-size", type=int, default=8, help="rows of one step")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["ours", "trl", "trl-tuned", "trl-grouped"])
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())

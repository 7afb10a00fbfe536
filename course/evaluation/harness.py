"""One evaluation through lm-eval: offline, with its own progress bars, resumable, kept in its own log format.

What lm-eval has is used as it is: HFLM as the model, YAML tasks, the response cache (`use_cache`), the tracker that
writes `results_*.json` and `samples_*.jsonl`. Added is what it leaves to the caller: a cache for each set of weights,
because lm-eval's keys hold the prompt and not the model; an error where its tracker only logs one; and quiet where
warnings are about choices that are meant.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

TASKS_FOLDER = Path(__file__).resolve().parent / "tasks"
SAMPLED_VALUE = 997  # of each tensor every 997th value goes into the digest


class EvaluationError(RuntimeError):
    """An evaluation that cannot start, or whose result could not be kept; says what to do."""


@dataclass(frozen=True)
class Evaluation:
    """One finished run. `results`: what lm-eval reports, without samples. Files as its tracker names them."""

    folder: Path
    results: Mapping[str, Any]
    results_file: Path
    sample_files: Mapping[str, Path]

    def score(self, task: str, metric: str) -> float:
        """One number, from 0 to 1. Raises KeyError naming the metrics that there are."""
        scores = self.results["results"][task]
        if f"{metric},none" not in scores:
            known = sorted(
                name.removesuffix(",none") for name in scores if name.endswith(",none") and "stderr" not in name
            )
            raise KeyError(f"no metric {metric!r} for {task!r}; there are {', '.join(known)}")
        return float(scores[f"{metric},none"])


def evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    folder: Path,
    *,
    shots: int = 0,
    chat: bool = False,
    system: str | None = None,
    items: Mapping[str, Sequence[int]] | None = None,
    batch_size: int = 16,
    tasks_folder: Path = TASKS_FOLDER,
) -> Evaluation:
    """Evaluate a transformers model on tasks of `tasks_folder` and keep everything in `folder`.

    shots: few-shot examples before each question. chat: prompts go through the tokenizer's chat template, `system`
    being its system message. items: {task: indices of its documents}, where not all are wanted.

    Each answer is written to the folder's response cache as soon as the model has given it. Interrupt the run in any
    way and call again: what is there is not asked again. Raises EvaluationError for a task that the folder does not
    hold, and when the result cannot be written.
    """
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder.mkdir(parents=True, exist_ok=True)
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        known = ", ".join(manager.all_tasks) or "none"
        raise EvaluationError(f"no task {', '.join(unknown)} in {tasks_folder}; there is {known}")
    tracker = EvaluationTracker(output_path=str(folder / "results.json"))
    with quiet_harness():
        results = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            model_args={"pretrained": folder.name},  # the name under which the tracker lists the model
            tasks=list(tasks),
            num_fewshot=shots,
            batch_size=batch_size,
            use_cache=str(folder / f"responses-{weights_digest(model)}"),
            samples={task: sorted(indices) for task, indices in items.items()} if items else None,
            evaluation_tracker=tracker,
            system_instruction=system,
            apply_chat_template=chat,
            task_manager=manager,
        )
        assert results is not None, "one process, so it is the one that reports"
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
    made = getattr(tracker, "date_id", None)
    results_file = folder / f"results_{made}.json"
    sample_files = {task: folder / f"samples_{task}_{made}.jsonl" for task in samples}
    if not all(path.exists() for path in (results_file, *sample_files.values())):
        raise EvaluationError(
            f"The results of {', '.join(tasks)} could not be written to {folder}. Is the disk full, or the folder not "
            "yours? Every answer is kept in the response cache: make room and run again."
        )
    return Evaluation(folder, results, results_file, sample_files)


def weights_digest(model: Any) -> str:
    """16 hexadecimal digits that change with the weights, their dtype and their names."""
    import torch

    digest = hashlib.sha256()
    with torch.no_grad():
        for name, values in model.state_dict().items():
            sampled = values.detach().reshape(-1)[::SAMPLED_VALUE].float().cpu()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Only errors of lm-eval; and no questions to the machine that take seconds or complain into the notebook.

    lm-eval asks git for the version of whatever lies around, and torch for a list of every package and processor flag.
    """
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            patch("lm_eval.evaluator.get_git_commit_hash", lambda: None),
            patch("torch.utils.collect_env.get_pretty_env_info", platform.platform),
        ):
            yield
    finally:
        log.setLevel(level)

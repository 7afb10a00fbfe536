"""A page for one evaluation, or for two of the same items: scores with intervals, slices, examples of each error kind.

One HTML file that needs nothing else: no script, no font, no network. Texts of models are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course.evaluation.harness import Evaluation
from course.evaluation.items import VIEWS, scored_items
from course.evaluation.summary import by_slice, compare_runs, error_kinds, turned

TEMPLATE = "report.html.j2"


def write_report(path: Path, title: str, evaluations: Mapping[str, Mapping[str, Evaluation]]) -> Path:
    """Write the page and return its path.

    evaluations: {run: {task: its evaluation}}, one run or two with the same tasks, the earlier one first. Raises
    ValueError for other numbers of runs, tasks that differ, or runs that did not answer the same items.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    names = list(evaluations)
    tasks = list(evaluations[names[0]]) if names else []
    if len(names) not in (1, 2) or any(set(evaluations[name]) != set(tasks) for name in names):
        given = {name: list(tasks) for name, tasks in evaluations.items()}
        raise ValueError(f"a report takes one run, or two with the same tasks; given are {given}")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    views = [_task_view(task, {name: evaluations[name][task] for name in names}) for task in tasks]
    facts = _facts(evaluations[names[-1]][tasks[0]].results)
    page = environment.get_template(TEMPLATE).render(title=title, names=names, tasks=views, facts=facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _task_view(task: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    runs = {name: scored_items(task, evaluation.sample_files[task]) for name, evaluation in evaluations.items()}
    changed = {name: items.to_dict("records") for name, items in turned(runs).items()}
    return {
        "name": task,
        "all": compare_runs(runs, f"{task}: {VIEWS[task].metric}"),
        "settings": "; ".join(f"{name}: {_settings(task, e.results)}" for name, e in evaluations.items()),
        "slices": by_slice(task, runs),
        "turned": changed,
        "errors": error_kinds(runs),
    }


def _settings(task: str, results: Mapping[str, Any]) -> str:
    """How the items were asked, as lm-eval logged it."""
    shots = results["n-shot"][task]
    said = [f"{shots} shot{'' if shots == 1 else 's'}", "chat template" if results["chat_template"] else "plain text"]
    if system := results["system_instruction"]:
        said.append(f"system message {system!r}")
    return ", ".join(said)


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    from datetime import UTC, datetime

    made = datetime.fromtimestamp(results["date"], UTC)
    return {
        "made": f"{made:%Y-%m-%d %H:%M} UTC",
        "lm-eval": results["lm_eval_version"],
        "transformers": results["transformers_version"],
        "weights in": str(results["config"].get("model_dtype", "?")).removeprefix("torch."),
    }

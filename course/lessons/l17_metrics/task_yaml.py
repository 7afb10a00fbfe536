"""A task of lm-eval as a YAML file that works offline: where documents are, how they are asked and scored.

Format: docs/task_guide.md of lm-evaluation-harness. Worked number: the file of this lesson's quiz has 19 lines, and
loading it with TaskManager(include_path=..., include_defaults=False) takes well under a second, without a network.
"""

from __future__ import annotations

import importlib
import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import yaml

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-task-yaml",
    title="A task for the harness, in YAML",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("evaluation",),
    hints=(
        "Write the fields as a Python dictionary first. A library turns it into YAML, with quotes where they are "
        "needed.",
        "If you write the YAML by hand: what does a backslash followed by n mean in single quotes, and what in double "
        "ones?",
        "A path or a name may hold a colon and a space, or a #. Try one.",
    ),
    forbidden=("lm_eval",),
    seconds=30.0,
    seconds_reason="importing lm_eval cold takes 5 seconds, and loading the documents some more",
    library_note="Every benchmark in lm-eval is such a file, or a small Python file beside it. With `!function` it "
    "may name any Python function, so a task file is code: run only those that you trust.",
    interview="How do you add your own test set to lm-eval, and what do you check before you believe its number?",
)

METRICS = ("acc", "acc_norm", "acc_bytes")


@exercise.reference
def task_yaml(name: str, data_files: dict[str, str]) -> str:
    """The text of a YAML file that makes a folder of JSON Lines files a multiple-choice task of lm-eval.

    name: what the task is called. data_files: {"test": path, "dev": path}, absolute paths of JSON Lines files, one
        document a line: {"question": text, "choices": list of texts, "answer": index of the right one}. Name and paths
        may hold characters that mean something in YAML.
    Wanted of the task:
        dataset_path "json", with the two files as `data_files` inside dataset_kwargs; evaluated on the split "test";
        shots from "dev"; output_type "multiple_choice";
        the prompt "Question: <question>", a newline, "Answer:", without a space at the end; the choices of the
        document as continuations (the harness puts the space before them); the right one is that at `answer`;
        metrics acc, acc_norm and acc_bytes, each with aggregation "mean" and higher_is_better true;
        metadata with version 1.0, a number.
    Keys of the file: task, dataset_path, dataset_kwargs (holds data_files, which holds one path for each split),
        test_split, fewshot_split, output_type, doc_to_text, doc_to_choice, doc_to_target, metric_list (a list; the keys
        of each entry are metric, aggregation, higher_is_better) and metadata (holds version). doc_to_* name a field of
        the document, or are Jinja templates such as "{{question}}".
    Write it in any way: `yaml.safe_dump` of a dictionary, or by hand with `json.dumps` around each text, since a JSON
        string is a YAML string (up to the character U+FFFF; none beyond it occurs here).
    Source: docs/task_guide.md of lm-evaluation-harness.
    """
    fields = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": dict(data_files)},
        "test_split": "test",
        "fewshot_split": "dev",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in METRICS],
        "metadata": {"version": 1.0},
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


@exercise.alternative
def written_by_hand(name, data_files):
    lines = [f"task: {json.dumps(name)}", "dataset_path: json", "dataset_kwargs:", "  data_files:"]
    lines += [f"    {split}: {json.dumps(path)}" for split, path in data_files.items()]
    lines += ["test_split: test", "fewshot_split: dev", "output_type: multiple_choice"]
    lines += ["doc_to_text: |-", "  Question: {{question}}", "  Answer:", 'doc_to_choice: "{{choices}}"']
    lines += ["doc_to_target: answer", "metric_list:"]
    for metric in ("acc", "acc_norm", "acc_bytes"):
        lines += [f"- metric: {metric}", "  aggregation: mean", "  higher_is_better: true"]
    return "\n".join([*lines, "metadata: {version: 1.0}"])


def with_fields(name: str, data_files: Mapping[str, str], **changed: Any) -> str:
    """The right file with some fields changed, or left out where they are None; written as JSON, which YAML "
    "includes."""
    fields: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": dict(data_files)},
        "test_split": "test",
        "fewshot_split": "dev",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{ question }}\nAnswer:",
        "doc_to_choice": "{{ choices }}",
        "doc_to_target": "{{ answer }}",
        "metric_list": [dict(metric=m, aggregation="mean", higher_is_better=True) for m in METRICS],
        "metadata": {"version": 1.0},
    } | changed
    return json.dumps({field: value for field, value in fields.items() if value is not None})


@exercise.misconception(
    hint="Your prompt holds a backslash and an n where a newline should be. In YAML's single quotes nothing is "
    "escaped: use double quotes, a block, or a library that writes YAML."
)
def newline_not_escaped(name, data_files):
    return with_fields(name, data_files, doc_to_text=r"Question: {{question}}\nAnswer:")


@exercise.misconception(
    hint="Your prompt ends with a space, and the harness puts another before each choice. The space belongs to the "
    "choice."
)
def space_at_the_end(name, data_files):
    return with_fields(name, data_files, doc_to_text="Question: {{question}}\nAnswer: ")


@exercise.misconception(
    hint="Your shots come from the split that is evaluated. The harness leaves the question itself out, but the score "
    "is then helped by neighbours from the test set: dev is there for that."
)
def shots_from_test(name, data_files):
    return with_fields(name, data_files, fewshot_split="test")


@exercise.misconception(
    hint="The wrong split is evaluated: dev. It is for shots and for trying things out; numbers come from test."
)
def evaluated_on_dev(name, data_files):
    return with_fields(name, data_files, test_split="dev", fewshot_split="test")


@exercise.misconception(
    hint="output_type is missing, so the task generates text instead of scoring choices: that is lm-eval's default."
)
def output_type_left_out(name, data_files):
    metric = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    return with_fields(name, data_files, output_type=None, metric_list=metric)


@exercise.misconception(
    hint="The right choice is given as an index counted from 1, or not taken from `answer`: the golds of your task are "
    "shifted. Check a few by eye."
)
def golds_counted_from_one(name, data_files):
    return with_fields(name, data_files, doc_to_target="{{answer + 1 if answer + 1 < choices|length else 0}}")


@exercise.misconception(
    hint="metric_list is missing. Then lm-eval reports its defaults, acc and acc_norm, and acc_bytes is not among them."
)
def metrics_left_out(name, data_files):
    return with_fields(name, data_files, metric_list=None)


@exercise.misconception(
    hint="The choices are listed in your prompt, too. That is another task (pick among what you see); asked for is "
    "the bare question."
)
def choices_in_the_prompt(name, data_files):
    listed = "Question: {{question}}\n{% for choice in choices %}- {{choice}}\n{% endfor %}Answer:"
    return with_fields(name, data_files, doc_to_text=listed)


@exercise.misconception(
    hint="Your name or path is not quoted. With a colon and a space or a # in it, YAML reads something else, or "
    "nothing."
)
def nothing_quoted(name, data_files):
    rest = yaml.safe_load(with_fields(name, data_files, task=None, dataset_kwargs=None))
    files = "".join(f"    {split}: {path}\n" for split, path in data_files.items())
    return f"task: {name}\ndataset_kwargs:\n  data_files:\n{files}" + yaml.safe_dump(rest)


@exercise.misconception(
    hint="Your metrics are counted as 'lower is better' or by another aggregation than the mean. A table made from "
    "such results ranks the models upside down."
)
def lower_is_better(name, data_files):
    wrong = [{"metric": m, "aggregation": "mean", "higher_is_better": False} for m in METRICS]
    return with_fields(name, data_files, metric_list=wrong)


@exercise.misconception(
    hint="Your dataset_kwargs hold the files themselves. They are arguments of the loader of JSON files, and the one "
    "that takes files is called data_files: one level is missing."
)
def data_files_level_left_out(name, data_files):
    return with_fields(name, data_files, dataset_kwargs=dict(data_files))


@exercise.misconception(
    hint="Your prompt holds the word in single braces instead of the document's question. Jinja wants two braces on "
    "each side; in a Python f-string that makes four."
)
def single_braces(name, data_files):
    return with_fields(name, data_files, doc_to_text="Question: {question}\nAnswer:")


@exercise.misconception(
    hint="A value that begins with {{ stands without quotes in your file. To YAML that is a mapping inside a mapping, "
    "and no text."
)
def template_not_quoted(name, data_files):
    rest = yaml.safe_load(with_fields(name, data_files, doc_to_choice=None))
    return yaml.safe_dump(rest) + "doc_to_choice: {{choices}}\n"


@exercise.misconception(
    hint="metadata with a version is missing. Results carry it: it says which wording of a task a number was made with."
)
def version_left_out(name, data_files):
    return with_fields(name, data_files, metadata=None)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def rows(count: int, choices: int) -> list[dict[str, Any]]:
        return [
            {
                "question": f"What is {a} + {b}?",
                "choices": [str(a + b + shift) for shift in range(choices)],
                "answer": draw.randrange(choices),
            }
            for a, b in ((draw.randint(1, 99), draw.randint(1, 99)) for _ in range(count))
        ]

    def case(name: str, about: str, task: str, folder: str, choices: int = 3, visible: bool = True) -> Case:
        inputs = {"name": task, "folder": folder, "test": rows(4, choices), "dev": rows(3, choices)}
        return Case(name, inputs, about, visible)

    yield case("plain", "on a plain name and path", f"sums_{draw.randint(10, 99)}", "data")
    yield case("awkward", "when name and path hold special characters", "sums: small", "a folder #1: new")
    yield case("another", "on another task", f"more_{seed % 97}", "more data", 4, visible=False)
    yield case("accents", "when the path has letters outside ASCII", "été", "données, 2", 2, visible=False)


@contextmanager
def private_cache(folder: str) -> Iterator[None]:
    """`datasets` keeps what it loads inside `folder`, and shows no progress bar."""
    datasets: Any = importlib.import_module("datasets")  # the library, where type checkers see this project's folder
    kept, bars = datasets.config.HF_DATASETS_CACHE, datasets.utils.logging.is_progress_bar_enabled()
    datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept
        if bars:
            datasets.enable_progress_bars()


def described(task: Any, requests_of: Any) -> dict[str, Any]:
    """What is compared of a task: what the harness would send with 0 and with 1 shot, right answers, metrics."""
    documents = list(task.eval_docs)
    return {
        "output_type": task.OUTPUT_TYPE,
        "requests": requests_of(task),
        "requests_with_a_shot": requests_of(task, num_fewshot=1),
        "golds": [task.doc_to_target(document) for document in documents],
        "metrics": {name: task.higher_is_better()[name] for name in task.higher_is_better()},
        "aggregations": {name: function.__name__ for name, function in task.aggregation().items()},
        "version": task.VERSION,
    }


@exercise.probe
def probe(answer: Any, name: str, folder: str, test: Sequence[Any], dev: Sequence[Any]) -> Any:
    """Writes the documents and the answer's YAML file, and lets lm-eval load the task from there."""
    from lm_eval.tasks import TaskManager

    from course.lessons.l17_metrics.harness_parts import quiet, requests_of

    quiet()
    with tempfile.TemporaryDirectory() as parent, private_cache(parent):
        data, tasks, empty = Path(parent) / folder, Path(parent) / "tasks", Path(parent) / "empty"
        for each in (data, tasks, empty):
            each.mkdir()
        paths = {}
        for split, rows in (("test", test), ("dev", dev)):
            paths[split] = str(data / f"{split}.jsonl")
            Path(paths[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        written = answer(name, paths)
        if not isinstance(written, str):
            raise TypeError(f"task_yaml must return the text of a YAML file; yours is a {type(written).__name__}")
        (tasks / "task.yaml").write_text(written, encoding="utf-8")
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        if name not in manager.all_tasks:
            return {"tasks_found": manager.all_tasks}
        # A task that names no files makes `datasets` read the whole current folder, which may hold anything.
        with chdir(empty):
            return {"tasks_found": manager.all_tasks} | described(manager.load(name)["tasks"][name], requests_of)


@exercise.oracle
def oracle(name: str, folder: str, test: Sequence[Any], dev: Sequence[Any]) -> Any:
    from course.lessons.l17_metrics.harness_parts import build_task, requests_of

    fields = yaml.safe_load(with_fields(name, {}))
    return {"tasks_found": [name]} | described(build_task(fields, {"test": test, "dev": dev}), requests_of)

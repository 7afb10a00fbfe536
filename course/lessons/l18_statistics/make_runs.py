"""Make `datasets/eval_runs` anew: trainings of L09's kind, cut short, and every question's right or wrong, in files.

    python -m course.lessons.l18_statistics.make_runs

About 40 minutes on two CPU cores, most of them training. It goes on where it was stopped: trainings from their
last checkpoint, answers from their last batch (in `runs/eval_runs`). The numbers of another machine differ a little: a
rounding in the last bit of a logit changes an answer here and there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from course.lessons.l09_qlora.run import Recipe, answers, chosen_recipe, scored
from course.lessons.l18_statistics.eval_runs import DATA_FOLDER
from course.quiz import load_quiz
from course.sql import SqlExample, load_examples, to_messages
from course.sql.generate import ROWS_PER_SCHEMA
from course.training import TrainingConfig, add_adapter, train
from course.training.checkpoint import TENSORS_FILE, trainable_parameters

WORK_FOLDER = Path("runs") / "eval_runs"
SEEN_STEP = 4  # every fourth question on seen schemas: 60 of 239, about 4 of each schema
QUIZ_ITEMS = 100  # the first 100 of 310: topics take turns in the file


LONG_FOLDER = WORK_FOLDER / "long"


@dataclass(frozen=True)
class Plan:
    """One run: how the model is asked, and what it is.

    long_step: the weights of the long run (`long_recipe`) after so many steps; None: the base model.
    order: those weights trained for MORE_STEPS more, over rows in the order of this seed; None: as they are.
    """

    name: str
    way: str = "tuned"
    long_step: int | None = None
    order: int | None = None
    quiz: bool = False
    seen: bool = True


MORE_STEPS = 6
MORE_LEARNING_RATE = 6e-4

PLANS = (
    Plan("step50", long_step=50, quiz=True),
    Plan("zero-shot", way="zero-shot", quiz=True),
    Plan("order1", long_step=50, order=1, seen=False),
    Plan("order2", long_step=50, order=2, seen=False),
)


def long_recipe() -> Recipe:
    """L09's model, trained with half its learning rate on 168 steps of 16 rows, drawn from all training rows."""
    recipe = chosen_recipe()
    training = TrainingConfig(
        method="qlora",
        rank=16,
        alpha=32.0,
        learning_rate=1.2e-3,
        max_steps=168,
        batch_size=16,
        micro_batch_size=16,
        rows_together=ROWS_PER_SCHEMA,
        max_length=recipe.training.max_length,
        seed=0,
    )
    return replace(recipe, training=training)


def all_training_rows() -> list[list[dict[str, str]]]:
    """The whole training set as conversations, in file order."""
    return [to_messages(example) for example in load_examples("train")]


def questions(plan: Plan) -> list[SqlExample]:
    """All 120 held-out questions, then every fourth one on seen schemas where the plan asks those, too."""
    return [*load_examples("heldout"), *(load_examples("seen")[::SEEN_STEP] if plan.seen else [])]


def long_checkpoint(step: int, recipe: Recipe) -> Path:
    """The tensors of the long run after `step` steps; the run is trained first, to its end, where it is not there."""
    path = LONG_FOLDER / "checkpoints" / f"step-{step:06d}" / TENSORS_FILE
    if not path.exists():
        from course.base_model import load_base_model

        base, tokenizer = load_base_model(dtype=recipe.dtype, quantize="nf4")
        keeping_all = replace(recipe.training, keep_checkpoints=recipe.training.steps(0))
        train(add_adapter(base, keeping_all), tokenizer, all_training_rows(), keeping_all, LONG_FOLDER)
    return path


def model_of(plan: Plan, recipe: Recipe) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, what its training was): the base model, or a tuned one merged into plain weights."""
    from safetensors.torch import load_file

    from course.base_model import load_base_model
    from course.lessons.l09_qlora.merge_dequantised import merge_dequantised
    from course.lessons.l09_qlora.merging import adapted_model, decode_exactly, merged_model

    if plan.long_step is None:
        return *load_base_model(dtype=recipe.dtype), {}
    weights = load_file(long_checkpoint(plan.long_step, recipe))
    base, tokenizer = load_base_model(dtype=recipe.dtype, quantize="nf4")
    adapted = decode_exactly(add_adapter(base, recipe.training))
    with torch.no_grad():
        for name, parameter in trainable_parameters(adapted).items():
            parameter.copy_(weights[f"weight/{name}"])
    facts: dict[str, Any] = {"training": recipe.training.to_dict(), "steps": plan.long_step}
    if plan.order is not None:
        more = replace(
            recipe.training, max_steps=MORE_STEPS, learning_rate=MORE_LEARNING_RATE, seed=plan.order, log_every_steps=1
        )
        run = train(adapted, tokenizer, all_training_rows(), more, WORK_FOLDER / plan.name)
        facts |= {"more_training": more.to_dict(), "more_tokens": run.tokens, "more_losses": run.losses}
        adapted, tokenizer = adapted_model(run.adapter_folder, recipe.dtype)
    return merged_model(adapted, merge_dequantised, recipe.dtype), tokenizer, facts


def quiz_rows(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """One row for each of the quiz items: the choice with the greatest log-likelihood, by lm-eval's model class."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    items = load_quiz("test")[:QUIZ_ITEMS]
    asked = [
        Instance("loglikelihood", {}, (f"Question: {item.question}\nAnswer:", f" {choice}"), index)
        for item in items
        for index, choice in enumerate(item.choices)
    ]
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    found = [value for value, _ in harness.loglikelihood(asked)]
    rows = []
    for place, item in enumerate(items):
        values = found[4 * place : 4 * place + 4]
        chosen = values.index(max(values))
        rows.append({"id": item.id, "topic": item.topic, "chosen": chosen, "correct": chosen == item.answer})
    return rows


def sql_rows(plan: Plan, model: Any, tokenizer: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """One row for each question: id, split, schema, kind, correct, outcome and the answer's text."""
    asked = questions(plan)
    texts = answers(plan.way, lambda: (model, tokenizer), asked, recipe, WORK_FOLDER / plan.name / "answers.jsonl")
    table = scored(plan.way, texts, asked)[["id", "split", "schema", "kind", "correct", "outcome"]]
    return [{**row, "answer": text} for row, text in zip(table.to_dict("records"), texts, strict=True)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make(folder: Path = DATA_FOLDER) -> None:
    """Every run's files, `runs.json` that says what was run, and the checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = long_recipe()
    packages = ("torch", "transformers", "peft", "bitsandbytes", "lm-eval")
    index: dict[str, Any] = {"versions": {name: version(name) for name in packages}, "runs": []}
    for plan in PLANS:
        sql_path, quiz_path = folder / f"{plan.name}.sql.jsonl", folder / f"{plan.name}.quiz.jsonl"
        record_path = WORK_FOLDER / plan.name / "record.json"
        if not (sql_path.exists() and record_path.exists()):
            model, tokenizer, facts = model_of(plan, recipe)
            record_path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(sql_path, sql_rows(plan, model, tokenizer, recipe))
            if plan.quiz:
                write_rows(quiz_path, quiz_rows(model, tokenizer))
            record = {"name": plan.name, "way": plan.way, "model": recipe.model, "dtype": recipe.dtype, **facts}
            record_path.write_text(json.dumps(record), encoding="utf-8")
        index["runs"].append(json.loads(record_path.read_text(encoding="utf-8")))
    (folder / "runs.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jsonl"))}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make()
    print(f"written: {DATA_FOLDER}")

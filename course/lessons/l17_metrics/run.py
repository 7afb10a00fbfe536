"""The lesson's run in one place: the base model and L09's tuned model, evaluated on `quiz` and `sql` through lm-eval.

The tuned model is that of the learner's own L09 run. Where it is not there, a shorter one is trained by the same code,
and `Plan.says` tells so. Everything lands in one folder of the workspace; interrupt it and run again to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course.evaluation import Evaluation, evaluate
from course.lessons.l09_qlora.merge_dequantised import merge_dequantised
from course.lessons.l09_qlora.merging import adapted_model, merged_model
from course.lessons.l09_qlora.run import Recipe, chosen_recipe, training_rows
from course.quiz import load_quiz
from course.sql import INSTRUCTION, TUNED_SYSTEM, load_examples

SHORT_STEPS = 60  # 480 rows: enough to answer some questions, about half of L09's training
SQL_QUESTIONS = 120
# The system turn that each model knows: the base model is told what to do, the tuned one was trained with its own.
SQL_SYSTEM = {"before": INSTRUCTION, "after": TUNED_SYSTEM}


@dataclass(frozen=True)
class Plan:
    """What is evaluated. recipe: L09's, or its shortened form. quiz_items, sql_items: indices of documents."""

    recipe: Recipe
    trained_in_l09: bool
    quiz_items: tuple[int, ...]
    sql_items: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """`runs/l17`, or beside it for another model or a shortened run, as L09 names its folders."""
        return Path("runs") / self.recipe.folder.name.replace("l09", "l17")

    @property
    def adapter_folder(self) -> Path:
        """Where the adapter is, or will be once it is trained."""
        return self.training_folder / "adapter"

    @property
    def training_folder(self) -> Path:
        """L09's, or one of this lesson's own, so that neither is overwritten."""
        if self.trained_in_l09:
            return self.recipe.training_folder
        return self.folder / f"training-{self.recipe.training.hash()}"

    @property
    def says(self) -> str:
        """Which adapter this is, in a sentence."""
        if self.trained_in_l09:
            return f"The tuned model is your own of L09: {self.adapter_folder}"
        wanted = self.recipe.training.max_steps
        return (
            f"There is no finished adapter in {chosen_recipe().training_folder}, so a SHORT one is trained here, "
            f"{wanted} steps of L09's recipe. It is weaker than L09's. Run L09 first to have yours measured."
        )


def chosen_plan() -> Plan:
    """All of `quiz` and 120 questions of `sql`, seen and held-out alike; with COURSE_SMOKE=1 a few of each."""
    recipe = chosen_recipe()
    trained = (recipe.training_folder / "adapter" / "adapter_config.json").is_file()
    if not trained:
        recipe = replace(recipe, training=replace(recipe.training, max_steps=1 if recipe.smoke else SHORT_STEPS))
    if recipe.smoke:
        return Plan(recipe, trained, tuple(range(2)), sql_sample(2))
    return Plan(recipe, trained, tuple(range(len(load_quiz()))), sql_sample(SQL_QUESTIONS))


def sql_sample(count: int) -> tuple[int, ...]:
    """Indices of `count` questions, half of them on seen schemas and half on held-out ones, spread evenly over each."""
    splits = [example.split for example in load_examples("test")]
    chosen: list[int] = []
    for split in ("seen", "heldout"):
        places = [index for index, name in enumerate(splits) if name == split]
        wanted = count // 2
        chosen += [places[i * len(places) // wanted] for i in range(wanted)]
    return tuple(sorted(chosen))


def train_if_needed(plan: Plan) -> None:
    """Train the short adapter, from its last checkpoint; nothing to do where the adapter is there."""
    from course.base_model import load_base_model
    from course.training import add_adapter, train

    if (plan.adapter_folder / "adapter_config.json").is_file():
        return
    base, tokenizer = load_base_model(dtype=plan.recipe.dtype, quantize="nf4")
    adapted = add_adapter(base, plan.recipe.training)
    train(adapted, tokenizer, training_rows(), plan.recipe.training, plan.training_folder)


def tuned_model(plan: Plan) -> tuple[Any, Any]:
    """The adapter merged onto the decoded 4-bit weights it was trained on, as a plain model; and the tokenizer."""
    adapted, tokenizer = adapted_model(plan.adapter_folder, "float32")
    return merged_model(adapted, merge_dequantised, plan.recipe.dtype), tokenizer


def evaluate_both_tasks(plan: Plan, name: str, model: Any, tokenizer: Any) -> dict[str, Evaluation]:
    """`quiz` as plain text and `sql` in the chat template, for the model called `name`: "before" or "after"."""
    folder = plan.folder / name
    quiz = evaluate(model, tokenizer, ["quiz"], folder, items={"quiz": plan.quiz_items})
    sql = evaluate(
        model,
        tokenizer,
        ["sql"],
        folder,
        chat=True,
        system=SQL_SYSTEM[name],
        items={"sql": plan.sql_items},
        batch_size=plan.recipe.evaluation_batch_size,
    )
    return {"quiz": quiz, "sql": sql}

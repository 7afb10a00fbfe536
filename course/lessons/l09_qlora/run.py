"""The lesson's run in one place: the base model answers SQL questions, learns on 4-bit weights, and answers again.

Everything lands in one folder of the learner's workspace. Training goes on from its last checkpoint and an evaluation
from its last finished batch; a finished one is read from its file. Delete a file or folder to do that part again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course.device import BUNDLED_MODEL, device_profile
from course.sql import INSTRUCTION, TUNED_SYSTEM, SqlExample, load_examples, score_all, to_messages
from course.sql.budget import rows_for_budget
from course.training import TrainingConfig

if TYPE_CHECKING:
    import pandas

SEED = 0
# 1,000 rows, some 70,000 tokens: on two CPU cores without AVX-512, 339 to 377 s (2021), 536 s (2017).
STEPS = 125
ROWS_A_STEP = 8
SHOT_KINDS = ("filter", "group", "join", "superlative")


@dataclass(frozen=True)
class Recipe:
    """Every choice of the run. `questions_per_split` None means all of them."""

    training: TrainingConfig
    model: str
    dtype: str
    questions_per_split: int | None = None
    evaluation_batch_size: int = 32
    max_new_tokens: int = 64
    smoke: bool = False

    @property
    def folder(self) -> Path:
        """`runs/l09`; another model or a shortened run has a folder of its own, so that no numbers are mixed up."""
        other_model = "" if self.model == BUNDLED_MODEL else "-" + re.sub(r"\W+", "-", self.model).strip("-")
        return Path("runs") / f"l09{other_model}{'-smoke' if self.smoke else ''}"

    @property
    def training_folder(self) -> Path:
        """One folder for each set of training choices, so that a change starts a new run beside the old one."""
        return self.folder / f"training-{self.training.hash()}"


def chosen_recipe() -> Recipe:
    """The full run, or with COURSE_SMOKE=1 a few steps and a few questions that only show that every cell works."""
    profile = device_profile()
    smoke = os.environ.get("COURSE_SMOKE") == "1"
    training = TrainingConfig(
        method="qlora",
        rank=16,
        alpha=32.0,
        learning_rate=2.2e-3,
        schedule="linear",
        max_steps=2 if smoke else STEPS,
        batch_size=2 if smoke else ROWS_A_STEP,
        micro_batch_size=2 if smoke else ROWS_A_STEP,
        rows_together=STEPS * ROWS_A_STEP,  # all: the order is part of the choice, and is kept
        max_length=profile.max_length,
        seed=SEED,
    )
    shortened = {"questions_per_split": 2, "max_new_tokens": 12} if smoke else {}
    return Recipe(training, profile.model, profile.dtype, smoke=smoke, **shortened)


def training_rows() -> list[list[dict[str, str]]]:
    """The conversations to learn from, as many as the run has time for, in the order to train on them."""
    chosen = rows_for_budget(load_examples("train"), STEPS * ROWS_A_STEP, SEED)
    return [to_messages(example) for example in chosen]


def test_questions(recipe: Recipe) -> list[SqlExample]:
    """The hand-written questions: schemas seen in training first, then the held-out ones."""
    return [example for split in ("seen", "heldout") for example in load_examples(split)[: recipe.questions_per_split]]


def worked_examples() -> list[SqlExample]:
    """The few-shot examples: one training row of each of four kinds, drawn by the seed, schemas short."""
    draw = random.Random(SEED)
    rows = sorted(load_examples("train"), key=lambda row: (len(row.schema_text), row.id))
    return [draw.choice([row for row in rows if row.kind == kind][:50]) for kind in SHOT_KINDS]


def conversations(questions: Sequence[SqlExample], way: str) -> list[list[dict[str, str]]]:
    """Prompts for the questions. way: "zero-shot", "few-shot", or "tuned" (the format of the training rows)."""
    if way not in ("zero-shot", "few-shot", "tuned"):
        raise ValueError(f"way={way!r} is not known. Use 'zero-shot', 'few-shot' or 'tuned'.")
    shots = worked_examples() if way == "few-shot" else []
    system = TUNED_SYSTEM if way == "tuned" else INSTRUCTION
    return [to_messages(question, with_answer=False, shots=shots, system=system) for question in questions]


def answers(
    way: str,
    load_model: Callable[[], tuple[Any, Any]],
    questions: Sequence[SqlExample],
    recipe: Recipe,
    path: Path,
) -> list[str]:
    """The model's answers, kept in `path` as they come; only prompts that it has no answer to are asked.

    load_model() -> (model, tokenizer) is called when there is anything left to ask.
    """
    from tqdm.auto import tqdm

    from course.generation import generate_batch

    path.parent.mkdir(parents=True, exist_ok=True)
    known = _read_answers(path)
    prompts = conversations(questions, way)
    keys = [hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16] for prompt in prompts]
    unanswered = [index for index, key in enumerate(keys) if key not in known]
    unanswered.sort(key=lambda index: len(str(prompts[index])))  # prompts of like length need little padding
    if unanswered:
        model, tokenizer = load_model()
        size = recipe.evaluation_batch_size
        with path.open("a", encoding="utf-8") as file:
            for start in tqdm(range(0, len(unanswered), size), desc=way, unit="batch"):
                batch = unanswered[start : start + size]
                texts = generate_batch(
                    model, tokenizer, [prompts[i] for i in batch], recipe.max_new_tokens, progress=False
                )
                for index, text in zip(batch, texts, strict=True):
                    known[keys[index]] = text
                    file.write(json.dumps({"prompt": keys[index], "id": questions[index].id, "text": text}) + "\n")
                file.flush()
    return [known[key] for key in keys]


def _read_answers(path: Path) -> dict[str, str]:
    """Answers by their prompt's hash. A last line cut short by a killed kernel is cut off the file."""
    if not path.exists():
        return {}
    whole, _, cut = path.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["prompt"]: row["text"] for row in rows}


def scored(way: str, texts: Sequence[str], questions: Sequence[SqlExample]) -> pandas.DataFrame:
    """One row a question: way, id, split, schema, kind, question, gold, predicted, correct, outcome, message."""
    import pandas

    return pandas.DataFrame(
        {
            "way": way,
            "id": question.id,
            "split": question.split,
            "schema": question.schema,
            "kind": question.kind,
            "question": question.question,
            "gold": question.sql,
            **judged.to_dict(),
        }
        for question, judged in zip(questions, score_all(texts, questions), strict=True)
    )

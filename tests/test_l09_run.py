"""The QLoRA lesson's run: answers survive a killed kernel, and the merged model is the trained one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from course.device import BUNDLED_MODEL
from course.lessons.l09_qlora import run
from course.training import TrainingConfig


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> run.Recipe:
    monkeypatch.chdir(tmp_path)
    return run.Recipe(
        TrainingConfig(method="qlora"),
        BUNDLED_MODEL,
        "float32",
        questions_per_split=5,
        evaluation_batch_size=4,
        smoke=True,
    )


class Generator:
    """Stands in for generate_batch: answers with the question's last line, and dies after so many calls."""

    def __init__(self, calls_until_death: int = 99) -> None:
        self.left, self.asked = calls_until_death, 0

    def __call__(self, model: Any, tokenizer: Any, prompts: Any, max_new_tokens: int, progress: bool) -> list[str]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(prompts)
        return [prompt[-1]["content"].splitlines()[-1] for prompt in prompts]


def ask(recipe: run.Recipe, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("course.generation.generate_batch", generator)
    questions = run.test_questions(recipe)
    return run.answers("tuned", lambda: (None, None), questions, recipe, recipe.folder / "tuned.jsonl")


def test_answers_go_on_after_a_kill_and_are_read_when_done(recipe, monkeypatch) -> None:
    wanted = [question.question for question in run.test_questions(recipe)]
    with pytest.raises(KeyboardInterrupt):
        ask(recipe, Generator(calls_until_death=2), monkeypatch)
    second = Generator()
    assert ask(recipe, second, monkeypatch) == wanted
    assert second.asked == len(wanted) - 2 * recipe.evaluation_batch_size
    third = Generator(calls_until_death=0)
    assert ask(recipe, third, monkeypatch) == wanted


def test_a_line_cut_short_is_asked_again(recipe, monkeypatch) -> None:
    wanted = ask(recipe, Generator(), monkeypatch)
    path = recipe.folder / "tuned.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-7])
    second = Generator()
    assert ask(recipe, second, monkeypatch) == wanted
    assert second.asked == 1
    assert {row["id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())} == {
        row["id"]: row["text"] for row in map(json.loads, whole.splitlines())
    }


def test_few_shot_examples_are_training_rows_of_four_kinds() -> None:
    shots = run.worked_examples()
    assert [shot.kind for shot in shots] == list(run.SHOT_KINDS)
    assert {shot.split for shot in shots} == {"train"}
    assert shots == run.worked_examples()


def test_unknown_way_is_refused(recipe) -> None:
    with pytest.raises(ValueError, match="way='one-shot' is not known"):
        run.conversations(run.test_questions(recipe), "one-shot")


def test_other_models_have_their_own_folder(recipe) -> None:
    assert replace(recipe, model="Qwen/Qwen3-0.6B", smoke=False).folder == Path("runs/l09-Qwen-Qwen3-0-6B")
    assert replace(recipe, smoke=False).folder == Path("runs/l09")


def test_smoke_runs_are_kept_apart(monkeypatch) -> None:
    monkeypatch.setenv("COURSE_SMOKE", "1")
    smoke = run.chosen_recipe()
    monkeypatch.delenv("COURSE_SMOKE")
    full = run.chosen_recipe()
    assert smoke.folder != full.folder
    assert full.questions_per_split is None
    assert smoke.training_folder != full.training_folder


@pytest.mark.slow
def test_a_merge_is_the_trained_model_also_where_some_layers_have_no_adapter(tmp_path: Path) -> None:
    import torch

    from course.base_model import load_base_model
    from course.lessons.l09_qlora.merge_dequantised import merge_dequantised
    from course.lessons.l09_qlora.merging import adapted_model, merged_model
    from course.training import add_adapter, save_adapter

    config = TrainingConfig(method="qlora", target_modules=("q_proj", "v_proj"))
    trained = add_adapter(load_base_model(dtype="float32", quantize="nf4")[0], config)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    adapted, tokenizer = adapted_model(save_adapter(trained, tmp_path / "adapter"), "float32")
    merged = merged_model(adapted, merge_dequantised, "float32")
    ids = torch.tensor([tokenizer("SELECT name FROM members WHERE age > 30")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-3, atol=1e-3)

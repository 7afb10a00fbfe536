"""The metrics lesson's run: which adapter is measured, what is asked, and that shortened runs stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from course.lessons.l09_qlora.run import chosen_recipe
from course.lessons.l17_metrics import run
from course.sql import load_examples


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COURSE_SMOKE", raising=False)


def test_without_an_adapter_a_short_one_is_planned_and_said() -> None:
    plan = run.chosen_plan()
    assert not plan.trained_in_l09
    assert plan.recipe.training.max_steps == run.SHORT_STEPS
    assert "a SHORT one is trained here" in plan.says
    assert plan.training_folder.parent == plan.folder == Path("runs/l17")


def test_the_learners_own_adapter_is_measured() -> None:
    adapter = chosen_recipe().training_folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    plan = run.chosen_plan()
    assert plan.trained_in_l09
    assert plan.adapter_folder == adapter
    assert plan.recipe == chosen_recipe()
    assert str(adapter) in plan.says
    run.train_if_needed(plan)  # would load the base model if it trained


def test_all_of_quiz_and_half_seen_half_held_out_sql() -> None:
    plan = run.chosen_plan()
    examples = load_examples("test")
    chosen = [examples[index] for index in plan.sql_items]
    assert len(plan.quiz_items) == 310
    assert [sum(example.split == split for example in chosen) for split in ("seen", "heldout")] == [60, 60]
    assert len({example.id for example in chosen}) == run.SQL_QUESTIONS
    assert len({example.schema for example in chosen}) == 18


def test_smoke_runs_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    full = run.chosen_plan()
    monkeypatch.setenv("COURSE_SMOKE", "1")
    smoke = run.chosen_plan()
    assert smoke.folder == Path("runs/l17-smoke")
    assert smoke.quiz_items == (0, 1)
    examples = load_examples("test")
    assert sorted(examples[index].split for index in smoke.sql_items) == ["heldout", "seen"]
    assert smoke.training_folder != full.training_folder

"""The gate of L18's sentence: each number that the results do not give is refused by name; own runs are read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from course.device import BUNDLED_MODEL
from course.lessons.l09_qlora import run
from course.lessons.l09_qlora.comparison import gains, shares
from course.lessons.l18_statistics.eval_runs import as_table
from course.lessons.l18_statistics.honest_sentence import honest_sentence
from course.lessons.l18_statistics.own_run import ArtefactError, has_own_run, own_rows
from course.lessons.l18_statistics.sentence import refusals, truth
from course.sql import to_messages
from course.training import TrainingConfig

ROWS = as_table("zero-shot", "step50")
SAID = honest_sentence(ROWS, "zero-shot", "step50", "heldout")["sentence"]
REAL = truth(ROWS, "zero-shot", "step50", "heldout")


def refused(sentence: str) -> list[str]:
    return refusals(sentence, ROWS, "zero-shot", "step50", "heldout")


def test_the_reference_says_what_the_results_give() -> None:
    assert refused(SAID) == []
    assert refused(SAID.replace(" questions ", "\n questions ")) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("On 120", "On 240", "240 questions"),
        ("held-out", "seen", "'seen'"),
        ("step50", "order1", "'order1'"),
        (f"answers {REAL.after:.1f}", f"answers {REAL.after + 0.1:.1f}", "for step50"),
        (f"model {REAL.before:.1f}", f"model {REAL.before + 0.1:.1f}", "for zero-shot"),
        (f"of {REAL.gain:.1f} points", f"of {REAL.gain - 0.1:.1f} points", "a gain of"),
        ("a gain of", "a loss of", "a loss of"),
        (f"[{REAL.low:.1f},", f"[{REAL.low - 0.3:.1f},", "an interval"),
        (f" {REAL.high:.1f}]", f" {REAL.high + 0.3:.1f}]", "an interval"),
        ("excludes 0", "includes 0", "includes"),
        ("a gain of", "a dramatic gain of", "does not have the form"),
    ],
)
def test_one_wrong_part_is_refused_by_name(old: str, new: str, says: str) -> None:
    assert old in SAID
    found = refused(SAID.replace(old, new, 1))
    assert len(found) == 1
    assert says in found[0]


def test_another_draw_of_questions_has_its_own_interval_and_its_own_sentence() -> None:
    said = honest_sentence(ROWS, "zero-shot", "step50", "heldout", seed=5, resamples=99)
    real = truth(ROWS, "zero-shot", "step50", "heldout", seed=5, resamples=99)
    assert (said["low"], said["high"]) == pytest.approx((real.low, real.high), abs=1e-9)
    assert (real.low, real.high) != (REAL.low, REAL.high)
    assert refusals(said["sentence"], ROWS, "zero-shot", "step50", "heldout", seed=5, resamples=99) == []
    assert "an interval of" in refused(said["sentence"])[0]


def test_runs_on_other_questions_have_no_truth() -> None:
    with pytest.raises(ValueError, match="119 of them in common"):
        truth([row for row in ROWS if row != ROWS[-1] and row != ROWS[0]], "zero-shot", "step50", "heldout")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """L09's folder as its notebook leaves it, made by L09's own functions; gold answers for some tuned questions."""
    monkeypatch.chdir(tmp_path)
    training = TrainingConfig(method="qlora", max_steps=3)
    recipe = run.Recipe(training, BUNDLED_MODEL, "float32")
    questions = run.test_questions(recipe)

    def generate(model: Any, tokenizer: Any, prompts: Any, max_new_tokens: int, progress: bool) -> list[str]:
        gold = {to_messages(example)[1]["content"]: example.sql for example in questions}
        texts = [gold[prompt[-1]["content"]] for prompt in prompts]
        return [text if len(text) % 2 else "no query" for text in texts] if model == "tuned" else ["?"] * len(prompts)

    monkeypatch.setattr("course.generation.generate_batch", generate)
    import pandas

    tables = []
    for way in ("zero-shot", "few-shot", "tuned"):
        path = recipe.training_folder / "answers.jsonl" if way == "tuned" else recipe.folder / f"{way}.jsonl"
        texts = run.answers(way, lambda way=way: (way, None), questions, recipe, path)
        tables.append(run.scored(way, texts, questions))
    table = pandas.concat(tables, ignore_index=True)
    record = {
        "accuracy": shares(table).round(2).to_dict("records"),
        "gains": gains(table, "tuned", ["zero-shot", "few-shot"]).round(2).to_dict("records"),
        "smoke": False,
        "model": recipe.model,
        "training": training.to_dict(),
    }
    (recipe.folder / "result.json").write_text(json.dumps(record))
    return recipe.folder


def test_the_learners_own_run_is_scored_again_and_its_sentence_passes(finished: Path) -> None:
    assert has_own_run()
    rows = own_rows()
    assert len(rows) == 3 * 359
    said = honest_sentence(rows, "few-shot", "tuned", "heldout")
    assert refusals(said["sentence"], rows, "few-shot", "tuned", "heldout") == []
    (gain,) = [
        each
        for each in json.loads((finished / "result.json").read_text())["gains"]
        if (each["before"], each["split"]) == ("few-shot", "heldout")
    ]
    assert round(said["gain"], 2) == gain["points"] > 5


def test_a_record_that_its_answers_do_not_give_is_refused(finished: Path) -> None:
    path = finished / "result.json"
    record = json.loads(path.read_text())
    record["accuracy"][-1]["percent"] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match=r"result\.json says"):
        own_rows()


def test_missing_answers_and_a_shortened_run_are_refused(finished: Path) -> None:
    answers = finished / "few-shot.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ArtefactError, match=r"few-shot\.jsonl does not hold an answer"):
        own_rows()
    path = finished / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"smoke": True}))
    with pytest.raises(ArtefactError, match="shortened run"):
        own_rows()

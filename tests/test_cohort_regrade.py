"""Grading again, and receipts: changed checks change no grade unseen, no grade is lost, nobody can write a receipt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from attacks import RIGHT, RIGHT_MEAN, WRONG
from submissions import hand_in
from tiny_courses import copy_course, load_course

from grader.catalogue import Catalogue
from grader.cohort.collect import Handed, find_submissions
from grader.cohort.grading import Grader
from grader.cohort.receipt import ReceiptError, check_receipt, write_receipts
from grader.cohort.regrade import Regrading
from grader.cohort.run import Graded, grade_all
from grader.cohort.store import ResultStore

LESSON = "l01_plain"
SUM, MEAN = "l01-scaled-sum", "l01-running-mean"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def graders(catalogue: Catalogue) -> Iterator[tuple[Grader, Grader]]:
    """Two versions of the checks: they differ in their seed."""
    with Grader(LESSON, seed=1, catalogue=catalogue) as old, Grader(LESSON, seed=2, catalogue=catalogue) as new:
        yield old, new


@pytest.fixture
def handed(catalogue: Catalogue, tmp_path: Path) -> list[Handed]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_bytes(hand_in(catalogue, LESSON, {SUM: RIGHT, MEAN: RIGHT_MEAN}))
    (tmp_path / "in" / "bob.ipynb").write_bytes(hand_in(catalogue, LESSON, {SUM: WRONG}))
    return find_submissions(tmp_path / "in", catalogue.lesson(LESSON))


def as_if_it_had_been_graded_otherwise(store: ResultStore, learner: str) -> None:
    """What an older, stricter check of the first exercise might have said."""
    result = store.load(learner)
    assert result is not None
    first = replace(result.results[0], status="failed", points=0.0)
    store.save(replace(result, results=(first, *result.results[1:])))


def test_new_checks_write_nothing_until_told_and_say_whose_score_changes(graders, handed, tmp_path):
    old, new = graders
    store = ResultStore(tmp_path / "out", LESSON)
    grade_all(old, handed, store, workers=1)
    as_if_it_had_been_graded_otherwise(store, "ada")
    before = store.path("ada").read_bytes()

    proposal = Regrading.plan(store, new.version, apply=False)
    results = grade_all(new, handed, proposal.target, workers=1)
    (change,) = proposal.finish(results)
    assert (change.learner, change.exercise_id, change.points) == ("ada", SUM, 3)
    assert (change.before, change.after) == ("failed 0/3", "passed 3/3")
    assert change.reason == "the checks changed: scaled_sum: all 5 cases passed."
    assert store.path("ada").read_bytes() == before

    agreed = Regrading.plan(store, new.version, apply=True)
    seen: list[Graded] = []
    again = grade_all(new, handed, agreed.target, workers=1, on_done=seen.append)
    assert all(each.kept for each in seen)  # What was proposed is not graded a second time.
    assert agreed.finish(again) == [change]
    assert store.load("ada") == again[0] and again[0].points == 5
    assert not agreed.target.folder.exists()
    assert not Regrading.plan(store, new.version, apply=False).proposed
    kept = [json.loads(path.read_text())["points"] for path in sorted((store.folder / "superseded").glob("ada.*"))]
    assert 2.0 in kept


def test_a_changed_notebook_under_the_same_checks_is_written_at_once(graders, catalogue, handed, tmp_path):
    old, _ = graders
    store = ResultStore(tmp_path / "out", LESSON)
    grade_all(old, handed, store, workers=1)
    handed[1].path.write_bytes(hand_in(catalogue, LESSON, {SUM: RIGHT}))
    plan = Regrading.plan(store, old.version, apply=False)
    assert plan.target is store
    assert grade_all(old, handed, plan.target, workers=1)[1].points == 3
    (first,) = (store.folder / "superseded").iterdir()  # The grade of the first hand-in is not lost.
    assert json.loads(first.read_text())["points"] == 0


def test_a_learner_whose_file_is_gone_keeps_the_grade(graders, handed, tmp_path):
    old, new = graders
    store = ResultStore(tmp_path / "out", LESSON)
    grade_all(old, handed, store, workers=1)
    handed[0].path.unlink()
    agreed = Regrading.plan(store, new.version, apply=True)
    agreed.finish(grade_all(new, handed, agreed.target, workers=1))
    kept = store.load("ada")
    assert kept is not None and kept.points == 5


def test_a_receipt_is_genuine_until_anything_in_it_changes(graders, catalogue, handed, tmp_path):
    old, _ = graders
    store = ResultStore(tmp_path / "out", LESSON)
    results = grade_all(old, handed, store, workers=1)
    receipts = write_receipts(store.root, store.folder, results)
    bob = receipts / "bob.json"
    said = check_receipt(bob, store.root, handed[1].path)
    assert (said["points"], said["exercises"][0]["status"]) == (0, "failed")

    text = bob.read_text()
    write_receipts(store.root, store.folder, results)
    assert bob.read_text() == text  # The time of grading stays.

    bob.write_text(text.replace('"points": 0.0', '"points": 3.0', 1))
    with pytest.raises(ReceiptError, match="was changed since it was signed"):
        check_receipt(bob, store.root)
    bob.write_text(text)
    with pytest.raises(ReceiptError, match="is not the graded file"):
        check_receipt(bob, store.root, handed[0].path)
    with pytest.raises(ReceiptError, match="name the results folder"):
        check_receipt(bob, tmp_path)
    for noise in ("", "[]", "{}", '{"signature": null}', "[" * 100_000):
        bob.write_text(noise)
        with pytest.raises(ReceiptError):
            check_receipt(bob, store.root)


def test_a_receipt_tells_no_more_of_hidden_cases_than_the_learner_may_know(graders, handed, tmp_path):
    old, _ = graders
    store = ResultStore(tmp_path / "out", LESSON)
    results = grade_all(old, handed, store, workers=1)
    text = (write_receipts(store.root, store.folder, results) / "bob.json").read_text()
    hidden = [case.sentence for each in results[1].results for case in each.cases if case.sentence and not case.visible]
    assert hidden and not any(sentence in text for sentence in hidden)
    assert old.version not in text and "1\n" not in (store.root / "receipt_key").read_text()[:4]
    assert (store.root / "receipt_key").stat().st_mode & 0o777 == 0o600
    assert store.root.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_command_proposes_then_applies_and_checks_receipts(catalogue, handed, tmp_path):
    spec = copy_course(tmp_path, name="tiny_for_regrading")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GRADER_COURSE": spec, "COLUMNS": "200"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "grader.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    out = str(tmp_path / "out")
    grade = ("grade", str(tmp_path / "in"), "--lesson", "01_plain", "--out", out)
    assert run(*grade, "--seed", "1").returncode == 0
    as_if_it_had_been_graded_otherwise(ResultStore(tmp_path / "out", LESSON), "ada")
    proposed = run(*grade, "--seed", "2")
    assert proposed.returncode == 0 and "NOTHING IS WRITTEN YET" in proposed.stdout, proposed.stderr
    assert "1 changes for 1 learners, +3 points in all" in proposed.stdout
    applied = run(*grade, "--seed", "2", "--apply")
    assert applied.returncode == 0 and "NOTHING" not in applied.stdout and "+3 points" in applied.stdout
    receipt = tmp_path / "out" / LESSON / "receipts" / "ada.json"
    genuine = run("receipt", str(receipt), "--results", out, "--notebook", str(handed[0].path))
    assert "genuine, of this very notebook: ada, l01_plain, 5 of 5 points" in genuine.stdout
    receipt.write_text(receipt.read_text().replace("ada", "bob"))
    forged = run("receipt", str(receipt), "--results", out)
    assert forged.returncode == 1 and "was changed since it was signed" in forged.stderr

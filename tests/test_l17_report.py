"""The report page and its numbers: intervals, paired changes, slices, kinds of error; one file, model texts escaped."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from browsers import WIDE, chromium

from course.evaluation import Evaluation, compare_runs, error_kinds, scored_items, share, turned, write_report
from course.evaluation.summary import by_slice
from course.quiz import load_quiz
from course.sql import bootstrap_interval, load_examples

RESULTS = {
    "n-shot": {"quiz": 0, "sql": 0},
    "chat_template": None,
    "system_instruction": "SQLite",
    "date": 1_790_000_000.0,
    "lm_eval_version": "0.4.13",
    "transformers_version": "5.23.0",
    "config": {"model_dtype": "torch.float32"},
}


def quiz_file(path: Path, right_ids: set[int], count: int = 40) -> Path:
    """Samples in lm-eval's form: the right choice, or the first wrong one, has the largest log-probability."""
    rows = []
    for place, item in enumerate(load_quiz()[:count]):
        picked = item.answer if place in right_ids else (item.answer + 1) % 4
        values = [[str(-1.0 if n == picked else -5.0), "False"] for n in range(4)]
        rows.append({"doc": asdict(item), "filtered_resps": values, "acc": float(picked == item.answer)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sql_file(path: Path, answers: dict[int, str]) -> Path:
    rows = []
    for place, text in answers.items():
        example = load_examples("test")[place]
        right = float(text == example.sql)
        rows.append({"doc": asdict(example) | {"kind": example.kind}, "filtered_resps": [text], "executed": right})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluation(path: Path, task: str) -> Evaluation:
    return Evaluation(path.parent, RESULTS, path.parent / "results.json", {task: path})


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[str, Evaluation]]:
    gold = load_examples("test")[0].sql
    before = sql_file(tmp_path / "sql0.jsonl", {0: "<script>alert('x')</script>", 5: "SELECT colour FROM nowhere"})
    after = sql_file(tmp_path / "sql1.jsonl", {0: gold, 5: "SELECT colour FROM nowhere"})
    return {
        "before": {
            "quiz": evaluation(quiz_file(tmp_path / "q0.jsonl", set(range(20))), "quiz"),
            "sql": evaluation(before, "sql"),
        },
        "after": {
            "quiz": evaluation(quiz_file(tmp_path / "q1.jsonl", set(range(10, 24))), "quiz"),
            "sql": evaluation(after, "sql"),
        },
    }


def items_of(runs: dict[str, dict[str, Evaluation]], task: str) -> dict[str, Any]:
    return {name: scored_items(task, tasks[task].sample_files[task]) for name, tasks in runs.items()}


def test_slices_stand_in_their_order_or_by_size(runs: dict) -> None:
    slices = by_slice("quiz", items_of(runs, "quiz"))
    assert [row.label for row in slices["difficulty"]] == ["easy", "medium", "hard"]
    counts = [row.shares["after"].items for row in slices["topic"]]
    assert counts == sorted(counts, reverse=True)


def test_changes_are_paired_by_item(runs: dict) -> None:
    found = items_of(runs, "quiz")
    row = compare_runs({"before": found["before"], "after": found["after"].sample(frac=1, random_state=0)})
    assert (row.shares["before"].percent, row.shares["after"].percent) == (50.0, 35.0)
    before, after = ([place in right for place in range(40)] for right in (set(range(20)), set(range(10, 24))))
    low, high = bootstrap_interval(after, 0, before=before)
    assert row.change.percent == pytest.approx(-15)
    # The order of items is another one here, so the same resamples meet other items: equal up to resampling noise.
    assert (row.change.low, row.change.high) == (pytest.approx(100 * low, abs=3), pytest.approx(100 * high, abs=3))
    assert {name: len(items) for name, items in turned(found).items()} == {"learned": 4, "lost": 10}


def test_other_items_are_no_comparison(runs: dict, tmp_path: Path) -> None:
    fewer = scored_items("quiz", quiz_file(tmp_path / "few.jsonl", set(), count=39))
    with pytest.raises(
        ValueError, match=r"before and after did not answer the same items: quiz-\w+-\d+ are in one only"
    ):
        compare_runs({"before": items_of(runs, "quiz")["before"], "after": fewer})


def test_one_item_has_no_interval_and_none_is_refused() -> None:
    assert share([True]).low is None
    assert not share([True]).excludes_zero
    with pytest.raises(ValueError, match="no items were scored"):
        share([])


def test_every_kind_of_error_has_its_examples(runs: dict) -> None:
    kinds = {kind.kind: kind for kind in error_kinds(items_of(runs, "sql"))}
    assert kinds["unknown column or table"].counts == {"before": 1, "after": 1}
    assert kinds["not a SELECT"].counts == {"before": 1, "after": 0}
    assert kinds["not a SELECT"].shown_of == "before"
    quiz = error_kinds(items_of(runs, "quiz"))
    assert sum(kind.counts["after"] for kind in quiz) == 26
    assert all(1 <= len(kind.examples) <= 3 for kind in quiz)


def test_a_sample_file_cut_short_is_named(tmp_path: Path) -> None:
    path = quiz_file(tmp_path / "samples_quiz.jsonl", set())
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"samples_quiz.jsonl, line 40 is not JSON"):
        scored_items("quiz", path)
    with pytest.raises(ValueError, match="no view of the task 'poems'; there are quiz, sql"):
        scored_items("poems", path)


def test_the_page_is_one_file_and_escapes_what_models_say(runs: dict, tmp_path: Path) -> None:
    page = write_report(tmp_path / "out" / "report.html", "before & after", runs).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert not re.search(r"https?://|<link|src=|@import|url\(", page)
    assert "50.0" in page
    assert "-15.0" in page
    assert "Learned 4, lost 10" in page
    alone = write_report(tmp_path / "one.html", "one run", {"before": runs["before"]}).read_text()
    assert "Learned" not in alone
    assert "change, points" not in alone


def test_runs_of_different_tasks_are_refused(runs: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a report takes one run, or two with the same tasks"):
        write_report(tmp_path / "x.html", "x", {"before": runs["before"], "after": {"quiz": runs["after"]["quiz"]}})
    with pytest.raises(ValueError, match="a report takes one run"):
        write_report(tmp_path / "x.html", "x", {})


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_reads_at_1280_pixels(runs: dict, tmp_path: Path, scheme: str) -> None:
    from playwright.sync_api import sync_playwright

    path = write_report(tmp_path / "report.html", "before and after", runs)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WIDE, color_scheme=scheme)
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        ink, ground = page.evaluate(
            "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; })()"
        )
        browser.close()
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    assert abs(brightness[0] - brightness[1]) > 450

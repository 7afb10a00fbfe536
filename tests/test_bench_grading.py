"""The grading benchmark at its smallest, and that it stops where two graders disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_courses import copy_course

from bench.grading.cohort import write_cohort
from bench.grading.command import main
from bench.grading.ours import SEED
from bench.grading.report import marginal_seconds
from bench.grading.runs import BenchError, Run, require_same_scores
from grader.catalogue import find_course
from grader.cohort.grading import Grader

SCORES = {"ada": {"l01-a": 2.0, "l01-b": 0.0}, "bob": {"l01-a": 0.0, "l01-b": 1.0}}
OURS = Run("ours", 2, 10.0, 9.0, SCORES, 0.5)
THEIRS = Run("theirs", 2, 20.0, 19.0, SCORES, 8.0)


@pytest.mark.slow
def test_the_smallest_run_gives_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    spec = copy_course(tmp_path, name="tiny_for_bench")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("bench.grading.command.ASSIGNMENTS", tmp_path)
    output = tmp_path / "found.json"
    arguments = ["--course", spec, "--assignments", "l01_plain", "--sizes", "2", "--repeats", "1"]
    arguments += ["--parts", "runs", "inside", "--no-gradebook", "--output", str(output)]
    assert main(arguments) == 0
    found = json.loads(output.read_text())["assignments"]["l01_plain"]
    assert set(found["runs"]) == {"2 1", "2 2"}
    for run in found["runs"].values():
        assert 0 < run["submission_seconds"] < run["seconds"]
        assert run["processor_seconds"] > 0
    inside = found["inside"]
    assert {"cells", "calls", "judging", "saving", "reading the notebook"} <= set(inside["stage_seconds"])
    assert all(seconds >= 0 for seconds in inside["stage_seconds"].values())
    memory = inside["memory_bytes"]
    assert 0 < memory["child_private"] < memory["child_rss"] and 0 < memory["parent_pss"] <= memory["parent_rss"]
    told = " ".join(capsys.readouterr().out.split())
    assert "where one submission's time goes" in told and "ours, 2 workers" in told


def test_other_scores_stop_the_run():
    require_same_scores(OURS, THEIRS)
    changed = replace(THEIRS, scores={**SCORES, "bob": {"l01-a": 0.0, "l01-b": 0.5}})
    with pytest.raises(BenchError, match=r"the graders disagree\. bob, l01-b: 1 points from ours, 0\.5 from theirs"):
        require_same_scores(OURS, changed)
    absent = replace(THEIRS, scores={**SCORES, "bob": {"l01-a": 0.0}})
    with pytest.raises(BenchError, match="bob, l01-b: 1 points from ours, None from theirs"):
        require_same_scores(OURS, absent)
    with pytest.raises(BenchError, match="only 1 submissions are in both"):
        require_same_scores(OURS, replace(THEIRS, scores={"ada": SCORES["ada"]}))


def test_times_for_more_submissions_lie_on_a_line():
    assert OURS.start_seconds == 9.0
    assert THEIRS.seconds_for(2) == 20.0
    assert THEIRS.seconds_for(100) == 20.0 + 98 * 8.0
    runs = {"12 2": {"submissions": 12, "seconds": 10.0}, "100 2": {"submissions": 100, "seconds": 98.0}}
    assert marginal_seconds(runs | {"12 1": {"submissions": 12, "seconds": 90.0}}, 2) == 1.0


def test_the_cohort_is_honest_and_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = copy_course(tmp_path, name="tiny_for_cohort")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalogue = find_course(spec)
    paths = write_cohort(catalogue, catalogue.lesson("l01_plain"), 20, tmp_path / "in")
    assert [path.name for path in paths] == ["01_plain.ipynb"] * 20
    assert len({path.read_bytes() for path in paths}) == 20
    with Grader("l01_plain", seed=SEED, catalogue=catalogue) as grader:
        results = [grader.grade(path.read_bytes(), path.parent.name) for path in paths]
    assert results[0].points == results[0].max_points
    seen = {each.status for result in results for each in result.results}
    assert seen == {"passed", "failed", "crashed", "todo"}

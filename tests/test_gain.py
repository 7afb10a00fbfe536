"""L09's full run keeps its promise: QLoRA teaches the base model SQL, on schemas it saw and on schemas it did not.

About half an hour on two cores of 2017: `make test` leaves it out, `make gain` runs it. Numbers are recomputed, never
stored.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grader.catalogue import find_course
from grader.execute import run_lesson

LONGEST_TRAINING_SECONDS = 600
FEWEST_POINTS = {"seen": 50, "heldout": 20}


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_qlora_gains_on_seen_and_on_held_out_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_SMOKE", raising=False)
    catalogue = find_course()
    run = run_lesson(catalogue, catalogue.lesson("09_qlora"), tmp_path)
    assert set(run.statuses.values()) == {"passed"}

    (file,) = tmp_path.glob("runs/*/result.json")
    result = json.loads(file.read_text())
    print(json.dumps({name: result[name] for name in ("accuracy", "gains", "training_seconds", "tokens_per_second")}))
    print(f"notebook: {run.minutes:.1f} minutes")
    for split, points in FEWEST_POINTS.items():
        for gain in (gain for gain in result["gains"] if gain["split"] == split):
            assert gain["low"] > 0, f"the interval of {gain} does not exclude 0"
            if gain["before"] == "zero-shot":
                assert gain["points"] >= points, gain
    same, asked = result["equal_answers_of_merged_model"]
    assert same == asked
    took = f"the gain is there, but training took {result['training_seconds']:.0f} s; README says on which processors"
    assert result["training_seconds"] <= LONGEST_TRAINING_SECONDS, took

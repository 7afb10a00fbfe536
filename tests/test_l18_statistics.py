"""What lesson L18 says of its result files, of lm-eval's formula, of power and of intervals; and its cards' key."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from course.lessons.l18_statistics import eval_runs
from course.lessons.l18_statistics.cards import cards, p_by_kind
from course.lessons.l18_statistics.clustered_stderr import clustered_stderr
from course.lessons.l18_statistics.holm import holm
from course.lessons.l18_statistics.is_it_better import is_it_better
from course.lessons.l18_statistics.questions_needed import exercise, questions_needed, simulated_power
from course.lessons.l18_statistics.seed_variance import seed_variance
from course.quiz import load_quiz
from course.sql import load_examples, score_all

SQL_RUNS = ("zero-shot", "step50", "order1", "order2")
KEY = (
    "better",
    "not shown",
    "too few seeds",
    "not shown",
    "wrong questions",
    "not comparable",
    "not shown",
    "worse",
)


def test_the_committed_files_are_sound() -> None:
    assert eval_runs.problems_in() == []


@pytest.mark.parametrize("name", SQL_RUNS)
def test_each_answer_scores_as_its_row_says(name: str) -> None:
    """The stored text is executed again: nothing in the files is taken on trust."""
    rows = eval_runs.load_run(name)
    examples = {example.id: example for example in load_examples("test")}
    found = score_all([row["answer"] for row in rows], [examples[row["id"]] for row in rows])
    assert [(row["correct"], row["outcome"]) for row in rows] == [(each.correct, each.outcome) for each in found]


@pytest.mark.parametrize("name", ["zero-shot", "step50"])
def test_each_quiz_row_says_whether_the_choice_is_the_answer(name: str) -> None:
    items = {item.id: item for item in load_quiz("test")}
    for row in eval_runs.load_run(name, "quiz"):
        assert row["correct"] == (row["chosen"] == items[row["id"]].answer)


def test_a_changed_file_and_a_run_of_other_questions_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "eval_runs"
    shutil.copytree(eval_runs.DATA_FOLDER, folder)
    path = folder / "order1.sql.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rest, first]))
    problems = eval_runs.problems_in(folder)
    assert any("order1.sql.jsonl differs from its checksum" in problem for problem in problems)
    assert any("order1.sql.jsonl asks other questions" in problem for problem in problems)
    with pytest.raises(ValueError, match=r"no run 'order9'.*order1.sql"):
        eval_runs.load_run("order9")


def test_the_eight_cards_have_their_key() -> None:
    assert tuple(is_it_better(**card.inputs) for card in cards()) == KEY


def test_the_shining_slice_shines_alone_and_not_among_the_others() -> None:
    p_values = list(p_by_kind("zero-shot", "step50").values())
    assert p_values[0] == min(p_values) < 0.05
    assert holm(p_values)[0] > 0.05


def test_clusters_of_one_give_the_independent_error_and_whole_clusters_that_of_their_means() -> None:
    from lm_eval.api.metrics import mean_stderr

    scores = np.random.default_rng(0).random(24)
    alone = clustered_stderr(scores, [str(place) for place in range(24)])
    assert math.isclose(alone["clustered"], alone["independent"])
    groups = [str(place // 4) for place in range(24)]
    of_means = mean_stderr(scores.reshape(6, 4).mean(axis=1).tolist())
    assert math.isclose(clustered_stderr(scores, groups)["clustered"], of_means)


def test_ignoring_clusters_misses_the_truth_far_too_often_and_the_clustered_error_about_as_stated() -> None:
    random = np.random.default_rng(1)
    names = [f"d{place // 12}" for place in range(240)]
    missed = {"independent": 0, "clustered": 0}
    for _ in range(1000):
        scores = (random.random(240) < np.repeat(random.beta(1.5, 1.5, 20), 12)).astype(float)
        for name, error in clustered_stderr(scores, names).items():
            missed[name] += abs(scores.mean() - 0.5) > 1.96 * error
    assert missed["independent"] > 200
    assert 40 <= missed["clustered"] <= 95  # 5 % and a little, with 20 clusters


def test_the_numbers_of_questions_that_the_prose_names() -> None:
    plan = questions_needed(0.40, 0.43, 0.12)
    assert (plan["unpaired"], plan["paired"]) == (4231, 1045)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_numbers_of_questions_reach_their_power_in_simulated_evaluations(seed: int) -> None:
    """Within two points, on every case of the exercise; and half of them do not."""
    for case in exercise.make_cases(seed):
        plan = questions_needed(**case.inputs)
        given = {"alpha": 0.05, **case.inputs}
        power = given.pop("power", 0.8)
        for paired, questions in ((False, plan["unpaired"]), (True, plan["paired"])):
            assert math.isclose(simulated_power(**given, questions=questions, paired=paired), power, abs_tol=0.02)
            assert simulated_power(**given, questions=questions // 2, paired=paired) < power - 0.2


def test_a_wrong_number_of_questions_is_told_what_it_reaches() -> None:
    want = questions_needed(0.40, 0.43, 0.12)
    said = exercise.diagnose_function
    assert said is not None
    assert said(want, want, 0.40, 0.43, 0.12) is None
    sentence = said(want | {"paired": 500}, want, 0.40, 0.43, 0.12)
    assert sentence is not None
    assert "with 500 questions 4" in sentence and "80 % were wanted" in sentence


def test_the_standard_error_for_new_seeds_and_questions_is_that_of_a_simulation() -> None:
    """Many data sets from a known model: the estimate's mean square is the variance of the mean."""
    random = np.random.default_rng(5)
    means, squares = [], []
    for _ in range(3000):
        cells = random.normal(0, 1, 40) + random.normal(0, 0.3, (4, 1)) + random.normal(0, 0.8, (4, 40))
        means.append(cells.mean())
        squares.append(seed_variance(cells)["stderr"] ** 2)
    assert math.isclose(np.mean(squares), np.var(means), rel_tol=0.08)


@pytest.mark.parametrize(("values", "reaches"), [(2, (0.4, 32)), (3, (0.5, 6))])
def test_the_interval_of_a_deviation_from_two_or_three_values(values: int, reaches: tuple[float, int]) -> None:
    free = values - 1
    low, high = (math.sqrt(free / chi2.ppf(level, free)) for level in (0.975, 0.025))
    assert (round(low, 1), round(high)) == reaches

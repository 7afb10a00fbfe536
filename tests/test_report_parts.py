"""The report's parts on their own: correlations, clusters, fragments that survive renaming, the discount, charts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cohort import COPIED, DISGUISED

from grader.cohort.result import SubmissionResult
from grader.report import charts
from grader.report.clusters import cluster
from grader.report.excerpt import without_docstrings
from grader.report.fragments import fragments_of, tokens_of
from grader.report.items import analyse, point_biserial
from grader.report.similarity import find_pairs
from grader.report.timing import exercise_timing
from grader.result import CaseResult, Result


def submission(learner: str, *results: Result) -> SubmissionResult:
    return SubmissionResult(learner, "l01_x", "", "v", "", results)


def result(exercise: str, status: str, points: float = 0.0, **more: object) -> Result:
    return Result(exercise, exercise.title(), status, points, 2.0, "m", **more)


def fragments(source: str) -> set[tuple[str, ...]]:
    return set(fragments_of(tokens_of(source)))


def test_discrimination_has_the_right_sign_and_none_where_it_is_not_defined():
    good, bad = [True] * 3 + [False] * 3, [False] * 3 + [True] * 3
    assert point_biserial(good, [5, 4, 5, 1, 0, 1]) > 0.9
    assert point_biserial(bad, [5, 4, 5, 1, 0, 1]) < -0.9
    assert point_biserial([True] * 6, [1, 2, 3, 4, 5, 6]) is None
    assert point_biserial(good, [2] * 6) is None
    assert point_biserial(good[2:5], [1, 2, 3]) is None


def test_the_rest_score_leaves_the_item_itself_out():
    """Two exercises that have nothing to do with each other: with the item in its own total both would correlate."""
    pattern = [(0, 0), (0, 2), (2, 0), (2, 2)] * 2
    class_of_8 = [
        submission(str(i), result("a", "passed" if a else "failed", a), result("b", "passed" if b else "failed", b))
        for i, (a, b) in enumerate(pattern)
    ]
    assert [item.discrimination for item in analyse(class_of_8)] == pytest.approx([0, 0])


def test_what_is_broken_counts_against_nobody():
    class_of_2 = [submission("a", result("x", "broken")), submission("b", result("x", "passed", 2.0))]
    (item,) = analyse(class_of_2)
    assert (item.pass_rate, item.mean_points, item.counts["broken"]) == (1.0, 2.0, 1)
    (broken,) = analyse(class_of_2[:1])
    assert (broken.pass_rate, broken.mean_points, broken.median_seconds) == (None, None, None)


def test_clusters_are_told_apart_by_exercise_and_kind():
    right = (CaseResult("c", "all", True, "", True),)
    wrong = (CaseResult("c", "all", True, "", False),)
    found = cluster(
        [
            submission("a", result("x", "failed", outcome="1", cases=wrong), result("y", "failed", outcome="1")),
            submission("b", result("x", "failed", outcome="1", cases=wrong), result("y", "passed")),
            submission("c", result("x", "failed", outcome="2", cases=right), result("y", "failed", outcome="3")),
            submission("d", result("x", "failed", outcome="4", misconception="m", certain=True)),
            submission("e", result("x", "failed", outcome="5", misconception="m")),
        ],
        {"a": {"x": "long answer"}, "b": {"x": "short"}},
    )
    assert [(each.learners, each.kind) for each in found if each.exercise_id == "x"] == [
        (("a", "b"), "unnamed"),
        (("c",), "forbidden"),
        (("d",), "named"),
        (("e",), "in part"),
    ]
    assert (found[0].representative, found[0].source) == ("b", "short")
    assert len(found) == 6


def test_renaming_comments_layout_and_docstrings_change_no_fragment():
    assert fragments(COPIED) == fragments(DISGUISED)
    assert len(fragments(COPIED)) > 80
    plain = "def f(a, b):\n    c = a @ b.T\n    return c / c.sum(dim=-1)\n"
    dressed = (
        'def g(x, w):\n    """Doc."""\n\n    # why\n    y = x \\\n     @ w.T\n    return y / y.sum(dim = -1)  # done\n'
    )
    assert fragments(plain) == fragments(dressed)
    assert fragments(plain) != fragments(plain.replace("a @ b", "b @ a"))
    assert fragments(plain) != fragments(plain.replace("@", "*"))


@pytest.mark.parametrize(
    "source", ["", "def f(:\n  '''", "%%time\n!ls\nx = 1", "\x0c\n\x00", "(" * 500, "if x:\n\tq\n    y"]
)
def test_source_that_is_no_python_is_read_as_far_as_it_goes(source: str):
    assert isinstance(fragments(source), set)


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abx =+()[]{}:\n\t#'\"\\\u2028\x0c@.1é", max_size=200), st.integers(0, 99))
def test_marking_never_changes_the_source(noise: str, seed: int):
    generator = random.Random(seed)
    at = generator.randrange(len(COPIED))
    left, right = COPIED[:at] + noise + COPIED[at:], COPIED
    pairs = find_pairs({"a": {"x": left}, "b": {"x": right}}, {"x": ()}, {})
    for pair in pairs:
        (alike,) = pair.alike
        assert "".join(span.text for span in alike.left) == without_docstrings(left)
        assert "".join(span.text for span in alike.right) == without_docstrings(right)


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abx =+()[]{}:\n\t#'\"\\\u2028\x0c@.1é", max_size=60))
def test_docstrings_are_left_out_and_nothing_else(noise: str):
    dressed = (
        '''"""Ç."""\nclass A:\n    """One\n    two.\x0c"""\n\n    def f(self):\n        "é"\n        return "é"\n'''
    )
    assert without_docstrings(dressed) == 'class A:\n\n    def f(self):\n        return "é"\n'
    for kept in ('def f(): "doc"; return 1', 'def f():\n    "only"', 'x = """a\nb"""', "def f(:", dressed + "\n)"):
        assert without_docstrings(kept) == kept
    assert set(without_docstrings(noise).split("\n")) <= set(noise.split("\n")) | {""}


def test_what_everybody_has_does_not_count_and_what_only_two_have_does():
    answers = {f"learner{i}": {"x": COPIED} for i in range(30)}
    assert find_pairs(answers, {"x": ()}, {}) == (), "a class that copied from one page is no pair"
    assert find_pairs({"a": {"x": COPIED}, "b": {"x": DISGUISED}}, {"x": (COPIED,)}, {}) == (), "it is the course's own"
    (pair,) = find_pairs({"a": {"x": COPIED}, "b": {"x": DISGUISED}}, {"x": ()}, {("a", "x"): "1", ("b", "x"): "1"})
    assert (pair.left, pair.right, pair.alike[0].same_wrong_outcome) == ("a", "b", True)
    assert pair.alike[0].similarity == pytest.approx(1)


def test_a_text_handed_in_by_two_is_listed_although_the_class_writes_alike():
    """Nine learners with one answer under names of their own; two of them have it to the letter."""
    classmates = {f"learner{i}": {"x": COPIED.replace("total", f"sum_{min(i, 7)}")} for i in range(9)}
    (pair,) = find_pairs(classmates, {"x": ()}, {})
    assert (pair.left, pair.right, pair.alike[0].identical) == ("learner7", "learner8", True)
    assert not any(span.marked for span in pair.alike[0].left)


def test_short_answers_are_never_listed():
    one_line = "def f(a, b):\n    return a + b * 2\n"
    assert find_pairs({"a": {"x": one_line}, "b": {"x": one_line}}, {"x": ()}, {}) == ()


def test_bars_fill_their_width_and_marks_stay_apart():
    segments = charts.stacked_bar({"todo": 1, "passed": 2, "failed": 0, "crashed": 3, "broken": 0}, 300)
    assert [(each.status, each.count) for each in segments] == [("passed", 2), ("crashed", 3), ("todo", 1)]
    assert sum(each.width for each in segments) == pytest.approx(300)
    assert charts.stacked_bar(dict.fromkeys(("todo", "passed", "failed", "crashed", "broken"), 0), 300) == []
    class_of_8 = [
        submission(str(i), *(result(name, "passed" if i % 2 else "failed", float(2 * (i % 2))) for name in "abcdefgh"))
        for i in range(8)
    ]
    marks = charts.scatter(analyse(class_of_8)).marks
    assert len({(round(mark.x), round(mark.y)) for mark in marks}) == 8


def test_a_time_of_zero_and_of_hours_fit_on_one_axis():
    cases = (CaseResult("c", "all", True, "", True),)
    timing = exercise_timing(
        [
            submission("a", result("x", "passed", seconds=0.0, cases=cases)),
            submission("b", result("x", "todo")),
            submission("c", result("x", "crashed", seconds=7200.0, cases=cases)),
        ]
    )
    assert (timing[0].slowest, timing[0].slowest_learner, len(timing[0].seconds)) == (7200, "c", 2)
    axis = charts.time_axis(timing)
    assert all(0 <= x <= axis.width for x in axis.dots["x"])
    assert charts.time_axis(()).dots == {}
    assert [charts.seconds_text(each) for each in (0.0123, 3.21, 7200.0)] == ["12.3 ms", "3.21 s", "7200 s"]

"""From answers to a result: shares with intervals, the gain over the base model, points by the lesson's thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from grader.adapters.evaluation import Evaluation, GroupAnswers
from grader.adapters.result import GroupResult
from grader.syllabus import AdapterTask


def max_points(task: AdapterTask) -> float:
    """What the best adapter earns."""
    return sum(threshold.points for threshold in task.thresholds)


def judge(
    task: AdapterTask, evaluation: Evaluation, answers: Sequence[GroupAnswers], base: Sequence[GroupAnswers]
) -> tuple[GroupResult, ...]:
    """A threshold counts when the share reaches it *and* the interval of the gain over the base model excludes 0."""
    from scipy.stats import binomtest

    results = []
    for after, before in zip(answers, base, strict=True):
        questions, correct = len(after.correct), sum(after.correct)
        interval = binomtest(correct, questions).proportion_ci(method="wilson")
        gain_low, gain_high = evaluation.gain_interval(after.correct, before.correct)
        own = [threshold for threshold in task.thresholds if threshold.group == after.group]
        reached = [each.points for each in own if correct / questions >= each.share and gain_low > 0]
        results.append(
            GroupResult(
                group=after.group,
                questions=questions,
                correct=correct,
                low=float(interval.low),
                high=float(interval.high),
                base_correct=sum(before.correct),
                gain_low=gain_low,
                gain_high=gain_high,
                outcomes=after.outcomes,
                points=sum(reached),
                max_points=sum(each.points for each in own),
            )
        )
    return tuple(results)

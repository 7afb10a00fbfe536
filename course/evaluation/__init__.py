"""Evaluations through lm-eval: run and resumed, read from its log files, compared, and shown on a page."""

from course.evaluation.harness import Evaluation, EvaluationError, evaluate, weights_digest
from course.evaluation.items import VIEWS, scored_items
from course.evaluation.report import write_report
from course.evaluation.summary import Share, by_slice, compare_runs, error_kinds, share, turned

__all__ = [
    "VIEWS",
    "Evaluation",
    "EvaluationError",
    "Share",
    "by_slice",
    "compare_runs",
    "error_kinds",
    "evaluate",
    "scored_items",
    "share",
    "turned",
    "weights_digest",
    "write_report",
]

"""Evaluations through lm-eval: run and resumed, read from its log files, compared, and shown on a page."""

from course.evaluation.harness import Evaluation, EvaluationError, evaluate, weights_digest
from course.evaluation.items import VIEWS, scored_items

__all__ = ["VIEWS", "Evaluation", "EvaluationError", "evaluate", "scored_items", "weights_digest"]

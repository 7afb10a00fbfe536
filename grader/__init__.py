"""Checks exercises: declare them (`Exercise`, `Case`), check them in a notebook (`check`, `hint`, `progress` ...)."""

from __future__ import annotations

from grader.exercise import Case, Exercise
from grader.live import check, hint, progress, reset, solution, use

__all__ = ["Case", "Exercise", "check", "hint", "progress", "reset", "solution", "use"]

"""The dataset `quiz`: hand-written multiple-choice questions, and the rules each of them keeps."""

from course.quiz.items import DIFFICULTIES, SPLITS, TOPICS, QuizError, QuizItem, load_quiz

__all__ = ["DIFFICULTIES", "SPLITS", "TOPICS", "QuizError", "QuizItem", "load_quiz"]

"""From a described database to a question and its gold query, the kind drawn by weight."""

from __future__ import annotations

from course.sql.group_questions import GroupQuestions
from course.sql.row_questions import RowQuestions
from course.sql.wording import Asked

WEIGHTS = {
    "count": 13, "names": 11, "columns": 9, "lookup": 5, "aggregate": 19, "superlative": 10, "top": 3, "sort": 2,
    "distinct": 5, "count_distinct": 4, "group_count": 9, "group_aggregate": 10, "group_top": 8, "having": 10,
    "pairs": 1, "join_superlative": 2, "join_list": 3,
}  # fmt: skip


class QuestionSampler(RowQuestions, GroupQuestions):
    """Draws (question, sql) pairs about one world, all randomness from one `random.Random`."""

    def sample(self) -> Asked:
        """One question and its query; None when the drawn kind cannot be asked of this world."""
        kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        asked: Asked = getattr(self, kind)()
        return asked

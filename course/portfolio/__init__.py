"""`course portfolio`: measured results as one page, and draft lines for a résumé, from the learner's own run artefacts.

Every number is read from a file of the workspace, or recomputed from the answers in it, and is shown with that file
and its SHA-256. What no file gives is not said.
"""

from course.portfolio.check import problems
from course.portfolio.write import write_portfolio

__all__ = ["problems", "write_portfolio"]

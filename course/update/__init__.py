"""`course update`: changed lessons come into a workspace, and what the learner wrote stays.

A three-way merge by cells: the version that a copy came from, the version shipped now, and the learner's notebook. It
is our own because nbdime 4.0.4 (`nbdime.merging`), tried on these notebooks, does not fit: an answer cell that its
learner moved counts there as deleted and added, so a changed stub came back beside it under the same id, with
`<<<<<<< LOCAL CELL DELETED >>>>>>>` in its source; and a cell changed on both sides gets conflict markers inside its
code, which then no longer runs. Exercises have permanent ids here, and an answer must never be touched: both make the
merge simpler than nbdime's.
"""

from course.update.run import Outcome, update_workspace

__all__ = ["Outcome", "update_workspace"]

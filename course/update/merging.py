"""The three-way merge of one notebook: the version it came from, the version shipped now, the learner's own.

The learner's order is the frame. For each cell of ours in it:

- not edited, and changed or dropped by the course: changed or dropped;
- edited by the learner: stays as it is; where the course changed it too, the new version comes beside it, marked;
- deleted by the learner: stays deleted, unless the course changed it. A changed cell is one that they have not seen,
  and later cells may need it; to delete it once more costs a key, to miss it costs an evening.

Cells that the learner added are never touched. New cells come after the cell that precedes them in the lesson.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from course.update.cells import Cell, answer_name, is_answer, is_permanent, label, text_of
from course.update.marks import VANISHED_ID, mark, marked, point_mark_at, vanished_title
from course.update.pairing import Pairs, in_order, pair_own, pair_unknown, pair_versions


@dataclass
class Merged:
    """The notebook's new cells, and in words what came in, what was kept, and what needs another look.

    changed_exercises: ids of exercises that changed under an answer; their checks are to be run again.
    """

    cells: list[Cell] = field(default_factory=list)
    came_in: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    changed_exercises: list[str] = field(default_factory=list)


def merge(base: Sequence[Cell] | None, shipped: Sequence[Cell], own: Sequence[Cell]) -> Merged:
    """Merge cells. base None: nobody knows what the copy came from, so every difference counts as the learner's."""
    return _Merge(base, shipped, own).run()


class _Merge:
    def __init__(self, base: Sequence[Cell] | None, shipped: Sequence[Cell], own: Sequence[Cell]) -> None:
        self.shipped = shipped
        self.result = Merged()
        own = [copy.deepcopy(cell) for cell in own]
        if base is None:
            # Each cell of theirs that is one of ours stands for its own unknown origin.
            known = pair_unknown(own, shipped)
            base = [own[at] for at in sorted(known)]
            self.own_of: Pairs = dict(enumerate(sorted(known)))
            self.new_of: Pairs = {place: known[at] for place, at in self.own_of.items()}
            self.knows_base = False
        else:
            self.own_of, self.new_of = pair_own(base, own), pair_versions(base, shipped)
            self.knows_base = True
        self.base, self.own = base, own
        self._let_untouched_exercises_move()
        self.base_of = _by_place(self.own_of)
        self.old_of = _by_place(self.new_of)

    def run(self) -> Merged:
        """Every own cell gives what stands in its place; then new cells are put behind their predecessors."""
        self.vanished: list[Cell] = []
        self.dropped: dict[tuple[str, str], Cell] = {}
        rows: list[tuple[int | None, list[Cell]]] = []  # (shipped position, cells in its place), in own order
        for at, mine in enumerate(self.own):
            rows.append(self._in_place(at, mine))
        self._insert_new(rows)
        cells = [cell for _, group in rows for cell in group]
        ours = {id(group[0]) for place, group in rows if place is not None}
        if self.vanished and not any(cell.id == VANISHED_ID for cell in cells):
            cells.append(vanished_title())
        cells += self.vanished
        self.result.cells = _with_unique_ids(cells, ours)
        return self.result

    def _in_place(self, at: int, mine: Cell) -> tuple[int | None, list[Cell]]:
        if at not in self.base_of:
            return None, [] if self._is_superseded(mine) else [mine]
        old = self.base[self.base_of[at]]
        place = self.new_of.get(self.base_of[at])
        if place is None:
            return None, self._without_successor(old, mine)
        new = self.shipped[place]
        # Without a base, own and base are one cell: a difference from the shipped one is the learner's, or unknown.
        edited = text_of(mine) != text_of(old) if self.knows_base else text_of(mine) != text_of(new)
        changed = text_of(new) != text_of(old)
        _take_identity(mine, new)
        if not edited:
            if changed:
                mine = _replaced(mine, new)
                self.result.came_in.append(f"changed: {_named(new)}")
            return place, [mine]
        if is_answer(new):
            return place, [mine, *self._beside_answer(mine, new, changed)]
        if changed and text_of(mine) != text_of(new):
            self.result.look.append(f"{label(mine)}: you edited it and the course changed it. Both are there.")
            return place, [mine, mark(new)]
        self.result.kept.append(f"your version of {label(mine)}")
        return place, [mine]

    def _beside_answer(self, mine: Cell, new: Cell, changed: bool) -> list[Cell]:
        if not self.knows_base and new.source.partition("raise NotImplementedError")[0].rstrip() in mine.source:
            changed = False  # The new stub's head stands in the answer word for word.
        if not changed:
            self.result.kept.append(f"your answer to {new.id}")
            return []
        self.result.changed_exercises.append(new.id)
        self.result.look.append(
            f"exercise {new.id} changed. Your answer is kept and the new stub stands below it: compare, and run "
            f"check({answer_name(new)}) again."
            if self.knows_base
            else f"exercise {new.id} may have changed. Your answer is kept and today's stub stands below it: compare, "
            f"and run check({answer_name(new)}) again."
        )
        return [mark(new)]

    def _without_successor(self, old: Cell, mine: Cell) -> list[Cell]:
        """What becomes of a cell of ours that the new version does not have."""
        if text_of(mine) == text_of(old) and self.knows_base:
            self.dropped[text_of(mine)] = mine
            if text_of(mine) not in {text_of(new) for new in self.shipped}:
                self.result.came_in.append(f"dropped: {_named(old)}")
            return []
        mine.metadata.pop("nbgrader", None)
        mine.id = f"kept-{uuid.uuid4().hex[:8]}"
        if is_answer(old):
            self.vanished.append(mine)
            self.result.look.append(f"exercise {old.id} is gone. Your answer stands at the end of the notebook.")
            return []
        self.result.kept.append(f"your version of {label(mine)}, which the course dropped")
        return [mine]

    def _is_superseded(self, mine: Cell) -> bool:
        """Whether an earlier update's unedited mark has had its day: this update says it anew, or it was followed."""
        of = marked(mine)
        old = next((place for place, cell in enumerate(self.base) if of and cell.id == of), None)
        if old is None:
            return False
        new = self.new_of.get(old)
        if new is None:
            return True
        point_mark_at(mine, self.shipped[new].id)
        if old not in self.own_of:
            return False
        theirs = text_of(self.own[self.own_of[old]])
        return theirs == text_of(self.shipped[new]) or text_of(self.base[old]) != text_of(self.shipped[new])

    def _insert_new(self, rows: list[tuple[int | None, list[Cell]]]) -> None:
        present = {place for place, _ in rows if place is not None}
        still = in_order([place for place, _ in rows if place is not None])
        for place, new in enumerate(self.shipped):
            if place in present:
                continue
            old = self.old_of.get(place)
            if old is not None and text_of(self.base[old]) == text_of(new):
                continue  # The learner deleted it.
            if old is not None:
                self.result.look.append(f"{_named(new)}: you had deleted it; it is back because it changed.")
            elif text_of(new) not in self.dropped:
                self.result.came_in.append(f"new: {_named(new)}")
            cell = copy.deepcopy(new)
            moved = self.dropped.get(text_of(new))
            if moved is not None and cell.cell_type == "code":
                cell.outputs, cell.execution_count = moved.outputs, moved.execution_count
            rows.insert(self._row_behind(rows, max((p for p in still if p < place), default=None)), (place, [cell]))
            still.add(place)

    @staticmethod
    def _row_behind(rows: Sequence[tuple[int | None, list[Cell]]], anchor: int | None) -> int:
        """The row behind the anchor's and behind the learner's own cells that follow it."""
        if anchor is None:
            return 0
        row = next(index for index, (place, _) in enumerate(rows) if place == anchor) + 1
        while row < len(rows) and rows[row][0] is None:
            row += 1
        return row

    def _let_untouched_exercises_move(self) -> None:
        """An exercise that the course moved goes along where its learner has not begun it; else it stays and is told.

        Unpaired cells are dropped at the old place and come in at the new one.
        """
        ours = [place for place in range(len(self.base)) if place in self.new_of]
        settled = in_order([self.new_of[place] for place in ours])
        moved = [place for place in ours if self.new_of[place] not in settled and is_permanent(self.base[place].id)]
        for answer in [place for place in moved if is_answer(self.base[place])] if self.knows_base else []:
            name = self.base[answer].id
            parts = [place for place in moved if self.base[place].id in (f"{name}-task", name, f"{name}-check")]
            if all(p in self.own_of and text_of(self.own[self.own_of[p]]) == text_of(self.base[p]) for p in parts):
                for place in parts:
                    del self.new_of[place]
            elif answer in self.own_of:
                self.result.look.append(f"exercise {name} now comes elsewhere in the lesson. Yours stays where it is.")


def _by_place(pairs: Pairs) -> Pairs:
    return {value: key for key, value in pairs.items()}


def _named(cell: Cell) -> str:
    return f"exercise {cell.id}" if is_answer(cell) else label(cell)


def _take_identity(mine: Cell, new: Cell) -> None:
    """Today's id and nbgrader metadata, by which the next update and the grader find the cell."""
    mine.id = new.id
    mine.metadata.pop("nbgrader", None)
    if "nbgrader" in new.metadata:
        mine.metadata["nbgrader"] = copy.deepcopy(new.metadata["nbgrader"])


def _replaced(mine: Cell, new: Cell) -> Cell:
    """The new cell with the learner's settings of the old one; outputs of other code would mislead."""
    cell = copy.deepcopy(new)
    cell.metadata = mine.metadata
    return cell


def _with_unique_ids(cells: list[Cell], ours: set[int]) -> list[Cell]:
    """Of two cells with one id, the one that is ours keeps it. ours: `id()` of the cells, not their ids."""
    seen: set[str] = set()
    for cell in sorted(cells, key=lambda each: id(each) not in ours):
        if cell.id in seen:
            cell.id = uuid.uuid4().hex[:8]
        seen.add(cell.id)
    return cells

"""`course update` on one notebook: what the course changed comes in, what the learner wrote stays, wherever it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson_versions import (
    ANSWER,
    DEMO,
    DOCSTRING,
    MEAN,
    MEAN_FIRST,
    NEW_DEMO,
    NO_MEAN,
    NO_SUM,
    PROSE,
    SUM,
    built,
    cell_called,
    cells_of,
)

from course.update.merging import Merged, merge

Build = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    made: dict[tuple, str] = {}

    def make(*edits: tuple[str, str, str]) -> list[Any]:
        if edits not in made:
            made[edits] = built(tmp_path_factory.mktemp("course"), *edits)
        return cells_of(made[edits])

    return make


def sources(merged: Merged) -> list[str]:
    return [cell.source for cell in merged.cells]


def answered(cells: list[Any]) -> list[Any]:
    cell_called(cells, SUM).source = ANSWER
    return cells


def own_cell(source: str) -> Any:
    return nbformat.v4.new_code_cell(source)


def test_prose_and_demos_come_in_and_answer_outputs_and_own_cells_stay(build: Build) -> None:
    own = answered(build())
    imports = cell_called(own, "l01-demo-01")
    imports.outputs, imports.execution_count = [nbformat.v4.new_output("stream", text="warned\n")], 7
    later = cell_called(own, "l01-demo-02")
    later.outputs, later.execution_count = [nbformat.v4.new_output("stream", text="4\n")], 8
    at = own.index(cell_called(own, SUM))
    own[at:at] = [own_cell("def helper(): ...")]
    merged = merge(build(), build(PROSE, NEW_DEMO), own)
    text = sources(merged)
    assert "Two exercises, both on arrays." in text[0]
    assert text.index("print('a new demo')") == 2
    assert text.index("def helper(): ...") + 1 == text.index(ANSWER)
    assert cell_called(merged.cells, "l01-demo-01").execution_count == 7
    renumbered = cell_called(merged.cells, "l01-demo-03")
    assert "scaled_sum" in renumbered.source
    assert (renumbered.execution_count, renumbered.outputs[0].text) == (8, "4\n")
    assert merged.look == []
    assert [each.split(":")[0] for each in merged.came_in] == ["changed", "new"]
    assert merged.kept == [f"your answer to {SUM}"]


def test_the_untouched_parts_become_exactly_the_new_version(build: Build) -> None:
    new = build(PROSE, NEW_DEMO, DEMO, DOCSTRING, NO_MEAN)
    assert merge(build(), new, build()).cells == new
    assert merge(new, build(), copy.deepcopy(new)).cells == build()


def test_outputs_of_changed_code_go(build: Build) -> None:
    own = build()
    cell_called(own, "l01-demo-02").execution_count = 3
    cell_called(own, "l01-demo-02").metadata["collapsed"] = True
    cell = cell_called(merge(build(), build(DEMO), own).cells, "l01-demo-02")
    assert "4.0" in cell.source and cell.execution_count is None and cell.metadata == {"collapsed": True}


def test_a_demo_changed_on_both_sides_shows_both_and_runs_only_the_learners(build: Build) -> None:
    own = build()
    cell_called(own, "l01-demo-02").source += "\nmine = 1"
    merged = merge(build(), build(DEMO), own)
    at = merged.cells.index(cell_called(merged.cells, "l01-demo-02"))
    assert merged.cells[at].source.endswith("mine = 1") and "3.0" in merged.cells[at].source
    mark = merged.cells[at + 1]
    assert mark.cell_type == "markdown" and "new version of the cell above" in mark.source and "4.0" in mark.source
    assert len(merged.look) == 1
    # Followed by hand: the next update clears the mark away.
    merged.cells[at].source = cell_called(build(DEMO), "l01-demo-02").source
    assert len(merge(build(DEMO), build(DEMO, PROSE), merged.cells).cells) == len(build())


def test_marks_do_not_pile_up_and_an_edited_one_is_the_learners(build: Build) -> None:
    own = build()
    cell_called(own, "l01-demo-02").source += "\nmine = 1"
    once = merge(build(), build(DEMO), own).cells
    again = (DEMO[0], DEMO[1], DEMO[2].replace("4.0", "5.0"))
    twice = merge(build(DEMO), build(again), copy.deepcopy(once)).cells
    assert len(twice) == len(once)
    assert any("5.0" in cell.source for cell in twice) and not any("4.0" in cell.source for cell in twice)
    mark = next(cell for cell in once if "new version of the cell above" in cell.source)
    mark.source += "\nmy note"
    assert any("my note" in cell.source for cell in merge(build(DEMO), build(again), once).cells)
    # An update that has nothing to say about the cell leaves its mark, whatever numbers the cells have now.
    kept = merge(build(DEMO), build(DEMO, NEW_DEMO), merge(build(), build(DEMO), own).cells).cells
    assert sum("new version of the cell above" in cell.source for cell in kept) == 1
    later = merge(build(DEMO, NEW_DEMO), build(again, NEW_DEMO), kept).cells
    assert sum("new version of the cell above" in cell.source for cell in later) == 1


def test_a_changed_exercise_keeps_the_answer_and_shows_the_new_stub(build: Build) -> None:
    merged = merge(build(), build(DOCSTRING), answered(build()))
    at = merged.cells.index(cell_called(merged.cells, SUM))
    assert merged.cells[at].source == ANSWER
    assert "float32" in merged.cells[at + 1].source and "This exercise changed" in merged.cells[at + 1].source
    assert merged.cells[at + 2].id == f"{SUM}-check"
    assert merged.changed_exercises == [SUM]
    assert "run check(scaled_sum) again" in merged.look[0]
    untouched = merge(build(), build(DOCSTRING), build())
    assert "float32" in cell_called(untouched.cells, SUM).source and untouched.look == []


def test_an_answer_without_its_exercise_stands_titled_at_the_end(build: Build) -> None:
    merged = merge(build(), build(NO_SUM), answered(build()))
    title, answer = merged.cells[-2:]
    assert "no longer in this lesson" in title.source and answer.source == ANSWER
    assert "nbgrader" not in answer.metadata
    assert not any(cell.id.startswith(SUM) for cell in merged.cells)
    assert f"exercise {SUM} is gone" in merged.look[0]
    assert not any("no longer in this lesson" in source for source in sources(merge(build(), build(NO_SUM), build())))


def test_a_new_exercise_comes_in_at_its_place(build: Build) -> None:
    merged = merge(build(NO_MEAN), build(), answered(build(NO_MEAN)))
    assert [cell.id for cell in merged.cells] == [cell.id for cell in build()]
    assert f"new: exercise {MEAN}" in merged.came_in


def test_what_the_learner_deleted_stays_deleted_unless_it_changed(build: Build) -> None:
    own = [cell for cell in build() if cell.id != "l01-demo-02"]
    assert len(merge(build(), build(PROSE), own).cells) == len(own)
    merged = merge(build(), build(DEMO), own)
    assert [cell.id for cell in merged.cells] == [cell.id for cell in build()]
    assert "it is back because it changed" in merged.look[0]


def test_moved_cells_stay_where_the_learner_put_them(build: Build) -> None:
    own = answered(build())
    own.append(own.pop(own.index(cell_called(own, SUM))))
    merged = merge(build(), build(NEW_DEMO, DOCSTRING), own)
    assert [cell.id for cell in merged.cells][-2] == SUM
    assert "float32" in merged.cells[-1].source
    assert sources(merged).index("print('a new demo')") == 2


def test_a_split_answer_is_not_replaced_by_the_stub(build: Build) -> None:
    """JupyterLab leaves the id with the last part and copies nbgrader's metadata to the new cell."""
    own = build()
    answer = cell_called(own, SUM)
    answer.source = ANSWER
    helper = own_cell("def scaled(update, scale):\n    return scale * update")
    helper.metadata = copy.deepcopy(answer.metadata)
    own.insert(own.index(answer), helper)
    merged = merge(build(), build(DOCSTRING), own)
    assert helper.source in sources(merged) and ANSWER in sources(merged)
    assert sources(merged).index(helper.source) + 1 == sources(merged).index(ANSWER)
    # And where the cell with the id was deleted, the cell that defines the function is the answer.
    lost = [cell for cell in own if cell not in (answer, helper)]
    lost.append(own_cell(ANSWER))
    merged = merge(build(), build(DOCSTRING), lost)
    assert sum("NotImplementedError" in cell.source and cell.cell_type == "code" for cell in merged.cells) == 1
    assert ANSWER in sources(merged)


def test_of_two_cells_with_one_id_the_last_answer_is_the_answer(build: Build) -> None:
    own = build()
    at = own.index(cell_called(own, SUM))
    first, second = copy.deepcopy(own[at]), copy.deepcopy(own[at])
    first.source, second.source = "def scaled_sum(base, update, scale):\n    return base  # first try", ANSWER
    own[at : at + 1] = [first, second]
    merged = merge(build(), build(PROSE), own)
    assert cell_called(merged.cells, SUM).source == ANSWER
    assert first.source in sources(merged)
    assert len({cell.id for cell in merged.cells}) == len(merged.cells)


def test_an_exercise_that_the_course_moved_goes_along_unless_it_was_begun(build: Build) -> None:
    moved = build(NO_MEAN, MEAN_FIRST)
    assert merge(build(), moved, build()).cells == moved
    own = build()
    cell_called(own, MEAN).source = "class RunningMean: pass"
    merged = merge(build(), moved, own)
    assert [cell.id for cell in merged.cells] == [cell.id for cell in own]
    assert "now comes elsewhere" in merged.look[0]


def test_without_a_base_nothing_is_lost_and_every_difference_is_shown(build: Build) -> None:
    own = answered(build())
    cell_called(own, "l01-demo-01").source += "\nmine = 1"
    own = [cell for cell in own if cell.id != f"{MEAN}-check"]
    merged = merge(None, build(PROSE, NEW_DEMO), own)
    text = sources(merged)
    assert ANSWER in text and any("mine = 1" in source for source in text)
    assert "print('a new demo')" in text
    assert f"{MEAN}-check" in [cell.id for cell in merged.cells]
    assert any("Two exercises." in source for source in text)
    assert any("both on arrays" in source and "new version" in source for source in text)
    assert "may have changed" in " ".join(merged.look)
    whole = cell_called(build(), SUM).source.replace("raise NotImplementedError", "return base + scale * update")
    cell_called(own, SUM).source = whole
    assert merge(None, build(), own).changed_exercises == []


EDITS = (PROSE, NEW_DEMO, DEMO, DOCSTRING, NO_MEAN)
LINES = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=4).map("\n".join)
# What may happen to a cell, drawn again and again: (what, which cell, where to, text).
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["edit", "append", "delete", "move", "copy", "paste", "split", "own", "text", "no id"]),
        st.integers(0, 30),
        st.integers(0, 30),
        LINES,
    ),
    max_size=12,
)


def act(cells: list[Any], actions: list[tuple[str, int, int, str]]) -> list[Any]:
    """Do to the cells what a learner does in an editor, or by hand to the file."""
    for number, (what, which, where, text) in enumerate(actions):
        if what in ("own", "text") or not cells:
            make = nbformat.v4.new_markdown_cell if what == "text" else nbformat.v4.new_code_cell
            cells.insert(where % (len(cells) + 1), make(text, id=f"own-{number}"))
            continue
        at = which % len(cells)
        cell = cells[at]
        if what == "edit":
            cell.source = text
        elif what == "append":
            cell.source += f"\n{text}"
        elif what == "no id":
            cell.id = f"drawn-{number}"
        elif what == "split" and "\n" in cell.source:
            first, _, cell.source = cell.source.partition("\n")
            part = copy.deepcopy(cell)
            part.id, part.source = f"part-{number}", first
            cells.insert(at, part)
        elif what in ("copy", "paste"):
            twin = copy.deepcopy(cell)
            twin.id = f"twin-{number}" if what == "copy" else cell.id
            cells.insert(where % (len(cells) + 1), twin)
        elif what in ("delete", "move"):
            taken = cells.pop(at)
            if what == "move":
                cells.insert(where % (len(cells) + 1), taken)
    return cells


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_line_of_the_learners_is_still_there(data: st.DataObject, build: Build) -> None:
    """Through two updates in a row, from any version to any other, with and without a known base."""
    versions = [build(*data.draw(st.lists(st.sampled_from(EDITS), unique=True))) for _ in range(3)]
    known = data.draw(st.booleans())
    cells, base = copy.deepcopy(versions[0]), versions[0]
    for new in versions[1:]:
        cells = act(cells, data.draw(ACTIONS))
        ours = {line.rstrip() for cell in base for line in cell.source.split("\n")}
        before = {line.rstrip() for cell in cells for line in cell.source.split("\n")}
        marks = {line for cell in cells if "mark_of" in str(cell.metadata) for line in cell.source.split("\n")}
        order = [cell.source for cell in cells if cell.id.startswith("own-")]
        merged = merge(base if known else None, new, cells).cells
        after = {line.rstrip() for cell in merged for line in cell.source.split("\n")}
        assert before - ours - {line.rstrip() for line in marks} <= after
        # Cells that were added are whole, and in the order in which they stood.
        found = iter([cell.source for cell in merged])
        assert all(any(source == other for other in found) for source in order if source.strip())
        notebook = nbformat.v4.new_notebook(cells=merged)
        nbformat.validate(notebook)
        assert len({cell.id for cell in merged}) == len(merged)
        cells, base, known = merged, new, True


def test_merging_the_same_version_again_changes_nothing(build: Build, tmp_path: Path) -> None:
    own = answered(build())
    cell_called(own, "l01-demo-02").source += "\nmine = 1"
    new = build(DEMO, DOCSTRING, NEW_DEMO)
    once = merge(build(), new, own).cells
    assert merge(new, new, copy.deepcopy(once)).cells == once

"""A learner in a real JupyterLab and a real browser: wrong answer, its own hint, right answer, progress after restart.

Screenshots are left in `artifacts/browser/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import ROOT, START_SECONDS, course_lab, open_page

from grader.catalogue import find_course
from grader.source import answer_source, definition_source

ARTIFACTS = ROOT / "artifacts" / "browser"
CELL_SECONDS = 120

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    with course_lab(tmp_path) as address:
        yield address


class Notebook:
    """One open notebook, driven by clicks and keys."""

    def __init__(self, page: object, lesson: str) -> None:
        self.page = page
        self.lesson = lesson

    def open(self, address: str) -> None:
        token = re.search(r"token=(\w+)", address)
        base = address.split("/course")[0]
        query = f"?reset&token={token.group(1)}" if token else "?reset"
        self.page.goto(f"{base}/lab/tree/{self.lesson}.ipynb{query}")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=START_SECONDS * 1000)
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Until the kernel of the open notebook is idle."""
        self.page.wait_for_function(
            "() => { const w = window.jupyterapp.shell.currentWidget;"
            " return w && w.sessionContext?.session?.kernel?.status === 'idle'; }",
            timeout=START_SECONDS * 1000,
        )

    def select(self, which: str) -> None:
        """Scroll to the cell with this id (or the first code cell with this text) and click into it."""
        index = self.page.evaluate(
            """async (which) => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const isIt = (cell) => cell.model.id === which ||
                    (cell.model.type === 'code' && cell.model.sharedModel.source.includes(which));
                const index = notebook.widgets.findIndex(isIt);
                notebook.deselectAll();
                notebook.activeCellIndex = index;
                await notebook.scrollToItem(index, 'center');
                return index;
            }""",
            which,
        )
        assert index >= 0, f"no cell {which!r} in {self.lesson}"
        self.page.locator(".jp-Cell.jp-mod-active .jp-InputArea-editor").click()

    def type_into(self, which: str, text: str) -> None:
        self.select(which)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(text)

    def run(self, which: str) -> str:
        """Shift+Enter in the cell; the text of its output once the kernel is idle again."""
        self.select(which)
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_timeout(300)
        self.page.wait_for_function(
            """() => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                return !notebook.activeCell.model.executionState || notebook.activeCell.model.executionState === 'idle';
            }""",
            timeout=CELL_SECONDS * 1000,
        )
        self.wait_for_kernel()
        output = self.page.locator(".jp-Cell.jp-mod-active .jp-Cell-outputArea")
        return output.inner_text() if output.count() else ""

    def add_below(self, which: str, text: str) -> str:
        """A new code cell below, filled and run; returns its output."""
        self.select(which)
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(text)
        return self.run(text)

    def restart_kernel(self) -> None:
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("0")
        self.page.keyboard.press("0")
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        self.page.wait_for_timeout(1500)
        self.wait_for_kernel()

    def picture(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"{name}.png"))


def test_learner_is_told_their_mistake_then_passes_and_progress_survives_a_restart(lab: str, tmp_path: Path) -> None:
    lesson, exercise = find_course().find("lora_linear")
    name, misconception = next(iter(exercise.misconceptions.items()))
    # The course's wrong version builds on the right class: the learner's cell holds both, the wrong one as LoraLinear.
    right = answer_source(exercise)
    wrong = right.replace(exercise.answer_name, "Right") + "\n\n\n" + definition_source(exercise, name)
    wrong = wrong.replace(f"class {name}({exercise.answer_name})", f"class {exercise.answer_name}(Right)")
    identifier = exercise.id

    with open_page() as page:
        notebook = Notebook(page, lesson.notebook_name.removesuffix(".ipynb"))
        notebook.open(lab)
        notebook.picture("1_lesson_opened")
        assert not page.get_by_text("notified about official").count(), "the lesson opens without a pop-up"
        notebook.run("from grader import")

        notebook.run(identifier)
        assert "not started" in notebook.run(f"{identifier}-check")

        notebook.type_into(identifier, wrong)
        notebook.run(identifier)
        told = notebook.run(f"{identifier}-check")
        notebook.picture("2_wrong_answer_and_its_hint")
        assert misconception.hint.replace("`", "")[:60] in told.replace("\n", " ")

        notebook.type_into(identifier, right)
        notebook.run(identifier)
        told = notebook.run(f"{identifier}-check")
        notebook.picture("3_right_answer")
        assert "passed" in told

        page.keyboard.press("Control+S")
        notebook.restart_kernel()
        notebook.run("from grader import")
        shown = notebook.add_below(f"{identifier}-check", "progress()  # after the restart")
        notebook.picture("4_progress_after_restart")
        row = page.locator(f'.grader-row[data-exercise="{exercise.answer_name}"]')
        assert row.get_attribute("data-status") == "passed", shown
        assert page.locator(".grader-home").last.get_attribute("href") == "/course"

        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        page.wait_for_timeout(1500)
        notebook.picture("5_dark_theme")

    printed = (tmp_path / "lab.log").read_text()
    assert "WARN" not in printed and "[W " not in printed, f"a learner reads this in the terminal:\n{printed}"

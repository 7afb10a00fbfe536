"""A cohort from release to feedback: a real lesson, twelve learners, nbgrader's own formgrader in a real browser.

Screenshots are left in `artifacts/cohort_drill/`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browsers import open_page, served
from submissions import cell_of, code_cell, hand_in

from grader.catalogue import Catalogue, find_course
from grader.exercise import Exercise
from grader.live import check_answer
from grader.nbgrader_course import open_course
from grader.source import answer_source

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts" / "cohort_drill"
BLANK = "blank"
LESSON, NAME = "l00_start", "00_start"
BYTES, METHOD, LAST = "l00-tensor-bytes", "l00-choose-method", "l00-make-deterministic"
BY_HAND = "Well reasoned, **nearly** there."
PATIENCE_MILLISECONDS = 60_000
CRASH = "def tensor_bytes(tensor):\n    return tensor.number_of_bytes\n"
EXIT = "import os\n\n\ndef tensor_bytes(tensor):\n    os._exit(0)\n"
NOISY = """
import sys
import warnings

def tensor_bytes(tensor):
    warnings.warn("careful")
    print("to stderr", file=sys.stderr)
    return values_in(tensor) * tensor.element_size()
"""
VALUES_IN = "def values_in(tensor):\n    return tensor.numel()"


def answers(exercises: list[Exercise], pick: dict[str, str]) -> dict[str, str]:
    """exercise id -> source: the reference, or the variant that `pick` names, or nothing where it names BLANK."""
    return {each.id: answer_source(each, pick.get(each.id, "")) for each in exercises if pick.get(each.id) != BLANK}


def hand_all_in(catalogue: Catalogue, folder: Path) -> dict[str, float]:
    """Twelve learners' notebooks, as `nbgrader collect` lays them; returns the points that each has earned."""
    exercises = graded_exercises(catalogue)
    points = {exercise.id: float(exercise.points) for exercise in exercises}

    def notebook(pick: dict[str, str], own: dict[str, str] | None = None, **extra: str) -> bytes:
        return hand_in(catalogue, LESSON, {**answers(exercises, pick), **(own or {})}, **extra)

    def earned(pick: dict[str, str]) -> float:
        """What the live check gives for the same answers; no answer of these depends on the seed."""
        total = sum(points.values())
        for each in exercises:
            if wrong := each.misconceptions.get(pick.get(each.id, "")):
                total += check_answer(each, wrong.answer).points - each.points
            elif pick.get(each.id) == BLANK:
                total -= each.points
        return total

    # Most leave out the last exercise: each answer to it takes seconds to judge.
    most = {LAST: BLANK}
    others = {each.id: next(iter(each.alternatives)) for each in exercises} | most
    first = {each.id: next(iter(each.misconceptions)) for each in exercises}
    last = {each.id: list(each.misconceptions)[-1] for each in exercises} | most
    one, half = {METHOD: last[METHOD]} | most, {METHOD: BLANK} | most
    right, usual = notebook(most), earned(most)
    cut = right[: right.index(f'"{METHOD}"'.encode())]
    elsewhere = json.loads(right)
    elsewhere["cells"].append(code_cell(cell_of(elsewhere, BYTES)["source"]))
    elsewhere["cells"].remove(cell_of(elsewhere, BYTES))
    handed: dict[str, tuple[bytes, float]] = {
        "ada_right": (notebook({}), earned({})),
        "bea_otherwise": (notebook(others), usual),
        "cem_first_mistakes": (notebook(first), earned(first)),
        "dan_last_mistakes": (notebook(last), earned(last)),
        "eve_one_mistake": (notebook(one), earned(one)),
        "fay_untouched": (notebook(dict.fromkeys(points, BLANK)), 0),
        "gus_half": (notebook(half), earned(half)),
        "hal_crash": (notebook(most, {BYTES: CRASH}), usual - points[BYTES]),
        "ida_exit": (notebook(most, {BYTES: EXIT}), usual - points[BYTES]),
        "jon_noisy": (notebook(most, {BYTES: NOISY}, top=VALUES_IN), usual),
        "kim_elsewhere": (json.dumps(elsewhere).encode(), usual),
        "lea_cut_off": (cut, sum(points[each] for each in points if f'"id": "{each}"'.encode() in cut)),
    }
    for number, (student, (data, _)) in enumerate(handed.items()):
        place = folder / "submitted" / student / NAME
        place.mkdir(parents=True)
        (place / f"{NAME}.ipynb").write_bytes(data)
        (place / "timestamp.txt").write_text(f"2026-11-23 10:{number:02}:00.123456 UTC")
    return {student: score for student, (_, score) in handed.items()}


def run(folder: Path, program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scores(folder: Path) -> dict[str, float]:
    with open_course(folder).gradebook as gradebook:
        return {each.student_id: each.score for each in gradebook.assignment_submissions(NAME)}


class Formgrader:
    """nbgrader's formgrader in an open page."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.base, _, self.token = re.fullmatch(r"(http://[^/]+)/(.*)token=(\w+)", address).groups()

    def open(self, path: str, wait_for: str) -> None:
        self.page.goto(f"{self.base}/formgrader/{path}?token={self.token}")
        self.page.wait_for_selector(wait_for, timeout=PATIENCE_MILLISECONDS)

    def rows(self, key: str, *columns: str) -> dict[str, tuple[str, ...]]:
        """Text of the table's columns by that of the column `key`."""
        found = {}
        for row in self.page.locator("tbody#main-table tr").all():
            texts = [row.locator(f".{name}").first.text_content().strip() for name in (key, *columns)]
            found[texts[0]] = tuple(texts[1:])
        return found

    def wait_for_twelve(self) -> None:
        self.page.wait_for_function("() => document.querySelectorAll('tbody#main-table tr').length === 12")

    def expect_list(self, wanted: dict[str, float]) -> None:
        """The page of all submissions shows everybody as graded, with these scores."""
        self.open(f"manage_submissions/{NAME}", "tbody#main-table .score")
        self.wait_for_twelve()
        whole = max(wanted.values())
        shown = self.rows("student-id", "status", "score")
        assert shown == {student: ("graded", f"{score:g} / {whole:g}") for student, score in wanted.items()}

    def picture(self, name: str, of: Any = None) -> None:
        if of is not None:
            of.evaluate("element => element.scrollIntoView({block: 'center'})")
        picture(self.page, name)


def picture(page: Any, name: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(ARTIFACTS / f"{name}.png"))


def test_a_cohort_from_release_to_feedback(tmp_path: Path):
    catalogue = find_course()
    folder = tmp_path / "course"
    assert f"{NAME}: made" in run(tmp_path, "grader", "nbgrader", folder, "--lesson", LESSON)
    assert (folder / "release" / NAME / f"{NAME}.ipynb").is_file()
    wanted = hand_all_in(catalogue, folder)
    told = run(folder, "grader", *grading(folder))
    assert "12 submissions in the gradebook" in told and "lea_cut_off: the file is damaged" in told
    assert scores(folder) == wanted

    server = [str(Path(sys.executable).with_name("jupyter")), "server", "--no-browser", "--allow-root"]
    server += ["--ServerApp.port=0", "--ServerApp.jpserver_extensions={'nbgrader.server_extensions.formgrader': True}"]
    places = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "HOME")}
    environment = {**os.environ, **places, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    address = r"http://127\.0\.0\.1:\d+/\S*token=\w+"
    with served(server, address, tmp_path / "server.log", cwd=folder, env=environment) as found, open_page() as page:
        page.route(lambda url: url.startswith("http") and "://127.0.0.1" not in url, lambda route: route.abort())
        formgrader = Formgrader(page, found)
        look_through(formgrader, folder, catalogue, wanted)
        look_at_feedback(page, folder, catalogue, wanted)


def grading(folder: Path) -> tuple[str | Path, ...]:
    return "grade", "--nbgrader", folder, "--lesson", LESSON, "--seed", "11"


def look_through(formgrader: Formgrader, folder: Path, catalogue: Catalogue, wanted: dict[str, float]) -> None:
    """An instructor's way through formgrader; what they give by hand and what comes in anew is noted in `wanted`."""
    page, whole = formgrader.page, max(wanted.values())
    exercise, hint = mistaken(catalogue)
    formgrader.open("manage_assignments", "tbody#main-table .num-submissions a")
    formgrader.picture("1_assignments")
    assert formgrader.rows("name", "num-submissions")[NAME] == ("12",)
    formgrader.expect_list(wanted)
    formgrader.picture("2_submissions")
    formgrader.open(f"gradebook/{NAME}/{NAME}", "tbody#main-table .name a")
    formgrader.wait_for_twelve()
    formgrader.picture("3_notebook")
    links = {link.text_content(): link.get_attribute("href") for link in page.locator("a.name-shown").all()}

    def open_submission(student: str) -> None:
        formgrader.open(links[student].split("/formgrader/")[1] + "/", ".grader-card")
        page.wait_for_function("() => [...document.querySelectorAll('input.score')].every(e => e.placeholder)")

    open_submission("eve_one_mistake")
    score, comment = page.locator(f"[id='{METHOD}-check']"), page.locator(f"[id='{METHOD}-comment']")
    card = page.locator(".grader-card.grader-failed")
    formgrader.picture("4_mistake", card)
    assert page.locator(".grader-card").count() == len(graded_exercises(catalogue))
    assert float(score.get_attribute("placeholder")) < exercise.points
    assert hint in comment.get_attribute("placeholder").replace("`", "")
    assert hint in card.inner_text() and card.is_visible()

    # By hand, as an instructor does it: each field saves itself when it is left.
    for field, text in ((score, "1.5"), (comment, BY_HAND)):
        with page.expect_response(lambda response: response.request.method == "PUT" and response.ok):
            field.fill(text)
            field.press("Tab")
    formgrader.picture("5_by_hand", comment)
    wanted["eve_one_mistake"] += 1.5 - float(score.get_attribute("placeholder"))
    assert scores(folder) == wanted

    open_submission("hal_crash")
    formgrader.picture("6_crash", page.locator(".grader-crashed"))
    open_submission("lea_cut_off")
    comment_on_file = page.locator("textarea.comment").first
    formgrader.picture("7_cut_off", comment_on_file)
    assert "the file is damaged" in comment_on_file.get_attribute("placeholder")

    # Graded once more while formgrader is open: one learner hands in anew, and what was given by hand is kept.
    anew = folder / "submitted" / "gus_half" / NAME
    (anew / f"{NAME}.ipynb").write_bytes((folder / "submitted" / "ada_right" / NAME / f"{NAME}.ipynb").read_bytes())
    (anew / "timestamp.txt").write_text("2026-11-24 08:00:00.000000 UTC")
    run(folder, "grader", *grading(folder))
    wanted["gus_half"] = whole
    assert scores(folder) == wanted
    open_submission("eve_one_mistake")
    assert (score.input_value(), comment.input_value()) == ("1.5", BY_HAND)
    formgrader.expect_list(wanted)


def look_at_feedback(page: Any, folder: Path, catalogue: Catalogue, wanted: dict[str, float]) -> None:
    """What learners get to see, made by nbgrader."""
    _, hint = mistaken(catalogue)
    run(folder, "nbgrader", "generate_feedback", NAME)
    pages = {path.parent.parent.name: path for path in folder.glob(f"feedback/*/{NAME}/{NAME}.html")}
    assert sorted(pages) == sorted(wanted)
    for student in ("ada_right", "hal_crash", "eve_one_mistake"):
        page.goto(pages[student].as_uri())
        cards = page.locator(".grader-card")
        assert cards.count() == len(graded_exercises(catalogue))
        text = page.locator("body").inner_text()
        assert f"(Score: {wanted[student]:.1f} / {max(wanted.values()):.1f})" in text
        cards.first.scroll_into_view_if_needed()
        picture(page, f"8_feedback_{student}")
    assert BY_HAND.replace("*", "") in text and hint in text.replace("`", "")


def graded_exercises(catalogue: Catalogue) -> list[Exercise]:
    return [exercise for _, exercise in catalogue.exercises(catalogue.lesson(LESSON))]


def mistaken(catalogue: Catalogue) -> tuple[Exercise, str]:
    """The exercise that eve got wrong, and the first words of the hint that it earns."""
    exercise = next(each for each in graded_exercises(catalogue) if each.id == METHOD)
    return exercise, list(exercise.misconceptions.values())[-1].hint.replace("`", "")[:60]

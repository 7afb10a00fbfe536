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
LESSON, NAME = "l00_start", "00_start"
BYTES, METHOD = "l00-tensor-bytes", "l00-choose-method"
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


def answers(exercises: list[Exercise], pick: dict[str, str]) -> dict[str, str]:
    """exercise id -> source: the reference, or the variant that `pick` names, or nothing where it names "blank"."""
    return {each.id: answer_source(each, pick.get(each.id, "")) for each in exercises if pick.get(each.id) != "blank"}


def hand_all_in(catalogue: Catalogue, folder: Path) -> dict[str, float]:
    """Twelve learners' notebooks, as `nbgrader collect` lays them; returns the points that each has earned."""
    exercises = [exercise for _, exercise in catalogue.exercises(catalogue.lesson(LESSON))]
    points = {exercise.id: float(exercise.points) for exercise in exercises}
    whole = sum(points.values())

    def notebook(pick: dict[str, str], own: dict[str, str] | None = None, **extra: str) -> bytes:
        return hand_in(catalogue, LESSON, {**answers(exercises, pick), **(own or {})}, **extra)

    def earned(pick: dict[str, str]) -> float:
        """What the live check gives for the same answers; no answer of these depends on the seed."""
        wrong = [(each, each.misconceptions[pick[each.id]].answer) for each in exercises if pick.get(each.id)]
        return whole + sum(check_answer(each, answer).points - each.points for each, answer in wrong)

    right = notebook({})
    alternatives = {each.id: next(iter(each.alternatives)) for each in exercises}
    first = {each.id: next(iter(each.misconceptions)) for each in exercises}
    last = {each.id: list(each.misconceptions)[-1] for each in exercises}
    elsewhere = json.loads(right)
    elsewhere["cells"].append(code_cell(cell_of(elsewhere, BYTES)["source"]))
    elsewhere["cells"].remove(cell_of(elsewhere, BYTES))
    handed: dict[str, tuple[bytes, float]] = {
        "ada_right": (right, whole),
        "bea_otherwise": (notebook(alternatives), whole),
        "cem_first_mistakes": (notebook(first), earned(first)),
        "dan_last_mistakes": (notebook(last), earned(last)),
        "eve_one_mistake": (notebook({METHOD: last[METHOD]}), earned({METHOD: last[METHOD]})),
        "fay_untouched": (notebook(dict.fromkeys(points, "blank")), 0),
        "gus_half": (notebook({METHOD: "blank"}), whole - points[METHOD]),
        "hal_crash": (notebook({}, {BYTES: CRASH}), whole - points[BYTES]),
        "ida_exit": (notebook({}, {BYTES: EXIT}), whole - points[BYTES]),
        "jon_noisy": (notebook({}, {BYTES: NOISY}, top="def values_in(tensor):\n    return tensor.numel()"), whole),
        "kim_elsewhere": (json.dumps(elsewhere).encode(), whole),
        "lea_cut_off": (right[: right.index(f'"{METHOD}"'.encode())], -1),
    }
    for number, (student, (data, _)) in enumerate(handed.items()):
        place = folder / "submitted" / student / NAME
        place.mkdir(parents=True)
        (place / f"{NAME}.ipynb").write_bytes(data)
        (place / "timestamp.txt").write_text(f"2026-11-23 10:{number:02}:00.123456 UTC")
    before_the_cut = json.loads(right)["cells"]
    position = next(number for number, cell in enumerate(before_the_cut) if cell["id"] == METHOD)
    kept = {cell["id"] for cell in before_the_cut[:position]}
    scores = {student: score for student, (_, score) in handed.items()}
    return scores | {"lea_cut_off": sum(points[each] for each in points if each in kept)}


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
        for row in self.page.locator("tbody#main tr").all():
            texts = [row.locator(f".{name}").first.text_content().strip() for name in (key, *columns)]
            found[texts[0]] = tuple(texts[1:])
        return found

    def picture(self, name: str, at: str = "") -> None:
        if at:
            self.page.locator(at).first.scroll_into_view_if_needed()
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
    whole = max(wanted.values())
    assert 0 < wanted["lea_cut_off"] < whole and wanted["cem_first_mistakes"] < whole
    grade = ("grade", "--nbgrader", folder, "--lesson", LESSON, "--seed", "11")
    told = run(folder, "grader", *grade)
    assert "12 submissions in the gradebook" in told and "lea_cut_off: the file is damaged" in told
    assert scores(folder) == wanted
    with_mistake = catalogue.find("choose_method")[1]
    hint = list(with_mistake.misconceptions.values())[-1].hint.replace("`", "")

    server = [str(Path(sys.executable).with_name("jupyter")), "server", "--no-browser", "--allow-root"]
    server += ["--ServerApp.port=0", "--ServerApp.jpserver_extensions={'nbgrader.server_extensions.formgrader': True}"]
    places = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "HOME")}
    environment = {**os.environ, **places, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    address = r"http://127\.0\.0\.1:\d+/\S*token=\w+"
    with served(server, address, tmp_path / "server.log", cwd=folder, env=environment) as found, open_page() as page:
        page.route(lambda url: not url.startswith("http://127.0.0.1") and url.startswith("http"), lambda it: it.abort())
        formgrader = Formgrader(page, found)

        formgrader.open("manage_assignments", "tbody#main .num-submissions a")
        formgrader.picture("1_assignments")
        assert formgrader.rows("name", "num-submissions")[NAME] == ("12",)

        formgrader.open(f"manage_submissions/{NAME}", "tbody#main .score")
        page.wait_for_function("() => document.querySelectorAll('tbody#main tr').length >= 12")
        formgrader.picture("2_submissions")
        shown = formgrader.rows("student-id", "status", "score")
        assert shown == {student: ("graded", f"{score:g} / {whole:g}") for student, score in wanted.items()}

        formgrader.open(f"gradebook/{NAME}/{NAME}", "tbody#main .name a")
        page.wait_for_function("() => document.querySelectorAll('tbody#main tr').length >= 12")
        formgrader.picture("3_notebook")
        links = {row.inner_text(): row.get_attribute("href") for row in page.locator("a.name-shown").all()}
        links = {a.text_content(): a.get_attribute("href") for a in page.locator("a.name-shown").all()}

        def open_submission(student: str) -> None:
            formgrader.open(links[student].split("/formgrader/")[1] + "/", ".grader-card")
            page.wait_for_function("() => [...document.querySelectorAll('input.score')].every(e => e.placeholder)")

        open_submission("eve_one_mistake")
        formgrader.picture("4_mistake", f"[id='{METHOD}-check']")
        assert page.locator(".grader-card").count() == len(with_mistake_siblings(catalogue))
        score, comment = page.locator(f"[id='{METHOD}-check']"), page.locator(f"[id='{METHOD}-comment']")
        assert float(score.get_attribute("placeholder")) < with_mistake.points
        assert hint[:60] in comment.get_attribute("placeholder").replace("`", "")
        assert hint[:60] in page.locator(".grader-card.grader-failed").inner_text()
        assert page.locator(".grader-card.grader-failed").is_visible()

        # By hand, as an instructor does it: each field saves itself when it is left.
        for field, text in ((score, "1.5"), (comment, "Well reasoned, **nearly** there.")):
            with page.expect_response(lambda response: response.request.method == "PUT" and response.ok):
                field.fill(text)
                field.press("Tab")
        formgrader.picture("5_by_hand", f"[id='{METHOD}-check']")
        wanted["eve_one_mistake"] = whole - with_mistake.points + 1.5
        assert scores(folder) == wanted

        for student in ("lea_cut_off", "hal_crash"):
            open_submission(student)
            formgrader.picture(
                f"6_{student}", ".grader-crashed" if student == "hal_crash" else f"[id='{METHOD}-check']"
            )
        open_submission("lea_cut_off")
        assert "the file is damaged" in page.locator("textarea.comment").first.get_attribute("placeholder")

        # Graded once more while formgrader is open: one learner hands in anew, and what was given by hand is kept.
        anew = folder / "submitted" / "gus_half" / NAME
        (anew / f"{NAME}.ipynb").write_bytes((folder / "submitted" / "ada_right" / NAME / f"{NAME}.ipynb").read_bytes())
        (anew / "timestamp.txt").write_text("2026-11-24 08:00:00.000000 UTC")
        run(folder, "grader", *grade)
        wanted["gus_half"] = whole
        assert scores(folder) == wanted
        open_submission("eve_one_mistake")
        assert (score.input_value(), comment.input_value()) == ("1.5", "Well reasoned, **nearly** there.")
        formgrader.open(f"manage_submissions/{NAME}", "tbody#main .score")
        page.wait_for_function("() => document.querySelectorAll('tbody#main tr').length >= 12")
        shown = formgrader.rows("student-id", "status", "score")
        assert shown == {student: ("graded", f"{score:g} / {whole:g}") for student, score in wanted.items()}

        run(folder, "nbgrader", "generate_feedback", NAME)
        pages = sorted((folder / "feedback").glob(f"*/{NAME}/{NAME}.html"))
        assert [path.parent.parent.name for path in pages] == sorted(wanted)
        for student in ("eve_one_mistake", "hal_crash", "ada_right"):
            page.goto((folder / "feedback" / student / NAME / f"{NAME}.html").as_uri())
            assert page.locator(".grader-card").count() == len(with_mistake_siblings(catalogue))
            assert f"(Score: {wanted[student]:.1f} / {whole:.1f})" in page.locator("body").inner_text()
            page.locator(".grader-failed, .grader-crashed, .grader-passed").first.scroll_into_view_if_needed()
            picture(page, f"7_feedback_{student}")
        page.goto((folder / "feedback" / "eve_one_mistake" / NAME / f"{NAME}.html").as_uri())
        text = page.locator("body").inner_text()
        assert "Well reasoned, nearly there." in text and hint[:60] in text.replace("`", "")


def with_mistake_siblings(catalogue: Catalogue) -> list[Exercise]:
    return [exercise for _, exercise in catalogue.exercises(catalogue.lesson(LESSON))]

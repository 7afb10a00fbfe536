"""The home page in a real browser, served by `course lab`: by keyboard, after a pass, placement, plan, accessibility.

Screenshots are left in `artifacts/browser/`.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import ROOT, START_SECONDS, WIDE, course_lab, open_browser

from grader.progress import Progress
from grader.result import Result

ARTIFACTS = ROOT / "artifacts" / "browser"
FULL_HD = {"width": 1920, "height": 1080}

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with course_lab(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A logged-in page on the course home, and what the browser refused or what failed is an error."""
    context = browser.new_context(viewport=WIDE)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(address)
    yield opened
    context.close()
    assert [each for each in complaints if "400" not in each and "status of 500" not in each] == []


def base(address: str) -> str:
    return address.split("/course")[0]


def attempt(folder: Path, exercise: str, status: str) -> None:
    kept = Progress(folder / "workspace" / ".grader" / "progress.sqlite")
    kept.finish(kept.begin(exercise, "def a(): ..."), Result(exercise, "A", status, 0.0, 2.0, "m"))


def tab_to(page: Any, selector: str, most: int = 80) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{most} times Tab did not reach {selector}")


def wait_for_cell(lab: Any, exercise: str) -> None:
    """Until JupyterLab has made the exercise's cell the active one; it must be in sight, and stay there."""
    cell = "window.jupyterapp?.shell.currentWidget?.content?.activeCell"
    lab.wait_for_function(f"{cell}?.model.id === '{exercise}'", timeout=START_SECONDS * 1000)
    lab.wait_for_timeout(5000)  # JupyterLab draws other cells meanwhile
    top = lab.evaluate(f"{cell}.node.getBoundingClientRect().top")
    assert 0 <= top < lab.viewport_size["height"], f"the active cell is {top:.0f} px from the top"


def test_keyboard_alone_opens_the_first_lesson_and_then_the_exercise_where_one_stopped(page: Any, folder: Path) -> None:
    assert "Start L00" in page.locator("#continue").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["y"] >= 0, "the skip link is seen when it has the focus"
    page.keyboard.press("Enter")
    tab_to(page, "#continue")
    with page.expect_popup() as opening:
        page.keyboard.press("Enter")
    lab = opening.value
    lab.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=START_SECONDS * 1000)
    assert "/lab/tree/00_start.ipynb" in lab.url
    assert not lab.get_by_text("Create Assignment").count(), "an instructor's tools are not in a learner's way"

    lab.evaluate("window.kept = true")
    attempt(folder, "l00-make-deterministic", "failed")
    page.evaluate("dispatchEvent(new Event('focus'))")  # a headless tab never loses it
    page.get_by_text("Where you stopped").wait_for()
    page.locator("#continue").focus()
    page.keyboard.press("Enter")
    wait_for_cell(lab, "l00-make-deterministic")
    page.get_by_role("link", name="L07 LoRA from scratch", exact=True).last.focus()
    page.keyboard.press("Enter")
    lab.wait_for_function("window.jupyterapp.shell.currentWidget?.context?.path === '07_lora.ipynb'")
    assert len(page.context.pages) == 2 and lab.evaluate("window.kept"), "JupyterLab was not loaded anew"

    with lab.expect_popup() as opening:
        lab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Toolbar").get_by_text("Course home").click()
    opening.value.get_by_text("Where you stopped").wait_for()


def test_a_link_to_an_exercise_finds_its_cell_while_jupyterlab_starts(page: Any) -> None:
    # Then JupyterLab, which shares this page's thread, has few idle moments, in which it draws cells.
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    exercise = page.locator('[data-exercise="l07-save-adapter"] a')
    exercise.evaluate("link => link.closest('details').open = true")
    with page.expect_popup() as opening:
        exercise.click()
    wait_for_cell(opening.value, "l07-save-adapter")


def test_a_pass_recorded_meanwhile_is_shown_when_the_page_is_looked_at_again(page: Any, folder: Path) -> None:
    row = page.locator('[data-exercise="l07-lora-linear"]')
    assert row.get_attribute("data-status") == "todo"
    attempt(folder, "l07-lora-linear", "passed")
    with page.expect_navigation():
        page.evaluate("dispatchEvent(new Event('focus'))")
    assert row.get_attribute("data-status") == "passed"
    assert "✓" in row.text_content()
    page.evaluate("window.kept = true; dispatchEvent(new Event('focus'))")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.kept"), "a page with nothing new is left as it is"


def test_placement_by_keyboard_suggests_and_the_home_shows_it(page: Any) -> None:
    page.get_by_role("link", name="Placement", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/course/placement")
    tab_to(page, "input[name=background]")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")  # data engineer
    tab_to(page, "input[name=tensor-bytes]")
    page.keyboard.type("six thousand")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert "'six thousand' is not a number" in page.get_by_role("alert").inner_text()
    assert page.locator("input[name=background]:checked").get_attribute("value") == "data", "the rest was kept"
    page.locator("input[name=tensor-bytes]").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("6,000")
    tab_to(page, "input[name=seeds]")
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowDown")  # from "I do not know yet", the last, round to the second
    tab_to(page, "button")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Start with L01 Tokens, chat text and the context window").wait_for()
    assert "you showed that you know what a tensor costs in bytes" in page.locator("#result").inner_text()
    page.get_by_role("link", name="To the course home").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Suggested start: L01 Tokens, chat text and the context window").wait_for()


def test_the_plan_follows_the_hours_and_says_what_is_wrong_with_them(page: Any) -> None:
    page.locator("#hours").fill("none")
    page.keyboard.press("Enter")
    assert "'none' hours a week: give a number from 0.5 to 80" in page.get_by_role("alert").inner_text()
    page.locator("#hours").fill("3")
    page.keyboard.press("Enter")
    page.wait_for_url("**/course#plan")
    hours = page.locator("#plan ~ table td.figure").all_inner_texts()
    assert hours[0] == "3 h"
    page.reload()
    assert page.locator("#hours").input_value() == "3"


def test_the_portfolio_by_keyboard_is_written_and_shown_and_says_why_it_cannot_be(page: Any, folder: Path) -> None:
    attempt(folder, "l07-merge-lora", "passed")
    in_the_way = folder / "workspace" / "portfolio"
    in_the_way.write_text("a file of that name")
    page.get_by_role("button", name="Write my portfolio").focus()
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert "The portfolio cannot be written to" in page.get_by_role("alert").inner_text()
    in_the_way.unlink()
    page.get_by_role("button", name="Write my portfolio").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/course/portfolio")
    page.get_by_role("heading", name="Exercises passed, by skill").wait_for()
    assert "exercises passed" in page.locator("#skills").inner_text()
    assert "run 09_qlora.ipynb to its end" in page.locator("#missing").inner_text()
    page.screenshot(path=ARTIFACTS / "course_portfolio_1280_light.png", full_page=True)
    page.goto(page.url.removesuffix("/portfolio"))
    page.get_by_text("Runs made since are not in it").wait_for()
    with page.expect_popup() as opening:
        page.get_by_role("link", name="the draft lines").click()
    opening.value.get_by_text("Draft lines for your résumé").first.wait_for(timeout=START_SECONDS * 1000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, FULL_HD], ids=["1280", "1920"])
def test_no_serious_accessibility_fault_and_no_sideways_scrolling(
    browser: Any, address: str, folder: Path, size: dict[str, int], scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    attempt(folder, "l07-inject-lora", "crashed")
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    for path in ("course", "course/placement")[: 1 + (size == WIDE)]:  # the form is as wide on both
        page.goto(f"{base(address)}/{path}")
        page.screenshot(path=ARTIFACTS / f"{path.replace('/', '_')}_{size['width']}_{scheme}.png", full_page=True)
        found = Axe().run(page).response["violations"]
        assert [each for each in found if each["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def status_of(request: urllib.request.Request | str) -> tuple[int, str]:
    """(status, final address) of an answer."""
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.url
    except urllib.error.HTTPError as error:
        return error.code, error.url


def test_nobody_reads_or_writes_without_logging_in(address: str, folder: Path) -> None:
    for path in ("course", "course/placement", "course/plan", "course/portfolio"):
        status, final = status_of(f"{base(address)}/{path}")
        assert (status, "/login" in final) == (200, True)
    before = (folder / "workspace" / ".grader").joinpath("learner.json").exists()
    data = urllib.parse.urlencode({"hours": "40"}).encode()
    assert status_of(urllib.request.Request(f"{base(address)}/course/plan", data=data))[0] == 403
    assert status_of(urllib.request.Request(f"{base(address)}/course/portfolio", data=b""))[0] == 403
    assert (folder / "workspace" / ".grader").joinpath("learner.json").exists() == before


def test_another_site_cannot_post_for_somebody_who_is_logged_in(page: Any, address: str) -> None:
    answer = page.request.post(f"{base(address)}/course/plan", form={"hours": "40"})
    assert answer.status == 403
    assert re.search(r"_xsrf", answer.text())

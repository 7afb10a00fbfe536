"""The home page without a server: what it shows, what it escapes, and that it opens whatever is broken."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course.cli import app
from course.home.choices import HoursError, checked_hours, keep_hours, keep_placement, read_choices
from course.home.declared import Declarations, declaration_in
from course.home.overview import Overview, read_overview
from course.home.page import Pages, tries_text, when_text
from course.home.portfolio import write_portfolio_apart, written_portfolio
from course.home.skills import AREAS, BEYOND
from course.home.weeks import hours_text, plan_weeks
from course.placement.suggestion import Placement
from course.syllabus import COURSE, SKILLS
from course.workspace import WorkspaceError
from grader.catalogue import Catalogue
from grader.exercise import DeclarationError
from grader.progress import Progress, Standing
from grader.result import Result
from grader.show import progress_html
from grader.syllabus import Lesson

ROOT = Path(__file__).resolve().parent.parent
LORA = (
    "l07-lora-linear",
    "l07-inject-lora",
    "l07-repair-lora",
    "l07-save-adapter",
    "l07-merge-lora",
    "l07-dora-linear",
)


@pytest.fixture(autouse=True)
def own_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADER_PROGRESS", raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / ".grader").mkdir(parents=True)
    for lesson in COURSE.lessons:
        (folder / lesson.notebook_name).touch()
    return folder


@pytest.fixture(scope="module")
def declarations() -> Declarations:
    return Declarations(Catalogue(COURSE))


def attempt(workspace: Path, exercise: str, status: str) -> None:
    kept = Progress(workspace / ".grader" / "progress.sqlite")
    kept.finish(kept.begin(exercise, "def a(): ..."), Result(exercise, "A", status, 0.0, 2.0, "m"))


def home(overview: Overview) -> str:
    return Pages("/base/").home(overview, "the-token").html


def text_of(page: str) -> str:
    """The page as it reads: no tags, single spaces."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    inline = re.sub(r"</?(a|b|code|span|strong|time)\b[^>]*>", "", body)
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", inline).split()))


def test_a_fresh_workspace_starts_with_the_first_lesson(workspace: Path, declarations: Declarations) -> None:
    page = home(read_overview(declarations, workspace))
    assert "Where to begin" in page
    assert re.search(r'id="continue"[^>]*href="/base/lab/tree/00_start\.ipynb"', page)
    assert "Take the placement" in page
    assert "needs your attention" not in page
    assert not (workspace / ".grader" / "learner.json").exists(), "looking writes nothing of the learner's"


def test_a_failed_exercise_is_where_to_go_on(workspace: Path, declarations: Declarations) -> None:
    attempt(workspace, "l07-lora-linear", "passed")
    attempt(workspace, "l07-repair-lora", "crashed")
    page = home(read_overview(declarations, workspace))
    assert "Repair a LoRA run that does not learn: ⚠ your code stopped with an error," in text_of(page)
    assert 'href="/base/lab/tree/07_lora.ipynb#cell-id=l07-repair-lora"' in page
    assert 'data-exercise="l07-lora-linear" data-status="passed"' in page
    assert "1 of 67 exercises passed" in text_of(page)


def test_after_a_pass_the_next_open_exercise_follows_then_the_next_lesson(
    workspace: Path, declarations: Declarations
) -> None:
    attempt(workspace, LORA[0], "passed")
    for exercise in LORA[2:]:
        attempt(workspace, exercise, "passed")
    step = read_overview(declarations, workspace).step
    assert step.exercise.declared.id == "l07-inject-lora", "the one that was jumped over"
    attempt(workspace, LORA[1], "passed")
    overview = read_overview(declarations, workspace)
    assert overview.step.row.lesson.id == "l08_quantisation"
    assert overview.path.row(overview.course.lessons[4]).status == "done"


def test_when_all_have_passed_the_page_says_so(workspace: Path, declarations: Declarations) -> None:
    for lesson in COURSE.lessons:
        for declared in declarations.of(lesson)[0]:
            attempt(workspace, declared.id, "passed")
    overview = read_overview(declarations, workspace)
    assert (overview.step, overview.weeks, overview.path.minutes_left) == (None, (), 0)
    assert "Every exercise has passed" in home(overview)
    assert "Nothing is left to plan" in home(overview)


def test_a_placement_sets_where_to_begin_what_to_skip_and_the_plan(workspace: Path, declarations: Declarations) -> None:
    keep_placement(workspace, Placement("devops", ("tensor-bytes", "seeds", "pass-at-k"), "2026-01-05T10:00:00+00:00"))
    overview = read_overview(declarations, workspace)
    assert overview.step.row.lesson.id == "l08_quantisation"
    planned = {part.lesson.id for week in overview.weeks for part in week.parts}
    assert planned == {lesson.id for lesson in COURSE.lessons} - {"l00_start", "l17_metrics"}
    shown = text_of(home(overview))
    assert "Suggested start: L08 Quantisation from scratch" in shown
    assert "You may skip it: you showed that you estimate pass@k without bias." in shown


def test_a_crashed_kernel_leaves_an_attempt_that_reads_as_not_finished(
    workspace: Path, declarations: Declarations
) -> None:
    Progress(workspace / ".grader" / "progress.sqlite").begin("l01-byte-bpe", "def a(): ...")
    assert "the check has not finished" in home(read_overview(declarations, workspace))


def test_an_attempt_at_an_exercise_that_is_gone_is_passed_over(workspace: Path, declarations: Declarations) -> None:
    attempt(workspace, "l01-gone", "failed")
    page = home(read_overview(declarations, workspace))
    assert "Where to begin" in page
    assert "Start L00" in text_of(page)


def test_the_portfolio_is_offered_then_shown_with_when_it_was_written(
    workspace: Path, declarations: Declarations
) -> None:
    assert "Write my portfolio" in home(read_overview(declarations, workspace))
    write_portfolio_apart(workspace)
    page = home(read_overview(declarations, workspace))
    assert "Write it again" in page
    assert 'href="/base/course/portfolio"' in page
    assert 'href="/base/lab/tree/portfolio/resume.md"' in page
    assert f"Written {when_text(written_portfolio(workspace).written)}" in text_of(page)


def test_a_portfolio_that_cannot_be_written_says_why_and_the_page_is_not_loaded_anew(
    workspace: Path, declarations: Declarations
) -> None:
    (workspace / "portfolio").touch()
    with pytest.raises(WorkspaceError, match=r"The portfolio cannot be written to .*: ") as raised:
        write_portfolio_apart(workspace)
    with pytest.raises(WorkspaceError, match="was not written"):
        write_portfolio_apart(workspace / "nowhere")
    page = Pages("/").home(read_overview(declarations, workspace), "t", portfolio_error=str(raised.value)).html
    assert str(raised.value) in html.unescape(page)
    assert 'data-version=""' in page


def test_an_unreadable_progress_file_is_told_and_the_page_opens(workspace: Path, declarations: Declarations) -> None:
    (workspace / ".grader" / "progress.sqlite").mkdir()
    overview = read_overview(declarations, workspace)
    assert len(overview.problems) == 1
    assert "Your progress cannot be read" in home(overview)
    assert "unable to open database file" in home(overview)
    assert "Start L00" in text_of(home(overview))


def test_a_damaged_progress_file_is_restored_and_told(workspace: Path, declarations: Declarations) -> None:
    attempt(workspace, "l07-lora-linear", "passed")
    (workspace / ".grader" / "progress.sqlite").write_bytes(b"no database at all" * 100)
    page = home(read_overview(declarations, workspace))
    assert "your progress was restored from the copy" in page
    assert 'data-exercise="l07-lora-linear" data-status="passed"' in page


def test_an_absent_workspace_is_told_and_not_made(tmp_path: Path, declarations: Declarations) -> None:
    page = home(read_overview(declarations, tmp_path / "gone"))
    assert "is not there any more" in page
    assert "course lab" in page
    assert not (tmp_path / "gone").exists()


def test_a_missing_notebook_is_named_and_not_linked(workspace: Path, declarations: Declarations) -> None:
    (workspace / "00_start.ipynb").unlink()
    page = home(read_overview(declarations, workspace))
    assert "Not in your workspace: 00_start.ipynb." in page
    assert "lab/tree/00_start.ipynb" not in page
    assert 'id="continue"' not in page
    assert "whose notebook is missing" in page


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Declarations, Path]:
    """Declarations that read a copy of the lessons, and that copy."""
    folder = tmp_path / "lessons"
    shutil.copytree(ROOT / "course" / "lessons", folder, ignore=shutil.ignore_patterns("__pycache__"))
    catalogue = Catalogue(COURSE)
    catalogue.__dict__["lessons_folder"] = folder
    return Declarations(catalogue), folder


def test_one_exercise_that_cannot_be_read_costs_only_itself(workspace: Path, copied: tuple[Declarations, Path]) -> None:
    declarations, folder = copied
    read_overview(declarations, workspace)
    file = folder / "l07_lora" / "merge_lora.py"
    whole = file.read_text()
    file.write_text(whole + "\ndef broken(:\n")
    overview = read_overview(declarations, workspace)
    assert overview.path.exercises == 66
    assert "l07_lora/merge_lora.py cannot be read: invalid syntax (line " in home(overview)
    file.write_text(whole)
    os.utime(file, (1, 1))
    assert read_overview(declarations, workspace).path.exercises == 67, "mended without a restart"


def test_a_file_that_is_no_text_costs_its_lesson_only(workspace: Path, copied: tuple[Declarations, Path]) -> None:
    declarations, folder = copied
    (folder / "l07_lora" / "merge_lora.py").write_bytes(b"\xff\xfe\x00")
    page = home(read_overview(declarations, workspace))
    assert "The files of l07_lora cannot be read" in page
    assert "lab/tree/07_lora.ipynb" in page


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "has no `exercise"),
        ("exercise = Exercise(id=make())\n", "`id` of its Exercise is not written out"),
        ("exercise = Exercise(id='l01-a', title='A')\n", "`points` of its Exercise"),
    ],
)
def test_a_declaration_that_is_not_plain_says_what(source: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        declaration_in(source)


def test_declarations_read_from_source_are_what_importing_gives(declarations: Declarations) -> None:
    lesson = declarations.catalogue.lesson("l00_start")
    read = declarations.of(lesson)[0]
    loaded = [exercise for _, exercise in declarations.catalogue.exercises(lesson)]
    fields = ("id", "title", "points", "minutes", "importance", "skills")
    assert [[getattr(each, name) for name in fields] for each in read] == [
        [getattr(each, name) for name in fields] for each in loaded
    ]


def test_the_page_is_made_without_torch(workspace: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from course.home.server import Home
home = Home(Path({str(workspace)!r}), "/")
assert "Fine-tune LLMs" in home.pages.home(home.overview(), "t").html
assert not {{"torch", "transformers", "peft"}} & set(sys.modules), "a heavy library was imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


class Attributes(HTMLParser):
    """Collects what a strict policy would refuse, and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.refused += [f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))


def test_pages_hold_nothing_the_policy_refuses_and_headings_in_order(
    workspace: Path, declarations: Declarations
) -> None:
    keep_placement(workspace, Placement("data", ("paired",), "2026-01-05T10:00:00+00:00"))
    (workspace / "00_start.ipynb").unlink()
    overview = read_overview(declarations, workspace)
    pages = Pages("/")
    for page in (pages.home(overview, "t"), pages.placement(overview, "t"), pages.problem("no course")):
        seen = Attributes()
        seen.feed(page.html)
        assert seen.refused == []
        assert len(seen.ids) == len(set(seen.ids))
        assert seen.headings[0] == 1
        steps = zip(seen.headings, seen.headings[1:], strict=False)
        assert all(after <= before + 1 for before, after in steps), seen.headings
        assert "unsafe" not in page.content_security_policy
        assert page.content_security_policy.startswith("default-src 'none'; style-src 'sha256-")


def test_everything_that_comes_from_files_and_forms_is_escaped(workspace: Path, declarations: Declarations) -> None:
    evil = "<img src=x onerror=alert(1)>"
    attempt(workspace, "l07-lora-linear", "failed")
    (workspace / ".grader" / "learner.json").write_text(json.dumps({"placement": {"background": evil}}))
    overview = read_overview(declarations, workspace)
    object.__setattr__(overview.learner.last, "started", evil)
    pages = Pages("/")
    given = {"background": evil, "tensor-bytes": f'"{evil}'}
    for shown in (
        pages.home(overview, evil, error=evil, hours_given=f'"{evil}').html,
        pages.placement(overview, evil, given=given, errors={"tensor-bytes": evil, "": evil}).html,
        pages.problem(evil).html,
    ):
        assert "<img" not in shown
        assert "&lt;img src=x" in shown


@pytest.mark.parametrize("kept", ["", "[]", "{", "null", '{"hours_per_week": 900}', '{"placement": {"right": 3}}'])
def test_choices_that_cannot_be_read_are_told_with_the_way_out(workspace: Path, kept: str) -> None:
    (workspace / ".grader" / "learner.json").write_text(kept)
    choices, problem = read_choices(workspace)
    assert choices.placement is None
    assert "learner.json" in problem
    assert "Take the placement again" in problem
    keep_hours(workspace, 4)
    assert read_choices(workspace)[0].hours_per_week == 4


def test_hours_and_placement_are_kept_beside_each_other(workspace: Path) -> None:
    placement = Placement("data", ("paired",), "2026-01-05T10:00:00+00:00")
    keep_hours(workspace, 7.5)
    keep_placement(workspace, placement)
    choices, problem = read_choices(workspace)
    assert (choices.hours_per_week, choices.placement, problem) == (7.5, placement, "")


def test_a_choice_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / ".grader").write_text("")
    with pytest.raises(WorkspaceError, match=r"cannot be kept in .*learner\.json"):
        keep_hours(tmp_path, 4)


@pytest.mark.parametrize("text", ["0", "0.4", "81", "-3", "", "six", "nan", "inf"])
def test_hours_no_plan_can_be_made_from_are_refused(text: str) -> None:
    with pytest.raises(HoursError, match=r"give a number from 0\.5 to 80"):
        checked_hours(text)


def lessons(*minutes: int) -> list[tuple[Lesson, int]]:
    return [(Lesson(f"l{number:02}_x", "X", each, 1.0), each) for number, each in enumerate(minutes)]


@pytest.mark.parametrize("hours", [0.5, 1, 2.5, 6, 40])
def test_a_plan_holds_every_minute_and_no_week_more_than_its_hours(hours: float) -> None:
    left = lessons(45, 120, 0, 180, 1, 150, 200)
    weeks = plan_weeks(left, hours)
    assert [week.number for week in weeks] == list(range(1, len(weeks) + 1))
    assert all(0 < week.minutes <= 60 * hours for week in weeks)
    for lesson, minutes in left:
        parts = [part for week in weeks for part in week.parts if part.lesson is lesson]
        assert sum(part.minutes for part in parts) == minutes
        assert [part.continued for part in parts] == [place > 0 for place in range(len(parts))]
        assert [part.ends for part in parts] == [place == len(parts) - 1 for place in range(len(parts))]


def test_a_lesson_is_not_begun_in_the_last_minutes_of_a_week() -> None:
    weeks = plan_weeks(lessons(50, 120), 1)
    assert [[part.minutes for part in week.parts] for week in weeks] == [[50], [60], [60]]
    assert plan_weeks([], 6) == ()


def test_what_has_passed_is_taken_off_the_plan(workspace: Path, declarations: Declarations) -> None:
    whole = read_overview(declarations, workspace)
    attempt(workspace, "l01-byte-bpe", "passed")
    part = read_overview(declarations, workspace)
    assert whole.path.minutes_left == sum(lesson.minutes for lesson in COURSE.lessons)
    # 20 of the lesson's 90 exercise minutes, of its 120 minutes
    assert whole.path.minutes_left - part.path.minutes_left == 120 - round(120 * 70 / 90)
    assert part.weeks[0].parts[0].lesson.id == "l01_tokens", "the lesson one is in comes first"


def test_the_plan_in_a_terminal_keeps_the_hours(workspace: Path) -> None:
    run = CliRunner().invoke(app, ["plan", "--workspace", str(workspace), "--hours", "10"], env={"COLUMNS": "100"})
    assert run.exit_code == 0, run.output
    assert "21 h 45 min are left. At 10 hours a week:" in run.output
    assert "L09 QLoRA, for real" in run.output
    assert "At 10 hours a week" in CliRunner().invoke(app, ["plan", "--workspace", str(workspace)]).output
    refused = CliRunner().invoke(app, ["plan", "--workspace", str(workspace), "--hours", "none"])
    assert refused.exit_code == 2
    assert "'none' hours a week" in refused.output


def test_every_skill_of_an_area_exists_and_what_no_lesson_builds_is_said(
    workspace: Path, declarations: Declarations
) -> None:
    assert {name for names in AREAS.values() for name in names} <= set(SKILLS)
    missing = [title for title, names in BEYOND.items() if not set(names) & set(SKILLS)]
    page = text_of(home(read_overview(declarations, workspace)))
    for title in missing:
        assert title in page.split("no lesson here builds them yet")[1]


def test_progress_in_a_notebook_links_to_the_home_where_there_is_one() -> None:
    assert "<a" not in progress_html([])
    assert '<a class="grader-home" href="/&quot;x/course"' in progress_html([], '/"x/course')


def test_words_for_times_and_tries() -> None:
    assert [hours_text(minutes) for minutes in (0, 45, 60, 150)] == ["0 min", "45 min", "1 h", "2 h 30 min"]
    assert when_text("yesterday") == "yesterday"
    assert re.fullmatch(r"[456] January 2026, \d\d:\d\d", when_text("2026-01-05T10:00:00+00:00"))
    assert tries_text(Standing("failed", 1)) == ", 1 try"
    assert tries_text(Standing("passed", 2)) == " after 2 other tries"
    assert tries_text(Standing("passed", 0)) == ""

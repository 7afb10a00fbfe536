"""`grader report` over a small class that was really graded: tables, page, bad input, hostile text in a browser."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
from browsers import WIDE, chromium
from report_cohort import CLASS, HOSTILE, LESSON, MEAN, SUM, THRICE, grade_class
from rich.console import Console
from tiny_courses import load_course

from grader.call import Outcome
from grader.catalogue import Catalogue
from grader.cohort.grading import case_seeds
from grader.judge import call_all, judge, prepare
from grader.progress import Progress
from grader.report.analysis import make_report
from grader.report.command import write_reports
from grader.report.page import render
from grader.report.read import ReportError, chosen_folders, read_cohort
from grader.result import STATUSES


class StoppedError(Exception):
    """What the command would print before it ends with 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Catalogue:
    (folder / "course").mkdir()
    return load_course(folder / "course")


@pytest.fixture(scope="module")
def graded(catalogue: Catalogue, folder: Path) -> tuple[Path, Path]:
    return grade_class(catalogue, folder)


@pytest.fixture(scope="module")
def written(catalogue: Catalogue, graded: tuple[Path, Path], folder: Path) -> Path:
    """The folder of the report with the submissions at hand."""
    submissions, results = graded
    said = run(catalogue, results, lesson="01_plain", submissions=submissions, folder=folder / "out")
    assert "noise: the file is no notebook" in said and "Largest idea without a name: 3 learners" in said
    return folder / "out" / LESSON


@pytest.fixture
def results(graded: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(graded[1], tmp_path / "results"))


def run(
    catalogue: Catalogue,
    results: Path,
    *,
    lesson: str | None = None,
    submissions: Path | None = None,
    folder: Path | None = None,
) -> str:
    def fail(message: str) -> NoReturn:
        raise StoppedError(message)

    console = Console(record=True, width=400, file=io.StringIO())
    write_reports(catalogue, results, lesson, submissions, folder, out=console, fail=fail)
    return console.export_text()


def table(written: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(written / f"{name}.parquet")


def test_the_item_table_counts_every_learner_that_could_be_read(written: Path):
    items = table(written, "items").set_index("exercise_id")
    assert list(items.index) == [SUM, MEAN]
    assert items.loc[SUM, list(STATUSES)].to_dict() == {"todo": 1, "passed": 5, "failed": 9, "crashed": 2, "broken": 0}
    assert items[list(STATUSES)].sum(axis=1).tolist() == [len(CLASS)] * 2
    assert items.loc[SUM, "pass_rate"] == pytest.approx(5 / len(CLASS))
    assert list(items.loc[SUM, "misconceptions"]) == ["scale_forgotten:2", "sign_lost:0"]
    learners = table(written, "learners")
    both = learners[learners.problem == ""].pivot(index="learner", columns="exercise_id", values=["status", "points"])
    passed = both["status"][SUM] == "passed"
    expected = passed.astype(float).corr(both["points"][MEAN].astype(float))  # The correlation, by another library.
    assert items.loc[SUM, "discrimination"] == pytest.approx(expected)


def test_learners_with_one_wrong_idea_are_found_together(written: Path):
    clusters = table(written, "clusters")
    by_learners = {tuple(each): kind for each, kind in zip(clusters.learners, clusters.kind, strict=True)}
    assert by_learners == {
        ("lena", "milo", "nadia"): "unnamed",
        ("jun", "kofi"): "unnamed",
        ("eli", "fatima", "grace"): "in part",
        ("ines",): "in part",
        ("cem", "dana"): "named",
        ("bob", "dana"): "named",
        ("grace", "hugo"): "named",
    }
    thrice = clusters[clusters.kind == "unnamed"].iloc[0]
    assert (thrice.source, thrice.exercise_id, thrice["size"]) == (THRICE, SUM, 3)


def test_the_disguised_copy_is_listed_with_its_evidence_and_right_answers_are_not(written: Path):
    pairs = table(written, "pairs").set_index(["left", "right"])
    copied = pairs.loc[("grace", "hugo")]
    assert copied.similarity > 0.9 and copied.same_wrong_outcome and not copied.identical
    assert set(pairs.index) == {("grace", "hugo"), ("bob", "dana")}


def test_csv_and_parquet_hold_the_same_and_no_formula(written: Path):
    for name in ("learners", "items", "clusters", "pairs"):
        csv, parquet = pd.read_csv(written / f"{name}.csv", keep_default_na=False), table(written, name)
        assert list(csv.columns) == list(parquet.columns) and len(csv) == len(parquet)
    assert "+李雷" in set(table(written, "learners").learner)
    names = set(pd.read_csv(written / "learners.csv").learner)
    assert "'+李雷" in names and "søren.åberg@uni" in names
    assert len(table(written, "learners")) == 2 * (len(CLASS) + 1)


def test_the_digest_is_keyed_by_the_secret_seed(catalogue: Catalogue, graded: tuple[Path, Path]):
    exercise = catalogue.find("scaled_sum")[1]
    questions = prepare(exercise, *case_seeds(7, SUM))
    outcomes: list[Outcome] = call_all(exercise, lambda base, update, scale: base + update, questions)
    stored = json.loads((graded[1] / LESSON / "cem.json").read_text())["results"][0]["outcome"]
    assert judge(exercise, questions, outcomes, digest_key="7").outcome == stored
    assert judge(exercise, questions, outcomes).outcome != stored


def test_without_submissions_there_is_a_report_without_sources(catalogue: Catalogue, results: Path):
    run(catalogue, results)
    written = results / "report" / LESSON
    assert not (written / "pairs.csv").exists()
    page = (written / "report.html").read_text()
    assert "Similar answers" not in page and "base + 3 * scale" not in page and "HalfEachTime" in page
    assert chosen_folders(results, None).keys() == {LESSON}, "its own folder is not taken for results"


def test_a_file_changed_after_grading_is_left_out(catalogue: Catalogue, graded: tuple[Path, Path], tmp_path: Path):
    submissions = Path(shutil.copytree(graded[0], tmp_path / "in"))
    for name in ("grace", "lena"):
        path = submissions / f"{name}.ipynb"
        path.write_bytes(path.read_bytes() + b"\n")
    (submissions / "ada.ipynb").unlink()
    said = run(catalogue, graded[1], submissions=submissions, folder=tmp_path / "out")
    assert "grace: the file was changed after it was graded" in said
    assert "ada: graded, but not among the submissions" in said
    assert ("grace", "hugo") not in set(
        table(tmp_path / "out" / LESSON, "pairs")[["left", "right"]].apply(tuple, axis=1)
    )


def test_tries_are_told_where_learners_handed_in_their_progress(
    catalogue: Catalogue, graded: tuple[Path, Path], tmp_path: Path
):
    submissions = Path(shutil.copytree(graded[0], tmp_path / "in"))
    exercise = catalogue.find("scaled_sum")[1]
    questions = prepare(exercise, 0)
    wrong = judge(exercise, questions, call_all(exercise, lambda base, update, scale: base, questions))
    for name, tries in {"ada": 4, "bob": 2, "cem": 0}.items():
        progress = Progress(submissions / name / ".grader" / "progress.sqlite")
        for _ in range(tries):
            progress.finish(progress.begin(SUM, ""), wrong)
    for name, data in {"dana": b"no database", "eli": VIEW_WITHOUT_END, "fatima": b""}.items():
        file = submissions / name / "progress.sqlite"
        file.parent.mkdir()
        file.write_bytes(data)
    (submissions / "grace").mkdir()
    (submissions / "grace" / ".grader").symlink_to(submissions / "ada" / ".grader")
    said = run(catalogue, graded[1], submissions=submissions, folder=tmp_path / "out")
    learners = table(tmp_path / "out" / LESSON, "learners").set_index(["learner", "exercise_id"])
    assert pd.isna(learners.loc[("grace", SUM), "tries"])
    assert learners.loc[("ada", SUM), "tries"] == 4 and pd.isna(learners.loc[("ada", MEAN), "tries"])
    assert table(tmp_path / "out" / LESSON, "items").median_tries[0] == 3
    assert "median tries" in (tmp_path / "out" / LESSON / "report.html").read_text()
    for name in ("dana", "eli", "fatima", "grace"):
        assert f"{name}: the tries in progress.sqlite cannot be read" in said


def _view_without_end() -> bytes:
    import sqlite3

    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE VIEW attempts AS WITH RECURSIVE n(exercise, status) AS "
        "(SELECT 'x', 'failed' UNION ALL SELECT exercise || 'x', status FROM n) SELECT * FROM n"
    )
    return database.serialize()


VIEW_WITHOUT_END = _view_without_end()


def _spoil(data: dict[str, Any], **changes: Any) -> str:
    return json.dumps(data | changes)


def test_every_file_that_is_no_result_is_named_with_its_reason(catalogue: Catalogue, results: Path):
    good = json.loads((results / LESSON / "ada.json").read_text())
    older = json.loads(json.dumps(good))
    for result in older["results"]:
        del result["outcome"]
    bad = {
        "truncated": (json.dumps(good)[:100], "damaged"),
        "foreign": ('{"name": "something else"}', "no result"),
        "a list": ("[]", "no result"),
        "deep": ("[" * 100_000, "recursion"),
        "not a number": (_spoil(good, seconds=float("nan")), "NaN, which is no number"),
        "text for points": (_spoil(good, peak_bytes="many"), "'many' is not of type 'integer'"),
        "other lesson": (_spoil(good, lesson="l99_other", learner="other lesson"), "a result of lesson 'l99_other'"),
        "zoe": (json.dumps(good), "a result of 'ada', under another learner's name"),
        "older": (_spoil(older, learner="older"), "from an older version of the grader. Grade again"),
    }
    for name, (text, _) in bad.items():
        (results / LESSON / f"{name}.json").write_text(text)
    (results / LESSON / "binary.json").write_bytes(b"\xff\x00\xfe")
    (results / LESSON / "folder.json").mkdir()
    (results / LESSON / ".being written.json").write_text("{")
    said = run(catalogue, results)
    for name, (_, reason) in bad.items():
        assert f"{name}.json was passed over" in said
        assert reason in said, name
    assert "binary.json was passed over" in said and "folder.json was passed over" in said
    assert "being written" not in said
    assert len(table(results / "report" / LESSON, "learners")) == 2 * (len(CLASS) + 1)
    for path in (results / LESSON).glob("*.json"):
        if path.stem not in bad and path.is_file():
            path.unlink()
    with pytest.raises(
        StoppedError, match=r"none of the 10 files in .* is a result of l01_plain\. a list\.json: no result"
    ):
        run(catalogue, results)


def test_folders_without_results_are_refused_with_what_to_do(catalogue: Catalogue, results: Path, tmp_path: Path):
    with pytest.raises(StoppedError, match="is no folder; name the one that `grader grade --out` wrote to"):
        run(catalogue, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoppedError, match="holds no results; `grader grade SUBMISSIONS"):
        run(catalogue, tmp_path / "empty")
    with pytest.raises(StoppedError, match="no results of 02_torch; there are l01_plain"):
        run(catalogue, results, lesson="02_torch")
    with pytest.raises(StoppedError, match=r"looked for LEARNER/01_plain\.ipynb"):
        run(catalogue, results, submissions=tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoppedError, match="cannot be written"):
        run(catalogue, results, folder=tmp_path / "file")
    run(catalogue, results / LESSON, folder=tmp_path / "out")
    assert (tmp_path / "out" / LESSON / "report.html").exists(), "one lesson's own folder will do"


def test_one_learner_and_a_class_without_a_pass_have_a_report(catalogue: Catalogue, results: Path, tmp_path: Path):
    for path in (results / LESSON).glob("*.json"):
        if path.stem != "dana":
            path.unlink()
    run(catalogue, results)
    items = table(results / "report" / LESSON, "items")
    assert items.pass_rate.tolist() == [0, 0] and items.discrimination.isna().all()
    nothing = json.loads((results / LESSON / "dana.json").read_text()) | {"results": [], "points": 0, "max_points": 0}
    (results / LESSON / "dana.json").write_text(json.dumps(nothing))
    run(catalogue, results)
    assert table(results / "report" / LESSON, "items").empty


def test_results_of_two_versions_are_warned_about(catalogue: Catalogue, results: Path):
    path = results / LESSON / "ada.json"
    path.write_text(_spoil(json.loads(path.read_text()), version="another"))
    assert "The results are of 2 versions of the checks or seeds" in run(catalogue, results)


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_holds_one_script(written: Path):
    text = (written / "report.html").read_text()
    tags = _Tags(text).found
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not {tag for tag, _ in tags} & {"img", "link", "iframe", "object", "base", "form"}
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        assert (attributes.get("href") or "#").startswith("#")
    assert "http:" not in text and "https:" not in text
    assert HOSTILE not in text and HOSTILE.replace("<", "&lt;").replace(">", "&gt;")[:20] in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(written: Path, browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport=WIDE)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url) if "report.html" not in request.url else None)
    opened.goto((written / "report.html").as_uri())
    yield opened
    assert said == []
    opened.close()


@pytest.mark.browser
def test_in_a_browser_hostile_text_stays_text(page: Any):
    assert page.title() == "l01_plain: report"
    assert page.locator("img").count() == 0
    assert page.locator("pre", has_text="<script>document.title=").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") == WIDE["width"]


@pytest.mark.browser
def test_in_a_browser_the_heat_map_sorts_filters_and_obeys_the_keyboard(page: Any):
    def names() -> list[str]:
        return page.locator(".heat tbody tr:visible th").all_inner_texts()

    assert names()[0] in ("+李雷", "ada") and names()[-1] == "untouched"
    page.get_by_role("button", name="Learner", exact=True).press("Enter")
    assert names()[:3] == ["+李雷", "ada", "bob"]
    assert page.locator("th[aria-sort]").inner_text().startswith("Learner")
    page.locator(".heat thead button", has_text="Add a scaled update").click()
    statuses = page.locator(".heat tbody tr td:nth-child(3)").evaluate_all("cells => cells.map(cell => cell.className)")
    assert statuses == sorted(statuses, key=["cell c-passed", "cell c-failed", "cell c-crashed", "cell c-todo"].index)
    page.get_by_label("Show only").fill("scale_forgotten")
    assert sorted(names()) == ["cem", "dana"] and page.locator("#shown").inner_text() == "2 of 17 learners"
    page.locator(".heat tbody tr:visible td.cell button").first.click()
    assert "The scale has no effect on your result" in page.locator("#detail").inner_text()
    page.keyboard.press("ArrowRight")
    assert "A running mean" in page.locator("#detail").inner_text()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').querySelector('th').innerText") == "dana"
    assert page.locator(".heat tbody button[tabindex='0']").count() == 1, "Tab leaves the map at once"


@pytest.mark.browser
def test_in_a_browser_a_policy_stops_what_escaping_would_let_through(
    graded: tuple[Path, Path], browser: Any, tmp_path: Path
):
    cohort = read_cohort(LESSON, graded[1] / LESSON)
    text = render(make_report(cohort, "t")).replace("</main>", f"{HOSTILE.removeprefix('</script>')}</main>", 1)
    (tmp_path / "report.html").write_text(text)
    other = browser.new_page(viewport=WIDE)
    other.goto((tmp_path / "report.html").as_uri())
    other.wait_for_timeout(100)
    assert other.locator("img").count() == 1 and other.title() == "l01_plain: report"
    other.get_by_role("button", name="Learner", exact=True).click()
    assert other.locator("th[aria-sort]").inner_text().startswith("Learner"), "the page's own script runs"


def test_a_lesson_is_found_by_either_name(results: Path):
    assert chosen_folders(results, "01_plain") == chosen_folders(results, LESSON) == {LESSON: results / LESSON}
    with pytest.raises(ReportError, match="no results of l02"):
        chosen_folders(results, "l02")


def test_the_copied_answer_is_shown_with_its_shared_parts_marked(written: Path):
    text = (written / "report.html").read_text()
    assert "<mark>def add(self, number):</mark>" in text
    assert "<mark>self.memory[&#34;all&#34;].append(number)</mark>" in text

"""`course portfolio`: only numbers that the learner's own artefacts give, each with its file and sum."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import WIDE, chromium
from finished_runs import finish_l09, finish_l17
from typer.testing import CliRunner

from course.cli import app
from course.evaluation.summary import Share
from course.lessons.l09_qlora import run as l09_run
from course.model_source import file_sha256
from course.portfolio import problems, write_portfolio
from course.portfolio.lines import worded
from course.run_record import RecordError, parse_record, write_record
from grader.catalogue import find_course
from grader.progress import Progress
from grader.result import Result


@pytest.fixture(scope="module", autouse=True)
def one_worked_example() -> Iterator[None]:
    """Few-shot prompts of one example instead of four: the tiny model's tokens are bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(l09_run, "SHOT_KINDS", l09_run.SHOT_KINDS[:1])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, one_worked_example: None) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finish_l09()
        finish_l17()
    progress = Progress(folder / ".grader" / "progress.sqlite")
    for exercise in ("l07-lora-linear", "l18-holm"):
        attempt = progress.begin(exercise, "def answer(): ...")
        progress.finish(attempt, Result(exercise, exercise, "passed", 1.0, 1.0, "right"))
    write_portfolio(folder)
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "workspace"))


def draft(workspace: Path) -> str:
    return (workspace / "portfolio" / "resume.md").read_text()


def line_with(workspace: Path, words: str) -> str:
    (line,) = [line for line in draft(workspace).splitlines() if words in line and line.startswith("- ")]
    return line


def test_every_line_is_what_the_artefacts_give_with_file_and_sum(workspace: Path) -> None:
    written = write_portfolio(workspace)
    run = json.loads(next(workspace.glob("runs/l09/training-*/run.json")).read_text())
    trained = line_with(workspace, "adapter parameters")
    for number in (f"{run['trainable_parameters']:,}", f"{run['tokens']:,} tokens", f"in {run['seconds']:.1f} s"):
        assert number in trained
    gained = line_with(workspace, "sql items right")
    samples = [json.loads(line) for line in (workspace / "runs/l17/after/samples_sql_sql.jsonl").open()]
    percent = 100 * sum(sample["executed"] for sample in samples) / len(samples)
    assert f"{percent:.1f} % of {len(samples)} sql items right" in gained
    assert re.search(r"a gain of \d+\.\d points against the base model \(95 % paired interval \+", gained)
    passed = line_with(workspace, "checked against production libraries")
    total = sum(1 for lesson in find_course().course.lessons for _ in find_course().exercises(lesson))
    assert f"Passed 2 of {total} exercises" in passed
    for number, line in enumerate(written.lines, start=1):
        note = next(text for text in draft(workspace).splitlines() if text.startswith(f"[^{number}]: "))
        assert line.sources
        for source in line.sources:
            assert f"`{source.path}`, SHA-256 {file_sha256(workspace / source.path)}" in note
    assert problems(workspace) == []


def test_a_gain_whose_interval_includes_zero_is_no_measured_difference(workspace: Path) -> None:
    """The tiny model answers nothing right, before and after two steps of training."""
    line = line_with(workspace, "schemas never seen in training")
    assert "no measured difference from few-shot prompting (95 % paired interval +0.0 to +0.0 points" in line
    assert "a gain" not in line
    assert worded(Share(50, 4.0, -1.0, 9.0), "x").startswith("no measured difference from x")
    assert worded(Share(50, 4.0, 0.0, 9.0), "x").startswith("no measured difference from x")
    assert worded(Share(50, 4.0, 0.1, 9.0), "x").startswith("a gain of 4.0 points against x")
    assert worded(Share(50, -4.0, -9.0, -0.1), "x").startswith("a loss of 4.0 points")
    assert worded(Share(1, 100.0, None, None), "x").startswith("no measured difference")


def test_what_is_not_there_is_not_said_but_which_lesson_makes_it(tmp_path: Path) -> None:
    written = write_portfolio(tmp_path)
    assert written.lines == []
    assert not re.search(r"^- ", draft(tmp_path), re.MULTILINE)
    page = written.page.read_text()
    for notebook in ("09_qlora.ipynb", "17_metrics.ipynb", "07_lora.ipynb", "08_quantisation.ipynb"):
        assert notebook in page
    body = re.sub(r"<style>.*?</style>|<[^>]+>", "", page.partition("<nav")[2], flags=re.DOTALL)
    assert not re.search(r"\d+(\.\d+)? ?(%|points|MB|GB|s\b)", body), "no number without an artefact"
    assert problems(tmp_path) == []
    assert CliRunner().invoke(app, ["portfolio", "--workspace", str(tmp_path / "nowhere")]).exit_code == 1


def test_records_of_l07_and_l08_give_their_lines(tmp_path: Path) -> None:
    workspace = tmp_path
    record = {
        "smoke": False,
        "model": "m",
        "questions": 48,
        "right_before": 0,
        "right_after": 12,
        "gain": {"points": 25.0, "low": 12.5, "high": 37.5},
        "tokens": 1234,
        "training_seconds": 5.0,
        "tokens_per_second": 246.8,
        "trainable_parameters": 10,
        "parameters": 1000,
    }
    write_record(workspace / "runs/l07/result.json", "l07_lora", record)
    formats = [{"format": "NF4, double quantised", "bits": 4.127, "megabytes": 111.0, "loss": 2.5, "kl_nats": 0.1}]
    formats[0]["same_token"] = 0.9
    quantised = {"smoke": False, "tokens": 900, "loss_unquantised": 2.4, "formats": formats}
    write_record(workspace / "runs/l08/result.json", "l08_quantisation", quantised)
    write_portfolio(workspace)
    assert "12 of 48 text-to-SQL questions right, 0 before; a gain of 25.0 points" in draft(workspace)
    assert "4.13 bits a weight" in line_with(workspace, "quantisation") and problems(workspace) == []
    with pytest.raises(RecordError, match=r"result\.json: the record: 'tokens' is a required property"):
        write_record(workspace / "runs/l08/result.json", "l08_quantisation", {"smoke": False})
    with pytest.raises(RecordError, match="is not JSON"):
        parse_record(b"{", "l07_lora", Path("runs/l07/result.json"))


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def more_right(path: Path) -> None:
    record = json.loads(path.read_text())
    record["accuracy"][-1]["correct"] += 50
    path.write_text(json.dumps(record))


def more_tokens(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokens": 10**9}))


@pytest.mark.parametrize(
    ("pattern", "harm", "says", "line"),
    [
        ("runs/l09/result.json", corrupt, "is not JSON", "few-shot before"),
        ("runs/l09/result.json", more_right, "says", "few-shot before"),
        ("runs/l09/few-shot.jsonl", Path.unlink, "few-shot.jsonl is missing", "few-shot before"),
        ("runs/l09/training-*/answers.jsonl", corrupt, "does not hold an answer", "few-shot before"),
        ("runs/l09/training-*/run.json", more_tokens, "1000000000 training tokens", "adapter parameters"),
        ("runs/l09/training-*/run.json", corrupt, "run.json", "adapter parameters"),
        ("runs/l17/after/samples_sql_sql.jsonl", corrupt, "samples_sql_sql.jsonl, line 1 is not JSON", "sql items"),
        ("runs/l17/before/samples_sql_sql.jsonl", Path.unlink, "sql was evaluated only after", "sql items"),
        (".grader/progress.sqlite", Path.unlink, "check an exercise", "checked against production"),
    ],
)
def test_a_damaged_or_tampered_artefact_gives_no_number_and_is_noticed(
    workspace: Path, pattern: str, harm, says: str, line: str
) -> None:
    assert line in draft(workspace)
    (path,) = workspace.glob(pattern)
    harm(path)
    assert any(path.name in problem for problem in problems(workspace))
    written = write_portfolio(workspace)
    assert line not in draft(workspace)
    told = [f"{what} {why}" for what, why in (*written.found.damaged, *written.found.missing)]
    assert any(says in each for each in told), told


def test_the_check_sees_edited_pages_numbers_and_sources(workspace: Path) -> None:
    shutil.rmtree(workspace / "runs" / "l09")  # the other artefacts are read faster
    write_portfolio(workspace)
    path = workspace / "portfolio" / "resume.md"
    path.write_text(path.read_text().replace("Passed 2 of", "I passed 2 checked exercises of"))
    assert problems(workspace) == [], "words may change"
    path.write_text(path.read_text().replace("I passed 2 ", "I passed 20 "))
    assert problems(workspace) == [
        next(each for each in problems(workspace) if "says 20, which its artefacts do not give" in each)
    ]
    path.write_text("- A gain.[^99]")
    assert "cites footnote 99" in problems(workspace)[0]
    write_portfolio(workspace)
    assert path.with_name("resume.md.old").read_text() == "- A gain.[^99]"
    sums = workspace / "portfolio" / "sources.json"
    sums.write_text(sums.read_text().replace("Passed 2 of", "Passed 200 of"))
    assert "has other lines than the artefacts give" in problems(workspace)[0]
    sums.write_text("{")
    assert "sources.json is damaged" in problems(workspace)[0]
    write_portfolio(workspace)
    page = workspace / "portfolio" / "index.html"
    page.write_text(page.read_text().replace("Measured", "Splendid"))
    assert "index.html was changed by hand" in problems(workspace)[0]
    shown = CliRunner().invoke(app, ["portfolio", "--check", "--workspace", str(workspace)])
    assert shown.exit_code == 1 and "changed by hand" in shown.output
    assert CliRunner().invoke(app, ["portfolio", "--workspace", str(workspace)]).exit_code == 0
    assert CliRunner().invoke(app, ["portfolio", "--check", "--workspace", str(workspace)]).exit_code == 0
    shutil.rmtree(workspace / "portfolio")
    assert "there is no portfolio" in problems(workspace)[0]


def test_a_record_that_points_out_of_the_workspace_is_refused(workspace: Path) -> None:
    shutil.rmtree(workspace / "runs" / "l09")
    path = workspace / "runs/l17/result.json"
    record = json.loads(path.read_text())
    record["files"]["after"] = ["../../etc/results_x.json"]
    path.write_text(json.dumps(record))
    assert any("outside of the workspace" in why for _, why in write_portfolio(workspace).found.damaged)


def test_a_shortened_run_gives_nothing(workspace: Path) -> None:
    path = workspace / "runs/l09/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"smoke": True}))
    written = write_portfolio(workspace)
    assert any("COURSE_SMOKE" in why for _, why in written.found.damaged)
    assert "few-shot before" not in draft(workspace)


@pytest.mark.browser
def test_the_page_is_one_escaped_file_that_reads_at_1280_pixels(workspace: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    path = workspace / "runs/l17/after/samples_sql_sql.jsonl"
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = [sample for sample in samples if not sample["executed"]]
    for sample in wrong:
        sample["filtered_resps"] = ["<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    page_path = write_portfolio(workspace).page
    text = page_path.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "Content-Security-Policy" in text
    assert not re.search(r"https?://|<link|src=\"|@import|url\(", text)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            # The page's own policy lets no script run, axe's neither: it is set aside for axe, in a page of its own.
            audited = browser.new_context(viewport=WIDE, color_scheme=scheme, bypass_csp=True).new_page()
            audited.goto(page_path.as_uri())
            found = Axe().run(audited).response["violations"]
            assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
            page = browser.new_page(viewport=WIDE, color_scheme=scheme)
            told: list[str] = []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.goto(page_path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 1280
            assert page.title() == "Portfolio: measured results" and told == []
            ink, ground = page.evaluate(
                "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; })()"
            )
            brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
            assert (brightness[0] < brightness[1]) == (scheme == "light")
            assert abs(brightness[0] - brightness[1]) > 450
        browser.close()

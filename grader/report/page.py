"""The report as one HTML page that needs nothing else: no network, no file beside it.

Everything a learner wrote is text: Jinja escapes all of it, none of it stands inside a script, a style or an attribute
name, and a Content-Security-Policy lets the browser run the page's own script alone, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from grader.cohort.result import SubmissionResult
from grader.report import charts
from grader.report.analysis import Report
from grader.report.clusters import Cluster
from grader.report.excerpt import without_docstrings
from grader.report.findings import findings
from grader.report.timing import slowest_submissions
from grader.result import Result
from grader.show import MARKS, TITLES

PAIRS_SHOWN = 25
CLUSTERS_SHOWN = 24
SLOWEST_SHOWN = 10
LONGEST_SOURCE = 20_000


def render(report: Report) -> str:
    """The page's text."""
    environment = Environment(
        loader=PackageLoader("grader.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"seconds": charts.seconds_text, "percent": _percent, "number": _number, "cut": _cut}
    script = _text(environment, "report.js")
    sizes = {(each.exercise_id, each.outcome): len(each.learners) for each in report.clusters}

    def label(result: Result) -> str:
        return _cell_label(result, sizes.get((result.exercise_id, result.outcome), 0))

    unnamed = [each for each in report.clusters if each.kind == "unnamed"]
    return environment.get_template("report.html").render(
        report=report,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_text(environment, "report.css"),
        marks=MARKS,
        titles=TITLES | {"crashed": "stopped with an error"},
        findings=findings(report),
        bar=charts.stacked_bar,
        scatter=charts.scatter(report.items),
        strip=charts.strip(report.cohort.graded),
        time_axis=charts.time_axis(report.timing),
        label=label,
        detail=_detail,
        by_exercise=_by_exercise,
        numbers={item.exercise_id: number for number, item in enumerate(report.items, 1)},
        unnamed=[each for each in unnamed if len(each.learners) > 1][:CLUSTERS_SHOWN],
        unnamed_total=len(unnamed),
        lone=[each for each in unnamed if len(each.learners) == 1],
        in_part=[each for each in report.clusters if each.kind == "in part"][:CLUSTERS_SHOWN],
        forbidden=[each for each in report.clusters if each.kind == "forbidden"],
        comments=_comments(report.clusters),
        pairs=(report.pairs or ())[:PAIRS_SHOWN],
        slowest=slowest_submissions(report.cohort.results, SLOWEST_SHOWN),
        share_passed=_share_passed(report.cohort.graded),
    )


def _text(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _cell_label(result: Result, alike: int) -> str:
    """What a cell of the heat map says beside its mark."""
    if result.misconception:
        return result.misconception if result.certain else f"{result.misconception}?"
    if result.status in ("failed", "crashed"):
        return f"no name ×{alike}" if alike > 1 else "no name"
    return ""


def _by_exercise(submission: SubmissionResult) -> dict[str, Result]:
    return {result.exercise_id: result for result in submission.results}


def _detail(result: Result) -> str:
    failed = sum(not case.passed for case in result.cases)
    cases = f"{failed} of {len(result.cases)} cases fail. " if failed else ""
    hint = f"\nHint given{'' if result.certain else ' (perhaps)'}: {result.hint}" if result.hint else ""
    return f"{result.points:g} of {result.max_points:g} points. {cases}\n{result.message}{hint}"


def _comments(clusters: Sequence[Cluster]) -> tuple[int, int]:
    """(learners' wrong answers, comments that would serve them all)."""
    return sum(len(each.learners) for each in clusters), len(clusters)


def _share_passed(results: Sequence[SubmissionResult]) -> float | None:
    judged = [result.passed for each in results for result in each.results if result.status != "broken"]
    return sum(judged) / len(judged) if judged else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _cut(source: str) -> str:
    """What the learner wrote, not longer than a page can hold."""
    source = without_docstrings(source).strip("\n")
    if len(source) <= LONGEST_SOURCE:
        return source
    return f"{source[:LONGEST_SOURCE]}\n... ({len(source):,} characters; cut here)"

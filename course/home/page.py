"""The home's pages as HTML, each whole in itself: no network, no file beside it.

Jinja escapes every text, and a Content-Security-Policy lets the browser use the page's own style and script alone, by
their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from course.home.choices import MOST_HOURS
from course.home.map import NODE_HEIGHT, NODE_WIDTH, path_map
from course.home.overview import Overview
from course.home.path import LessonRow
from course.home.skills import skill_map
from course.home.weeks import hours_text
from course.placement.questions import QUESTIONS
from course.placement.suggestion import BACKGROUNDS
from grader.progress import Attempt, Standing
from grader.show import MARKS, TITLES

LESSON_MARKS = {"todo": "○", "started": "◐", "done": "✓"}
LESSON_STATES = {"todo": "not started", "started": "started", "done": "done"}


@dataclass(frozen=True)
class Page:
    """A page's text and the policy it is to be sent with."""

    html: str
    content_security_policy: str


class Pages:
    """Renders the pages. base_url: where the Jupyter server answers, with a slash at both ends."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._environment = Environment(
            loader=PackageLoader("course.home"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"duration": hours_text, "when": when_text, "tries": tries_text}
        self._style, self._script = self._text("home.css"), self._text("home.js")

    def home(
        self, overview: Overview, xsrf_token: str, error: str = "", hours_given: str = "", portfolio_error: str = ""
    ) -> Page:
        """The home page.

        error, hours_given: what was wrong with the hours that came in, and what they were. portfolio_error: why no
        portfolio could be written.
        """
        areas, missing = skill_map(overview.path.lessons, overview.course.skills)
        return self._page(
            "home.html",
            title=overview.course.title,
            # The answer to a form that was refused stays as it is: to load it anew would send the form again.
            version="" if error or portfolio_error else _digest(repr(overview)),
            overview=overview,
            questions=QUESTIONS,
            last=self._last(overview),
            node_width=NODE_WIDTH,
            node_height=NODE_HEIGHT,
            map=path_map(overview.path.lessons),
            areas=areas,
            missing_areas=missing,
            skips={lesson.id: reason for lesson, reason in overview.suggestion.skip} if overview.suggestion else {},
            error=error,
            hours=hours_given or f"{overview.learner.choices.hours_per_week:g}",
            most_hours=MOST_HOURS,
            portfolio_error=portfolio_error,
            xsrf_token=xsrf_token,
        )

    def placement(
        self,
        overview: Overview,
        xsrf_token: str,
        given: Mapping[str, str] | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> Page:
        """The placement. given, errors: what came in and could not be taken, by the name of the field."""
        return self._page(
            "placement.html",
            title=overview.course.title,
            version="",
            overview=overview,
            questions=QUESTIONS,
            backgrounds=BACKGROUNDS,
            lessons={lesson.id: lesson for lesson in overview.course.lessons},
            given=given or {},
            errors=errors or {},
            xsrf_token=xsrf_token,
        )

    def problem(self, message: str) -> Page:
        """A page for a course that cannot be read at all."""
        return self._page("problem.html", title="Your course", version=_digest(message), message=message)

    def _last(self, overview: Overview) -> tuple[Attempt, LessonRow, str] | None:
        """(the last attempt, its lesson, its exercise's title) where that exercise is still in the course."""
        last = overview.learner.last
        for row in overview.path.lessons if last else ():
            for exercise in row.exercises:
                if last and exercise.declared.id == last.exercise:
                    return last, row, exercise.declared.title
        return None

    def _notebook_url(self, row: LessonRow, cell_id: str = "") -> str:
        """Where JupyterLab opens a lesson; with a cell's id, at that cell."""
        fragment = f"#cell-id={quote(cell_id)}" if cell_id else ""
        return f"{self.base_url}lab/tree/{quote(row.lesson.notebook_name)}{fragment}"

    def _page(self, template: str, **values: object) -> Page:
        html = self._environment.get_template(template).render(
            base_url=self.base_url,
            notebook_url=self._notebook_url,
            style=self._style,
            script=self._script,
            marks=MARKS | {"": "…"},
            statuses=TITLES | {"": "the check has not finished"},
            lesson_marks=LESSON_MARKS,
            lesson_states=LESSON_STATES,
            **values,
        )
        return Page(html, content_security_policy(self._style, self._script))

    def _text(self, name: str) -> str:
        assert self._environment.loader is not None
        return self._environment.loader.get_source(self._environment, name)[0]


def content_security_policy(style: str, script: str) -> str:
    """Nothing but this style and this script, the server's icon, and requests and forms to the server itself."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{_digest(style)}'",
            f"script-src 'sha256-{_digest(script)}'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        )
    )


def when_text(moment: str) -> str:
    """A moment in ISO 8601 as this machine's date and time; anything else as it is."""
    try:
        local = datetime.fromisoformat(moment).astimezone()
    except ValueError:
        return moment
    return f"{local.day} {local:%B %Y, %H:%M}"


def tries_text(standing: Standing) -> str:
    """`, 2 tries` or, once passed, ` after 2 other tries`; nothing before the first."""
    if not standing.tries:
        return ""
    tries = "try" if standing.tries == 1 else "tries"
    passed = standing.status == "passed"
    return f" after {standing.tries} other {tries}" if passed else f", {standing.tries} {tries}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

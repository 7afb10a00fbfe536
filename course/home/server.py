"""The Jupyter server extension: `{base_url}course` and its pages (`HANDLERS`), for whoever is logged in.

Files are read in a thread: a progress file that a kernel holds must not stop the server that serves that kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

from course.home.choices import HoursError, checked_hours, keep_hours, keep_placement
from course.home.declared import Declarations
from course.home.overview import Overview, read_overview
from course.home.page import Page, Pages
from course.home.portfolio import write_portfolio_apart, written_portfolio
from course.placement.questions import QUESTIONS
from course.placement.suggestion import BACKGROUNDS, Placement, PlacementError, is_right
from course.workspace import WorkspaceError
from grader.catalogue import CatalogueError, find_course
from grader.live import HOME_VARIABLE

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

# The learner may have edited the file: nothing in it runs, and nothing is loaded or sent.
PORTFOLIO_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"


class Home:
    """What the pages of one server are made from. workspace: the server's root folder."""

    def __init__(self, workspace: Path, base_url: str) -> None:
        self.workspace = workspace
        self.base_url = base_url
        self.pages = Pages(base_url)

    @cached_property
    def declarations(self) -> Declarations:
        """Of the installed course. Raises CatalogueError."""
        return Declarations(find_course())

    def read_ahead(self) -> None:
        """Read the exercises' declarations, most of what the first page would wait for."""
        with contextlib.suppress(CatalogueError):  # the page tells it
            for lesson in self.declarations.catalogue.course.lessons:
                self.declarations.of(lesson)

    def overview(self) -> Overview:
        """As the files say now. Raises CatalogueError where no course can be loaded."""
        return read_overview(self.declarations, self.workspace)


class HomeHandler(JupyterHandler):
    """Shared by the pages: logged-in users only, each page with its own policy."""

    def initialize(self, home: Home) -> None:
        """Tornado's way to hand something over."""
        self.home = home

    @property
    def form_token(self) -> str:
        """What a form has to bring back."""
        return self.xsrf_token.decode()

    async def send(self, make: Callable[[], Page], status: int = 200) -> None:
        """Render in a thread and answer; a course that cannot be loaded becomes a page that says so."""
        try:
            page = await asyncio.to_thread(make)
        except CatalogueError as error:
            page = self.home.pages.problem(f"{error}. Mend that, then load this page again.")
        self.set_status(status)
        self.set_header("Content-Security-Policy", page.content_security_policy)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(page.html)


class CourseHandler(HomeHandler):
    """The home page."""

    @web.authenticated
    async def get(self) -> None:
        """Show it."""
        token = self.form_token
        await self.send(lambda: self.home.pages.home(self.home.overview(), token))


class PlanHandler(HomeHandler):
    """The hours of a week."""

    @web.authenticated
    async def get(self) -> None:
        """The plan is a part of the home page."""
        self.redirect(url_path_join(self.home.base_url, "course") + "#plan")

    @web.authenticated
    async def post(self) -> None:
        """Keep the hours and show the plan made from them, or say what is wrong with them."""
        given, token = self.get_body_argument("hours", ""), self.form_token
        try:
            await asyncio.to_thread(keep_hours, self.home.workspace, checked_hours(given))
        except (HoursError, WorkspaceError) as error:
            message = str(error).removesuffix(".")
            await self.send(lambda: self.home.pages.home(self.home.overview(), token, message, given), 400)
            return
        self.redirect(url_path_join(self.home.base_url, "course") + "#plan", status=303)


class PortfolioHandler(HomeHandler):
    """The portfolio's page, as it was last written."""

    @web.authenticated
    async def get(self) -> None:
        """Show it under the policy that it brings itself; before it is first written, the home page offers that."""
        portfolio = await asyncio.to_thread(written_portfolio, self.home.workspace)
        if portfolio is None:
            self.redirect(url_path_join(self.home.base_url, "course") + "#portfolio")
            return
        self.set_header("Content-Security-Policy", PORTFOLIO_POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(await asyncio.to_thread(portfolio.page.read_bytes))

    @web.authenticated
    async def post(self) -> None:
        """Write it and show it, or say why it cannot be written."""
        token = self.form_token
        try:
            await asyncio.to_thread(write_portfolio_apart, self.home.workspace)
        except WorkspaceError as error:
            message = str(error)
            await self.send(lambda: self.home.pages.home(self.home.overview(), token, portfolio_error=message), 500)
            return
        self.redirect(url_path_join(self.home.base_url, "course", "portfolio"), status=303)


class PlacementHandler(HomeHandler):
    """The placement's form and its result."""

    @web.authenticated
    async def get(self) -> None:
        """Show the result, where there is one, and the form."""
        token = self.form_token
        await self.send(lambda: self.home.pages.placement(self.home.overview(), token))

    @web.authenticated
    async def post(self) -> None:
        """Keep the answers and show what they suggest, or show the form again with what is wrong."""
        names = ("background", *(question.id for question in QUESTIONS))
        given, token = {name: self.get_body_argument(name, "") for name in names}, self.form_token
        errors: dict[str, str] = {}
        if given["background"] not in BACKGROUNDS:
            errors["background"] = "Choose where you come from."
        right = []
        for question in QUESTIONS:
            try:
                right += [question.id] if is_right(question, given[question.id]) else []
            except PlacementError as error:
                errors[question.id] = f"{error}."
        if not errors:
            taken = datetime.now(UTC).isoformat(timespec="seconds")
            placement = Placement(given["background"], tuple(right), taken)
            try:
                await asyncio.to_thread(keep_placement, self.home.workspace, placement)
            except WorkspaceError as error:
                errors[""] = str(error)
        if errors:
            await self.send(lambda: self.home.pages.placement(self.home.overview(), token, given, errors), 400)
            return
        self.redirect(url_path_join(self.home.base_url, "course", "placement") + "#result", status=303)


HANDLERS = {
    "course": CourseHandler,
    "course/plan": PlanHandler,
    "course/placement": PlacementHandler,
    "course/portfolio": PortfolioHandler,
}


def _load_jupyter_server_extension(server: ServerApp) -> None:
    base_url = server.web_app.settings["base_url"]
    home = Home(Path(server.root_dir), base_url)
    # Kernels inherit it, and `progress()` links to it there.
    os.environ[HOME_VARIABLE] = url_path_join(base_url, "course")
    server.io_loop.run_in_executor(None, home.read_ahead)
    server.web_app.add_handlers(
        ".*$", [(url_path_join(base_url, path) + "/?", handler, {"home": home}) for path, handler in HANDLERS.items()]
    )

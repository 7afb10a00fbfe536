"""The learner's commands: `course doctor`, `course lab`, `course update`, `course placement` and more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from course.device import ProfileError
from course.model_source import BaseModelError
from course.workspace import WorkspaceError


class KnownErrors(TyperGroup):
    """A command group that shows the course's own errors as one message and exit status 1, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (BaseModelError, ProfileError, WorkspaceError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=KnownErrors, no_args_is_help=True, help="Fine-tune LLMs: set up, open the lessons, see progress.")
model_app = typer.Typer(no_args_is_help=True, help="The base model: where it is, whether it is whole, make it again.")
app.add_typer(model_app, name="model")

WorkspaceOption = Annotated[
    Path | None, typer.Option(help="Your notebooks' folder [default: COURSE_WORKSPACE, else workspace/ in the project]")
]


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Show what this machine can do, and what to do about what it cannot. Exit status 1 if the course cannot run.

    Example: course doctor --json
    """
    from course.doctor import examine, show_findings

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        show_findings(findings)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def lab(
    workspace: WorkspaceOption = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one [default: first free from 8888]")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window, where there is a display.")] = True,
) -> None:
    """Prepare the base model and your workspace, then open the course's home page in JupyterLab's server.

    Example: course lab --port 9000 --no-browser
    """
    from course.base_model import base_model_folder
    from course.cpu_bfloat16 import cpu_bfloat16_usable
    from course.lab import run_lab
    from course.workspace import assistant_files_folder, sync_workspace, workspace_folder

    base_model_folder()
    cpu_bfloat16_usable()  # asked here once, so that no kernel started from here has to
    folder = workspace_folder(workspace)
    typer.echo(f"Workspace: {folder}")
    reports = sync_workspace(folder), sync_workspace(folder, assistant_files_folder())
    for report in reports:
        for verb, names in (("New", report.copied), ("Updated (you had not edited it)", report.updated)):
            for name in names:
                typer.echo(f"  {verb}: {name}")
    if reports[0].kept:
        typer.echo(f"  Update available for {', '.join(reports[0].kept)}. It keeps what you wrote: course update")

    def announce(address: str) -> None:
        typer.echo(f"\nYour course is ready: {address}\nStop it with Ctrl-C.")

    raise typer.Exit(run_lab(folder, port, browser, announce))


@app.command()
def update(
    notebooks: Annotated[list[str] | None, typer.Argument(help="Notebooks of your workspace [default: all]")] = None,
    workspace: WorkspaceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Bring the lessons' new versions into your notebooks. Your answers and your own cells stay as they are."""
    from course.update import update_workspace
    from course.update.open_notebooks import open_notebooks
    from course.update.report import AFTER_UPDATE, BEFORE_UPDATE, lines_of, passed_exercises, summary
    from course.workspace import workspace_folder

    folder = workspace_folder(workspace)
    passed, opened, outcomes = passed_exercises(folder), open_notebooks(folder), []
    for outcome in update_workspace(folder, only=notebooks or (), dry_run=dry_run):
        outcomes.append(outcome)
        if outcome.state != "current":
            typer.echo("\n".join(lines_of(outcome, passed, dry_run=dry_run)))
        if outcome.state == "updated" and (folder / outcome.name).resolve() in opened:
            typer.echo(f"  OPEN IN JUPYTERLAB: {BEFORE_UPDATE if dry_run else AFTER_UPDATE}")
    typer.echo(summary(outcomes, dry_run=dry_run))
    if any(outcome.state == "refused" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def portfolio(
    workspace: WorkspaceOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare it with the files its numbers are from.")
    ] = False,
) -> None:
    """Write a page of your measured results and draft lines for a resume, from the files that your own runs left."""
    from course.portfolio import problems, write_portfolio
    from course.workspace import workspace_folder

    folder = workspace_folder(workspace)
    if check:
        found = problems(folder)
        typer.echo("\n".join(found) or "Every number is what its file gives.")
        raise typer.Exit(1 if found else 0)
    written = write_portfolio(folder)
    typer.echo(f"Page:  {written.page}\nDraft: {written.draft} ({len(written.lines)} lines)")
    for what, how in written.found.missing:
        typer.echo(f"  Missing: {what}. To have it, {how}.")
    for file, problem in written.found.damaged:
        typer.echo(f"  Not used: {file}: {problem}")


@app.command()
def progress(workspace: WorkspaceOption = None) -> None:
    """Show where you stand with every exercise."""
    from course.workspace import workspace_folder
    from grader import live

    os.chdir(workspace_folder(workspace))  # progress is kept in the workspace and found from there
    live.progress()


@app.command()
def placement(
    workspace: WorkspaceOption = None,
    show: Annotated[bool, typer.Option("--show", help="Show the kept result without asking again.")] = False,
) -> None:
    """Ten questions that suggest which lesson to start with, and which you may skip."""
    from course.home.choices import keep_placement, read_choices
    from course.placement.suggestion import suggest
    from course.placement.terminal import ask_placement, suggestion_text
    from course.workspace import workspace_folder
    from grader.catalogue import find_course

    folder, lessons = workspace_folder(workspace), find_course().course.lessons
    if show:
        choices, problem = read_choices(folder)
        taken = choices.placement
        if taken is None:
            raise WorkspaceError(problem or f"No placement is kept in {folder} yet. Take it with: course placement")
    else:
        taken = ask_placement(lessons)
        keep_placement(folder, taken)
    typer.echo("\n" + suggestion_text(suggest(taken, lessons), taken))


@app.command()
def plan(
    workspace: WorkspaceOption = None,
    hours: Annotated[str | None, typer.Option(help="Hours a week, kept for next time [default: yours, else 6]")] = None,
) -> None:
    """The lessons that are left as a plan in weeks."""
    from course.home.choices import HoursError, checked_hours, keep_hours
    from course.home.declared import Declarations
    from course.home.overview import read_overview
    from course.home.weeks import hours_text, show_plan
    from course.workspace import workspace_folder
    from grader.catalogue import find_course

    folder = workspace_folder(workspace)
    if hours is not None:
        try:
            keep_hours(folder, checked_hours(hours))
        except HoursError as error:
            raise typer.BadParameter(str(error), param_hint="--hours") from error
    overview = read_overview(Declarations(find_course()), folder)
    for problem in overview.problems:
        typer.echo(problem, err=True)
    if not overview.weeks:
        typer.echo("Nothing is left to plan.")
        return
    total = sum(week.minutes for week in overview.weeks)
    hours_kept = overview.learner.choices.hours_per_week
    typer.echo(f"{hours_text(total)} are left. At {hours_kept:g} hours a week:")
    show_plan(overview.weeks)


@model_app.command("path")
def model_path() -> None:
    """Print the base model's folder, or its hub id when COURSE_MODEL names one."""
    from course.base_model import base_model_folder

    typer.echo(base_model_folder())


@model_app.command("verify")
def model_verify() -> None:
    """Compare every byte of the bundled model and of its converted folder with their checksums."""
    from course.model_cache import problem_with_folder
    from course.model_conversion import converted_folder
    from course.model_source import bundled_source, verify_source

    source = bundled_source()
    verify_source(source)
    folder = converted_folder(source)
    if problem := problem_with_folder(folder, check_hashes=True):
        raise BaseModelError(f"{problem}. Make it again with: course model convert")
    typer.echo(f"{source.path.name} and {folder} are whole.")


@model_app.command("convert")
def model_convert() -> None:
    """Convert the bundled model again, replacing the converted folder."""
    from course.base_model import convert_again

    typer.echo(convert_again())


if __name__ == "__main__":
    app()

"""`course update` on a workspace: backups, whole files, damaged ones, full disks, older workspaces, and its words."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lesson_versions import (
    ANSWER,
    DEMO,
    DOCSTRING,
    NAME,
    NEW_DEMO,
    PROSE,
    SUM,
    Desk,
    built,
    cell_called,
)
from small_disks import filled, on_a_small_disk, small_disk
from typer.testing import CliRunner

from course import workspace
from course.cli import app
from course.update import Outcome, update_workspace
from course.update import run as update_run
from course.workspace import SyncReport, WorkspaceError, sync_workspace

OTHER = "02_other.ipynb"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("new"), PROSE, NEW_DEMO, DOCSTRING, DEMO)


@pytest.fixture
def desk(tmp_path: Path, old: str) -> Desk:
    return Desk(tmp_path, old)


def of_another_lesson(text: str) -> str:
    return text.replace('"lesson": "l01_plain"', '"lesson": "l02_other"')


def update(desk: Desk, **options) -> dict[str, Outcome]:
    return {each.name: each for each in update_workspace(desk.folder, desk.source, **options)}


def test_an_update_keeps_a_backup_and_a_second_one_does_nothing(desk: Desk, new: str) -> None:
    desk.answer()
    before = desk.bytes()
    desk.ship(new)
    outcome = update(desk)[NAME]
    assert outcome.state == "updated" and outcome.backup is not None and outcome.backup.read_bytes() == before
    assert cell_called(desk.cells(), SUM).source == ANSWER
    assert any("a new demo" in cell.source for cell in desk.cells())
    after = desk.bytes()
    assert update(desk)[NAME].state == "current"
    assert desk.bytes() == after
    assert len(list((desk.folder / ".course/backups").iterdir())) == 1
    assert sync_workspace(desk.folder, desk.source) == SyncReport(desk.folder), "course lab sees nothing newer either"


def test_a_dry_run_says_the_same_and_writes_nothing(desk: Desk, new: str) -> None:
    desk.answer()
    desk.ship(new)
    desk.ship(of_another_lesson(new), OTHER)
    before = {path: path.read_bytes() for path in desk.folder.rglob("*.*") if path.is_file()}
    planned = update(desk, dry_run=True)
    assert {path: path.read_bytes() for path in desk.folder.rglob("*.*") if path.is_file()} == before
    done = update(desk)
    assert {name: (each.state, each.came_in, each.look) for name, each in planned.items()} == {
        name: (each.state, each.came_in, each.look) for name, each in done.items()
    }
    assert done[OTHER].state == "new" and desk.bytes(OTHER) == of_another_lesson(new).encode()


def test_an_untouched_copy_becomes_the_new_version_to_the_byte(desk: Desk, new: str) -> None:
    desk.ship(new)
    assert update(desk)[NAME].state == "updated"
    assert desk.bytes() == new.encode()


def test_a_renamed_notebook_is_found_by_its_lesson(desk: Desk, new: str) -> None:
    desk.answer()
    (desk.folder / NAME).rename(desk.folder / "my own name.ipynb")
    desk.ship(new)
    assert update(desk)["my own name.ipynb"].state == "updated"
    assert not (desk.folder / NAME).exists()
    assert cell_called(desk.cells("my own name.ipynb"), SUM).source == ANSWER
    assert SUM + "-check" in [cell.id for cell in desk.cells("my own name.ipynb")]


def test_beside_a_fresh_copy_the_renamed_one_is_still_updated_and_a_second_one_must_be_named(
    desk: Desk, new: str
) -> None:
    desk.answer()
    (desk.folder / NAME).rename(desk.folder / "mine.ipynb")
    desk.ship(new)
    sync_workspace(desk.folder, desk.source)  # as `course lab` does: a fresh copy under the old name
    assert update(desk)["mine.ipynb"].state == "updated"
    assert "float32" in "".join(cell.source for cell in desk.cells("mine.ipynb"))
    desk.answer(f"{ANSWER}, once more")
    (desk.folder / "mine.ipynb").write_bytes(desk.bytes("mine.ipynb") + b"\n")
    desk.ship(built(desk.source.parent, PROSE))
    found = update(desk)
    assert (found[NAME].state, found["mine.ipynb"].state) == ("updated", "left")
    assert "course update 'mine.ipynb'" in found["mine.ipynb"].notes[0]
    assert update(desk, only=["mine.ipynb"])["mine.ipynb"].state == "updated"
    with pytest.raises(WorkspaceError, match=r"no absent\.ipynb in .*mine"):
        update(desk, only=["absent.ipynb"])


def test_a_process_killed_between_the_file_and_its_record_leaves_no_doubt(
    desk: Desk, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.answer()
    desk.ship(new)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(update_run, "write_copied_sums", killed)
    with pytest.raises(KeyboardInterrupt):
        update(desk)
    after = desk.bytes()
    assert b"a new demo" in after
    monkeypatch.undo()
    assert update(desk)[NAME].state == "current"
    assert desk.bytes() == after


def killed_at(number: int, desk: Desk) -> bool:
    """An update in a process of its own that dies by kill -9 at that write or rename; whether it lived to its end."""
    child = os.fork()
    if child == 0:
        left = itertools.count(1)

        def dying(function):
            def call(*arguments):
                if next(left) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments)

            return call

        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        update(desk)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork and no SIGKILL there")
def test_kill_9_at_any_write_leaves_the_old_file_or_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    seen = set()
    for number in range(1, 30):
        desk = Desk(tmp_path / str(number), old)
        desk.answer()
        before = desk.bytes()
        desk.ship(new)
        lived = killed_at(number, desk)
        seen.add(desk.bytes() == before)
        assert desk.bytes() == before or b"a new demo" in desk.bytes()
        assert cell_called(desk.cells(), SUM).source == ANSWER
        update(desk)
        assert cell_called(desk.cells(), SUM).source == ANSWER
        assert sum("a new demo" in cell.source for cell in desk.cells()) == 1
        assert not list(desk.folder.glob(".01_plain*.partial"))
        if lived:
            break
    assert lived and number > 6
    assert seen == {True, False}, "no kill came before the file was replaced, or none after"


@on_a_small_disk
def test_a_full_disk_is_told_and_the_notebook_stays_whole(tmp_path: Path, old: str, new: str) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        desk = Desk(disk, old)
        desk.answer()
        before = desk.bytes()
        desk.ship(new)
        for room_bytes in (0, 4096, 12_288):
            with filled(disk, but_bytes=room_bytes), pytest.raises(WorkspaceError) as told:
                update(desk)
            assert "No space left on device" in str(told.value) and "ake room" in str(told.value)
            assert desk.bytes() == before
        assert not list(desk.folder.glob("**/*.partial"))
        assert update(desk)[NAME].state == "updated"
        assert cell_called(desk.cells(), SUM).source == ANSWER


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "it is not JSON"),
        (lambda _: b"", "the file is empty"),
        (lambda _: b"[1, 2]", "it is JSON but no notebook"),
        (lambda _: b"\xff\xfe\x00garbage", "it is not JSON"),
        (lambda _: b'{"nbformat": 3, "worksheets": []}', "its notebook format is 3"),
        (lambda _: b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"id": 1}]}', "no sound notebook"),
        (lambda _: b'{"nbformat": 4, "nbformat_minor": "x", "metadata": {}, "cells": []}', "no sound notebook"),
        (lambda data: data.replace(b'"cell_type": "code"', b'"cell_type": "koan"'), "no sound notebook"),
    ],
)
def test_a_damaged_notebook_is_refused_untouched_and_the_others_go_on(
    tmp_path: Path, old: str, new: str, damage, says: str
) -> None:
    desk = Desk(tmp_path, old)
    desk.ship(of_another_lesson(old), OTHER)
    sync_workspace(desk.folder, desk.source)
    damaged = damage(desk.bytes())
    (desk.folder / NAME).write_bytes(damaged)
    desk.answer(name=OTHER)
    desk.ship(new)
    desk.ship(of_another_lesson(new), OTHER)
    found = update(desk)
    assert found[NAME].state == "refused" and says in found[NAME].notes[0]
    assert desk.bytes() == damaged
    assert found[OTHER].state == "updated"


def without_versions(desk: Desk) -> None:
    """A workspace from before shipped versions were kept."""
    for path in (desk.folder / ".course/shipped").iterdir():
        path.unlink()


def test_an_older_workspace_loses_nothing_and_is_told(desk: Desk, new: str) -> None:
    desk.answer()
    desk.edit(lambda cells: cell_called(cells, "l01-demo-01").update(source="import numpy as np\nmine = 1"))
    without_versions(desk)
    desk.ship(new)
    outcome = update(desk)[NAME]
    assert "made before the course kept what it was copied from" in outcome.notes[0]
    text = [cell.source for cell in desk.cells()]
    assert ANSWER in text and "import numpy as np\nmine = 1" in text and "print('a new demo')" in text
    desk.ship(built(desk.source.parent, PROSE))
    assert update(desk)[NAME].notes == [], "from now on it is known"


def test_an_older_workspace_finds_its_version_in_the_git_history(desk: Desk, new: str) -> None:
    git = ["git", "-C", str(desk.source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "old"]):
        subprocess.run([*git, *arguments], check=True)
    desk.ship(new)
    subprocess.run([*git, "commit", "-qam", "new"], check=True)
    desk.answer()
    desk.edit(lambda cells: cells.remove(cell_called(cells, "l01-demo-01")))
    without_versions(desk)
    outcome = update(desk)[NAME]
    assert outcome.notes == [] and "l01-demo-01" not in desk.ids()


def test_a_workspace_on_todays_version_learns_its_base_by_itself(desk: Desk, new: str) -> None:
    desk.answer()
    without_versions(desk)
    sync_workspace(desk.folder, desk.source)
    desk.ship(new)
    assert update(desk)[NAME].notes == []


def test_a_damaged_kept_version_is_not_trusted(desk: Desk, new: str) -> None:
    desk.answer()
    (kept,) = (desk.folder / ".course/shipped").iterdir()
    kept.write_text(kept.read_text().replace("Plain arrays", "Plane arrays"))
    desk.ship(new)
    assert "made before" in update(desk)[NAME].notes[0]


def test_a_notebook_saved_meanwhile_is_left(desk: Desk, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.answer()
    desk.ship(new)
    merge = update_run.merge

    def saved_meanwhile(*arguments):
        desk.answer(f"{ANSWER}, saved just now")
        return merge(*arguments)

    monkeypatch.setattr(update_run, "merge", saved_meanwhile)
    with pytest.raises(WorkspaceError, match="saved by another program"):
        update(desk)
    assert "saved just now" in cell_called(desk.cells(), SUM).source


def test_what_json_can_hold_and_utf_8_cannot_survives(desk: Desk, new: str) -> None:
    desk.answer(f"{ANSWER} \ud83d")
    desk.ship(new)
    assert update(desk)[NAME].state == "updated"
    assert "\\ud83d" in desk.bytes().decode()


def test_without_ids_cells_are_known_by_name_and_text(desk: Desk, new: str) -> None:
    """As an older editor leaves it: notebook format 4.4."""
    desk.answer()
    notebook = json.loads(desk.bytes())
    notebook["nbformat_minor"] = 4
    for cell in notebook["cells"]:
        del cell["id"]
    (desk.folder / NAME).write_text(json.dumps(notebook))
    desk.ship(new)
    update(desk)
    text = [cell.source for cell in desk.cells()]
    assert text.count(ANSWER) == 1 and not any("Two exercises." in source for source in text)
    assert cell_called(desk.cells(), SUM).source == ANSWER


def test_the_command_tells_it_in_words(desk: Desk, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_run, "shipped_notebooks_folder", lambda: desk.source)
    opened: set[Path] = set()
    monkeypatch.setattr("course.update.open_notebooks.open_notebooks", lambda _: opened)
    desk.answer()
    desk.edit(lambda cells: cell_called(cells, "l01-demo-02").update(source="mine = 1"))
    desk.ship(new)
    desk.ship(of_another_lesson(new), OTHER)
    opened.add(desk.folder / NAME)
    run = CliRunner()
    planned = run.invoke(app, ["update", "--dry-run", "--workspace", str(desk.folder)])
    assert planned.exit_code == 0 and "save it there before you update" in planned.output
    assert "1 would be updated, 1 would be new. Nothing was written" in planned.output
    done = run.invoke(app, ["update", "--workspace", str(desk.folder)])
    assert done.exit_code == 0, done.output
    for words in (
        "came in (2)",
        f"exercise {SUM} changed",
        "choose Revert",
        "as it was before",
        f"{OTHER}: new lesson",
    ):
        assert words in done.output, done.output
    assert "up to date" in run.invoke(app, ["update", "--workspace", str(desk.folder)]).output
    nowhere = run.invoke(app, ["update", "--workspace", str(desk.folder / "nowhere")])
    assert nowhere.exit_code == 1 and "Make it with: course lab" in nowhere.output
    (desk.folder / NAME).write_text("{")
    refused = run.invoke(app, ["update", "--workspace", str(desk.folder)])
    assert refused.exit_code == 1 and "NOT updated" in refused.output


def test_course_lab_says_in_one_line_that_an_update_is_there(
    desk: Desk, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "shipped_notebooks_folder", lambda: desk.source)
    monkeypatch.setattr("course.base_model.base_model_folder", lambda: desk.folder)
    monkeypatch.setattr("course.cpu_bfloat16.cpu_bfloat16_usable", lambda: False)
    monkeypatch.setattr("course.lab.run_lab", lambda *_: 0)
    desk.answer()
    before = desk.bytes()
    desk.ship(new)
    shown = CliRunner().invoke(app, ["lab", "--workspace", str(desk.folder)]).output
    (line,) = [line for line in shown.splitlines() if "Update available" in line]
    assert NAME in line and "course update" in line
    assert desk.bytes() == before


@pytest.mark.slow
def test_a_notebook_open_in_jupyterlab_is_seen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Jupyter server with a session on the notebook."""
    from urllib.request import Request, urlopen

    from browsers import served

    from course.update.open_notebooks import open_notebooks

    runtime = desk.folder.parent / "runtime"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    assert open_notebooks(desk.folder) == set()
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--ServerApp.root_dir={desk.folder}", "--IdentityProvider.token=t"]
    with served(command, r"http://(127\.0\.0\.1|localhost):\d+/", desk.folder.parent / "log") as address:
        body = json.dumps({"path": NAME, "name": NAME, "type": "notebook", "kernel": {"name": "python3"}})
        headers = {"Authorization": "token t", "Content-Type": "application/json"}
        with urlopen(Request(f"{address}api/sessions", body.encode(), headers), timeout=30) as answer:
            assert answer.status == 201
        assert open_notebooks(desk.folder) == {desk.folder / NAME}

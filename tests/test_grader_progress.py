"""Attempts are never lost: two processes, a kill, damage of several kinds, a read-only folder, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from grader.progress import Progress, ProgressError, progress_path
from grader.result import Result

NOBODY = 65534


def result(status="failed", exercise="l01-a", **changes) -> Result:
    points = 2.0 if status == "passed" else 0.0
    return Result(
        **{
            "exercise_id": exercise,
            "title": "A",
            "status": status,
            "points": points,
            "max_points": 2.0,
            "message": "m",
            **changes,
        }
    )


def attempt(kept: Progress, status="failed", exercise="l01-a", source="def a(): ...") -> None:
    kept.finish(kept.begin(exercise, source), result(status, exercise))


def script(body: str, path: Path) -> list[str]:
    head = """
        import sys, os, time
        from pathlib import Path
        from grader.progress import Progress, ProgressError
        from grader.result import Result
        path = Path(sys.argv[1])
        def done(status="failed"):
            return Result("l01-a", "A", status, 0.0, 2.0, "m")
        """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body), str(path)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".grader" / "progress.sqlite"


def test_attempts_survive_a_restart(path):
    kept = Progress(path)
    attempt(kept, "failed", source="first")
    attempt(kept, "passed", source="second")
    again = Progress(path)
    assert again.notice == ""
    assert [(each.status, each.source) for each in again.attempts("l01-a")] == [
        ("failed", "first"),
        ("passed", "second"),
    ]
    standing = again.standings()["l01-a"]
    assert (standing.status, standing.tries, standing.points) == ("passed", 1, 2.0)


def test_passing_once_is_kept_when_a_later_try_fails(path):
    kept = Progress(path)
    for status in ("passed", "failed", "crashed"):
        attempt(kept, status)
    standing = kept.standings()["l01-a"]
    assert (standing.status, standing.tries, standing.points) == ("passed", 2, 2.0)


def test_todo_is_no_try_and_broken_costs_nothing(path):
    kept = Progress(path)
    attempt(kept, "todo")
    assert kept.attempts() == []
    assert kept.standings() == {}
    attempt(kept, "broken")
    assert kept.standings()["l01-a"].tries == 0


def test_help_is_counted(path):
    kept = Progress(path)
    kept.note_help("l01-a", "hint")
    kept.note_help("l01-a", "hint")
    kept.note_help("l01-b", "solution")
    standings = Progress(path).standings()
    assert (standings["l01-a"].hints, standings["l01-a"].solution_seen, standings["l01-a"].status) == (2, False, "todo")
    assert standings["l01-b"].solution_seen


def test_two_processes_writing_at_once_lose_nothing(path):
    body = """
        kept = Progress(path)
        for i in range(50):
            number = kept.begin("l01-a", f"{sys.argv[2]} {i}")
            kept.finish(number, done())
        """
    running = [subprocess.Popen([*script(body, path), name]) for name in ("one", "two")]
    assert [each.wait(timeout=60) for each in running] == [0, 0]
    kept = Progress(path)
    sources = [each.source for each in kept.attempts()]
    assert sorted(sources) == sorted(f"{name} {i}" for name in ("one", "two") for i in range(50))
    assert kept.standings()["l01-a"].tries == 100


def killed_in_between(path: Path) -> None:
    body = """
        kept = Progress(path)
        kept.begin("l01-a", "def a(): os._exit(1)")
        print("begun", flush=True)
        time.sleep(60)
        """
    with subprocess.Popen(script(body, path), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        assert Progress(path).close_dead_attempts() == []  # It is alive: its attempt is not over.
        running.send_signal(signal.SIGKILL)
        while psutil.Process(running.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        # Dead, though its parent has not yet asked: what a kernel is just after it was killed.
        assert Progress(path).close_dead_attempts() == ["l01-a"]


def test_a_process_killed_during_a_check_leaves_its_attempt_as_crashed(path):
    killed_in_between(path)
    kept = Progress(path)
    assert kept.close_dead_attempts() == []  # Told once.
    assert [(each.status, each.source) for each in kept.attempts()] == [("crashed", "def a(): os._exit(1)")]
    assert kept.standings()["l01-a"].tries == 1


def test_an_attempt_of_a_process_number_used_again_is_dead(path):
    kept = Progress(path)
    kept.begin("l01-a", "old")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE attempts SET process=?", (f"{os.getpid()}:12345.00",))
    database.close()
    assert kept.close_dead_attempts() == ["l01-a"]


def test_an_attempt_taken_back_is_forgotten(path):
    kept = Progress(path)
    kept.take_back(kept.begin("l01-a", "x"))
    assert kept.attempts() == []


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_to_a_page(data: bytes) -> bytes:
    return data[:4096]


def cut_inside_the_header(data: bytes) -> bytes:
    return data[:50]


def garbage(data: bytes) -> bytes:
    return os.urandom(len(data))


def empty(data: bytes) -> bytes:
    return b""


def overwritten_page(data: bytes) -> bytes:
    return data[:4096] + b"\xff" * 2048 + data[4096 + 2048 :]


def overwritten_header(data: bytes) -> bytes:
    return b"not a database, really" + data[22:]


def text(data: bytes) -> bytes:
    return b"<html>409 conflict</html>"


DAMAGES = [
    truncate,
    cut_to_a_page,
    cut_inside_the_header,
    garbage,
    empty,
    overwritten_page,
    overwritten_header,
    text,
]


def filled(path: Path, attempts: int = 40) -> None:
    kept = Progress(path)
    for i in range(attempts):
        kept.begin("l01-a", f"source {i} " + "x" * 500)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE attempts SET status='failed'")
    database.close()
    attempt(kept, "passed", source="the last")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_restored_from_the_copy(path, damage):
    filled(path)
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    kept = Progress(path)
    assert "Your progress file was damaged" in kept.notice
    assert "restored from the copy" in kept.notice
    assert len(kept.attempts()) == 41
    assert kept.standings()["l01-a"].status == "passed"
    (aside,) = path.parent.glob("progress.corrupt-*.sqlite")
    assert aside.read_bytes() == damaged
    assert aside.name in kept.notice
    attempt(kept)
    assert Progress(path).notice == ""
    assert len(Progress(path).attempts()) == 42


def test_a_foreign_database_is_set_aside(path):
    filled(path, 3)
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE attempts (something INTEGER)")
    database.close()
    kept = Progress(path)
    assert "restored" in kept.notice
    assert len(kept.attempts()) == 4


def test_a_file_that_is_gone_is_restored_from_the_copy(path):
    filled(path, 3)
    path.unlink()  # As after a power cut between setting aside and restoring.
    kept = Progress(path)
    assert "restored" in kept.notice
    assert len(kept.attempts()) == 4


@pytest.mark.parametrize("damage", [truncate, garbage, text])
def test_when_the_copy_is_damaged_too_a_new_file_is_started_and_both_are_kept(path, damage):
    filled(path)
    backup = path.with_suffix(".backup.sqlite")
    for file in (path, backup):
        file.write_bytes(damage(file.read_bytes()))
    contents = {path.read_bytes(), backup.read_bytes()}
    kept = Progress(path)
    assert "no sound copy was found" in kept.notice
    assert "Your notebooks are untouched" in kept.notice
    assert kept.attempts() == []
    attempt(kept)
    aside = [*path.parent.glob("*corrupt-*")]
    assert {file.read_bytes() for file in aside} == contents
    assert len(Progress(path).attempts()) == 1


def test_two_processes_that_find_the_damage_at_once_restore_it_once(path):
    filled(path, 5)
    path.write_bytes(garbage(path.read_bytes()))
    body = """
        while not path.with_suffix(".go").exists():
            time.sleep(0.001)
        kept = Progress(path)
        kept.finish(kept.begin("l01-a", sys.argv[2]), done())
        """
    running = [subprocess.Popen([*script(body, path), name]) for name in ("one", "two")]
    time.sleep(1.5)
    path.with_suffix(".go").touch()
    assert [each.wait(timeout=60) for each in running] == [0, 0]
    assert len(Progress(path).attempts()) == 8
    assert len([*path.parent.glob("*corrupt-*")]) == 1


def as_nobody(act: Callable[[], str]) -> str:
    """What `act` returns in a child without root's rights (a fork: the interpreter may live in root's own home)."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        told = ""
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            told = act()
        except BaseException as error:
            told = f"unexpected {error!r}"
        finally:
            os.write(sending, told.encode())
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as answer:
        told = answer.read().decode()
    os.waitpid(child, 0)
    return told


def make_reachable(folder: Path) -> None:
    """pytest's folders are closed to other users; open the way to this one."""
    for parent in (folder, *folder.parents):
        if parent.owner() != "root" or os.geteuid() != 0 or parent == Path("/"):
            break
        parent.chmod(parent.stat().st_mode | 0o755)


def read_and_try_to_write(path: Path) -> str:
    told = ""
    try:
        kept = Progress(path)
        told = f"read {len(kept.attempts())}; "
        kept.begin("l01-a", "x")
        return told + "written"
    except ProgressError as error:
        return told + f"ProgressError: {error}"


def test_a_folder_one_may_only_read_shows_what_it_holds_and_explains_why_nothing_is_saved(path):
    filled(path, 2)
    make_reachable(path.parent)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        told = as_nobody(lambda: read_and_try_to_write(path))
    finally:
        path.parent.chmod(0o755)
    assert told.startswith("read 3; ProgressError: progress cannot be kept in ")
    assert "make the folder writable, or set GRADER_PROGRESS to another file" in told


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    make_reachable(tmp_path)
    tmp_path.chmod(0o555)
    told = as_nobody(lambda: read_and_try_to_write(tmp_path / "new" / "progress.sqlite"))
    assert told.startswith("ProgressError: progress cannot be kept in ")


def test_a_full_disk_is_explained_and_loses_nothing(path):
    """A limit on the size of files stands in for the disk: SQLite meets a short write either way."""
    kept = Progress(path)
    attempt(kept, source="kept")
    body = f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({path.stat().st_size}, resource.RLIM_INFINITY))
        kept = Progress(path)
        try:
            for _ in range(50):
                kept.finish(kept.begin("l01-a", "x" * 3000), done())
            print("no limit met")
        except ProgressError as error:
            print("ProgressError", error)
        """
    finished = subprocess.run(script(body, path), capture_output=True, text=True, timeout=60, check=False)
    assert finished.stdout.startswith("ProgressError progress cannot be kept in "), finished.stdout + finished.stderr
    assert "Free disk space" in finished.stdout
    again = Progress(path)
    assert again.notice == ""
    assert again.attempts()[0].source == "kept"
    attempt(again, "passed")
    assert Progress(path).standings()["l01-a"].status == "passed"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; the test above covers the same without")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        path = disk / "progress.sqlite"
        kept = Progress(path)
        attempt(kept, "passed", source="kept")
        with pytest.raises(ProgressError, match="Free disk space"):
            for _ in range(100):
                attempt(kept, source="x" * 5000)
        done = [each for each in Progress(path).attempts() if each.status == "passed"]
        assert [each.source for each in done] == ["kept"]
        with pytest.raises(ProgressError, match="full"):
            for _ in range(100):
                kept.begin("l01-a", "x" * 5000)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_where_progress_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADER_PROGRESS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    lesson = tmp_path / "workspace" / "lessons"
    lesson.mkdir(parents=True)
    monkeypatch.chdir(lesson)
    assert progress_path() == tmp_path / "data/grader/progress.sqlite"
    (tmp_path / "workspace/.grader").mkdir()
    assert progress_path() == tmp_path / "workspace/.grader/progress.sqlite"
    monkeypatch.setenv("GRADER_PROGRESS", str(tmp_path / "mine.sqlite"))
    assert progress_path() == tmp_path / "mine.sqlite"


def test_the_exercise_checked_last_is_remembered_started_or_not(path):
    kept = Progress(path)
    assert kept.last_checked() is None
    attempt(kept, "failed")
    attempt(kept, "todo", "l01-b")
    assert kept.last_checked() == "l01-b"

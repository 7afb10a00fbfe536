"""The cache folder is whole or absent: killed writers, two writers, full disks, folders that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from course.model_cache import MANIFEST_NAME, ensure_folder, problem_with_folder
from course.model_source import BaseModelError

NOBODY = 65534


def write_small(partial: Path) -> None:
    (partial / "weights.bin").write_bytes(b"w" * 1000)
    (partial / "config.json").write_text("{}")


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A real second process that runs `script` with the cache module imported."""
    prelude = "import sys, time\nfrom pathlib import Path\nfrom course.model_cache import ensure_folder\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_whole_folder_is_left_alone_and_force_replaces_it(tmp_path: Path) -> None:
    folder, writes = tmp_path / "model", []

    def write(partial: Path) -> None:
        writes.append(partial)
        write_small(partial)

    for force in (False, False, True):
        ensure_folder(folder, write, needed_bytes=0, force=force)
    assert len(writes) == 2
    assert problem_with_folder(folder, check_hashes=True) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.lock"]


def test_other_users_can_read_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def write(partial: Path) -> None:
        write_small(partial)
        (partial / "weights.bin").chmod(0o600)  # As safetensors leaves it.

    ensure_folder(folder, write, needed_bytes=0)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_truncated_file_is_noticed_by_its_size_and_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    ensure_folder(folder, write_small, needed_bytes=0)
    os.truncate(folder / "weights.bin", 999)
    assert "is 999 bytes but 1,000 were written" in str(problem_with_folder(folder))
    ensure_folder(folder, write_small, needed_bytes=0)
    assert problem_with_folder(folder) is None


def test_a_changed_byte_is_noticed_by_the_full_check_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    ensure_folder(folder, write_small, needed_bytes=0)
    (folder / "weights.bin").write_bytes(b"v" + b"w" * 999)
    assert problem_with_folder(folder) is None
    assert "changed since it was written" in str(problem_with_folder(folder, check_hashes=True))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3}'])
def test_a_damaged_manifest_is_a_problem_not_a_crash(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    ensure_folder(folder, write_small, needed_bytes=0)
    (folder / MANIFEST_NAME).write_text(damage)
    assert "cannot be read" in str(problem_with_folder(folder))
    ensure_folder(folder, write_small, needed_bytes=0)
    assert problem_with_folder(folder) is None


def test_a_writer_killed_midway_leaves_no_folder_and_the_next_one_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    writer = start(
        """
        def write(partial):
            (partial / "weights.bin").write_bytes(b"half")
            print("writing", flush=True)
            time.sleep(60)
        ensure_folder(Path(sys.argv[1]), write, needed_bytes=0)
        """,
        folder,
    )
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait(10)
    assert not folder.exists()
    assert list(tmp_path.glob(".partial-*")), "the kill left its half-written folder, or this test proves nothing"
    ensure_folder(folder, write_small, needed_bytes=0)
    assert problem_with_folder(folder, check_hashes=True) is None
    assert not list(tmp_path.glob(".partial-*"))


def test_two_writers_at_once_write_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "model", tmp_path / "log"
    script = """
        def write(partial):
            with open(sys.argv[2], "a") as log:
                log.write("wrote\\n")
            time.sleep(1.5)
            (partial / "weights.bin").write_bytes(b"w" * 1000)
        ensure_folder(Path(sys.argv[1]), write, needed_bytes=0, report=print)
    """
    writers = [start(script, folder, log) for _ in range(2)]
    outputs = [writer.communicate(timeout=30) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], outputs
    assert log.read_text() == "wrote\n"
    assert sum("Waiting for another process" in output for output, _ in outputs) == 1
    assert problem_with_folder(folder, check_hashes=True) is None


def test_too_little_free_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"full: .* MB are free and 1,000,000,000,000 MB are needed") as caught:
        ensure_folder(tmp_path / "model", write_small, needed_bytes=10**18)
    assert "COURSE_CACHE" in str(caught.value)
    assert not list(tmp_path.glob(".partial-*"))


FILL_DISK = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from course.model_cache import ensure_folder
from course.model_source import BaseModelError

root, how, limit_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def write(partial):
    if how == "safetensors":
        save_file({"weights": torch.zeros(8 << 20)}, partial / "model.safetensors")
    else:
        (partial / "tokenizer.json").write_bytes(bytes(32 << 20))

if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
try:
    ensure_folder(root / "model", write, needed_bytes=0)
except BaseModelError as error:
    print(error)
print("left:", sorted(path.name for path in root.iterdir()))
"""


def assert_full_disk_is_explained(root: Path, how: str, limit_bytes: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FILL_DISK, str(root), how, str(limit_bytes)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert f"The disk that holds the model cache {root} is full" in result.stdout
    assert "export COURSE_CACHE=" in result.stdout
    assert "left: ['model.lock']" in result.stdout


@pytest.mark.parametrize("how", ["safetensors", "plain"])
def test_a_file_size_limit_hit_while_writing_is_explained_and_cleaned_up(tmp_path: Path, how: str) -> None:
    assert_full_disk_is_explained(tmp_path, how, limit_bytes=1 << 20)


@pytest.mark.parametrize("how", ["safetensors", "plain"])
def test_a_disk_that_fills_up_while_writing_is_explained_and_cleaned_up(tmp_path: Path, how: str) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a 4 MB disk needs root; the file size limit test covers the same path")
    try:
        assert_full_disk_is_explained(tmp_path, how, limit_bytes=0)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("depth", ["cache", "parent"])
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path, depth: str) -> None:
    tmp_path.chmod(0o555)
    # Permissions do not bind root, so there the process gives its rights up once everything is imported.
    script = """
        import os, filelock, safetensors, psutil
        from course.model_source import BaseModelError
        if os.geteuid() == 0:
            os.setuid(int(sys.argv[2]))
        try:
            ensure_folder(Path(sys.argv[1]), lambda partial: None, needed_bytes=0)
        except BaseModelError as error:
            print(error)
    """
    folder = tmp_path / "model" if depth == "cache" else tmp_path / "below" / "model"
    try:
        for parent in tmp_path.parents:  # pytest's folders are private to the user who runs it
            if os.geteuid() == 0 and parent.stat().st_mode & 0o777 == 0o700 and "pytest" in parent.name:
                parent.chmod(0o711)
        writer = start(script, folder, NOBODY)
        output, errors = writer.communicate(timeout=60)
    finally:
        tmp_path.chmod(0o755)
    assert f"Cannot write the model cache in {folder.parent}: permission denied" in output, errors
    assert "export COURSE_CACHE=" in output


def test_a_cache_path_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(BaseModelError, match=r"Cannot write the model cache in .*cache: .*COURSE_CACHE"):
        ensure_folder(tmp_path / "cache" / "model", write_small, needed_bytes=0)


def test_a_whole_folder_is_used_even_where_nothing_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    ensure_folder(folder, write_small, needed_bytes=0)
    (tmp_path / "model.lock").unlink()
    ensure_folder(folder, write_small, needed_bytes=10**18)
    assert not (tmp_path / "model.lock").exists()

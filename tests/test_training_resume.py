"""A run that is stopped in any way and called again ends with the same bits as one that was never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_chat import chats, tiny_llama, tiny_tokenizer

from course.training import CheckpointError, TrainingConfig, TrainingDivergedError, add_adapter, read_log, train
from course.training import checkpoint as checkpoints
from course.training import loop as training_loop

# Dropout draws random numbers at every step, so a lost generator state would show.
CONFIG = TrainingConfig(
    rank=4, dropout=0.2, max_steps=9, batch_size=4, micro_batch_size=2, checkpoint_every_steps=2, log_every_steps=1
)
ROWS = chats(10)


def run(folder, config=CONFIG, rows=ROWS, seed=0, **options):
    model = tiny_llama(seed) if config.method == "full" else add_adapter(tiny_llama(seed), config)
    return train(model, tiny_tokenizer(), rows, config, folder, progress=False, **options)


def stop_at(step, monkeypatch, act):
    """Call `act` at the beginning of that step."""
    original = training_loop.optimizer_step
    calls = iter(range(10_000))

    def step_and_stop(*arguments):
        if next(calls) == step:
            act()
        return original(*arguments)

    monkeypatch.setattr(training_loop, "optimizer_step", step_and_stop)


def weights(folder: Path):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same_run(stopped, whole, folder, whole_folder):
    assert stopped.losses == whole.losses
    assert (stopped.tokens, stopped.answer_tokens) == (whole.tokens, whole.answer_tokens)
    ours, theirs = weights(folder), weights(whole_folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    keys = ("step", "loss", "gradient_norm", "learning_rate")
    assert [[e[k] for k in keys] for e in read_log(folder)] == [[e[k] for k in keys] for e in read_log(whole_folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def test_an_interrupt_saves_the_step_and_resumes_to_the_same_bits(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        stop_at(5, patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert checkpoints.load_latest(tmp_path / "checkpoints").state["step"] == 6, "the step under way is finished"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same_run(run(tmp_path), whole[0], tmp_path, whole[1])


def test_a_crash_resumes_to_the_same_bits(tmp_path, monkeypatch, whole):
    def crash():
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        stop_at(5, patch, crash)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    assert len(read_log(tmp_path)) == 5, "step 4 is in the log and not in the checkpoint: it must not appear twice"
    assert_same_run(run(tmp_path), whole[0], tmp_path, whole[1])


def test_full_training_resumes_to_the_same_bits(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, method="full", learning_rate=1e-3, dropout=0.0)
    with monkeypatch.context() as patch:
        stop_at(3, patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", config)
    stopped, whole = run(tmp_path / "a", config), run(tmp_path / "b", config)
    assert stopped.losses == whole.losses
    ours, theirs = (load_file(tmp_path / name / "adapter" / "model.safetensors") for name in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


CHILD = """
import os, resource, signal, sys
sys.path[:0] = [{tests!r}, {fixtures!r}]
from pathlib import Path
from test_training_resume import run
from course.training import checkpoint
original = checkpoint.write_durably
def write(path, data):
    if path.parent.name == "step-000006.partial":
        {act}
    original(path, data)
checkpoint.write_durably = write
try:
    run(Path({folder!r}))
except checkpoint.CheckpointError as error:
    print(error)
    sys.exit(3)
"""


def run_child(folder, act):
    tests = Path(__file__).parent
    code = CHILD.format(tests=str(tests), fixtures=str(tests / "fixtures"), act=act, folder=str(folder))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_kill_in_the_middle_of_a_checkpoint_loses_only_the_steps_since_the_last(tmp_path, whole):
    child = run_child(tmp_path, "path.write_bytes(data[:1000]); os.kill(os.getpid(), signal.SIGKILL)")
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / "checkpoints" / "step-000006.partial").is_dir()
    assert checkpoints.load_latest(tmp_path / "checkpoints").state["step"] == 4
    assert_same_run(run(tmp_path), whole[0], tmp_path, whole[1])
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, whole):
    # A file-size limit is how the kernel refuses a write for real, without filling this machine's disk.
    child = run_child(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))")
    assert child.returncode == 3, child.stderr
    assert "checkpoint of step 6" in child.stdout and "Kept: step-000004" in child.stdout
    assert "run the same call again" in child.stdout
    assert_same_run(run(tmp_path), whole[0], tmp_path, whole[1])


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 400 KB, which a run over the tiny model fills."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_truly_full_disk_is_named_and_the_run_goes_on_after_space_is_freed(small_disk, monkeypatch, whole):
    ballast = small_disk / "ballast"

    def fill_disk():
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * 4096)
            except OSError:
                pass

    with monkeypatch.context() as patch:
        stop_at(4, patch, fill_disk)
        with pytest.raises(CheckpointError, match=r"No space left on device.*same call again"):
            run(small_disk)
    assert checkpoints.load_latest(small_disk / "checkpoints").state["step"] == 4
    ballast.unlink()
    assert_same_run(run(small_disk), whole[0], small_disk, whole[1])


def test_a_folder_that_cannot_be_written_is_told_before_any_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match=r"step 0 .*cannot be written"):
        run(blocked)


@pytest.mark.parametrize("damage", ["flip", "truncate", "no state", "bad json"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_serves(tmp_path, monkeypatch, whole, damage):
    with monkeypatch.context() as patch:
        stop_at(5, patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    newest = tmp_path / "checkpoints" / "step-000006"
    tensors, state = newest / checkpoints.TENSORS_FILE, newest / checkpoints.STATE_FILE
    if damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-100] ^= 1
        tensors.write_bytes(data)
    elif damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:5000])
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text("{")
    with pytest.warns(UserWarning, match=r"step-000006 is damaged.*Going back to the checkpoint before it"):
        resumed = run(tmp_path)
    assert_same_run(resumed, whole[0], tmp_path, whole[1])


def test_when_every_checkpoint_is_damaged_the_run_stops_and_says_so(tmp_path):
    run(tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*/state.json"):
        path.write_text("{")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="Move that folder away"):
        run(tmp_path)


def test_a_finished_run_is_loaded_and_not_repeated(tmp_path, monkeypatch, whole):
    run(tmp_path)
    monkeypatch.setattr(training_loop, "optimizer_step", None)
    assert_same_run(run(tmp_path), whole[0], tmp_path, whole[1])
    assert json.loads((tmp_path / "run.json").read_text())["config_hash"] == CONFIG.hash()


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings \(learning_rate: 0.001 -> 0.01\)"):
        run(tmp_path, dataclasses.replace(CONFIG, learning_rate=1e-2))
    with pytest.raises(CheckpointError, match="over other rows"):
        run(tmp_path, rows=chats(11))
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(tmp_path, resume=False)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path, monkeypatch):
    original = training_loop.answer_loss_sum
    calls = iter(range(1000))

    def poisoned(model, batch):  # two micro-batches a step: call 10 is in step 5
        return original(model, batch) * (float("nan") if next(calls) == 10 else 1.0)

    monkeypatch.setattr(training_loop, "answer_loss_sum", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"^Step 5 .*loss nan"):
        run(tmp_path)
    found = checkpoints.load_latest(tmp_path / "checkpoints")
    assert found.state["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert [entry["step"] for entry in read_log(tmp_path)] == [0, 1, 2, 3, 4]


def test_training_learns(tmp_path):
    config = dataclasses.replace(CONFIG, method="full", max_steps=40, learning_rate=1e-2, dropout=0.0)
    losses = run(tmp_path, config).losses
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_tensorboard_gets_the_curves(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(whole[1] / "tensorboard")).Reload()
    got = [event.value for event in board.Scalars("loss")]
    assert got == pytest.approx(list(whole[0].losses), rel=1e-6)

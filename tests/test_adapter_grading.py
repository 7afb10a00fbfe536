"""`grader grade-adapters`: what is graded is what was trained, on questions nobody sees; one costs only itself."""

from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_adapters import BREAKABLE, CONFIG, FAIL, HANG, KILL, LAYERS, TINY, hand_in, to_bytes
from tiny_chat import chats, tiny_llama, tiny_tokenizer
from tiny_courses import copy_course

from course.lessons.l09_qlora import hidden_set
from course.lessons.l09_qlora.hidden_set import EVALUATION, SqlEvaluation, adapter_problem, hidden_questions
from course.sql import load_examples
from course.training import TrainingConfig, add_adapter, load_adapter, merge_adapter, merge_checked_adapter, train
from grader.adapters.evaluation import GroupAnswers, read_adapter
from grader.adapters.folder import find_adapters, read_folder
from grader.adapters.points import judge
from grader.adapters.result import AdapterResult
from grader.adapters.run import AdapterGrader, EvaluationError
from grader.adapters.store import AdapterStore
from grader.adapters.worker import Worker, WorkerDiedError, answer_to
from grader.sandbox.channel import Channel
from grader.syllabus import AdapterTask, Lesson, Threshold

SEED = 987654321987
GIB = 2**30
TASK = AdapterTask("tiny_adapters:BREAKABLE", (Threshold("seen", 0.5, 2), Threshold("heldout", 0.5, 3)))
LESSON = Lesson("l09_qlora", "QLoRA", minutes=1, run_minutes=1, adapter=TASK)
IDS = torch.tensor([[1, 5, 9, 40, 2]])


@pytest.mark.parametrize("kind", ["plain", "rslora", "dora"])
@torch.no_grad()
def test_our_merge_equals_pefts_own_loading_of_a_trained_adapter(kind, tmp_path):
    if kind == "plain":
        model = add_adapter(tiny_llama(), TrainingConfig(rank=4, max_steps=3, batch_size=4, learning_rate=1e-2))
        with torch.enable_grad():
            config = TrainingConfig(rank=4, max_steps=3, batch_size=4, learning_rate=1e-2)
            folder = train(model, tiny_tokenizer(), chats(8), config, tmp_path, progress=False).adapter_folder
    else:
        from peft import LoraConfig, get_peft_model

        options = {"use_rslora": kind == "rslora", "use_dora": kind == "dora", "init_lora_weights": False}
        targets = ["q_proj", "down_proj"]
        model = get_peft_model(tiny_llama(), LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=targets, **options))
        folder = tmp_path
        settings = model.peft_config["default"]
        settings.init_lora_weights = True  # Random values, said to be the usual ones.
        model.save_pretrained(folder)
    wanted = merge_adapter(load_adapter(tiny_llama(), folder))(IDS).logits
    assert not torch.allclose(wanted, tiny_llama()(IDS).logits, atol=1e-3)
    checked = read_adapter(read_folder(folder), LAYERS)
    assert torch.equal(merge_checked_adapter(tiny_llama(), checked)(IDS).logits, wanted)


def test_hidden_questions_are_new_balanced_and_of_the_seed():
    questions = hidden_questions(SEED, per_split=20)
    assert [question.split for question in questions] == ["seen"] * 20 + ["heldout"] * 20
    known = {example.question for split in ("train", "test") for example in load_examples(split)}
    assert not known & {question.question for question in questions}
    assert questions == hidden_questions(SEED, per_split=20)
    assert len({each.question for each in hidden_questions(SEED + 1, 20)} & {each.question for each in questions}) < 5


def answers(correct: Sequence[int], group: str = "seen") -> GroupAnswers:
    return GroupAnswers(group, tuple(map(bool, correct)), {"wrong result": correct.count(0)})


def test_points_need_the_share_and_a_gain_over_the_base():
    task = AdapterTask("", (Threshold("seen", 0.3, 2), Threshold("seen", 0.6, 3)))
    nothing, half, most = [0] * 20, [1, 0] * 10, [1] * 15 + [0] * 5

    def points(after: list[int], before: list[int]) -> float:
        (group,) = judge(task, TINY, [answers(after)], [answers(before)])
        assert (group.max_points, group.questions, group.base_correct) == (5, 20, sum(before))
        return group.points

    assert points(nothing, nothing) == 0
    assert points(half, nothing) == 2
    assert points(most, nothing) == 5
    assert points(most, most) == 0  # A base that can do it already earns nobody points.
    (group,) = judge(task, TINY, [answers(half)], [answers(nothing)])
    assert group.low < 0.5 < group.high and group.low == pytest.approx(0.299, abs=0.001)  # Wilson, n = 20
    assert "seen: 10 of 20 right, 50 % (95 % interval 30 to 70); base model 0; gain 50 points" in group.sentence
    assert group.sentence.endswith("2 of 5 points. Wrong answers: 10 wrong result.")


def cohort(folder: Path) -> Path:
    """Six learners: two whole adapters, a pickle, none at all, values that overflow, and one whose evaluation dies."""
    hand_in(folder / "ada" / "adapter")
    hand_in(folder / "ben" / "09_qlora" / "adapter", weights=b"\x80\x04\x95" + b"x" * 50)
    (folder / "cyd").mkdir()
    hand_in(folder / "dan" / "adapter", {**CONFIG, "lora_alpha": 1e300})
    hand_in(folder / "eve" / "adapter", {**CONFIG, "use_rslora": True})
    hand_in(folder / "fay" / "adapter", {**CONFIG, "lora_alpha": KILL})
    return folder


def grade(
    submissions: Path, out: Path, workers: int = 1, back: bool = False, task: AdapterTask = TASK
) -> dict[str, AdapterResult]:
    done: list[float] = []
    grader = AdapterGrader(
        LESSON, task, AdapterStore(out, LESSON.id), seed=SEED, memory_bytes=2 * GIB, on_progress=done.append
    )
    handed = find_adapters(submissions)
    results = grader.grade_all(handed[::-1] if back else handed, workers)
    assert sum(done) == pytest.approx(len(handed) + 1)
    return {result.learner: result for result in results}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    return root, grade(cohort(root / "in"), root / "out")


def test_one_bad_adapter_costs_only_itself(graded):
    _, results = graded
    assert {learner: result.status for learner, result in results.items()} == {
        "ada": "graded",
        "ben": "refused",
        "cyd": "todo",
        "dan": "refused",
        "eve": "graded",
        "fay": "crashed",
    }
    assert [group.questions for group in results["ada"].groups] == [3, 3]
    assert sum(sum(group.outcomes.values()) + group.correct for group in results["eve"].groups) == 6
    assert "is a pickle" in results["ben"].feedback
    assert "a weight is not finite" in results["dan"].feedback
    assert results["fay"].problem == "the evaluation's process was ended by SIGKILL"


def test_other_order_and_two_workers_give_the_same(graded, tmp_path):
    root, results = graded
    again = grade(root / "in", tmp_path, workers=2, back=True)
    assert {name: result.verdict for name, result in again.items()} == {
        name: result.verdict for name, result in results.items()
    }


def test_nothing_written_or_told_holds_a_hidden_question(graded):
    root, results = graded
    questions = hidden_questions(SEED, TINY.per_split)
    told = [result.feedback for result in results.values()]
    kept = [file.read_text() for file in (root / "out").rglob("*") if file.is_file()]
    assert len(kept) >= len(results)
    for question in questions:
        assert not [text for text in told if question.question in text or question.sql in text or question.id in text]
        assert not [text for text in kept if question.question in text]
    assert not [text for text in told + kept if str(SEED) in text]


def test_a_second_run_uses_what_is_kept(graded, monkeypatch):
    root, results = graded
    asked: list[str] = []
    original = Worker.answer

    def answer(self, files, *rest):
        asked.append("base" if files is None else json.loads(files.config)["lora_alpha"])
        return original(self, files, *rest)

    monkeypatch.setattr(Worker, "answer", answer)
    assert grade(root / "in", root / "out") == results
    assert asked == [KILL]  # What died is tried again, and nothing else; not the base either.


def test_of_a_fault_of_ours_the_instructor_hears_all_and_the_learner_nothing(tmp_path):
    hidden = BREAKABLE.prepare(SEED)
    files = read_folder(hand_in(tmp_path / "adapter", {**CONFIG, "lora_alpha": FAIL}))
    payload, request = files.config + files.tensors, {"config_bytes": len(files.config)}
    reply = answer_to(Channel(-1), hidden, request, payload)
    secret = hidden.hidden.examples[0].sql
    assert reply.keys() == {"failed"} and secret in reply["failed"]
    result = AdapterResult("ada", LESSON.id, "crashed", 5, "v", problem=reply["failed"])
    assert secret not in result.feedback and "instructor" in result.feedback


def test_a_changed_file_seed_or_threshold_is_graded_anew(graded, tmp_path):
    root, results = graded
    store = AdapterStore(root / "out", LESSON.id)
    kept = results["ada"]
    assert store.fresh("ada", kept.sha256, kept.version) == kept
    assert store.fresh("ada", "0" * 64, kept.version) is None
    harder = AdapterTask(TASK.evaluation, TASK.thresholds[:1])
    versions = {
        AdapterGrader(LESSON, task, store, seed=seed, memory_bytes=GIB).version
        for task, seed in ((TASK, SEED), (TASK, SEED + 1), (harder, SEED))
    }
    assert len(versions) == 3 and kept.version in versions
    store.files.path("ada").write_text('{"learner": "ad')
    assert store.fresh("ada", kept.sha256, kept.version) is None
    store.save(kept)
    assert AdapterResult.from_dict(kept.to_dict()) == kept


def test_an_evaluation_that_hangs_or_eats_memory_is_stopped(tmp_path):
    worker = Worker("tiny_adapters:BREAKABLE", SEED, 2 * GIB)
    try:
        worker.prepare()
        files = read_folder(hand_in(tmp_path / "hang", {**CONFIG, "lora_alpha": HANG}))
        with pytest.raises(WorkerDiedError, match="stopped after 1 s"):
            worker.answer(files, 1.0, lambda _: None)
        assert worker.process.wait(10) == -9
    finally:
        worker.close()
    worker = Worker("tiny_adapters:EATING", SEED, GIB)
    try:
        with pytest.raises(WorkerDiedError, match=r"stopped at \d\.\d GiB of memory; 1 are allowed"):
            worker.prepare()
    finally:
        worker.close()


def test_a_base_model_that_cannot_be_evaluated_stops_the_run(tmp_path):
    hand_in(tmp_path / "in" / "ada" / "adapter")
    task = AdapterTask("tiny_adapters:BROKEN", TASK.thresholds)
    with pytest.raises(EvaluationError, match=r"base model could not be evaluated.*no base model here"):
        grade(tmp_path / "in", tmp_path / "out", task=task)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs `grader grade-adapters` on a tiny course whose second lesson asks for an adapter."""
    folder = tmp_path_factory.mktemp("course")
    spec = copy_course(folder, name="tiny_with_adapter")
    file = folder / "tiny_with_adapter" / "__init__.py"
    lesson = '"Tensors", minutes=5, run_minutes=0.1, needs=("l01_plain",)'
    text = file.read_text()
    assert text.count(lesson) == 1
    text = text.replace(lesson, f"{lesson}, adapter=ADAPTER").replace(
        "import Course, Lesson, Module", "import AdapterTask, Course, Lesson, Module, Threshold"
    )
    declared = 'ADAPTER = AdapterTask("tiny_adapters:BREAKABLE", (Threshold("seen", 0.5, 2),))'
    file.write_text(text.replace("\nCOURSE = ", f"\n{declared}\nCOURSE = "))
    fixtures = str(Path(__file__).parent / "fixtures")
    environment = {**os.environ, "GRADER_COURSE": spec, "COLUMNS": "200"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), fixtures, os.environ.get("PYTHONPATH", "")])

    def arguments(*more: str | Path) -> list[str]:
        return [sys.executable, "-m", "grader.cli", "grade-adapters", *map(str, more)]

    return arguments, environment


def run(command, *more: str | Path) -> subprocess.CompletedProcess[str]:
    arguments, environment = command
    return subprocess.run(arguments(*more), env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_writes_results_a_table_and_a_secret_seed(command, tmp_path):
    submissions = tmp_path / "in"
    hand_in(submissions / "ada" / "adapter")
    hand_in(submissions / "ben" / "adapter")
    hand_in(submissions / "cyd" / "adapter", b"[]")
    out = tmp_path / "out"
    done = run(command, submissions, "--lesson", "02_torch", "--out", out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "cyd: adapter_config.json holds a list" in done.stdout
    assert "the very same files from ada, ben" in done.stdout
    assert "base model" in done.stdout and "3 results in" in done.stdout
    seed = out / "seed"
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert seed.read_text().strip() not in done.stdout + done.stderr
    rows = list(csv.DictReader((out / "l02_torch-adapters" / "adapters.csv").open()))
    assert [(row["learner"], row["status"]) for row in rows] == [
        ("ada", "graded"),
        ("ben", "graded"),
        ("cyd", "refused"),
    ]
    assert rows[0]["seen_questions"] == rows[0]["heldout_questions"] == "3" and rows[0]["max_points"] == "2"
    assert {**rows[0], "learner": ""} == {**rows[1], "learner": ""}


def test_the_command_says_what_is_wrong_with_its_input(command, tmp_path):
    said = run(command, tmp_path / "nowhere", "--lesson", "02_torch", "--out", tmp_path / "out")
    assert said.returncode == 1 and "nowhere is no folder" in said.stderr
    (tmp_path / "in").mkdir()
    said = run(command, tmp_path / "in", "--lesson", "02_torch", "--out", tmp_path / "out")
    assert said.returncode == 1 and "LEARNER/adapter/adapter_config.json" in said.stderr
    said = run(command, tmp_path / "in", "--lesson", "01_plain", "--out", tmp_path / "out")
    assert said.returncode == 1 and "l01_plain asks for no adapter" in said.stderr and "l02_torch" in said.stderr


def test_a_stopped_run_ends_its_processes(tmp_path):
    hand_in(tmp_path / "in" / "ada" / "adapter", {**CONFIG, "lora_alpha": HANG})
    store = AdapterStore(tmp_path / "out", LESSON.id)
    grader = AdapterGrader(LESSON, TASK, store, seed=SEED, memory_bytes=2 * GIB)
    raised: list[BaseException] = []

    def grade_here() -> None:
        try:
            grader.grade_all(find_adapters(tmp_path / "in"), 1)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=grade_here)
    thread.start()
    deadline = time.monotonic() + 200
    while store.base(grader.version) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    processes = [worker.process for worker in (*grader.workers.lent, *grader.workers.idle)]
    grader.workers.stop()
    thread.join(30)
    assert not thread.is_alive() and isinstance(raised[0], WorkerDiedError)
    assert processes and all(process.wait(10) == -9 for process in processes)
    assert not store.files.path("ada").exists()  # Stopping is no verdict.


def test_a_learner_can_try_the_same_checks(tmp_path):
    base = tiny_llama()
    assert adapter_problem(hand_in(tmp_path / "good"), base) is None
    assert "from 1 to" in adapter_problem(hand_in(tmp_path / "bad", {**CONFIG, "r": 0}), base)


@pytest.mark.slow
def test_an_adapter_that_changes_nothing_answers_exactly_as_the_base(tmp_path, monkeypatch):
    """On the real model; with a small random B as the control."""
    monkeypatch.setattr(hidden_set, "MAX_NEW_TOKENS", 16)
    hidden = SqlEvaluation(EVALUATION.load_base, per_split=1).prepare(SEED)
    assert len(hidden.layers) == 210
    base = hidden.texts(None, lambda _: None)
    for factor in (0.0, 0.02):
        random = torch.Generator().manual_seed(1)
        weights = {}
        for layer, (outputs, inputs) in hidden.layers.items():
            if layer.endswith("q_proj"):
                weights[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(2, inputs, generator=random)
                weights[f"base_model.model.{layer}.lora_B.weight"] = factor * torch.randn(outputs, 2, generator=random)
        config = {**CONFIG, "target_modules": ["q_proj"]}
        folder = hand_in(tmp_path / str(factor), config, to_bytes(weights))
        adapter = read_adapter(read_folder(folder), hidden.layers)
        assert (hidden.texts(adapter, lambda _: None) == base) == (factor == 0)


def test_the_table_of_adapters_holds_no_formulas(tmp_path):
    result = AdapterResult("=ada", LESSON.id, "refused", 5, "", problem="@SUM(1)")
    with AdapterStore(tmp_path, LESSON.id).write_table([result]).open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["learner"], row["problem"]) == ("'=ada", "'@SUM(1)")

"""Evaluations through lm-eval: equal to the own scorer, resumed after a kill, never answered by another model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import tiny_llama, tiny_tokenizer

from course.evaluation import EvaluationError, evaluate, scored_items, weights_digest
from course.evaluation.documents import sql_result
from course.lessons.l17_metrics.choice_accuracy import choice_accuracy
from course.lessons.l17_metrics.encode_pair import encode_pair
from course.lessons.l17_metrics.few_shot_request import few_shot_request
from course.lessons.l17_metrics.loglikelihood import loglikelihood
from course.lessons.l17_metrics.task_yaml import task_yaml
from course.quiz import load_quiz
from course.quiz.items import DATA_FOLDER
from course.sql import load_examples

ITEMS = 12
ROWS = 44  # of 48 requests: choices that differ in their last token only are read once


class Counted:
    """How many rows a model was given; after `until` forward passes it dies by `death`."""

    def __init__(self, model: Any, until: int = 10**9, death: Any = None) -> None:
        self.rows, self.left = 0, until
        model.register_forward_pre_hook(self._hook, with_kwargs=True)
        self.death = death

    def _hook(self, module: Any, given: tuple, options: dict) -> None:
        if self.left == 0:
            self.death()
        self.left -= 1
        self.rows += len(options.get("input_ids", given[0] if given else ()))


def interrupt() -> None:
    raise KeyboardInterrupt


def ask_quiz(model: Any, folder: Path, **options: Any) -> Any:
    return evaluate(model, tiny_tokenizer(), ["quiz"], folder, items={"quiz": range(ITEMS)}, batch_size=4, **options)


def own_accuracy(model: Any, tokenizer: Any, items: list) -> dict[str, float]:
    pairs = [(f"Question: {item.question}\nAnswer:", f" {choice}") for item in items for choice in item.choices]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    requests = [encode_pair(*pair, encode, tokenizer.bos_token_id) for pair in pairs]
    sums = [total for total, _ in loglikelihood(model, requests)]
    return choice_accuracy(
        [
            {"choices": list(item.choices), "loglikelihoods": sums[4 * n : 4 * n + 4], "gold": item.answer}
            for n, item in enumerate(items)
        ]
    )


def test_the_harness_gives_the_number_of_the_own_scorer(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    files = {split: str(DATA_FOLDER / f"{split}.jsonl") for split in ("test", "dev")}
    (tmp_path / "tasks" / "mine.yaml").write_text(task_yaml("mine", files))
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    run = evaluate(
        model, tokenizer, ["mine"], tmp_path / "run", items={"mine": range(ITEMS)}, tasks_folder=tmp_path / "tasks"
    )
    mine = own_accuracy(model, tokenizer, load_quiz()[:ITEMS])
    assert {name: run.score("mine", name) for name in mine} == mine
    with pytest.raises(KeyError, match="no metric 'f1' for 'mine'; there are acc, acc_bytes, acc_norm"):
        run.score("mine", "f1")


@pytest.mark.slow
def test_own_loglikelihood_equals_the_harness_on_the_real_model() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from course.base_model import load_base_model

    model, tokenizer = load_base_model(dtype="float32", device="cpu")
    item = load_quiz()[1]
    pairs = [(f"Question: {item.question}\nAnswer:", f" {choice}") for choice in item.choices]
    pairs += [("Answer: ", "a cork"), ("", "The sea is blue.")]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    mine = loglikelihood(model, [encode_pair(*pair, encode, tokenizer.bos_token_id) for pair in pairs])
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    theirs = harness.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    for (total, greedy), (wanted, wanted_greedy) in zip(mine, theirs, strict=True):
        assert total == pytest.approx(wanted, abs=1e-3)
        assert greedy == wanted_greedy


def test_an_interrupted_evaluation_asks_only_what_is_left(tmp_path: Path) -> None:
    model = tiny_llama()
    with_kill = Counted(model, until=7, death=interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask_quiz(model, tmp_path)
    assert with_kill.rows == 7 * 4
    again = tiny_llama()
    second = Counted(again)
    run = ask_quiz(again, tmp_path)
    assert second.rows == ROWS - 7 * 4
    whole = ask_quiz(tiny_llama(), tmp_path / "another")
    assert run.results["results"] == whole.results["results"]
    third = tiny_llama()
    nothing = Counted(third)
    ask_quiz(third, tmp_path)
    assert nothing.rows == 0


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_l17_harness import Counted, ask_quiz, tiny_llama
model = tiny_llama()
Counted(model, until=9, death=lambda: os.kill(os.getpid(), signal.SIGKILL))
ask_quiz(model, Path(sys.argv[1]))
"""


def test_a_killed_process_has_kept_its_answers(tmp_path: Path) -> None:
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(here), str(here / "fixtures")], env=os.environ
    )
    assert run.returncode == -signal.SIGKILL
    model = tiny_llama()
    left = Counted(model)
    ask_quiz(model, tmp_path)
    # The cache writes in a thread of its own, so the very last batches before a SIGKILL may be missing.
    assert ROWS - 9 * 4 <= left.rows < ROWS


def test_another_model_in_the_same_folder_is_asked_itself(tmp_path: Path) -> None:
    ask_quiz(tiny_llama(0), tmp_path)
    other = tiny_llama(1)
    asked = Counted(other)
    ask_quiz(other, tmp_path)
    assert asked.rows == ROWS
    assert weights_digest(tiny_llama(0)) == weights_digest(tiny_llama(0)) != weights_digest(other)
    assert weights_digest(tiny_llama(0)) != weights_digest(tiny_llama(0).bfloat16())


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_sent_is_what_the_exercise_builds(tmp_path: Path, chat: bool) -> None:
    tokenizer = tiny_tokenizer()
    run = evaluate(tiny_llama(), tokenizer, ["quiz"], tmp_path, shots=2, chat=chat, items={"quiz": [3]}, batch_size=4)
    (sample,) = map(json.loads, run.sample_files["quiz"].read_text().splitlines())
    item, *shots = (
        {"question": one.question, "choices": list(one.choices), "answer": one.answer}
        for one in (load_quiz()[3], *load_quiz("dev")[:2])
    )

    def render(messages: list, add_generation_prompt: bool) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)

    wanted = few_shot_request(item, shots, "", render if chat else None)
    sent = [sample["arguments"][f"gen_args_{n}"] for n in range(4)]
    assert [one["arg_0"] for one in sent] == [wanted["context"]] * 4
    assert [one["arg_1"] for one in sent] == wanted["continuations"]


def test_sql_is_judged_by_its_result() -> None:
    example = load_examples("test")[0]
    document = {"sql": example.sql, "schema": example.schema}
    assert sql_result(document, [f"```sql\n{example.sql};\n```"]) == {"executed": 1.0}
    assert sql_result(document, ["SELECT 'nothing'"]) == {"executed": 0.0}


def test_generated_queries_are_kept_and_read_back(tmp_path: Path) -> None:
    run = evaluate(
        tiny_llama(), tiny_tokenizer(), ["sql"], tmp_path, chat=True, system="SQLite", items={"sql": [300, 0]}
    )
    items = scored_items("sql", run.sample_files["sql"])
    examples = load_examples("test")
    assert items["id"].to_list() == [examples[0].id, examples[300].id]
    assert not items["correct"].any()
    assert (items["error"] != "").all()
    assert run.results["system_instruction"] == "SQLite"


def test_unknown_task_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no task quizz in .*; there is quiz, sql"):
        evaluate(None, None, ["quizz"], tmp_path)


def test_a_result_that_cannot_be_written_is_no_silent_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, *given: Any, **options: Any) -> int:
        if path.name.startswith("results_"):
            raise OSError("no space left on device")
        return write(path, *given, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EvaluationError, match=r"quiz could not be written to .* Is the disk full"):
        ask_quiz(tiny_llama(), tmp_path)

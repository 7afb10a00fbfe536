"""The lesson's adapter put to the test: hidden SQL questions of an instructor's secret seed, answers executed.

All adapters are merged onto the decoded 4-bit weights in float32, as in section 8 of the lesson, and asked in the
training format. The base model is asked the same way.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course.base_model import base_model_folder
from course.device import device_profile
from course.lessons.l09_qlora.merging import decoded_model
from course.lessons.l09_qlora.run import SEED, conversations
from course.sql import SqlExample, bootstrap_interval, score_all
from course.sql.examples import example_from_row
from course.sql.generate import Generator
from course.sql.schemas import DATA_FOLDER
from grader.adapters.evaluation import Adapter, GroupAnswers, read_adapter
from grader.adapters.folder import AdapterRefusedError, read_folder

SPLITS = ("seen", "heldout")
QUESTIONS_PER_SPLIT = 60
MAX_NEW_TOKENS = 64
ROWS_AT_ONCE = 30
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")
COURSE = Path(__file__).resolve().parents[2]


def hidden_questions(seed: int, per_split: int = QUESTIONS_PER_SPLIT) -> list[SqlExample]:
    """The same number on seen and on held-out schemas, in that order. No question of the training or test set."""
    # Not the secret itself: whoever guesses it from a leaked set could make every other hidden case of the course.
    own_seed = int.from_bytes(hashlib.sha256(f"{seed} l09 adapter".encode()).digest()[:8])
    found: dict[str, list[SqlExample]] = {split: [] for split in SPLITS}
    for row, _ in Generator(own_seed, "hidden").rows(sys.maxsize):
        if len(found[row["split"]]) < per_split:
            found[row["split"]].append(example_from_row(row))
        if all(len(questions) == per_split for questions in found.values()):
            break
    return [question for split in SPLITS for question in found[split]]


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer that an adapter may sit on: all but the head, as in peft's all-linear."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and layer is not head
    }


def adapter_problem(folder: Path | str, base_model: Any) -> str | None:
    """Why an adapter would not be graded, or None: the very checks of the official evaluation. base_model: plain."""
    try:
        read_adapter(read_folder(Path(folder)), linear_layers(base_model))
    except AdapterRefusedError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class SqlHiddenSet:
    """A base model and hidden questions, loaded. The base is copied for each adapter, and so never changed."""

    model: Any
    tokenizer: Any
    examples: Sequence[SqlExample]

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """Linear layer -> (outputs, inputs)."""
        return linear_layers(self.model)

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.examples)

    def answer(self, adapter: Adapter | None, on_answered: Callable[[int], object]) -> list[GroupAnswers]:
        """Right and wrong answers by split. Raises AdapterRefusedError when the model computes no finite numbers."""
        scores = score_all(self.texts(adapter, on_answered), self.examples)
        groups = []
        for split in SPLITS:
            mine = [score for score, example in zip(scores, self.examples, strict=True) if example.split == split]
            wrong = Counter(score.outcome for score in mine if not score.correct)
            groups.append(GroupAnswers(split, tuple(score.correct for score in mine), dict(wrong.most_common())))
        return groups

    def texts(self, adapter: Adapter | None, on_answered: Callable[[int], object]) -> list[str]:
        """What the model says to each question, greedily, always in the same batches."""
        from course.generation import generate_batch
        from course.training import merge_checked_adapter

        model = self.model if adapter is None else merge_checked_adapter(copy.deepcopy(self.model), adapter)
        prompts = conversations(self.examples, "tuned")
        texts = [""] * len(prompts)
        by_length = sorted(range(len(prompts)), key=lambda index: len(str(prompts[index])))
        watch = model.register_forward_hook(_refuse_what_is_not_finite)
        try:
            for start in range(0, len(by_length), ROWS_AT_ONCE):
                chosen = by_length[start : start + ROWS_AT_ONCE]
                asked = [prompts[index] for index in chosen]
                answers = generate_batch(model, self.tokenizer, asked, MAX_NEW_TOKENS, ROWS_AT_ONCE, progress=False)
                for index, text in zip(chosen, answers, strict=True):
                    texts[index] = text
                on_answered(len(chosen))
        finally:
            watch.remove()
        return texts


@dataclass(frozen=True)
class SqlEvaluation:
    """What `grader grade-adapters` asks for. load_base() -> (plain model, tokenizer)."""

    load_base: Callable[[], tuple[Any, Any]] = lambda: decoded_model("float32")
    per_split: int = QUESTIONS_PER_SPLIT

    def version(self) -> str:
        """Of the code, the data, the packages, the base model and the kind of device."""
        digest = hashlib.sha256(f"{self.per_split} {base_model_folder()} {device_profile().device}".encode())
        for name in PACKAGES:
            digest.update(f"{name} {version(name)}".encode())
        for file in _sources():
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def prepare(self, seed: int) -> SqlHiddenSet:
        """Load the base model and draw the questions."""
        model, tokenizer = self.load_base()
        return SqlHiddenSet(model.eval(), tokenizer, hidden_questions(seed, self.per_split))

    def gain_interval(self, after: Sequence[bool], before: Sequence[bool]) -> tuple[float, float]:
        """Paired bootstrap, 95 %."""
        return bootstrap_interval(after, SEED, before=before)


EVALUATION = SqlEvaluation()


def _sources() -> Iterator[Path]:
    """Every file that the questions, the answers or the scores come from."""
    yield from sorted(Path(__file__).parent.glob("*.py"))
    yield from sorted((COURSE / "sql").glob("*.py"))
    yield from (COURSE / "generation.py", COURSE / "base_model.py", COURSE / "training" / "adapters.py")
    yield from sorted(file for file in DATA_FOLDER.rglob("*.json*") if file.is_file())


def _refuse_what_is_not_finite(module: Any, inputs: Any, output: Any) -> None:
    if not output.logits.isfinite().all():
        raise AdapterRefusedError(
            "the model's outputs are not finite with this adapter; its values are too large: lower lora_alpha or the "
            "learning rate and train again"
        )

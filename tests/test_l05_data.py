"""What lesson L05 says of the libraries and of the course's own data, so that a change in either is noticed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest

from course.lessons.l05_data.assistant_labels import (
    END_OF_A_WRITTEN_ROW,
    assistant_labels,
    by_regular_expression,
    rows_of_other_templates,
    written_row,
)
from course.lessons.l05_data.chats import bundled_tokenizer
from course.lessons.l05_data.pad_batch import pad_batch
from course.lessons.l05_data.training_template import training_template
from course.sql import load_examples, to_messages
from course.training.encoding import encode

pytestmark = pytest.mark.slow


def rows(count: int) -> list[dict[str, list[int]]]:
    tokenizer = bundled_tokenizer()
    header = tokenizer("<|im_start|>assistant\n")["input_ids"]
    made = []
    for example in load_examples("train")[:count]:
        ids = tokenizer.apply_chat_template(to_messages(example), return_dict=True)["input_ids"]
        made.append({"input_ids": ids, "labels": assistant_labels(ids, header, tokenizer.eos_token_id)})
    return made


def test_labels_equal_those_of_the_training_toolkit() -> None:
    """Two implementations that share no line; the toolkit leaves off the newline after the last end token."""
    for row, example in zip(rows(200), load_examples("train"), strict=False):
        encoded = encode(to_messages(example), bundled_tokenizer(), 512)
        assert list(encoded.input_ids) == row["input_ids"][:-1]
        assert list(encoded.labels) == row["labels"][:-1]


@pytest.mark.parametrize("answer", [assistant_labels, by_regular_expression])
def test_rows_of_other_templates_are_labelled_as_they_are_written(answer: Callable[..., list[int]]) -> None:
    """The oracle searches such a row, and the learner's process gets it without its brackets; so the brackets count."""
    for _, _, header, text in rows_of_other_templates(random.Random(1)):
        ids, labels = written_row(text)
        assert answer(ids, header, END_OF_A_WRITTEN_ROW) == labels


def test_the_default_collator_hides_every_end_token_and_ours_none() -> None:
    from transformers import DataCollatorForLanguageModeling

    tokenizer, batch = bundled_tokenizer(), rows(8)
    theirs = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": row["input_ids"]} for row in batch])
    ours = pad_batch(batch, tokenizer.pad_token_id)
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end
    assert not (theirs["labels"] == end).any()
    assert (ours["labels"] == end).sum() == 8


def test_trl_still_has_no_training_template_for_the_base_model() -> None:
    from trl.chat_template_utils import get_training_chat_template

    with pytest.raises(ValueError, match="not training-compatible"):
        get_training_chat_template(bundled_tokenizer())


def test_trl_takes_the_lessons_template_as_it_is() -> None:
    from trl.chat_template_utils import get_training_chat_template, is_chat_template_stop_token_trained

    tokenizer = copy.deepcopy(bundled_tokenizer())
    tokenizer.chat_template = training_template()
    assert get_training_chat_template(tokenizer) is None
    assert is_chat_template_stop_token_trained(tokenizer)

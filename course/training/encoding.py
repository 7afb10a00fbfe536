"""From chat messages to token ids and labels, with the loss on the assistant's answers only.

Each conversation is cut where the model takes over: the prompt up to and including the chat template's
"assistant, your turn", and the answer up to and including its end-of-turn token. The pieces are tokenised apart, so
that no token spans the border and training sees exactly what generation will: a prompt's tokens, then the answer's.

The end-of-turn token keeps its label. SmolLM2 pads with that same token, and a collator that hides padding by token id
(transformers' DataCollatorForLanguageModeling does) would hide it too, and the model would never learn to stop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IGNORED = -100  # the label that torch's cross-entropy skips

Messages = Sequence[Mapping[str, str]]


class EncodingError(ValueError):
    """A row cannot be trained on. The message says what is wrong with it."""


class RowTooLongError(EncodingError):
    """A row has more tokens than max_length, so cutting it would cut its answer."""


@dataclass(frozen=True)
class Encoded:
    """One conversation: `input_ids` (T,) and `labels` (T,), IGNORED except on answers and their end tokens."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def answer_tokens(self) -> int:
        """How many tokens the loss counts. The first token has no predecessor to predict it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class EncodedRows:
    """The rows that can be trained on, and how many were too long."""

    rows: tuple[Encoded, ...]
    dropped: int


def encode(messages: Messages, tokenizer: Any, max_length: int) -> Encoded:
    """Token ids and labels of one conversation, every assistant turn labelled.

    Raises EncodingError where there is no answer, or the chat template does not render turn by turn or does not end an
    answer with a special token; RowTooLongError where it has more than `max_length` tokens.
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise EncodingError('it has no message with role "assistant", so there is no answer to learn')
    input_ids: list[int] = []
    labels: list[int] = []
    rendered = ""
    for turn in turns:
        if not messages[turn]["content"].strip():
            raise EncodingError(f"message {turn} is an empty answer")
        prompt = _render(tokenizer, messages[:turn], add_generation_prompt=True)
        through_answer = _render(tokenizer, messages[: turn + 1])
        if not (prompt.startswith(rendered) and through_answer.startswith(prompt)):
            raise EncodingError(
                f"the chat template renders the messages before message {turn} differently once it is there, so where "
                "the answer begins is not defined; use a template that only appends, or one answer per row"
            )
        answer = through_answer[len(prompt) :].rstrip()
        prompt_ids = _tokenize(tokenizer, prompt[len(rendered) :])
        answer_ids = _tokenize(tokenizer, answer)
        if answer_ids[-1] not in tokenizer.all_special_ids:
            raise EncodingError(
                f"the chat template ends an answer with {tokenizer.decode(answer_ids[-1])!r}, not a special token, "
                "so the model could not learn to stop; correct the template"
            )
        input_ids += prompt_ids + answer_ids
        labels += [IGNORED] * len(prompt_ids) + answer_ids
        rendered = prompt + answer
    if len(input_ids) > max_length:
        raise RowTooLongError(f"it has {len(input_ids)} tokens and max_length is {max_length}")
    return Encoded(tuple(input_ids), tuple(labels))


def encode_rows(rows: Iterable[Mapping[str, Any] | Messages], tokenizer: Any, max_length: int) -> EncodedRows:
    """Encode every row: a list of messages, or a mapping that holds one under "messages".

    Rows over `max_length` are left out, counted and warned of. Raises EncodingError, naming the row, for any other bad
    row, and where no row is left.
    """
    encoded: list[Encoded] = []
    dropped = 0
    for number, row in enumerate(rows):
        messages = row["messages"] if isinstance(row, Mapping) else row
        try:
            encoded.append(encode(messages, tokenizer, max_length))
        except RowTooLongError:
            dropped += 1
        except EncodingError as error:
            raise EncodingError(f"Row {number} (counted from 0) cannot be used: {error}.") from error
    if not encoded:
        reason = f"all {dropped} have more than max_length={max_length} tokens" if dropped else "none were given"
        raise EncodingError(f"There are no rows to train on: {reason}.")
    if dropped:
        warnings.warn(
            f"{dropped} of {dropped + len(encoded)} rows have more than {max_length} tokens and are left out; "
            "raise max_length to keep them.",
            stacklevel=2,
        )
    return EncodedRows(tuple(encoded), dropped)


def _render(tokenizer: Any, messages: Messages, add_generation_prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]

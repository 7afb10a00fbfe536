"""SmolLM2's tokenizer as plain data and as the library runs it: the truth that this lesson's checks ask.

It is always the bundled model's, whatever COURSE_MODEL says, because the lesson quotes its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from course.lessons.l01_tokens.byte_level import split_words, to_symbols
from course.model_conversion import ensure_converted
from course.model_source import bundled_source

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def smollm_folder() -> Path:
    """The bundled model's converted folder, with its tokenizer.json."""
    return ensure_converted(bundled_source())


@lru_cache(maxsize=1)
def smollm_tokenizer() -> Any:
    """SmolLM2's tokenizer as transformers loads it, chat template included."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm_folder())


@lru_cache(maxsize=1)
def smollm_bpe() -> Any:
    """SmolLM2's tokenizers.Tokenizer, without transformers around it."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(smollm_folder() / "tokenizer.json"))


@lru_cache(maxsize=1)
def smollm_merges() -> tuple[list[tuple[str, str]], dict[str, int]]:
    """(merges, the earliest learned first; vocab, token -> id): what tokenizer.json holds."""
    model = json.loads((smollm_folder() / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    return [(left, right) for left, right in model["merges"]], model["vocab"]


def merges_for(texts: Iterable[str]) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The part of SmolLM2's merges and vocabulary that can play a role in these texts: a few hundred of 48,900.

    A merge plays a role only if what it makes stands in a word, so leaving out the others changes no id.
    """
    merges, vocab = smollm_merges()
    words = {to_symbols(word.encode()) for text in texts for word in split_words(text)}
    pieces = {word[i:j] for word in words for i in range(len(word)) for j in range(i + 1, len(word) + 1)}
    kept = [pair for pair in merges if "".join(pair) in pieces]
    return kept, {token: vocab[token] for token in vocab if token in pieces or token in SPECIAL}


def library_tokenizer(merges: Sequence[tuple[str, str]], vocab: dict[str, int], special: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer of the tokenizers library, set up as SmolLM2's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer: Any = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer

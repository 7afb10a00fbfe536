"""Chats for this lesson's checks, and the bundled model's tokenizer that renders them.

The checks ask for SmolLM2's template and tokens, so they use the bundled tokenizer whatever COURSE_MODEL names.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

Messages = list[dict[str, str]]

WORDS = ("room", "ticket", "price", "the", "cheapest", "of", "every", "hotel", "counts", "café", "naïve", "3", "2024")
SAMPLE_ENDS = ("", "?", ".", " 🙂", " 日本", "\n- one\n- two")


@cache
def bundled_tokenizer() -> Any:
    """SmolLM2's tokenizer with its chat template; converted on first use."""
    from transformers import AutoTokenizer

    from course.model_conversion import ensure_converted
    from course.model_source import bundled_source

    return AutoTokenizer.from_pretrained(ensure_converted(bundled_source(), lambda stage: None))


def message(role: str, words: random.Random) -> dict[str, str]:
    """One message of a few random words, without white space at either end."""
    text = " ".join(words.choice(WORDS) for _ in range(words.randint(1, 6)))
    return {"role": role, "content": text + words.choice(SAMPLE_ENDS)}


def chat(roles: str, words: random.Random) -> Messages:
    """A chat from its roles in short: "sua" is system, user, assistant; "t" is a tool's answer."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [message(names[role], words) for role in roles]

"""Small pieces of wording: values as SQL and as people write them, and verbs."""

from __future__ import annotations

import random

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
SMALL_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

Phrasings = dict[str, tuple[str, ...]]


def sql_literal(value: object) -> str:
    """A value as SQLite writes it: text quoted, whole numbers without a decimal point."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def said_number(value: float, rng: random.Random, words: bool = False, year: bool = False) -> str:
    """A number as a person may write it: now and then with thousands commas or as a word."""
    plain = sql_literal(value)
    if words and plain.isdigit() and int(plain) <= 10 and rng.random() < 0.4:
        return SMALL_NUMBERS[int(plain)]
    if not year and plain.isdigit() and int(plain) >= 1000 and rng.random() < 0.2:
        return f"{int(plain):,}"
    return plain


def verb_form(after: str) -> str:
    """Turn `published after 1990` into `were published after 1990`, `who joined` into `joined`."""
    first, _, rest = after.partition(" ")
    if first in ("who", "that"):
        return rest
    if first == "with":
        return f"have {rest}"
    return f"are {after}" if first.endswith("ing") or first == "due" else f"were {after}"


def negate(verb: str) -> str:
    """`are on the basic plan` -> `are not on the basic plan`; `run on gas` -> `do not run on gas`."""
    first, _, rest = verb.partition(" ")
    if first in ("are", "were"):
        return f"{first} not {rest}"
    past = {"came": "come", "took": "take", "had": "have", "went": "go", "involved": "involve", "called": "call"}
    if first in past or first.endswith("ed"):
        return f"did not {past.get(first, first)} {rest}" if first in past else f"were not {verb}"
    return f"do not {verb}"

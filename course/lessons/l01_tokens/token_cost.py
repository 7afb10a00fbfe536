"""What a text costs in tokens: the measure behind prices, speed and how much fits into a window.

One worked number: this lesson's notice takes 30 SmolLM2 tokens in English and 171 in Hindi, so the same
content costs 5.7 times as much.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from course.lessons.l01_tokens.smollm import library_tokenizer, merges_for, smollm_bpe
from course.lessons.l01_tokens.texts import NOT_PROSE, NOTICE
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-token-cost",
    title="What a text costs in tokens",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="extension",
    skills=("tokenisation",),
    hints=(
        "Encode each text once. Everything else is three lengths and three divisions.",
        "Characters are what len(text) counts; bytes are those of the text in UTF-8.",
    ),
    forbidden=("tokenizers", "transformers", "course.base_model", "course.lessons.l01_tokens.smollm"),
    library_note="Bytes for each token is the fairer measure across scripts, and the one to use when losses of models "
    "with different tokenizers are compared: loss per token means nothing there, bits per byte does.",
    interview="Why is a model slower and more expensive in some languages, and what can be done?",
)

Encode = Callable[[str], list[int]]
Cost = dict[str, dict[str, float]]


@exercise.reference
def token_cost(texts: dict[str, str], encode: Callable[[str], list[int]], baseline: str) -> dict[str, dict[str, float]]:
    """Token counts of several texts, and what they mean.

    texts: name -> text. encode: text -> token ids, without special tokens. baseline: one of the names; its text has at
        least one token.
    Returns, for each name, in the order of `texts`, a dictionary:
        "tokens": the number of tokens (7 and 7.0 are both fine);
        "characters_per_token": characters (len(text)) divided by tokens;
        "bytes_per_token": bytes of the text in UTF-8 divided by tokens;
        "times_baseline": tokens divided by the tokens of texts[baseline].
    Nothing is stripped or rounded. A text without tokens (the empty one, or one of characters that encode leaves out)
    has 0.0 for characters_per_token and bytes_per_token, and for times_baseline.
    Example: texts {"word": "né", "empty": ""}, baseline "word", and an encode that makes one token of each character:
        {"word": {"tokens": 2, "characters_per_token": 1.0, "bytes_per_token": 1.5, "times_baseline": 1.0},
         "empty": {"tokens": 0, "characters_per_token": 0.0, "bytes_per_token": 0.0, "times_baseline": 0.0}}
    """
    counts = {name: len(encode(text)) for name, text in texts.items()}
    table: dict[str, dict[str, float]] = {}
    for name, text in texts.items():
        tokens = counts[name]
        table[name] = {
            "tokens": tokens,
            "characters_per_token": len(text) / tokens if tokens else 0.0,
            "bytes_per_token": len(text.encode()) / tokens if tokens else 0.0,
            "times_baseline": tokens / counts[baseline],
        }
    return table


@exercise.alternative
def by_table_rows(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    import numpy as np

    lengths = np.array([[len(encode(t)), len(t), len(t.encode("utf-8"))] for t in texts.values()], dtype=float)
    tokens = lengths[:, 0]
    quotients = lengths[:, 1:] / np.maximum(tokens, 1)[:, None] * (tokens > 0)[:, None]
    times = tokens / tokens[list(texts).index(baseline)]
    names = ("tokens", "characters_per_token", "bytes_per_token", "times_baseline")
    rows = zip(tokens.astype(int).tolist(), *quotients.T.tolist(), times.tolist(), strict=True)
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(texts, rows, strict=True)}


def costs(
    texts: dict[str, str],
    encode: Encode,
    baseline: str,
    size: Callable[[str, Encode], int] = lambda text, encode: len(encode(text)),
    characters: Callable[[str], int] = len,
    upside_down: bool = False,
) -> Cost:
    """The table that the misconceptions vary."""
    table: Cost = {}
    for name, text in texts.items():
        tokens, lengths = size(text, encode), (characters(text), len(text.encode()))
        first, second = (
            (tokens / n if n else 0.0) if upside_down else (n / tokens if tokens else 0.0) for n in lengths
        )
        times = tokens / size(texts[baseline], encode)
        table[name] = {
            "tokens": tokens,
            "characters_per_token": first,
            "bytes_per_token": second,
            "times_baseline": times,
        }
    return table


@exercise.misconception(
    hint="You count words. A word is one token only if the tokenizer learned it whole; long or foreign words take "
    "many, and Chinese has no spaces to count at all."
)
def words_counted(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs(texts, encode, baseline, size=lambda text, encode: len(text.split()))


@exercise.misconception(
    hint="You divide tokens by characters. The name says characters for each token: how much text one token carries."
)
def tokens_per_character(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs(texts, encode, baseline, upside_down=True)


@exercise.misconception(
    hint="Your characters are bytes. In UTF-8 an accented letter is two bytes and a Chinese sign three: len of the "
    "text itself counts characters."
)
def bytes_for_characters(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs(texts, encode, baseline, characters=lambda text: len(text.encode()))


@exercise.misconception(
    hint="Your bytes are characters. They agree only for ASCII: encode the text in UTF-8 and count that."
)
def characters_for_bytes(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {name: row | {"bytes_per_token": row["characters_per_token"]} for name, row in table.items()}


@exercise.misconception(
    hint="Your times_baseline is upside down: a text that takes more tokens than the baseline must have more than 1."
)
def baseline_divided_by_text(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {
        name: row | {"times_baseline": 1 / row["times_baseline"] if row["tokens"] else 0.0}
        for name, row in table.items()
    }


@exercise.misconception(
    hint="You compare the texts by tokens for each character. A Chinese character says as much as several letters, so "
    "that compares scripts and not costs: the same content, counted in tokens, is what you pay for."
)
def compared_by_character(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    least = table[baseline]["characters_per_token"]
    fair = {n: least / row["characters_per_token"] if row["tokens"] else 0.0 for n, row in table.items()}
    return {name: row | {"times_baseline": fair[name]} for name, row in table.items()}


@exercise.misconception(
    hint="You compare the texts by their characters. What is paid for, and what fills a window, is tokens."
)
def characters_compared(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {name: row | {"times_baseline": len(texts[name]) / len(texts[baseline])} for name, row in table.items()}


@exercise.misconception(
    hint="You divide bytes by characters. How many bytes a character has is a matter of the script; the table asks how "
    "many one token stands for."
)
def bytes_per_character(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {n: row | {"bytes_per_token": len(texts[n].encode()) / max(1, len(texts[n]))} for n, row in table.items()}


@exercise.misconception(
    hint="You count each id once. A token that stands in the text ten times is read, and paid for, ten times."
)
def different_tokens_counted(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs(texts, encode, baseline, size=lambda text, encode: len(set(encode(text))))


@exercise.misconception(
    hint="Your bytes are those of another encoding, UTF-16 or UTF-32: twice or more what plain English takes in UTF-8."
)
def bytes_of_utf16(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    wide = {name: len(text.encode("utf-16")) / (table[name]["tokens"] or 1) for name, text in texts.items()}
    return {name: row | {"bytes_per_token": wide[name] if row["tokens"] else 0.0} for name, row in table.items()}


@exercise.misconception(
    hint="You strip the texts before you count. White space is paid for like anything else, and the newline at the end "
    "of a file is a token."
)
def texts_stripped(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table, whole = (
        costs({name: text.strip() for name, text in texts.items()}, encode, baseline),
        encode(texts[baseline]),
    )
    return {name: row | {"times_baseline": row["tokens"] / len(whole)} for name, row in table.items()}


@exercise.misconception(
    hint="You strip all texts, the baseline too, before anything is measured. White space takes tokens like anything "
    "else: the newline at the end of a file is paid for, in the baseline as well."
)
def baseline_stripped_too(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs({name: text.strip() for name, text in texts.items()}, encode, baseline)


@exercise.misconception(
    hint="You sort the rows. They come in the order in which the texts are given; whoever draws them can sort."
)
def rows_sorted(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return dict(sorted(costs(texts, encode, baseline).items(), key=lambda item: item[1]["tokens"]))


@exercise.misconception(
    hint="Your quotients are rounded to two digits. Give them as they are: whoever prints them can round, and whoever "
    "calculates on with them needs the rest."
)
def quotients_rounded(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {name: {each: round(value, 2) for each, value in row.items()} for name, row in table.items()}


@exercise.misconception(
    hint="Your quotients are rounded or cut to whole numbers. Give them as they are; rounding is for the one who "
    "prints them."
)
def quotients_cut(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    names = ("characters_per_token", "bytes_per_token")
    return {name: row | {each: float(int(row[each])) for each in names} for name, row in table.items()}


@exercise.misconception(
    hint="You compare with the first text. Which one is the baseline is an argument: look it up by its name."
)
def first_text_as_baseline(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    return costs(texts, encode, next(iter(texts)))


@exercise.misconception(
    hint="A text without tokens makes you divide by zero. The docstring says what its quotients are."
)
def empty_text_raises(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    return {name: row | {"bytes_per_token": len(texts[name].encode()) / row["tokens"]} for name, row in table.items()}


@exercise.misconception(
    hint="You guard against the empty text only. A text may have characters and no tokens all the same, and then you "
    "divide by zero: what is it that you divide by?"
)
def only_the_empty_text_spared(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    table = costs(texts, encode, baseline)
    lengths = {name: len(text.encode()) for name, text in texts.items()}
    return {n: row | {"bytes_per_token": lengths[n] / row["tokens"] if texts[n] else 0.0} for n, row in table.items()}


@exercise.misconception(
    hint="Where there are no tokens you divide by 1 instead of 0. A text that has characters and no tokens then gets "
    "its own length; the docstring says what its quotients are."
)
def divided_by_one_at_least(texts: dict[str, str], encode: Encode, baseline: str) -> Cost:
    names = {"characters_per_token": len, "bytes_per_token": lambda text: len(text.encode())}
    return {
        name: row | {each: length(texts[name]) / max(row["tokens"], 1) for each, length in names.items()}
        for name, row in costs(texts, encode, baseline).items()
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)
    others = [name for name in NOTICE if name not in ("English", "Hindi")]

    def case(name: str, about: str, texts: dict[str, str], baseline: str, visible: bool = True) -> Case:
        merges, vocab = merges_for(texts.values())
        return Case(name, {"texts": texts, "baseline": baseline, "merges": merges, "vocab": vocab}, about, visible)

    two = {"English": NOTICE["English"], "Hindi": NOTICE["Hindi"]}
    yield case("two languages", "on English and Hindi", two, "English")
    some = {name: NOTICE[name] for name in chance.sample(others, 3)}
    yield case("baseline last", "when the baseline is not the first text", some | two, "English")
    kinds = {name: NOT_PROSE[name] for name in chance.sample(sorted(NOT_PROSE), 3)}
    yield case("code", "on code and tables", kinds, chance.choice(sorted(kinds)), visible=False)
    yield case("empty text", "when a text is empty", {"Hindi": "", "English": "Nothing."}, "English")
    about = "when a text has characters but no tokens"
    yield case("no tokens", about, {"Hindi": "\x04", "English": "Nothing."}, "English")
    more = {name: NOTICE[name] for name in sorted(chance.sample(others, 3), key=others.index, reverse=True)}
    yield case("other languages", "on three more languages", more, list(more)[1], visible=False)


@exercise.probe
def probe(answer: Any, texts: dict[str, str], baseline: str, merges: Any, vocab: dict[str, int]) -> Any:
    """Gives the answer SmolLM2's encode, made from the merges that matter for these texts."""
    tokenizer = library_tokenizer(merges, vocab, [])
    table = answer(texts, lambda text: tokenizer.encode(text).ids, baseline)
    return {"table": table, "names in order": list(table)} if isinstance(table, dict) else table


@exercise.oracle
def oracle(texts: dict[str, str], baseline: str, merges: Any, vocab: dict[str, int]) -> Any:
    def row(text: str) -> dict[str, float]:
        encoded = smollm_bpe().encode(text)
        tokens, both = len(encoded), (len(text), len(text.encode()))
        characters, utf8_bytes = (n / tokens if tokens else 0.0 for n in both)
        times = tokens / len(smollm_bpe().encode(texts[baseline]))
        return {
            "tokens": float(tokens),  # so that an int and a float are both accepted
            "characters_per_token": characters,
            "bytes_per_token": utf8_bytes,
            "times_baseline": times,
        }

    return {"table": {name: row(text) for name, text in texts.items()}, "names in order": list(texts)}

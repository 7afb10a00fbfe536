"""A context and its continuation as token ids, cut where lm-eval cuts (lm_eval/api/model.py, TemplateLM._encode_pair).

Worked number, with SmolLM2: "Answer: Mars" is 3 tokens, the last of them " Mars". "Answer: " and "Mars" by themselves
are 3 and 1, and end in a lone space and a word without one, a sequence that training hardly ever showed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-encode-pair",
    title="Context and continuation as tokens",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("metrics", "tokenisation"),
    hints=(
        "Which string would the model have seen in training? Encode that one.",
        "Where to cut is counted in tokens: those that the context has when it is encoded alone.",
        "Three awkward inputs: a context that ends with spaces, no context at all, and no context with a continuation "
        "that starts with the very prefix token.",
    ),
    forbidden=("lm_eval",),
    library_note="The cut is a convention, not a truth: where the last token of the context and the first letters of "
    "the continuation merge into one token, the context keeps a token that the whole does not have. lm-eval lives "
    "with it; templates that put a space or a newline before every choice avoid it.",
    interview="Two harnesses give the same model 38 % and 31 % on the same questions. Name three causes in the prompt.",
)


@exercise.reference
def encode_pair(
    context: str, continuation: str, encode: Callable[[str], list[int]], prefix_id: int
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of the continuation whose probability is asked for.

    encode: text -> token ids, no special tokens added. prefix_id: the token that stands where there is no context, as
        the first token of a text gets its probability from a place before it.
    The two lists together are what the model reads:
    1. White space (what `str.rstrip` takes) at the end of the context belongs to the continuation: it is moved
       there first, unchanged.
    2. Both texts joined are encoded as one. The context's ids are those of the context, as step 1 left it, encoded
       alone, n of them; the continuation's ids are the joined ids from place n on.
    3. With an empty context ("", before step 1) the continuation is encoded alone and the context is [prefix_id]. If
       its first id is prefix_id already, that one becomes the context, and the rest is the continuation.
    A context of white space only does not occur.
    Returns (context ids, continuation ids).
    """
    if context == "":
        ids = encode(continuation)
        return (ids[:1], ids[1:]) if ids[0] == prefix_id else ([prefix_id], ids)
    bare = context.rstrip()
    whole = encode(bare + context[len(bare) :] + continuation)
    alone = encode(bare)
    return alone, whole[len(alone) :]


@exercise.alternative
def with_moved_spaces(context, continuation, encode, prefix_id):
    if len(context) == 0:
        asked = list(encode(continuation))
        read = [asked.pop(0)] if asked[0] == prefix_id else [prefix_id]
        return read, asked
    while context[-1].isspace():
        context, continuation = context[:-1], context[-1] + continuation
    read = encode(context)
    joined = encode("".join((context, continuation)))
    return read, [token for place, token in enumerate(joined) if place >= len(read)]


def pair(
    context: str,
    continuation: str,
    encode: Callable[[str], list[int]],
    prefix_id: int,
    *,
    move: str = "move",
    joined: bool = True,
    empty: str = "prefix",
    always_prefix: bool = False,
) -> tuple[list[int], list[int]]:
    """The right pair with the parts that the misconceptions change."""
    if context == "":
        ids = encode(continuation)
        if empty == "nothing":
            return [], ids
        if empty == "twice" or ids[0] != prefix_id:
            return [prefix_id], ids
        return ids[:1], ids[1:]
    spaces = len(context) - len(context.rstrip())
    moved = context[len(context) - spaces :] if move == "move" else ""
    context = context if move == "stay" else context.rstrip()
    start = encode(context)
    ids = encode(context + moved + continuation)[len(start) :] if joined else encode(moved + continuation)
    return ([prefix_id, *start] if always_prefix else start), ids


@exercise.misconception(
    hint="You encode the two texts separately. Where tokens reach over the seam, the model then reads a sequence that "
    "the whole text would never have: encode the whole and cut it."
)
def encoded_separately(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, joined=False)


@exercise.misconception(
    hint="A space at the end of the context stays there, as a token of its own. In training it was part of the next "
    "word's token: it belongs to the continuation."
)
def space_left_at_the_end(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, move="stay")


@exercise.misconception(
    hint="White space at the end of the context is lost. It moves to the continuation; the text as a whole stays as "
    "it was."
)
def space_dropped(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, move="drop")


@exercise.misconception(
    hint="Without a context nothing stands before the first token, so nothing predicts it. The prefix token takes that "
    "place."
)
def no_prefix_without_context(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, empty="nothing")


@exercise.misconception(
    hint="The prefix token stands twice when the continuation starts with it. Then it is the context already."
)
def prefix_twice(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, empty="twice")


@exercise.misconception(
    hint="You put the prefix token (BOS) in front of every context. This tokenizer adds none, and the model was not "
    "trained to see it there: only an empty context gets it."
)
def prefix_always(context, continuation, encode, prefix_id):
    return pair(context, continuation, encode, prefix_id, always_prefix=True)


@exercise.misconception(
    hint="You cut the joined ids by counting the continuation's own tokens from the end. Where the texts merge, that "
    "cuts elsewhere: count the context's tokens from the start."
)
def cut_from_the_end(context, continuation, encode, prefix_id):
    if context == "":
        return pair(context, continuation, encode, prefix_id)
    bare = context.rstrip()
    moved = context[len(bare) :] + continuation
    whole, own = encode(bare + moved), len(encode(moved))
    return whole[:-own], whole[-own:]


@exercise.misconception(
    hint="You count the context's tokens while its white space still stands at the end. The cut then lies behind that "
    "white space, or later, and the continuation loses its first tokens: move first, count afterwards."
)
def counted_before_the_move(context, continuation, encode, prefix_id):
    if context == "":
        return pair(context, continuation, encode, prefix_id)
    return encode(context.rstrip()), encode(context + continuation)[len(encode(context)) :]


@exercise.misconception(
    hint="Only one space is moved. All white space at the end of the context goes along, newlines as well."
)
def one_space_moved(context, continuation, encode, prefix_id):
    if context == "":
        return pair(context, continuation, encode, prefix_id)
    if context.endswith(" "):
        context, continuation = context[:-1], f" {continuation}"
    start = encode(context)
    return start, encode(context + continuation)[len(start) :]


# A longest-match tokenizer over these pieces: a space belongs to the word behind it, and pieces merge over a seam.
PIECES = (
    "<s>", " ", "\n", "\n\n", ":", "?", "Question", "Answer", "Answer:", "Mars", " Mars", " Venus", "Ven", "us", " is",
    "un", "happy", "unhappy", " red", "red", "  ", ".", ").", ")", "(", "s", "it", " it", "'s", "it's",
)  # fmt: skip
PREFIX_ID = 0


def encode_pieces(text: str) -> list[int]:
    """Longest piece first; a character that no piece has counts as its code point, above all pieces."""
    ids: list[int] = []
    place = 0
    by_length = sorted(PIECES, key=len, reverse=True)
    while place < len(text):
        piece = next((p for p in by_length if text.startswith(p, place)), text[place])
        ids.append(PIECES.index(piece) if piece in PIECES else 1000 + ord(piece))
        place += len(piece)
    return ids


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(name: str, about: str, context: str, continuation: str, visible: bool = True) -> Case:
        return Case(name, {"context": context, "continuation": continuation}, about, visible)

    planet = draw.choice((" Mars", " Venus"))
    letter = draw.choice("xyzkq")
    yield case("plain", "on a plain pair", f"Question: {letter}?\nAnswer:", planet)
    yield case("space at the end", "when the context ends with a space", f"{letter}: Answer: ", planet.strip())
    yield case("several spaces", "when the context ends with several spaces", f"Answer:{letter} \n ", planet.strip())
    yield case("tokens merge", "when tokens merge over the seam", f"{letter} un", "happy")
    yield case("newlines", "when the context ends with newlines", f"Question{letter}\n\n", "it's")
    yield case("no context", "without a context", "", f"red{letter}")
    yield case(
        "starts with the prefix", "when there is no context and the prefix is there", "", "<s>Mars" + letter, False
    )
    yield case("merge of marks", "when marks merge over the seam", f"({letter})", f".{planet} is red", False)
    yield case("a letter before", "on another merge", f"{letter}{letter} it", "'s red", False)
    drawn = "".join(draw.choices(("Mars", " it", " is", "un", "?", " red"), k=6))
    yield case(
        "random",
        "on random text",
        drawn + draw.choice(("", " ")),
        "".join(draw.choices(("happy", "s", " it"), k=3)),
        False,
    )


@exercise.probe
def probe(answer: Any, context: str, continuation: str) -> Any:
    """Gives the answer a tokenizer that takes the longest piece it knows."""
    return answer(context, continuation, encode_pieces, PREFIX_ID)


@exercise.oracle
def oracle(context: str, continuation: str) -> Any:
    from course.lessons.l17_metrics.harness_parts import PiecesLM

    return PiecesLM(encode_pieces, PREFIX_ID).encoded(context, continuation)

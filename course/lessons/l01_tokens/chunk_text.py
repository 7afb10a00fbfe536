"""Cutting a document into overlapping chunks of so many tokens, for retrieval or for training on long texts.

One worked number: 1,000 tokens in chunks of 256 with 64 shared make 5 chunks and 1,256 stored tokens: 26 % more.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from course.lessons.l01_tokens.smollm import smollm_bpe, smollm_tokenizer
from course.lessons.l01_tokens.texts import FAMILY, NOT_PROSE, NOTICE, handbook
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-chunk-text",
    title="Overlapping chunks of a document",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("context", "tokenisation"),
    hints=(
        "Work with places in the list of tokens: where does the first chunk start and end, where the second?",
        "From one start to the next it goes by what a chunk holds beyond the overlap. Which chunk is the last one? The "
        "first that reaches the end of the text.",
        "The text of a chunk runs from where its first token starts to where its last token ends, both read from "
        "offsets.",
    ),
    forbidden=("tokenizers", "transformers", "course.base_model", "course.lessons.l01_tokens.smollm"),
    library_note="The library calls the overlap `stride`; in a convolution, and in many chunkers, stride is the step "
    "from one start to the next. Reading it that way with max_length=256 and stride=192 gives four times the chunks. "
    "The library also returns overflow_to_sample_mapping, since a batch of documents becomes a longer batch of chunks.",
    interview="How do you choose chunk size and overlap, and why count in tokens and not in characters?",
)

Chunks = list[tuple[list[int], str]]
Offsets = list[tuple[int, int]]


@exercise.reference
def chunk_text(
    text: str, ids: list[int], offsets: list[tuple[int, int]], chunk_tokens: int, overlap_tokens: int
) -> list[tuple[list[int], str]]:
    """Cut a tokenised document into overlapping chunks.

    text: the document. ids: its token ids. offsets: for each token, the (start, end) of the characters it came from, so
        that text[start:end] is what the token stands for; all tokens of one character (an emoji, say) have that
        character's offsets.
    chunk_tokens: how many tokens a chunk has. Only the last may have fewer.
    overlap_tokens: how many tokens a chunk shares with the one before it: the last of that one are its first.
    Returns [(ids of the chunk, its text), ...] in order. The text is the slice of `text` from the start of the chunk's
        first token to the end of its last. The last chunk is the first one that reaches the end of the document. A
        document without tokens has no chunks.
    Raises ValueError unless 0 <= overlap_tokens < chunk_tokens, also for a document without tokens.
    Example: "one two three four five" with ids 1 to 5 and the offsets (0, 3), (3, 7), (7, 13), (13, 18), (18, 23), in
        chunks of 3 with an overlap of 1, gives [([1, 2, 3], "one two three"), ([3, 4, 5], " three four five")].
    """
    if not 0 <= overlap_tokens < chunk_tokens:
        raise ValueError(f"an overlap of {overlap_tokens} tokens does not go with chunks of {chunk_tokens}")
    chunks: list[tuple[list[int], str]] = []
    begin, end = 0, 0
    while end < len(ids):
        end = min(begin + chunk_tokens, len(ids))
        first_character, last_character = offsets[begin][0], offsets[end - 1][1]
        chunks.append((ids[begin:end], text[first_character:last_character]))
        begin += chunk_tokens - overlap_tokens
    return chunks


@exercise.alternative
def number_of_chunks_by_formula(
    text: str, ids: list[int], offsets: Offsets, chunk_tokens: int, overlap_tokens: int
) -> Chunks:
    step = chunk_tokens - overlap_tokens
    if overlap_tokens < 0 or step < 1:
        raise ValueError("the overlap must be at least 0 and smaller than the chunk")
    many = 1 + max(0, -(-(len(ids) - chunk_tokens) // step)) if ids else 0
    windows = [range(len(ids))[i * step : i * step + chunk_tokens] for i in range(many)]
    return [([ids[place] for place in w], text[slice(offsets[w[0]][0], offsets[w[-1]][1])]) for w in windows]


@exercise.alternative
def first_chunk_then_the_rest(
    text: str, ids: list[int], offsets: Offsets, chunk_tokens: int, overlap_tokens: int
) -> Chunks:
    if chunk_tokens <= overlap_tokens or overlap_tokens < 0:
        raise ValueError(f"overlap_tokens={overlap_tokens}")
    if not ids:
        return []
    (start, _), (_, stop) = offsets[0], offsets[:chunk_tokens][-1]
    chunk = (ids[:chunk_tokens], text[start:stop])
    if len(ids) <= chunk_tokens:
        return [chunk]
    rest = slice(chunk_tokens - overlap_tokens, None)
    return [chunk, *first_chunk_then_the_rest(text, ids[rest], offsets[rest], chunk_tokens, overlap_tokens)]


def cut(text: str, ids: list[int], offsets: Offsets, spans: Any, end_of: int = 1, trim: bool = False) -> Chunks:
    """The chunks of given (start, end) places; the misconceptions vary the places and the texts."""
    chunks = []
    for start, end in spans:
        piece = text[offsets[start][0] : offsets[min(end, len(ids)) - 1][end_of]]
        chunks.append((ids[start:end], piece.strip() if trim else piece))
    return chunks


def spans(count: int, size: int, overlap: int, step: int | None = None) -> list[tuple[int, int]]:
    """The right places, with a ValueError where there are none; or those of another step."""
    if not 0 <= overlap < size:
        raise ValueError("no such overlap")
    places: list[tuple[int, int]] = []
    for start in range(0, count, step or size - overlap):
        places.append((start, min(start + size, count)))
        if start + size >= count:
            break
    return places


@exercise.misconception(
    hint="You take the overlap for the step from one chunk's start to the next. Neighbours share that many tokens, so "
    "the step is what is left of a chunk."
)
def overlap_taken_as_the_step(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap, step=overlap or size))


@exercise.misconception(
    hint="Neighbouring chunks share one token more than asked for. Write down the places of a small example, and from "
    "one start to the next count what is new."
)
def one_token_too_much_shared(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap, step=max(1, size - overlap - 1)))


@exercise.misconception(hint="Each of your pairs has the text first. The ids come first, then the text.")
def text_before_the_ids(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Any:
    return [(piece, part) for part, piece in cut(text, ids, offsets, spans(len(ids), size, overlap))]


@exercise.misconception(
    hint="An empty document returns before the overlap is looked at. A wrong argument is wrong for every document: "
    "check it first."
)
def empty_document_before_the_check(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap)) if ids else []


@exercise.misconception(
    hint="Neighbouring chunks share nothing: you step by a whole chunk. What a boundary cuts in two is then whole in "
    "neither."
)
def overlap_ignored(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap, step=size))


@exercise.misconception(
    hint="After the chunk that reaches the end you make more, which lie wholly inside it. A search would find the same "
    "passage twice: stop at the first chunk that reaches the end."
)
def chunks_inside_the_last(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    spans(1, size, overlap)
    starts = range(0, len(ids), size - overlap)
    return cut(text, ids, offsets, [(start, min(start + size, len(ids))) for start in starts])


@exercise.misconception(
    hint="The end of a document is in no chunk. The last chunk may be shorter than the others, down to one new token, "
    "and a document shorter than a chunk, or than the overlap, has one chunk."
)
def short_last_chunk_dropped(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, [span for span in spans(len(ids), size, overlap) if span[1] - span[0] == size])


@exercise.misconception(
    hint="You move the last chunk back to make it full, so it shares more than the overlap with its neighbour. The "
    "last one may be shorter."
)
def last_chunk_moved_back(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    places = spans(len(ids), size, overlap)
    return cut(text, ids, offsets, [(max(0, min(start, end - size)), end) for start, end in places])


@exercise.misconception(
    hint="Your chunks are longer than chunk_tokens: the overlap is put on top. It is part of the chunk, or a model "
    "with that limit cuts it off again."
)
def overlap_on_top(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    spans(1, size, overlap)
    starts = range(0, len(ids), size)
    return cut(text, ids, offsets, [(max(0, start - overlap), min(start + size, len(ids))) for start in starts])


@exercise.misconception(
    hint="The ids are right, but the texts are cut by counting characters as if they were tokens. A token stands for "
    "several characters or for a part of one: read offsets."
)
def text_cut_by_token_places(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return [(ids[start:end], text[start:end]) for start, end in spans(len(ids), size, overlap)]


@exercise.misconception(
    hint="Each text lacks its last token: you stop where that token starts. It belongs to the chunk, so read where it "
    "ends."
)
def last_token_missing_from_the_text(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap), end_of=0)


@exercise.misconception(
    hint="You strip the texts. The offsets say where a chunk starts, a leading space included; a text that starts "
    "elsewhere cannot be found again in the document."
)
def texts_stripped(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap), trim=True)


@exercise.misconception(
    hint="An overlap as large as the chunk, or a negative one, is taken without a word. No chunk would bring anything "
    "new: raise a ValueError."
)
def any_overlap_accepted(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap if 0 <= overlap < size else 0))


@exercise.misconception(
    hint="An overlap as large as the chunk is taken without a word. No chunk would bring anything new: raise a "
    "ValueError."
)
def overlap_as_large_as_the_chunk(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap if overlap < size else 0))


@exercise.misconception(
    hint="A negative overlap is taken without a word. Chunks would leave out what lies between them: raise a "
    "ValueError."
)
def negative_overlap_accepted(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, max(0, overlap)))


@exercise.misconception(
    hint="A document that is not longer than the overlap has no chunk in your answer. Whatever its length, its tokens "
    "are in some chunk."
)
def document_within_the_overlap_lost(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    return cut(text, ids, offsets, spans(len(ids), size, overlap)) if len(ids) > overlap or overlap >= size else []


@exercise.misconception(
    hint="The last token of a document can get lost: the end counts as reached one token too early."
)
def end_reached_one_too_early(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    places = spans(len(ids), size, overlap)
    early = next((i for i, (_, end) in enumerate(places, 1) if end >= len(ids) - 1), None)
    return cut(text, ids, offsets, places[:early])


@exercise.misconception(
    hint="You join what each token stands for. A character that is spread over several tokens then appears several "
    "times: take one slice of the document."
)
def token_texts_joined(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    places = spans(len(ids), size, overlap)
    return [(ids[start:end], "".join(text[a:b] for a, b in offsets[start:end])) for start, end in places]


@exercise.misconception(
    hint="You end a chunk's text where the next token starts. Inside a character that is too early, since all of its "
    "tokens start at the same place: read where the chunk's own last token ends."
)
def text_up_to_the_next_token(text: str, ids: list[int], offsets: Offsets, size: int, overlap: int) -> Chunks:
    starts = [*(start for start, _ in offsets), len(text)]
    return [(ids[a:b], text[starts[a] : starts[b]]) for a, b in spans(len(ids), size, overlap)]


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)

    def case(name: str, about: str, text: str, size: int, overlap: int, visible: bool = True) -> Case:
        encoded = smollm_bpe().encode(text)
        tokens = {"text": text, "ids": encoded.ids, "offsets": encoded.offsets}
        return Case(name, {**tokens, "chunk_tokens": size, "overlap_tokens": overlap}, about, visible)

    facts, _ = handbook(3, seed)
    count = len(smollm_bpe().encode(facts).ids)
    short = "Where does a token start? Before its space."
    yield case("one sentence", "on a short text", short, 4, 1)
    yield case("handbook", "on three sentences", facts, chance.randint(14, 19), 5)
    yield case("exact", "when the last chunk is full", facts, 10 + (count - 10) % 7, 3 + (count - 10) % 7)
    yield case("no overlap", "without overlap", facts, 16, 0)
    yield case("fits", "when one chunk is enough", short, 64, 16)
    yield case("emoji", "when a boundary falls inside a character", f"Hi {FAMILY} {FAMILY} there", 3, 1)
    yield case("overlap too large", "when the overlap is as large as a chunk", short, 4, 4)
    language = chance.choice(sorted(NOTICE))
    yield case("language", "on one of fourteen languages", NOTICE[language], 12, chance.randint(1, 11), visible=False)
    code = chance.choice(sorted(NOT_PROSE))
    yield case("no prose", "on code or tables", NOT_PROSE[code] * 2, 20, chance.randint(12, 19), visible=False)
    yield case("one token", "with chunks of one token", short, 1, 0, visible=False)
    yield case("no text", "on an empty document", "", 8, 2, visible=False)
    yield case("negative overlap", "when the overlap is negative", short, 4, -1)
    yield case("no text, bad overlap", "on an empty document with a wrong overlap", "", 4, 4, visible=False)


@exercise.probe
def probe(answer: Any, text: str, ids: list[int], offsets: Offsets, chunk_tokens: int, overlap_tokens: int) -> Any:
    """The chunks, split into ids and texts; for an impossible overlap, whether it was refused."""
    if 0 <= overlap_tokens < chunk_tokens:
        chunks = list(answer(text, ids, offsets, chunk_tokens, overlap_tokens))
        parts = [c[0] if isinstance(c[0], str) else list(c[0]) for c in chunks]
        return {"ids of the chunks": parts, "texts of the chunks": [c[1] for c in chunks]}
    try:
        answer(text, ids, offsets, chunk_tokens, overlap_tokens)
    except NotImplementedError:
        raise
    except Exception as error:
        return {"for this overlap": f"{'an' if type(error).__name__[0] in 'AEIO' else 'a'} {type(error).__name__}"}
    return {"for this overlap": "no error"}


@exercise.oracle
def oracle(text: str, ids: list[int], offsets: Offsets, chunk_tokens: int, overlap_tokens: int) -> Any:
    if not 0 <= overlap_tokens < chunk_tokens:
        return {"for this overlap": "a ValueError"}
    options = {"truncation": True, "return_overflowing_tokens": True, "return_offsets_mapping": True}
    found = smollm_tokenizer()(text, max_length=chunk_tokens, stride=overlap_tokens, **options)
    both = zip(found["input_ids"], found["offset_mapping"], strict=True)
    chunks = [(ids, text[places[0][0] : places[-1][1]]) for ids, places in both if ids]  # it gives [] one empty chunk
    return {"ids of the chunks": [c[0] for c in chunks], "texts of the chunks": [c[1] for c in chunks]}


@exercise.diagnose
def diagnose(got: Any, want: Any, chunk_tokens: int, overlap_tokens: int, ids: list[int], **_: Any) -> str | None:
    """Number and lengths of the chunks."""
    if any(isinstance(part, str) for part in got["ids of the chunks"]):
        return "The first of a pair is a list of ids, the second the text"
    mine, theirs = ([len(chunk) for chunk in each["ids of the chunks"]] for each in (got, want))
    sizes = f"{len(ids)} tokens in chunks of {chunk_tokens} with an overlap of {overlap_tokens}"
    return f"{sizes}: yours have {mine} tokens, the library's {theirs}" if mine != theirs else None

"""Text -> ids -> text with given merges: what every GPT-like model's tokenizer does at run time.

One worked example: with the merges (h, e), (Ġ, t), (Ġt, he) the word "Ġthe" goes Ġ t h e -> Ġ t he -> Ġt he -> Ġthe.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from course.lessons.l01_tokens.byte_level import split_words, to_bytes, to_symbols
from course.lessons.l01_tokens.smollm import SPECIAL, library_tokenizer, merges_for, smollm_bpe
from course.lessons.l01_tokens.texts import FAMILY, NOT_PROSE, NOTICE
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-byte-bpe",
    title="Encode and decode like the base model",
    points=5,
    minutes=20,
    difficulty="hard",
    importance="core",
    skills=("tokenisation",),
    hints=(
        "Make a dictionary from pair to its place in `merges`. For one word, look at all neighbouring pairs and ask "
        "which of them was learned earliest; join it; look again.",
        "Special texts first: re.split with a group around the alternatives keeps them in the list it returns. Escape "
        "each of them; an empty list of special texts needs a thought of its own.",
        "For decode, gather the bytes of all ids before you turn anything into text: a character may be spread over "
        "several ids.",
    ),
    forbidden=("tokenizers", "transformers", "course.base_model", "course.lessons.l01_tokens.smollm"),
    library_note="tokenizers keeps each word's tokens in a linked list and the possible merges in a heap, and caches "
    "words that it has seen, so that each new word costs about n log n. It also keeps for every token the range of "
    "characters it came from (offsets), which the chunker further down is built on.",
    interview="What happens to an emoji, or to a language the tokenizer hardly saw? Can encoding fail?",
)

Pair = tuple[str, str]


@exercise.reference
class ByteBpe:
    """A byte-level BPE tokenizer made of plain data, as a model's tokenizer.json holds it.

    Given are split_words(text: str) -> list[str], to_symbols(data: bytes) -> str, to_bytes(symbols: str) -> bytes. The
    empty text has no words, and no bytes have no symbols; to_bytes raises a KeyError where a character is no byte
    symbol.
    """

    def __init__(self, merges: list[tuple[str, str]], vocab: dict[str, int], special: list[str]) -> None:
        """merges: pairs of tokens in byte symbols, the earliest learned first. As training leaves them: no two pairs
            give the same joined token, and a joined token stands in a pair only after the pair that makes it.

        vocab: token -> id, for every joined token, for single symbols (not always all 256), and for the special texts.
        special: texts such as "<|im_end|>", possibly none; each of them is one token. They are plain text, in vocab
            too, not byte symbols; none is empty, and one may hold spaces. None begins with another one, and none
            overlaps another in the texts encoded.
        """
        self.rank = {pair: place for place, pair in enumerate(merges)}
        self.ids, self.tokens = vocab, {token_id: token for token, token_id in vocab.items()}
        self.special = special

    def encode(self, text: str) -> list[int]:
        """Text -> ids.

        1. Cut out the special texts, wherever they stand; each gives its own id.
        2. Cut what lies between into words with split_words. Words never share a token.
        3. Turn each word's UTF-8 bytes into symbols with to_symbols: one token for each. Leave out symbols that vocab
           does not hold, as the library does when no unknown-token is set.
        4. Among the pairs of neighbouring tokens join the one that was learned earliest (in its leftmost place, if it
           stands in several; joining all its places in one go, from left to right, gives the same with such merges).
           Repeat until no pair of neighbours is in merges. Then look up the ids.
        """
        found: list[int] = []
        pattern = "|".join(map(re.escape, self.special))
        for part in re.split(f"({pattern})", text) if pattern else [text]:
            if part in self.special:
                found.append(self.ids[part])
            else:
                found += [self.ids[token] for word in split_words(part) for token in self._word(word)]
        return found

    def _word(self, word: str) -> list[str]:
        tokens = [symbol for symbol in to_symbols(word.encode()) if symbol in self.ids]
        while len(tokens) > 1:
            ranks = [self.rank.get(pair, len(self.rank)) for pair in pairwise(tokens)]
            place = ranks.index(min(ranks))
            if ranks[place] == len(self.rank):
                break
            tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
        return tokens

    def decode(self, ids: list[int]) -> str:
        """Ids, each of them in vocab -> text, special texts included.

        Bytes that form no valid UTF-8 become U+FFFD, as bytes.decode does with errors="replace". That happens to an id
        that holds only a part of a character, when the ids of the other parts are missing.
        """
        tokens = [self.tokens[token_id] for token_id in ids]
        parts = [token.encode() if token in self.special else to_bytes(token) for token in tokens]
        return b"".join(parts).decode(errors="replace")


@exercise.alternative
class MergeByMerge:
    """Applies the merges in the order learned, over all words at once, on bytes instead of symbols."""

    def __init__(self, merges: list[Pair], vocab: dict[str, int], special: list[str]) -> None:
        self.pairs = [(to_bytes(left), to_bytes(right)) for left, right in merges]
        self.marks = {text: vocab[text] for text in special}
        self.vocab = {to_bytes(token): i for token, i in vocab.items() if token not in self.marks}
        self.back = {i: piece for piece, i in self.vocab.items()} | {i: t.encode() for t, i in self.marks.items()}

    def encode(self, text: str) -> list[int]:
        for mark, mark_id in self.marks.items():
            before, here, after = text.partition(mark)
            if here:
                return [*self.encode(before), mark_id, *self.encode(after)]
        words = [[bytes([byte]) for byte in word.encode()] for word in split_words(text)]
        words = [[piece for piece in word if piece in self.vocab] for word in words]
        for left, right in self.pairs:
            for word in words:
                at = 0
                while at + 1 < len(word):
                    if word[at] == left and word[at + 1] == right:
                        word[at] += word.pop(at + 1)
                    at += 1
        return [self.vocab[piece] for word in words for piece in word]

    def decode(self, ids: list[int]) -> str:
        data = bytearray()
        for token_id in ids:
            data.extend(self.back[token_id])
        return str(data, "utf-8", "replace")


@exercise.alternative
class JoinedAllAtOnce:
    """Joins every place of the best pair in one sweep, with an enumerated scanner for special texts."""

    def __init__(self, merges: list[Pair], vocab: dict[str, int], special: list[str]) -> None:
        self.merges, self.vocab, self.special = dict(zip(merges, range(len(merges)), strict=True)), vocab, special

    def encode(self, text: str) -> list[int]:
        ids, start, at = [], 0, 0
        while at < len(text):
            mark = next((m for m in self.special if text.startswith(m, at)), None)
            if mark:
                ids += [*self.plain(text[start:at]), self.vocab[mark]]
                start = at + len(mark)
            at = start if mark else at + 1
        return ids + self.plain(text[start:])

    def plain(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in split_words(text):
            tokens = [s for s in to_symbols(word.encode("utf-8")) if s in self.vocab]
            while known := {pair for pair in pairwise(tokens) if pair in self.merges}:
                tokens = sweep(tokens, min(known, key=self.merges.__getitem__))
            ids += [self.vocab[token] for token in tokens]
        return ids

    def decode(self, ids: list[int]) -> str:
        inverse = dict(zip(self.vocab.values(), self.vocab, strict=True))
        texts = [inverse[i] for i in ids]
        return b"".join(t.encode() if t in self.special else to_bytes(t) for t in texts).decode("utf-8", "replace")


def sweep(tokens: list[str], pair: Pair) -> list[str]:
    """Tokens with each place of the pair joined, from the left."""
    out, at = [], 0
    while at < len(tokens):
        taken = 2 if tuple(tokens[at : at + 2]) == pair else 1
        out.append("".join(tokens[at : at + taken]))
        at += taken
    return out


class Varied(MergeByMerge):
    """What the misconceptions change: one step each."""

    def __init__(self, merges: list[Pair], vocab: dict[str, int], special: list[str]) -> None:
        super().__init__(merges, vocab, special)
        self.merges, self.given = merges, vocab
        self.tokens_by_id = {token_id: token for token, token_id in vocab.items()}

    def split(self, text: str) -> list[str]:
        return split_words(text)

    def symbols(self, word: str) -> list[str]:
        return [symbol for symbol in to_symbols(word.encode()) if symbol in self.given]

    def joined(self, tokens: list[str]) -> list[str]:
        for pair in self.merges:
            tokens = sweep(tokens, pair)
        return tokens

    def encode(self, text: str) -> list[int]:
        parts = re.split(f"({'|'.join(map(re.escape, self.marks)) or '$^'})", text)
        ids: list[int] = []
        for part in parts:
            words = [self.symbols(word) for word in ([] if part in self.marks else self.split(part))]
            ids += [self.marks[part]] if part in self.marks else [self.given[t] for w in words for t in self.joined(w)]
        return ids


@exercise.misconception(
    hint="You take the longest token that fits, from the left, as WordPiece does. BPE replays its training: which pair "
    "was learned earliest decides, and the longest token may never come about."
)
class longest_token_first(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        word, out = "".join(tokens), list[str]()
        while word:
            end = next(n for n in range(len(word), 0, -1) if word[:n] in self.given)
            out, word = [*out, word[:end]], word[end:]
        return out


@exercise.misconception(
    hint="You join the first pair from the left that can be joined. Among all neighbours the pair that was learned "
    "earliest goes first, wherever it stands."
)
class leftmost_pair_first(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        pairs = set(self.merges)
        while place := next((i for i, pair in enumerate(pairwise(tokens), 1) if pair in pairs), 0):
            tokens = [*tokens[: place - 1], "".join(tokens[place - 1 : place + 1]), *tokens[place + 1 :]]
        return tokens


@exercise.misconception(
    hint="You join the pair that was learned last among the possible ones. Ranks count from the first merge learned: a "
    "small rank goes first."
)
class latest_pair_first(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        rank = {pair: place for place, pair in enumerate(self.merges)}
        while known := [pair for pair in pairwise(tokens) if pair in rank]:
            tokens = sweep(tokens, max(known, key=lambda pair: rank[pair]))
        return tokens


@exercise.misconception(
    hint="You join across words. split_words has to come first, and each word is worked on alone: no token may hold "
    "the end of one word and the start of the next."
)
class joined_across_words(Varied):
    def split(self, text: str) -> list[str]:
        return [text]


@exercise.misconception(
    hint="You lose white space, by a split or a strip. Each space belongs to the word behind it and is a symbol like "
    "any other: decode must be able to give it back."
)
class spaces_lost(Varied):
    def split(self, text: str) -> list[str]:
        return text.split()


@exercise.misconception(
    hint="Your symbols are not the bytes of UTF-8. There, only ASCII characters are one byte each: an accented letter "
    "is two, an emoji four, and each byte has its symbol."
)
class characters_for_bytes(Varied):
    def symbols(self, word: str) -> list[str]:
        return [symbol for symbol in word.replace(" ", "\u0120").replace("\n", "\u010a") if symbol in self.given]


@exercise.misconception(
    hint="A symbol that the vocabulary lacks raises a KeyError. SmolLM2's vocabulary lacks 21 of the 256; such symbols "
    "are left out before anything is joined."
)
class missing_symbols_raise(Varied):
    def symbols(self, word: str) -> list[str]:
        return list(to_symbols(word.encode()))

    def joined(self, tokens: list[str]) -> list[str]:
        return [token for token in super().joined(tokens) if self.given[token] >= 0]


@exercise.misconception(
    hint="Special texts are cut into pieces like ordinary words. To the model, the end of a turn is one id and nothing "
    "else: look for special texts, for all of them at once, before splitting into words."
)
class special_texts_cut_up(Varied):
    def encode(self, text: str) -> list[int]:
        return [self.given[token] for word in self.split(text) for token in self.joined(self.symbols(word))]


@exercise.misconception(
    hint="Only one of several special texts is found: cutting by the next one forgets the pieces that you had. Cut by "
    "all of them at once."
)
class one_special_text_looked_for(Varied):
    def __init__(self, merges: list[Pair], vocab: dict[str, int], special: list[str]) -> None:
        super().__init__(merges, vocab, special[:1])


@exercise.misconception(
    hint="You strip the text between special texts. White space at its ends is text like any other, and gives tokens."
)
class ends_stripped(Varied):
    def split(self, text: str) -> list[str]:
        return split_words(text.strip())


@exercise.misconception(
    hint="Your pattern reads the bars of a special text as *or*, so it finds pieces of it. In a regular expression "
    "such signs have to be escaped; re has a function for that."
)
class special_texts_not_escaped(Varied):
    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in re.split(f"({'|'.join(self.marks)})", text) if self.marks else [text]:
            plain = [self.given[t] for word in self.split(part or "") for t in self.joined(self.symbols(word))]
            ids += [self.marks[part]] if part in self.marks else plain
        return ids


@exercise.misconception(
    hint="The special texts give no id at all: cutting at them throws them away. re.split keeps what it cuts at only "
    "if the pattern has a group around it."
)
class special_texts_thrown_away(Varied):
    def encode(self, text: str) -> list[int]:
        return [token_id for token_id in super().encode(text) if token_id not in self.marks.values()]


@exercise.misconception(
    hint="With no special texts at all your pattern is empty, and an empty pattern cuts between all characters: no "
    "two symbols are ever neighbours. Nothing to look for means nothing to cut."
)
class empty_pattern_cuts_everywhere(Varied):
    def split(self, text: str) -> list[str]:
        return super().split(text) if self.marks else list(text)


@exercise.misconception(
    hint="You turn special texts into bytes by their byte symbols. They are plain text: one with a space in it has no "
    "symbol for that."
)
class special_texts_read_as_symbols(Varied):
    def decode(self, ids: list[int]) -> str:
        return b"".join(to_bytes(self.tokens_by_id[i]) for i in ids).decode(errors="replace")


@exercise.misconception(
    hint="The second text that an object encodes gets the first one's ids too: they are collected in the object. Each "
    "call starts anew."
)
class ids_kept_between_calls(Varied):
    def encode(self, text: str) -> list[int]:
        self.kept = [*getattr(self, "kept", ()), *super().encode(text)]
        return self.kept


@exercise.misconception(
    hint="The special ids are missing from what you decode. That is the library's skip_special_tokens=True; here they "
    "belong to the text."
)
class special_texts_dropped(Varied):
    def decode(self, ids: list[int]) -> str:
        return super().decode([i for i in ids if i not in self.marks.values()])


@exercise.misconception(
    hint="Each id is turned into text on its own. An emoji or an accented letter may be spread over several ids: "
    "gather all bytes first, then decode once."
)
class decoded_id_by_id(Varied):
    def decode(self, ids: list[int]) -> str:
        return "".join(super(decoded_id_by_id, self).decode([token_id]) for token_id in ids)


@exercise.misconception(
    hint="Half a character raises a UnicodeDecodeError. A model that is still writing produces such halves all the "
    "time; say what bytes.decode shall do with them."
)
class half_characters_raise(Varied):
    def decode(self, ids: list[int]) -> str:
        return b"".join(self.back[i] for i in ids).decode()


@exercise.misconception(
    hint="Bytes that form no character vanish from your text. They have to stay visible, as the replacement character "
    "U+FFFD."
)
class half_characters_vanish(Varied):
    def decode(self, ids: list[int]) -> str:
        return b"".join(self.back[i] for i in ids).decode(errors="ignore")


@exercise.misconception(
    hint="Your decoded text loses the white space at its ends. It belongs to the text: a word in the middle of a "
    "sentence is decoded with the space before it."
)
class decoded_text_stripped(Varied):
    def decode(self, ids: list[int]) -> str:
        return super().decode(ids).strip()


@exercise.misconception(
    hint="You look whole words up in vocab before merging. Some tokenizers do (tiktoken; ignore_merges in the "
    "library), but this one replays the merges, and a token may stand in vocab and never be reached by them."
)
class whole_word_looked_up(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        return ["".join(tokens)] if "".join(tokens) in self.given else super().joined(tokens)


@exercise.misconception(
    hint="You ask whether the joined text is known, not whether this pair was learned. The same text can come from "
    "two pairs, and only the one in merges may be joined."
)
class pairs_known_by_their_text(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        rank = {left + right: place for place, (left, right) in enumerate(self.merges)}
        while known := [pair for pair in pairwise(tokens) if "".join(pair) in rank]:
            tokens = sweep(tokens, min(known, key=lambda pair: rank["".join(pair)]))
        return tokens


@exercise.misconception(
    hint="You take a token's id for the order in which it was learned. A vocabulary may be numbered in any way: the "
    "place in merges is what counts."
)
class ids_taken_for_ranks(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        while known := [pair for pair in pairwise(tokens) if pair in self.merges]:
            tokens = sweep(tokens, min(known, key=lambda pair: self.given["".join(pair)]))
        return tokens


@exercise.misconception(
    hint="Where the earliest pair stands in several places you join the last of them. It goes from left to right; the "
    "difference shows in runs of one letter."
)
class rightmost_place_first(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        for left, right in self.merges:
            turned = sweep([token[::-1] for token in tokens[::-1]], (right[::-1], left[::-1]))
            tokens = [token[::-1] for token in turned[::-1]]
        return tokens


@exercise.misconception(
    hint="You go through the merges once and join each in one place of the word only. It may stand there several times."
)
class each_merge_in_one_place(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        for pair in self.merges:
            at = next((i for i, both in enumerate(pairwise(tokens)) if both == pair), len(tokens))
            tokens = tokens[:at] + sweep(tokens[at : at + 2], pair) + tokens[at + 2 :]
        return tokens


@exercise.misconception(
    hint="You join one pair for each word and stop. The joined token makes new pairs with its neighbours: look again, "
    "until no pair is known."
)
class joined_only_once(Varied):
    def joined(self, tokens: list[str]) -> list[str]:
        pair = next((pair for pair in self.merges if pair in pairwise(tokens)), None)
        return sweep(tokens, pair) if pair else tokens


@exercise.misconception(
    hint="You start from one token for each character, so a character of several bytes stays whole or is lost. Start "
    "from the single symbols; the merges put them together."
)
class one_token_for_each_character(Varied):
    def symbols(self, word: str) -> list[str]:
        return [to_symbols(character.encode()) for character in word]

    def joined(self, tokens: list[str]) -> list[str]:
        return [token for token in super().joined(tokens) if token in self.given]


@exercise.misconception(
    hint="Symbols that vocab lacks are left out too late: while they stand between two others, these cannot be joined. "
    "Leave them out first."
)
class missing_symbols_left_out_late(Varied):
    def symbols(self, word: str) -> list[str]:
        return list(to_symbols(word.encode()))

    def joined(self, tokens: list[str]) -> list[str]:
        return [token for token in super().joined(tokens) if token in self.given]


@exercise.misconception(
    hint="A symbol that vocab lacks becomes id 0, as if there were an unknown-token. There is none here, and id 0 is "
    "another token: leave the symbol out."
)
class missing_symbols_become_zero(missing_symbols_left_out_late):
    def joined(self, tokens: list[str]) -> list[str]:
        zero = self.tokens_by_id[0]
        return [token if token in self.given else zero for token in Varied.joined(self, tokens)]


@exercise.misconception(
    hint="Your words are not those of split_words: a pattern with \\w, say, puts digits and letters into one word and "
    "cuts endings such as 's in two."
)
class words_of_another_pattern(Varied):
    def split(self, text: str) -> list[str]:
        return re.findall(r" ?\w+| ?[^\w\s]+|\s+", text)


@exercise.misconception(
    hint="Each special text is cut out only where it stands first. A conversation holds many ends of turns: find "
    "them all."
)
class special_texts_found_once(Varied):
    def encode(self, text: str) -> list[int]:
        for mark, mark_id in self.marks.items():
            before, here, after = text.partition(mark)
            if here:
                return [*self.encode(before), mark_id, *special_texts_cut_up.encode(self, after)]  # type: ignore[arg-type]
        return special_texts_cut_up.encode(self, text)  # type: ignore[arg-type]


@exercise.misconception(
    hint="Your decoded text still holds byte symbols (Ã© for é). Symbols go back to bytes with to_bytes, and the "
    "bytes, all together, to text."
)
class symbols_not_turned_back(Varied):
    def decode(self, ids: list[int]) -> str:
        symbols = "".join(self.tokens_by_id[i] for i in ids)
        return symbols.replace("\u0120", " ").replace("\u010a", "\n")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)

    def made(
        name: str, about: str, merges: str, text: str, visible: bool = True, lacks: str = "", special: str = "<|end|>"
    ) -> Case:
        """A tokenizer small enough to follow by hand; its ids run against the merges."""
        marks = [special] * bool(special)
        pairs = [(left, right) for left, _, right in (pair.partition("+") for pair in merges.split())]
        symbols = sorted({*to_symbols(text.encode()), *"".join(map("".join, pairs))} - {*lacks})
        tokens = [*marks, *symbols, *dict.fromkeys(map("".join, pairs))]
        vocab = {token: number for number, token in enumerate(reversed(tokens))}
        ids = [*chance.choices(range(len(tokens)), k=4), *(vocab[mark] for mark in marks), vocab[tokens[-1]]]
        return Case(name, given(pairs, vocab, marks, text, ids, "made"), about, visible)

    def real(name: str, about: str, text: str, keep: slice = slice(None), visible: bool = True) -> Case:
        """SmolLM2's own merges, those that matter for this text; decode gets a part of the text's ids."""
        merges, vocab = merges_for([text, *SPECIAL])
        ids = smollm_bpe().encode(text).ids[keep]
        return Case(name, given(merges, vocab, list(SPECIAL), text, ids, "SmolLM2"), about, visible)

    yield made("by hand", "with five merges", "c+\u0120 b+c a+b a+bc \u0120+abc", "abc ab abc")
    yield real("a sentence", "on English", chance.choice(["Tokens aren't words,", "It's 7 o'clock,"]) + " are they?")
    yield real("a chat turn", "with special tokens", "<|im_end|>\n<|im_start|>user\nHi there!<|im_end|>\n<|endoftext|>")
    yield real("emoji", "when one character takes several tokens", f"caf\u00e9 {FAMILY}!")
    yield real("half a character", "when decode gets a part of an emoji", f" {FAMILY}", slice(1, chance.choice([2, 3])))
    yield made("a symbol missing", "when vocab lacks a symbol", "!+! a+b", "ab!\x04! \x04", lacks=to_symbols(b"\x04"))
    yield made("out of reach", "when merges never make a token that vocab holds", "b+c a+b ab+c", "abc ab abcd")
    yield made("no special text", "when there are no special texts", "a+b ab+c", "abc abab", special="")
    about = "when a special text holds spaces"
    yield made("spaces in a special text", about, "a+b n+d", "ab<end of turn> band", special="<end of turn>")
    yield made("runs", "in runs of one letter", "a+a aa+aa aa+b b+a", "aaaaab aab baaa", visible=False)
    code = chance.choice(list(NOT_PROSE.values()))
    yield real("code", "on code, tables or logs", code, visible=False)
    for number, language in enumerate(chance.sample(sorted(NOTICE), 3), 1):
        text = f" {NOTICE[language]}\n\n"
        yield real(
            f"language {number}", "on one of fourteen languages", text, slice(chance.randint(0, 5), 40), visible=False
        )
    yield made("no text", "on an empty text", "a+b", "", visible=False)


def given(merges: list[Pair], vocab: dict[str, int], special: list[str], text: str, ids: Any, origin: str) -> Any:
    return {"text": text, "ids": ids, "merges": merges, "vocab": vocab, "special": special, "origin": origin}


@exercise.probe
def probe(answer: Any, text: str, ids: list[int], merges: Any, vocab: Any, special: list[str], origin: str) -> Any:
    """Encodes the text twice with one tokenizer, and decodes the given ids, which need not be the text's."""
    tokenizer = answer(merges, vocab, special)
    first, decoded = listed(tokenizer.encode(text)), tokenizer.decode(list(ids))
    return {"encode(text)": first, "decode(ids)": decoded, "encode(text) again": listed(tokenizer.encode(text))}


def listed(ids: Iterable[int] | None) -> list[int] | None:
    return None if ids is None else list(ids)


@exercise.oracle
def oracle(text: str, ids: list[int], merges: Any, vocab: Any, special: list[str], origin: str) -> Any:
    """SmolLM2's tokenizer as it is, or the library's BPE with the merges made by hand."""
    tokenizer = smollm_bpe() if origin == "SmolLM2" else library_tokenizer(merges, vocab, special)
    encoded, decoded = tokenizer.encode(text).ids, tokenizer.decode(ids, skip_special_tokens=False)
    return {"encode(text)": encoded, "decode(ids)": decoded, "encode(text) again": encoded}


@exercise.diagnose
def diagnose(got: Any, want: Any, vocab: dict[str, int], **_: Any) -> str | None:
    """The tokens around the first id that differs."""
    token = {token_id: token for token, token_id in vocab.items()}
    mine, theirs = ([token.get(i, "?") for i in each["encode(text)"]] for each in (got, want))
    first = next(
        (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(map(len, (mine, theirs)))
    )
    if mine == theirs:
        return None
    here = slice(max(0, first - 1), first + 4)
    return f"Your tokens from there: {' '.join(mine[here])}; the library's: {' '.join(theirs[here])}"

"""Learning byte-pair merges, Sennrich, Haddow and Birch 2016 (arXiv:1508.07909), algorithm 1.

One worked example: in {"low": 5, "lowest": 2} the pairs (l, o) and (o, w) both occur 7 times. l comes before o, so
(l, o) is joined first, then (lo, w).
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import Any

from course.lessons.l01_tokens.byte_level import split_words, to_symbols
from course.lessons.l01_tokens.texts import NOTICE
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-train-bpe",
    title="Train byte-pair merges",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("tokenisation",),
    hints=(
        "Keep, for every word, the list of its current tokens. One round: count, choose, join, write down.",
        "The count of a pair is a sum over words: each place where it stands adds the number of times the word occurs.",
        "For ties, keep a dictionary from token to number. Then every pair has one key to compare by: its count turned "
        "negative, the left token's number, the right token's number.",
    ),
    forbidden=("tokenizers", "transformers", "course.lessons.l01_tokens.smollm"),
    library_note="BpeTrainer does not count everything anew after each merge. It keeps for every pair the words that "
    "hold it, changes only the counts beside the places that were joined, and finds the best pair with a heap. That "
    "is how 48,900 merges over gigabytes take minutes. Real trainings often set min_frequency=2 besides, so that "
    "pairs seen once are left alone.",
    interview="How is a BPE vocabulary trained, and why can it encode any text at all?",
)

Words = dict[str, int]
Pair = tuple[str, str]


@exercise.reference
def train_bpe(words: dict[str, int], merges_wanted: int) -> list[tuple[str, str]]:
    """Learn which pairs of tokens to join, from words and how often each occurs.

    words: word -> its count, at least 1; left as it is. A word is a non-empty string of byte symbols ("Ġthe"). Its
        tokens are, at the start, its single characters. A pair never reaches from one word into another.
    merges_wanted: how many merges to learn, 0 or more. Stop earlier when no word has two tokens left; so words that is
        empty, or holds single characters only, gives [].
    Returns the merges in the order learned, each as (left token, right token).

    One round: count every pair of neighbouring tokens, weighing each place by its word's count (in "aaa" the pair
    ("a", "a") stands in two places); take the pair with the highest count, even if that is 1; join it wherever it
    stands, from left to right ("aaa" becomes "aa", "a").
    Ties: tokens are numbered. First come the single characters, by code point (what `ord` gives), then the joined
    tokens in the order learned (no token is ever learned twice). Among pairs with the highest count the one whose left
    token has the smallest number wins; if several have that left token, the one whose right token has the smallest
    number.
    Example: {"low": 5, "lowest": 2} with merges_wanted=2 gives [("l", "o"), ("lo", "w")].
    """
    number = {character: ord(character) for word in words for character in word}
    tokens_of = {word: list(word) for word in words}
    learned: list[tuple[str, str]] = []
    while len(learned) < merges_wanted:
        frequency: Counter[tuple[str, str]] = Counter()
        for word, tokens in tokens_of.items():
            for neighbours in pairwise(tokens):
                frequency[neighbours] += words[word]
        if not frequency:
            break
        best = min(frequency, key=lambda each: (-frequency[each], number[each[0]], number[each[1]]))
        learned.append(best)
        # Beyond every code point. The token is new: where its characters become one token, no merge has crossed their
        # ends, so the merges so far did there what they did at the first such place, where it is one token by now.
        number["".join(best)] = 0x110000 + len(learned)
        for tokens in tokens_of.values():
            for place in range(len(tokens) - 1):
                if tuple(tokens[place : place + 2]) == best:
                    tokens[place : place + 2] = ["".join(best)]
    return learned


@exercise.alternative
def counts_kept_up_to_date(words: Words, merges_wanted: int) -> list[Pair]:
    ids = {symbol: rank for rank, symbol in enumerate(sorted({symbol for word in words for symbol in word}))}
    split: dict[str, tuple[str, ...]] = {}
    totals: Counter[Pair] = Counter()
    holders: dict[Pair, set[str]] = defaultdict(set)

    def enter(word: str, sign: int) -> None:
        for pair in pairwise(split[word]):
            totals[pair] += sign * words[word]
            holders[pair].add(word)

    for word in words:
        split[word] = tuple(word)
        enter(word, 1)
    merges: list[Pair] = []
    for _ in range(merges_wanted):
        alive = [(-total, ids[left], ids[right], left, right) for (left, right), total in totals.items() if total > 0]
        if not alive:
            return merges
        *_, left, right = min(alive)
        merges.append((left, right))
        ids[left + right] = len(ids)
        for word in list(holders[left, right]):
            enter(word, -1)
            split[word] = tuple(join(split[word], (left, right)))
            enter(word, 1)
    return merges


@exercise.alternative
def words_as_spaced_text(words: Words, merges_wanted: int) -> list[Pair]:
    spaced = {" ".join(word): count for word, count in words.items()}
    order = sorted(set("".join(words)))
    merges: list[Pair] = []
    while len(merges) < merges_wanted:
        seen: dict[Pair, int] = {}
        for text, count in spaced.items():
            parts = text.split(" ")
            for i in range(1, len(parts)):
                seen[parts[i - 1], parts[i]] = seen.get((parts[i - 1], parts[i]), 0) + count
        ranked = sorted(seen.items(), key=lambda item: (-item[1], order.index(item[0][0]), order.index(item[0][1])))
        if not ranked:
            break
        (left, right), _ = ranked[0]
        merges.append((left, right))
        order.append(left + right)
        whole_tokens = re.compile(rf"(?<!\S){re.escape(left)} {re.escape(right)}(?!\S)")
        spaced = {whole_tokens.sub(lambda match: match[0].replace(" ", ""), text): n for text, n in spaced.items()}
    return merges


def join(tokens: Any, pair: Pair) -> list[str]:
    """Tokens with each place of the pair joined, from the left."""
    out, at = [], 0
    while at < len(tokens):
        taken = 2 if tuple(tokens[at : at + 2]) == pair else 1
        out.append("".join(tokens[at : at + taken]))
        at += taken
    return out


def count(words: Words, split: dict[str, list[str]]) -> Counter[Pair]:
    counts: Counter[Pair] = Counter()
    for word, tokens in split.items():
        counts.update(dict.fromkeys(pairwise(tokens), 0))
        for pair in pairwise(tokens):
            counts[pair] += words[word]
    return counts


def learn(
    words: Words,
    merges_wanted: int,
    key: Callable[[Pair, dict[str, int]], Any] = lambda pair, number: (number[pair[0]], number[pair[1]]),
    counted: Callable[..., Counter[Pair]] = count,
    joined: Callable[..., list[str]] = join,
    least: int = 1,
    ordered: Callable[[str], Any] = sorted,
    number_every_token: bool = False,
) -> list[Pair]:
    """The training that the misconceptions vary.

    number_every_token: also those that no merge made. A wrong way of joining brings such tokens about; unnumbered, they
        raise a KeyError as soon as a tie asks for their number.
    """
    number = {symbol: place for place, symbol in enumerate(dict.fromkeys(ordered("".join(words))))}
    split, merges = {word: list(word) for word in words}, []
    for _ in range(merges_wanted):
        counts = counted(words, split)
        if not counts or max(counts.values()) < least:
            break
        most = max(counts.values())
        pair = min((pair for pair in counts if counts[pair] == most), key=lambda pair: key(pair, number))
        merges.append(pair)
        number.setdefault("".join(pair), len(number))
        split = {word: joined(tokens, pair) for word, tokens in split.items()}
        if number_every_token:
            for token in chain(*split.values()):
                number.setdefault(token, len(number))
    return merges


@exercise.misconception(
    hint="Among equally frequent pairs you take the one met first (that is what max over a Counter, or most_common, "
    "does). The result then depends on the order of the words; the docstring gives a rule that does not."
)
def ties_to_the_first_met(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, key=lambda pair, number: 0)


@exercise.misconception(
    hint="Among equally frequent pairs you compare the tokens as text. The rule compares their numbers: every joined "
    "token comes after all single characters, however it is spelt."
)
def ties_by_spelling(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, key=lambda pair, number: pair)


@exercise.misconception(
    hint="Among equally frequent pairs you take the one with the largest numbers, as max over (count, pair) does. The "
    "highest count wins, but then the smallest numbers do: the two pull in opposite directions."
)
def ties_to_the_largest(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, key=lambda pair, number: (-number[pair[0]], -number[pair[1]]))


@exercise.misconception(
    hint="You number the single characters in the order in which you meet them. Their numbers are fixed, whatever the "
    "order of the words: the docstring says which function gives them."
)
def characters_numbered_as_met(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, ordered=list)


@exercise.misconception(
    hint="Every word counts once in your totals. A word that occurs 5 times adds 5 at each place where the pair stands."
)
def word_counts_ignored(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(dict.fromkeys(words, 1), merges_wanted)


@exercise.misconception(
    hint="A pair that stands in a word more than once is counted once for that word. Every place counts."
)
def once_for_each_word(words: Words, merges_wanted: int) -> list[Pair]:
    def by_word(words: Words, split: dict[str, list[str]]) -> Counter[Pair]:
        return sum((Counter(dict.fromkeys(pairwise(split[word]), words[word])) for word in split), Counter())

    return learn(words, merges_wanted, counted=by_word)


@exercise.misconception(
    hint="In a run such as aaa you count only pairs that could be joined at the same time. Counting is simpler: every "
    "two neighbours are a place, and aaa has two."
)
def runs_counted_without_overlap(words: Words, merges_wanted: int) -> list[Pair]:
    def without_overlap(words: Words, split: dict[str, list[str]]) -> Counter[Pair]:
        counts = count(words, split)
        for left, right in counts:
            if left == right:
                places = [len(split[word]) - len(join(split[word], (left, right))) for word in split]
                counts[left, right] = sum(n * words[word] for n, word in zip(places, split, strict=True))
        return counts

    return learn(words, merges_wanted, counted=without_overlap)


def joined_in_spaced_text(tokens: list[str], pair: Pair) -> list[str]:
    """The wrong join of two misconceptions: it also takes the end of one token and the start of the next for a pair."""
    return " ".join(tokens).replace(" ".join(pair), "".join(pair)).split(" ")


@exercise.misconception(
    hint="You join inside other tokens too: with the tokens held in one spaced string, replacing the text of a pair "
    "also hits the end of a longer token, or the start of one. Compare whole tokens."
)
def joined_inside_tokens(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, joined=joined_in_spaced_text, number_every_token=True)


@exercise.misconception(
    hint="A token comes up that has no number, because no merge made it: replacing the text of a pair in a spaced "
    "string also joins the end of one token to the start of the next. Compare whole tokens."
)
def joined_inside_tokens_unnumbered(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, joined=joined_in_spaced_text)


@exercise.misconception(
    hint="In each word only the first place of the pair is joined. All of them are, from left to right."
)
def only_the_first_place_joined(words: Words, merges_wanted: int) -> list[Pair]:
    def first_only(tokens: list[str], pair: Pair) -> list[str]:
        at = next((i for i, both in enumerate(pairwise(tokens)) if both == pair), None)
        return tokens if at is None else [*tokens[:at], "".join(pair), *tokens[at + 2 :]]

    return learn(words, merges_wanted, joined=first_only)


@exercise.misconception(
    hint="You stop when the best pair occurs only once. That is a common setting of real trainers, but not this "
    "task's: go on until enough merges are learned or no pair is left."
)
def stopped_at_pairs_seen_once(words: Words, merges_wanted: int) -> list[Pair]:
    return learn(words, merges_wanted, least=2)


@exercise.misconception(
    hint="You count once and take the most frequent pairs from that one table. After a join the neighbours have "
    "changed, and pairs with the new token exist: count again in each round."
)
def counted_only_once(words: Words, merges_wanted: int) -> list[Pair]:
    counts = count(words, {word: list(word) for word in words})
    return sorted(counts, key=lambda pair: (-counts[pair], ord(pair[0]), ord(pair[1])))[:merges_wanted]


@exercise.misconception(
    hint="When no word has two tokens left, there is no pair to choose from, and the search for the most frequent one "
    "fails. Stop there and return what was learned."
)
def no_pair_left_raises(words: Words, merges_wanted: int) -> list[Pair]:
    merges = learn(words, merges_wanted)
    return merges if len(merges) == merges_wanted else [max(())]


@exercise.misconception(
    hint="You return the joined tokens. A merge is the pair itself, left and right: abc may be made of ab and c or of "
    "a and bc, and encoding needs to know which."
)
def joined_tokens_returned(words: Words, merges_wanted: int) -> Any:
    return [left + right for left, right in learn(words, merges_wanted)]


@exercise.misconception(hint="Pairs are joined from the right: in aaa you join the last two. Go from left to right.")
def joined_from_the_right(words: Words, merges_wanted: int) -> list[Pair]:
    def from_the_right(tokens: list[str], pair: Pair) -> list[str]:
        turned = join([token[::-1] for token in tokens[::-1]], (pair[1][::-1], pair[0][::-1]))
        return [token[::-1] for token in turned[::-1]]

    return learn(words, merges_wanted, joined=from_the_right)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)

    def drawn(letters: str, words: int, longest: int, most: int) -> Words:
        made = ("".join(chance.choices(letters, k=chance.randint(1, longest))) for _ in range(words))
        return {word: chance.randint(1, most) for word in made}

    def of_text(text: str) -> Words:
        return dict(Counter(to_symbols(word.encode()) for word in split_words(text)))

    yield Case("two words", {"words": {"low": 5, "lowest": 2}, "merges_wanted": 4}, "on the docstring's example")
    yield Case("counts matter", {"words": drawn("lowerst", 8, 6, 9), "merges_wanted": 6}, "when words occur often")
    about = "when many pairs are equally frequent"
    yield Case("ties", {"words": drawn("dcba", 6, 5, 1), "merges_wanted": 8}, about)
    yield Case("runs", {"words": {"aaaaa": 2, "baaab": 1, "bb": 5}, "merges_wanted": 5}, "in runs of one letter")
    yield Case("nothing left", {"words": {"abc": 1, "d": 3}, "merges_wanted": 9}, "when no pair is left")
    yield Case("none wanted", {"words": {"ab": 2}, "merges_wanted": 0}, "when no merge is wanted", visible=False)
    yield Case("no words", {"words": {}, "merges_wanted": 3}, "when there are no words", visible=False)
    for i, letters in enumerate(("ab", "cba", "edcba")):
        words = drawn(letters, 9, 9, 3)
        about = "on random words of few letters"
        yield Case(f"random {i + 1}", {"words": words, "merges_wanted": 15}, about, visible=False)
    language = chance.choice(["Greek", "Hindi", "Korean", "Turkish"])
    words = of_text(NOTICE[language] + " \N{HUGGING FACE}\N{HUGGING FACE}")
    about = "on the bytes of a text that is not English"
    yield Case("bytes of text", {"words": words, "merges_wanted": 30}, about, visible=False)


@exercise.oracle
def oracle(words: Words, merges_wanted: int) -> list[Pair]:
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the words come ready-made
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings: Any = {"vocab_size": len(alphabet) + merges_wanted, "initial_alphabet": alphabet, "show_progress": False}
    occurrences = (word for word, count in words.items() for _ in range(count))
    tokenizer.train_from_iterator(occurrences, trainers.BpeTrainer(**settings))
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"][:merges_wanted]]


@exercise.diagnose
def diagnose(got: Any, want: list[Pair], words: Words, merges_wanted: int) -> str | None:
    """The counts of both pairs in the round where they part."""
    agreed = next((i for i, pair in enumerate(want) if got[i : i + 1] != [pair]), None)
    if agreed is None:
        return f"The first {len(want)} merges agree" if want else None
    split = {word: list(word) for word in words}
    for pair in want[:agreed]:
        split = {word: join(tokens, pair) for word, tokens in split.items()}
    counts = count(words, split)
    so_far = f"The first {agreed} merges agree" if agreed else "The first merge differs already"
    if agreed >= len(got):
        return f"{so_far}; there {want[agreed]} still stands {counts[want[agreed]]} times"
    mine, theirs = counts[tuple(got[agreed])], counts[want[agreed]]
    tie = ": a tie" if mine == theirs else ""
    return f"{so_far}; your pair counts {mine} there, the expected one {theirs}{tie}"

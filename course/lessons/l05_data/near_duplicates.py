"""Near-duplicates by MinHash, Broder 1997: the share of equal minima estimates the Jaccard similarity of two sets.

One worked number: for two random hash orders of all shingles, the chance that two sets have the same smallest member is
their overlap divided by their union; with 128 orders the estimate of a similarity of 0.5 is off by 0.044 (one standard
deviation, sqrt(0.5 * 0.5 / 128)).
"""

from __future__ import annotations

import random
import re
from typing import Any

import torch
from torch import Tensor

from course.lessons.l05_data.hashing import shingle_hash
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-near-duplicates",
    title="Find near-duplicates with MinHash",
    points=4,
    minutes=20,
    difficulty="hard",
    importance="core",
    skills=("data",),
    hints=(
        "Three stages: a set of shingles for each text, a signature of K numbers for each set, a comparison of "
        "signatures. Write and print them one by one.",
        "Number k of a signature uses a[k] and b[k] for all shingles of the text and keeps one of the results.",
        "For the kept list go through the texts once, with the list of those kept so far in hand.",
    ),
    forbidden=("datasketch",),
    library_note="datasketch keeps signatures as uint32 arrays, where the remainder comes free with overflow, and "
    "finds candidates among millions of texts by locality-sensitive hashing (MinHashLSH: signatures cut into bands, "
    "texts with an equal band compared) instead of comparing all pairs.",
    interview="How do you find near-duplicates in ten million rows, and why before the split?",
)


@exercise.reference
def near_duplicates(texts: list[str], a: list[int], b: list[int], threshold: float) -> tuple[Tensor, list[int]]:
    r"""Estimated similarity of all pairs of N texts (at least one), and which texts to keep.

    a, b: K whole numbers each (at least one), from 0 to 2**32 - 1, which define K hash orders. Those in a are odd:
        modulo 2**32, two different hashes then never get the same number in one order.
    threshold: from this estimated similarity on (>=), two texts count as duplicates.

    Shingles: put the text into lower case (str.lower) and find its words with the regular expression \w+ (as re reads
    it for str: letters of all scripts, digits and _ are in, apostrophes and hyphens are not); the text's set holds
    every run of three words that follow each other, joined by single spaces. A text of fewer than three words has one
    shingle: all of its words, joined likewise (the empty string if there are none, so such texts are all alike).
    Signature: K numbers, number k being the least value of (a[k] * shingle_hash(s) + b[k]) modulo 2**32 over all
    shingles s of the text. shingle_hash(s) is given (course.lessons.l05_data.hashing): a whole number below 2**32.
        (The product can pass 63 bits. In torch.int64 it wraps around, which does not change the remainder modulo 2**32;
        in floating point it would.)
    Estimate: the share of the K places at which two signatures are equal.

    Returns a pair: the estimates as a float32 tensor (N, N), and the indices of the kept texts in ascending order. A
    text is kept unless it is a duplicate of an earlier text that was itself kept. (Where only the rounding to float32
    moves a share across the threshold, both readings are accepted.)
    Source: Broder 1997, "On the resemblance and containment of documents".
    """
    signatures = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        shingles = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        hashes = [shingle_hash(shingle) for shingle in shingles]
        signatures.append([min((x * h + y) % 2**32 for h in hashes) for x, y in zip(a, b, strict=True)])
    table = torch.tensor(signatures)  # (N, K)
    similarity = (table[:, None] == table[None, :]).float().mean(2)
    kept: list[int] = []
    for number in range(len(texts)):
        if not any(similarity[number, earlier] >= threshold for earlier in kept):
            kept.append(number)
    return similarity, kept


@exercise.alternative
def with_tensors(texts, a, b, threshold):
    rows = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        runs = list(zip(words, words[1:], words[2:], strict=False)) or [tuple(words)]
        hashes = torch.tensor([shingle_hash(" ".join(run)) for run in runs])  # int64; repeats change no minimum
        rows.append((torch.tensor(a)[:, None] * hashes + torch.tensor(b)[:, None]).bitwise_and(0xFFFFFFFF).amin(1))
    similarity = torch.stack([torch.stack([(x == y).float().mean() for y in rows]) for x in rows])
    dropped: set[int] = set()
    for number in range(len(texts)):
        close = similarity[number, :number].ge(threshold).nonzero().flatten().tolist()
        if set(close) - dropped:
            dropped.add(number)
    return similarity, [number for number in range(len(texts)) if number not in dropped]


def shingle_set(text: str, size: int = 3, lower: bool = True, pattern: str = r"\w+") -> set[str]:
    words = re.findall(pattern, text.lower() if lower else text)
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def minima(shingles: set[str], a: list[int], b: list[int]) -> list[int]:
    return [min((x * shingle_hash(s) + y) % 2**32 for s in shingles) for x, y in zip(a, b, strict=True)]


def judged(signatures: list[list[int]], threshold: float, keep: Any = None) -> tuple[Tensor, list[int]]:
    """Estimates and kept texts from signatures; `keep` decides from (similarity to earlier texts, kept so far)."""
    table = torch.tensor(signatures)
    similarity = (table[:, None] == table).float().mean(2)
    kept: list[int] = []
    for n in range(len(table)):
        close = [m for m in range(n) if similarity[n, m] >= threshold]
        if keep(n, close, kept, similarity) if keep else not set(close) & set(kept):
            kept.append(n)
    return similarity, kept


@exercise.misconception(
    hint="Your sets hold single words, so two texts with the same words in another order look alike. A shingle is a "
    "run of three words."
)
def single_words(texts, a, b, threshold):
    return judged([minima(shingle_set(text, size=1), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Capital letters make different shingles in your sets. Put the text into lower case first, or a changed first "
    "letter hides a copy."
)
def capitals_kept(texts, a, b, threshold):
    return judged([minima(shingle_set(text, lower=False), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Words are split at spaces, so a comma or question mark sticks to its word and makes another one of it. The "
    "docstring names a regular expression for words."
)
def split_at_spaces(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"\S+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="These are exact Jaccard similarities of the shingle sets. Asked for is the estimate from K minima, which is "
    "what can be stored and compared for millions of texts."
)
def exact_jaccard(texts, a, b, threshold):
    sets = [shingle_set(text) for text in texts]
    exact = torch.tensor([[len(x & y) / len(x | y) for y in sets] for x in sets])
    return exact, judged([minima(shingles, a, b) for shingles in sets], threshold)[1]


@exercise.misconception(
    hint="One and the same shingle gives all K numbers of a text: every order is the same one, stretched. The "
    "remainder modulo 2**32 is missing, or % without brackets takes it of b alone, or the least hash is taken before a "
    "and b come in."
)
def remainder_forgotten(texts, a, b, threshold):
    sets = [shingle_set(text) for text in texts]
    return judged(
        [[min(x * shingle_hash(s) + y for s in z) for x, y in zip(a, b, strict=True)] for z in sets], threshold
    )


@exercise.misconception(
    hint="Signatures hold the K smallest hashes of one order, compared place by place. Each of the K numbers needs an "
    "order of its own, made with its own a and b."
)
def smallest_of_one_order(texts, a, b, threshold):
    hashes = [sorted(shingle_hash(s) for s in shingle_set(text)) for text in texts]
    return judged([(row * len(a))[: len(a)] for row in hashes], threshold)


@exercise.misconception(hint="Signatures hold the largest values. Asked for is the least one in each order.")
def largest_instead_of_least(texts, a, b, threshold):
    sets = [[shingle_hash(s) for s in shingle_set(text)] for text in texts]
    return judged([[max((x * h + y) % 2**32 for h in z) for x, y in zip(a, b, strict=True)] for z in sets], threshold)


@exercise.misconception(hint="Your shingles are runs of two words. The docstring asks for runs of three.")
def runs_of_two(texts, a, b, threshold):
    return judged([minima(shingle_set(text, size=2), a, b) for text in texts], threshold)


@exercise.misconception(hint="Your shingles are runs of three characters. Here they are runs of three words.")
def runs_of_characters(texts, a, b, threshold):
    runs = [{text.lower()[i : i + 3] for i in range(max(1, len(text) - 2))} for text in texts]
    return judged([minima(shingles, a, b) for shingles in runs], threshold)


@exercise.misconception(
    hint="Texts of fewer than three words have no shingle in your sets, so they all look the same. They have one: all "
    "of their words."
)
def short_texts_empty(texts, a, b, threshold):
    sets = [shingle_set(text) if len(re.findall(r"\w+", text)) >= 3 else {""} for text in texts]
    return judged([minima(shingles, a, b) for shingles in sets], threshold)


@exercise.misconception(
    hint="Of two near-copies the later one is kept. The earlier one stays: go through the texts from the front."
)
def later_copy_kept(texts, a, b, threshold):
    similarity, kept = judged([minima(shingle_set(text), a, b) for text in texts[::-1]], threshold)
    return similarity.flip(0, 1), [len(texts) - 1 - number for number in kept[::-1]]


@exercise.misconception(
    hint="A text is dropped when a later one resembles it, so the last of several copies stays. The first one stays: "
    "compare each text with the kept ones before it."
)
def dropped_for_a_later_one(texts, a, b, threshold):
    similarity, _ = judged([minima(shingle_set(text), a, b) for text in texts], threshold)
    return similarity, [n for n in range(len(texts)) if not (similarity[n, n + 1 :] >= threshold).any()]


@exercise.misconception(
    hint="A text whose similarity equals the threshold exactly is kept. From the threshold on means at least the "
    "threshold, or a threshold of 1 would never find a copy."
)
def threshold_excluded(texts, a, b, threshold):
    def keep(n, close, kept, similarity):
        return not any(similarity[n, m] > threshold for m in kept)

    return judged([minima(shingle_set(text), a, b) for text in texts], threshold, keep)


@exercise.misconception(
    hint="A text is dropped because it resembles one that was dropped before. It may be unlike everything that was "
    "kept; compare it with the kept texts only."
)
def compared_with_dropped_texts(texts, a, b, threshold):
    def keep(n, close, kept, similarity):
        return not close

    return judged([minima(shingle_set(text), a, b) for text in texts], threshold, keep)


@exercise.misconception(
    hint="Every text that has a double is dropped, the first one too, so the data loses it altogether. One of each "
    "group stays."
)
def no_copy_kept(texts, a, b, threshold):
    similarity, _ = judged([minima(shingle_set(text), a, b) for text in texts], threshold)
    return similarity, [n for n in range(len(texts)) if (similarity[n] >= threshold).sum() == 1]


@exercise.misconception(
    hint="Each text is compared with the one right before it only. Copies lie anywhere in the data; compare with all "
    "kept texts."
)
def neighbours_only(texts, a, b, threshold):
    def keep(n, close, kept, similarity):
        return n - 1 not in close

    return judged([minima(shingle_set(text), a, b) for text in texts], threshold, keep)


WORDS = re.findall(r"\w+", "list every room in the hotel that costs less than a hundred euros, with a view of the lake")


@exercise.misconception(
    hint="The remainder is taken before b is added: % binds more tightly than +. Put the sum into brackets."
)
def b_outside_the_remainder(texts, a, b, threshold):
    sets = [[shingle_hash(s) for s in shingle_set(text)] for text in texts]
    return judged([[min(x * h % 2**32 + y for h in z) for x, y in zip(a, b, strict=True)] for z in sets], threshold)


@exercise.misconception(
    hint="All texts come out as equal, as if no text held a word. Print what your regular expression finds in one "
    "text: is its backslash a single one?"
)
def no_words_found(texts, a, b, threshold):
    return judged([minima({""}, a, b) for _ in texts], threshold)


@exercise.misconception(
    hint="The remainder is taken by 2**32 - 1. Asked for is modulo 2**32, as many places as there are hashes."
)
def modulo_one_too_small(texts, a, b, threshold):
    sets = [[shingle_hash(s) for s in shingle_set(text)] for text in texts]
    last = 2**32 - 1
    return judged([[min((x * h + y) % last for h in z) for x, y in zip(a, b, strict=True)] for z in sets], threshold)


@exercise.misconception(hint="You return the texts to drop. Asked for are those that stay.")
def dropped_returned(texts, a, b, threshold):
    similarity, kept = judged([minima(shingle_set(text), a, b) for text in texts], threshold)
    return similarity, sorted(set(range(len(texts))) - set(kept))


@exercise.misconception(
    hint="The last run of three words is missing: of n words, n - 2 runs begin somewhere. Count on a short text."
)
def last_run_missed(texts, a, b, threshold):
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    sets = [{" ".join(w[i : i + 3]) for i in range(max(1, len(w) - 3))} for w in words]
    return judged([minima(shingles, a, b) for shingles in sets], threshold)


@exercise.misconception(hint="The three words of a shingle are joined without spaces. One space stands between words.")
def joined_without_spaces(texts, a, b, threshold):
    sets = [{s.replace(" ", "") for s in shingle_set(text)} for text in texts]
    return judged([minima(shingles, a, b) for shingles in sets], threshold)


@exercise.misconception(hint="a and b are swapped: a multiplies the hash, b is added.")
def a_and_b_swapped(texts, a, b, threshold):
    return judged([minima(shingle_set(text), b, a) for text in texts], threshold)


@exercise.misconception(
    hint="You compare the two signatures as sets. Number k of one belongs with number k of the other, since both come "
    "from the same order: count the equal places."
)
def signatures_as_sets(texts, a, b, threshold):
    kept = judged([minima(shingle_set(text), a, b) for text in texts], threshold)[1]
    sets = [set(minima(shingle_set(text), a, b)) for text in texts]
    return torch.tensor([[len(x & y) / len(x | y) for y in sets] for x in sets]), kept


@exercise.misconception(
    hint="A text of fewer than three words has no runs of three in your code, and min() of nothing raises an error. "
    "Such a text has one shingle: all of its words."
)
def short_texts_raise(texts, a, b, threshold):
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    sets = [{" ".join(w[i : i + 3]) for i in range(len(w) - 2)} for w in words]
    return judged([minima(shingles, a, b) for shingles in sets], threshold)


@exercise.misconception(
    hint="In a text of fewer than three words each word is a shingle of yours. Such a text has one: all of its words."
)
def short_texts_word_by_word(texts, a, b, threshold):
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    sets = [shingle_set(text) if len(w) > 2 else set(w) or {""} for text, w in zip(texts, words, strict=True)]
    return judged([minima(shingles, a, b) for shingles in sets], threshold)


@exercise.misconception(
    hint="Letters with accents are no part of your words: your pattern knows a to z only, or re.ASCII is on. \\w means "
    "the letters of all scripts."
)
def ascii_words(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern="[a-z0-9_]+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Your words are made of letters a to z and digits. \\w also stands for accented letters and for _."
)
def ascii_words_without_underscore(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern="[a-z0-9]+"), a, b) for text in texts], threshold)


@exercise.misconception(hint="Digits are no part of your words. \\w stands for letters, digits and the underscore.")
def letters_only(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"[^\W\d_]+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Your words are made of the letters a to z only. \\w stands for the letters of all scripts, digits and the "
    "underscore."
)
def letters_a_to_z_only(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern="[a-z]+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="An underscore separates words in your sets. For \\w it is a character like a letter, so a_b is one word."
)
def underscore_separates(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"[^\W_]+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Apostrophes are part of your words. \\w does not match them: don't is two words, don and t."
)
def apostrophes_kept(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"[\w']+"), a, b) for text in texts], threshold)


@exercise.misconception(hint="Hyphens are part of your words. \\w does not match them: two-bed is two words.")
def hyphens_kept(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"[\w-]+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Punctuation is deleted before the words are found, so the words on both sides of a hyphen or an apostrophe "
    "become one. Let the pattern find the words in the text as it is."
)
def punctuation_deleted(texts, a, b, threshold):
    bare = [re.sub(r"[^\w\s]", "", text) for text in texts]
    return judged([minima(shingle_set(text), a, b) for text in bare], threshold)


@exercise.misconception(
    hint="Texts are folded with str.casefold, which turns ß into ss. The docstring asks for lower case."
)
def casefold_is_not_lower(texts, a, b, threshold):
    return judged([minima(shingle_set(text.casefold(), lower=False), a, b) for text in texts], threshold)


@exercise.misconception(hint="Words of one letter are missing in your shingles. \\w+ matches them as well.")
def one_letter_words_missed(texts, a, b, threshold):
    return judged([minima(shingle_set(text, pattern=r"\w\w+"), a, b) for text in texts], threshold)


@exercise.misconception(
    hint="Each text is compared with the text kept last and with no other. Copies lie anywhere; compare with all kept "
    "texts."
)
def last_kept_only(texts, a, b, threshold):
    def keep(n, close, kept, similarity):
        return not kept or kept[-1] not in close

    return judged([minima(shingle_set(text), a, b) for text in texts], threshold, keep)


@exercise.misconception(
    hint="Texts without any word are never duplicates of yours, or are left out. They have one shingle, the empty "
    "string, so the first is kept and the others are its duplicates."
)
def wordless_texts_all_kept(texts, a, b, threshold):
    similarity, kept = judged([minima(shingle_set(text), a, b) for text in texts], threshold)
    return similarity, sorted({*kept, *(n for n, text in enumerate(texts) if not re.search(r"\w", text))})


@exercise.misconception(
    hint="Texts without any word are dropped. They have one shingle, the empty string, so the first of them is kept."
)
def wordless_texts_dropped(texts, a, b, threshold):
    similarity, kept = judged([minima(shingle_set(text), a, b) for text in texts], threshold)
    return similarity, [n for n in kept if re.search(r"\w", texts[n])]


@exercise.misconception(
    hint="Your numbers are rounded: a product can have 64 binary digits, and a float holds 53 (float32: 24). Other "
    "numbers then come out equal. Use whole numbers throughout."
)
def rounded_products(texts, a, b, threshold):
    sets = [[shingle_hash(s) for s in shingle_set(text)] for text in texts]
    return judged(
        [[int(min(float(x * h + y) % 2**32 for h in z)) for x, y in zip(a, b, strict=True)] for z in sets], threshold
    )


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)

    def case(name: str, about: str, texts: list[str], count: int, threshold: float, visible: bool = True) -> Case:
        a = [2 * words.randrange(2**31) + 1 for _ in range(count)]  # odd, so that each order is a permutation
        b = [words.randrange(2**32) for _ in range(count)]
        return Case(name, {"texts": texts, "a": a, "b": b, "threshold": threshold}, about, visible=visible)

    other = words.sample(WORDS, len(WORDS))
    numbered = [f"w{number}" for number in range(words.randint(3, 9) * 100, 1000)]
    chain = [" ".join(numbered[start : start + 20]) for start in (0, 4, 8)]
    asked = ["How many rooms are there in all?", "how many rooms are there, in all", "How many rooms are there now?"]
    asked += ["How many rooms are there in all of the hotels?", "And how many tickets are there in all, please?"]
    random_texts = [" ".join(words.choice(WORDS[:3]) for _ in range(words.randint(6, 12))) for _ in range(8)]
    short = ["", "Yes", "yes!", "?!", "oh yes", "Oh, yes", *random_texts[:4]]
    turned = [" ".join(WORDS), " ".join(reversed(WORDS)), " ".join(WORDS[:-3]), " ".join(other)]
    turned += [" ".join(WORDS[5:])]
    spelled = ["The naïve café isn't a well-known 2 room_list on Große Straße", "the naïve café isn t a well known 2"]
    spelled += [
        "the na ve caf isn t a well known 2",
        "The naïve café isnt a wellknown 2",
        "well known 2 room list on große",
    ]
    spelled += ["the naïve café isn't a well-known room_list", "2 ROOM_LIST ON GROSSE STRASSE", "on große straße", "2"]
    return [
        case("questions", "on five questions of which two are nearly the same", asked, 96, 0.9),
        case("orders", "when texts hold the same words in another order", turned, 128, 0.5),
        case("a chain", "when A resembles B and B resembles C, but A does not resemble C", chain, 128, 0.5),
        case("far apart", "when a copy comes much later", [*turned, *turned[:1]], 64, 1.0, visible=False),
        case("short", "on texts of no, one and two words", short, 96, 0.5),
        case("words", "on words with accents, digits, _, hyphens and apostrophes", spelled, 128, 0.3),
        case("no words", "when texts hold no word", ["...", "", "yes", " "], 16, 0.5, visible=False),
        neighbours(words),
        case("random", "on random texts of few words", random_texts, 128, 0.4, visible=False),
        case("one text", "on a single text", turned[:1], 8, 0.5, visible=False),
    ]


def neighbours(words: random.Random) -> Case:
    """Two texts whose numbers are different and next to each other in every order, so that rounding would meet them."""
    hashes = {word: shingle_hash(word) for word in WORDS}
    one, other = next((x, y) for x in WORDS for y in WORDS if (hashes[x] - hashes[y]) % 2)
    unit = pow(hashes[one] - hashes[other], -1, 2**32)
    a = [distance * unit % 2**32 for distance in range(1, 64, 2)]
    b = [words.randrange(2**32) for _ in a]
    given = {"texts": [one, other, one], "a": a, "b": b, "threshold": 0.5}
    return Case("neighbours", given, "when two texts' numbers lie close together in every order")


@exercise.probe
def probe(answer: Any, **inputs: Any) -> Any:
    """Calls the answer; a pair comes back by name, whatever kind of numbers it holds."""
    result = answer(**inputs)
    if result is None:
        return None
    similarity, kept = result
    return {"similarity": similarity, "kept": [int(number) for number in kept]}


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], texts: list[str], a: list[int], **rest: Any) -> str | None:
    """When the estimates are wrong and yet good: shingles and comparison are right, so it is the formula."""
    mine, sets = torch.as_tensor(got["similarity"]), [shingle_set(text) for text in texts]
    exact = torch.tensor([[len(x & y) / len(x | y) for y in sets] for x in sets])
    off = (mine - exact).abs() > 4 * (exact * (1 - exact) / len(a)).sqrt() + 1e-6
    places = mine * len(a)
    if off.any() or torch.allclose(mine.float(), want["similarity"]) or (places - places.round()).abs().max() > 1e-3:
        return None
    return (
        "As estimates of the Jaccard similarity yours are as good, so shingles and comparison seem right; what differs "
        "is how a signature's numbers are made: shingle_hash and no other hash, a, b, the remainder, the least value"
    )


@exercise.oracle
def oracle(texts: list[str], a: list[int], b: list[int], threshold: float) -> dict[str, Any]:
    from datasketch import MinHash

    sketches = [MinHash(num_perm=len(a), permutations=(a, b), scheme="affine32") for _ in texts]
    for sketch, text in zip(sketches, texts, strict=True):
        words = re.sub(r"[^\w]+", " ", text.lower()).split()
        size = min(3, len(words))
        sketch.update_batch(" ".join(words[i : i + size]).encode() for i in range(len(words) - size + 1))
    similarity = torch.tensor([[one.jaccard(other) for other in sketches] for one in sketches])
    kept: list[int] = []
    for number, sketch in enumerate(sketches):
        if all(sketch.jaccard(sketches[earlier]) < threshold for earlier in kept):
            kept.append(number)
    return {"similarity": similarity, "kept": kept}

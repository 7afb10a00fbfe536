"""Pairs of learners whose answers share fragments that hardly anyone else has. It lists evidence; it judges nobody.

A fragment of the stub or of the course's own answer (which `solution()` shows) counts nothing. Any other counts
1 / (n - 1) when n learners have it, and nothing from seven on: that is how the class writes. Two answers' similarity is
the Jaccard index with these weights. Answers that are equal to the letter, comments and names included, are listed
however common their fragments are, unless more than six learners handed in that very text.

The index is exact, through one sparse matrix per exercise. MinHash (as in datasketch) estimates it without weights, and
would save nothing: nearly all of the time goes into reading the answers as Python, which it needs as well.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from grader.report.clusters import Sources
from grader.report.excerpt import without_docstrings
from grader.report.fragments import FRAGMENT_TOKENS, Fragment, Token, fragments_of, tokens_of

LEAST_SIMILARITY = 0.6
LEAST_WEIGHT = 12.0
MOST_SHARING = 6
LINE_BREAK = re.compile(r"(\s*\n\s*)")


@dataclass(frozen=True)
class Span:
    """A piece of source, marked when it lies in a fragment that both have and at most `MOST_SHARING` learners share."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Alike:
    """One exercise on which two answers are alike, without their docstrings.

    weight: of the fragments they share; identical: to the letter, comments included.
    """

    exercise_id: str
    similarity: float
    weight: float
    identical: bool
    same_wrong_outcome: bool
    left: tuple[Span, ...]
    right: tuple[Span, ...]


@dataclass(frozen=True)
class Pair:
    """Two learners with answers alike. weight: how much they share that others do not, over all of `alike`."""

    left: str
    right: str
    weight: float
    alike: tuple[Alike, ...]


@dataclass(frozen=True)
class _Answer:
    """source: as handed in; excerpt: without docstrings, which is what is compared and shown."""

    source: str
    excerpt: str
    tokens: list[Token]
    fragments: list[Fragment]


def find_pairs(
    sources: Sources, known: Mapping[str, tuple[str, ...]], outcomes: Mapping[tuple[str, str], str]
) -> tuple[Pair, ...]:
    """Pairs with at least one exercise alike, the strongest first.

    known: exercise id -> sources that everybody has (stub, the course's answer). outcomes: (learner, exercise id) ->
    outcome digest of a wrong answer.
    """
    alike: dict[tuple[str, str], list[Alike]] = defaultdict(list)
    for exercise_id, given in known.items():
        answers = {learner: _read(mine[exercise_id]) for learner, mine in sources.items() if mine.get(exercise_id)}
        common = {fragment for source in given for fragment in fragments_of(tokens_of(source))}
        for left, right, found in _alike(exercise_id, answers, common, outcomes):
            alike[left, right].append(found)
    pairs = [Pair(*names, sum(each.weight for each in found), tuple(found)) for names, found in alike.items()]
    return tuple(sorted(pairs, key=lambda pair: (-pair.weight, pair.left, pair.right)))


def _read(source: str) -> _Answer:
    excerpt = without_docstrings(source)
    tokens = tokens_of(excerpt)
    return _Answer(source, excerpt, tokens, fragments_of(tokens))


def _alike(
    exercise_id: str,
    answers: Mapping[str, _Answer],
    common: set[Fragment],
    outcomes: Mapping[tuple[str, str], str],
) -> list[tuple[str, str, Alike]]:
    from scipy.sparse import csr_array

    learners = sorted(answers)
    columns: dict[Fragment, int] = {}
    rows, places = [], []
    for row, learner in enumerate(learners):
        for fragment in set(answers[learner].fragments) - common:
            rows.append(row)
            places.append(columns.setdefault(fragment, len(columns)))
    if not columns:
        return []
    has = csr_array((np.ones(len(rows)), (rows, places)), shape=(len(learners), len(columns)))
    sharing = np.asarray(has.sum(axis=0)).reshape(-1)
    weights = np.where(sharing <= MOST_SHARING, 1 / np.maximum(sharing - 1, 1), 0.0)
    weighted = has.multiply(weights).tocsr()
    own = np.asarray(weighted.sum(axis=1)).reshape(-1)
    several = (sharing > 1) & (sharing <= MOST_SHARING)
    shared = (weighted[:, several] @ has[:, several].T).tocoo()
    pairs = _identical(learners, answers, common)
    for i, j, weight in zip(*shared.coords, shared.data, strict=True):
        similarity = weight / (own[i] + own[j] - weight)
        if i < j and weight >= LEAST_WEIGHT and similarity >= LEAST_SIMILARITY:
            key = learners[i], learners[j]
            pairs[key] = max(pairs.get(key, (0.0, 0.0)), (float(similarity), float(weight)))
    rare = {fragment for fragment, column in columns.items() if 1 < sharing[column] <= MOST_SHARING}
    found = []
    for (left, right), (similarity, weight) in pairs.items():
        both = set(answers[left].fragments) & set(answers[right].fragments) & rare
        wrong = outcomes.get((left, exercise_id), "")
        one = Alike(
            exercise_id,
            similarity,
            weight,
            answers[left].source == answers[right].source,
            bool(wrong) and wrong == outcomes.get((right, exercise_id)),
            spans(answers[left], both),
            spans(answers[right], both),
        )
        found.append((left, right, one))
    return found


def _identical(
    learners: list[str], answers: Mapping[str, _Answer], common: set[Fragment]
) -> dict[tuple[str, str], tuple[float, float]]:
    """(left, right) -> (similarity, weight) of answers that are one text, which few others handed in."""
    same: dict[str, list[str]] = defaultdict(list)
    for learner in learners:
        same[answers[learner].source].append(learner)
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for group in same.values():
        if 2 <= len(group) <= MOST_SHARING:
            weight = len(set(answers[group[0]].fragments) - common) / (len(group) - 1)
            if weight >= LEAST_WEIGHT:
                found |= dict.fromkeys(combinations(group, 2), (1.0, weight))
    return found


def spans(answer: _Answer, rare: set[Fragment]) -> tuple[Span, ...]:
    """The answer cut where marking begins and ends; put together again it is the whole."""
    starts = [0]
    for line in io.StringIO(answer.excerpt):  # As `tokenize` counts: splitlines also splits at form feeds.
        starts.append(starts[-1] + len(line))
    marked: list[tuple[int, int]] = []
    for number, fragment in enumerate(answer.fragments):
        if fragment in rare:
            first, last = answer.tokens[number], answer.tokens[number + FRAGMENT_TOKENS - 1]
            begin, end = (starts[row - 1] + column for row, column in (first.start, last.end))
            if marked and begin <= marked[-1][1]:
                marked[-1] = marked[-1][0], max(end, marked[-1][1])
            else:
                marked.append((begin, end))
    pieces, position = [], 0
    for begin, end in marked:
        pieces.append(Span(answer.excerpt[position:begin], False))
        between = LINE_BREAK.split(answer.excerpt[begin:end])  # Odd places: line breaks with the indent that follows.
        pieces += [Span(text, place % 2 == 0) for place, text in enumerate(between)]
        position = end
    return tuple(piece for piece in [*pieces, Span(answer.excerpt[position:], False)] if piece.text)

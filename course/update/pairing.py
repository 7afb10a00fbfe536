"""Which cell of one notebook is which of another."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from difflib import SequenceMatcher

from course.update.cells import Cell, answer_name, defines, grade_id, is_answer, is_permanent, text_of

LEAST_LIKENESS = 0.4  # of their words, for two prose or demo cells at the same place to count as one that changed

Pairs = dict[int, int]


def pair_versions(old: Sequence[Cell], new: Sequence[Cell]) -> Pairs:
    """Old position -> new position, of two shipped versions.

    Exercise cells are paired by their permanent ids; prose and demo cells, whose ids are only numbers, by what they
    hold: the same text in the same order first, then what is alike between two such.
    """
    places = {cell.id: place for place, cell in enumerate(new) if is_permanent(cell.id)}
    pairs = {place: places[cell.id] for place, cell in enumerate(old) if cell.id in places}
    taken = set(pairs.values())
    left = [place for place in range(len(old)) if place not in pairs]
    right = [place for place in range(len(new)) if place not in taken]
    same = SequenceMatcher(None, [text_of(old[p]) for p in left], [text_of(new[p]) for p in right], autojunk=False)
    at_left, at_right = 0, 0
    for block in same.get_matching_blocks():
        pairs |= _alike(old, new, left[at_left : block.a], right[at_right : block.b])
        pairs |= dict(zip(left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True))
        at_left, at_right = block.a + block.size, block.b + block.size
    return pairs


def _alike(old: Sequence[Cell], new: Sequence[Cell], left: list[int], right: list[int]) -> Pairs:
    """The most alike first; pairs never cross."""
    found = []
    for a in left:
        for b in right:
            if old[a].cell_type == new[b].cell_type:
                likeness = SequenceMatcher(None, old[a].source.split(), new[b].source.split(), autojunk=False).ratio()
                found.append((likeness, a, b))
    pairs: Pairs = {}
    for likeness, a, b in sorted(found, key=lambda each: (-each[0], each[1], each[2])):
        crosses = any((a <= other) != (b <= pairs[other]) or a == other or b == pairs[other] for other in pairs)
        if likeness >= LEAST_LIKENESS and not crosses:
            pairs[a] = b
    return pairs


def pair_own(base: Sequence[Cell], own: Sequence[Cell]) -> Pairs:
    """Base position -> position in the learner's notebook, wherever the cell was moved.

    By id; else by its nbgrader name; else, for an answer, the cell that defines its function; else by the same text.
    Of several claimants to an answer the last one that is not the blank stub counts, as in an official run.
    """
    pairs: Pairs = {}
    ours = {cell.id for cell in base}
    for place, cell in enumerate(base):
        claimants = [at for at, mine in enumerate(own) if mine.id == cell.id]
        if not claimants and is_permanent(cell.id):
            claimants = [at for at, mine in enumerate(own) if grade_id(mine) == cell.id and mine.id not in ours]
        if claimants:
            pairs[place] = _chosen(cell, own, claimants)
    for place, cell in enumerate(base):
        if place in pairs:
            continue
        taken = set(pairs.values())
        free = [at for at in range(len(own)) if at not in taken]
        found = [at for at in free if text_of(own[at]) == text_of(cell)][:1]
        if not found and is_answer(cell):
            found = [at for at in free if defines(own[at], answer_name(cell))][-1:]
        if found:
            pairs[place] = found[0]
    return pairs


def pair_unknown(own: Sequence[Cell], shipped: Sequence[Cell]) -> Pairs:
    """Position in the learner's notebook -> shipped position, where nobody knows which version the notebook was."""
    permanent = [place for place, cell in enumerate(shipped) if is_permanent(cell.id)]
    pairs = {at: permanent[p] for p, at in pair_own([shipped[place] for place in permanent], own).items()}
    taken = set(pairs.values())
    left = [at for at in range(len(own)) if at not in pairs]
    right = [place for place in range(len(shipped)) if place not in taken and not is_permanent(shipped[place].id)]
    rest = pair_versions([own[at] for at in left], [shipped[place] for place in right])
    return pairs | {left[a]: right[b] for a, b in rest.items()}


def _chosen(cell: Cell, own: Sequence[Cell], claimants: list[int]) -> int:
    if is_answer(cell):
        written = [at for at in claimants if own[at].source.strip() and text_of(own[at]) != text_of(cell)]
        return (written or claimants)[-1]
    return next((at for at in claimants if text_of(own[at]) == text_of(cell)), claimants[0])


def in_order(values: Sequence[int]) -> set[int]:
    """The values of a longest increasing subsequence: those that were not moved."""
    ends: list[int] = []  # the smallest last value of an increasing run, by its length
    before: dict[int, int | None] = {}
    for value in values:
        length = bisect_left(ends, value)
        before[value] = ends[length - 1] if length else None
        ends[length:] = [value, *ends[length + 1 :]]
    kept: set[int] = set()
    last = ends[-1] if ends else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return kept

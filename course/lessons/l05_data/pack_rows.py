"""Packing: several rows laid end to end in one, so that little of a batch is padding.

Best fit decreasing: Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830). One worked
number: rows of 5, 4, 3, 2 and 2 tokens fill two rows of 8 exactly (5 + 3 and 4 + 2 + 2); padded to the longest they
would take 5 x 5 = 25 places for 16 tokens.
"""

from __future__ import annotations

import random
from itertools import accumulate, chain, islice, pairwise
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-pack-rows",
    title="Pack rows: best fit decreasing, and wrapped",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("data",),
    hints=(
        "Wrapped: join everything, then slice. Best fit decreasing: sort, then one loop over the rows.",
        "Each row has one question to ask: of the packs with room enough, which has the least? No such pack: open one.",
        "To find the pack that has had its room the longest, keep the packs in a list ordered by when they last "
        "changed and move a pack to the end when a row goes in; the order of opening needs a list of its own.",
    ),
    forbidden=("trl",),
    library_note="trl.pack_dataset finds the tightest pack with a segment tree, in O(log length) a row instead of your "
    "search through all packs, works on Arrow columns, and packs 1,000 rows at a time (the batch size of "
    "datasets.map), so rows of different batches never share a pack.",
    interview="What does packing save, and what must you change in the model's inputs so that it changes nothing else?",
)

Row = dict[str, list[int]]


@exercise.reference
def pack_rows(rows: list[dict[str, list[int]]], length: int, strategy: str) -> list[dict[str, list[int]]]:
    """Rows laid end to end in packs of at most `length` tokens.

    rows: each has "input_ids" and "labels", two lists of the same length, possibly empty. Both are packed alike, so
        that every label stays with its token. The rows themselves stay as they are.
    length: at least 1.
    strategy: "wrapped" or "bfd", nothing else.

    strategy "wrapped": all rows joined in the given order and cut into pieces of `length` tokens, wherever that falls;
        the last piece may be shorter. Each pack has "input_ids" and "labels".
    strategy "bfd" (best fit decreasing): no row is split. First, empty rows are left out and rows over `length` are cut
        to their first `length` tokens. Then, longest row first (equally long rows in the given order), each row goes to
        the end of the pack that has the least room left among those with room enough. If several have equally little,
        it goes to the one that has waited the longest since a row was last put in (opening it counts). If none has
        enough, it opens a new pack. Packs are returned in the order they were opened. Each has "input_ids", "labels",
        and "seq_lengths": its rows' lengths, in order.

    Without a single token there are no packs: an empty list.
    Source: trl.pack_dataset.
    """
    if strategy == "wrapped":
        joined = {key: [value for row in rows for value in row[key]] for key in ("input_ids", "labels")}
        starts = range(0, len(joined["input_ids"]), length)
        return [{key: values[start : start + length] for key, values in joined.items()} for start in starts]
    cut = [{key: values[:length] for key, values in row.items()} for row in rows if row["input_ids"]]
    packs: list[dict[str, list[int]]] = []
    waiting: list[dict[str, list[int]]] = []  # the same packs; the one that changed last stands last
    for row in sorted(cut, key=lambda row: -len(row["input_ids"])):
        size = len(row["input_ids"])
        fitting = [pack for pack in waiting if len(pack["input_ids"]) + size <= length]
        pack = max(fitting, key=lambda pack: len(pack["input_ids"]), default=None)  # the first of equals
        if pack is None:
            pack = {"input_ids": [], "labels": [], "seq_lengths": []}
            packs.append(pack)
        else:
            waiting = [other for other in waiting if other is not pack]
        waiting.append(pack)
        for key in ("input_ids", "labels"):
            pack[key] += row[key]
        pack["seq_lengths"].append(size)
    return packs


@exercise.alternative
def by_room_left(rows, length, strategy):
    if strategy == "wrapped":
        ids = list(chain.from_iterable(row["input_ids"] for row in rows))
        labels = list(chain.from_iterable(row["labels"] for row in rows))
        packs = []
        while ids:
            packs.append({"input_ids": ids[:length], "labels": labels[:length]})
            ids, labels = ids[length:], labels[length:]
        return packs
    members: list[list[int]] = []
    queues: dict[int, list[int]] = {room: [] for room in range(length + 1)}  # room left -> packs, longest waiting first
    order = sorted(range(len(rows)), key=lambda number: (-min(len(rows[number]["labels"]), length), number))
    for number in order:
        size = min(len(rows[number]["labels"]), length)
        if size == 0:
            continue
        room = next((room for room in range(size, length) if queues[room]), None)
        if room is None:
            room = length
            queues[room].append(len(members))
            members.append([])
        pack = queues[room].pop(0)
        members[pack].append(number)
        queues[room - size].append(pack)
    return [
        {
            "input_ids": [token for number in group for token in rows[number]["input_ids"][:length]],
            "labels": [label for number in group for label in rows[number]["labels"][:length]],
            "seq_lengths": [min(length, len(rows[number]["labels"])) for number in group],
        }
        for group in members
    ]


def tightest(room: int, since: int, number: int) -> tuple[int, int]:
    return room, since


def packed(rows: list[Row], length: int, strategy: str, rank: Any = tightest, **other: Any) -> list[Row]:
    """Best fit decreasing with another choice of pack: the one with the least rank(room, since when, number).

    other: `order` of the rows, `spare` room in every pack, `empty` rows kept, labels taken from `line` one by one.
    """
    if strategy == "wrapped":
        return pack_rows(rows, length, strategy)
    rows = [
        {key: values[:length] for key, values in row.items()} for row in rows if other.get("empty") or row["labels"]
    ]
    packs: list[Row] = []
    since: list[int] = []
    line = iter([label for row in rows for label in row["labels"]])
    for step, row in enumerate(other.get("order", longest_first)(rows)):
        size = len(row["labels"])
        rooms = [length - len(pack["labels"]) for pack in packs]
        fitting = [number for number, room in enumerate(rooms) if room >= size + other.get("spare", 0)]
        if fitting:
            best = min(
                fitting, key=[rank(*given) for given in zip(rooms, since, range(len(packs)), strict=True)].__getitem__
            )
        else:
            best = len(packs)
            packs.append({"input_ids": [], "labels": [], "seq_lengths": []})
            since.append(step)
        since[best] = step
        packs[best]["input_ids"] += row["input_ids"]
        packs[best]["labels"] += islice(line, size) if "line" in other else row["labels"]
        packs[best]["seq_lengths"].append(size)
    return packs


def longest_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: len(row["labels"]), reverse=True)


@exercise.misconception(
    hint="Each row goes into the first pack with room enough (first fit). Best fit takes the pack in which the least "
    "room would be left."
)
def first_fit(rows, length, strategy):
    return packed(rows, length, strategy, rank=lambda room, since, number: number)


@exercise.misconception(
    hint="Each row goes into the emptiest pack that can take it (worst fit). That keeps every pack half full; the "
    "fullest one that still has room is wanted."
)
def worst_fit(rows, length, strategy):
    return packed(rows, length, strategy, rank=lambda room, since, number: (-room, since))


@exercise.misconception(
    hint="Only the newest pack is looked at (next fit), so room in earlier packs stays empty. Ask all of them."
)
def only_the_newest_pack(rows, length, strategy):
    if strategy == "wrapped":
        return pack_rows(rows, length, strategy)
    packs: list[Row] = []
    for row in longest_first([{key: values[:length] for key, values in row.items()} for row in rows if row["labels"]]):
        if not packs or len(packs[-1]["labels"]) + len(row["labels"]) > length:
            packs.append({"input_ids": [], "labels": [], "seq_lengths": []})
        packs[-1]["input_ids"] += row["input_ids"]
        packs[-1]["labels"] += row["labels"]
        packs[-1]["seq_lengths"].append(len(row["labels"]))
    return packs


@exercise.misconception(
    hint="Rows are taken in the given order. Decreasing means the longest first: what is hard to place goes in while "
    "there is room, and short rows fill the gaps."
)
def not_sorted(rows, length, strategy):
    return packed(rows, length, strategy, order=list)


@exercise.misconception(
    hint="Rows are taken shortest first. Then the long ones find no gap left; decreasing means the longest first."
)
def shortest_first(rows, length, strategy):
    return packed(rows, length, strategy, order=lambda rows: sorted(rows, key=lambda row: len(row["labels"])))


@exercise.misconception(
    hint="Among packs with equally little room you take the one that was opened first. The one wanted has had just "
    "that much room the longest, which can be a pack opened later."
)
def oldest_pack_of_equals(rows, length, strategy):
    return packed(rows, length, strategy, rank=lambda room, since, number: (room, number))


@exercise.misconception(
    hint="Among packs with equally little room you take the one that was opened last. The one wanted has had just that "
    "much room the longest."
)
def newest_pack_of_equals(rows, length, strategy):
    return packed(rows, length, strategy, rank=lambda room, since, number: (room, -number))


@exercise.misconception(
    hint="A row that would fill a pack exactly goes elsewhere. A pack may be full to the last token: look at your "
    "comparison."
)
def exact_fit_refused(rows, length, strategy):
    return packed(rows, length, strategy, spare=1)


@exercise.misconception(
    hint="Empty rows are packed too and leave a length of 0 in seq_lengths. Leave them out before you sort."
)
def empty_rows_kept(rows, length, strategy):
    return packed(rows, length, strategy, empty=True)


@exercise.misconception(hint="Packs come back fullest first. They are wanted in the order in which they were opened.")
def packs_sorted(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    return sorted(packs, key=lambda pack: -len(pack["labels"])) if strategy == "bfd" else packs


@exercise.misconception(
    hint="Equally long rows come out in reverse order. A sort that is reversed afterwards turns ties around; sort by a "
    "decreasing key, or let the sort itself be descending."
)
def ties_turned_around(rows, length, strategy):
    return pack_rows(rows if strategy == "wrapped" else rows[::-1], length, strategy)


@exercise.misconception(
    hint="Rows longer than the limit are missing. With bfd they are kept, cut to their first tokens."
)
def long_rows_dropped(rows, length, strategy):
    short = [row for row in rows if len(row["labels"]) <= length]
    return pack_rows(rows if strategy == "wrapped" else short, length, strategy)


@exercise.misconception(
    hint="The rest of a row over the limit is packed as a row of its own (trl calls that bfd_split). Here it is cut "
    "off: an answer without its question teaches nothing good."
)
def long_rows_split(rows, length, strategy):
    pieces = [
        {key: values[start : start + length] for key, values in row.items()}
        for row in rows
        for start in range(0, max(1, len(row["labels"])), length)
    ]
    return pack_rows(rows if strategy == "wrapped" else pieces, length, strategy)


@exercise.misconception(
    hint="Wrapped: the last piece is missing when it is shorter than the limit. Older scripts drop it; here every "
    "token stays."
)
def last_piece_dropped(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    return [pack for pack in packs if strategy == "bfd" or len(pack["labels"]) == length]


@exercise.misconception(
    hint="Wrapped: no row may cross a border in your packs. Wrapped means to fill every pack to the limit, cutting "
    "rows where it falls."
)
def wrapped_without_splitting(rows, length, strategy):
    packs: list[Row] = [{"input_ids": [], "labels": []}]
    for row in rows:
        if len(packs[-1]["labels"]) + len(row["labels"]) > length:
            packs.append({"input_ids": [], "labels": []})
        for key in ("input_ids", "labels"):
            packs[-1][key] += row[key]
    return packs if strategy == "wrapped" else pack_rows(rows, length, strategy)


@exercise.misconception(
    hint="Labels no longer belong to their tokens: input_ids were sorted into packs and labels were joined in the "
    "given order. Whatever moves a row has to move both lists."
)
def labels_left_behind(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    labels = [label for row in rows for label in row["labels"][: length if strategy == "bfd" else None]]
    ends = list(accumulate(len(pack["labels"]) for pack in packs))
    return [pack | {"labels": labels[end - len(pack["labels"]) : end]} for pack, end in zip(packs, ends, strict=True)]


@exercise.misconception(
    hint="Among packs with equally little room you take the one that got that room last. The one that has had it the "
    "longest is wanted."
)
def latest_pack_of_equals(rows, length, strategy):
    return packed(rows, length, strategy, rank=lambda room, since, number: (room, -since))


@exercise.misconception(
    hint="Labels no longer belong to their tokens: rows are sorted, and labels are handed out in the given order. Sort "
    "pairs, or whole rows, so that ids and labels travel together."
)
def labels_not_sorted(rows, length, strategy):
    return packed(rows, length, strategy, line=True)


@exercise.misconception(
    hint="Rows over the limit keep their last tokens. The first ones stay: an answer without its question teaches "
    "nothing."
)
def cut_at_the_front(rows, length, strategy):
    cut = [{key: values[-length:] for key, values in row.items()} for row in rows]
    return pack_rows(rows if strategy == "wrapped" else cut, length, strategy)


@exercise.misconception(
    hint="Rows are sorted by their length before cutting. Once cut, two rows over the limit are equally long, and "
    "equally long rows keep the given order."
)
def sorted_before_cutting(rows, length, strategy):
    return pack_rows(rows if strategy == "wrapped" else longest_first(rows), length, strategy)


@exercise.misconception(hint="seq_lengths holds the places where rows end. Asked for is how long each row is.")
def end_places_as_lengths(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    return [{k: list(accumulate(v)) if k == "seq_lengths" else v for k, v in pack.items()} for pack in packs]


@exercise.misconception(
    hint="Wrapped: without a token there is one empty pack in your result. A pack without tokens is none: return an "
    "empty list."
)
def empty_piece_for_nothing(rows, length, strategy):
    return pack_rows(rows, length, strategy) or ([{"input_ids": [], "labels": []}] if strategy == "wrapped" else [])


@exercise.misconception(
    hint="bfd: without a token there is one empty pack in your result. Open a pack only when a row needs it."
)
def pack_opened_for_nothing(rows, length, strategy):
    opened: list[Row] = [{"input_ids": [], "labels": [], "seq_lengths": []}] if strategy == "bfd" else []
    return pack_rows(rows, length, strategy) or opened


@exercise.misconception(
    hint="Of rows over the limit the first ids are kept and the last labels. Both lists are cut at the same end."
)
def labels_cut_at_the_front(rows, length, strategy):
    if strategy == "bfd":
        rows = [{"input_ids": row["input_ids"][:length], "labels": row["labels"][-length:]} for row in rows]
    return pack_rows(rows, length, strategy)


@exercise.misconception(
    hint="Wrapped: rows over the limit lose their end. Only bfd cuts rows off; wrapped keeps every token."
)
def wrapped_rows_cut_off(rows, length, strategy):
    return pack_rows([{key: values[:length] for key, values in row.items()} for row in rows], length, strategy)


@exercise.misconception(
    hint="Wrapped: the rows are sorted by their length before they are joined. They are joined in the given order."
)
def wrapped_sorted(rows, length, strategy):
    return pack_rows(longest_first(rows) if strategy == "wrapped" else rows, length, strategy)


@exercise.misconception(
    hint="Wrapped packs hold seq_lengths in your result. They have input_ids and labels only: a cut falls anywhere."
)
def wrapped_with_lengths(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    return [{"seq_lengths": [len(pack["labels"])]} | pack for pack in packs]


@exercise.misconception(
    hint="seq_lengths holds the rows' lengths before they were cut. Asked for is how many of their tokens lie in the "
    "pack."
)
def lengths_before_cutting(rows, length, strategy):
    if strategy == "wrapped":
        return pack_rows(rows, length, strategy)
    sizes = {tuple(row["input_ids"][:length]): len(row["input_ids"]) for row in rows}
    packs = pack_rows(rows, length, strategy)
    for pack in packs:
        ends = [0, *accumulate(pack["seq_lengths"])]
        pack["seq_lengths"] = [sizes[tuple(pack["input_ids"][start:end])] for start, end in pairwise(ends)]
    return packs


@exercise.misconception(hint="Rows over the limit are cut in input_ids and not in labels. Both lists are cut alike.")
def labels_not_cut(rows, length, strategy):
    if strategy == "wrapped":
        return pack_rows(rows, length, strategy)
    whole = {tuple(row["input_ids"][:length]): row["labels"] for row in rows}
    packs = pack_rows(rows, length, strategy)
    for pack in packs:
        ends = [0, *accumulate(pack["seq_lengths"])]
        pieces = [whole[tuple(pack["input_ids"][start:end])] for start, end in pairwise(ends)]
        pack["labels"] = [label for piece in pieces for label in piece]
    return packs


@exercise.misconception(
    hint="Inside a pack your rows lie in the given order. Each row goes to the end of its pack, so the longest one is "
    "first."
)
def given_order_inside_packs(rows, length, strategy):
    packs = pack_rows(rows, length, strategy)
    if strategy == "wrapped":
        return packs
    numbers = {tuple(row["input_ids"][:length]): number for number, row in enumerate(rows)}
    ordered = []
    for pack in packs:
        ends = [0, *accumulate(pack["seq_lengths"])]
        numbered = [(numbers[tuple(pack["input_ids"][start:end])], start, end) for start, end in pairwise(ends)]
        spans = [(start, end) for _, start, end in sorted(numbered)]
        moved = {key: [x for span in spans for x in pack[key][slice(*span)]] for key in ("input_ids", "labels")}
        ordered.append(moved | {"seq_lengths": [end - start for start, end in spans]})
    return ordered


@exercise.misconception(
    hint="Wrapped: the first label of each row was hidden. Here every label stays as it is; hiding them is a step of "
    "its own."
)
def first_labels_hidden(rows, length, strategy):
    hidden = [row | {"labels": [-100, *row["labels"][1:]][: len(row["labels"])]} for row in rows]
    return pack_rows(hidden if strategy == "wrapped" else rows, length, strategy)


@exercise.cases
def cases(seed: int) -> list[Case]:
    numbers = random.Random(seed)

    def rows(*sizes: int) -> list[Row]:
        made = []
        for size in sizes:
            ids = [numbers.randint(3, 49_000) for _ in range(size)]
            made.append({"input_ids": ids, "labels": [-100] * (size // 2) + ids[size // 2 :]})
        return made

    def case(name: str, about: str, made: list[Row], length: int, strategy: str, visible: bool = True) -> Case:
        return Case(name, {"rows": made, "length": length, "strategy": strategy}, about, visible=visible)

    many = [numbers.choice((1, 2, 2, 3, 4, 5, 5, 7, 9)) for _ in range(24)]
    return [
        case("exact", "when the rows fill two packs exactly", rows(2, 5, 3, 2, 4), 8, "bfd"),
        case("too long", "when two rows are longer than a pack", rows(3, 9, 4, 11, 6), 8, "bfd"),
        case("choice", "when several packs have room", rows(12, 1, 15, 7), 20, "bfd"),
        case("equal room", "when two packs have the same room", rows(15, 12, 7, 4, 1), 20, "bfd"),
        case("wrapped", "when the last piece is short", rows(3, 4, 5, 2), 6, "wrapped"),
        case("wrapped, full", "when the last piece is full", rows(3, 4, 5), 4, "wrapped", visible=False),
        case("empty rows", "when there are empty rows", rows(0, 3, 0, 5, 2), 6, "bfd", visible=False),
        case("many", "on many rows of few lengths", rows(*many), 12, "bfd", visible=False),
        case("one row", "on one row", rows(numbers.randint(3, 7)), 8, "bfd", visible=False),
        case("wrapped, long rows", "when rows over the limit are wrapped", rows(1, 9, 0, 2, 7), 4, "wrapped"),
        case("length 1", "when a pack holds one token", rows(2, 1, 0, 3), 1, "bfd", visible=False),
        case("no token, bfd", "when all rows are empty", rows(0, 0), 4, "bfd"),
        case("no token, wrapped", "when all rows are empty and wrapped", rows(0, 0), 4, "wrapped"),
        case("no rows, bfd", "without any row", [], 4, "bfd", visible=False),
        case("no rows, wrapped", "without any row, wrapped", [], 4, "wrapped", visible=False),
    ]


@exercise.diagnose
def diagnose(got: list[Row], want: list[Row], **inputs: Any) -> str | None:
    """How the rows were laid out, by their lengths."""
    if inputs["strategy"] == "wrapped":
        return f"Your packs hold {[len(p['labels']) for p in got]} tokens, trl's {[len(p['labels']) for p in want]}"
    mine, right = ([pack["seq_lengths"] for pack in packs] for packs in (got, want))
    return f"By their rows' lengths your packs are {mine}, trl's {right}" if mine != right else None


@exercise.oracle
def oracle(rows: list[Row], length: int, strategy: str) -> list[Row]:
    from datasets.arrow_dataset import Dataset
    from trl.data_utils import pack_dataset

    if not any(row["input_ids"] for row in rows):
        return []  # Arrow cannot tell the type of a column without a value
    return pack_dataset(Dataset.from_list(rows), length, strategy).to_list()

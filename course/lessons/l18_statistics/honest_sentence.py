"""The one sentence that may be said about a gain: how many questions, both shares, the gain, its paired interval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from course.lessons.l18_statistics.bootstrap_interval import bootstrap_interval
from course.lessons.l18_statistics.sentence import refusals, truth
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-honest-sentence",
    title="The one honest sentence",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "First get two arrays, before and after, whose entry i is the same question. Everything follows from them.",
        "The interval is that of the gain: give bootstrap_interval the differences as `right` and ones as `asked`.",
        "Points are differences of percents. Multiply by 100 once, and round only in the text.",
    ),
    library_note="Miller 2024 asks for the same in papers: the number of questions, the standard error, and paired "
    "differences when models are compared. Few model cards do it.",
    interview="Tell me about your fine-tune in one sentence.",
)


@exercise.reference
def honest_sentence(
    rows: list[dict[str, Any]], before: str, after: str, split: str, seed: int = 0, resamples: int = 5000
) -> dict[str, Any]:
    """Write what the results show about `after` against `before` on one split.

    rows: {"id", "way", "split", "correct"}, one a question and way, in any order and of all ways and splits. Take those
    of the two ways and the split (both ways hold the same ids); sort the questions by id, then bootstrap the mean
    difference, after - before, with `seed` and `resamples` as bootstrap_interval does, at 95 %.
    Returns {"gain", "low", "high": floats in percentage points, not rounded; "sentence": str}. The sentence, all on one
    line, N whole and every other number as f"{number:.1f}" writes it:

    On <N> <held-out|seen> questions the <after> model answers <percent> % right and the <before> model <percent> %:
    a <gain|loss> of <points> points, 95 % paired interval [<low>, <high>]; the interval <excludes|includes> 0.

    split "heldout" is written held-out. No change at all is a gain of 0.0. Of a loss the points are written without a
    sign, but the interval keeps its signs: it is always that of after - before. Whether it includes 0 is decided before
    rounding; an end at exactly 0 is included.
    """
    runs = [
        {row["id"]: float(row["correct"]) for row in rows if row["way"] == way and row["split"] == split}
        for way in (before, after)
    ]
    ids = sorted(runs[0])
    old, new = (np.array([run[name] for name in ids]) for run in runs)
    ones = np.ones(len(ids))
    low, high = (100 * end for end in bootstrap_interval(new - old, ones, seed, resamples))
    gain = float(100 * (new - old).mean())
    sentence = (
        f"On {len(ids)} {'held-out' if split == 'heldout' else split} questions the {after} model answers "
        f"{100 * new.mean():.1f} % right and the {before} model {100 * old.mean():.1f} %: "
        f"a {'loss' if gain < 0 else 'gain'} of {abs(gain):.1f} points, 95 % paired interval "
        f"[{low:.1f}, {high:.1f}]; the interval {'includes' if low <= 0 <= high else 'excludes'} 0."
    )
    return {"gain": gain, "low": low, "high": high, "sentence": sentence}


def arrays(rows, before, after, splits) -> tuple[np.ndarray, np.ndarray]:
    """Both runs on the questions of the splits, sorted by id."""
    table = {(row["way"], row["id"]): float(row["correct"]) for row in rows if row["split"] in splits}
    ids = sorted({name for _, name in table})
    return np.array([table[before, name] for name in ids]), np.array([table[after, name] for name in ids])


def interval(differences, seed, resamples) -> tuple[float, float]:
    drawn = np.random.default_rng(seed).integers(0, len(differences), size=(resamples, len(differences)))
    return tuple(100 * np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975]))


def said(count, split, before, after, old, new, gain, low, high, *, verdict="") -> dict[str, Any]:
    """The answer with its numbers open; old and new in percent."""
    verdict = verdict or ("includes" if low <= 0 <= high else "excludes")
    words = [
        f"On {count} {split.replace('heldout', 'held-out')} questions the {after} model answers {new:.1f} % right",
        f"and the {before} model {old:.1f} %: a {'loss' if gain < 0 else 'gain'} of {abs(gain):.1f} points,",
        f"95 % paired interval [{low:.1f}, {high:.1f}]; the interval {verdict} 0.",
    ]
    return {"gain": float(gain), "low": float(low), "high": float(high), "sentence": " ".join(words)}


@exercise.alternative
def from_a_table(rows, before, after, split, seed=0, resamples=5000):
    import pandas

    table = pandas.DataFrame(rows).query("split == @split").pivot(index="id", columns="way", values="correct")
    old, new = (table[way].astype(float) for way in (before, after))
    ends = interval((new - old).to_numpy(), seed, resamples)
    return said(len(table), split, before, after, 100 * old.mean(), 100 * new.mean(), 100 * (new - old).mean(), *ends)


def sentence_of(rows, before, after, split, ends, *, splits=(), **changes) -> dict[str, Any]:
    """The right sentence but for the interval, which `ends(old, new)` gives, and what is changed."""
    old, new = arrays(rows, before, after, splits or (split,))
    numbers = {"count": len(old), "old": 100 * old.mean(), "new": 100 * new.mean(), "gain": 100 * (new - old).mean()}
    low, high = ends(old, new)
    return said(**{**numbers, "split": split, "before": before, "after": after, "low": low, "high": high, **changes})


@exercise.misconception(
    hint="The interval is that of two separate sets of questions: each run was drawn on its own. Draw questions once, "
    "and take both runs' answers to them."
)
def unpaired_interval(rows, before, after, split, seed=0, resamples=5000):
    def ends(old, new):
        random = np.random.default_rng(seed)
        first, second = (
            run[random.integers(0, len(run), size=(resamples, len(run)))].mean(axis=1) for run in (new, old)
        )
        return 100 * np.quantile(first - second, [0.025, 0.975])

    return sentence_of(rows, before, after, split, ends)


@exercise.misconception(
    hint="You took the questions of all splits. The sentence speaks of one: what was seen in training must not lend "
    "its score to what was held out."
)
def all_splits(rows, before, after, split, seed=0, resamples=5000):
    return sentence_of(
        rows, before, after, split, lambda old, new: interval(new - old, seed, resamples), splits=("seen", "heldout")
    )


@exercise.misconception(
    hint="The interval reaches 1.96 standard deviations of single differences. The mean moves by the standard error, "
    "smaller by the root of the number of questions."
)
def deviation_for_error(rows, before, after, split, seed=0, resamples=5000):
    def ends(old, new):
        mean, reach = (new - old).mean(), 1.96 * (new - old).std(ddof=1)
        return 100 * (mean - reach), 100 * (mean + reach)

    return sentence_of(rows, before, after, split, ends)


@exercise.misconception(
    hint="The gain is relative to the start: a change in percent. The sentence says points, a difference of percents."
)
def percent_for_points(rows, before, after, split, seed=0, resamples=5000):
    old, new = arrays(rows, before, after, (split,))
    gain = 100 * (new.mean() - old.mean()) / old.mean()
    return sentence_of(rows, before, after, split, lambda o, n: interval(n - o, seed, resamples), gain=gain)


@exercise.misconception(
    hint="The interval is that of the later run's share, not of the gain. Bootstrap the differences."
)
def interval_of_the_share(rows, before, after, split, seed=0, resamples=5000):
    return sentence_of(rows, before, after, split, lambda old, new: interval(new, seed, resamples))


@exercise.misconception(
    hint="The difference is taken the wrong way round: it is after minus before, and positive where the later run is "
    "better."
)
def wrong_way_round(rows, before, after, split, seed=0, resamples=5000):
    right = sentence_of(rows, before, after, split, lambda old, new: interval(old - new, seed, resamples))
    old, new = arrays(rows, before, after, (split,))
    return sentence_of(
        rows,
        before,
        after,
        split,
        lambda *_: (right["low"], right["high"]),
        gain=100 * (old - new).mean(),
    )


@exercise.misconception(
    hint="Of a loss you turn the interval round, too. Only the word and the points lose the sign; the interval stays "
    "that of after - before, and lies below 0 where the loss is clear."
)
def interval_turned_for_a_loss(rows, before, after, split, seed=0, resamples=5000):
    old, new = arrays(rows, before, after, (split,))
    low, high = interval(new - old, seed, resamples)
    shown = (-high, -low) if new.mean() < old.mean() else (low, high)
    return sentence_of(rows, before, after, split, lambda *_: shown) | {"low": float(low), "high": float(high)}


@exercise.misconception(
    hint="An interval that ends exactly at 0 is said to exclude it. No change at all still fits with such results, so "
    "0 is included."
)
def end_at_0_excluded(rows, before, after, split, seed=0, resamples=5000):
    low, high = interval(np.subtract(*arrays(rows, before, after, (split,))[::-1]), seed, resamples)
    verdict = "includes" if low < 0 < high else "excludes"
    return sentence_of(rows, before, after, split, lambda *_: (low, high), verdict=verdict)


@exercise.misconception(
    hint="You look for 0 between the rounded ends. An end of 0.03 is written 0.0 and lies above 0 all the same: decide "
    "with the numbers as they are, and round in the text alone."
)
def decided_after_rounding(rows, before, after, split, seed=0, resamples=5000):
    low, high = interval(np.subtract(*arrays(rows, before, after, (split,))[::-1]), seed, resamples)
    verdict = "includes" if round(low, 1) <= 0 <= round(high, 1) else "excludes"
    return sentence_of(rows, before, after, split, lambda *_: (low, high), verdict=verdict)


@exercise.misconception(
    hint="Only an interval above 0 excludes it in yours. One that lies wholly below excludes it as well: then a loss "
    "is shown."
)
def only_gains_exclude(rows, before, after, split, seed=0, resamples=5000):
    low, high = interval(np.subtract(*arrays(rows, before, after, (split,))[::-1]), seed, resamples)
    verdict = "excludes" if low > 0 else "includes"
    return sentence_of(rows, before, after, split, lambda *_: (low, high), verdict=verdict)


ORDER_HINT = (
    "The questions stand in the order of the rows. The draw takes questions by their number, so another order "
    "gives another interval: sort by id first, and the same results say the same, however the file is sorted."
)


def sentence_in_order(ids, rows, before, after, split, seed, resamples) -> dict[str, Any]:
    """The sentence with the questions drawn from this order of ids."""
    table = {(row["way"], row["id"]): float(row["correct"]) for row in rows}
    changes = np.array([table[after, name] - table[before, name] for name in ids])
    return sentence_of(rows, before, after, split, lambda *_: interval(changes, seed, resamples))


@exercise.misconception(hint=ORDER_HINT)
def order_of_the_rows(rows, before, after, split, seed=0, resamples=5000):
    ids = [row["id"] for row in rows if (row["way"], row["split"]) == (before, split)]
    return sentence_in_order(ids, rows, before, after, split, seed, resamples)


@exercise.misconception(hint=ORDER_HINT)
def order_of_first_appearance(rows, before, after, split, seed=0, resamples=5000):
    ids = dict.fromkeys(row["id"] for row in rows if row["split"] == split and row["way"] in (before, after))
    return sentence_in_order(ids, rows, before, after, split, seed, resamples)


@exercise.misconception(
    hint="Your interval comes from the default draw, whatever `seed` and `resamples` are given. Hand both on, so that "
    "somebody else can repeat it."
)
def default_draw(rows, before, after, split, seed=0, resamples=5000):
    return sentence_of(rows, before, after, split, lambda old, new: interval(new - old, 0, 5000))


@exercise.misconception(
    hint="Your shares and points are fractions. The sentence speaks of percent and percentage points."
)
def fractions(rows, before, after, split, seed=0, resamples=5000):
    old, new = arrays(rows, before, after, (split,))
    low, high = interval(new - old, seed, resamples)
    gain = (new - old).mean()
    return said(len(old), split, before, after, old.mean(), new.mean(), gain, low / 100, high / 100)


@exercise.misconception(
    hint="The sentence always ends in success. Look whether 0 lies within the interval; if it does, say so."
)
def always_excludes(rows, before, after, split, seed=0, resamples=5000):
    return sentence_of(
        rows, before, after, split, lambda old, new: interval(new - old, seed, resamples), verdict="excludes"
    )


@exercise.misconception(
    hint="N is the number of rows, both runs' together. A question is one question, however many models answered it."
)
def rows_counted(rows, before, after, split, seed=0, resamples=5000):
    count = sum(row["split"] == split and row["way"] in (before, after) for row in rows)
    return sentence_of(rows, before, after, split, lambda old, new: interval(new - old, seed, resamples), count=count)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 190])

    def case(
        name: str, about: str, counts: dict[str, tuple[int, int, int, int]], split: str, visible=True, **draw
    ) -> Case:
        """counts: by split how many both have right, gained, lost, both wrong. A third run is in the file, too."""
        rows = []
        for part, (both, gained, lost, neither) in counts.items():
            old = np.repeat([True, False, True, False], [both, gained, lost, neither])
            new = np.repeat([True, True, False, False], [both, gained, lost, neither])
            third = random.random(len(old)) < 0.5
            for place, number in enumerate(random.permutation(len(old))):
                for way, run in (("few-shot", old), ("tuned", new), ("zero-shot", third)):
                    rows.append({"id": f"{part}-{number:03d}", "way": way, "split": part, "correct": bool(run[place])})
        shuffled = [rows[place] for place in random.permutation(len(rows))]
        inputs = {"rows": shuffled, "before": "few-shot", "after": "tuned", "split": split, "seed": 0}
        return Case(name, inputs | draw, about, visible)

    drawn = [int(value) for value in random.integers(8, 25, 4)]
    yield case("gain", "with a clear gain", {"heldout": (20, 25, 5, 30), "seen": (12, 9, 1, 8)}, "heldout")
    lost = {"heldout": (24, 3, 17, 21), "seen": (20, 2, 3, 15)}
    yield case("loss", "with a loss, and 1,000 resamples", lost, "heldout", resamples=1000)
    changed = [(True, False), (False, True), (True, True), (False, True), (False, False), (False, True)] * 8
    backwards = [
        {"id": f"heldout-{99 - place}", "way": way, "split": "heldout", "correct": answer}
        for place, pair in enumerate(changed)
        for way, answer in zip(("few-shot", "tuned"), pair, strict=True)
    ]
    draw = {"seed": 5, "resamples": 99}  # few enough that the order of the questions moves both ends
    given = {"rows": backwards, "before": "few-shot", "after": "tuned", "split": "heldout"}
    yield Case("backwards", given | draw, "when the rows come in another order than the ids, with 99 resamples")
    yield case("end at 0", "when the interval ends at 0", {"heldout": (21, 3, 0, 16), "seen": (3, 2, 1, 4)}, "heldout")
    pairs = [(True, True)] * 40 + [(False, True)] * 6 + [(True, False)] + [(False, False)] * 33
    later_run_first = [
        {"id": f"heldout-{place:03d}", "way": way, "split": "heldout", "correct": pairs[place][run]}
        for way, run, places in (("tuned", 1, reversed(range(80))), ("few-shot", 0, range(80)))
        for place in places
    ]
    # Of 202 means the 6th smallest is 0 and the 7th 1.25 points; the end lies 1/40 of the way between them.
    given, draw = given | {"rows": later_run_first}, {"seed": 0, "resamples": 202}
    yield Case("just above 0", given | draw, "when the interval ends just above 0")
    fewer = {"visible": False, "resamples": 1000}
    yield case(
        "no change", "when nothing is gained", {"heldout": (20, 6, 6, 8), "seen": (9, 4, 1, 4)}, "heldout", **fewer
    )
    yield case(
        "loss to 0", "when a loss ends at 0", {"heldout": (21, 0, 3, 16), "seen": (3, 1, 2, 4)}, "heldout", False
    )
    yield case("unclear", "when 0 lies within", {"heldout": (40, 8, 6, 26), "seen": (10, 9, 1, 4)}, "heldout", **fewer)
    yield case("seen", "on seen questions", {"heldout": (5, 9, 3, 13), "seen": (22, 16, 4, 9)}, "seen", **fewer)
    yield case(
        "drawn",
        "",
        {"heldout": (drawn[0], drawn[1] + 9, drawn[2] - 6, drawn[3]), "seen": (9, 2, 7, 5)},
        "heldout",
        **fewer,
    )


@exercise.accept
def accept(output, rows, before, after, split, seed=0, resamples=5000) -> str | None:
    """The sentence says what the rows give, and so do the numbers beside it, which are not rounded."""
    problems = refusals(output["sentence"], rows, before, after, split, seed, resamples)
    if problems:
        return "; ".join(problems)
    real = truth(rows, before, after, split, seed, resamples)
    for name in ("gain", "low", "high"):
        value = getattr(real, name)
        if not abs(output[name] - value) <= 1e-6:
            return f"`{name}` is {output[name]:.6g}; the results give {value:.6g} points"
    return None

"""Check the whole dataset: `python -m course.quiz.validate`. Each problem is one sentence that says what to do.

Checked, item by item: fields, wording, choices of one style, the right choice against the item's code. Over all items:
numbers, no near duplicates, and that neither the position nor the length of a choice gives the answer away.

    python -m course.quiz.validate --write-checksums    # after you changed an item and nothing else is wrong
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

from course.quiz.checks import results_of
from course.quiz.items import CHOICE_COUNT, DATA_FOLDER, DIFFICULTIES, SPLITS, TOPICS, QuizError, QuizItem, read_items

CHECKED_FILES = ("dev.jsonl", "test.jsonl")
LEAST_ITEMS, DEV_ITEMS = 330, 40
# The smallest and the largest share of each topic, of each difficulty, and of each answer position.
TOPIC_SHARE, DIFFICULTY_SHARE, POSITION_SHARE = (0.30, 0.37), (0.15, 0.60), (0.20, 0.30)
# How often "take the longest choice" (or the shortest) may be right, ties shared; chance is 0.25.
LENGTH_SHARE, LENGTH_SHARE_OF_TOPIC = (0.20, 0.30), (0.15, 0.35)
# How often an answer may repeat the one 1 to 8 items before; chance is 0.25.
MOST_REPEATS, LONGEST_LAG = 0.35, 8
MOST_QUESTION_CHARS, MOST_CHOICE_CHARS, MOST_WHY_CHARS = 150, 48, 130
MOST_ALIKE = 0.5
NO_CHOICE = re.compile(r"\b(all|none|any|both|neither) of (the|these|them)\b|\bI don't know\b", re.IGNORECASE)
# Questions that running code answers.
NEEDS_CHECK = re.compile(r"(.*, w|W)hat is the value of |What does .*\b(print|return)\?|Which exception ")


def wording_problems(item: QuizItem) -> Iterable[str]:
    """What is wrong with one item's ids, labels and texts."""
    if not re.fullmatch(rf"quiz-{item.topic}-\d{{3}}", item.id):
        yield f"the id does not fit the topic; call it quiz-{item.topic}-NNN"
    for name, value, known in (
        ("topic", item.topic, TOPICS),
        ("difficulty", item.difficulty, DIFFICULTIES),
        ("split", item.split, SPLITS),
    ):
        if value not in known:
            yield f"no {name} {value!r}; use one of {', '.join(known)}"
    for name, text in (("question", item.question), ("why", item.why), *(("choice", c) for c in item.choices)):
        if not text.isascii() or not text.isprintable():
            yield f"the {name} {text!r} has characters beyond printable ASCII; write it without them"
        if text != text.strip() or not text:
            yield f"the {name} {text!r} is empty or has white space at an end; remove it"
    if not item.question.endswith("?"):
        yield "the question does not end with a question mark; ask it as a question"
    if not re.fullmatch(r".*[^.]\.", item.why):
        yield "why is no sentence; end it with a full stop"
    for name, text, most in (("question", item.question, MOST_QUESTION_CHARS), ("why", item.why, MOST_WHY_CHARS)):
        if len(text) > most:
            yield f"the {name} has {len(text)} characters; shorten it to {most}"


def choice_problems(item: QuizItem) -> Iterable[str]:
    """What is wrong with one item's choices."""
    for text, times in Counter(item.choices).items():
        if times > 1:
            yield f"the choice {text!r} is given {times} times; all four must differ"
    for text in item.choices:
        if text.endswith("."):
            yield f"the choice {text!r} ends with a full stop; remove it, choices are phrases"
        if len(text) > MOST_CHOICE_CHARS:
            yield f"the choice {text!r} has {len(text)} characters; shorten it to {MOST_CHOICE_CHARS}"
        if NO_CHOICE.search(text):
            yield f"the choice {text!r} speaks of the others, but each is scored alone; write an answer of its own"
    if style_of(item.right) not in {style_of(text) for text in item.wrong}:
        yield f"only the right choice {item.right!r} begins the way it does; give a wrong choice the same style"
    if said_in(item.right, item.question) and not any(said_in(text, item.question) for text in item.wrong):
        yield f"only the right choice {item.right!r} occurs in the question; let a wrong one occur too, or reword it"


def style_of(choice: str) -> str:
    """How a choice begins: with a capital, a small letter, a number or a mark."""
    if re.match(r"-?\d", choice):
        return "number"
    return "capital" if choice[:1].isupper() else "small" if choice[:1].islower() else "mark"


def said_in(choice: str, question: str) -> bool:
    """Does the choice occur in the question as a whole phrase?"""
    return re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", question, re.IGNORECASE) is not None


def item_problems(items: Iterable[QuizItem]) -> list[str]:
    """Faults that one item shows on its own."""
    finders = (wording_problems, choice_problems)
    return [f"{item.id}: {said}" for item in items for find in finders for said in find(item)]


def check_problems(items: Sequence[QuizItem], run: Callable[..., list[str]] = results_of) -> list[str]:
    """A check whose result is not the right choice, or a question that needs a check and has none."""
    problems = [
        f"{item.id}: code can tell the answer; put that code into the field check"
        for item in items
        if item.topic == "python" and not item.check and NEEDS_CHECK.match(item.question)
    ]
    checked = [item for item in items if item.check]
    results = run([(item.check, item.choices) for item in checked])
    for item, result in zip(checked, results, strict=False):
        if result in item.wrong:
            problems.append(f"{item.id}: its check gives {result!r}, a wrong choice; set answer to that one's index")
        elif result != item.right:
            problems.append(
                f"{item.id}: its check gives {result!r}, not {item.right!r}; correct the choice or the check"
            )
    if len(results) < len(checked):
        problems.append(f"{checked[len(results)].id}: its check has no result: it runs on or ends Python; correct it")
    return problems


def count_problems(items: Sequence[QuizItem]) -> list[str]:
    """Too few items, or shares that are out of balance."""
    problems = []
    if len(items) < LEAST_ITEMS:
        problems.append(f"there are {len(items)} items; at least {LEAST_ITEMS} are wanted")
    dev = [item for item in items if item.split == "dev"]
    if len(dev) != DEV_ITEMS:
        problems.append(f"there are {len(dev)} items in dev; exactly {DEV_ITEMS} are wanted, move some")
    for what, several in (("all items", items), ("dev", dev)):
        problems += share_problems(f"of {what} are of topic", several, [i.topic for i in several], TOPICS, TOPIC_SHARE)
    problems += share_problems("of all items are", items, [i.difficulty for i in items], DIFFICULTIES, DIFFICULTY_SHARE)
    return problems


def share_problems(
    what: str, items: Sequence[QuizItem], labels: Sequence[object], known: Sequence[object], limits: tuple[float, float]
) -> list[str]:
    """Labels whose share is beyond the limits."""
    low, high = limits
    shares = {label: labels.count(label) / max(len(items), 1) for label in known}
    return [
        f"{share:.0%} {what} {label}; {low:.0%} to {high:.0%} are wanted, write or move some"
        for label, share in shares.items()
        if not low <= share <= high
    ]


def id_problems(items: Iterable[QuizItem]) -> list[str]:
    """An id that two items bear."""
    times = Counter(item.id for item in items)
    return [f"{name}: {n} items have this id; give each its own" for name, n in times.items() if n > 1]


def triples_of(item: QuizItem) -> frozenset[tuple[str, ...]]:
    """Each three neighbouring words, numbers or marks of a question and its right choice."""
    words = re.findall(r"\w+|[^\w\s]", f"{item.question} {item.right}".lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def duplicate_problems(items: Sequence[QuizItem]) -> list[str]:
    """Two items that ask nearly the same: more than half of their triples of words are common to both."""
    triples = [(item, triples_of(item)) for item in items]
    return [
        f"{b.id}: nearly the same as {a.id} ({a.question!r}); replace one of them"
        for (a, of_a), (b, of_b) in combinations(triples, 2)
        if len(of_a & of_b) > MOST_ALIKE * len(of_a | of_b)
    ]


def position_problems(items: Sequence[QuizItem]) -> list[str]:
    """Answer positions that are out of balance, or that those before foretell."""
    groups = {"all items": items}
    groups |= {f"topic {topic}": [i for i in items if i.topic == topic] for topic in TOPICS}
    groups |= {f"split {split}": [i for i in items if i.split == split] for split in SPLITS}
    problems = []
    for name, several in groups.items():
        answers = [item.answer for item in several]
        problems += share_problems(f"of {name} have the answer", several, answers, range(CHOICE_COUNT), POSITION_SHARE)
    answers = [item.answer for item in items]
    for lag in range(1, LONGEST_LAG + 1):
        pairs = list(zip(answers, answers[lag:], strict=False))
        repeats = sum(a == b for a, b in pairs) / max(len(pairs), 1)
        if repeats > MOST_REPEATS:
            problems.append(f"{repeats:.0%} of answers repeat the one {lag} items before; shuffle the choices anew")
    return problems


def length_share(items: Sequence[QuizItem], pick: Callable[[Iterable[int]], int]) -> float:
    """How often the right choice is the one of the picked length (`max`, `min`); of equals each counts a part."""
    shares = []
    for item in items:
        lengths = [len(choice) for choice in item.choices]
        picked = pick(lengths)
        shares.append((lengths[item.answer] == picked) / lengths.count(picked))
    return sum(shares) / max(len(shares), 1)


def length_problems(items: Sequence[QuizItem]) -> list[str]:
    """Choice lengths that give answers away."""
    groups = [("all items", list(items), LENGTH_SHARE)]
    groups += [(f"topic {topic}", [i for i in items if i.topic == topic], LENGTH_SHARE_OF_TOPIC) for topic in TOPICS]
    problems = []
    for name, several, (low, high) in groups:
        for word, pick in (("longest", max), ("shortest", min)):
            share = length_share(several, pick)
            if not low <= share <= high:
                problems.append(
                    f"the {word} choice is right in {share:.0%} of {name}; {low:.0%} to {high:.0%} are wanted, "
                    "lengthen or shorten some choices"
                )
    return problems


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checksums(folder: Path = DATA_FOLDER) -> None:
    """State the files' checksums as they are now."""
    sums = {name: sha256(folder / name) for name in CHECKED_FILES}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def checksum_problems(folder: Path = DATA_FOLDER) -> list[str]:
    """A file whose SHA-256 differs from checksums.json."""
    path = folder / "checksums.json"
    if not path.exists():
        return [f"{path.name} is missing; write it with: python -m course.quiz.validate --write-checksums"]
    stated = json.loads(path.read_text(encoding="utf-8"))
    return [
        f"{name} differs from its checksum; if you meant to change it run python -m course.quiz.validate "
        "--write-checksums, else restore it from git"
        for name in CHECKED_FILES
        if stated.get(name) != sha256(folder / name)
    ]


def file_problems(folder: Path = DATA_FOLDER) -> list[str]:
    """An item that lies in the other split's file."""
    return [
        f"{item.id}: its split is {item.split!r}, but it lies in {split}.jsonl; move it or correct the split"
        for split in SPLITS
        for item in read_items(folder / f"{split}.jsonl")
        if item.split != split
    ]


def content_problems(folder: Path = DATA_FOLDER) -> list[str]:
    """Every problem of the items in `folder`, apart from checksums."""
    try:
        items = [item for split in SPLITS for item in read_items(folder / f"{split}.jsonl")]
    except QuizError as error:
        return [str(error)]
    return [
        *id_problems(items),
        *item_problems(items),
        *file_problems(folder),
        *check_problems(items),
        *count_problems(items),
        *duplicate_problems(items),
        *position_problems(items),
        *length_problems(items),
    ]


def problems_in(folder: Path = DATA_FOLDER) -> list[str]:
    """Every problem of the dataset in `folder`; an empty list when it is sound."""
    missing = [f"{name} is missing; restore it from git" for name in CHECKED_FILES if not (folder / name).exists()]
    return missing or [*content_problems(folder), *checksum_problems(folder)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; 1 when there is a problem."""
    parser = argparse.ArgumentParser(description="Check the dataset quiz.")
    parser.add_argument("--write-checksums", action="store_true", help="state the checksums of the files as they are")
    parser.add_argument("--folder", type=Path, default=DATA_FOLDER, help="where the files are")
    chosen = parser.parse_args(arguments)
    folder: Path = chosen.folder
    problems = content_problems(folder) if chosen.write_checksums else problems_in(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problem(s) in {folder}", file=sys.stderr)
        return 1
    if chosen.write_checksums:
        write_checksums(folder)
    items = [item for split in SPLITS for item in read_items(folder / f"{split}.jsonl")]
    print(f"sound: {len(items)} items, {sum(bool(item.check) for item in items)} of them checked by running code")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

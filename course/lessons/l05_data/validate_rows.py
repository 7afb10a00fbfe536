"""A gate before training: every row checked, the bad ones refused with a reason, the rest counted on a data card.

Data cards: Pushkarna et al. 2022 (arXiv:2204.01075). One worked number: a card of 3,600 rows is seven lines and answers
the three questions that are asked when a model misbehaves: which rows, how many, unchanged since?
"""

from __future__ import annotations

import hashlib
import json
import random
from itertools import pairwise
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-validate-rows",
    title="A schema validator and a data card",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="extension",
    skills=("data", "reproducibility"),
    hints=(
        "Write one function that gives a line's reason or None, and let it check in the order of the table: each check "
        "may rely on the ones before.",
        "isinstance tells what a JSON value is. A list of messages can hold anything at all, so look at each one "
        "before its keys.",
        "The order of turns is easiest to see once a leading system message is set aside: the rest alternates.",
    ),
    library_note="In production such rules stand in a schema (JSON Schema, pydantic, pandera) and the order of turns "
    "in a few lines of code beside it, since a schema says little about sequences. The checksum is what makes a card "
    "trustworthy: datasets stores one, and refuses files that differ. Three lines of the real world still break this "
    "gate or get through it: half of a surrogate pair (UTF-8 cannot hold it, so the checksum raises), thousands of "
    "nested brackets (RecursionError, which is no ValueError), and NaN, which Python reads although it is no JSON.",
    interview="A fine-tuned model behaves oddly. How do you show that its training data was what you think it was?",
)


@exercise.reference
def validate_rows(lines: list[str]) -> dict[str, object]:
    """Check the lines of a JSONL file of chats; say which are refused and why, and describe the rest.

    A line is refused for the first reason in this table that holds for it, whichever message it holds for:

        "not JSON"            json.loads cannot read it
        "not an object"       it is no JSON object
        "no messages"         its "messages" is missing, no list, or an empty list
        "bad message"         a message is no object, or its "role" or "content" is missing or no string
        "unknown role"        a role is none of system, user, assistant (tool too: our data has no tool calls)
        "blank content"       a content is empty or only white space
        "system not first"    a system message stands anywhere but first
        "wrong order"         after an optional system message, the roles are not user, assistant, user, assistant, ...
                              (no turns at all break no order)
        "no answer"           the last message is not the assistant's

    Returns a dict:
        "refused": a list of tuples (line number, reason) in the order of the lines, the first line having number 1;
        "card": a dict with "rows" (how many lines were accepted), "refused" (how many were not), "answers" (how many
            assistant messages the accepted rows hold), and "sha256": the SHA-256, in hexadecimal, of the accepted rows,
            each object written whole, as json.loads read it, by json.dumps with sort_keys=True and ensure_ascii=False
            and followed by a newline, in UTF-8.

    Not asked for here: lines nested so deeply that json gives up, and texts that UTF-8 cannot hold (half an emoji).
    """
    refused: list[tuple[int, str]] = []
    accepted: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            refused.append((number, "not JSON"))
            continue
        reason = reason_to_refuse(row)
        if reason:
            refused.append((number, reason))
        else:
            accepted.append(row)
    text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in accepted)
    answers = sum(message["role"] == "assistant" for row in accepted for message in row["messages"])
    counts = {"rows": len(accepted), "refused": len(refused), "answers": answers}
    return {"refused": refused, "card": counts | {"sha256": hashlib.sha256(text.encode()).hexdigest()}}


def reason_to_refuse(row: Any) -> str | None:
    """The first reason that holds for a row read from JSON, or None."""
    if not isinstance(row, dict):
        return "not an object"
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return "no messages"
    for message in messages:
        whole = isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not whole:
            return "bad message"
    roles = [message["role"] for message in messages]
    if not set(roles) <= {"system", "user", "assistant"}:
        return "unknown role"
    if not all(message["content"].strip() for message in messages):
        return "blank content"
    if "system" in roles[1:]:
        return "system not first"
    turns = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
        return "wrong order"
    return None if roles[-1] == "assistant" else "no answer"


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


RULES: dict[str, Any] = {
    "not an object": lambda row: isinstance(row, dict),
    "no messages": lambda row: isinstance(row.get("messages"), list) and len(row["messages"]) > 0,
    "bad message": lambda row: all(map(is_message, row["messages"])),
    "unknown role": lambda row: all(m["role"] in ("system", "user", "assistant") for m in row["messages"]),
    "blank content": lambda row: all(m["content"].strip() for m in row["messages"]),
    "system not first": lambda row: all(m["role"] != "system" for m in row["messages"][1:]),
    "wrong order": lambda row: alternates([m["role"] for m in row["messages"]]),
    "no answer": lambda row: [m["role"] for m in row["messages"][-1:]] == ["assistant"],
}


def alternates(roles: list[str]) -> bool:
    turns = roles[roles[:1] == ["system"] :]
    return turns == (["user", "assistant"] * len(turns))[: len(turns)]


def by_rules(lines: list[str], rules: dict[str, Any] | None = None, first: int = 1, ascii_only: bool = False) -> Any:
    """The same by a table of rules, which a wrong answer may change."""
    refused, kept = [], []
    for number, line in enumerate(lines, start=first):
        try:
            row = json.loads(line)
        except ValueError:
            refused.append([number, "not JSON"])
            continue
        broken = [reason for reason, holds in first_failures((rules or RULES).items(), row)]
        refused += [[number, broken[0]]] if broken else []
        kept += [] if broken else [row]
    digest = hashlib.sha256()
    for row in kept:
        digest.update((json.dumps(row, sort_keys=True, ensure_ascii=ascii_only) + "\n").encode())
    answers = [m for row in kept for m in row.get("messages", ()) if is_message(m) and m["role"] == "assistant"]
    card = {"rows": len(kept), "refused": len(refused), "answers": len(answers), "sha256": digest.hexdigest()}
    return {"refused": refused, "card": card}


def first_failures(rules: Any, row: Any) -> list[Any]:
    for reason, holds in rules:
        if not holds(row):
            return [(reason, False)]
    return []


@exercise.alternative
def with_a_table_of_rules(lines):
    return by_rules(lines)


@exercise.misconception(hint="Line numbers count from 0. Editors and error messages count a file's lines from 1.")
def lines_from_zero(lines):
    return by_rules(lines, first=0)


@exercise.misconception(
    hint="A content of spaces or newlines passes. The model would be taught to answer with nothing: strip before "
    "asking whether there is text."
)
def blank_means_empty(lines):
    return by_rules(lines, RULES | {"blank content": lambda row: all(m["content"] for m in row["messages"])})


@exercise.misconception(
    hint="The order of turns is not checked beyond the last one: two questions in a row pass, or an answer before any "
    "question."
)
def order_not_checked(lines):
    return by_rules(lines, RULES | {"wrong order": lambda row: True})


@exercise.misconception(
    hint="You ask only whether neighbouring roles differ. A chat in which the assistant speaks first alternates too, "
    "and its order is wrong: look at who begins."
)
def only_alternation_asked(lines):
    def differ(row):
        roles = [message["role"] for message in row["messages"]]
        return all(before != after for before, after in pairwise(roles[roles[0] == "system" :]))

    return by_rules(lines, RULES | {"wrong order": differ})


@exercise.misconception(
    hint="A system message in the middle of a chat is not called by its name. It has a reason of its own, before the "
    "order of turns is looked at."
)
def system_anywhere(lines):
    return by_rules(lines, RULES | {"system not first": lambda row: True})


@exercise.misconception(
    hint="A chat that ends with a question passes. Without a last answer there is nothing to learn at its end."
)
def question_last(lines):
    return by_rules(lines, RULES | {"no answer": lambda row: any(m["role"] == "assistant" for m in row["messages"])})


@exercise.misconception(
    hint="A chat that begins with a system message is refused. That message is optional: set it aside before you look "
    "at the order of the others."
)
def system_not_optional(lines):
    rule = {"wrong order": lambda row: row["messages"][0]["role"] == "user" and RULES["wrong order"](row)}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="A row whose list of messages is empty is refused for a later reason, or for none. An empty list is no "
    "messages as well."
)
def empty_list_allowed(lines):
    return by_rules(lines, RULES | {"no messages": lambda row: isinstance(row.get("messages"), list)})


@exercise.misconception(
    hint="Only the presence of role and content is checked. A content that is null or a number gets through, and "
    "breaks the chat template later; ask for text."
)
def presence_only(lines):
    there = lambda m: isinstance(m, dict) and "role" in m and "content" in m  # noqa: E731
    rules = RULES | {"bad message": lambda row: all(map(there, row["messages"]))}
    rules |= {"blank content": lambda row: all(str(m["content"]).strip() for m in row["messages"])}
    return by_rules(lines, rules)


@exercise.misconception(
    hint="Your checksum is over escaped text: é was written as \\u00e9. The docstring says how a row is to be written."
)
def checksum_of_escaped_text(lines):
    return by_rules(lines, ascii_only=True)


@exercise.misconception(
    hint="The checksum is over the lines as they came. Two files with the same rows and other spacing would differ; "
    "write each accepted row anew first."
)
def checksum_of_raw_lines(lines):
    result = by_rules(lines)
    bad = {number for number, _ in result["refused"]}
    raw = "".join(line + "\n" for number, line in enumerate(lines, start=1) if number not in bad)
    return result | {"card": result["card"] | {"sha256": hashlib.sha256(raw.encode()).hexdigest()}}


@exercise.misconception(
    hint="Your check ends at the first bad line. Somebody has to mend the file: report all of them, and describe the "
    "good rows."
)
def ends_at_the_first(lines):
    refused = by_rules(lines)["refused"]
    return by_rules(lines[: refused[0][0]]) if refused else by_rules(lines)


@exercise.misconception(
    hint="You go through the messages once and report the first message's fault. The list of reasons comes first: each "
    "one is looked for in all messages before the next."
)
def first_faulty_message(lines):
    def holds_in_turn(row):
        for message in row["messages"]:
            if not is_message(message):
                return "bad message"
            if message["role"] not in ("system", "user", "assistant"):
                return "unknown role"
            if not message["content"].strip():
                return "blank content"
        return None

    by_message = {name: lambda row, name=name: holds_in_turn(row) != name for name in list(RULES)[2:5]}
    return by_rules(lines, RULES | by_message)


@exercise.misconception(hint="Blank lines are passed over. They are no JSON, and a hole in a file is worth a word.")
def blank_lines_skipped(lines):
    result = by_rules(lines)
    refused = [pair for pair in result["refused"] if lines[pair[0] - 1].strip()]
    return {"refused": refused, "card": result["card"] | {"refused": len(refused)}}


@exercise.misconception(hint="The role tool is let through. The table knows three roles.")
def tool_allowed(lines):
    known = ("system", "user", "assistant", "tool")
    rule = {"unknown role": lambda row: all(m["role"] in known for m in row["messages"])}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="The card's rows are all lines. Only the accepted ones count; the others have a count of their own."
)
def all_lines_counted(lines):
    result = by_rules(lines)
    return result | {"card": result["card"] | {"rows": len(lines)}}


@exercise.misconception(hint="answers is the number of rows. A row may hold several assistant messages; count those.")
def one_answer_per_row(lines):
    result = by_rules(lines)
    return result | {"card": result["card"] | {"answers": result["card"]["rows"]}}


@exercise.misconception(
    hint="A chat that ends with a question is refused for its order. Its order is right; what it lacks is the last "
    "answer, which has a reason of its own."
)
def missing_answer_called_wrong_order(lines):
    rule = {"wrong order": lambda row: RULES["wrong order"](row) and row["messages"][-1]["role"] == "assistant"}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="Keys are written in the order in which they came, so two files with the same rows can have different "
    "checksums. Sort them."
)
def keys_not_sorted(lines):
    return checksum(lines, lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@exercise.misconception(
    hint="The last row has no newline behind it in your checksum. Each row is followed by one, the last one too."
)
def last_newline_missing(lines):
    return checksum(lines, lambda rows: "\n".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows))


def checksum(lines: list[str], written: Any) -> Any:
    """The right result with the checksum of other text: `written` makes it from the accepted rows."""
    result = by_rules(lines)
    bad = {number for number, _ in result["refused"]}
    rows = [json.loads(line) for number, line in enumerate(lines, start=1) if number not in bad]
    digest = hashlib.sha256(written(rows).encode()).hexdigest()
    return result | {"card": result["card"] | {"sha256": digest}}


@exercise.misconception(
    hint="A system message alone is refused for its order. Nothing about its order is wrong; what it lacks is an "
    "answer."
)
def system_alone_called_wrong_order(lines):
    def alternates_and_goes_on(row):
        return RULES["wrong order"](row) and any(m["role"] == "user" for m in row["messages"])

    return by_rules(lines, RULES | {"wrong order": alternates_and_goes_on})


@exercise.misconception(
    hint="Only the messages enter your checksum. A row may hold more, such as an id, and the whole row is written."
)
def checksum_of_messages(lines):
    def written(rows):
        return "".join(json.dumps(row["messages"], sort_keys=True, ensure_ascii=False) + "\n" for row in rows)

    return checksum(lines, written)


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], **inputs: Any) -> str | None:
    """A wrong checksum says nothing by itself; say what is right, so that only the writing is left."""
    counts = {key: value for key, value in want["card"].items() if key != "sha256"}
    refused = [list(map(tuple, result["refused"])) for result in (got, want)]
    same = counts.items() <= got["card"].items() and refused[0] == refused[1] and isinstance(got["card"]["sha256"], str)
    return "All else is right, so look at the text that the checksum is taken of" if same else None


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)

    def chat(*turns: str, **rest: Any) -> str:
        names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
        messages = [{"role": names[turn[0]], "content": turn[1:] or f"text {words.randint(1, 99)}"} for turn in turns]
        return json.dumps({"messages": messages} | rest, ensure_ascii=False)

    def case(name: str, about: str, lines: list[str], visible: bool = True) -> Case:
        return Case(name, {"lines": lines}, about, visible=visible)

    good = [chat("u", "a"), chat("s", "u", "a"), chat("u", "a", "u", "a"), chat("uCafé?", "aÀ six heures.", id=7)]
    shape = [
        "",
        "{'messages': []}",
        "[]",
        '"text"',
        "{}",
        '{"messages": {}}',
        '{"messages": []}',
        '{"messages": ["hi"]}',
    ]
    shape += ['{"messages": [{"role": "user"}]}', '{"messages": [{"role": "user", "content": null}]}', "null"]
    shape += ['{"messages": [{"role": 1, "content": "x"}, {"role": "assistant", "content": "y"}]}', *good[:1]]
    number = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": 5}]}'
    turns = [
        chat("u", "u", "a"),
        chat("a"),
        chat("a", "u"),
        chat("u"),
        chat("u", "s", "a"),
        chat("u", "a", "u"),
        chat("s"),
    ]
    turns += [chat("s", "a"), chat("t", "u", "a"), chat("u", "a", "t")]
    twice = json.dumps({"messages": [{"role": "user", "content": " "}, {"role": "assistant"}]})
    blank = [twice, chat("u", "a \n"), chat("u\t", "a"), good[1], chat("u", "a", "u ", "a")]
    spaced = [f"  {good[0]} ".replace(": ", ":  "), good[3], *good[:2]]
    everything = words.sample([*good, *shape, *turns, *blank, number], 20)
    return [
        case("good rows", "on rows that are all in order", good),
        case("shape", "on lines that are no chats", shape),
        case("turns", "when turns are in the wrong order", turns),
        case("blank", "when contents are blank", blank),
        case("a number", "when a content is no text", [good[0], number]),
        case("spacing", "when lines are spaced otherwise", spaced, visible=False),
        case("all kinds", "on a mixture of all of it", everything, visible=False),
        case("no lines", "on an empty file", [], visible=False),
    ]

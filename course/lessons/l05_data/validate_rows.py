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
        "blank content"       a content is empty or only white space (of any kind: str.strip leaves nothing)
        "system not first"    a system message stands anywhere but first
        "wrong order"         after an optional system message, the roles are not user, assistant, user, assistant, ...
                              (having no turns at all does not break the order; the reason is then "no answer")
        "no answer"           the last message is not the assistant's

    Returns a dict:
        "refused": a list of tuples (line number, reason) in the order of the lines, the first line having number 1;
        "card": a dict with "rows" (how many lines were accepted), "refused" (how many were not), "answers" (how many
            assistant messages the accepted rows hold), and "sha256": the SHA-256, in hexadecimal, of the accepted rows,
            each object written whole and unchanged, as json.loads read it, by json.dumps with sort_keys=True and
            ensure_ascii=False, and followed by a newline, in UTF-8.

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


@exercise.misconception(
    hint="Each row enters your checksum with its messages alone. Whatever other key a row holds, such as an id, is "
    "written as well."
)
def checksum_without_other_keys(lines):
    return checksum(lines, lambda rows: dumped({"messages": row["messages"]} for row in rows))


@exercise.misconception(
    hint="The messages in your checksum hold role and content only. A message may have other keys; it is written as it "
    "was read."
)
def checksum_without_other_message_keys(lines):
    def bare(row):
        return row | {"messages": [{key: m[key] for key in ("role", "content")} for m in row["messages"]]}

    return checksum(lines, lambda rows: dumped(map(bare, rows)))


@exercise.misconception(
    hint="The contents in your checksum have lost the white space at their ends. Strip a content to look at it, not to "
    "change it."
)
def checksum_of_stripped_contents(lines):
    def stripped(row):
        return row | {"messages": [m | {"content": m["content"].strip()} for m in row["messages"]]}

    return checksum(lines, lambda rows: dumped(map(stripped, rows)))


@exercise.misconception(
    hint="Only a row's own keys are sorted in your checksum, not those of its messages. sort_keys sorts at every depth."
)
def outer_keys_sorted_only(lines):
    def written(rows):
        return "".join(json.dumps(dict(sorted(row.items())), ensure_ascii=False) + "\n" for row in rows)

    return checksum(lines, written)


@exercise.misconception(
    hint="Your checksum is over text without spaces behind commas and colons. The docstring names the two arguments of "
    "json.dumps; its separators stay as they are."
)
def compact_separators(lines):
    def written(rows):
        compact: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")}
        return "".join(json.dumps(row, **compact) + "\n" for row in rows)

    return checksum(lines, written)


@exercise.misconception(
    hint="Your checksum is over one list of all rows. Each row is written by itself and followed by a newline."
)
def checksum_of_one_list(lines):
    return checksum(lines, lambda rows: json.dumps(rows, sort_keys=True, ensure_ascii=False))


@exercise.misconception(
    hint="Rows that occur twice enter the checksum once, or in another order. All accepted rows count, as they stand."
)
def checksum_of_sorted_rows(lines):
    return checksum(lines, lambda rows: "".join(sorted(dumped([row]) for row in rows)))


def dumped(rows: Any) -> str:
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


@exercise.misconception(hint="answers counts the answers of refused rows too. The card describes what was accepted.")
def answers_of_refused_rows_counted(lines):
    result, answers = by_rules(lines), 0
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        messages = row.get("messages") if isinstance(row, dict) else None
        answers += sum(is_message(m) and m["role"] == "assistant" for m in messages or () if isinstance(messages, list))
    return result | {"card": result["card"] | {"answers": answers}}


@exercise.misconception(
    hint="An empty content gets through. Asked of an empty text, str.isspace says False: empty and only white space "
    "are two cases."
)
def empty_content_allowed(lines):
    return by_rules(
        lines, RULES | {"blank content": lambda row: not any(m["content"].isspace() for m in row["messages"])}
    )


@exercise.misconception(
    hint="An empty content or role is called a bad message. An empty text is a string: what is wrong with it has a "
    "reason of its own, further down in the table."
)
def empty_text_called_bad_message(lines):
    rule = {"bad message": lambda row: all(is_message(m) and m["role"] and m["content"] for m in row["messages"])}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="Only spaces, tabs and newlines count as white space. There are others, such as the no-break space; str.strip "
    "knows them all."
)
def ascii_white_space_only(lines):
    rule = {"blank content": lambda row: all(m["content"].strip(" \t\r\n") for m in row["messages"])}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="Only the assistant's contents are looked at for blanks. A blank question or system message is refused too."
)
def only_answers_looked_at_for_blanks(lines):
    rule = {"blank content": lambda row: all(m["content"].strip() for m in row["messages"] if m["role"] == "assistant")}
    return by_rules(lines, RULES | rule)


@exercise.misconception(hint="Blank system messages get through. A blank content is refused in every role.")
def blank_system_allowed(lines):
    rule = {"blank content": lambda row: all(m["content"].strip() for m in row["messages"] if m["role"] != "system")}
    return by_rules(lines, RULES | rule)


@exercise.misconception(
    hint="Roles pass with capital letters or spaces around them. The chat template compares them exactly: User is none "
    "of the three."
)
def roles_folded(lines):
    known = ("system", "user", "assistant")
    rules = RULES | {"unknown role": lambda row: all(m["role"].strip().lower() in known for m in row["messages"])}
    rules |= {"wrong order": lambda row: alternates([m["role"].strip().lower() for m in row["messages"]])}
    rules |= {"no answer": lambda row: row["messages"][-1]["role"].strip().lower() == "assistant"}
    return by_rules(lines, rules)


@exercise.misconception(
    hint="A second system message right behind the first is taken for the beginning as well. First is one place."
)
def leading_systems_allowed(lines):
    def late(row):
        roles = [m["role"] for m in row["messages"]]
        while roles[:1] == ["system"]:
            roles = roles[1:]
        return "system" not in roles

    def ordered(row):
        roles = [m["role"] for m in row["messages"]]
        while roles[:1] == ["system"]:
            roles = roles[1:]
        return alternates(roles)

    return by_rules(lines, RULES | {"system not first": late, "wrong order": ordered})


@exercise.misconception(
    hint='A text or an object under "messages" is taken for a list, because one can loop over it. Ask whether it is a '
    "list."
)
def any_sequence_of_messages(lines):
    def there(row):
        return hasattr(row.get("messages"), "__len__") and len(row["messages"]) > 0

    return by_rules(lines, RULES | {"no messages": there})


@exercise.misconception(
    hint="Blank contents are looked for before unknown roles (or either before bad messages). The first reason of the "
    "table that holds is the one to report."
)
def blank_before_unknown_role(lines):
    names = [*list(RULES)[:3], "blank content", "unknown role", *list(RULES)[5:]]
    return by_rules(lines, {name: RULES[name] for name in names})


@exercise.misconception(
    hint="The places of system messages are looked at before blank contents. The table has blank contents first."
)
def system_before_blank(lines):
    names = [*list(RULES)[:4], "system not first", "blank content", *list(RULES)[6:]]
    return by_rules(lines, {name: RULES[name] for name in names})


@exercise.misconception(
    hint="The missing answer is reported before the order of turns is looked at. The table has the order first."
)
def answer_before_order(lines):
    names = [*list(RULES)[:6], "no answer", "wrong order"]
    return by_rules(lines, {name: RULES[name] for name in names})


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

    def said(*turns: tuple[str, str]) -> str:
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})

    def case(name: str, about: str, lines: list[str], visible: bool = True) -> Case:
        return Case(name, {"lines": lines}, about, visible=visible)

    good = [chat("u", "a"), chat("s", "u", "a"), chat("u", "a", "u", "a"), chat("uCafé?", "aÀ six heures.", id=7)]
    note = {"weight": 0, "role": "user", "content": " Why? "}
    good += [json.dumps({"note": {"z": 1, "a": 2}, "messages": [note, {"role": "assistant", "content": "So.\n"}]})]
    good += good[:1]
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
    shape += [json.dumps({"messages": given}) for given in ("hi", {"role": "user", "content": "x"}, None, 5, [None])]
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
    turns += [chat("s", "s", "u", "a"), chat("a", "s"), chat("u", "a", "s"), chat("u", "u")]
    turns += [chat("s", "a"), chat("t", "u", "a"), chat("u", "a", "t")]
    twice = json.dumps({"messages": [{"role": "user", "content": " "}, {"role": "assistant"}]})
    blank = [twice, chat("u", "a \n"), chat("u\t", "a"), good[1], chat("u", "a", "u ", "a")]
    blank += [said(("user", "x"), ("assistant", "")), said(("system", "\u00a0"), ("user", "x"), ("assistant", "y"))]
    blank += [said(("user", "\u3000"), ("assistant", "y")), said(("system", " "), ("user", "x"), ("assistant", "y"))]
    blank += [said(("", "x"), ("assistant", "y")), said(("user", ""), ("assistant", "y"))]
    roles = [said((role, "x"), ("assistant", "y")) for role in ("User", "user ", "human", "", "assistant")]
    roles += [said(("user", " "), ("tool", "x")), said(("user", "x"), ("system", "x"), ("assistant", " "))]
    roles += [json.dumps({"messages": [{"role": "tool", "content": " "}, {"role": "user"}]})]
    spaced = [f"  {good[0]} ".replace(": ", ":  "), good[3], *good[:2]]
    everything = words.sample([*good, *shape, *turns, *blank, *roles, number], 24)
    return [
        case("good rows", "on rows that are all in order", good),
        case("shape", "on lines that are no chats", shape),
        case("turns", "when turns are in the wrong order", turns),
        case("blank", "when contents are blank", blank),
        case("roles", "when roles are none of the three, and more is wrong", roles),
        case("a number", "when a content is no text", [good[0], number]),
        case("spacing", "when lines are spaced otherwise", spaced, visible=False),
        case("all kinds", "on a mixture of all of it", everything, visible=False),
        case("no lines", "on an empty file", [], visible=False),
    ]

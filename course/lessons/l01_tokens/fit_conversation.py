"""Fitting a conversation into the context window: the system turn and the newest turns, whole, with room for a reply.

One worked number: in a window of 2,048 tokens, 256 of them kept for the reply, the prompt may have 1,792.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-fit-conversation",
    title="Repair: a conversation that no longer fits",
    points=4,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("context",),
    hints=(
        "Which results are possible at all? The history can only begin at a user message. List those, then ask which "
        "of them fit.",
        "Do not add up turns. Build the whole candidate, system turn included, and ask count_tokens once for it.",
        "Try the candidates from the longest to the shortest. The first that leaves room for the reply is the answer; "
        "if none does, say in the error how many tokens would be needed.",
    ),
    library_note="LangChain's trim_messages does this with strategy='last', include_system=True and start_on='human'. "
    "Without start_on, or with allow_partial=True, it makes the mistakes you just repaired. Neither it nor this "
    "function asks what the dropped turns were worth: summaries of them, or a search over them, are the next step.",
    interview="What is context-window management, and what do you do when a conversation no longer fits?",
)

Messages = list[dict[str, str]]
Counter = Callable[[Messages], int]


@exercise.reference
def fit_conversation(
    messages: list[dict[str, str]],
    window_tokens: int,
    reply_tokens: int,
    count_tokens: Callable[[list[dict[str, str]]], int],
) -> list[dict[str, str]]:
    """The longest part of a conversation that fits the context window together with the reply.

    messages: perhaps one system message, then user and assistant messages in turn; the first of these may be either (an
        assistant's greeting), the last is the user's new question.
    window_tokens: how many tokens the model can read and write together.
    reply_tokens: how many of them are kept free for the reply.
    count_tokens: gives the number of tokens of the whole prompt for a list of messages, the template's additions
        included. (Prompts of single messages do not add up to it: each would pay for those additions again.) With the
        same system message, or with none, more messages never count fewer tokens.

    Returns a new list, even when everything fits: the system message, if there is one, then the newest messages, as
        many as fit, so that count_tokens(result) + reply_tokens <= window_tokens. messages itself stays as it is.
    What is kept after the system message is unbroken, whole messages only, unchanged (the same dictionaries or equal
    ones), and always begins with a user message: an answer whose question is gone would only confuse. So a greeting
    that stands before the first user message is always dropped. The new question is always kept.
    Raises ValueError when even the system message and the new question do not fit.
    """
    system = messages[:1] if messages[0]["role"] == "system" else []
    starts = [place for place, message in enumerate(messages) if message["role"] == "user"]
    for start in starts:  # from the longest history to the shortest
        candidate = [*system, *messages[start:]]
        needed = count_tokens(candidate) + reply_tokens
        if needed <= window_tokens:
            return candidate
    raise ValueError(
        f"the system turn, the question and the reply need {needed} tokens; the window has {window_tokens}"
    )


@exercise.alternative
def grown_from_the_newest(messages: Messages, window_tokens: int, reply_tokens: int, count_tokens: Counter) -> Messages:
    head = [message for message in messages if message["role"] == "system"]
    rest = messages[len(head) :]
    best: Messages | None = None
    for length in range(1, len(rest) + 1, 2):  # the question, then one exchange more each time
        if count_tokens(head + rest[-length:]) > window_tokens - reply_tokens:
            break
        best = head + rest[-length:]
    if best is None:
        raise ValueError("the new question does not fit: shorten it, or choose a larger window")
    return best


@exercise.alternative
def found_by_bisection(messages: Messages, window_tokens: int, reply_tokens: int, count_tokens: Counter) -> Messages:
    system = [messages[0]] * (messages[0]["role"] == "system")
    users = [i for i in range(len(messages)) if messages[i]["role"] == "user"]

    def fits(i: int) -> bool:
        return count_tokens(system + messages[i:]) + reply_tokens <= window_tokens

    first = bisect_left(users, True, key=fits)
    if first == len(users):
        raise ValueError(f"nothing fits into {window_tokens} tokens")
    return system + messages[users[first] :]


def kept(
    messages: Messages,
    window_tokens: int,
    reply_tokens: int,
    count_tokens: Counter,
    count: Callable[[Messages, Messages], int] | None = None,
    with_system: bool = True,
    roles: tuple[str, ...] = ("user",),
    raises: bool = True,
) -> Messages:
    """The fitting that the misconceptions vary."""
    system = [message for message in messages if message["role"] == "system"]
    turns = messages[len(system) :]
    count = count or (lambda system, turns: count_tokens(system + turns))
    head = system if with_system else []
    for i, turn in enumerate(turns):
        if turn["role"] in roles and count(head, turns[i:]) + reply_tokens <= window_tokens:
            return head + turns[i:]
    if raises:
        raise ValueError("it does not fit")
    return head + turns[-1:]


@exercise.misconception(
    hint="The system message is gone once the conversation grows. It holds the rules; it stays, and the oldest turns "
    "after it go."
)
def system_message_lost(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return kept(messages, window, reply, count_tokens, with_system=False)


@exercise.misconception(
    hint="You count the turns without the system message. The template then counts in one of its own instead, so the "
    "number belongs to another prompt: count exactly what you would return."
)
def system_message_not_counted(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    def turns_only(system: Messages, turns: Messages) -> int:
        return count_tokens(turns)

    return kept(messages, window, reply, count_tokens, count=turns_only)


@exercise.misconception(
    hint="The prompt fills the whole window and leaves no room for the reply. Prompt and reply share it."
)
def no_room_for_the_reply(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return kept(messages, window, 0, count_tokens)


@exercise.misconception(
    hint="A prompt that fits exactly is refused: you ask for less than the window where at most the window is allowed."
)
def exact_fit_refused(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return kept(messages, window - 1, reply, count_tokens)


@exercise.misconception(
    hint="You add up what single messages cost as prompts of their own. Each then pays again for what the template "
    "adds once, so too little is kept. Count the whole candidate."
)
def messages_counted_one_by_one(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    def summed(system: Messages, turns: Messages) -> int:
        return sum(count_tokens([message]) for message in system + turns)

    return kept(messages, window, reply, count_tokens, count=summed)


@exercise.misconception(
    hint="What you keep may begin with an answer whose question was dropped. Drop both or keep both: the history "
    "begins with a user message."
)
def answer_without_its_question(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return kept(messages, window, reply, count_tokens, roles=("user", "assistant"))


@exercise.misconception(
    hint="Where a turn does not fit you skip it and go on to older ones. The history then has a hole, and answers "
    "refer to what the model cannot see. Stop at the first exchange that does not fit."
)
def hole_in_the_history(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    newest = kept(messages, window, reply, count_tokens)
    system = [message for message in newest if message["role"] == "system"]
    turns, older = newest[len(system) :], messages[len(system) : len(messages) - len(newest) + len(system)]
    for i in range(len(older) - 2, -1, -2):
        if count_tokens([*system, *older[i : i + 2], *turns]) + reply <= window:
            turns = [*older[i : i + 2], *turns]
    return system + turns


@exercise.misconception(
    hint="You keep the beginning of the conversation and drop what is newest before the question. The newest turns are "
    "what the question refers to."
)
def oldest_turns_kept(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    head = messages[:1] if messages[0]["role"] == "system" else []
    turns = messages[next(i for i, message in enumerate(messages) if message["role"] == "user") :]
    for end in range(len(turns) - 1, -1, -2):
        if count_tokens([*head, *turns[:end], turns[-1]]) + reply <= window:
            return [*head, *turns[:end], turns[-1]]
    raise ValueError("it does not fit")


@exercise.misconception(
    hint="A message that you keep is cut to make it fit. Half a turn says something else than the whole one: keep a "
    "message as it is, or drop it."
)
def turn_cut_in_half(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens)
    system = [message for message in result if message["role"] == "system"]
    older = messages[len(system) : len(messages) - len(result) + len(system)]
    room = window - reply - count_tokens(result) - TURN_TOKENS["assistant"]
    if not older or room < 1:
        return result
    half = {"role": older[-1]["role"], "content": " ".join(older[-1]["content"].split()[-room:])}
    return [*system, half, *result[len(system) :]]


@exercise.misconception(
    hint="When even the system message and the new question do not fit together, you return a prompt that is too "
    "long. The server would refuse it, or cut it where you do not know: raise a ValueError that says what is needed."
)
def too_long_instead_of_an_error(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return kept(messages, window, reply, count_tokens, raises=False)


@exercise.misconception(
    hint="You ask whether the new question fits, but not whether it fits together with the system message, which is "
    "returned with it. Count both."
)
def question_counted_alone(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    if count_tokens(messages[-1:]) + reply > window:
        raise ValueError("it does not fit")
    return kept(messages, window, reply, count_tokens, raises=False)


@exercise.misconception(
    hint="When even the new question does not fit, you return a list without it. The model would answer a question "
    "nobody asked: raise a ValueError."
)
def question_dropped(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens, raises=False)
    return result if count_tokens(result) + reply <= window else [m for m in result if m["role"] == "system"]


@exercise.misconception(
    hint="You keep a fixed number of messages. Ten short ones fit where three long ones do not: the budget is in "
    "tokens, so ask count_tokens."
)
def last_ten_messages(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    system = messages[:1] if messages[0]["role"] == "system" else []
    return [*system, *messages[len(system) :][-10:]]


@exercise.misconception(
    hint="The oldest question that you keep is cut so that its answer fits too. Half a question says something else "
    "than the whole one: keep both as they are, or drop both."
)
def question_cut_in_half(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens)
    system = [message for message in result if message["role"] == "system"]
    older = messages[len(system) : len(messages) - len(result) + len(system)][-2:]
    if len(older) == 2:
        half = {"role": "user", "content": older[0]["content"][-10:]}
        longer = [*system, half, older[1], *result[len(system) :]]
        return longer if count_tokens(longer) + reply <= window else result
    return result


@exercise.misconception(
    hint="One exchange more would have fitted. The candidate that you found to fit is not the one that you return, or "
    "you stop one step early."
)
def one_exchange_too_few(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens)
    head = [message for message in result if message["role"] == "system"]
    return result if len(result) in (len(messages), len(head) + 1) else head + result[len(head) + 2 :]


@exercise.misconception(
    hint="What you return runs from the newest to the oldest. Turns that were gathered from the end have to be put "
    "back in the order in which they were said."
)
def newest_first(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens)
    head = [message for message in result if message["role"] == "system"]
    return head + result[len(head) :][::-1]


@exercise.misconception(
    hint="You take the first message for the system message without looking at its role. A conversation without one "
    "then keeps its oldest turn for ever."
)
def first_message_always_kept(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    for i in range(1, len(messages)):
        if messages[i]["role"] == "user" and count_tokens(messages[:1] + messages[i:]) + reply <= window:
            return messages[:1] + messages[i:]
    raise ValueError("it does not fit")


@exercise.misconception(
    hint="When everything fits you return everything, even if it begins with an assistant's greeting. What is kept "
    "begins with a user message, always."
)
def greeting_kept_when_all_fits(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return list(messages) if count_tokens(messages) + reply <= window else kept(messages, window, reply, count_tokens)


@exercise.misconception(
    hint="You drop two messages at a time from the front. That is an exchange only if the history begins with a user "
    "message; after a greeting you would part answers from their questions. Look at the roles."
)
def pairs_dropped_from_the_front(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    head = [message for message in messages if message["role"] == "system"]
    for start in range(len(head), len(messages), 2):
        if count_tokens(head + messages[start:]) + reply <= window:
            return head + messages[start:]
    raise ValueError("it does not fit")


@exercise.misconception(
    hint="When everything fits you return the list that you were given. Whoever appends to your result then changes "
    "the conversation itself: return a new list."
)
def given_list_returned(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    result = kept(messages, window, reply, count_tokens)
    return messages if result == messages else result


@exercise.misconception(
    hint="White space at the ends of a content is gone in what you keep. Messages are kept unchanged."
)
def contents_stripped(messages: Messages, window: int, reply: int, count_tokens: Counter) -> Messages:
    return [{**m, "content": m["content"].strip()} for m in kept(messages, window, reply, count_tokens)]


# SmolLM2's own numbers ("assistant" is two of its tokens).
OPENING_TOKENS = 4
DEFAULT_SYSTEM_TOKENS = 21
TURN_TOKENS = {"system": 5, "user": 5, "assistant": 6}


def tokens_in_prompt(messages: Messages) -> int:
    """A stand-in for the tokenizer: one token for each word, some more for each turn, and what the template adds."""
    added = 0 if messages and messages[0]["role"] == "system" else DEFAULT_SYSTEM_TOKENS
    turns = sum(TURN_TOKENS[message["role"]] + len(message["content"].split()) for message in messages)
    return OPENING_TOKENS + added + turns


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)

    def case(
        name: str, about: str, sizes: list[int], keep: int, spare: int, visible: bool = True, rule: int = 0
    ) -> Case:
        """Messages of so many words; the window holds the newest `keep` of them and `spare` tokens more."""
        turns = [
            {"role": "user" if (len(sizes) - place) % 2 else "assistant", "content": words(size, place) + "\n"}
            for place, size in enumerate(sizes)
        ]
        system = [{"role": "system", "content": words(rule, "rule")}] if rule else []
        reply = chance.randint(20, 60)
        window = tokens_in_prompt(system + turns[len(turns) - keep :]) + reply + spare
        inputs = {"messages": system + turns, "window_tokens": window, "reply_tokens": reply}
        return Case(name, inputs, about, visible)

    def words(size: int, label: object) -> str:
        return " ".join(f"{label}.{number}" for number in range(size))

    def sizes(turns: int) -> list[int]:
        return [chance.randint(4, 30) for _ in range(turns)]

    yield case("all of it fits", "when everything fits", sizes(5), 5, 3, rule=8)
    yield case("two old turns go", "when the oldest turns have to go", [30, 30, 12, 9, 6], 3, 11, rule=8)
    yield case("no system turn", "when there is no system message", [40, 30, 12, 9, 6], 3, 6)
    yield case("exact fit", "when it fits to the token", [20, 20, 12, 9, 6], 3, 0, rule=10)
    yield case(
        "long answer in the middle", "when one turn in the middle is long", [3, 2, 5, 90, 7, 6, 4], 3, 24, rule=6
    )
    yield case("question too long", "when the question alone does not fit", [5, 6, 40], 1, -1, rule=12)
    yield case("greeting", "when it begins with an assistant's greeting and all fits", [4, 9, 8, 6], 4, 5)
    about = "when it begins with an assistant's greeting and something has to go"
    yield case("greeting dropped", about, [4, 9, 8, 12, 5, 6], 3, 2, rule=9)
    yield case("only the question", "when there is no history", [9], 1, chance.randint(0, 9), visible=False)
    about = "when an answer would fit without its question"
    yield case("orphaned answer", about, [50, 3, 12, 9, 6], 3, 21)
    yield case("long talk", "on a long conversation", sizes(41), 15, 2, visible=False, rule=9)
    yield case("system turn too long", "when the system message leaves no room", [3, 4, 5], 1, -2, rule=60)


@exercise.probe
def probe(answer: Any, messages: Messages, window_tokens: int, reply_tokens: int) -> Any:
    """Counts tokens by a stand-in, and notes whether a conversation that cannot fit is refused, and how."""
    given = (messages, window_tokens, reply_tokens, tokens_in_prompt)
    if least_needed(messages) + reply_tokens <= window_tokens:
        result = answer(*given)
        return {"kept": result, "a new list": result is not messages}
    try:
        result = answer(*given)
    except NotImplementedError:
        raise
    except Exception as error:
        return {"when nothing fits": f"{'an' if type(error).__name__[0] in 'AEIO' else 'a'} {type(error).__name__}"}
    return {"when nothing fits": f"a list of {len(result)} messages" if isinstance(result, list) else repr(result)}


def least_needed(messages: Messages) -> int:
    """Tokens of the shortest prompt allowed: the system message, if any, and the new question."""
    head = messages[:1] if messages[0]["role"] == "system" else []
    return tokens_in_prompt([*head, messages[-1]])


@exercise.diagnose
def diagnose(got: Any, want: Any, messages: Messages, window_tokens: int, reply_tokens: int) -> str | None:
    """The rule of the docstring that the returned list breaks."""
    if "when nothing fits" in want:
        return f"{least_needed(messages) + reply_tokens} tokens are needed and the window has {window_tokens}"
    got, want = got["kept"], want["kept"]
    places = [messages.index(message) if message in messages else None for message in got]
    used = tokens_in_prompt(got) + reply_tokens
    numbers = [place for place in places if place is not None]
    roles = [message["role"] for message in got]
    history = [role for role in roles if role != "system"]
    problems = {
        "A message that you return is not one of the messages given": None in places,
        "The system message is missing": messages[0]["role"] == "system" and "system" not in roles,
        "The new question is missing": messages[-1] not in got,
        f"With the reply it takes {used} tokens, and the window has {window_tokens}": used > window_tokens,
        "What is kept begins with an answer whose question is gone": bool(history) and history[0] != "user",
        "What is kept has a hole": sorted(numbers)[-len(history) :] != list(range(len(messages)))[-len(history) :],
        f"More would fit: with the reply it takes only {used} of {window_tokens} tokens": len(got) < len(want),
    }
    return next((problem for problem, found in problems.items() if found), None)

"""The chat format of SmolLM2, which is ChatML (OpenAI 2023) with a system turn that is there even when you wrote none.

One worked number: the system turn that the template adds costs 21 tokens of each prompt that has none of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from course.lessons.l01_tokens.smollm import smollm_tokenizer
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l01-render-chat",
    title="Render the chat template by hand",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("tokenisation", "context"),
    hints=(
        "Every turn looks the same, whatever its role. Only the very first one needs a question asked.",
        "Print repr() of your text and of the docstring's example, and compare the newlines.",
        "Three things in order: perhaps a system turn of the template's own, the turns given, perhaps an opening.",
    ),
    forbidden=("transformers", "course.base_model", "course.lessons.l01_tokens.smollm"),
    library_note="apply_chat_template runs a Jinja program that came with the model, in a sandbox. Other models' "
    "programs do more: they put tool descriptions into the system turn, strip what a model thought aloud in earlier "
    "turns, or refuse a system role. So the same messages can cost one model twice the tokens of another, and a "
    "template that differs from the one in training makes answers worse without any error.",
    interview="What is a chat template, and what goes wrong when training and serving disagree about it?",
)

Messages = list[dict[str, str]]
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@exercise.reference
def render_chat(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    r"""The text that SmolLM2 reads for a conversation.

    messages: at least one, each with "role" and "content", both used exactly as they are: nothing is stripped.
    Each message becomes

        <|im_start|>ROLE(newline)CONTENT<|im_end|>(newline)

    If the first message is not a system message, a system turn of the template's own comes first, with the content
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face" (no full stop). Only the first message is
    asked: a system message further down is a turn like any other, and so is one of a role that you do not know.
    add_generation_prompt: True ends the text with "<|im_start|>assistant\n", so that the model's next token is the
        first of its answer. Added whatever the last role is; False adds nothing.
    Example: [{"role": "system", "content": "Be brief."}] and True give
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n".
    """
    turns = list(messages)
    if turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text


@exercise.alternative
def written_in_jinja(messages: Messages, add_generation_prompt: bool) -> str:
    from jinja2 import Environment

    template = Environment(keep_trailing_newline=True).from_string(
        "{% macro turn(role, content) %}<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n{% endmacro %}"
        "{% if messages[0].role != 'system' %}{{ turn('system', default) }}{% endif %}"
        "{% for message in messages %}{{ turn(message.role, message.content) }}{% endfor %}"
        "{% if opened %}<|im_start|>assistant\n{% endif %}"
    )
    return template.render(messages=messages, default=DEFAULT_SYSTEM, opened=add_generation_prompt)


@exercise.alternative
def built_piece_by_piece(messages: Messages, add_generation_prompt: bool) -> str:
    pieces: list[str] = []
    for place, message in enumerate(messages):
        if place == 0 and message["role"] != "system":
            pieces += ["<|im_start|>system\n", DEFAULT_SYSTEM, "<|im_end|>\n"]
        pieces += ["<|im_start|>", message["role"], "\n", message["content"], "<|im_end|>", "\n"]
    pieces += ["<|im_start|>", "assistant", "\n"] * add_generation_prompt
    return "".join(pieces)


def render(
    messages: Messages,
    opened: bool,
    default: str = "if not first",
    end: str = "<|im_end|>\n",
    opening: str = "<|im_start|>assistant\n",
    strip: bool = False,
    between: str = "",
    behind_role: str = "\n",
) -> str:
    """The rendering that the misconceptions vary."""
    roles = [message["role"] for message in messages]
    wanted = {"if not first": roles[0] != "system", "if nowhere": "system" not in roles, "never": False, "always": True}
    system = [{"role": "system", "content": DEFAULT_SYSTEM}] if wanted[default] else []
    pairs = [(m["role"], m["content"].strip() if strip else m["content"]) for m in [*system, *messages]]
    return between.join(f"<|im_start|>{role}{behind_role}{content}{end}" for role, content in pairs) + opening * opened


@exercise.misconception(
    hint="A conversation without a system message gets no system turn from you. SmolLM2's template puts one in, and "
    "the model has never seen a conversation without."
)
def no_default_system(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, default="never")


@exercise.misconception(
    hint="You put the template's system turn in even where the conversation brings its own. Then there are two, and "
    "the model reads both."
)
def default_system_always(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, default="always")


@exercise.misconception(
    hint="You ask whether a system message stands anywhere. The template looks at the first message only: a later "
    "system message does not count."
)
def system_looked_for_anywhere(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, default="if nowhere")


@exercise.misconception(
    hint="You add the template's system turn only before a user message. A conversation may also begin with an "
    "assistant's greeting: any first message but a system message needs that turn."
)
def default_only_before_the_user(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, default="if not first" if messages[0]["role"] == "user" else "never")


@exercise.misconception(
    hint="You read role and content by their order in the message. Stored data often has them the other way round: "
    "read them by name."
)
def keys_read_by_their_order(messages: Messages, add_generation_prompt: bool) -> str:
    pairs = [dict(zip(("role", "content"), message.values(), strict=False)) for message in messages]
    return render(pairs, add_generation_prompt, default="never" if messages[0]["role"] == "system" else "always")


@exercise.misconception(
    hint="You change how a role is written. It goes into the text exactly as it is, capitals and spaces included."
)
def roles_tidied(messages: Messages, add_generation_prompt: bool) -> str:
    tidy = [{**message, "role": message["role"].strip().lower()} for message in messages]
    return render(tidy, add_generation_prompt)


@exercise.misconception(
    hint="That is another model's system text, or not quite this one's. Copy it from the docstring letter by letter: "
    "the model was trained on exactly that one."
)
def default_of_another_model(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt).replace(DEFAULT_SYSTEM, "You are a helpful assistant.")


@exercise.misconception(hint="Role and content stand on one line. Behind the role comes a newline.")
def space_behind_the_role(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, behind_role=" ")


@exercise.misconception(
    hint="After the end of a turn a newline is missing. It is a token of its own, and the model expects it before the "
    "next turn."
)
def no_newline_after_a_turn(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, end="<|im_end|>")


@exercise.misconception(
    hint="There are newlines between the turns, but none after the last one. The template closes every turn alike."
)
def newlines_only_between_turns(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, end="<|im_end|>", between="\n", opening="\n<|im_start|>assistant\n")


@exercise.misconception(
    hint="The opening of the answer lacks its newline. Then the model's first token has to be that newline, where in "
    "training it was the first word of the answer."
)
def no_newline_in_the_opening(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, opening="<|im_start|>assistant")


@exercise.misconception(
    hint="The opening of an answer is there even when add_generation_prompt is False. In training data it would teach "
    "the model to start an answer and stop."
)
def always_opened(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, True)


@exercise.misconception(
    hint="The opening of an answer is never there. Without it the model may go on writing the user's turn."
)
def never_opened(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, False)


@exercise.misconception(
    hint="You open the answer only after a user message. The template does not look at the last role: it does what the "
    "argument says."
)
def opened_only_after_the_user(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt and messages[-1]["role"] == "user")


@exercise.misconception(
    hint="You leave the opening out where the last message is the assistant's. The template does not ask whose turn it "
    "is: with add_generation_prompt another answer is opened."
)
def not_opened_after_the_assistant(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt and messages[-1]["role"] != "assistant")


@exercise.misconception(
    hint="You strip the contents. White space at the ends of a message belongs to it (think of code), and it changes "
    "the tokens. Some models' templates strip; this one does not."
)
def contents_stripped(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, strip=True)


@exercise.misconception(
    hint="Almost: the template's own system text ends without a full stop. One sign makes other tokens."
)
def full_stop_added(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt).replace(DEFAULT_SYSTEM, f"{DEFAULT_SYSTEM}.")


@exercise.misconception(
    hint="The system turn that you add is empty. The template's own has a text; the docstring quotes it."
)
def default_system_empty(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt).replace(DEFAULT_SYSTEM, "")


@exercise.misconception(
    hint="There is a newline between the content and the end of the turn. The end mark follows the content at once; "
    "the newline comes after it."
)
def newline_before_the_end(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, end="\n<|im_end|>\n")


@exercise.misconception(
    hint="You open the answer and close it again. The model goes on right behind the opening, so nothing may follow it."
)
def opening_closed_again(messages: Messages, add_generation_prompt: bool) -> str:
    return render(messages, add_generation_prompt, opening="<|im_start|>assistant\n<|im_end|>\n")


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    chance = random.Random(seed)
    city = chance.choice(["Nairobi", "Lima", "Osaka", "Tromsø"])

    def case(name: str, about: str, opened: bool, *turns: str, visible: bool = True) -> Case:
        pairs = (turn.partition(": ") for turn in turns)
        messages = [{"role": role, "content": content} for role, _, content in pairs]
        return Case(name, {"messages": messages, "add_generation_prompt": opened}, about, visible)

    ask, rule, answer = f"user: Where is {city}?", "system: Answer in one word.", "assistant: Far away."
    yield case("own system turn", "when there is a system message", True, rule, ask)
    yield case("no system turn", "when there is no system message", True, ask)
    yield case("for training", "without an opening for an answer", False, rule, ask, answer)
    yield case("white space", "when contents begin or end with white space", True, rule, "user:   def f():\n", answer)
    yield case("several turns", "on a longer conversation", True, ask, answer, "user: How far?", visible=False)
    late = "when a system message comes later"
    yield case("late system turn", late, False, ask, rule, "user: And its river?", visible=False)
    yield case("empty", "when contents are empty", chance.random() < 0.5, "system: ", "user: ", visible=False)
    yield case("another role", "with a role of another name", True, rule, ask, "Tool 7: 42\n", visible=False)
    yield case("greeting", "when an assistant message comes first", True, "assistant: Hello!", ask)
    messages = [{"content": "Be brief.", "role": "system"}, {"content": "Hi", "role": "user"}]
    about = "when the keys of a message stand in another order"
    yield Case("content first", {"messages": messages, "add_generation_prompt": True}, about)


@exercise.oracle
def oracle(messages: Messages, add_generation_prompt: bool) -> str:
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    return smollm_tokenizer().apply_chat_template(messages, **options)

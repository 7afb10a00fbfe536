"""SmolLM2's chat template with generation markers, so that transformers can say which tokens the assistant wrote.

Jinja2 with the block {% generation %} that transformers adds to it. trl ships such templates for many models
(trl.chat_template_utils.get_training_chat_template) and none for SmolLM2.
"""

from __future__ import annotations

import random
from typing import Any

from course.lessons.l05_data.chats import Messages, bundled_tokenizer, chat
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l05-training-template",
    title="A chat template that marks the answers",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("data", "tokenisation"),
    hints=(
        "Start from the template that the cell above prints. Split the expression that writes a whole message into "
        "three: what stands before the answer, the answer, what stands after it.",
        "Markers belong only to messages of one role, so the middle part needs an if on the role.",
        "In Jinja, what stands between {{ and }} is printed, and a block tag prints nothing. Inside quotes \\n is a "
        "newline; in a Python string that is not raw, write \\\\n for it.",
    ),
    library_note="transformers renders the template with an extension that notes where each marked block begins and "
    "ends in the text, and then asks the tokenizer for the tokens of those characters. The training templates that trl "
    "ships differ in one more way: they are written so that adding a turn never changes the text of earlier ones.",
    interview="How do you get assistant-only loss for a model whose chat template has no generation markers?",
)


@exercise.reference
def training_template() -> str:
    """A Jinja chat template for SmolLM2 that writes the same text as its own and marks the answers.

    For every non-empty list of messages (roles system, user, assistant, tool), with add_generation_prompt or without,
    the text must equal what `tokenizer.apply_chat_template(messages, tokenize=False)` gives with its own template: a
    default system message where the first message is no system message (its text stands in the template printed
    above), each message as <|im_start|>, role, newline, content, <|im_end|>, newline, and at the end the assistant's
    header where add_generation_prompt is true.

    In messages of the role "assistant", and only there, the block {% generation %} ... {% endgeneration %} stands
    around the content and its <|im_end|>: exactly what the model has to write. The header before it and the newline
    after it stay outside.

    Returns the template's text, written out: no variables of the notebook, such as `tokenizer`, are there when it is
    graded.
    """
    return (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}"
        "{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
        "{{ '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


@exercise.alternative
def edited_original():
    marked = "{% generation %}{{ message['content'] }}{{ '<|im_end|>' }}{% endgeneration %}"
    plain = "{{ message['content'] }}{{ '<|im_end|>' }}"
    body = "}}{% if message['role'] == 'assistant' %}" + marked + "{% else %}" + plain + "{% endif %}{{"
    return bundled_tokenizer().chat_template.replace(" + message['content'] + '<|im_end|>' + ", body)


@exercise.alternative
def over_many_lines():
    return """
{%- if messages[0].role != "system" -%}
    {{- "<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set header = "<|im_start|>" ~ message.role ~ "\\n" -%}
    {%- set body = message.content ~ "<|im_end|>" -%}
    {%- if message.role == "assistant" -%}
        {{- header -}}{%- generation -%}{{- body -}}{%- endgeneration -%}{{- "\\n" -}}
    {%- else -%}
        {{- header ~ body ~ "\\n" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""


BODY = "{{ message['content'] + '<|im_end|>' }}"


NEWLINE = "{{ '\\n' }}"


def changed(*changes: tuple[str, str]) -> str:
    """The right template with pieces of its text replaced."""
    text = training_template()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@exercise.misconception(
    hint="<|im_end|> is outside the markers, so it gets no label and the model is not taught to stop. The end token is "
    "part of what the model writes."
)
def end_token_outside():
    marked = "{% generation %}{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}{% else %}"
    return changed(("{% generation %}" + BODY + "{% endgeneration %}{% else %}", marked))


@exercise.misconception(
    hint="The header is inside the markers. The prompt ends with the header at generation time: the model never has to "
    "write it."
)
def header_inside():
    header = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    return changed(
        (header, ""), ("{% generation %}", "{% generation %}" + header), ("{% else %}", "{% else %}" + header)
    )


@exercise.misconception(
    hint="The newline after <|im_end|> is inside the markers. The model has stopped by then; that newline is the "
    "template's."
)
def newline_inside():
    newline, end = "{{ '\\n' }}", "{% endgeneration %}"
    return changed(
        (end, newline + end), ("{% endif %}" + newline + "{% endfor %}", newline + "{% endif %}{% endfor %}")
    )


@exercise.misconception(
    hint="Every role's text is marked, questions too. Put the markers into a branch that asks for the role."
)
def every_role_marked():
    return changed(("{% else %}" + BODY, "{% else %}{% generation %}" + BODY + "{% endgeneration %}"))


@exercise.misconception(
    hint="There are no generation markers, so the mask is empty: no token has a label and the loss has nothing to "
    "count."
)
def no_markers():
    return changed(("{% generation %}", ""), ("{% endgeneration %}", ""))


@exercise.misconception(
    hint="A chat without a system message renders differently: SmolLM2's own template puts a default system message "
    "first, and the model was trained with it."
)
def default_system_lost():
    return changed(("loop.first and message['role'] != 'system'", "false"))


@exercise.misconception(
    hint="With add_generation_prompt the text must end with the assistant's header; yours does not. Without it the "
    "same template cannot be used to ask."
)
def generation_prompt_lost():
    return changed(("{% if add_generation_prompt %}", "{% if false %}"))


@exercise.misconception(
    hint="The assistant's header is written at the end even when add_generation_prompt is false. Training rows would "
    "end with an answer that never comes."
)
def always_prompts():
    return changed(("{% if add_generation_prompt %}", "{% if true %}"))


@exercise.misconception(
    hint="White space at the ends of a message is lost. SmolLM2's template writes the content as it is: clean data "
    "before the template, not in it."
)
def content_trimmed():
    return changed((BODY, "{{ message['content'] | trim + '<|im_end|>' }}"))


@exercise.misconception(
    hint="Only the last message's answer is marked. A chat with several answers teaches with each of them."
)
def only_the_last_marked():
    return changed(("['role'] == 'assistant' %}", "['role'] == 'assistant' and loop.last %}"))


@exercise.misconception(hint="The markers stand around the whole text. They belong into the loop, around each answer.")
def whole_text_marked():
    return "{% generation %}" + no_markers() + "{% endgeneration %}"


@exercise.misconception(hint="The questions are marked instead of the answers. Look at the role that your if asks for.")
def questions_marked():
    return changed(("message['role'] == 'assistant'", "message['role'] == 'user'"))


@exercise.misconception(
    hint="Other roles' messages lost their <|im_end|>. Every message ends with it; only which part is marked depends "
    "on the role."
)
def end_token_for_answers_only():
    return changed(("{% else %}" + BODY, "{% else %}{{ message['content'] }}"))


@exercise.misconception(
    hint="The newline after each message is lost. The model was trained with one behind every end token. (Jinja drops "
    "a newline that is typed right behind a block tag.)"
)
def newline_lost():
    return changed(("{% endif %}{{ '\\n' }}{% endfor %}", "{% endif %}{% endfor %}"))


@exercise.misconception(
    hint="The header that add_generation_prompt adds is marked too. It belongs to the prompt; the model writes what "
    "follows."
)
def prompt_marked():
    header = "{{ '<|im_start|>assistant\\n' }}"
    return changed((header, "{% generation %}" + header + "{% endgeneration %}"))


@exercise.misconception(
    hint="The default system message is written again before later messages. It stands once, before the first one."
)
def default_system_each_time():
    return changed(("loop.first and ", ""))


@exercise.misconception(
    hint="The default system message is left out where a system message stands anywhere in the chat. SmolLM2's own "
    "template looks at the first message only: a later system message does not count."
)
def default_system_if_none_anywhere():
    nowhere = "loop.first and not messages | selectattr('role', 'equalto', 'system') | list"
    return changed(("loop.first and message['role'] != 'system'", nowhere))


@exercise.misconception(
    hint="In a chat without a system message the default one is written before every message. It stands once, before "
    "the first: loop.first says where you are."
)
def default_system_each_round():
    return changed(("loop.first and message['role']", "messages[0]['role']"))


@exercise.misconception(
    hint="The newline after an answer is lost. If you typed it as a line break behind a block tag: Jinja, as "
    "transformers sets it up, drops a newline right behind such a tag. Print it inside {{ }}."
)
def newline_after_answers_lost():
    return changed((NEWLINE + "{% endfor %}", "{% endfor %}"), ("{% else %}" + BODY, "\n{% else %}" + BODY + NEWLINE))


@exercise.misconception(
    hint="Messages of the role tool lose their content. Only the marking depends on the role; every message is written."
)
def tool_lost():
    return changed(
        (NEWLINE + "{% endfor %}", "{% endfor %}"),
        ("{% else %}" + BODY, NEWLINE + "{% elif message['role'] != 'tool' %}" + BODY + NEWLINE),
    )


@exercise.misconception(
    hint="Spaces and newlines that you wrote to lay the template out got into the text. A dash inside the tag, as in "
    "{%- and -%}, takes away the white space on that side."
)
def layout_in_the_text():
    return changed(("{{ '<|im_start|>' + message", "\n    {{ '<|im_start|>' + message"))


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)

    def case(name: str, about: str, messages: Messages, prompt: bool = False, visible: bool = True) -> Case:
        return Case(name, {"messages": messages, "add_generation_prompt": prompt}, about, visible=visible)

    padded = [{"role": "user", "content": "What is 2 + 2? "}, {"role": "assistant", "content": "It is 4. "}]
    return [
        case("one answer", "on a question and its answer, without a system message", chat("ua", words)),
        case("two answers", "when there is a system message and two answers", chat("suaua", words)),
        case("a prompt", "when it is rendered to ask for an answer", chat("suau", words), prompt=True),
        case("spaces", "when messages end with spaces", padded),
        case("tool", "when a tool answers in between", chat("suatua", words)),
        case("late system", "when a system message comes later, not first", chat("uasua", words)),
        case("first word", "when the assistant speaks first", chat("aua", words), visible=False),
        case("no answer", "when a prompt holds no answer yet", chat("u", words), prompt=True, visible=False),
    ]


@exercise.probe
def probe(answer: Any, messages: Messages, add_generation_prompt: bool) -> Any:
    """The text that the template writes, and the pieces of it that are marked, decoded from the marked tokens."""
    template = answer()
    if not isinstance(template, str):
        return template
    render = bundled_tokenizer().apply_chat_template
    options = {"chat_template": template, "add_generation_prompt": add_generation_prompt}
    encoded = render(messages, return_dict=True, return_assistant_tokens_mask=True, **options)
    return {"text": render(messages, tokenize=False, **options), "marked": pieces(encoded)}


def pieces(encoded: Any) -> list[str]:
    """The texts of the runs of marked tokens."""
    runs: list[list[int]] = []
    before = 0
    for token, mark in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        if mark:
            runs = runs if before else [*runs, []]
            runs[-1].append(token)
        before = mark
    return [bundled_tokenizer().decode(run) for run in runs]


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], **inputs: Any) -> str | None:
    """Where two texts part."""
    mine, right = got["text"], want["text"]
    if mine == right:
        return None
    same = next((i for i, (a, b) in enumerate(zip(mine, right, strict=False)) if a != b), min(len(mine), len(right)))
    goes_on = f"yours goes on with {mine[same : same + 24]!r}, SmolLM2's with {right[same : same + 24]!r}"
    layout = (
        ". Apart from white space they are equal: Jinja drops a newline right behind a {% %} tag and the blanks before "
        "one, and whatever else stands outside the tags is written"
    )
    equal = mine.split() == right.split()
    return f"The texts part after {right[max(0, same - 24) : same]!r}: {goes_on}{layout if equal else ''}"


@exercise.oracle
def oracle(messages: Messages, add_generation_prompt: bool) -> dict[str, Any]:
    """The text by the tokenizer's own template; what is to be marked, read from the messages themselves."""
    render = bundled_tokenizer().apply_chat_template
    text = render(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    return {"text": text, "marked": [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]}

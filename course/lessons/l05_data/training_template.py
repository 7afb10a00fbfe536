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
    default system message where the first message is no system message (it reads "You are a helpful AI assistant named
    SmolLM, trained by Hugging Face"), each message as <|im_start|>, role, newline, content, <|im_end|>, newline, and at
    the end the assistant's header where add_generation_prompt is true, whoever spoke last. A content is always a text,
    perhaps an empty one, and is written as it is.

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


@exercise.misconception(
    hint="Messages of the role tool are marked as well. What a tool answers is given to the model; only what the "
    "assistant writes is to be learned."
)
def tool_marked():
    return changed(("message['role'] == 'assistant'", "message['role'] not in ['system', 'user']"))


@exercise.misconception(
    hint="Everything but the questions is marked: system messages and tools too. Ask for the one role that is to be "
    "learned."
)
def all_but_questions_marked():
    return changed(("message['role'] == 'assistant'", "message['role'] != 'user'"))


@exercise.misconception(
    hint="The header that asks for an answer is left out when the last message is the assistant's. It depends on "
    "add_generation_prompt alone."
)
def no_prompt_after_an_answer():
    return changed(
        ("{% if add_generation_prompt", "{% if add_generation_prompt and messages[-1]['role'] != 'assistant'")
    )


@exercise.misconception(
    hint="The header that asks for an answer has lost the newline at its end. The model was trained with it there."
)
def prompt_without_its_newline():
    return changed(("<|im_start|>assistant\\n", "<|im_start|>assistant"))


@exercise.misconception(
    hint="The newline after the last message is missing. Every message is followed by one, the last one too."
)
def last_newline_lost():
    return changed((NEWLINE + "{% endfor %}", "{% if not loop.last %}" + NEWLINE + "{% endif %}{% endfor %}"))


@exercise.misconception(
    hint="The default system message is written only where the first message is the user's. A chat may open with "
    "another role; ask whether it opens with a system message."
)
def default_system_before_questions_only():
    return changed(("message['role'] != 'system'", "message['role'] == 'user'"))


@exercise.misconception(
    hint="An empty system message is replaced by the default one. SmolLM2's own template asks for the first message's "
    "role, not for its text."
)
def default_for_an_empty_system_message():
    opens = "message['role'] != 'system' %}"
    text = changed((opens, "(message['role'] != 'system' or not message['content']) %}"))
    header = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    start, end = text.index(header), text.index("{% endfor %}")
    shown = "{% if not (loop.first and message['role'] == 'system' and not message['content']) %}"
    return text[:start] + shown + text[start:end] + "{% endif %}" + text[end:]


@exercise.misconception(
    hint="Messages with an empty content are left out. SmolLM2's template writes them, and an empty answer still has "
    "its end token."
)
def empty_messages_left_out():
    header = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    return changed(
        (header, "{% if message['content'] %}" + header),
        (NEWLINE + "{% endfor %}", NEWLINE + "{% endif %}{% endfor %}"),
    )


@exercise.misconception(
    hint="System messages are written only where they come first. A later one is a message like any other."
)
def late_system_lost():
    header = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    shown = "{% if loop.first or message['role'] != 'system' %}"
    return changed((header, shown + header), (NEWLINE + "{% endfor %}", NEWLINE + "{% endif %}{% endfor %}"))


@exercise.misconception(hint="Only the first answer is marked. A chat with several answers teaches with each of them.")
def only_the_first_marked():
    first = "message['role'] == 'assistant' and 'assistant' not in messages[:loop.index0] | map(attribute='role')"
    return changed(("message['role'] == 'assistant'", first))


@exercise.misconception(
    hint="An answer is marked only where a question stands right before it. Answers after a tool's message, after "
    "another answer, or at the very beginning are the assistant's too."
)
def only_after_a_question_marked():
    after = "message['role'] == 'assistant' and not loop.first and loop.previtem['role'] == 'user'"
    return changed(("message['role'] == 'assistant'", after))


@exercise.misconception(
    hint="Characters such as <, & and quotes are rewritten in your text. The content is written as it is, without a "
    "filter."
)
def content_escaped():
    return changed((BODY, "{{ message['content'] | e + '<|im_end|>' }}"))


@exercise.misconception(
    hint="The default system message is written before an empty system message. The first message's role decides, not "
    "its text."
)
def default_before_an_empty_system_message():
    return changed(("message['role'] != 'system'", "(message['role'] != 'system' or not message['content'])"))


@exercise.misconception(hint="An empty answer is not marked. Its end token is still what the model has to write.")
def empty_answer_unmarked():
    return changed(("message['role'] == 'assistant'", "message['role'] == 'assistant' and message['content']"))


@exercise.misconception(
    hint="White space at the ends of the answers is lost. The content is written as it is, whoever speaks."
)
def answers_trimmed():
    trimmed = "{{ message['content'] | trim + '<|im_end|>' }}"
    return changed(("{% generation %}" + BODY, "{% generation %}" + trimmed))


@exercise.misconception(hint="White space at the beginning of a message is lost. The content is written as it is.")
def front_trimmed():
    return changed((BODY, "{{ message['content'].lstrip() + '<|im_end|>' }}"))


@exercise.misconception(hint="White space at the end of a message is lost. The content is written as it is.")
def end_trimmed():
    return changed((BODY, "{{ message['content'].rstrip() + '<|im_end|>' }}"))


@exercise.misconception(
    hint="A tool's message is written under another role's name. The role stands in the header as it is."
)
def tool_renamed():
    named = "('user' if message['role'] == 'tool' else message['role'])"
    return changed(("'<|im_start|>' + message['role']", f"'<|im_start|>' + {named}"))


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)

    def case(name: str, about: str, messages: Messages, prompt: bool = False, visible: bool = True) -> Case:
        return Case(name, {"messages": messages, "add_generation_prompt": prompt}, about, visible=visible)

    padded = [{"role": "user", "content": " What is 2 + 2?\n"}, {"role": "assistant", "content": "\tIt is 4. "}]
    signs = [{"role": "user", "content": "Is 2 < 3 & \"x\" > 'y'?"}, {"role": "assistant", "content": "{{ a }} <b>"}]
    empty = [message | {"content": ""} for message in chat("suatua", words)]
    return [
        case("one answer", "on a question and its answer, without a system message", chat("ua", words)),
        case("two answers", "when there is a system message and two answers", chat("suaua", words)),
        case("a prompt", "when it is rendered to ask for an answer", chat("suau", words), prompt=True),
        case("spaces", "when messages begin or end with white space", padded),
        case("tool", "when a tool answers in between", chat("suatua", words)),
        case("asked again", "when a prompt follows an answer", chat("ua", words), prompt=True),
        case("signs", "when contents hold braces, quotes and <", signs),
        case("empty", "when all contents are empty", empty),
        case("answers in a row", "when an answer follows an answer", chat("suaa", words), visible=False),
        case("tool first", "when a tool's message is the first", chat("tua", words), visible=False),
        case("two systems", "when two system messages stand first", chat("ssua", words), visible=False),
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

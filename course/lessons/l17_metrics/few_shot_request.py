"""What the model is really sent: shots, description, chat template, and the space before a choice.

As lm_eval/api/task.py (0.4.13) builds it, ConfigurableTask.fewshot_context and construct_requests. Worked number: a
question of 23 tokens as plain text is 53 tokens in SmolLM2's chat template with its own system turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-few-shot-request",
    title="Few-shot prompts, plain and in a chat template",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("evaluation",),
    hints=(
        "Write down the plain text for one shot and one question first, with every space and newline visible.",
        "In a chat a shot is two messages. Who speaks the right answer?",
        "A chat template ends with the opening of the assistant's turn, on a new line. Does an answer begin with a "
        "space there?",
    ),
    forbidden=("lm_eval",),
    library_note="lm-eval draws the shots by a seed for each question (or takes the first n), puts all of them into "
    "one user turn if you set fewshot_as_multiturn=False, and drops the space before a choice once a chat template is "
    "on. Each of these changes the score by some points, and a table of results seldom says which were on.",
    interview="Your model gets 38 % without its chat template and 25 % with it. Is the template broken?",
)

Messages = list[dict[str, str]]


@exercise.reference
def few_shot_request(
    item: dict, shots: list[dict], description: str, render: Callable[..., str] | None
) -> dict[str, str | list[str]]:
    """The context and the continuations that a multiple-choice question is scored with.

    item, and each of shots: {"question": text, "choices": list of texts, "answer": index of the right one}.
    description: an instruction before everything, maybe "". It brings its own line breaks.
    A question is asked as "Question: <question>\\nAnswer:".

    Plain text (render is None): the context is the description; then for each shot the question, a space, the right
        choice and an empty line (two newlines); then the item's question. Each continuation is a space and a choice.
    Chat (render given): messages, each {"role": ..., "content": ...}: a "system" message with the description, as it
        is, unless it is ""; for each shot a "user" message with the question and an "assistant" message with the right
        choice; a "user" message with the item's question. The context is render(messages, add_generation_prompt=True).
        Each continuation is a choice, without a space before it.
    Returns {"context": text, "continuations": one text for each of the item's choices, in order}.
    """
    pairs = [(f"Question: {each['question']}\nAnswer:", each["choices"][each["answer"]]) for each in [*shots, item]]
    if render is None:
        context = description + "".join(f"{asked} {right}\n\n" for asked, right in pairs[:-1]) + pairs[-1][0]
        return {"context": context, "continuations": [f" {choice}" for choice in item["choices"]]}
    messages: Messages = [{"role": "system", "content": description}] if description else []
    for asked, right in pairs:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": right}]
    return {"context": render(messages[:-1], add_generation_prompt=True), "continuations": list(item["choices"])}


@exercise.alternative
def turn_by_turn(item, shots, description, render):
    def ask(each):
        return "Question: " + each["question"] + "\n" + "Answer:"

    turns = []
    for shot in shots:
        turns.append(("user", ask(shot), " "))
        turns.append(("assistant", shot["choices"][shot["answer"]], "\n\n"))
    turns.append(("user", ask(item), ""))
    if render is not None:
        spoken = [
            dict(role=role, content=text) for role, text, _ in [("system", description, "")] * bool(description) + turns
        ]
        return dict(context=render(spoken, add_generation_prompt=True), continuations=item["choices"][:])
    written = description
    for _, text, behind in turns:
        written += text + behind
    return dict(context=written, continuations=[" " + choice for choice in item["choices"]])


def asked(each: dict[str, Any], ending: str = "Answer:") -> str:
    return f"Question: {each['question']}\n{ending}"


def request(
    item: dict[str, Any],
    shots: Sequence[dict[str, Any]],
    description: str,
    render: Callable[..., str] | None,
    *,
    between: str = "\n\n",
    before_answer: str = " ",
    answer: Callable[[dict[str, Any]], str] = lambda each: each["choices"][each["answer"]],
    plain_lead: str = " ",
    chat_lead: str = "",
    one_turn: bool = False,
    answered_by_user: bool = False,
    opened: bool = True,
    description_to: str = "system",
    ending: str = "Answer:",
    after_description: str = "",
    described_shots: bool = False,
    always_described: bool = False,
    own_answer: bool = False,
) -> dict[str, Any]:
    """The request with the parts that the misconceptions change."""
    if own_answer:
        shots = [*shots, item]
    text = "".join(
        (description if described_shots and place else "")
        + f"{asked(shot, ending)}{before_answer}{answer(shot)}{between}"
        for place, shot in enumerate(shots)
    )
    if render is None:
        context = description + after_description * bool(description) + text + asked(item, ending)
        return {"context": context, "continuations": [plain_lead + choice for choice in item["choices"]]}
    messages = []
    if (description or always_described) and description_to == "system":
        messages.append({"role": "system", "content": description})
    if not one_turn:
        for shot in shots:
            if answered_by_user:
                messages.append({"role": "user", "content": asked(shot, ending) + before_answer + answer(shot)})
                continue
            messages.append({"role": "user", "content": asked(shot, ending)})
            messages.append({"role": "assistant", "content": answer(shot)})
    last = (text if one_turn else "") + asked(item, ending)
    messages.append({"role": "user", "content": last})
    if description and description_to == "user":
        messages[0]["content"] = description + messages[0]["content"]
    context = render(messages, add_generation_prompt=opened)
    return {"context": context, "continuations": [chat_lead + choice for choice in item["choices"]]}


@exercise.misconception(
    hint="With the chat template your choices still begin with a space. The assistant's turn opens on a new line, "
    "where the model never saw an answer start with one."
)
def space_kept_in_chat(item, shots, description, render):
    return request(item, shots, description, render, chat_lead=" ")


@exercise.misconception(
    hint="In plain text the space before each choice is missing. 'Answer:Mars' splits into tokens that the shots do "
    "not show."
)
def no_space_in_plain_text(item, shots, description, render):
    return request(item, shots, description, render, plain_lead="")


@exercise.misconception(
    hint="The space stands at the end of the context, and belongs to the choice: a context that ends with a space "
    "makes the first token of each choice one that is rare there."
)
def space_at_the_end_of_the_question(item, shots, description, render):
    result = request(item, shots, description, render, plain_lead="")
    return result | {"context": result["context"] + " "} if render is None else result


@exercise.misconception(
    hint="The assistant's turn is not opened: your context ends with the user's turn, and the model is asked how "
    "likely a choice is as the user's next words."
)
def generation_prompt_forgotten(item, shots, description, render):
    return request(item, shots, description, render, opened=False)


@exercise.misconception(
    hint="All shots stand in one user turn, as text. Here each shot is a turn of the user and one of the assistant."
)
def shots_in_one_turn(item, shots, description, render):
    return request(item, shots, description, render, one_turn=True)


@exercise.misconception(
    hint="In each of your shots the user asks and answers. What the model is to learn from a shot is what the "
    "assistant says then: the answer is a turn of its own."
)
def user_answers_the_shots(item, shots, description, render):
    return request(item, shots, description, render, answered_by_user=True)


@exercise.misconception(
    hint="The question itself stands among your shots, with its right answer. That is the leak that makes a score "
    "perfect."
)
def own_answer_shown(item, shots, description, render):
    return request(item, shots, description, render, own_answer=True)


@exercise.misconception(
    hint="Shots are separated by one newline in yours. An empty line, two newlines, is what tells the model where one "
    "ends."
)
def one_newline_between(item, shots, description, render):
    return request(item, shots, description, render, between="\n")


@exercise.misconception(
    hint="The space before a shot's right choice is missing, although the choices that are scored have one. The shots "
    "must show exactly the form that is asked for."
)
def no_space_in_shots(item, shots, description, render):
    return request(item, shots, description, render, before_answer="")


@exercise.misconception(hint="Your shots show the first choice, right or not. The right one is at the index `answer`.")
def first_choice_shown(item, shots, description, render):
    return request(item, shots, description, render, answer=lambda each: each["choices"][0])


@exercise.misconception(
    hint="Your shots answer with the index, but the choices are scored as texts: the model learns from the shots to "
    "write numbers."
)
def index_shown(item, shots, description, render):
    return request(item, shots, description, render, answer=lambda each: str(each["answer"]))


@exercise.misconception(
    hint="In the chat your description is put before the first user's question. It is a system message of its own."
)
def description_in_the_user_turn(item, shots, description, render):
    return request(item, shots, description, render, description_to="user")


@exercise.misconception(
    hint="In the chat the description is missing. Without a system message of yours, many templates put one of their "
    "own."
)
def description_lost_in_chat(item, shots, description, render):
    return request(item, shots, description, render, description_to="nobody")


@exercise.misconception(
    hint="You send a system message even when there is no description. An empty one is not none: the template writes a "
    "system turn with nothing in it, in place of its own."
)
def empty_system_message(item, shots, description, render):
    return request(item, shots, description, render, always_described=True)


@exercise.misconception(
    hint="You add an empty line after the description. It brings its own line breaks, if any; what you add, the model "
    "reads."
)
def line_added_after_description(item, shots, description, render):
    return request(item, shots, description, render, after_description="\n\n")


@exercise.misconception(hint="The description is repeated before each shot. It stands once, before everything.")
def description_before_each_shot(item, shots, description, render):
    return request(item, shots, description, render, described_shots=True)


QUESTIONS = (
    ("Which planet is called the red planet?", ["Venus", "Mars", "Pluto"], 1),
    ("What does len('ab') return?", ["2", "1", "TypeError", "None"], 0),
    ("Which tool lists files?", ["cat", "cd", "ls"], 2),
    ("What is 7 * 8?", ["54", "56"], 1),
    ("Which city is in Peru?", ["Quito", "La Paz", "Lima", "Bogota"], 2),
    ("What is the opposite of hot?", ["warm", "cold"], 1),
)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def case(name: str, about: str, shots: int, description: str, chat: bool, visible: bool = True) -> Case:
        chosen = draw.sample(QUESTIONS, shots + 1)
        item, *examples = [{"question": q, "choices": list(c), "answer": a} for q, c, a in chosen]
        return Case(name, {"item": item, "shots": examples, "description": description, "chat": chat}, about, visible)

    told = f"Answer these {draw.randint(2, 9)} questions.\n\n"
    yield case("no shots", "without shots", 0, "", False)
    yield case("two shots", "with two shots", 2, "", False)
    yield case("description", "with a description", 3, told, False)
    yield case("chat", "in a chat", 0, "", True)
    yield case("chat with shots", "in a chat with shots", 3, "", True)
    yield case("chat with description", "in a chat with a description", 2, told, True)
    yield case("description alone", "with a description and no shots", 0, "Be right: ", False, visible=False)
    yield case("chat description alone", "in a chat with a description and no shots", 0, told, True, visible=False)
    yield case("many shots", "with many shots", 4, "", bool(seed % 2), visible=False)


def chat_text(messages: Messages, add_generation_prompt: bool = False, **ignored: Any) -> str:
    """A chat template in the style of ChatML, with a system turn of its own when there is none, as SmolLM2's has."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "You are a model."}, *messages]
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + "<|im_start|>assistant\n" * add_generation_prompt


@exercise.probe
def probe(answer: Any, item: dict, shots: list, description: str, chat: bool) -> Any:
    """Gives the answer a chat template, or None."""
    return answer(item, shots, description, chat_text if chat else None)


@exercise.oracle
def oracle(item: dict, shots: list, description: str, chat: bool) -> Any:
    from course.lessons.l17_metrics.harness_parts import build_task, requests_of

    config = {
        "task": "asked",
        "test_split": "test",
        "fewshot_split": "shots",
        "fewshot_config": {"sampler": "first_n"},
        "output_type": "multiple_choice",
        "description": description,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    task = build_task(config, {"test": [item], "shots": shots or [item]})
    sent = requests_of(task, len(shots), chat_text if chat else None)
    return {"context": sent[0][0], "continuations": [continuation for _, continuation in sent]}

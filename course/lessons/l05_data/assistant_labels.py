"""Labels on the assistant's tokens only, found by the tokens that open and close its turns.

The equal of `assistant_only_loss` in trl. One worked number: in <|im_start|>assistant\\nHi<|im_end|>\\n, six tokens
after the tokens of a question, two are labelled: Hi and <|im_end|>.
"""

from __future__ import annotations

import random
import re
from typing import Any

import torch

from course.lessons.l05_data.chats import Messages, bundled_tokenizer, chat
from grader.exercise import Case, Exercise

END_OF_A_WRITTEN_ROW = 2

exercise = Exercise(
    id="l05-assistant-labels",
    title="Labels on the assistant's tokens only",
    points=4,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("data", "tokenisation"),
    hints=(
        "Walk over the tokens with one question in mind: am I inside an answer or not? What switches that on, and what "
        "switches it off?",
        "A header is several tokens: compare a slice of the list with it. An answer begins right after the header and "
        "ends with, and including, the first end token that follows.",
        "A conversation may be cut off in the middle of an answer, or end with a header that nothing follows yet. "
        "Neither is an error.",
    ),
    library_note="transformers finds the same tokens another way: the chat template marks the answer's characters, and "
    "the tokenizer says which tokens hold them (apply_chat_template with return_assistant_tokens_mask=True). That also "
    "holds where a user types the header's text into a question: a search by tokens takes it for a real header.",
    interview="Which tokens of a conversation should a fine-tuning loss count, and why?",
)


@exercise.reference
def assistant_labels(input_ids: list[int], header: list[int], end_id: int) -> list[int]:
    """The label of each token: the token's own id inside an answer, -100 elsewhere.

    input_ids: the tokens of a whole rendered conversation, T of them.
    header: the tokens that open an assistant's turn, at least one (for SmolLM2 those of "<|im_start|>assistant" and a
        newline); end_id is not among them.
    end_id: the token that ends every turn (<|im_end|>).

    An answer is what follows a header, up to and including the first end token. The header is not part of it, nor is
    the newline that the template writes after the end token. A conversation may hold several answers or none; it may
    be cut off inside an answer (then all that is there counts), or end with a header that no token follows. Inside an
    answer only the end token is looked for; right behind it the search for a header goes on. (SmolLM2's template writes
    a newline there, others write nothing.) A header counts wherever it stands whole, behind a broken-off one too.

    Returns T labels. They stand at the same places as their tokens: the model shifts them by itself when it computes
    the loss. -100 is the label that torch's cross-entropy leaves out. input_ids stays as it is; in no
    exercise of this lesson is an argument to be changed.
    """
    labels = [-100] * len(input_ids)
    place = 0
    while place < len(input_ids):
        if input_ids[place : place + len(header)] != header:
            place += 1
            continue
        place += len(header)
        inside = True
        while inside and place < len(input_ids):
            labels[place] = input_ids[place]
            inside = input_ids[place] != end_id
            place += 1
    return labels


@exercise.alternative
def by_counting_ends(input_ids, header, end_id):
    ids = torch.tensor(input_ids)
    if len(ids) <= len(header):
        return [-100] * len(ids)
    opens = torch.zeros(len(ids) + 1, dtype=torch.bool)
    opens[len(header) :] = (ids.unfold(0, len(header), 1) == torch.tensor(header)).all(1)
    last_open = torch.where(opens[:-1], torch.arange(len(ids)), -1).cummax(0).values
    ends_before = (ids == end_id).cumsum(0) - (ids == end_id).long()
    inside = (last_open >= 0) & (ends_before == ends_before[last_open.clamp(min=0)])
    return torch.where(inside, ids, -100).tolist()


@exercise.alternative
def by_regular_expression(input_ids, header, end_id):
    text = "".join(map(chr, input_ids))
    opened, end = re.escape("".join(map(chr, header))), re.escape(chr(end_id))
    labels = [-100] * len(input_ids)
    for found in re.finditer(f"{opened}([^{end}]*{end}?)", text, re.DOTALL):
        labels[slice(*found.span(1))] = input_ids[slice(*found.span(1))]
    return labels


def mistaken(ids: list[int], header: list[int], end_id: int, before: int = 0, last: int = 0, only: Any = None):
    """Wrong labels: `before` more tokens at an answer's start, `last` more at its end, `only` some of the answers."""
    size, spans = len(header), []
    for start in (i + size for i in range(len(ids)) if ids[i : i + size] == header):
        end = next((i + 1 for i in range(start, len(ids)) if ids[i] == end_id), len(ids) - min(last, 0))
        spans.append((start - before, end + last))
    labels = [-100] * len(ids)
    for start, end in spans if only is None else spans[only]:
        labels[start:end] = ids[start:end]
    return labels


@exercise.misconception(
    hint="The answers' end tokens have no label. Then nothing teaches the model to stop, and it will write on until it "
    "is cut off."
)
def end_token_left_out(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, last=-1)


@exercise.misconception(
    hint="The newline after the end token is labelled. The template writes it; generation has stopped one token before."
)
def newline_labelled(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, last=1)


@exercise.misconception(
    hint="The header is labelled too. At generation time the prompt ends with the header, so the model never writes it."
)
def header_labelled(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, before=len(header))


@exercise.misconception(
    hint="The newline that closes the header has a label: your answers start one token early. The header's last token "
    "belongs to the prompt."
)
def starts_one_early(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, before=1)


@exercise.misconception(
    hint="Only the last answer is labelled. A conversation with several answers teaches with each of them; look for "
    "every header."
)
def only_the_last_answer(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, only=slice(-1, None))


@exercise.misconception(
    hint="Only the first answer is labelled. A conversation may hold several; go on looking after an answer has ended."
)
def only_the_first_answer(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, only=slice(0, 1))


@exercise.misconception(
    hint="Everything after the first header is labelled, later questions included. An end token closes the answer."
)
def never_closed(input_ids, header, end_id):
    return mistaken(input_ids, header, -1)


@exercise.misconception(
    hint="Your labels are moved one place to the left. The model shifts them itself, so they would be shifted twice: "
    "each token would be asked for the one after the next."
)
def shifted_here_too(input_ids, header, end_id):
    return [*mistaken(input_ids, header, end_id)[1:], -100][: len(input_ids)]


@exercise.misconception(
    hint="The other tokens have the label 0, which is a token like any other (<|endoftext|>). The number that the loss "
    "leaves out is in the docstring."
)
def zeros_elsewhere(input_ids, header, end_id):
    return [max(label, 0) for label in mistaken(input_ids, header, end_id)]


@exercise.misconception(
    hint="That is a mask of zeros and ones. Labels are token ids, with a special number where nothing is to be learned."
)
def mask_of_ones(input_ids, header, end_id):
    return [int(label >= 0) for label in mistaken(input_ids, header, end_id)]


@exercise.misconception(
    hint="An answer that is cut off before its end token has no labels. What is there of it can still be learned."
)
def unfinished_answer_dropped(input_ids, header, end_id):
    labels = mistaken(input_ids, header, end_id)
    kept = len(input_ids) - input_ids[::-1].index(end_id) if end_id in input_ids else 0
    return labels[:kept] + [-100] * (len(labels) - kept)


@exercise.misconception(
    hint="Everything has a label, the questions too. The model would spend most of its effort on learning to ask."
)
def everything_labelled(input_ids, header, end_id):
    return list(input_ids)


@exercise.misconception(
    hint="Turns of every role are labelled: only the first token of the header is looked at, and all turns open with "
    "it. Compare the whole header."
)
def every_turn_labelled(input_ids, header, end_id):
    labels = [-100] * len(input_ids)
    for start in (place + len(header) for place, token in enumerate(input_ids) if token == header[0]):
        ends = [place for place in range(start, len(input_ids)) if input_ids[place] == end_id]
        stop = ends[0] + 1 if ends else len(input_ids)
        labels[start:stop] = input_ids[start:stop]
    return labels


@exercise.misconception(
    hint="You label from the last header to the very end: the newline after the end token is in, and earlier answers "
    "are out. Every answer opens with a header and closes with an end token."
)
def from_the_last_header_on(input_ids, header, end_id):
    labels = mistaken(input_ids, header, -1, only=slice(-1, None))
    return labels if any(label >= 0 for label in labels) else [-100] * len(input_ids)


@exercise.misconception(
    hint="Your search for an end token raises an error where none follows. A conversation may be cut off inside an "
    "answer, or end with a header; take what is there."
)
def end_taken_for_granted(input_ids, header, end_id):
    labels = [-100] * len(input_ids)
    for start in (i + len(header) for i in range(len(input_ids)) if input_ids[i : i + len(header)] == header):
        stop = input_ids.index(end_id, start) + 1
        labels[start:stop] = input_ids[start:stop]
    return labels


@exercise.misconception(
    hint="The end of an answer is taken to be the conversation's last end token, so later questions are labelled too. "
    "An answer ends with the first end token after its header."
)
def ends_at_the_last_end_token(input_ids, header, end_id):
    labels = mistaken(input_ids, header, -1)
    last = len(input_ids) - input_ids[::-1].index(end_id) if end_id in input_ids else len(input_ids)
    opened = any(input_ids[i : i + len(header)] == header for i in range(last, len(input_ids)))
    return labels[:last] + (labels[last:] if opened else [-100] * (len(labels) - last))


@exercise.misconception(
    hint="Answers have the label 1. A label is the id of the token that is to be learned, not a flag."
)
def ones_as_labels(input_ids, header, end_id):
    return [1 if label >= 0 else -100 for label in mistaken(input_ids, header, end_id)]


@exercise.misconception(
    hint="The first token of each answer has no label: you start one place too late. It is predicted from the header's "
    "last token, and it matters most."
)
def starts_one_late(input_ids, header, end_id):
    return mistaken(input_ids, header, end_id, before=-1)


@exercise.misconception(
    hint="You look for headers inside answers too, so the tokens of a header that an answer quotes lose their labels. "
    "What can end an answer, and what is only a part of it?"
)
def headers_looked_for_inside_answers(input_ids, header, end_id):
    labels = mistaken(input_ids, header, end_id)
    for start in range(len(input_ids)):
        if input_ids[start : start + len(header)] == header:
            labels[start : start + len(header)] = [-100] * len(header)
    return labels


@exercise.misconception(
    hint="You pass over the token behind an answer's end token unseen, as if it were always the template's newline. A "
    "header can stand right there."
)
def token_behind_the_end_passed_over(input_ids, header, end_id):
    labels, place = [-100] * len(input_ids), 0
    while place < len(input_ids):
        if input_ids[place : place + len(header)] != header:
            place += 1
            continue
        start = place + len(header)
        stop = input_ids.index(end_id, start) + 1 if end_id in input_ids[start:] else len(input_ids)
        labels[start:stop] = input_ids[start:stop]
        place = stop + 1
    return labels


def token_by_token(input_ids: list[int], header: list[int], end_id: int, again: bool) -> list[int]:
    """Counts the header's tokens that matched; `again`: a token that breaks a match off may begin a new one."""
    labels: list[int] = []
    matched, inside = 0, False
    for token in input_ids:
        labels.append(token if inside else -100)
        if inside:
            inside = token != end_id
            continue
        if token == header[matched]:
            matched += 1
        else:
            matched = int(again and token == header[0])
        if matched == len(header):
            matched, inside = 0, True
    return labels


@exercise.misconception(
    hint="When a header breaks off in the middle, you do not look again at the token that broke it off. That token can "
    "be the first one of a whole header."
)
def false_start_not_looked_at_again(input_ids, header, end_id):
    return token_by_token(input_ids, header, end_id, again=False)


@exercise.misconception(
    hint="When a header breaks off in the middle, you go on from the token that broke it off. A whole header may have "
    "begun earlier, inside the part that had matched: try every place as a beginning."
)
def false_start_restarted_too_late(input_ids, header, end_id):
    return token_by_token(input_ids, header, end_id, again=True)


@exercise.misconception(
    hint="You look for the header in a text made of the ids' digits, where 7 is found inside 17. Compare tokens, not "
    "digits."
)
def digits_compared(input_ids, header, end_id):
    opened = " ".join(map(str, header))
    labels, inside = [], False
    for place, token in enumerate(input_ids):
        before = " ".join(map(str, input_ids[:place]))
        inside = inside or before.endswith(opened)
        labels.append(token if inside else -100)
        inside = inside and token != end_id
    return labels


@exercise.misconception(
    hint="You do not compare the whole header: its last token is not looked at. What begins like a header and goes on "
    "otherwise is none."
)
def last_header_token_not_compared(input_ids, header, end_id):
    last = len(header) - 1
    labels, place = [-100] * len(input_ids), 0
    while place < len(input_ids):
        if not last or input_ids[place : place + last] != header[:last]:
            whole = input_ids[place : place + len(header)] == header
            if not whole:
                place += 1
                continue
        start = min(place + len(header), len(input_ids))
        stop = input_ids.index(end_id, start) + 1 if end_id in input_ids[start:] else len(input_ids)
        labels[start:stop] = input_ids[start:stop]
        place = max(stop, place + 1)
    return labels


@exercise.misconception(
    hint="Where an answer holds the token 0 it has no label. 0 is a token id like any other; ask whether a place is "
    "inside an answer, not whether its id is true."
)
def token_zero_unlabelled(input_ids, header, end_id):
    return [label or -100 for label in assistant_labels(input_ids, header, end_id)]


@exercise.misconception(
    hint="A header at the very front of the row is not found. Your search begins one token too late."
)
def header_at_the_front_missed(input_ids, header, end_id):
    return [-100, *assistant_labels(input_ids[1:], header, end_id)] if input_ids else []


@exercise.misconception(
    hint="Where an answer quotes the header, you begin to label behind the quoted one. The answer begins after the "
    "first header; inside it only the end token is looked for."
)
def begins_at_a_quoted_header(input_ids, header, end_id):
    labels, inside = [-100] * len(input_ids), False
    for start in range(len(input_ids)):
        if input_ids[start : start + len(header)] == header:
            before = input_ids[:start]
            last_end = len(before) - before[::-1].index(end_id) if end_id in before else 0
            labels[last_end : start + len(header)] = [-100] * (start + len(header) - last_end)
            inside = True
            continue
        if inside and labels[start] == -100 and input_ids[start - len(header) : start] == header:
            stop = input_ids.index(end_id, start) + 1 if end_id in input_ids[start:] else len(input_ids)
            labels[start:stop] = input_ids[start:stop]
    return labels


@exercise.cases
def cases(seed: int) -> list[Case]:
    words = random.Random(seed)

    def case(name: str, about: str, messages: Messages, *, prompt=False, max_length=None, visible=True) -> Case:
        given = {"messages": messages, "add_generation_prompt": prompt, "max_length": max_length}
        return Case(name, given, about, visible=visible)

    long_answer = {"role": "assistant", "content": "one two three four five six seven eight nine ten"}
    quotes = {"role": "assistant", "content": "An answer opens with <|im_start|>assistant\nand then goes on."}
    says_assistant = {"role": "user", "content": "Who is the assistant\nhere? assistant\n"}
    return [
        case("one answer", "on a question and its answer", chat("ua", words)),
        case("two answers", "when there is a system message and two answers", chat("suaua", words)),
        case("your turn", "when it ends with a header that nothing follows", chat("uau", words), prompt=True),
        case("cut off", "when it is cut off inside an answer", [*chat("su", words), long_answer], max_length=-6),
        case(
            "the word", "when a question holds the header's words", [says_assistant, *chat("a", words)], visible=False
        ),
        case("empty answer", "when an answer is empty", [*chat("uau", words), long_answer | {"content": ""}]),
        case(
            "a quoted header", "when an answer holds a header's tokens", [*chat("u", words), quotes, *chat("ua", words)]
        ),
        case("in a row", "when two answers follow each other", chat("uaatua", words), visible=False),
        case("no answer", "when there is no answer", chat("su", words), visible=False),
        case("three tokens", "when only three tokens are left", chat("ua", words), max_length=3, visible=False),
        *(
            Case(name, {"input_ids": written_row(text)[0], "header": header, "end_id": END_OF_A_WRITTEN_ROW}, about)
            for name, about, header, text in rows_of_other_templates(words)
        ),
    ]


def rows_of_other_templates(words: random.Random) -> list[tuple[str, str, list[int], str]]:
    """Name, description, header and tokens of rows as other templates write them, answers between "(" and ")"."""
    word = f"{words.randint(100, 200)}"
    return [
        (
            "next to each other",
            "when a header stands right behind an end token",
            [7, 8],
            f"5 2 7 8( {word} 2)7 8( 40 2)6",
        ),
        (
            "false start",
            "when a broken-off header stands before a whole one",
            [7, 8],
            f"7 7 8( {word} 41 2)6 7 7 8( 9 2)",
        ),
        (
            "repeated start",
            "when a header begins with a token twice",
            [7, 7, 8],
            f"5 7 7 7 8( {word} 2)6 7 7 7 7 8( 9",
        ),
        (
            "like a header",
            "when tokens are only like a header",
            [7, 8, 9],
            f"17 8 9 {word} 2 7 8 6 40 2 7 9 8 8 9 7 8 9( 5 2)7 8",
        ),
        ("token 0", "when an answer holds the token 0", [7, 8], f"0 7 8( {word} 0 0 2)0"),
        ("header of one token", "when the header is one token", [7], f"{word} 2 7( 40 7 2)6 7( 2)7("),
        ("at the front", "when a header stands at the very front", [7, 8], f"7 8( {word} 2)6 7 8( 2)"),
        ("nothing", "on no tokens at all", [7, 8], ""),
    ]


def written_row(text: str) -> tuple[list[int], list[int]]:
    """Input ids and labels of a row written out: what stands between "(" and ")" is labelled."""
    ids, labels, answered = [], [], False
    for piece in re.findall(r"\d+|[()]", text):
        if piece in "()":
            answered = piece == "("
            continue
        ids.append(int(piece))
        labels.append(int(piece) if answered else -100)
    return ids, labels


def rendered(messages: Messages, add_generation_prompt: bool, max_length: int | None, **options: Any) -> Any:
    """What apply_chat_template gives for the chat, cut to max_length tokens; a negative one cuts that many off."""
    render = bundled_tokenizer().apply_chat_template
    options |= {"add_generation_prompt": add_generation_prompt, "return_dict": True}
    if max_length is not None and max_length < 0:
        max_length += len(render(messages, **options)["input_ids"])
    return render(messages, truncation=max_length is not None, max_length=max_length, **options)


@exercise.probe
def probe(answer: Any, **inputs: Any) -> Any:
    """Calls the answer with the tokens of a row. No label is made here: learner code runs in this process."""
    input_ids, header, end_id = tokens_of(**inputs)
    given = list(input_ids)
    labels = answer(given, list(header), end_id)
    if given != input_ids:
        raise RuntimeError("input_ids was changed in place; the rows need it as it was, so write to a new list")
    return labels.tolist() if isinstance(labels, torch.Tensor) else labels


def tokens_of(**inputs: Any) -> tuple[list[int], list[int], int]:
    """Input ids, header and end token of a case: a row written out, or a chat rendered by SmolLM2's template."""
    if "input_ids" in inputs:
        return inputs["input_ids"], inputs["header"], inputs["end_id"]
    tokenizer = bundled_tokenizer()
    return rendered(**inputs)["input_ids"], tokenizer("<|im_start|>assistant\n")["input_ids"], tokenizer.eos_token_id


@exercise.oracle
def oracle(**inputs: Any) -> list[int]:
    """Of a chat, the labels that transformers reads off a marked template; a written row has none, and is searched."""
    if "input_ids" in inputs:
        return by_regular_expression(**inputs)
    from course.lessons.l05_data.training_template import training_template

    found = rendered(**inputs, chat_template=training_template(), return_assistant_tokens_mask=True)
    marks = zip(found["input_ids"], found["assistant_masks"], strict=True)
    return [token if answered else -100 for token, answered in marks]


@exercise.diagnose
def diagnose(got: list[int], want: list[int], **inputs: Any) -> str:
    """Which token stands at the first difference."""
    input_ids, header, end_id = tokens_of(**inputs)
    place = next(i for i, (mine, right) in enumerate(zip(got, want, strict=True)) if mine != right)
    if "input_ids" in inputs:
        return f"The row is input_ids={input_ids} with header={header} and end_id={end_id}"
    near = [bundled_tokenizer().decode(token) for token in input_ids[max(0, place - 2) : place + 1]]
    return f"That place holds {near[-1]!r}, after {', '.join(map(repr, near[:-1])) or 'nothing'}"

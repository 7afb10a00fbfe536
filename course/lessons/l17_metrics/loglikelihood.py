"""The log-probability that a model gives to a continuation, and whether it would have said just that.

log P(c_1 ... c_m | x) = sum over i of log softmax(logits at the token before c_i)[c_i]. Worked number: with two tokens
of probability 0.5 and 0.1 it is ln 0.05 = -2.996, whatever the context's own probability is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from course.lessons.l09_qlora.tiny_model import tiny_llama
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l17-loglikelihood",
    title="Log-likelihood of a continuation",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("metrics", "pytorch"),
    hints=(
        "The logits at a place are about the token that comes NEXT. Write the places and tokens of a short example in "
        "two rows, one shifted.",
        "The last continuation token need not be read: nothing is asked about what comes after it.",
        "If you put requests into one batch, pad on the right and remember how long each one is.",
    ),
    rtol=1e-5,
    atol=1e-4,
    tolerance_reason="a sum of up to some 20 float32 log-probabilities near -5; batched and single matrix products "
    "add up in different order, which moves it by about 1e-5",
    forbidden=("lm_eval",),
    seconds=20.0,
    seconds_reason="importing transformers cold takes 3 to 8 seconds",
    library_note="lm-eval sorts requests by length, longest first, pads on the right, and for continuations of one "
    "token reads the context once and looks all of them up. It cuts what is too long for the window on the left, so "
    "the continuation is always whole.",
    interview="How is a multiple-choice question scored without generating anything? Which two off-by-one errors lurk?",
)


@exercise.reference
def loglikelihood(model: Any, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """For each request, the continuation's log-probability given its context, and whether greedy decoding says it.

    model: a causal LM of transformers, in eval mode; model(input_ids=ids of shape (B, T)).logits is (B, T, V).
    requests: pairs (context ids, continuation ids), each of at least one token. Lengths differ.
    Returns for each request, in order, (log_probability, is_greedy):
        log_probability: float, the SUM over the continuation's tokens of the natural logarithm of the probability that
            the model gives the token after everything before it. The context's own tokens are given, not counted.
        is_greedy: True if EVERY continuation token is the most probable one at its place, the argmax of its logits.
    Without gradients. The model stays in its dtype; the softmax may be taken in that or in float32. Ids go to
    model.device. Requests may go through the model one by one, or as batches padded on the right with any token id: a
    causal model does not look to the right, so no attention mask is needed then.
    """
    answers = []
    for context, continuation in requests:
        ids = torch.tensor([context + continuation], device=model.device)
        with torch.no_grad():
            scores = model(input_ids=ids[:, :-1]).logits[0].log_softmax(-1)
        asked, wanted = scores[len(context) - 1 :], ids[0, len(context) :]
        total = asked.gather(1, wanted[:, None]).sum().item()
        answers.append((total, bool((asked.argmax(1) == wanted).all())))
    return answers


@exercise.alternative
@torch.inference_mode()
def one_padded_batch(model, requests):
    rows = [torch.tensor([*context, *continuation]) for context, continuation in requests]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    logits = model(input_ids=batch.to(model.device)).logits
    result = []
    for row, (context, continuation), line in zip(rows, requests, logits, strict=True):
        before, end = len(context) - 1, len(row) - 1
        losses = torch.nn.functional.cross_entropy(
            line[before:end], row[before + 1 :].to(line.device), reduction="none"
        )
        greedy = [int(token) for token in line[before:end].argmax(-1)]
        result.append((-losses.sum().item(), greedy == list(continuation)))
    return result


def each(model: Any, requests: Sequence[tuple[list[int], list[int]]], **faults: Any) -> list[tuple[float, bool]]:
    return [single(model, context, continuation, **faults) for context, continuation in requests]


def single(
    model: Any,
    context: list[int],
    continuation: list[int],
    *,
    shift: int = 1,
    whole: bool = False,
    log: bool = True,
    base_two: bool = False,
    mean: bool = False,
    greedy: str = "all",
    lead: tuple[int, ...] = (),
    cut: int = 0,
    alone: bool = False,
) -> tuple[float, bool]:
    """One request, with the parts that the misconceptions change."""
    context = [] if alone else [*lead, *context]
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    scores = logits.log_softmax(-1) if log else logits
    start = 1 if whole or alone else len(context)
    places = torch.arange(start, ids.shape[1] - cut)
    picked = scores[places - shift, ids[0, places]]
    right = logits[places - shift].argmax(-1) == ids[0, places]
    total = float(picked.mean() if mean else picked.sum()) if len(picked) else 0.0
    total = total / 0.6931471805599453 if base_two else total
    hits = right.tolist() or [True]
    asked = right[-len(continuation) :].tolist()
    flags = {"all": all(hits), "first": hits[0], "any": any(hits), "last": hits[-1], "asked": all(asked)}
    return total, bool(flags[greedy])


@exercise.misconception(
    hint="You read the probability of a token at its own place. There the model has seen the token already and speaks "
    "about the next one: the distribution of a token stands one place earlier."
)
def not_shifted(model, requests):
    return each(model, requests, shift=0)


@exercise.misconception(
    hint="You are off by one in the other direction: two places before the token, the token before it is still unknown."
)
def shifted_twice(model, requests):
    return [
        single(model, context, continuation, shift=2 if len(context) > 1 else 1) for context, continuation in requests
    ]


@exercise.misconception(
    hint="The context's tokens are counted as well. They are the same for all choices only if the prompt is; and a "
    "long question would drown the answer."
)
def context_counted(model, requests):
    return each(model, requests, whole=True, greedy="asked")


@exercise.misconception(
    hint="You take the mean over tokens. The log-probability of the continuation is a sum; to divide by a length is a "
    "decision for later."
)
def mean_over_tokens(model, requests):
    return each(model, requests, mean=True)


@exercise.misconception(
    hint="You add up logits. They are not normalised: without the softmax over the vocabulary a number says nothing by "
    "itself."
)
def logits_summed(model, requests):
    return each(model, requests, log=False)


@exercise.misconception(hint="Your logarithms have base 2. The harness reports natural ones (nats).")
def base_two(model, requests):
    return each(model, requests, base_two=True)


@exercise.misconception(
    hint="Your greedy flag looks at the first token only. Greedy decoding has to say the entire continuation."
)
def greedy_flag_of_first_token(model, requests):
    return each(model, requests, greedy="first")


@exercise.misconception(hint="Your greedy flag is true if any token is the most probable one. All of them have to be.")
def greedy_flag_of_any_token(model, requests):
    return each(model, requests, greedy="any")


@exercise.misconception(hint="Your greedy flag looks at the last token only. All of them have to be the most probable.")
def greedy_flag_of_last_token(model, requests):
    return each(model, requests, greedy="last")


@exercise.misconception(
    hint="A token of your own (BOS) stands in front of each context. The requests come complete; what they start with "
    "was decided when they were encoded."
)
def bos_added(model, requests):
    return each(model, requests, lead=(1,))


@exercise.misconception(
    hint="The last continuation token is missing from your sum. Its distribution stands at the token before it, which "
    "is read."
)
def last_token_forgotten(model, requests):
    return each(model, requests, cut=1)


@exercise.misconception(
    hint="Your model reads the continuation without its context. That is another quantity: how likely the words are "
    "at all."
)
def context_not_read(model, requests):
    return each(model, requests, alone=True, greedy="asked")


@exercise.misconception(
    hint="In your padded batch the shorter rows are read at the wrong places: places counted from the end of the "
    "batch hold padding. Count from each row's own end."
)
def padding_read(model, requests):
    rows = [context + continuation for context, continuation in requests]
    width = max(map(len, rows))
    batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        scores = model(input_ids=batch).logits.log_softmax(-1)
    answers = []
    for row, (_, continuation) in zip(scores, requests, strict=True):
        picked = row[-len(continuation) - 1 : -1]
        wanted = torch.tensor(continuation)
        answers.append(
            (picked[torch.arange(len(wanted)), wanted].sum().item(), bool((picked.argmax(1) == wanted).all()))
        )
    return answers


@exercise.misconception(
    hint="You pad on the left, and the model is not told: with nothing but ids it reads the padding as the beginning "
    "of the text. Only the longest row comes out right. Where would padding do no harm to a causal model?"
)
def padded_on_the_left(model, requests):
    width = max(len(context) + len(continuation) for context, continuation in requests)
    padded = [
        ([0] * (width - len(context) - len(continuation)) + context, continuation) for context, continuation in requests
    ]
    return each(model, padded)


@exercise.misconception(
    hint="Your answers come in another order than the requests: you sorted them by length and did not sort back."
)
def answers_left_sorted(model, requests):
    return each(model, sorted(requests, key=lambda pair: -len(pair[0]) - len(pair[1])))


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    def case(
        name: str, about: str, sizes: Sequence[tuple[int, int]], extend: Sequence[int] = (), visible: bool = True
    ) -> Case:
        requests = [(ids(context), ids(continuation)) for context, continuation in sizes]
        return Case(name, {"seed": seed % 10_000, "requests": requests, "greedy_tokens": list(extend)}, about, visible)

    yield case("one request", "on a single request", [(5, 3)])
    yield case("different lengths", "with requests of different lengths", [(3, 2), (9, 4), (4, 6)])
    yield case("greedy", "when a continuation is what the model would say", [(6, 1), (4, 2), (8, 3)], [3, 2, 0])
    yield case(
        "one token each", "with contexts and continuations of one token", [(1, 1), (1, 3), (5, 1)], visible=False
    )
    yield case("partly greedy", "when only a part is greedy", [(7, 2), (3, 4), (5, 2)], [1, -1, -2], visible=False)
    yield case("many", "on many requests", [(draw.randint(2, 12), draw.randint(1, 8)) for _ in range(8)], visible=False)


VOCABULARY = 64


def with_greedy_tokens(model: Any, requests: Sequence[tuple[list[int], list[int]]], counts: Sequence[int]) -> Any:
    """Continuations that begin (n > 0) or end (n < 0) with |n| tokens of the model's own greedy choice."""
    made = []
    for place, (context, continuation) in enumerate(requests):
        count = counts[place] if place < len(counts) else 0
        context, continuation = list(context), list(continuation)
        if count < 0:
            made.append((context, continuation + greedy(model, context + continuation, -count)))
        elif count:
            made.append(
                (context, greedy(model, context, count) + (continuation if place % 2 == 0 and count < 3 else []))
            )
        else:
            made.append((context, continuation))
    return made


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    said: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
    return said


@exercise.probe
def probe(answer: Any, seed: int, requests: Any, greedy_tokens: Any) -> list[Any]:
    """A random two-layer Llama in float32; some continuations are made of what it would say itself."""
    model = tiny_llama(seed, four_bit=False, dtype="float32", vocabulary=VOCABULARY).eval()
    return [
        [float(total), bool(flag)] for total, flag in answer(model, with_greedy_tokens(model, requests, greedy_tokens))
    ]


@exercise.oracle
def oracle(seed: int, requests: Any, greedy_tokens: Any) -> list[Any]:
    from course.lessons.l17_metrics.harness_parts import tiny_harness_model

    model = tiny_llama(seed, four_bit=False, dtype="float32", vocabulary=VOCABULARY).eval()
    made = with_greedy_tokens(model, requests, greedy_tokens)
    answers = tiny_harness_model(model)._loglikelihood_tokens([(None, *pair) for pair in made], disable_tqdm=True)
    return [[float(total), bool(flag)] for total, flag in answers]

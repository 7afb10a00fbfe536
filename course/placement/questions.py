"""The placement's questions: hand-written, one right answer each, each naming the lesson that teaches it.

Numbers are asked for as numbers wherever that works: four options can be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One question or small task.

    lesson: the id of the lesson that teaches it. shows: completes "you showed that you ...". options: what to choose
    from, none where a number is asked for. answer: the right option's place, counted from 0, or the number.
    """

    id: str
    lesson: str
    text: str
    answer: float
    shows: str
    code: str = ""
    options: tuple[str, ...] = ()


QUESTIONS = (
    Question(
        id="tensor-bytes",
        lesson="l00_start",
        text="What does this print?",
        code="x = torch.zeros(3, 1000, dtype=torch.bfloat16)\nprint(x.numel() * x.element_size())",
        answer=6000,
        shows="know what a tensor costs in bytes",
    ),
    Question(
        id="seeds",
        lesson="l00_start",
        text=(
            "A training script on the CPU calls torch.manual_seed(0) at its start and adds noise from np.random.normal "
            "to every batch. Two runs on the same machine, with the same versions, give different losses. What makes "
            "them repeat?"
        ),
        options=(
            "Calling torch.use_deterministic_algorithms(True) as well",
            "Seeding NumPy's generator as well",
            "Computing in float64",
            "Calling torch.manual_seed(0) again before each batch",
        ),
        answer=1,
        shows="find the generator that nobody seeded",
    ),
    Question(
        id="merge-order",
        lesson="l01_tokens",
        text=(
            "A byte-pair tokenizer has learned three merges, in this order: b+c, then a+b, then c+d. Into how many "
            "tokens does it split abcd?"
        ),
        answer=3,
        shows="apply byte-pair merges in the order they were learned",
    ),
    Question(
        id="grouped-queries",
        lesson="l03_llama",
        text=(
            "A Llama layer has hidden size 2048, 32 query heads of 64 numbers each, and 8 key-value heads. Its k_proj "
            "is a linear layer that takes 2048 numbers in. How many does it give out?"
        ),
        answer=512,
        shows="can size the projections of grouped-query attention",
    ),
    Question(
        id="answer-labels",
        lesson="l05_data",
        text=(
            "A chat has 24 tokens of prompt and 11 of answer, the end-of-turn token counted in. It is padded to 48 and "
            "trained on its answer only. How many of its 48 labels are -100?"
        ),
        answer=37,
        shows="label the answer only, and neither prompt nor padding",
    ),
    Question(
        id="first-gradient",
        lesson="l07_lora",
        text=(
            "A LoRA layer adds (alpha / r) B A x to a frozen layer's output. As usual, A starts random and B starts at "
            "zero. You run one forward and one backward pass, before any step of the optimizer. Which gradients are "
            "all zero?"
        ),
        options=(
            "A's only",
            "B's only",
            "Both",
            "Neither: only a gradient of None would be a fault",
        ),
        answer=0,
        shows="can follow the first gradients through a LoRA layer",
    ),
    Question(
        id="absmax",
        lesson="l08_quantisation",
        text=(
            "A row of weights, 0.5, -2.0, 0.4, 1.1, is stored in 8 bits: symmetric, one absmax for the row, codes from "
            "-127 to 127. Which code stands for 0.4?"
        ),
        answer=25,
        shows="quantise a row of weights to 8 bits by its absmax",
    ),
    Question(
        id="merge-target",
        lesson="l09_qlora",
        text=(
            "You trained an adapter on a model whose weights are stored in NF4, and want one plain 16-bit model whose "
            "answers come closest to what you trained. Onto which weights do you add the adapter's product?"
        ),
        options=(
            "The original 16-bit weights, because they are more precise",
            "The NF4 codes themselves, leaving the result in 4 bits",
            "The NF4 weights decoded to 16 bits, leaving the result there",
            "It makes no difference: all of these give the same model",
        ),
        answer=2,
        shows="know onto which weights a QLoRA adapter is merged",
    ),
    Question(
        id="pass-at-k",
        lesson="l17_metrics",
        text=(
            "A model writes 5 programs for a task, and 2 of them pass the tests. What is the unbiased estimate of "
            "pass@2, the chance that at least one of 2 programs passes? Give a number from 0 to 1."
        ),
        answer=0.7,
        shows="estimate pass@k without bias",
    ),
    Question(
        id="paired",
        lesson="l18_statistics",
        text=(
            "Two models answer the same 200 questions. One gets 140 right, the other 150. Which calculation tells best "
            "whether that could be luck?"
        ),
        options=(
            "Each model's own 95 % interval: if the two overlap, it is luck",
            "A test for two independent shares, with 200 questions each",
            "None is needed: above 100 questions a gain of 5 points is real",
            "A paired test, which looks at the questions that only one of them got right",
        ),
        answer=3,
        shows="compare two models on the same questions with a paired test",
    ),
)

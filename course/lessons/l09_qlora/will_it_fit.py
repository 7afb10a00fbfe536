"""Will it fit? The longest micro-batch that each method leaves room for, on a given amount of memory.

Worked number: 65 billion parameters, nearly all in linear layers, rank 16 on 80 GB with 10 % kept free: 33.5 GB of NF4
weights and 3.2 GB of adapters leave 35 GB; at 1.4 MB a token that is 25,000 tokens. In 16 bits it does not start.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-will-it-fit",
    title="Will it fit? A planner",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="extension",
    skills=("memory", "qlora"),
    hints=(
        "Two kinds of bytes: those that are there whatever the batch, and those that come with each token.",
        "Take the fixed bytes from what may be used; what is left, divided by the bytes of a token, is the answer.",
        "A method whose fixed bytes are already too many gets 0 tokens, not a negative number.",
    ),
    library_note="accelerate's `estimate-memory` command counts weights and Adam's moments; token bytes it leaves to "
    "you, because they depend on the attention kernel and on checkpointing. Measure them once with two "
    "batch lengths: the "
    "difference in peak memory divided by the difference in tokens.",
    interview="A 70B model and one 80 GB card: can you fine-tune it, how, and with which batch?",
)


@exercise.reference
def will_it_fit(
    linear_parameters: int,
    other_parameters: int,
    adapter_parameters: int,
    bytes_per_token: int,
    memory_bytes: int,
    free_percent: int = 10,
) -> dict[str, int]:
    """Tokens that one micro-batch may hold at most, for the methods "full", "lora" and "qlora"; 0 where none fits.

    `free_percent` percent of `memory_bytes` stay free. Fixed bytes, before any token:
    - "full": 16 for each parameter, linear and other: float32 weight, gradient and Adam's two moments; no adapters.
    - "lora": 2 for each linear and other parameter, 16 for each adapter parameter.
    - "qlora": as "lora", but a linear parameter takes 4.127 bits (4 bits of code, 0.127 of block maxima).
    Each token of the micro-batch then takes `bytes_per_token`, with any method.

    Returns whole tokens, rounded down: {"full": ..., "lora": ..., "qlora": ...}.
    """
    usable = Fraction(memory_bytes * (100 - free_percent), 100)
    adapters = 16 * adapter_parameters
    fixed: dict[str, Fraction | int] = {
        "full": 16 * (linear_parameters + other_parameters),
        "lora": 2 * (linear_parameters + other_parameters) + adapters,
        "qlora": Fraction(4127, 8000) * linear_parameters + 2 * other_parameters + adapters,
    }
    return {method: max(0, int((usable - needed) // bytes_per_token)) for method, needed in fixed.items()}


def planned(
    linear, others, adapters, token, memory, free, full_adapters=0, nf4=4127 / 8000, adapter_bytes=16, other_nf4=2
):
    """The plan with its constants open, for the answers below; floats are exact enough for the cases."""
    usable = memory * (100 - free) / 100
    trained = 16 * (linear + others) + full_adapters * adapters
    frozen = adapter_bytes * adapters
    needs = {
        "full": trained,
        "lora": frozen + 2 * (linear + others),
        "qlora": frozen + nf4 * linear + other_nf4 * others,
    }
    return {method: int(max(0.0, usable - needed) / token) for method, needed in needs.items()}


def planned_otherwise(given, **constants):
    """The plan for the exercise's arguments, by name, with some constants changed."""
    return planned(*given.values(), **constants)


@exercise.alternative
def in_floats(linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent=10):
    return planned(linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent)


@exercise.misconception(
    hint="The adapters are counted as weights only. They are trained: each parameter also has a gradient and two "
    "moments."
)
def adapters_without_optimizer(
    linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent=10
):
    return planned(
        linear_parameters,
        other_parameters,
        adapter_parameters,
        bytes_per_token,
        memory_bytes,
        free_percent,
        adapter_bytes=4,
    )


@exercise.misconception(
    hint="Exactly half a byte for a 4-bit weight leaves out its block maxima: 0.127 bits more for each, "
    "3 % more in all, and some tokens fewer."
)
def block_maxima_forgotten(
    linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent=10
):
    return planned(
        linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent, nf4=0.5
    )


@exercise.misconception(
    hint="You planned with the whole memory. Fragmentation, temporary buffers and the driver need the part kept free."
)
def nothing_kept_free(
    linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent=10
):
    return planned(linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, 0)


@exercise.misconception(
    hint="'qlora' is off by a few tokens: 4.127 bits are 0.515875 bytes. Rounded to 0.516, the rest is lost for "
    "billions of weights."
)
def bits_rounded_to_0516_bytes(**given):
    return planned_otherwise(given, nf4=0.516)


@exercise.misconception(hint="'qlora' takes 4.127 as bytes. They are bits: eight to a byte.")
def bits_taken_as_bytes(**given):
    return planned_otherwise(given, nf4=4.127)


@exercise.misconception(
    hint="'qlora' puts the other parameters (embedding, norms) into 4 bits, too. Only linear layers are quantised."
)
def others_in_four_bits(**given):
    return planned_otherwise(given, other_nf4=4127 / 8000)


@exercise.misconception(hint="'full' counts adapters. Full fine-tuning trains the weights themselves and has none.")
def adapters_with_full(**given):
    return planned_otherwise(given, full_adapters=16)


@exercise.misconception(hint="A number of tokens is negative where a model does not fit at all. The answer there is 0.")
def negative_tokens(
    linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent=10
):
    right = will_it_fit(
        linear_parameters, other_parameters, adapter_parameters, bytes_per_token, memory_bytes, free_percent
    )
    return {method: tokens or -1 for method, tokens in right.items()}


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    billion, gigabyte = 10**9, 10**9

    def inputs(linear: float, others: float, adapters: float, token: int, memory: float, free: int = 10) -> dict:
        return {
            "linear_parameters": int(linear * billion),
            "other_parameters": int(others * billion),
            "adapter_parameters": int(adapters * billion),
            "bytes_per_token": token,
            "memory_bytes": int(memory * gigabyte),
            "free_percent": free,
        }

    yield Case("small_on_laptop", inputs(0.11, 0.03, 0.005, 900_001, 16), "with the base model on 16 GB")
    yield Case("8b_on_24gb", inputs(7.0, 1.2, 0.044, 2_000_003, 24), "with 8 billion parameters on 24 GB")
    yield Case("65b_on_48gb", inputs(64.7, 0.5, 0.2, 1_400_009, 48), "with 65 billion parameters on 48 GB")
    yield Case("none", inputs(70, 2.0, 0.8, 1_400_009, 24 + seed % 8), "when nothing fits", visible=False)
    yield Case("much_free", inputs(3.1, 0.4 + seed % 7 / 100, 0.3, 700_001, 80, 35), "with 35 % free", visible=False)

"""Training memory by formula: weights, adapters, gradients, optimizer state, checkpointed layer inputs, logits.

Worked number: the base model has 106,168,320 weights in linear layers and 28,346,688 others; as NF4 with double
quantisation and 16-bit others it is 111.5 MB, against 269.0 MB in 16 bits and 538.1 MB in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from course.lessons.l09_qlora.tiny_model import tiny_llama
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l09-memory-estimate",
    title="Estimate training memory",
    points=5,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("memory", "qlora"),
    hints=(
        "Count parameters first: linear weights, other weights, adapter weights. Then multiply each by its bytes.",
        "NF4: half a byte a weight, one byte a block of 64, four bytes for each 256 blocks, four bytes for the offset, "
        "each matrix by itself and rounded up.",
        "Only what is trained has gradients and optimizer state: everything with method 'full', else the adapters.",
        "8-bit state is decided matrix by matrix: A and B of fewer than 4,096 values stay in float32.",
    ),
    seconds=25.0,
    seconds_reason="the truth is measured on real transformers, peft and bitsandbytes models; importing them takes "
    "5-10 s",
    library_note="`model.get_memory_footprint()` counts parameters and buffers, so it misses the block maxima of 4-bit "
    "layers (3 % of them). Real peaks add what no formula sees: temporary buffers, fragmentation, and on CUDA the "
    "context's 0.3 to 0.5 GB; leave 10 to 20 % of head room, then measure with torch.cuda.max_memory_allocated.",
    interview="How much memory does it take to fine-tune a 7B model fully, with LoRA, with QLoRA, and where "
    "does it go?",
)


@exercise.reference
def memory_estimate(
    linear_shapes: list[tuple[int, int]],
    other_parameters: int,
    method: str,
    rank: int,
    optimizer_bits: int,
    layers: int,
    hidden_size: int,
    vocabulary: int,
    batch_size: int,
    sequence_length: int,
) -> dict[str, int]:
    """Bytes needed to train, by purpose: keys weights, adapters, gradients, optimizer, layer_inputs, logits.

    linear_shapes: (out, in) of every linear layer that is adapted or quantised. other_parameters: number of all other
    parameters (embedding, norms; the head is tied).
    method: "full": all weights float32 and trained, no adapters. "lora": weights 16-bit and frozen, adapters of `rank`
        on every linear layer, A (rank, in) and B (out, rank), float32 and trained. "qlora": as "lora", but each linear
        weight as NF4 with double quantisation: ceil(n / 2) bytes of codes, 1 byte for each block of 64 (the last may
        be short), 4 bytes for each 256 blocks, 4 bytes of offset. (Code tables, 1 kB a layer, are left out.)
    gradients: float32, of what is trained.
    optimizer: Adam's two moments of what is trained. optimizer_bits 32: float32. 8: a matrix of at least 4,096 values
        has two 1-byte codes a value and two 4-byte maxima for each block of 256; a smaller one stays float32. With
        "full", optimizer_bits is always 32.
    layer_inputs: what gradient checkpointing keeps, the input (batch, length, hidden_size) of each of `layers`
        layers, in the dtype of the 16-bit weights, or float32 with "full".
    logits: one float32 copy of (batch, length, vocabulary).

    Sources: Dettmers et al. 2023, section 3 (NF4); Chen et al. 2016, arXiv:1604.06174 (checkpointing).
    """
    linear_parameters = sum(rows * columns for rows, columns in linear_shapes)
    plain_bytes = 4 if method == "full" else 2
    adapters = [] if method == "full" else [n for out, inn in linear_shapes for n in (rank * inn, out * rank)]
    trained = [linear_parameters + other_parameters] if method == "full" else adapters
    weights = other_parameters * plain_bytes
    weights += (
        sum(nf4_bytes(rows * columns) for rows, columns in linear_shapes)
        if method == "qlora"
        else linear_parameters * plain_bytes
    )
    return {
        "weights": weights,
        "adapters": 4 * sum(adapters),
        "gradients": 4 * sum(trained),
        "optimizer": sum(adam_bytes(count, optimizer_bits) for count in trained),
        "layer_inputs": layers * batch_size * sequence_length * hidden_size * plain_bytes,
        "logits": 4 * batch_size * sequence_length * vocabulary,
    }


def nf4_bytes(count: int) -> int:
    """Codes, block maxima, their scales, their offset."""
    blocks = math.ceil(count / 64)
    return math.ceil(count / 2) + blocks + 4 * math.ceil(blocks / 256) + 4


def adam_bytes(count: int, bits: int, threshold: int = 4096, maxima: int = 2) -> int:
    """Two moments of one tensor."""
    if bits == 32 or count < threshold:
        return 8 * count
    return 2 * count + 4 * maxima * math.ceil(count / 256)


@exercise.alternative
def by_ledger(**inputs):
    full, size = inputs["method"] == "full", 4 if inputs["method"] == "full" else 2
    others, tokens = inputs["other_parameters"], inputs["batch_size"] * inputs["sequence_length"]
    ledger = {"weights": others * size, "adapters": 0, "gradients": 0, "optimizer": 0}
    if full:
        ledger |= {"gradients": 4 * others, "optimizer": 8 * others}
    for rows, columns in inputs["linear_shapes"]:
        count = rows * columns
        ledger["weights"] += nf4_bytes(count) if inputs["method"] == "qlora" else count * size
        for trained in [count] if full else [inputs["rank"] * columns, inputs["rank"] * rows]:
            ledger["adapters"] += 0 if full else 4 * trained
            ledger["gradients"] += 4 * trained
            ledger["optimizer"] += adam_bytes(trained, inputs["optimizer_bits"])
    kept = inputs["layers"] * tokens * inputs["hidden_size"] * size
    return ledger | {"layer_inputs": kept, "logits": tokens * inputs["vocabulary"] * 4}


@exercise.misconception(
    hint="`weights` with 'qlora' is only the 4-bit codes. Each block of 64 also stores its maximum, and "
    "those have scales "
    "of their own."
)
def block_maxima_forgotten(**inputs):
    estimate = memory_estimate(**inputs)
    if inputs["method"] == "qlora":
        codes = sum(math.ceil(rows * columns / 2) for rows, columns in inputs["linear_shapes"])
        estimate["weights"] = codes + 2 * inputs["other_parameters"]
    return estimate


@exercise.misconception(
    hint="`gradients` counts frozen weights. Only trained parameters get a `.grad`: that is most of LoRA's saving."
)
def gradients_of_everything(**inputs):
    every = sum(rows * columns for rows, columns in inputs["linear_shapes"]) + inputs["other_parameters"]
    estimate = memory_estimate(**inputs)
    return estimate | {"gradients": 4 * every + (estimate["adapters"] if inputs["method"] != "full" else 0)}


@exercise.misconception(
    hint="`optimizer` is half of what is needed: Adam keeps two numbers for each trained parameter."
)
def one_moment(**inputs):
    estimate = memory_estimate(**inputs)
    return estimate | {"optimizer": estimate["optimizer"] // 2}


@exercise.misconception(
    hint="`weights` with 'qlora' treats embeddings and norms as 4-bit, too. bitsandbytes replaces linear layers only."
)
def everything_in_four_bits(**inputs):
    estimate = memory_estimate(**inputs)
    if inputs["method"] == "qlora":
        others = inputs["other_parameters"]
        estimate["weights"] += nf4_bytes(others) - 2 * others
    return estimate


@exercise.misconception(
    hint="`optimizer` in 8 bits is too small: matrices of fewer than 4,096 values stay in float32, and "
    "blocks have maxima."
)
def always_two_bytes(**inputs):
    estimate = memory_estimate(**inputs)
    if inputs["optimizer_bits"] == 8:
        estimate["optimizer"] = estimate["adapters"] // 2
    return estimate


def with_moments(inputs, **rule):
    """The right estimate, but for moments by another rule, or of A and B taken together."""
    together, right = rule.pop("together", False), memory_estimate(**inputs)
    if inputs["optimizer_bits"] == 32:
        return right
    sizes = [[inputs["rank"] * inn, inputs["rank"] * out] for out, inn in inputs["linear_shapes"]]
    counts = [sum(pair) for pair in sizes] if together else [count for pair in sizes for count in pair]
    return right | {"optimizer": sum(adam_bytes(count, 8, **rule) for count in counts)}


@exercise.misconception(
    hint="`optimizer` in 8 bits is too small: matrices of fewer than 4,096 values stay in float32, and you gave them "
    "8-bit state, too."
)
def no_threshold(**inputs):
    return with_moments(inputs, threshold=0)


@exercise.misconception(
    hint="`optimizer` in 8 bits is off for matrices of exactly 4,096 values: they are large enough for 8-bit state."
)
def more_than_threshold(**inputs):
    return with_moments(inputs, threshold=4097)


@exercise.misconception(
    hint="`optimizer` in 8 bits takes A and B of a layer as one matrix. Each has its own state, its own blocks, and "
    "decides by its own size."
)
def pair_as_one_matrix(**inputs):
    return with_moments(inputs, together=True)


@exercise.misconception(
    hint="`optimizer` in 8 bits counts one row of block maxima. There are two moments, and each has its own."
)
def maxima_of_one_moment(**inputs):
    return with_moments(inputs, maxima=1)


@exercise.misconception(
    hint="`weights` with 'qlora' is a few bytes off: you rounded the sum over all layers. Each matrix is quantised by "
    "itself, with its own rounding up and its own offset."
)
def rounded_over_the_total(**inputs):
    right = memory_estimate(**inputs)
    if inputs["method"] == "qlora":
        right["weights"] = (
            nf4_bytes(sum(math.prod(s) for s in inputs["linear_shapes"])) + 2 * inputs["other_parameters"]
        )
    return right


@exercise.misconception(
    hint="`weights` with 'qlora' keeps each block maximum in four bytes. Double quantisation stores it in one, and "
    "adds four bytes for each 256 of them."
)
def maxima_in_float32(**inputs):
    right = memory_estimate(**inputs)
    if inputs["method"] == "qlora":
        right["weights"] = 2 * inputs["other_parameters"]
        for rows, columns in inputs["linear_shapes"]:
            right["weights"] += math.ceil(rows * columns / 2) + 4 * math.ceil(rows * columns / 64)
    return right


@exercise.misconception(
    hint="`adapters` are counted in 16 bits. Only the frozen weights are 16-bit; what is trained is float32."
)
def adapters_in_sixteen_bits(**inputs):
    estimate = memory_estimate(**inputs)
    return estimate | {"adapters": estimate["adapters"] // 2}


def case_inputs(
    method: str, bits: int, rank: int, hidden: int, middle: int, heads: int, layers: int, vocabulary: int, tokens
) -> dict:
    """The shapes of `tiny_llama`, written out."""
    shared = heads * 16
    layer = [(hidden, hidden), (shared, hidden), (shared, hidden), (hidden, hidden)]
    layer += [(middle, hidden), (middle, hidden), (hidden, middle)]
    return {
        "linear_shapes": layer * layers,
        "other_parameters": vocabulary * hidden + (2 * layers + 1) * hidden,
        "method": method,
        "rank": rank,
        "optimizer_bits": bits,
        "layers": layers,
        "hidden_size": hidden,
        "vocabulary": vocabulary,
        "batch_size": tokens[0],
        "sequence_length": tokens[1],
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    vocabulary = 100 + seed % 50
    yield Case("full", case_inputs("full", 32, 8, 64, 128, 2, 2, vocabulary, (2, 9)), "with full fine-tuning")
    yield Case("lora", case_inputs("lora", 32, 8, 64, 192, 4, 2, vocabulary, (1, 16)), "with LoRA")
    yield Case("qlora", case_inputs("qlora", 32, 4, 64, 128, 2, 3, vocabulary, (3, 5)), "with QLoRA")
    yield Case("qlora_8bit", case_inputs("qlora", 8, 32, 128, 192, 1, 1, 131, (1, 7)), "with 8-bit optimizer state")
    yield Case(
        "lora_8bit",
        case_inputs("lora", 8, 33 + seed % 9, 128, 320, 2, 1, 77, (4, 1)),
        "with LoRA and 8-bit optimizer state",
        visible=False,
    )
    yield Case("rank_one", case_inputs("qlora", 8, 1, 192, 256, 3, 2, 50, (1, 1)), "when the rank is 1", visible=False)


@exercise.oracle
def oracle(
    method, rank, optimizer_bits, linear_shapes, layers, hidden_size, vocabulary, batch_size, sequence_length, **_
):
    """Build it, take one real training step, and add up what exists."""
    import bitsandbytes
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_llama(
        0,
        four_bit=method == "qlora",
        dtype="float32" if method == "full" else "float16",
        hidden_size=hidden_size,
        intermediate_size=linear_shapes[4][0],
        key_value_heads=linear_shapes[1][0] // 16,
        layers=layers,
        vocabulary=vocabulary,
    )
    weights = model.get_memory_footprint(return_buffers=False) + sum(
        state.absmax.nbytes + state.state2.absmax.nbytes + state.offset.nbytes
        for state in (getattr(value, "quant_state", None) for value in model.parameters())
        if state is not None
    )
    if method != "full":
        model.requires_grad_(False)
        config = LoraConfig(r=rank, target_modules="all-linear")
        model = inject_adapter_in_model(config, model)
        for value in model.parameters():
            value.data = value.data.float() if value.requires_grad else value.data
    trained = [value for value in model.parameters() if value.requires_grad]
    layer_inputs = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0].nbytes))
    logits = model(input_ids=torch.ones(batch_size, sequence_length, dtype=torch.long)).logits.float()
    logits.logsumexp(-1).sum().backward()
    adam = torch.optim.AdamW if optimizer_bits == 32 else bitsandbytes.optim.AdamW8bit
    optimizer = adam(trained, lr=1e-3)
    optimizer.step()
    moments = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
    return {
        "weights": weights,
        "adapters": 0 if method == "full" else sum(value.nbytes for value in trained),
        "gradients": sum(value.grad.nbytes for value in trained),
        "optimizer": sum(kept[name].nbytes for kept in optimizer.state.values() for name in moments if name in kept),
        "layer_inputs": sum(layer_inputs),
        "logits": logits.nbytes,
    }

"""Parameters and arithmetic of a Llama, by formula: what fits, and how long it takes, before anything is loaded.

One worked number: SmolLM2-135M spends 2 * 134,479,872 operations a token on its matrices (head included), 0.27 billion;
at 100 billion operations a second that is 2.7 ms a token.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from course.lessons.l03_llama.llama_sizes import LlamaSizes
from course.lessons.l03_llama.small_models import transformers_config
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-count-llama",
    title="Parameters and FLOPs by formula",
    points=2,
    minutes=15,
    difficulty="medium",
    importance="extension",
    skills=("transformer", "memory"),
    hints=(
        "First the matrices of one layer: four in attention, three in the feed-forward layer. Mind which side has "
        "heads and which has kv_heads.",
        "A matrix of n numbers costs 2n operations a token: a multiplication and an addition for each number.",
        "Attention has two products that no parameter belongs to: queries with keys, and weights with values. Each is "
        "one product of length head_dim, or of length tokens, for every pair of tokens and every query head.",
    ),
    forbidden=("transformers", "torch.utils.flop_counter"),
    library_note="FlopCounterMode counts what PyTorch really multiplies, so it counts the hidden half of the scores "
    "too, as your formula does; flash attention skips most of it. The usual rule 2 * parameters * tokens leaves "
    "attention out and is good while tokens is small beside the width.",
    interview="How many operations does one generated token of an 8B model take, and why is that not what limits its "
    "speed?",
)


@exercise.reference
def count_llama(
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tied: bool,
    batch: int,
    tokens: int,
) -> dict[str, int]:
    """Count a Llama's parameters and the floating-point operations of one forward pass, without making the model.

    tied: the head is the embedding matrix, counted once. batch, tokens: shape of the input; logits for every token.

    Returns {"parameters": ..., "flops": ...}, both int:
    parameters: embedding, the layers (four attention matrices, three feed-forward matrices, two norms each), last norm,
    head. No biases.
    flops: matrix products only, 2 operations for each multiplication with its addition, so that a product of a (rows,
    inner) with an (inner, columns) matrix costs 2 * rows * inner * columns: the layers' matrices, the head, and in each
    layer and query head the two products of attention, over all pairs of tokens (hidden ones too, as in a
    full table of scores). Looking up an embedding, norms, softmax, rotary embedding and SiLU count nothing.
    """
    attention = hidden_size * head_dim * (2 * heads + 2 * kv_heads)
    feed_forward = 3 * hidden_size * intermediate_size
    embedding = vocab_size * hidden_size
    parameters = embedding * (1 if tied else 2) + layers * (attention + feed_forward + 2 * hidden_size) + hidden_size
    matrices = layers * (attention + feed_forward) + embedding
    pairs = layers * heads * tokens * tokens * head_dim
    return {"parameters": parameters, "flops": 2 * batch * (tokens * matrices + 2 * pairs)}


@exercise.alternative
def from_a_list_of_shapes(**sizes: Any) -> dict[str, int]:
    h, d, n = sizes["hidden_size"], sizes["head_dim"], sizes["layers"]
    q, kv, inner = sizes["heads"] * d, sizes["kv_heads"] * d, sizes["intermediate_size"]
    per_layer = [(h, q), (h, kv), (h, kv), (q, h), (h, inner), (h, inner), (inner, h)]
    vocabulary = (sizes["vocab_size"], h)
    products = per_layer * n + [vocabulary]
    stored = products if sizes["tied"] else [*products, vocabulary]
    weights = sum(rows * columns for rows, columns in stored) + sum([h] * (2 * n + 1))
    flops = sum(2 * sizes["batch"] * sizes["tokens"] * rows * columns for rows, columns in products)
    for _ in range(n * sizes["heads"] * sizes["batch"]):
        flops += 2 * (sizes["tokens"] ** 2 * d) + 2 * (sizes["tokens"] ** 2 * d)
    return {"parameters": weights, "flops": flops}


def count_wrongly(mistake: str, **s: Any) -> dict[str, int]:
    """The shared skeleton of the wrong answers below."""
    hidden, size, kv = s["hidden_size"], s["head_dim"], s["heads"] if mistake == "kv as heads" else s["kv_heads"]
    attention = 4 * hidden**2 if mistake == "square" else 2 * hidden * size * (s["heads"] + kv)
    attention = 2 * hidden * (hidden + size * kv) if mistake == "square q and o" else attention
    mlp = (2 if mistake == "two matrices" else 3) * hidden * s["intermediate_size"]
    embedding, norms = s["vocab_size"] * hidden, (2 * s["layers"] + 1) * hidden
    norms = {"norms": 0, "one norm": norms - s["layers"] * hidden, "no last norm": norms - hidden}.get(mistake, norms)
    copies = 2 if mistake == "head twice" or not s["tied"] else 1
    copies = 1 if mistake == "head never" else copies
    weights = copies * embedding + s["layers"] * (attention + mlp) + norms
    products = s["layers"] * (attention + mlp) + {"lookup": 2, "no head": 0}.get(mistake, 1) * embedding
    products -= embedding if mistake == "no tied head" and s["tied"] else 0
    products += norms if mistake == "norm flops" else 0
    pairs = s["tokens"] * (s["tokens"] + 1) // 2 if mistake == "causal half" else s["tokens"] ** 2
    quadratic = {"no quadratic": 0, "one product": 1}.get(mistake, 2) * s["layers"] * s["heads"] * pairs * size
    quadratic = quadratic * s["kv_heads"] // s["heads"] if mistake == "kv pairs" else quadratic
    if mistake == "rule of thumb":
        return {"parameters": weights, "flops": 2 * weights * s["batch"] * s["tokens"]}
    each, rows = 1 if mistake == "multiplications" else 2, s["batch"]
    if mistake == "width by heads":
        quadratic = quadratic // size * (hidden // s["heads"])
    if mistake == "one row":
        return {"parameters": weights, "flops": each * (rows * s["tokens"] * products + quadratic)}
    if mistake == "rows meet":
        quadratic = quadratic * rows
    if mistake == "last token":
        products -= embedding
        quadratic += embedding
    return {"parameters": weights, "flops": each * s["batch"] * (s["tokens"] * products + quadratic)}


@exercise.misconception(
    hint="Keys and values are counted with all heads. k_proj and v_proj are narrower: they have kv_heads heads."
)
def keys_as_wide_as_queries(**s: Any) -> dict[str, int]:
    return count_wrongly("kv as heads", **s)


@exercise.misconception(
    hint="You take four square matrices for attention. That is GPT-2's; here heads, kv_heads and head_dim give the "
    "shapes."
)
def four_square_matrices(**s: Any) -> dict[str, int]:
    return count_wrongly("square", **s)


@exercise.misconception(hint="You count two feed-forward matrices. A gated layer has three: gate, up and down.")
def two_feed_forward_matrices(**s: Any) -> dict[str, int]:
    return count_wrongly("two matrices", **s)


@exercise.misconception(
    hint="A tied head is counted as a second matrix. It is the embedding itself: its parameters count once, its "
    "product still counts."
)
def tied_head_counted_twice(**s: Any) -> dict[str, int]:
    return count_wrongly("head twice", **s)


@exercise.misconception(
    hint="The norms' weights are missing: two in each layer and one at the end, hidden_size numbers each."
)
def norms_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("norms", **s)


@exercise.misconception(
    hint="You count multiplications only. By convention the addition that goes with each counts too: 2 operations."
)
def only_multiplications(**s: Any) -> dict[str, int]:
    return count_wrongly("multiplications", **s)


@exercise.misconception(
    hint="The part that grows with the square of the tokens is missing: queries with keys, and weights with values. No "
    "parameter belongs to it, so 2 * parameters * tokens does not see it."
)
def quadratic_part_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("no quadratic", **s)


@exercise.misconception(
    hint="You use the rule of thumb, 2 * parameters * tokens. It leaves out attention's part that grows with the "
    "square of the tokens, and counts norms and (when the head is not tied) the embedding, which multiply nothing."
)
def rule_of_thumb(**s: Any) -> dict[str, int]:
    return count_wrongly("rule of thumb", **s)


@exercise.misconception(
    hint="Half of attention's operations is missing: either one of its two products (scores take one, mixing the "
    "values another), or, in both, the additions that go with the multiplications."
)
def one_of_two_products(**s: Any) -> dict[str, int]:
    return count_wrongly("one product", **s)


@exercise.misconception(
    hint="Where the head is tied, its product is missing. It shares the embedding's memory, and still multiplies every "
    "token's vector with the whole vocabulary."
)
def tied_head_product_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("no tied head", **s)


@exercise.misconception(
    hint="Attention's products are counted for one row of the batch only; the matrices are counted for all of them."
)
def products_of_one_row(**s: Any) -> dict[str, int]:
    return count_wrongly("one row", **s)


@exercise.misconception(
    hint="You count pairs across the whole batch, (batch * tokens) squared. The rows do not see each other."
)
def rows_see_each_other(**s: Any) -> dict[str, int]:
    return count_wrongly("rows meet", **s)


@exercise.misconception(
    hint="In attention's products you take hidden_size // heads numbers for each head. It is head_dim, which a model "
    "may choose otherwise."
)
def width_shared_out_to_heads(**s: Any) -> dict[str, int]:
    return count_wrongly("width by heads", **s)


@exercise.misconception(
    hint="q_proj and o_proj are counted as square, hidden_size by hidden_size. Their other side is heads * head_dim, "
    "and that need not be hidden_size."
)
def queries_as_wide_as_the_stream(**s: Any) -> dict[str, int]:
    return count_wrongly("square q and o", **s)


@exercise.misconception(
    hint="A head that is not tied is missing among the parameters: then it is a matrix of its own, as large as the "
    "embedding."
)
def own_head_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("head never", **s)


@exercise.misconception(
    hint="You count one norm a layer. There are two, in front of attention and in front of the feed-forward layer."
)
def one_norm_a_layer(**s: Any) -> dict[str, int]:
    return count_wrongly("one norm", **s)


@exercise.misconception(hint="The norm behind the last layer is missing: hidden_size numbers more.")
def last_norm_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("no last norm", **s)


@exercise.misconception(
    hint="The head is counted for the last token only. That is enough to generate; here every token has logits."
)
def head_for_the_last_token(**s: Any) -> dict[str, int]:
    return count_wrongly("last token", **s)


@exercise.misconception(
    hint="The norms' weights are counted as matrices. A norm multiplies number by number; no matrix product is in it."
)
def norms_as_products(**s: Any) -> dict[str, int]:
    return count_wrongly("norm flops", **s)


@exercise.misconception(
    hint="You count only the pairs that the mask leaves. That is what must be computed; the task asks for what a full "
    "table of scores computes."
)
def hidden_pairs_left_out(**s: Any) -> dict[str, int]:
    return count_wrongly("causal half", **s)


@exercise.misconception(
    hint="Attention's products are counted for each key-value head. Every *query* head has its own scores; sharing "
    "keys saves memory, not arithmetic."
)
def scores_per_kv_head(**s: Any) -> dict[str, int]:
    return count_wrongly("kv pairs", **s)


@exercise.misconception(
    hint="Looking up an embedding is counted as a matrix product. It copies one row; only the head multiplies."
)
def lookup_as_a_product(**s: Any) -> dict[str, int]:
    return count_wrongly("lookup", **s)


@exercise.misconception(
    hint="The head's product is missing. Tied or not, it multiplies every token's vector with the whole vocabulary."
)
def head_product_forgotten(**s: Any) -> dict[str, int]:
    return count_wrongly("no head", **s)


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, sizes: tuple[int, ...], tied: bool, shape: tuple[int, int], visible: bool = True):
        keys = ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "head_dim")
        inputs = dict(zip(keys, sizes, strict=True)) | {"tied": tied, "batch": shape[0], "tokens": shape[1]}
        return Case(name, inputs, about, visible)

    tokens = int(torch.randint(3, 20, (), generator=random))
    return [
        case("tiny", "on a tiny model", (50, 16, 40, 2, 4, 2, 4), False, (1, tokens)),
        case("SmolLM2-135M", "on SmolLM2-135M", (49152, 576, 1536, 30, 9, 3, 64), True, (1, tokens)),
        case("batch", "with several rows", (99, 24, 32, 2, 6, 3, 4), True, (3, tokens)),
        case("wide heads", "when heads * head_dim is not hidden_size", (64, 32, 80, 2, 4, 1, 16), True, (2, 7)),
        case("TinyLlama", "on TinyLlama-1.1B", (32000, 2048, 5632, 22, 32, 4, 64), False, (1, tokens), visible=False),
        case("long", "on a long row", (40, 24, 36, 1, 6, 2, 4), False, (1, 200 + seed % 50), visible=False),
    ]


@exercise.oracle
def oracle(tied: bool, batch: int, tokens: int, **sizes: int) -> dict[str, int]:
    return counted(tied, batch, tokens, tuple(sizes.items()))


@cache  # the same sizes are asked once for each seed and again by each check
def counted(tied: bool, batch: int, tokens: int, sizes: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """numel and FlopCounterMode on transformers' model, on the meta device: shapes without values."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    config = transformers_config(LlamaSizes(**dict(sizes), theta=1e5, eps=1e-5, tied=tied), attention="eager")
    with torch.device("meta"), torch.no_grad():
        model: Any = LlamaForCausalLM(config)
        model.tie_weights()
        with FlopCounterMode(display=False) as counter:
            ids, mask = torch.zeros(batch, tokens, dtype=torch.long), torch.zeros(batch, 1, tokens, tokens)
            model(ids, attention_mask=mask, use_cache=False)
    return {"parameters": model.num_parameters(), "flops": counter.get_total_flops()}

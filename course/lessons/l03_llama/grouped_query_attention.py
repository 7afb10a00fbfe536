"""Causal grouped-query attention: Vaswani et al. 2017 (arXiv:1706.03762), equation 1, with shared key-value heads,
Ainslie et al. 2023 (arXiv:2305.13245).

One worked number: SmolLM2's 3 key-value heads instead of 9 keep 2 * 3 * 64 numbers a token and layer in the cache
instead of 2 * 9 * 64: a third.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.apply_rotary import apply_rotary
from course.lessons.l03_llama.llama_faults import attend
from course.lessons.l03_llama.small_models import FIT, fill, output_of
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-grouped-query-attention",
    title="Causal grouped-query attention",
    points=5,
    minutes=25,
    difficulty="hard",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "Write the shape beside each line. (batch, tokens, heads * head_dim) becomes (batch, heads, tokens, head_dim) "
        "in two steps: split the last axis, then swap two axes.",
        "For the groups: either repeat each key and value head for its query heads, in an order where copies of one "
        "head stand side by side, or give the queries one more axis.",
        "A token may look at itself and at what came before. Set the scores of the others to minus infinity, and only "
        "then take the softmax over the keys.",
    ),
    atol=2e-5,
    tolerance_reason="float32 sums in another order, and angles of up to 40 radians whose last bit is 4e-6",
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
        "torch.nn.MultiheadAttention",
        "transformers",
        "course.lessons.l03_llama.llama_faults",
    ),
    library_note="LlamaAttention has the same four layers, and leaves the middle to scaled_dot_product_attention or "
    "flash attention, which never store the table of scores: for 8,192 tokens and 9 heads it would take 2.4 GB in "
    "float32. In 16 bits they still compute the softmax in float32.",
    interview="What do grouped-query heads save, where, and what do they cost?",
)


@exercise.reference
class GroupedQueryAttention(nn.Module):
    """Causal self-attention with rotary positions, in which several query heads share one key-value head.

    Attributes, each an nn.Linear without a bias, under the names they have in a Llama's files:
        q_proj: hidden_size -> heads * head_dim; k_proj and v_proj: hidden_size -> kv_heads * head_dim;
        o_proj: heads * head_dim -> hidden_size.

    Each of these outputs holds its heads one after the other: head 0 has the first head_dim numbers. With
    group = heads // kv_heads, query head h uses key-value head h // group.

    For each head: q and k are turned by the rotary embedding (apply_rotary, from further up), v is not; scores =
    q k^T / sqrt(head_dim); softmax over the keys that are not after the query in the row of tokens (by place in the
    row, not by positions, which may start again or repeat); output = weights v. Whether scores and softmax are taken in
    float32 or in the dtype of x is up to you.
    Not allowed: F.scaled_dot_product_attention, nn.MultiheadAttention (they are what you build).
    Sources: Vaswani et al. 2017, equation 1; Ainslie et al. 2023; Su et al. 2021.
    """

    def __init__(self, hidden_size: int, heads: int, kv_heads: int, head_dim: int, theta: float) -> None:
        """heads is a multiple of kv_heads; heads * head_dim may differ from hidden_size; theta: for apply_rotary."""
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.theta = heads, kv_heads, head_dim, theta
        self.q_proj = nn.Linear(hidden_size, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden_size, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: (batch, tokens, hidden_size); positions: integers, (tokens,) or (batch, tokens), for the rotary embedding.

        Returns (batch, tokens, hidden_size) in the dtype of x, which is that of the weights.
        """
        batch, tokens, _ = x.shape

        def split(projected: Tensor, count: int) -> Tensor:
            return projected.view(batch, tokens, count, self.head_dim).transpose(1, 2)

        q = apply_rotary(split(self.q_proj(x), self.heads), positions, self.theta)
        k = apply_rotary(split(self.k_proj(x), self.kv_heads), positions, self.theta)
        v = split(self.v_proj(x), self.kv_heads)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(2, 3) / math.sqrt(self.head_dim)  # (batch, heads, tokens, tokens)
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(diagonal=1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1, dtype=torch.float32).to(x.dtype)
        merged = (weights @ v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.o_proj(merged)


@exercise.alternative
class queries_in_groups(GroupedQueryAttention):
    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        b, t, _ = x.shape
        queries = self.q_proj(x).unflatten(-1, (self.heads, -1)).permute(0, 2, 1, 3)
        keys, values = (layer(x).reshape(b, t, self.kv_heads, -1) for layer in (self.k_proj, self.v_proj))
        queries = apply_rotary(queries, positions, self.theta).unflatten(1, (self.kv_heads, -1))  # (b, kv, group, t, d)
        keys = apply_rotary(keys.movedim(2, 1), positions, self.theta)
        logits = torch.einsum("bkgqd,bksd->bkgqs", queries * self.head_dim**-0.5, keys)
        order = torch.arange(t, device=x.device)
        logits = torch.where(order[:, None] >= order, logits, torch.finfo(logits.dtype).min)
        mixed = torch.einsum("bkgqs,bskd->bqkgd", torch.softmax(logits, -1), values)
        return self.o_proj(mixed.flatten(2))


@exercise.alternative
class token_by_token(GroupedQueryAttention):
    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        d, results = self.head_dim, []
        for h in range(self.heads):
            shared = h // (self.heads // self.kv_heads)
            rows = slice(shared * d, (shared + 1) * d)
            query = x @ self.q_proj.weight[h * d : (h + 1) * d].T
            key, value = x @ self.k_proj.weight[rows].T, x @ self.v_proj.weight[rows].T
            query, key = (apply_rotary(part[:, None], positions, self.theta)[:, 0] for part in (query, key))
            for t in range(x.shape[1]):
                share = (key[:, : t + 1] * query[:, t : t + 1]).sum(-1).div(d**0.5).exp()
                share = share / share.sum(-1, keepdim=True)
                results.append((share[..., None] * value[:, : t + 1]).sum(1))
        heads_first = torch.stack(results, 1).unflatten(1, (self.heads, -1))
        return self.o_proj(heads_first.transpose(1, 2).flatten(2))


class Mistaken(GroupedQueryAttention):
    """The layer with one of the known faults."""

    fault = ""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(attend(q, k, v, self.heads, self.kv_heads, positions, self.theta, self.fault))


@exercise.misconception(
    hint="Scores are divided by head_dim itself. The softmax then is far too flat: a sum of head_dim random products "
    "grows with the square root of their number."
)
class scaled_by_head_dim(Mistaken):
    fault = "scaled by head_dim"


@exercise.misconception(
    hint="Scores are divided by the root of the model's width. Each head works with head_dim numbers, and the scale is "
    "about these."
)
class scaled_by_the_width(Mistaken):
    fault = "scaled by the model's width"


@exercise.misconception(
    hint="You take hidden_size / heads for the width of a head. In many models it is, so this goes well for long; "
    "where it is not, the weights do not fit. The constructor is told the width of a head: use that number."
)
class width_shared_out(GroupedQueryAttention):
    def __init__(self, hidden_size: int, heads: int, kv_heads: int, head_dim: int, theta: float) -> None:
        super().__init__(hidden_size, heads, kv_heads, hidden_size // heads, theta)


@exercise.misconception(
    hint="Scores are not scaled, so the softmax is too sharp. Look at the formula for what they are divided by."
)
class scale_forgotten(Mistaken):
    fault = "not scaled"


@exercise.misconception(
    hint="The mask comes after the softmax. What is zeroed there has already taken its share, so the weights of a row "
    "no longer sum to 1: hide the future before."
)
class mask_after_softmax(Mistaken):
    fault = "mask after softmax"


@exercise.misconception(
    hint="Hidden scores are set to 0. A score of 0 is a good score: exp(0) is 1. What must not be seen needs a weight "
    "of 0, so think of the score whose exponential is 0."
)
class masked_with_zero(Mistaken):
    fault = "masked with zero"


@exercise.misconception(
    hint="Every token sees the whole row, its own future included. In training such a model would copy the next token "
    "instead of predicting it."
)
class mask_forgotten(Mistaken):
    fault = "no mask"


@exercise.misconception(
    hint="Your mask is off by one: each token sees the one after it. Draw it for three tokens; the diagonal is "
    "allowed, and nothing right of it."
)
class one_token_ahead(Mistaken):
    fault = "one token ahead"


@exercise.misconception(
    hint="Your mask hides the token itself. The first token then has nothing to look at, and its softmax is 0 / 0. The "
    "diagonal is allowed."
)
class own_token_hidden(Mistaken):
    fault = "own token hidden"


@exercise.misconception(
    hint="Your mask hides the token itself, and the first token, with nothing to look at, spreads its attention over "
    "the whole row. Each token may look at itself."
)
class own_token_hidden_by_a_number(Mistaken):
    fault = "own token at -10,000"


@exercise.misconception(
    hint="Your mask is the other triangle: tokens see what comes after them and not what came before. Print it for "
    "three tokens; rows are queries, columns are keys."
)
class the_other_triangle(Mistaken):
    fault = "wrong triangle"


@exercise.misconception(
    hint="Hidden scores are lowered by 10. That leaves them e^-10 of their weight, a 20,000th, so a little of the "
    "future leaks; nothing short of minus infinity, or the dtype's lowest number, hides it."
)
class lowered_by_ten(Mistaken):
    fault = "mask of -10"


@exercise.misconception(
    hint="Your mask compares positions. Where they start again (two texts packed in a row) or repeat (padding), it "
    "shows the future. Mask by the place in the row."
)
class masked_by_position(Mistaken):
    fault = "masked by position"


@exercise.misconception(
    hint="Keys and values are swapped. Scores are made of queries and keys; what is mixed by them are the values."
)
class keys_and_values_swapped(Mistaken):
    fault = "keys and values swapped"


@exercise.misconception(
    hint="The keys' heads are repeated in the right order (0 0 1 1 2 2), the values' heads in another (0 1 2 0 1 2): "
    "query heads then mix values that belong to other keys."
)
class only_values_tiled(Mistaken):
    fault = "only values tiled"


@exercise.misconception(
    hint="The rotary embedding gets theta = 10,000, whatever the constructor was given. Hand on its own."
)
class theta_fixed(Mistaken):
    fault = "theta of Llama 2"


@exercise.misconception(
    hint="With 16-bit input and weights your result is float32, and the sum with the residual stream would become so "
    "too. Give back the dtype that came in."
)
class left_in_float32(GroupedQueryAttention):
    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().forward(x, positions).float()


@exercise.misconception(
    hint="Key-value heads are repeated in the wrong order: 0 1 2 0 1 2. Query heads 0, 1 and 2 share head 0, so copies "
    "of one head stand side by side: 0 0 1 1 2 2. Tensor.repeat and repeat_interleave differ in just this."
)
class heads_tiled(Mistaken):
    fault = "key-value heads tiled"


@exercise.misconception(
    hint="Features are split into (heads, tokens) in one reshape. They lie token by token in memory: split the last "
    "axis first, and swap axes afterwards."
)
class split_without_a_transpose(Mistaken):
    fault = "split without a transpose"


@exercise.misconception(
    hint="The heads are merged while they still stand before the tokens, so numbers of different tokens mix. Swap the "
    "two axes back before you flatten."
)
class merged_without_a_transpose(Mistaken):
    fault = "merged without a transpose"


@exercise.misconception(
    hint="The softmax runs over the queries. Each query shares out its attention over the keys: that is the last axis."
)
class softmax_over_queries(Mistaken):
    fault = "softmax over queries"


@exercise.misconception(
    hint="The rotary embedding is applied before the heads are split, over all features at once. Each head has its own "
    "pairs and starts with the highest frequency."
)
class turned_before_the_split(Mistaken):
    fault = "turned before the split"


@exercise.misconception(
    hint="Values are turned too. Only queries and keys are: a score shall know the distance, but what is mixed shall "
    "not depend on where it stood."
)
class values_turned(Mistaken):
    fault = "values turned"


@exercise.misconception(
    hint="No rotary embedding is applied: without it attention sees a bag of words. Turn the queries and the keys."
)
class rotary_forgotten(Mistaken):
    fault = "no rotary"


@exercise.misconception(
    hint="Only the queries are turned. The distance between two tokens appears only if both sides are."
)
class keys_not_turned(Mistaken):
    fault = "keys not turned"


@exercise.misconception(
    hint="You count positions yourself. With rows that start at 0 nobody notices, nor with a later start, since only "
    "distances matter; with gaps the distances change. Hand on the positions that are passed in."
)
class positions_counted_anew(Mistaken):
    fault = "positions ignored"


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=random) * scale

    def case(
        name: str, about: str, batch: int, tokens: int, heads: tuple[int, int], size: int, width: int = 0, **rest: Any
    ) -> Case:
        many, few = heads
        width = width or many * size
        shapes = {"q_proj": (many * size, width), "k_proj": (few * size, width), "v_proj": (few * size, width)}
        weights = {f"{n}.weight": normal(*s, scale=1.5 / width**0.5) for n, s in shapes.items()}
        weights["o_proj.weight"] = normal(width, many * size, scale=(many * size) ** -0.5)
        positions = torch.arange(tokens) + rest.get("start", 0)
        if rest.get("gaps"):
            positions = torch.stack([positions * (row + 1) + positions // 2 for row in range(batch)])
        if rest.get("again"):
            positions = torch.stack([positions % 3, (positions - 2).clamp(min=0)])
        layer = {"heads": many, "kv_heads": few, "head_dim": size, "theta": rest.get("theta", 100_000.0)}
        inputs = {"x": normal(batch, tokens, width), "positions": positions, "weights": weights, **layer}
        if rest.get("half"):  # whole numbers, and one token: its share is 1, so every honest order gives the same bits
            inputs["x"] = inputs["x"].round().half()
            inputs["weights"] = {n: (w.sign() / (16 if n[0] in "qk" else 1)).half() for n, w in weights.items()}
        return Case(name, inputs, about, rest.get("visible", True))

    some = int(torch.randint(5, 12, (), generator=random))
    return [
        case("plain", "with one key-value head for each query head", 1, 4, (2, 2), 4),
        case("groups", "when groups of query heads share a key-value head", 2, some, (6, 3), 4),
        case("gaps", "when positions have gaps, other ones in each row", 2, 5, (4, 2), 6, start=7, gaps=True),
        case("narrow", "when heads * head_dim is not hidden_size", 1, some, (6, 2), 4, width=18),
        case("again", "when positions start again, or repeat, within a row", 2, 6, (4, 2), 4, again=True),
        case("float16", "when x and the weights are float16", 2, 1, (2, 2), 4, half=True),
        case("one token", "on a single token", 3, 1, (4, 1), 8, visible=False),
        case("9 heads, 3 key-value heads", "with SmolLM2's heads", 1, 20, (9, 3), 16, visible=False),
    ]


@exercise.probe
def probe(
    answer: Any,
    x: Tensor,
    positions: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    kv_heads: int,
    head_dim: int,
    theta: float,
) -> dict[str, Any]:
    """Makes the layer, fills it with the weights and calls it."""
    return output_of(answer(x.shape[-1], heads, kv_heads, head_dim, theta), weights, x, positions)


@exercise.oracle
def oracle(x: Tensor, positions: Tensor, weights: Mapping[str, Tensor], theta: float, **sizes: int) -> Any:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    options: dict[str, Any] = {
        "hidden_size": x.shape[-1],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "head_dim": sizes["head_dim"],
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attn_implementation": "sdpa",
    }
    config = LlamaConfig(**options)
    tables = LlamaRotaryEmbedding(config)(x, position_ids=positions.expand(x.shape[0], -1))
    with torch.no_grad():
        layer: Any = fill(LlamaAttention(config, layer_idx=0), weights)
        output = layer(x, position_embeddings=tables, attention_mask=None)[0]
    return {"names and shapes": FIT, "output": output}

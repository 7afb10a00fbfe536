"""A whole Llama, Touvron et al. 2023 (arXiv:2302.13971), section 2.2: pre-norm blocks around a residual stream.

One worked number: SmolLM2-135M has 30 layers of 3,540,096 parameters each, an embedding of 28,311,552 which is also the
head, and a last norm of 576: together 134,515,008.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.grouped_query_attention import GroupedQueryAttention
from course.lessons.l03_llama.llama_report import explain_divergence
from course.lessons.l03_llama.llama_sizes import LlamaSizes
from course.lessons.l03_llama.rms_norm import RmsNorm
from course.lessons.l03_llama.small_models import (
    WeightsDoNotFitError,
    fill,
    random_sizes,
    random_weights,
    transformers_llama,
)
from course.lessons.l03_llama.swiglu_mlp import SwigluMlp
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-llama",
    title="The whole model",
    points=4,
    minutes=25,
    difficulty="medium",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "nn.ModuleList holds the layers, nn.ModuleDict parts with given names; both register what they hold, a plain "
        "list does not. A module's path of names is its parameter's name.",
        "Each layer adds twice to the stream of token vectors: what attention says about the normalised stream, then "
        "what the feed-forward layer says about the stream normalised anew.",
        "For the tied head: make the linear layer, then let its weight be the embedding's very parameter.",
    ),
    atol=2e-4,
    tolerance_reason="float32 through two or three layers: logits of size 20 that were summed in another order differ "
    "by 1e-5",
    forbidden=("transformers", "course.lessons.l03_llama.llama_faults"),
    library_note="transformers wraps the same modules in a PreTrainedModel, which adds loading, caches, masks for "
    "padding, device maps and hooks for other attention kernels. What it computes is what you just wrote.",
    interview="Draw the data flow of a Llama block. Where do its parameters sit, and where does its compute go?",
)


@exercise.reference
class Llama(nn.Module):
    """A decoder-only transformer, built from your RmsNorm, SwigluMlp and GroupedQueryAttention.

    It has transformers' names: model.embed_tokens (nn.Embedding), model.layers.N.input_layernorm, .self_attn,
    .post_attention_layernorm and .mlp, model.norm, lm_head (nn.Linear without a bias). So state_dict() has
    "model.layers.0.self_attn.q_proj.weight". With sizes.tied, lm_head.weight is the same nn.Parameter as
    model.embed_tokens.weight; else one of its own.

    The stream x starts as the tokens' embeddings, unscaled. Each layer does two steps:
        x = x + self_attn(input_layernorm(x)), then x = x + mlp(post_attention_layernorm(x));
    logits = lm_head(norm(x)). No softmax, no dropout. Call the parts as modules, as written here: where your logits are
    wrong, the report on the first tensor that differs follows those calls.
    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2.
    """

    def __init__(self, sizes: LlamaSizes) -> None:
        """sizes has vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, theta, eps, tied."""
        super().__init__()
        embedding = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "input_layernorm": RmsNorm(sizes.hidden_size, sizes.eps),
                    "self_attn": GroupedQueryAttention(
                        sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.theta
                    ),
                    "post_attention_layernorm": RmsNorm(sizes.hidden_size, sizes.eps),
                    "mlp": SwigluMlp(sizes.hidden_size, sizes.intermediate_size),
                }
            )
            for _ in range(sizes.layers)
        )
        norm = RmsNorm(sizes.hidden_size, sizes.eps)
        self.model = nn.ModuleDict({"embed_tokens": embedding, "layers": layers, "norm": norm})
        self.lm_head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        if sizes.tied:
            self.lm_head.weight = embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: integers (batch, tokens), at positions 0, 1, 2, ... -> logits (batch, tokens, vocab_size)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.model["embed_tokens"](input_ids)
        layers: Any = self.model["layers"]
        for layer in layers:
            x = x + layer["self_attn"](layer["input_layernorm"](x), positions)
            x = x + layer["mlp"](layer["post_attention_layernorm"](x))
        return self.lm_head(self.model["norm"](x))


class LlamaBlock(nn.Module):
    """One layer as a module of its own, for the alternative below."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(width, sizes.eps), RmsNorm(width, sizes.eps)
        self.self_attn = GroupedQueryAttention(width, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.theta)
        self.mlp = SwigluMlp(width, sizes.intermediate_size)

    def forward(self, stream: Tensor) -> Tensor:
        positions = torch.arange(stream.shape[1], device=stream.device).expand(stream.shape[:2])
        attended = self.self_attn(self.input_layernorm(stream), positions).add(stream)
        return attended + self.mlp(self.post_attention_layernorm(attended))


@exercise.alternative
class with_blocks_and_functional_head(nn.Module):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.norm = RmsNorm(sizes.hidden_size, sizes.eps)
        self.model.layers = nn.Sequential(*[LlamaBlock(sizes) for _ in range(sizes.layers)])
        self.lm_head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        self.model.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.hidden_size)
        if sizes.tied:
            self.model.embed_tokens.weight = self.lm_head.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = self.model.embed_tokens.weight[input_ids]  # type: ignore[index, union-attr]
        normed = self.model.norm(self.model.layers(rows))  # type: ignore[operator]
        return torch.einsum("btd,vd->btv", normed, self.lm_head.weight)


class Mistaken(Llama):
    """The whole model with one of the known faults in its wiring."""

    fault = ""

    def forward(self, input_ids: Tensor) -> Tensor:
        places, fault = torch.arange(input_ids.shape[1], device=input_ids.device), self.fault
        places = places * 0 if fault == "positions zero" else places
        x = self.model["embed_tokens"](input_ids)
        if fault == "embedding scaled":
            x = x * x.shape[-1] ** 0.5
        layers: Any = list(cast(nn.ModuleList, self.model["layers"]))
        layers = {"backwards": layers[::-1], "one less": layers[:-1]}.get(fault, layers)
        for layer in layers:
            first, second = layer["input_layernorm"], layer["post_attention_layernorm"]
            first, second = (second, first) if fault == "norms swapped" else (first, second)
            attention, mlp = layer["self_attn"], layer["mlp"]
            if fault == "norm after the sum":
                x = first(x + attention(x, places))
                x = second(x + mlp(x))
                continue
            if fault == "mlp first":
                x = x + mlp(second(x))
                x = x + attention(first(x), places)
                continue
            start, normed = x, first(x)
            sums = {"no residual": 0, "no first residual": 0, "residual of the norm": normed}
            x = attention(normed, places) + sums.get(fault, x)
            read = start if fault == "both from the start" else x
            inner = first(read) if fault == "norm reused" else second(read)
            sums = {"no residual": 0, "no second residual": 0, "residual of the norm": inner}
            kept = start if fault == "residual of the start" else sums.get(fault, x)
            x = mlp(inner) + kept
        x = x if fault == "no last norm" else self.model["norm"](x)
        logits = self.lm_head(x[:, -1:] if fault == "last token only" else x)
        return logits.softmax(-1) if fault == "softmax" else logits


@exercise.misconception(
    hint="The residual is missing: each step replaces the stream. Attention and feed-forward *add* to what came in."
)
class residual_forgotten(Mistaken):
    fault = "no residual"


@exercise.misconception(
    hint="Attention's result replaces the stream; only the feed-forward layer's is added. Both *add* to what came in."
)
class first_residual_forgotten(Mistaken):
    fault = "no first residual"


@exercise.misconception(
    hint="The feed-forward layer's result replaces the stream; only attention's is added. Both *add* to what came in."
)
class second_residual_forgotten(Mistaken):
    fault = "no second residual"


@exercise.misconception(
    hint="The two norms of a layer are swapped: input_layernorm is the one in front of attention, and "
    "post_attention_layernorm, whatever its name suggests, the one in front of the feed-forward layer."
)
class norms_swapped(Mistaken):
    fault = "norms swapped"


@exercise.misconception(
    hint="The feed-forward layer comes before attention. In each layer attention goes first, and the feed-forward "
    "layer reads what it gathered."
)
class feed_forward_first(Mistaken):
    fault = "mlp first"


@exercise.misconception(hint="The layers run from the last to the first. Layer 0 reads the embeddings.")
class layers_backwards(Mistaken):
    fault = "backwards"


@exercise.misconception(hint="One layer is never run: the last one. Check where your loop over the layers ends.")
class last_layer_forgotten(Mistaken):
    fault = "one less"


@exercise.misconception(
    hint="All tokens get the same position, so the model cannot tell their order. They stand at 0, 1, 2, ..."
)
class one_position_for_all(Mistaken):
    fault = "positions zero"


@exercise.misconception(
    hint="Only the last token's logits are returned. That is enough to generate; training needs those of every token, "
    "and so does the check."
)
class last_token_only(Mistaken):
    fault = "last token only"


@exercise.misconception(
    hint="You add to the normalised stream. The norm is only for what attention and the feed-forward layer read; the "
    "stream itself goes by untouched."
)
class residual_from_the_norm(Mistaken):
    fault = "residual of the norm"


@exercise.misconception(
    hint="You normalise after each sum, as the first transformer did. In a Llama the norm comes before attention and "
    "before the feed-forward layer (pre-norm), and the sum is left alone."
)
class norm_after_the_sum(Mistaken):
    fault = "norm after the sum"


@exercise.misconception(
    hint="The feed-forward layer reads the layer's own input, beside attention instead of after it (GPT-J does that). "
    "Here it reads what attention has already added to."
)
class attention_and_mlp_in_parallel(Mistaken):
    fault = "both from the start"


@exercise.misconception(
    hint="The second sum adds to what came into the layer, so attention's share is lost from the stream. Each sum "
    "starts from the result of the one before."
)
class second_sum_from_the_start(Mistaken):
    fault = "residual of the start"


@exercise.misconception(
    hint="The feed-forward layer reads through input_layernorm; post_attention_layernorm is never used. Each half has "
    "a norm of its own."
)
class first_norm_used_twice(Mistaken):
    fault = "norm reused"


@exercise.misconception(
    hint="The last norm is missing. What leaves the last layer goes through model.norm before the head reads it."
)
class last_norm_forgotten(Mistaken):
    fault = "no last norm"


@exercise.misconception(
    hint="The embeddings are multiplied by the root of the width. The first transformer and Gemma do that; a Llama "
    "does not."
)
class embedding_scaled(Mistaken):
    fault = "embedding scaled"


@exercise.misconception(
    hint="You return probabilities. A model returns logits, and whoever calls it decides what to do with them."
)
class softmax_at_the_end(Mistaken):
    fault = "softmax"


@exercise.misconception(
    hint="The head has a weight of its own where it should share the embedding's. The logits are right after loading, "
    "and 28 million parameters too many would be trained apart: let both names hold one nn.Parameter."
)
class head_not_tied(Llama):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__(replace(sizes, tied=False))


@exercise.misconception(
    hint="The head is the embedding even where sizes.tied is False: there it is a weight of its own."
)
class head_always_tied(Llama):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__(replace(sizes, tied=True))


@exercise.misconception(
    hint="eps is fixed at 1e-6. It belongs to the model: sizes.eps. On the small vectors of the first layers it shows."
)
class eps_fixed(Llama):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__(replace(sizes, eps=1e-6))


@exercise.misconception(
    hint="All layers are one and the same object: [layer] * n copies a reference. Loading then fills it n times, and "
    "the last one's weights stay in all. Make each layer anew."
)
class one_layer_many_times(Llama):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__(sizes)
        layers: Any = self.model["layers"]
        self.model["layers"] = nn.ModuleList([layers[0]] * sizes.layers)


@exercise.misconception(
    hint="Your layers are in a plain Python list, where PyTorch does not see them: they have no entry in the state "
    "dict and would neither load nor train. nn.ModuleList is the list that it sees."
)
class layers_in_a_plain_list(Llama):
    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__(sizes)
        layers: Any = self.model["layers"]
        self.kept = list(layers)
        del self.model["layers"]


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, batch: int, tokens: int, visible: bool = True, **fixed: Any) -> Case:
        sizes = random_sizes(random, **fixed)
        weights = random_weights(sizes, random)
        if sizes.eps > 1e-3:  # small vectors, on which eps matters
            weights["model.embed_tokens.weight"] *= 0.05
        ids = torch.randint(sizes.vocab_size, (batch, tokens), generator=random)
        return Case(name, {"input_ids": ids, "sizes": asdict(sizes), "weights": weights}, about, visible)

    some = int(torch.randint(5, 12, (), generator=random))
    return [
        case("one layer", "with one layer", 1, 4, layers=1),
        case("two layers", "with two layers", 2, some),
        case("own head", "when the head is not tied to the embedding", 1, some, tied=False),
        case("large eps", "when eps is large and the embeddings small", 1, 5, tied=False, eps=2e-3),
        case("one token", "on single tokens", 3, 1, visible=False, layers=3),
        case("longer", "on a longer row", 1, 40, visible=False, theta=10_000.0),
    ]


@exercise.probe
def probe(answer: Any, input_ids: Tensor, sizes: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """Makes the model, loads the weights strictly and runs it. If the logits are wrong, finds the first difference."""
    model = answer(LlamaSizes(**sizes))
    try:
        fill(model, weights)
    except WeightsDoNotFitError as error:
        return {
            "logits": None,
            "the head is the embedding's parameter": False,
            "first difference": f"The weights cannot be loaded: {error}",
        }
    shared = model.lm_head.weight is model.get_parameter("model.embed_tokens.weight")
    twin = transformers_llama(LlamaSizes(**sizes), weights)
    with torch.no_grad():
        logits = model(input_ids)
        wanted = twin(input_ids).logits
    same = isinstance(logits, Tensor) and logits.shape == wanted.shape and torch.allclose(logits, wanted, 1e-5, 2e-4)
    if not isinstance(logits, Tensor):
        report = f"Your forward returned {type(logits).__name__}; is a `return` missing?"
    else:
        report = "" if same else explain_divergence(model, twin, input_ids)
    return {"logits": logits, "the head is the embedding's parameter": shared, "first difference": report}


@exercise.oracle
def oracle(input_ids: Tensor, sizes: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    model = transformers_llama(LlamaSizes(**sizes), weights)
    with torch.no_grad():
        logits = model(input_ids).logits
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    return {"logits": logits, "the head is the embedding's parameter": shared, "first difference": ""}


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], **_: Any) -> str | None:
    """The first tensor that differs from transformers' model, and the likeliest reason."""
    return got["first difference"] or None

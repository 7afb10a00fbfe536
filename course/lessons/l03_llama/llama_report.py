"""For two Llamas that differ: the first tensor that does, and the likeliest reason, found by trying known mistakes.

`first_divergence` says where. The reason is an experiment: from the tensors before that place, on which both models
agree, each known fault is computed, and the one that gives the learner's own numbers is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.first_divergence import (
    FLOAT32_TOLERANCE,
    Divergence,
    Place,
    compare,
    first_divergence,
)
from course.lessons.l03_llama.llama_faults import (
    ATTENTION_FAULTS,
    MLP_FAULTS,
    NORM_FAULTS,
    attend,
    gate_and_up,
    normalise,
)
from course.lessons.l03_llama.llama_sizes import LlamaSizes

SAME_FAULT = 1e-3  # a fault's numbers count as the learner's within this share of the largest


def explain_divergence(mine: nn.Module, theirs: Any, input_ids: Tensor, tolerance: float = FLOAT32_TOLERANCE) -> str:
    """A report in two sentences, or "" when the models agree.

    mine: a model with transformers' module names. theirs: a transformers LlamaForCausalLM. input_ids: (batch, tokens).
    """
    found = first_divergence(mine, theirs, input_ids, tolerance=tolerance)
    if found is None:
        return ""
    reason = likely_reason(found, LlamaSizes.of(theirs.config), theirs)
    return f"{str(found)[0].upper()}{str(found)[1:]}." + (f" Likeliest reason: {reason}." if reason else "")


def likely_reason(found: Divergence, sizes: LlamaSizes, theirs: Any) -> str:
    """The known fault that gives the same numbers; "" when none does."""
    if found.differing_parameters:
        return "the weights were not loaded into it, or another part's were"
    own = found.mine[found.name, found.side]
    with torch.no_grad():
        for reason, candidate in candidates(found, sizes, theirs):
            if compare(candidate, own, SAME_FAULT)[0] is None:
                return reason
    return f"{found.unused[-1]} is left out, or another part stands in for it" if found.unused else ""


def candidates(found: Divergence, sizes: LlamaSizes, theirs: Any) -> Iterator[tuple[str, Tensor]]:
    """(reason, what the place would then hold) for each known fault that can show at this place."""
    kept, name = found.theirs, found.name
    layer, _, part = name.rpartition(".")
    if found.side == "output":
        yield from inside_module(kept, name, theirs)
    elif part == "o_proj":
        q, k, v = (kept[f"{layer}.{letter}_proj", "output"] for letter in "qkv")
        positions = torch.arange(q.shape[1], device=q.device)
        for fault, reason in ATTENTION_FAULTS.items():
            yield reason, attend(q, k, v, sizes.heads, sizes.kv_heads, positions, sizes.theta, fault)
    elif part == "down_proj":
        for fault, reason in MLP_FAULTS.items():
            yield reason, gate_and_up(kept[f"{layer}.gate_proj", "output"], kept[f"{layer}.up_proj", "output"], fault)
    else:
        yield from between_blocks(found, theirs)


def same(mine: Tensor | None, wanted: Tensor) -> bool:
    """Whether the learner's model recorded this very tensor there."""
    return mine is not None and compare(wanted, mine, SAME_FAULT)[0] is None


def inside_module(kept: dict[Place, Tensor], name: str, theirs: Any) -> Iterator[tuple[str, Tensor]]:
    """Faults of a module whose input and weights agree, or, for the name "", of what comes after the last module."""
    output = kept[name, "output"]
    if name == "":
        yield "a softmax makes probabilities at the end; a model returns logits", output.softmax(-1)
        yield "a softmax makes log-probabilities at the end; a model returns logits", output.log_softmax(-1)
        return
    module = theirs.get_submodule(name)
    if hasattr(module, "variance_epsilon"):
        for fault, reason in NORM_FAULTS.items():
            yield reason, normalise(kept[name, "input"], module.weight, module.variance_epsilon, fault)


def between_blocks(found: Divergence, theirs: Any) -> Iterator[tuple[str, Tensor]]:
    """Faults of the path between norms and layers: residuals left out or misplaced, norms passed by."""
    kept, name = found.theirs, found.name
    outputs = [place for place in found.agreed if place[1] == "output"]
    norms = [place[0] for place in outputs if "norm" in place[0]]
    for unused in found.unused:
        yield f"{unused} is passed by: what should go into it goes on as it is", kept[unused, "input"]
    if name.endswith("_proj") or name == "lm_head":
        for norm in reversed(norms):
            yield f"it reads what goes into {norm}, instead of the normalised stream", kept[norm, "input"]
            yield f"it reads what comes out of {norm}", kept[norm, "output"]
        second = name.replace("mlp.gate_proj", "post_attention_layernorm")
        if second != name:
            first = theirs.get_submodule(second.replace("post_attention", "input"))
            with_first = normalise(kept[second, "input"], first.weight, first.variance_epsilon)
            yield "it is normalised with input_layernorm's weight instead of post_attention_layernorm's", with_first
        return
    before, last = outputs[-1][0], kept[outputs[-1]]  # of the embedding, o_proj or down_proj
    if before == "model.embed_tokens":
        yield "the embeddings are multiplied by the root of the width, as in Gemma", last * last.shape[-1] ** 0.5
    attended = found.mine.get((name.replace("input_layernorm", "self_attn.o_proj"), "output"))
    second = name.replace("input_layernorm", "post_attention_layernorm")
    read_first = name.endswith("input_layernorm") and same(found.mine.get((second, "input")), last)
    if read_first and attended is not None:
        yield "the two norms are swapped; in a Llama input_layernorm comes before attention", last + attended
        fed = found.mine.get((name.replace("input_layernorm", "mlp.down_proj"), "output"))
        if fed is not None:
            yield "the feed-forward layer comes before attention; in a Llama it comes after it", last + fed
    elif attended is not None:
        yield "the norm comes after the sum; in a Llama it comes before attention", last + attended
    yield f"the residual is missing: the output of {before} goes on alone", last
    if norms:
        norm = norms[-1]
        yield f"the residual is taken from the output of {norm} instead of its input", last + kept[norm, "output"]
        yield f"the output of {before} is not in the sum: only the residual goes on", kept[norm, "input"]
    starts = [place for place in found.agreed if place[0].endswith("input_layernorm") and place[1] == "input"]
    if before.endswith("down_proj") and starts:
        yield "the layer's own input is added instead of the sum after attention", last + kept[starts[-1]]

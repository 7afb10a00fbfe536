"""Small random Llamas, as weights and as transformers models: what the checks of this lesson are made of.

transformers starts its weights so small that attention is nearly uniform and a wrong mask or rotation hardly shows. The
weights here are larger, so that every part of the model matters to its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l03_llama.llama_sizes import LlamaSizes

FIT = "as in a Llama's file"
SHARPNESS = 1.5  # of queries and keys: attention scores then spread by about its square


def random_sizes(random: torch.Generator, **fixed: Any) -> LlamaSizes:
    """Sizes of a small model: drawn, except those given."""

    def draw(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (), generator=random))]

    drawn = {
        "vocab_size": draw(31, 40, 53),
        "hidden_size": draw(24, 36),
        "intermediate_size": draw(40, 44),
        "layers": 2,
        "heads": 6,
        "kv_heads": draw(2, 3),
        "head_dim": draw(4, 6),
        "theta": 100_000.0,
        "eps": 1e-5,
        "tied": True,
    }
    return LlamaSizes(**{**drawn, **fixed})


def random_weights(sizes: LlamaSizes, random: torch.Generator) -> dict[str, Tensor]:
    """A state dict with transformers' names; lm_head.weight is there, tied or not."""

    def normal(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=random) * gain / columns**0.5

    def norm() -> Tensor:
        return 1 + 0.3 * torch.randn(sizes.hidden_size, generator=random)

    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    weights = {"model.embed_tokens.weight": normal(sizes.vocab_size, hidden, gain=hidden**0.5)}
    for number in range(sizes.layers):
        attention, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."
        weights |= {
            f"{attention}q_proj.weight": normal(sizes.heads * sizes.head_dim, hidden, SHARPNESS),
            f"{attention}k_proj.weight": normal(sizes.kv_heads * sizes.head_dim, hidden, SHARPNESS),
            f"{attention}v_proj.weight": normal(sizes.kv_heads * sizes.head_dim, hidden),
            f"{attention}o_proj.weight": normal(hidden, sizes.heads * sizes.head_dim),
            f"{mlp}gate_proj.weight": normal(inner, hidden),
            f"{mlp}up_proj.weight": normal(inner, hidden),
            f"{mlp}down_proj.weight": normal(hidden, inner),
            f"model.layers.{number}.input_layernorm.weight": norm(),
            f"model.layers.{number}.post_attention_layernorm.weight": norm(),
        }
    embedding = weights["model.embed_tokens.weight"]
    head = embedding if sizes.tied else normal(sizes.vocab_size, hidden)
    return weights | {"model.norm.weight": norm(), "lm_head.weight": head}


def transformers_config(sizes: LlamaSizes, attention: str = "sdpa") -> Any:
    """The same sizes as a LlamaConfig. attention: which of transformers' implementations to use."""
    from transformers import LlamaConfig

    options: dict[str, Any] = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.theta},
        "rms_norm_eps": sizes.eps,
        "tie_word_embeddings": sizes.tied,
        "max_position_embeddings": 8192,
        "attn_implementation": attention,
    }
    return LlamaConfig(**options)


def transformers_llama(sizes: LlamaSizes, weights: Mapping[str, Tensor]) -> Any:
    """transformers' LlamaForCausalLM that holds these weights, in eval mode."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(transformers_config(sizes))
    model.load_state_dict(weights, strict=True)
    return model.eval()


def clear_of_ties(position: int, theta: float, pairs: int, margin: float = 5e-5) -> int:
    """The first position from here on whose cosines and sines lie well between two neighbouring bfloat16 midpoints."""
    steps = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    while True:
        exact = torch.cat([(position * steps).cos(), (position * steps).sin()])
        if torch.equal((exact - margin).bfloat16(), (exact + margin).bfloat16()):
            return position
        position += 1


class WeightsDoNotFitError(ValueError):
    """A module whose names or shapes are not those of the weights; the message lists the first ones."""


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Copy the weights into a learner's module, in their dtype; raises WeightsDoNotFitError with what does not fit."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"what was made is a {type(module).__name__}, not an nn.Module: is the class a subclass of it?")
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    wanted = {name: tuple(value.shape) for name, value in weights.items()}
    parts = [f"has no {name}" for name in wanted if name not in own]
    parts += [f"has {name}, which the weights lack" for name in own if name not in wanted]
    parts += [
        f"has {name} of shape {own[name]}, not {wanted[name]}"
        for name in wanted
        if own.get(name, wanted[name]) != wanted[name]
    ]
    if parts:
        more = f" and {len(parts) - 2} more" if len(parts) > 2 else ""
        raise WeightsDoNotFitError(f"your module {'; '.join(parts[:2])}{more}")
    dtype = next(iter(weights.values())).dtype
    module.to(dtype).load_state_dict(dict(weights), strict=True)
    return module.eval()


def output_of(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Tensor) -> dict[str, Any]:
    """What a learner's module gives on the inputs once it holds the weights, or what keeps them from fitting."""
    try:
        fill(module, weights)
    except WeightsDoNotFitError as error:
        return {"names and shapes": str(error), "output": None}
    with torch.no_grad():
        return {"names and shapes": FIT, "output": module(*inputs)}

"""A two-layer random Llama, in 4 bits or not: small enough for a check, real enough for "
"transformers, peft, bitsandbytes."""

from __future__ import annotations

from typing import Any

HEAD_SIZE = 16


def tiny_llama(
    seed: int,
    *,
    four_bit: bool,
    dtype: str = "float16",
    hidden_size: int = 64,
    intermediate_size: int = 128,
    key_value_heads: int = 2,
    layers: int = 2,
    vocabulary: int = 128,
) -> Any:
    """A `LlamaForCausalLM` with seeded random weights and a tied head, in training mode, on the CPU.

    four_bit: every linear layer except the head becomes a bitsandbytes `Linear4bit` (NF4, double quantisation).
    hidden_size is a multiple of 16, the size of one attention head. The global random state is left untouched.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // HEAD_SIZE,
        num_key_value_heads=key_value_heads,
        vocab_size=vocabulary,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    if four_bit:
        _quantise_linears(model)
    return model.train()


def _quantise_linears(model: Any) -> None:
    """Swap each linear layer for its 4-bit twin, as `from_pretrained(quantization_config=...)` does."""
    import bitsandbytes
    from torch import nn

    linears = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "lm_head"
    ]
    for name, linear in linears:
        four_bit = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=linear.weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        four_bit.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        model.set_submodule(name, four_bit.to("cpu"))
    model.is_loaded_in_4bit = True

"""The ten numbers that define a Llama: everything else about it is in its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LlamaSizes:
    """How large each part is.

    heads, kv_heads: query heads, and the key and value heads that groups of them share. head_dim: numbers per head.
    theta: base of the rotary frequencies. eps: the small number inside RMSNorm's root. tied: the output head is the
    embedding matrix.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    theta: float
    eps: float
    tied: bool

    @classmethod
    def of(cls, config: Any) -> LlamaSizes:
        """Read from a transformers LlamaConfig; raises ValueError for another architecture."""
        if config.model_type != "llama":
            raise ValueError(
                f"this lesson's model is a Llama, and the one loaded is of the type {config.model_type!r}. Unset "
                "COURSE_MODEL and COURSE_PROFILE to use the bundled SmolLM2."
            )
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            theta=config.rope_parameters["rope_theta"],
            eps=config.rms_norm_eps,
            tied=config.tie_word_embeddings,
        )

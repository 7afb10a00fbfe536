"""How much device memory LoRA or QLoRA fine-tuning needs, before anything is loaded.

    needed = weights + adapter + activations + overhead

- weights: LoRA keeps 2 bytes a parameter (bf16). QLoRA keeps the linear layers in NF4: 4 bits, plus 8/64 + 32/(64*256)
  bits for the doubly quantised scales, 4.127 bits in all (QLoRA, Dettmers et al. 2023, section 3); embeddings and the
  output layer stay at 2 bytes.
- adapter: rank * (inputs + outputs) parameters for each linear layer, 16 bytes each in fp32 (weight 4, gradient 4,
  Adam's two moments 8).
- activations: for each token of a micro-batch, the checkpointed input of every layer, everything inside the one layer
  that is being recomputed, and the logits (bf16 once, fp32 once, its gradient once: 10 bytes a vocabulary entry).
- overhead: 1 GiB for the CUDA context and the allocator's slack.

Worked: Qwen3-8B, QLoRA at rank 16, 4 rows of 1,024 tokens: 6.1 GB weights + 0.7 GB adapter + 8.6 GB activations +
1.1 GB overhead = 16.4 GB, so a 24 GB card.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
OVERHEAD_BYTES = GIB
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
ADAPTER_BYTES_PER_PARAMETER = 16
LOGIT_FLOAT32_BYTES = 8


@dataclass(frozen=True)
class ModelShape:
    """The sizes in a Llama-like model's config.json that decide its memory."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied_embeddings: bool

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the seven linear layers of one block: q, k, v, o, gate, up, down."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        return (
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )

    @property
    def linear_parameters(self) -> int:
        """Parameters that QLoRA stores in 4 bits."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_shapes)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding and, where it is not the same matrix, of the output layer."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Trainable parameters of LoRA on every linear layer (Hu et al. 2021, section 4.1)."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linear_shapes)

    def layer_bytes_per_token(self, bytes_per_value: int, rank: int) -> int:
        """What one block keeps for its backward pass, per token, with fused attention and a frozen base.

        In `bytes_per_value`: q, k, v, the attention's output; gate, up and the activation. In float32: the inputs of
        the two norms, and for the adapters every linear layer's input and rank-sized middle. A float32 base already
        holds some of those inputs, a bf16 one holds none, since peft casts them to its float32 adapters.
        """
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        frozen = bytes_per_value * (2 * queries + 2 * keys + 3 * self.intermediate) + 4 * 2 * self.hidden
        if bytes_per_value == 4:
            adapter_inputs = 2 * self.hidden + self.intermediate
        else:
            adapter_inputs = sum(inputs for inputs, _ in self.linear_shapes)
        return frozen + 4 * (adapter_inputs + rank * len(self.linear_shapes))


# From each model's config.json.
MODEL_SHAPES = {
    "SmolLM2-135M-Instruct": ModelShape(576, 1536, 30, 9, 3, 64, 49152, True),
    "Qwen/Qwen3-0.6B": ModelShape(1024, 3072, 28, 16, 8, 128, 151936, True),
    "Qwen/Qwen3-1.7B": ModelShape(2048, 6144, 28, 16, 8, 128, 151936, True),
    "Qwen/Qwen3-4B": ModelShape(2560, 9728, 36, 32, 8, 128, 151936, True),
    "Qwen/Qwen3-8B": ModelShape(4096, 12288, 36, 32, 8, 128, 151936, False),
    "Qwen/Qwen3-14B": ModelShape(5120, 17408, 40, 40, 8, 128, 151936, False),
}


def training_memory_bytes(
    shape: ModelShape,
    method: str,
    tokens: int,
    rank: int = 16,
    bytes_per_value: int = 2,
    checkpointing: bool = True,
) -> int:
    """Device memory to fine-tune with micro-batches of `tokens` tokens (rows * length), by this module's rule.

    method is "lora" or "qlora"; bytes_per_value is 2 for bf16 and 4 for float32. Without checkpointing every block
    keeps its activations at once.
    """
    if method not in ("lora", "qlora"):
        raise ValueError(f"The method {method!r} is not known. Use 'lora' or 'qlora'.")
    linear_bytes = NF4_BYTES if method == "qlora" else bytes_per_value
    weights = linear_bytes * shape.linear_parameters + bytes_per_value * shape.embedding_parameters
    adapter = ADAPTER_BYTES_PER_PARAMETER * shape.adapter_parameters(rank)
    kept_layers = 1 if checkpointing else shape.layers
    activations = kept_layers * shape.layer_bytes_per_token(bytes_per_value, rank)
    if checkpointing:
        activations += shape.layers * shape.hidden * bytes_per_value
    logits = (bytes_per_value + LOGIT_FLOAT32_BYTES) * shape.vocabulary
    return int(weights + adapter + tokens * (activations + logits) + OVERHEAD_BYTES)

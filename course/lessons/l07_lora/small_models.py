"""Small random models and stand-ins for LoRA layers: what the checks of this lesson are made of.

The stand-in carries the attributes of a LoRA layer and leaves out its arithmetic, so that checks give no answer away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Adapters = Mapping[str, tuple[Tensor, Tensor]]
"""Module name -> its (lora_A of shape (r, in_features), lora_B of shape (out_features, r))."""

HIDDEN, INTERMEDIATE, VOCABULARY = 16, 24, 48


def tiny_llama(seed: int, layers: int = 2, bias: bool = False, dtype: str = "float32") -> Any:
    """A random LlamaForCausalLM in eval mode, tied head, the same for the same seed. bias: of the attention layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        attention_bias=bias,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts biases at zero, which would hide a forgotten one
                nn.init.normal_(parameter, std=0.5)
    return model.to(getattr(torch, dtype)).eval()


def tiny_neox(seed: int, layers: int) -> Any:
    """A random GPTNeoXForCausalLM in eval mode, whose output head is called embed_out."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config).eval()


class LoraStandIn(nn.Module):
    """Has the attributes of a LoRA layer (base, lora_A, lora_B, r, alpha, scale); calling it only calls its base."""

    def __init__(self, base: nn.Linear, lora_A: Tensor, lora_B: Tensor, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = nn.Parameter(lora_A.clone()), nn.Parameter(lora_B.clone())
        self.r, self.alpha, self.scale = lora_A.shape[0], alpha, alpha / lora_A.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """base(x): these checks look at names, weights and files, not at the adapter's arithmetic."""
        return self.base(x)


def adapt(model: Any, adapters: Adapters, alpha: float) -> Any:
    """Put a stand-in in place of each named linear layer; returns the same model."""
    for name, (lora_A, lora_B) in adapters.items():
        model.set_submodule(name, LoraStandIn(model.get_submodule(name), lora_A, lora_B, alpha))
    return model


def adapt_with_peft(model: Any, adapters: Adapters, alpha: float, base_model: str = "tiny") -> Any:
    """The same model and adapters as a peft.PeftModel."""
    from peft import LoraConfig, get_peft_model

    r = next(iter(adapters.values()))[0].shape[0]
    settings: dict[str, Any] = {"r": r, "lora_alpha": alpha, "target_modules": list(adapters), "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**settings))
    adapted.peft_config["default"].base_model_name_or_path = base_model
    for name, (lora_A, lora_B) in adapters.items():
        layer = model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(lora_A)
        layer.lora_B["default"].weight.data.copy_(lora_B)
    return adapted.eval()


def linear_from(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear that holds the given values in their dtype."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return linear


def peft_linear(base: nn.Linear, r: int, alpha: float, **options: Any) -> Any:
    """peft's LoRA layer around base, as get_peft_model makes it. options: further fields of LoraConfig."""
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": r, "lora_alpha": alpha, "target_modules": ["linear"], **options}
    adapted: Any = get_peft_model(nn.ModuleDict({"linear": base}), LoraConfig(**settings))
    return adapted.base_model.model["linear"]


def random_adapters(seed: int, shapes: Mapping[str, tuple[int, int]], r: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapters for layers of the given (out_features, in_features), on a grid whose float32 products are exact."""
    random = torch.Generator().manual_seed(seed)

    def grid(rows: int, columns: int, step: float) -> Tensor:
        return torch.randint(-16, 17, (rows, columns), generator=random) * step

    return {name: (grid(r, width, 1 / 16), grid(height, r, 1 / 64)) for name, (height, width) in shapes.items()}

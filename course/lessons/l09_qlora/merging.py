"""A trained adapter on its 4-bit base, and plain models made from the two by a merge function of your choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from course.base_model import load_base_model
from course.training import load_adapter


def adapted_model(adapter_folder: Path, dtype: str) -> tuple[Any, Any]:
    """The NF4 base with a saved adapter on it, computing in `dtype`; (model, tokenizer), ready to answer."""
    base, tokenizer = load_base_model(dtype=dtype, quantize="nf4")
    return decode_exactly(load_adapter(base, adapter_folder)), tokenizer


def decode_exactly(model: Any) -> Any:
    """Keep bitsandbytes on the path that decodes the weights, also in evaluation mode; returns the model.

    On CPUs with bfloat16 instructions a 4-bit layer in evaluation mode repacks its bytes in place, computes in bfloat16
    whatever the input's dtype, and passes no gradient any more. Elsewhere this changes nothing.
    """
    import bitsandbytes

    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    return model


def decoded_model(dtype: str) -> tuple[Any, Any]:
    """A plain model whose block weights are the decoded 4-bit ones: the base that QLoRA adapters are trained on."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain: Any
    four_bit: Any
    plain, tokenizer = load_base_model(dtype=dtype)
    four_bit, _ = load_base_model(dtype=dtype, quantize="nf4")
    with torch.no_grad():
        for name, layer in four_bit.named_modules():
            if isinstance(layer, Linear4bit):
                stored: Any = layer.weight
                plain.get_submodule(name).weight.copy_(dequantize_4bit(stored.data, stored.quant_state))
    return plain, tokenizer


def merged_model(adapted: Any, merge: Callable[..., Any], dtype: str) -> Any:
    """A plain model with `merge(packed, dequantise, original, lora_a, lora_b, alpha)` in every 4-bit layer.

    A layer without an adapter is merged with an update of zeros: the adapters were trained beside its decoded weights,
    so those belong to the trained model. `adapted` is left as it is. `dtype` is the dtype the merged weights have.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain: Any = load_base_model(dtype=dtype)[0]
    with torch.no_grad():
        for name, layer in adapted.get_base_model().named_modules():
            if hasattr(layer, "lora_A"):
                stored = layer.get_base_layer().weight
                lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                alpha = layer.scaling["default"] * lora_a.shape[0]
            elif isinstance(layer, Linear4bit) and not name.endswith(".base_layer"):
                stored = layer.weight
                lora_a = torch.zeros(1, layer.in_features, device=stored.device)
                lora_b = torch.zeros(layer.out_features, 1, device=stored.device)
                alpha = 1.0
            else:
                continue
            target = plain.get_submodule(name).weight

            def dequantise(packed: Any, state: Any = stored.quant_state) -> Any:
                return dequantize_4bit(packed, state).float()

            target.copy_(merge(stored.data, dequantise, target.float(), lora_a, lora_b, alpha))
    return plain

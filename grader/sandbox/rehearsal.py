"""First uses of the libraries that a lesson imports, made once in the warm parent instead of in every child.

A library does much of its work at its first use: PyTorch sets up optimizers and autograd, transformers compiles a
thousand patterns, peft and bitsandbytes register what they can do. Done before the fork, no child pays for it again.
Nothing here knows a lesson or an answer, and the random generator is left as it was.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def rehearse(done: set[str]) -> None:
    """Use each library that is loaded and not in `done`, which it adds to. Starts no thread: forking stays safe."""
    for module, use in REHEARSALS.items():
        if module in sys.modules and module not in done:
            done.add(module)
            with contextlib.suppress(Exception):  # It only saves time; a lesson that needs the library will say more.
                use()


def _torch() -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        _train(torch.nn.Linear(8, 8), torch.randn(2, 8))


def _llama() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=16, num_hidden_layers=1, num_key_value_heads=1, **sizes))
        if "peft" in sys.modules:
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        _train(model, torch.zeros(1, 4, dtype=torch.int64))


def _bitsandbytes() -> None:
    import torch
    from bitsandbytes import functional

    functional.dequantize_4bit(*functional.quantize_4bit(torch.ones(8, 64), quant_type="nf4"))


def _train(model: Any, batch: Any) -> None:
    import torch

    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad])
    output = model(batch)
    logits = getattr(output, "logits", output).flatten(0, -2)
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
    optimizer.step()
    optimizer.zero_grad()


REHEARSALS = {
    "torch": _torch,
    "transformers.models.llama.modeling_llama": _llama,
    "bitsandbytes": _bitsandbytes,
}

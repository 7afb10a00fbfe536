"""The light assignment's tests as an instructor writes them for nbgrader or otter: asserts on fixed inputs.

One function per answer, with the shapes of the exercise's own cases. Its body becomes an nbgrader test cell, and the
function itself an otter test.
"""

from __future__ import annotations

from typing import Any


def row_softmax(row_softmax: Any) -> None:
    """Against torch."""
    import torch

    random = torch.Generator().manual_seed(3)
    for shift, shape in ((0, (2, 3)), (0, (1, 7)), (500, (4, 5)), (0, (8, 512))):
        logits = shift + torch.randn(shape, generator=random)
        torch.testing.assert_close(row_softmax(logits), torch.softmax(logits, dim=-1))


def rms_norm(rms_norm: Any) -> None:
    """Against transformers."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    random = torch.Generator().manual_seed(3)
    for shape, eps in (((1, 2, 4), 1e-5), ((2, 8, 576), 1e-5), ((1, 1, 64), 1e-5), ((2, 3, 16), 0.5)):
        x, weight = 3 * torch.randn(shape, generator=random), 1 + torch.rand(shape[-1], generator=random)
        norm = LlamaRMSNorm(shape[-1], eps)
        norm.weight.data.copy_(weight)
        torch.testing.assert_close(rms_norm(x, weight, eps), norm(x).detach())


def repeat_heads(repeat_heads: Any) -> None:
    """Against transformers."""
    import torch
    from transformers.models.llama.modeling_llama import repeat_kv

    random = torch.Generator().manual_seed(3)
    for *shape, times in ((1, 2, 3, 4, 2), (3, 3, 8, 16, 3), (2, 5, 7, 6, 4), (1, 4, 32, 64, 2)):
        keys = torch.randn(shape, generator=random)
        torch.testing.assert_close(repeat_heads(keys, times), repeat_kv(keys, times))


def causal_mask(causal_mask: Any) -> None:
    """Against the definition, position by position in bulk."""
    import torch

    random = torch.Generator().manual_seed(3)
    for rows, length, left in ((2, 4, False), (1, 9, False), (3, 6, True), (4, 64, False)):
        kept = torch.arange(length)[None, :] < torch.randint(1, length, (rows, 1), generator=random)
        kept = kept.flip(1) if left else kept
        expected = torch.ones(length, length).tril().bool() & kept[:, None, :]
        torch.testing.assert_close(causal_mask(kept), expected)


def answer_loss(answer_loss: Any) -> None:
    """Against the model's own loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    random = torch.Generator().manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    for rows, length, prompt_length in ((1, 8, 4), (4, 16, 5), (2, 12, 10), (2, 48, 8)):
        ids = torch.randint(0, 64, (rows, length), generator=random)
        torch.manual_seed(int(ids.sum()))
        config = LlamaConfig(vocab_size=64, num_key_value_heads=2, initializer_range=0.5, **sizes)
        model = LlamaForCausalLM(config).eval()
        labels = ids.clone()
        labels[:, :prompt_length] = -100
        with torch.no_grad():
            expected = model(ids, labels=labels).loss.item()
        assert abs(answer_loss(model, ids, prompt_length) - expected) < 1e-3

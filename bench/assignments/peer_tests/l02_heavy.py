"""The heavy assignment's tests as an instructor writes them for nbgrader or otter: asserts on fixed inputs.

One function per answer, with the shapes of the exercise's own cases. Its body becomes an nbgrader test cell, and the
function itself an otter test.
"""

from __future__ import annotations

from typing import Any


def lora_forward(lora_forward: Any) -> None:
    """Against peft."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    random = torch.Generator().manual_seed(3)
    for n, d_in, d_out, rank, alpha in (
        (2, 4, 3, 2, 4.0),
        (8, 576, 192, 8, 16.0),
        (1, 64, 64, 4, 2.0),
        (5, 33, 57, 4, 6.0),
    ):
        shapes = ((n, d_in), (d_out, d_in), (rank, d_in), (d_out, rank))
        x, weight, lora_a, lora_b = (torch.randint(-16, 17, shape, generator=random) / 16 for shape in shapes)
        base = torch.nn.Linear(d_in, d_out, bias=False)
        base.weight.data.copy_(weight)
        config = LoraConfig(r=rank, lora_alpha=alpha)
        layer = Linear(base, "default", config=config, r=rank, lora_alpha=alpha)
        layer.lora_A["default"].weight.data.copy_(lora_a)
        layer.lora_B["default"].weight.data.copy_(lora_b)
        torch.testing.assert_close(lora_forward(x, weight, lora_a, lora_b, alpha), layer(x).detach())


def merge_lora(merge_lora: Any) -> None:
    """Against the definition."""
    import torch

    random = torch.Generator().manual_seed(3)
    for width, rank, alpha in ((4, 2, 4.0), (192, 8, 16.0), (33, 4, 6.0), (64, 16, 2.0)):
        shapes = ((width, width), (rank, width), (width, rank))
        weight, lora_a, lora_b = (torch.randint(-16, 17, shape, generator=random) / 16 for shape in shapes)
        expected = weight + alpha / rank * (lora_b @ lora_a)
        torch.testing.assert_close(merge_lora(weight, lora_a, lora_b, alpha), expected)


def nf4_dequantise(nf4_dequantise: Any) -> None:
    """Against bitsandbytes."""
    import bitsandbytes as bnb
    import torch

    random = torch.Generator().manual_seed(3)
    for blocks, block in ((2, 64), (1, 64), (4, 128), (144, 64)):
        values = torch.randn(blocks * block, generator=random)
        packed, state = bnb.functional.quantize_4bit(values, blocksize=block, quant_type="nf4")
        expected = bnb.functional.dequantize_4bit(packed, state).flatten()
        torch.testing.assert_close(nf4_dequantise(packed, state.absmax, block), expected)


def lora_step(lora_step: Any) -> None:
    """Against the gradients written out."""
    import bitsandbytes as bnb
    import torch

    random = torch.Generator().manual_seed(3)
    for n, width, rank in ((4, 16, 2), (8, 128, 8), (1, 32, 4), (16, 192, 8)):
        shapes = ((n, width), (n, width), (width, width), (rank, width), (width, rank))
        x, target, weight, lora_a, lora_b = (torch.randn(shape, generator=random) for shape in shapes)
        frozen = bnb.functional.dequantize_4bit(*bnb.functional.quantize_4bit(weight, quant_type="nf4"))
        error = x @ frozen.T + x @ lora_a.T @ lora_b.T - target
        slope = 2 * error / error.numel()
        stepped = lora_step(x, target, weight, lora_a, lora_b, 0.5)
        assert abs(stepped["loss"] - error.square().mean().item()) < 1e-2
        expected_a, expected_b = lora_a - 0.5 * (slope @ lora_b).T @ x, lora_b - 0.5 * slope.T @ (x @ lora_a.T)
        torch.testing.assert_close(stepped["lora_a"], expected_a, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(stepped["lora_b"], expected_b, rtol=1e-3, atol=1e-4)


def train_adapter(train_adapter: Any) -> None:
    """Against a training loop of the instructor's."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    # peft 0.21 with transformers 5.23 warns of a deprecated name, and nbgrader takes any stderr for a failure.
    warnings.simplefilter("ignore")
    random = torch.Generator().manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    for rows, length, steps in ((2, 8, 2), (1, 24, 3)):
        ids = torch.randint(0, 64, (rows, length), generator=random)
        models = []
        for _ in range(2):
            torch.manual_seed(int(ids.sum()))
            config = LlamaConfig(vocab_size=64, num_key_value_heads=2, initializer_range=0.5, **sizes)
            models.append(LlamaForCausalLM(config))
        torch.manual_seed(7)
        losses = train_adapter(models[0], ids, steps)
        torch.manual_seed(7)
        adapted = get_peft_model(models[1], LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
        optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.02)
        expected = []
        for _ in range(steps):
            loss = adapted(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            expected.append(loss.item())
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-3, atol=1e-4)

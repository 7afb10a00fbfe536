"""LoRA, Hu et al. 2021 (arXiv:2106.09685), equation 3: h = W x + (alpha / r) B A x.

One worked number: W of 576 x 576 holds 331,776 weights; with r = 8, A and B hold 2 * 8 * 576 = 9,216, or 2.8 %.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l07_lora.small_models import linear_from, peft_linear
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-lora-linear",
    title="A linear layer with a low-rank adapter",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("lora", "pytorch"),
    hints=(
        "Three parts: a frozen layer you call as it is, two small parameters, and one number that scales their "
        "product.",
        "x has its features last, nn.Linear stores its weight as (out, in), and the two small matrices follow that "
        "habit.",
        "For 16-bit bases: leave the frozen layer's own result as it comes, do all adapter work in float32, add, and "
        "only then go back to the dtype the frozen layer gave you.",
    ),
    library_note="peft keeps A and B as two nn.Linear modules inside dictionaries, one entry per adapter name, so one "
    "base can carry many adapters and switch between them; it adds dropout before A; and it upcasts 16-bit "
    "adapter weights to float32 by default (autocast_adapter_dtype), as you just did.",
    interview="Why is B initialised to zero and A not? What would happen if both were zero?",
)


@exercise.reference
class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update: y = base(x) + (alpha / r) * B A x.

    Attributes, under exactly these names, because the next exercises read them:
        base: the nn.Linear that was passed in, the same object, with none of its parameters trainable.
        lora_A: nn.Parameter (r, in_features), float32, starts as nn.Linear would start its own weight:
            uniform in (-1/sqrt(in_features), 1/sqrt(in_features)) (kaiming_uniform_ with a = sqrt(5)).
        lora_B: nn.Parameter (out_features, r), float32, starts at zero, so that the update starts at zero.
        r: int; alpha: float; scale: float, alpha / r.

    Both adapter matrices live on the device of base.weight and stay float32 even when base is bfloat16 or float16.
    Source: Hu et al. 2021, arXiv:2106.09685, equation 3.
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        """Freeze base and create the adapter. r: rank, at least 1; alpha: the update is scaled by alpha / r."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.r, self.alpha, self.scale = r, alpha, alpha / r
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=torch.float32, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features), in the dtype that base(x) has.

        The adapter's part and the sum are computed in float32; only the sum is rounded to the output dtype.
        """
        frozen = self.base(x)
        low_rank = x.to(self.lora_A.dtype) @ self.lora_A.T  # (..., r): the bottleneck
        return (frozen + low_rank @ self.lora_B.T * self.scale).to(frozen.dtype)


@exercise.alternative
class update_as_one_matrix(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        delta = torch.einsum("or,ri->oi", self.lora_B, self.lora_A).mul(self.scale)
        y = self.base(x)
        return torch.add(y.float(), nn.functional.linear(x.float(), delta)).to(y.dtype)


@exercise.misconception(
    hint="Your update has the wrong size: it looks as if the product of the small matrices is added unscaled. With "
    "alpha twice r, every update would come out half as large as peft's."
)
class scale_forgotten(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        self.scale = 1.0
        return super().forward(x)


@exercise.misconception(
    hint="Both small matrices start at zero. Then each one's gradient is multiplied by the other, which is zero: "
    "nothing will ever move. One of the two needs a random start; look up which in the docstring."
)
class both_start_at_zero(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        nn.init.zeros_(self.lora_A)


@exercise.misconception(
    hint="Both small matrices start random, so before any training the model already answers differently from its "
    "base. The update has to start at exactly zero."
)
class both_start_random(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        nn.init.kaiming_uniform_(self.lora_B, a=math.sqrt(5))


@exercise.misconception(
    hint="The random matrix starts far too large: torch.randn has standard deviation 1 whatever the width, while "
    "nn.Linear shrinks its start with the square root of its input features."
)
class started_from_standard_normal(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        nn.init.normal_(self.lora_A)


@exercise.misconception(
    hint="The base layer still receives a gradient. Trained like this you pay for full fine-tuning's memory; the "
    "base's own parameters must be told that they need none."
)
class base_left_trainable(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        self.base.requires_grad_(True)


@exercise.misconception(
    hint="With a 16-bit base your layer returns float32. Adding float32 to bfloat16 gives float32; the next layer "
    "expects what the frozen layer would have given it."
)
class output_left_in_float32(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x.float() @ self.lora_A.T @ self.lora_B.T * self.scale


@exercise.misconception(
    hint="With a 16-bit base your adapter works in 16 bits: small updates are rounded away. Move the input to the "
    "adapter's dtype, not the adapter to the input's."
)
class adapter_rounded_to_base_dtype(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T.to(x.dtype) @ self.lora_B.T.to(x.dtype) * self.scale


@exercise.cases
def cases(seed: int) -> list[Case]:
    """Values lie on a grid of 1/16, so float32 sums are exact in any order and rounding cannot excuse a difference."""
    random = torch.Generator().manual_seed(seed)

    def grid(*shape: int) -> Tensor:
        return torch.randint(-16, 17, shape, generator=random) / 16

    def case(name: str, about: str, batch: tuple[int, ...], sizes: tuple[int, int], r: int, alpha: float, **rest: Any):
        (inside, outside), dtype = sizes, rest.get("dtype", torch.float32)
        bias = grid(outside).to(dtype) if rest.get("bias") else None
        tensors = {"x": grid(*batch, inside).to(dtype), "weight": grid(outside, inside).to(dtype), "bias": bias}
        adapter = {"lora_A": grid(r, inside), "lora_B": grid(outside, r), "grad_output": grid(*batch, outside)}
        return Case(name, {**tensors, **adapter, "alpha": alpha}, about, visible=rest.get("visible", True))

    odd = int(torch.randint(33, 65, (), generator=random))
    return [
        case("plain", "on a small layer without bias", (2, 3), (64, 24), 4, 8.0),
        case("bias", "when the base has a bias and alpha is smaller than r", (5,), (48, 40), 8, 4.0, bias=True),
        case("bfloat16 base", "when the base is bfloat16", (2, 4), (96, 32), 8, 16.0, dtype=torch.bfloat16),
        case("rank one", "with r = 1 and one row", (1,), (odd, odd + 7), 1, 2.0, visible=False),
        case("float16 base", "when the base is float16", (3,), (64, odd), 4, 16.0, dtype=torch.float16, visible=False),
    ]


def start(lora_A: Tensor, lora_B: Tensor) -> dict[str, bool]:
    bound = 1 / math.sqrt(lora_A.shape[1])
    spread = float(lora_A.detach().abs().mean()) / (bound / 2)  # 1 for a uniform start
    inside = float(lora_A.detach().abs().max()) <= bound * 1.0001
    report = {"A starts at zero": not lora_A.any().item(), "B starts at zero": not lora_B.any().item()}
    return report | {"A starts like nn.Linear": inside and 0.5 < spread < 1.5}


@exercise.probe
def probe(answer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, **given: Tensor) -> dict[str, Any]:
    """Builds the layer, looks at its start, puts given values into A and B, and runs forward and backward."""
    base = linear_from(weight, bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = answer(base, given["lora_A"].shape[0], alpha)
    report: dict[str, Any] = start(layer.lora_A, layer.lora_B)
    for name in ("lora_A", "lora_B"):
        parameter = getattr(layer, name)
        if not isinstance(parameter, nn.Parameter) or parameter.shape != given[name].shape:
            wanted = f"an nn.Parameter of shape {tuple(given[name].shape)}"
            raise ValueError(
                f"{name} is {type(parameter).__name__} {tuple(getattr(parameter, 'shape', ()))}, not {wanted}"
            )
        report[f"{name} dtype"] = str(parameter.dtype)
        parameter.data.copy_(given[name])
    return report | run(layer, base, x, given["grad_output"], layer.lora_A, layer.lora_B)


def run(layer: Any, base: nn.Linear, x: Tensor, grad_output: Tensor, a: Tensor, b: Tensor) -> dict[str, Any]:
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(grad_output.to(output.dtype))
    gradients = {"gradient of A": a.grad, "gradient of B": b.grad, "gradient of x": x.grad}
    return {"output": output.detach(), **gradients, "base gets a gradient": base.weight.grad is not None}


@exercise.oracle
def oracle(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, **given: Tensor) -> dict[str, Any]:
    base = linear_from(weight, bias)
    layer = peft_linear(base, given["lora_A"].shape[0], alpha)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    report: dict[str, Any] = start(a, b) | {"lora_A dtype": str(a.dtype), "lora_B dtype": str(b.dtype)}
    a.data.copy_(given["lora_A"])
    b.data.copy_(given["lora_B"])
    return report | run(layer, base, x, given["grad_output"], a, b)

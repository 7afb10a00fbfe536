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
    hint="The random matrix starts uniform, but about 2.4 times too wide: within sqrt(6 / in_features). That is what "
    "kaiming_uniform_ draws when its argument a is left out (and xavier_uniform_ comes close); nn.Linear passes an a."
)
class started_without_a(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        nn.init.kaiming_uniform_(self.lora_A)


@exercise.misconception(
    hint="You scale by alpha itself. It still has to be divided by the rank, or every update comes out r times too "
    "large."
)
class scaled_by_alpha(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        self.scale = alpha


@exercise.misconception(
    hint="Only the base's weight is frozen; its bias still trains. A layer can tell all of its parameters at once that "
    "they need no gradient."
)
class bias_left_trainable(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        if base.bias is not None:
            base.bias.requires_grad = True


@exercise.misconception(
    hint="The frozen part runs without a graph, so its share of the gradient of x is lost: layers further down would "
    "learn from the adapter's path alone. Frozen means no gradient for the weights, not none through them."
)
class base_run_without_graph(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = self.base(x)
        return (frozen + (x.float() @ self.lora_A.T) @ self.lora_B.T * self.scale).to(frozen.dtype)


@exercise.misconception(
    hint="With a 16-bit base the adapter's part is rounded to 16 bits and then added, so the result is rounded twice. "
    "Add in float32, convert the sum."
)
class update_rounded_before_the_sum(LoraLinear):
    def forward(self, x: Tensor) -> Tensor:
        frozen = self.base(x)
        return frozen + ((x.float() @ self.lora_A.T) @ self.lora_B.T * self.scale).to(frozen.dtype)


@exercise.misconception(
    hint="With a 16-bit base your adapter's own numbers are stored in 16 bits. An optimizer's small steps would be "
    "rounded away: both matrices stay float32 whatever the base is."
)
class adapter_stored_in_base_dtype(LoraLinear):
    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        self.lora_A, self.lora_B = (nn.Parameter(p.to(base.weight.dtype)) for p in (self.lora_A, self.lora_B))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T * self.scale


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


LIKE_LINEAR = "uniform, as nn.Linear starts"


def start(lora_A: Tensor, lora_B: Tensor) -> dict[str, str]:
    """How both matrices start, in words."""
    bound = 1 / math.sqrt(lora_A.shape[1])
    deviation = float(lora_A.detach().float().square().mean().sqrt())
    largest = float(lora_A.detach().float().abs().max())
    seen = f"standard deviation {deviation:.2g}, largest {largest:.2g}; uniform gives {bound / 3**0.5:.2g}, {bound:.2g}"
    if not largest:
        seen = "all zeros"
    elif largest <= 1.005 * bound and 0.6 < deviation * 3**0.5 / bound < 1.4:
        seen = LIKE_LINEAR
    elif 0.7 < deviation < 1.4:
        seen = f"standard deviation near 1, as torch.randn; nn.Linear's is {bound / 3**0.5:.2g}"
    elif 1.9 * bound < largest < min(2.46 * bound, 2 * deviation):
        seen = "uniform, but more than twice as wide as nn.Linear's"
    return {"start of lora_A": seen, "start of lora_B": "random" if lora_B.any() else "all zeros"}


def own_parameter(layer: nn.Module, name: str, shape: torch.Size) -> nn.Parameter:
    """The layer's parameter of that name; raises what to mend where it is something else."""
    found = getattr(layer, name, None)
    if not isinstance(found, nn.Parameter):
        kind = "missing" if found is None else f"a {type(found).__name__}"
        raise TypeError(f"{name} must be an nn.Parameter of shape {tuple(shape)}; yours is {kind}")
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}; yours has {tuple(found.shape)}")
    return found


def trainable_names(base: nn.Linear) -> str:
    """The base's parameters that still train, by name."""
    return ", ".join(n for n, parameter in base.named_parameters() if parameter.requires_grad) or "none"


def attributes(layer: Any, base: nn.Linear) -> dict[str, Any]:
    """What the next exercises read from a layer."""
    absent = [name for name in ("base", "r", "alpha", "scale") if not hasattr(layer, name)]
    if absent:
        raise AttributeError(f"your layer has no attribute {', '.join(absent)}; the docstring lists all six")
    found = {"r": int(layer.r), "alpha": float(layer.alpha), "scale": float(layer.scale)}
    return found | {
        "base is the layer passed in": layer.base is base,
        "trainable parameters of base": trainable_names(base),
    }


@exercise.probe
def probe(answer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, **given: Tensor) -> dict[str, Any]:
    """Builds the layer, looks at its start, puts given values into A and B, and runs forward and backward."""
    base = linear_from(weight, bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = answer(base, given["lora_A"].shape[0], alpha)
    a, b = (own_parameter(layer, name, given[name].shape) for name in ("lora_A", "lora_B"))
    report: dict[str, Any] = start(a, b) | {"lora_A dtype": str(a.dtype), "lora_B dtype": str(b.dtype)}
    report |= attributes(layer, base)
    a.data.copy_(given["lora_A"])
    b.data.copy_(given["lora_B"])
    return report | run(layer, x, given["grad_output"], a, b)


def run(layer: Any, x: Tensor, grad_output: Tensor, a: Tensor, b: Tensor) -> dict[str, Any]:
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(grad_output.to(output.dtype))
    gradients = {"gradient of A": a.grad, "gradient of B": b.grad, "gradient of x": x.grad}
    return {"output": output.detach(), **gradients}


@exercise.oracle
def oracle(x: Tensor, weight: Tensor, bias: Tensor | None, alpha: float, **given: Tensor) -> dict[str, Any]:
    base = linear_from(weight, bias)
    layer = peft_linear(base, given["lora_A"].shape[0], alpha)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    report: dict[str, Any] = start(a, b) | {"lora_A dtype": str(a.dtype), "lora_B dtype": str(b.dtype)}
    report |= {"r": layer.r["default"], "alpha": layer.lora_alpha["default"], "scale": layer.scaling["default"]}
    report |= {
        "base is the layer passed in": layer.base_layer is base,
        "trainable parameters of base": trainable_names(base),
    }
    a.data.copy_(given["lora_A"])
    b.data.copy_(given["lora_B"])
    return report | run(layer, x, given["grad_output"], a, b)

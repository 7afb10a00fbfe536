"""The feed-forward part of a Llama block: SwiGLU, Shazeer 2020 (arXiv:2002.05202), equation 6 without biases.

One worked number: SiLU(1) = 1 * sigmoid(1) = 0.731, so a gate of 1 lets 73 % of `up` through; a gate of -5 lets -3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course.lessons.l03_llama.llama_faults import gate_and_up
from course.lessons.l03_llama.small_models import output_of
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l03-swiglu-mlp",
    title="The SwiGLU feed-forward layer",
    points=2,
    minutes=10,
    difficulty="easy",
    importance="core",
    skills=("transformer", "pytorch"),
    hints=(
        "Three linear layers without biases. Two of them read the same input.",
        "The activation goes on one of the two, the other passes as it is, and their product goes through the third.",
    ),
    atol=1e-5,
    tolerance_reason="float32 sums of up to 128 products of size 1, added in another order, differ by a few 1e-6",
    forbidden=("transformers", "course.lessons.l03_llama.llama_faults"),
    library_note="LlamaMLP has the same three layers. Fast servers store gate and up as one matrix of twice the "
    "height, so that one product reads the input once (vLLM calls it gate_up_proj).",
    interview="A SwiGLU layer has three matrices instead of two. Why is Llama's intermediate size 8/3 of the hidden "
    "size and not 4 times, as in GPT-2?",
)


@exercise.reference
class SwigluMlp(nn.Module):
    """A gated feed-forward layer: y = down(SiLU(gate(x)) * up(x)), where SiLU(z) = z * sigmoid(z).

    Attributes, each an nn.Linear without a bias, under the names they have in a Llama's files:
        gate_proj, up_proj: hidden_size -> intermediate_size; down_proj: intermediate_size -> hidden_size.
    F.silu and nn.SiLU are allowed. Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        """Make the three layers."""
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden_size) -> (..., hidden_size), in the dtype of x, which is that of the weights.

        Whether steps between the linear layers are taken in float32 is up to you. x itself is not added. Call the
        layers as modules: the report on a whole model, further down, follows such calls.
        """
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@exercise.alternative
class by_sigmoid_and_einsum(SwigluMlp):
    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        gate, up = torch.einsum("...h,ih->...i", x, both).chunk(2, dim=-1)
        return torch.einsum("...i,hi->...h", gate / (1 + torch.exp(-gate)) * up, self.down_proj.weight)


@exercise.alternative
class written_with_modules(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        for name in ("gate_proj", "up_proj"):
            self.add_module(name, nn.Linear(hidden_size, intermediate_size, False))
        self.down_proj, self.activation = nn.Linear(intermediate_size, hidden_size, False), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.get_submodule("gate_proj")(x))
        inner = inner.mul(self.get_submodule("up_proj")(x))
        return self.down_proj(inner)


class Mistaken(SwigluMlp):
    """The layer with one of the known faults."""

    fault = ""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(gate_and_up(self.gate_proj(x), self.up_proj(x), self.fault))


@exercise.misconception(
    hint="The activation is on the wrong branch: it goes on gate_proj's output, and up_proj's passes."
)
class activation_on_up(Mistaken):
    fault = "activation on up"


@exercise.misconception(
    hint="Your activation is GELU. That is GEGLU, from the same paper; Llama's is SiLU, and the two look alike but "
    "differ by up to 0.2."
)
class gelu_instead(Mistaken):
    fault = "gelu"


@exercise.misconception(hint="Your activation is GELU in its tanh form, as in GPT-2. Llama's is SiLU.")
class gelu_by_tanh(Mistaken):
    fault = "gelu by tanh"


@exercise.misconception(
    hint="Your activation is ReLU. Llama's is SiLU, which is smooth and slightly negative below zero."
)
class relu_instead(Mistaken):
    fault = "relu"


@exercise.misconception(
    hint="Your gate is the sigmoid alone, as in the first gated units. SiLU is its argument times its sigmoid."
)
class sigmoid_alone(Mistaken):
    fault = "sigmoid"


@exercise.misconception(hint="The two branches are added. A gate multiplies: where it is 0, nothing passes.")
class branches_added(Mistaken):
    fault = "added"


@exercise.misconception(
    hint="The activation comes after the product of the two branches. Only one branch goes through it."
)
class activation_after_the_product(Mistaken):
    fault = "activation after the product"


@exercise.misconception(
    hint="There is no activation. Without one the layer is a mere product of two linear maps: look for SiLU in the "
    "formula."
)
class activation_forgotten(Mistaken):
    fault = "no activation"


@exercise.misconception(
    hint="Both branches go through the activation. One of them, up, passes as it is: it is what the gate scales."
)
class both_activated(Mistaken):
    fault = "activation on both"


@exercise.misconception(
    hint="up_proj is made and never used: what you computed is the old two-matrix layer. The gate is there to scale "
    "up's output, number by number."
)
class up_unused(Mistaken):
    fault = "up unused"


@exercise.misconception(
    hint="Your activation has the factor 1.702, so it is the quick approximation of GELU. In SiLU the sigmoid takes z "
    "as it is."
)
class quick_gelu(Mistaken):
    fault = "quick gelu"


@exercise.misconception(
    hint="The sign inside your sigmoid is turned: yours closes where z is large, and SiLU opens there. Remember that "
    "sigmoid(z) = 1 / (1 + e^-z)."
)
class sigmoid_of_minus_z(Mistaken):
    fault = "sigmoid of minus z"


@exercise.misconception(
    hint="You apply the activation to x, before gate_proj. It comes after it: the gate is what the matrix makes of x."
)
class activation_on_the_input(SwigluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(F.silu(x)) * self.up_proj(x))


@exercise.misconception(
    hint="x is added to the result. That sum is the residual stream's, and the block around this layer makes it; here "
    "it would be made twice."
)
class residual_inside(SwigluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@exercise.misconception(
    hint="With 16-bit input and weights your result is float32, and the next layer would refuse it. Give back the "
    "dtype that came in."
)
class left_in_float32(SwigluMlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@exercise.misconception(
    hint="Your linear layers have biases, which nn.Linear makes unless told otherwise. Llama's have none, and its "
    "files hold nothing to fill them with."
)
class biases_left_on(SwigluMlp):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__(hidden_size, intermediate_size)
        self.gate_proj, self.up_proj = (nn.Linear(hidden_size, intermediate_size) for _ in range(2))
        self.down_proj = nn.Linear(intermediate_size, hidden_size)


@exercise.cases
def cases(seed: int) -> list[Case]:
    random = torch.Generator().manual_seed(seed)

    def case(name: str, about: str, batch: tuple[int, ...], hidden: int, inner: int, visible: bool = True) -> Case:
        shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        weights = {f"{n}.weight": torch.randn(*s, generator=random) * 1.5 / s[1] ** 0.5 for n, s in shapes.items()}
        return Case(name, {"x": torch.randn(*batch, hidden, generator=random), "weights": weights}, about, visible)

    odd = 2 * int(torch.randint(6, 20, (), generator=random)) + 1
    return [
        case("plain", "on a small batch", (2, 3), 8, 20),
        case("square", "when both sizes are equal, so that no shape gives a mix-up away", (4,), 16, 16),
        case("one token", "on a single token", (1, 1), odd, odd + 4),
        Case("float16", whole_numbers(random), "when x and the weights are float16"),
        case("no batch", "on one vector without a batch", (), 12, 32, visible=False),
        case("wide", "on a wide layer", (3, 2, 2), 48, 128, visible=False),
    ]


def whole_numbers(random: torch.Generator) -> dict[str, Any]:
    """Inputs in float16 whose gates are 0, or so large that SiLU is z or 0: every honest order gives the same bits."""

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random).half()

    weights = {"gate_proj": 32 * draw(-1, 2, 9, 4), "up_proj": draw(-2, 3, 9, 4), "down_proj": draw(-1, 2, 4, 9)}
    x = torch.cat([torch.eye(4).half(), draw(0, 2, 3, 4)])
    return {"x": x, "weights": {f"{name}.weight": value for name, value in weights.items()}}


@exercise.probe
def probe(answer: Any, x: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Makes the layer, fills it with the weights and calls it."""
    inner, hidden = weights["gate_proj.weight"].shape
    return output_of(answer(hidden, inner), weights, x)


@exercise.oracle
def oracle(x: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    inner, hidden = weights["gate_proj.weight"].shape
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_attention_heads=1, head_dim=2)
    return output_of(LlamaMLP(config), weights, x)

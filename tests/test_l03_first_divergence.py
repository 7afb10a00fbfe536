"""The report on two models that differ: it names the place where a fault was planted, and for a Llama the fault."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course.lessons.l03_llama.first_divergence import first_divergence
from course.lessons.l03_llama.grouped_query_attention import GroupedQueryAttention
from course.lessons.l03_llama.llama import Llama
from course.lessons.l03_llama.llama import exercise as llama_exercise
from course.lessons.l03_llama.llama_faults import (
    ATTENTION_FAULTS,
    MLP_FAULTS,
    NORM_FAULTS,
    attend,
    gate_and_up,
    normalise,
)
from course.lessons.l03_llama.llama_report import explain_divergence
from course.lessons.l03_llama.llama_sizes import LlamaSizes
from course.lessons.l03_llama.rms_norm import RmsNorm
from course.lessons.l03_llama.small_models import fill, random_sizes, random_weights, transformers_llama
from course.lessons.l03_llama.swiglu_mlp import SwigluMlp


def pair_of_models(**fixed: object) -> tuple[LlamaSizes, nn.Module, nn.Module, torch.Tensor]:
    """(sizes, our Llama, transformers', input ids) with the same random weights."""
    random = torch.Generator().manual_seed(5)
    sizes = random_sizes(random, **{"kv_heads": 3, "hidden_size": 36, "head_dim": 4, **fixed})
    weights = random_weights(sizes, random)
    ids = torch.randint(sizes.vocab_size, (2, 9), generator=random)
    return sizes, fill(Llama(sizes), weights), transformers_llama(sizes, weights), ids


def stack(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def twins() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    mine, theirs = (stack(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 2)) for _ in range(2))
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def test_equal_models_have_no_divergence() -> None:
    mine, theirs = twins()
    assert first_divergence(mine, theirs, torch.randn(3, 4)) is None


def test_a_changed_weight_is_found_where_it_is() -> None:
    mine, theirs = twins()
    with torch.no_grad():
        mine[2].weight[0, 0] += 1
    found = first_divergence(mine, theirs, torch.randn(3, 4))
    assert found is not None
    assert (found.name, found.side, found.differing_parameters) == ("2", "output", ("weight",))
    assert found.before == ("0",)
    assert "2" in str(found) and "weight" in str(found)


def test_a_change_between_modules_shows_at_the_next_input() -> None:
    mine, theirs = twins()
    mine[1] = nn.ReLU()
    found = first_divergence(mine, theirs, torch.randn(3, 4))
    assert found is not None
    assert (found.name, found.side, found.kind) == ("2", "input", "values")
    assert found.differing_parameters == ()


def test_other_names_are_followed_through_rename() -> None:
    mine, theirs = twins()
    renamed = nn.Sequential()
    for number, layer in enumerate(mine):
        renamed.add_module(f"part{number}", layer)
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="rename"):
        first_divergence(renamed, theirs, x)
    assert first_divergence(renamed, theirs, x, rename=lambda name: f"part{name}") is None
    with torch.no_grad():
        mine[3].bias += 1
    found = first_divergence(renamed, theirs, x, rename=lambda name: f"part{name}")
    assert found is not None and found.name == "3"


def test_another_shape_and_a_nan_are_differences() -> None:
    mine, theirs = twins()
    mine[3] = nn.Linear(6, 5)
    found = first_divergence(mine, theirs, torch.randn(3, 4))
    assert found is not None and (found.name, found.kind) == ("3", "shape")
    mine, theirs = twins()
    with torch.no_grad():
        mine[0].bias[0] = torch.nan
    found = first_divergence(mine, theirs, torch.randn(3, 4))
    assert found is not None and found.name == "0"


def test_a_model_that_raises_later_is_still_told_where_it_first_differs() -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("later")

    mine, theirs = twins()
    mine[3] = Raises()
    with pytest.raises(RuntimeError, match="later"):
        first_divergence(mine, theirs, torch.randn(3, 4))
    with torch.no_grad():
        mine[0].weight += 1
    found = first_divergence(mine, theirs, torch.randn(3, 4))
    assert found is not None and found.name == "0"


def test_a_difference_that_no_shared_module_shows_is_told_of_the_whole_model() -> None:
    class Doubled(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    mine, theirs = twins()
    found = first_divergence(Doubled(*mine), theirs, torch.randn(3, 4))
    assert found is not None and found.name == "" and "whole model" in str(found)


def test_hooks_are_gone_afterwards_and_training_mode_is_kept() -> None:
    mine, theirs = twins()
    first_divergence(mine, theirs, torch.randn(3, 4))
    for module in [*mine.modules(), *theirs.modules()]:
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_our_llama_agrees_with_transformers() -> None:
    _, mine, theirs, ids = pair_of_models()
    assert explain_divergence(mine, theirs, ids) == ""


@pytest.mark.parametrize("fault", ATTENTION_FAULTS)
def test_each_attention_fault_is_named(fault: str) -> None:
    class Wrong(GroupedQueryAttention):
        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            q, k, v = (layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
            return self.o_proj(attend(q, k, v, self.heads, self.kv_heads, positions, self.theta, fault))

    sizes, mine, theirs, ids = pair_of_models()
    place = "model.layers.1.self_attn"
    right = mine.get_submodule(place)
    wrong = Wrong(sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.theta)
    wrong.load_state_dict(right.state_dict())
    mine.set_submodule(place, wrong)
    report = explain_divergence(mine, theirs, ids)
    assert f"{place}.o_proj" in report and ATTENTION_FAULTS[fault] in report


@pytest.mark.parametrize("fault", MLP_FAULTS)
def test_each_feed_forward_fault_is_named(fault: str) -> None:
    class Wrong(SwigluMlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(gate_and_up(self.gate_proj(x), self.up_proj(x), fault))

    sizes, mine, theirs, ids = pair_of_models()
    wrong = Wrong(sizes.hidden_size, sizes.intermediate_size)
    wrong.load_state_dict(mine.get_submodule("model.layers.0.mlp").state_dict())
    mine.set_submodule("model.layers.0.mlp", wrong)
    report = explain_divergence(mine, theirs, ids)
    named = (
        "GELU" if fault.startswith("gelu") else MLP_FAULTS[fault]
    )  # its two forms differ too little to be told apart
    assert "model.layers.0.mlp.down_proj" in report and named in report


@pytest.mark.parametrize("fault", [fault for fault in NORM_FAULTS if fault != "eps of 1e-6"])
def test_each_norm_fault_is_named(fault: str) -> None:
    class Wrong(RmsNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return normalise(x, self.weight, self.eps, fault)

    # A large eps, or forgetting it would be within rounding.
    sizes, mine, theirs, ids = pair_of_models(eps=0.1)
    wrong = Wrong(sizes.hidden_size, sizes.eps)
    wrong.load_state_dict(mine.get_submodule("model.norm").state_dict())
    mine.set_submodule("model.norm", wrong)
    report = explain_divergence(mine, theirs, ids)
    assert "model.norm" in report
    alike = {"eps forgotten", "eps of 1e-6", "eps of 1e-5"}  # nothing tells these three apart at this eps
    assert any(NORM_FAULTS[name] in report for name in (alike if fault in alike else {fault}))


WIRING = {
    "residual_forgotten": "the residual is missing",
    "residual_from_the_norm": "the residual is taken from the output of model.layers.0.input_layernorm",
    "norm_after_the_sum": "the norm comes after the sum",
    "norms_swapped": "the two norms are swapped",
    "feed_forward_first": "the feed-forward layer comes before attention",
    "attention_and_mlp_in_parallel": "is not in the sum",
    "first_norm_used_twice": "input_layernorm's weight instead",
    "second_sum_from_the_start": "the layer's own input is added",
    "last_norm_forgotten": "model.norm is passed by",
    "embedding_scaled": "multiplied by the root of the width",
    "softmax_at_the_end": "softmax",
    "one_layer_many_times": "the weights were not loaded",
}


@pytest.mark.parametrize("name", WIRING)
def test_each_wiring_fault_of_the_exercise_is_placed(name: str) -> None:
    random = torch.Generator().manual_seed(3)
    sizes = random_sizes(random)
    weights = random_weights(sizes, random)
    wrong = fill(llama_exercise.misconceptions[name].answer(sizes), weights)
    ids = torch.randint(sizes.vocab_size, (1, 7), generator=random)
    report = explain_divergence(wrong, transformers_llama(sizes, weights), ids)
    assert report and WIRING[name] in report

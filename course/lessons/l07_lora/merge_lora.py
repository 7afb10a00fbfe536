"""Fold adapters into the weights for serving, and take them out again without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course.lessons.l07_lora.small_models import (
    HIDDEN,
    INTERMEDIATE,
    LoraStandIn,
    adapt,
    adapt_with_peft,
    random_adapters,
    tiny_llama,
)
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-merge-lora",
    title="Merge and unmerge",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("lora", "pytorch"),
    hints=(
        "W x + scale B A x is one matrix times x. Which matrix?",
        "Make a new nn.Linear for each LoRA layer and leave the old layer untouched: then undoing is only a matter "
        "of who stands in the model.",
        "Compute the product and the sum in float32 and convert once, at the very end.",
    ),
    library_note="peft adds the update into the base weight in place, and unmerge subtracts it again. That saves a "
    "copy of the weights, but in 16 bits the subtraction does not bring every weight back; you keep the original "
    "instead. peft's merge_and_unload(safe_merge=True) also checks for NaN and inf, and rounds the update first.",
    interview="When would you merge an adapter before serving, and when would you keep it apart?",
)


@exercise.reference
def merge_lora(model: nn.Module) -> Callable[[], None]:
    """Replace every LoRA layer of model in place by a plain nn.Linear, and return a function that undoes it.

    A LoRA layer is any module with attributes base (nn.Linear), lora_A (r, in_features), lora_B (out_features, r), both
    float32, and scale (float). The new layer has the weight W + scale * (B A), computed in float32 and rounded once to
    base's dtype, and base's bias if there is one; it lives on base's device.

    The returned function takes no argument and puts the LoRA layers back; all their weights are then the same bits as
    before the call, in every dtype. (Subtracting what was added cannot promise that in 16 bits.)
    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1 (no additional inference latency).
    """
    adapted = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    for name, layer in adapted.items():
        base = layer.base
        plain = nn.Linear(
            base.in_features, base.out_features, base.bias is not None, base.weight.device, base.weight.dtype
        )
        update = layer.scale * (layer.lora_B @ layer.lora_A).detach()
        plain.weight.data.copy_(base.weight.data.float() + update)
        if base.bias is not None:
            plain.bias.data.copy_(base.bias.data)
        model.set_submodule(name, plain)

    def unmerge() -> None:
        for name, layer in adapted.items():
            model.set_submodule(name, layer)

    return unmerge


@exercise.alternative
def deep_copied_base(model: Any) -> Callable[[], None]:
    import copy
    from functools import partial

    undo = []
    for parent in list(model.modules()):
        for child, layer in list(parent.named_children()):
            if getattr(layer, "lora_B", None) is None:
                continue
            merged = copy.deepcopy(layer.base)
            with torch.no_grad():
                full = torch.addmm(merged.weight.float(), layer.lora_B, layer.lora_A, alpha=layer.scale)
                merged.weight = nn.Parameter(full.to(merged.weight.dtype), requires_grad=False)
            setattr(parent, child, merged)
            undo.append(partial(setattr, parent, child, layer))

    def put_back() -> None:
        for step in undo:
            step()

    return put_back


@exercise.alternative
def base_written_and_restored(model: nn.Module) -> Callable[[], None]:
    kept = []
    for name, layer in [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A")]:
        weight = layer.base.weight.data
        kept.append((name, layer, weight.clone()))
        weight.copy_(weight.float().addmm_(layer.lora_B.data, layer.lora_A.data, alpha=layer.scale))
        model.set_submodule(name, layer.base)

    def restore() -> None:
        for name, layer, original in kept:
            layer.base.weight.data.copy_(original)
            model.set_submodule(name, layer)

    return restore


def merge_wrongly(model: nn.Module, mistake: str) -> Callable[[], None]:
    """The shared skeleton of the wrong answers below."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    deltas: dict[str, Tensor] = {}
    undo_steps = []
    for name, layer in layers.items():
        kept_bias = layer.base.bias is not None and mistake != "bias"
        into = nn.Linear(layer.base.in_features, layer.base.out_features, kept_bias, dtype=layer.base.weight.dtype)
        with torch.no_grad():
            deltas[name] = layer.lora_B @ layer.lora_A * (1.0 if mistake == "scale" else layer.scale)
            if mistake in ("rounded", "rounded and subtracted"):
                deltas[name] = deltas[name].to(layer.base.weight.dtype)
            into.weight.copy_(layer.base.weight + deltas[name])
            if kept_bias:
                into.bias.copy_(layer.base.bias)
            if mistake in ("in place", "left active", *SUBTRACTED):
                layer.base.weight.copy_(into.weight)
        if mistake == "dotted setattr":
            setattr(model, name, into)
        elif mistake != "left active":
            model.set_submodule(name, layer.base if mistake in ("in place", *SUBTRACTED) else into)
        undo_steps.append(lambda: model.set_submodule(name, layer))  # noqa: B023  (the mistake itself)

    def undo() -> None:
        for name, layer in layers.items():
            if mistake == "dotted setattr":
                setattr(model, name, layer)
            else:
                model.set_submodule(name, layer)
            if mistake in ("left active", *SUBTRACTED):
                layer.base.weight.data -= deltas[name]

    def undo_late() -> None:
        for step in undo_steps:
            step()

    return undo_late if mistake == "late binding" else undo


SUBTRACTED = ("subtracted", "rounded and subtracted")


@exercise.misconception(hint="The merged weights are off by a constant factor in their update: B A goes in unscaled.")
def scale_forgotten(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "scale")


@exercise.misconception(
    hint="Layers that had a bias lost it. nn.Linear makes its own bias unless told, and either way the old values must "
    "move over."
)
def bias_lost(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "bias")


@exercise.misconception(
    hint="In 16 bits your merged weights are rounded twice: the update was converted before it was added. Add first, "
    "convert last."
)
def update_rounded_first(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "rounded")


@exercise.misconception(
    hint="After undoing, the base weights still hold the update, so the adapter now counts twice. You merged into "
    "the LoRA layer's own base, and putting the layer back does not clean it."
)
def base_overwritten(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "in place")


@exercise.misconception(
    hint="After undoing, the weights are close to the old ones but not the same bits: adding and then subtracting "
    "rounds twice. Keep the originals instead of computing them back."
)
def undone_by_subtraction(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "subtracted")


@exercise.misconception(
    hint="Two things happen in 16 bits. You convert the update before adding it, so the merged weights are rounded "
    "twice; and you subtract it again to undo, which does not bring every old weight back. Add in float32 and convert "
    "last; keep the originals instead of computing them back."
)
def rounded_and_undone_by_subtraction(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "rounded and subtracted")


@exercise.misconception(
    hint="The LoRA layers still stand where they stood. setattr on the model does not follow the dots of a name: it "
    "makes a new attribute with dots in it. Go to the layer's parent, or use the model method that takes a path."
)
def dotted_name_set(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "dotted setattr")


@exercise.misconception(
    hint="Undoing brings back one LoRA layer only, the last. A function made inside a loop looks the loop's variables "
    "up when it is called, and by then the loop has ended: give each one its own values."
)
def last_layer_restored_only(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "late binding")


@exercise.misconception(
    hint="The base weights hold the update but the LoRA layers are still in the model, so the update is applied "
    "twice, and nothing got faster. Put plain linear layers in their place."
)
def adapter_left_active(model: nn.Module) -> Callable[[], None]:
    return merge_wrongly(model, "left active")


@exercise.cases
def cases(seed: int) -> list[Case]:
    shapes = {"0.self_attn.q_proj": (HIDDEN, HIDDEN), "1.mlp.down_proj": (HIDDEN, INTERMEDIATE)}

    def case(name: str, about: str, r: int, alpha: float, visible: bool = True, **model: Any) -> Case:
        adapters = random_adapters(seed, {f"model.layers.{layer}": shape for layer, shape in shapes.items()}, r)
        return Case(name, {"seed": seed, "adapters": adapters, "alpha": alpha, **model}, about, visible)

    return [
        case("float32", "on two layers in float32", 4, 8.0),
        case("bias", "when an adapted layer has a bias", 4, 2.0, bias=True),
        case("bfloat16", "when the base is bfloat16", 4, 8.0, dtype="bfloat16"),
        case("float16", "when the base is float16", 2, 4.0, dtype="float16", visible=False),
        case("rank one", "with r = 1 and a bias", 1, 4.0, bias=True, visible=False),
    ]


@exercise.probe
def probe(
    answer: Callable[..., Any],
    seed: int,
    adapters: dict[str, tuple[Tensor, Tensor]],
    alpha: float,
    bias: bool = False,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Merges stand-ins in a random Llama, reads the merged weights and logits, undoes it, reads again."""
    model = adapt(tiny_llama(seed, bias=bias, dtype=dtype), adapters, alpha)
    undo = answer(model)
    report = merged_view(model, list(adapters))
    if not callable(undo):
        raise TypeError(f"merge_lora returned {undo!r}. Return the function that undoes the merge, without calling it")
    undo()
    bases = {name: getattr(model.get_submodule(name), "base", model.get_submodule(name)) for name in adapters}
    return report | {"after undoing": layer_kinds(model, list(adapters)) | {n: b.weight.data for n, b in bases.items()}}


def merged_view(model: Any, names: list[str]) -> dict[str, Any]:
    found = {name: model.get_submodule(name) for name in names}
    layers = {name: getattr(layer, "base", layer) for name, layer in found.items()}
    with torch.no_grad():
        logits = model(torch.arange(10).reshape(2, 5)).logits
    return (
        {"kinds": layer_kinds(model, names)}
        | {n: layer.weight.detach().clone() for n, layer in layers.items()}  # undoing may write into it
        | {"logits": logits}
    )


def layer_kinds(model: nn.Module, names: list[str]) -> dict[str, str]:
    kinds = {LoraStandIn: "LoRA layer", nn.Linear: "nn.Linear"}
    return {f"{name} is": kinds.get(type(model.get_submodule(name)), "something else") for name in names}


@exercise.oracle
def oracle(
    seed: int,
    adapters: dict[str, tuple[Tensor, Tensor]],
    alpha: float,
    bias: bool = False,
    dtype: str = "float32",
) -> dict[str, Any]:
    base = tiny_llama(seed, bias=bias, dtype=dtype)
    restored = {f"{name} is": "LoRA layer" for name in adapters}
    restored |= {name: base.get_submodule(name).weight.detach().clone() for name in adapters}
    merged = adapt_with_peft(base, adapters, alpha).merge_and_unload()
    return merged_view(merged, list(adapters)) | {"after undoing": restored}

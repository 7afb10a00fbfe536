"""Put adapters into an existing model: which layers, how many numbers train, what stays frozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from course.lessons.l07_lora.small_models import LoraStandIn, tiny_llama
from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-inject-lora",
    title="Inject adapters by target patterns",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("lora", "pytorch", "peft"),
    hints=(
        "Three steps, and their order matters: decide which names match, freeze, replace.",
        "model.named_modules() gives (name, module) pairs, model.set_submodule(name, new) replaces one; collect the "
        "matches into a list before you replace anything.",
        "A list entry matches a whole name or whole trailing parts of it: a dot must stand before the match.",
    ),
    library_note="peft does the same walk (BaseTuner.inject_adapter), knows embeddings, convolutions and quantised "
    "layers besides nn.Linear, and returns a PeftModel around your model instead of a count. It too refuses a "
    "pattern that matches nothing.",
    interview="Which layers would you adapt first, attention only or all linear layers, and what does each choice "
    "cost?",
)


@exercise.reference
def inject_lora(
    model: nn.Module, targets: str | list[str], wrap: Callable[[nn.Linear], nn.Module]
) -> tuple[list[str], int]:
    """Replace the targeted linear layers of model in place by wrap(layer), and freeze everything else.

    targets, with peft's meaning, matched against names like "model.layers.0.self_attn.q_proj":
        a list: a layer matches if its name equals an entry, or ends with "." + entry;
        the string "all-linear": every nn.Linear except the output head (model.get_output_embeddings());
        any other string: a regular expression that must match the whole name.
    wrap: makes the adapted layer from an nn.Linear; its new parameters stay as trainable as wrap made them.

    Returns (names, trainable): the replaced names in the order of model.named_modules(), and the number of single
    trainable weights in the model afterwards. No parameter that existed before the call is trainable after it.
    Raises ValueError naming the targets when no nn.Linear matches.
    """

    find_head = getattr(model, "get_output_embeddings", lambda: None)  # a plain nn.Module has none

    def is_target(name: str, layer: nn.Module) -> bool:
        if targets == "all-linear":
            return layer is not find_head()
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(name == target or name.endswith(f".{target}") for target in targets)

    linears = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    chosen = [(name, layer) for name, layer in linears if is_target(name, layer)]
    if not chosen:
        raise ValueError(f"no nn.Linear matches {targets!r}; the model has {[name for name, _ in linears]}")
    model.requires_grad_(False)
    for name, layer in chosen:
        model.set_submodule(name, wrap(layer))
    return [name for name, _ in chosen], sum(p.numel() for p in model.parameters() if p.requires_grad)


@exercise.alternative
def dictionary_of_parents(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    for parameter in model.parameters():
        parameter.requires_grad = False
    ends = [targets] if isinstance(targets, str) else [rf"(.*\.)?{re.escape(target)}" for target in targets]
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    if targets == "all-linear":
        names.remove("lm_head")
    else:
        names = [name for name in names if re.compile("|".join(f"(?:{end})" for end in ends)).fullmatch(name)]
    if len(names) == 0:
        raise ValueError(f"nothing called {targets}")
    modules = dict(model.named_modules())
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, wrap(modules[name]))
    return names, sum(p.nelement() if p.requires_grad else 0 for p in model.parameters())


def inject_wrongly(model: Any, targets: Any, wrap: Any, mistake: str) -> tuple[list[str], int]:
    """The shared skeleton of the wrong answers below."""

    def hits(name: str, layer: nn.Module) -> bool:
        if targets == "all-linear":
            return mistake == "head" or layer is not model.get_output_embeddings()
        if isinstance(targets, str):
            return bool((re.search if mistake == "search" else re.fullmatch)(targets, name))
        dot = "" if mistake == "dot" else "."
        return any(name == target or name.endswith(dot + target) for target in targets)

    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and hits(n, m)}
    if not found and mistake != "silent":
        raise ValueError("nothing matches")
    if mistake not in ("frozen last", "not frozen"):
        model.requires_grad_(False)
    for name, layer in found.items():
        model.set_submodule(name, wrap(layer))
    if mistake == "frozen last":
        model.requires_grad_(False)
    counted = [p for p in model.parameters() if p.requires_grad]
    return list(found), len(counted) if mistake == "tensors" else sum(map(torch.numel, counted))


@exercise.misconception(
    hint="A list entry hits too many layers: 'ends with the same letters' also takes layer 11 for layer 1. The match "
    "has to begin at the name's start or right after a dot."
)
def dot_forgotten(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "dot")


@exercise.misconception(
    hint="A string pattern hits too many layers: it has to describe the whole name, not be found somewhere in it. "
    "Python's re module has one function for each of the two."
)
def pattern_searched_anywhere(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "search")


@exercise.misconception(
    hint="'all-linear' replaced the output head too. The head shares its weight with the embedding in this model; peft "
    "leaves it out, and so should you."
)
def head_replaced(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "head")


@exercise.misconception(
    hint="The model's own weights still train: embeddings, norms and the layers you did not touch. Adding adapters "
    "does not freeze anything by itself."
)
def rest_left_trainable(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "not frozen")


@exercise.misconception(
    hint="Nothing trains at all: you froze every parameter after the adapters were in, so they froze as well. Look "
    "at the order of your steps."
)
def adapters_frozen_too(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "frozen last")


@exercise.misconception(hint="You counted tensors. A (4, 16) matrix is one tensor but 64 trainable numbers.")
def tensors_counted(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "tensors")


@exercise.misconception(
    hint="When nothing matches you return quietly. A misspelt target would then 'train' for hours with no adapter at "
    "all: the docstring asks for an error that names the targets."
)
def silent_when_nothing_matches(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "silent")


@exercise.cases
def cases(seed: int) -> list[Case]:
    one_digit = r"[a-z.]*1\.self_attn\.(q|v)_proj"

    def case(name: str, about: str, targets: str | list[str], layers: int, visible: bool = True) -> Case:
        inputs = {"targets": targets, "r": 2 + seed % 3, "layers": layers, "seed": seed}
        return Case(name, inputs, about, visible)

    return [
        case("two projections", "with two names", ["q_proj", "v_proj"], 2),
        case("all linear", "with 'all-linear'", "all-linear", 2),
        case("part of a path", "with an entry that holds a dot", ["1.mlp.up_proj"], 12),
        case("pattern", "with a regular expression", one_digit, 12),
        case("no match", "when no layer matches", ["query"], 1),
        case("whole name", "when an entry is a whole name", ["model.layers.0.mlp.down_proj"], 2, visible=False),
        case("one layer", "when a pattern names a whole layer", r"model\.layers\.0\..*_proj", 1, visible=False),
    ]


@exercise.probe
def probe(answer: Callable[..., Any], targets: Any, r: int, layers: int, seed: int) -> dict[str, Any]:
    """Injects stand-ins of rank r into a random Llama, then asks the model what it holds."""
    model = tiny_llama(seed, layers)
    try:
        names, trainable = answer(
            model,
            targets,
            lambda base: LoraStandIn(base, torch.zeros(r, base.in_features), torch.zeros(base.out_features, r), r),
        )
    except ValueError as error:
        return {"refused": True, "names the targets": any(t in str(error) for t in targets)}
    replaced = [name for name, module in model.named_modules() if isinstance(module, LoraStandIn)]
    learning = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {"replaced": replaced, "trainable names": learning, "returned": [list(names), int(trainable)]}


@exercise.oracle
def oracle(targets: Any, r: int, layers: int, seed: int) -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    try:
        adapted = get_peft_model(tiny_llama(seed, layers), LoraConfig(r=r, target_modules=targets))
    except ValueError:
        return {"refused": True, "names the targets": True}
    prefix = "base_model.model."
    names = [n.removeprefix(prefix) for n, m in adapted.named_modules() if isinstance(m, LoraLayer)]
    learning = [n.removeprefix(prefix) for n, p in adapted.named_parameters() if p.requires_grad]
    learning = sorted(name.removesuffix(".default.weight") for name in learning)
    return {
        "replaced": names,
        "trainable names": learning,
        "returned": [names, adapted.get_nb_trainable_parameters()[0]],
    }

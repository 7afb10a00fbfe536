"""Put adapters into an existing model: which layers, how many numbers train, what stays frozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from course.lessons.l07_lora.small_models import LoraStandIn, tiny_llama, tiny_neox
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
def dictionary_of_parents(model: Any, targets: Any, wrap: Any) -> tuple[list[str], int]:
    for parameter in model.parameters():
        parameter.requires_grad = False
    ends = [targets] if isinstance(targets, str) else [rf"(.*\.)?{re.escape(target)}" for target in targets]
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    if targets == "all-linear":
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        names = [name for name in names if model.get_submodule(name) is not head]
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
            if mistake == "head name":
                return not name.endswith("lm_head")
            return mistake == "head" or layer is not model.get_output_embeddings()
        if isinstance(targets, str):
            return bool({"search": re.search, "match": re.match}.get(mistake, re.fullmatch)(targets, name))
        if mistake == "last word":
            return name.split(".")[-1] in targets
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
    if mistake == "frozen by name":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora_" in name
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
    hint="A string pattern also takes layers whose names only begin with a match. re.match ties the start of the name "
    "and leaves its end open; a third function of re ties both."
)
def pattern_matched_at_the_start(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "match")


@exercise.misconception(
    hint="You compare only the last word of each name. An entry may hold dots ('1.mlp.up_proj'), up to the whole name: "
    "it has to match whole words at the end, however many they are."
)
def last_word_compared(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "last word")


@exercise.misconception(
    hint="You know the output head by the name lm_head. Other architectures call theirs otherwise (GPT-NeoX: "
    "embed_out): ask the model for its output embeddings."
)
def head_known_by_name(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "head name")


@exercise.misconception(
    hint="What trains is decided by 'lora_' in a parameter's name. wrap may name its parameters as it likes: freeze "
    "what existed before the adapters came, and leave theirs alone."
)
def frozen_by_name(model: nn.Module, targets: Any, wrap: Any) -> tuple[list[str], int]:
    return inject_wrongly(model, targets, wrap, "frozen by name")


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
    open_end = r"model\.layers\.0\.self_attn\.[qk]_proj|model\.layers\.1\.mlp\.up"

    def case(name: str, about: str, targets: str | list[str], layers: int, visible: bool = True, **other: str) -> Case:
        inputs = {"targets": targets, "r": 2 + seed % 3, "layers": layers, "seed": seed}
        return Case(name, inputs | other, about, visible)

    return [
        case("two projections", "with two names", ["q_proj", "v_proj"], 2),
        case("all linear", "with 'all-linear'", "all-linear", 2),
        case("part of a path", "with an entry that holds a dot", ["1.mlp.up_proj"], 12),
        case("pattern", "with a regular expression", one_digit, 12),
        case("open end", "with an expression that is also the beginning of longer names", open_end, 2),
        case("no match", "when no layer matches", ["query"], 1),
        case("other parameter names", "when wrap names its parameters otherwise", ["o_proj"], 2, wrapper="Bottleneck"),
        case("another model", "with 'all-linear' on a GPT-NeoX model", "all-linear", 1, architecture="GPT-NeoX"),
        case("whole name", "when an entry is a whole name", ["model.layers.0.mlp.down_proj"], 2, visible=False),
        case("one layer", "when a pattern names a whole layer", r"model\.layers\.0\..*_proj", 1, visible=False),
    ]


class Bottleneck(nn.Module):
    """An adapted layer whose two matrices are not called lora_A and lora_B."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base = base
        self.narrow = nn.Parameter(torch.zeros(r, base.in_features))
        self.widen = nn.Parameter(torch.zeros(base.out_features, r))


RETURNED, REFUSED = "it returned", "it raised ValueError"


@exercise.probe
def probe(
    answer: Callable[..., Any],
    targets: Any,
    r: int,
    layers: int,
    seed: int,
    architecture: str = "Llama",
    wrapper: str = "LoraStandIn",
) -> dict[str, Any]:
    """Injects stand-ins of rank r into a random model, then asks the model what it holds."""
    model = tiny_neox(seed, layers) if architecture == "GPT-NeoX" else tiny_llama(seed, layers)

    def wrap(base: nn.Linear) -> nn.Module:
        if wrapper == "Bottleneck":
            return Bottleneck(base, r)
        return LoraStandIn(base, torch.zeros(r, base.in_features), torch.zeros(base.out_features, r), r)

    try:
        result = answer(model, targets, wrap)
    except ValueError as error:
        asked = [targets] if isinstance(targets, str) else targets
        return findings(REFUSED, names_targets=any(target in str(error) for target in asked))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"inject_lora returned {result!r:.80}; return the pair (names, trainable)")
    replaced = [name for name, module in model.named_modules() if isinstance(module, LoraStandIn | Bottleneck)]
    same = {".narrow": ".lora_A", ".widen": ".lora_B"}
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for other, usual in same.items():
        learning = [name.removesuffix(other) + usual if name.endswith(other) else name for name in learning]
    return findings(RETURNED, replaced, sorted(learning), [list(result[0]), int(result[1])])


def findings(
    ended: str,
    replaced: list[str] | None = None,
    learning: list[str] | None = None,
    returned: Any = None,
    names_targets: bool | None = None,
) -> dict[str, Any]:
    """The same keys however the call ended, so that a wrong ending is reported as such."""
    return {
        "how it ended": ended,
        "the error names the targets": names_targets,
        "replaced layers": replaced,
        "trainable names": learning,
        "returned": returned,
    }


@exercise.diagnose
def diagnose(got: dict[str, Any], want: dict[str, Any], **inputs: Any) -> str | None:
    """Which layers match, where the answer says that none does; which are too many or missing."""
    if got["how it ended"] == REFUSED and want["how it ended"] == RETURNED:
        return f"You raised ValueError although {len(want['replaced layers'])} layers match {inputs['targets']!r}"
    if got["how it ended"] == want["how it ended"] == RETURNED:
        extra = sorted(set(got["replaced layers"]) - set(want["replaced layers"]))
        missing = sorted(set(want["replaced layers"]) - set(got["replaced layers"]))
        told = [f"not to be replaced: {extra[0]}"] * bool(extra) + [f"missed: {missing[0]}"] * bool(missing)
        return "; ".join(told).capitalize() or None
    return None


@exercise.oracle
def oracle(
    targets: Any, r: int, layers: int, seed: int, architecture: str = "Llama", wrapper: str = "LoraStandIn"
) -> dict[str, Any]:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = tiny_neox(seed, layers) if architecture == "GPT-NeoX" else tiny_llama(seed, layers)
    try:
        adapted = get_peft_model(model, LoraConfig(r=r, target_modules=targets))
    except ValueError:
        return findings(REFUSED, names_targets=True)
    prefix = "base_model.model."
    names = [n.removeprefix(prefix) for n, m in adapted.named_modules() if isinstance(m, LoraLayer)]
    learning = [n.removeprefix(prefix) for n, p in adapted.named_parameters() if p.requires_grad]
    learning = sorted(name.removesuffix(".default.weight") for name in learning)
    return findings(RETURNED, names, learning, [names, adapted.get_nb_trainable_parameters()[0]])

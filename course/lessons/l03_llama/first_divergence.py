"""Where two models that should agree first differ: works for any two PyTorch models that share module names.

    print(first_divergence(mine, theirs, input_ids))

Both models run once on the same input. Of every module that holds parameters (linear layers, norms, embeddings), what
goes in and what comes out is kept, in the order in which the second model uses them. The first of these tensors that
differs is the report: if it is a module's output, the fault is in this module; if it is a module's input, the fault is
in the code between it and the modules before, which agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]
Kind = Literal["values", "shape"]
Place = tuple[str, Side]

FLOAT32_TOLERANCE = 1e-4
"""Largest difference, as a share of the largest value, that is still rounding: in float32, after tens of layers."""


@dataclass(frozen=True)
class Divergence:
    """The first tensor that differs.

    name, side: whose input or output it is; the name "" is the whole model. kind: "values" or "shape". difference: the
    largest absolute difference; size: the largest absolute value in the second model. differing_parameters: of this
    module, those whose values differ. unused: modules before it that the first model never called. agreed: the places
    before it that agree, in order. mine, theirs: every tensor kept, by place.
    """

    name: str
    side: Side
    kind: Kind
    difference: float
    size: float
    differing_parameters: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    agreed: tuple[Place, ...] = ()
    mine: dict[Place, Tensor] = field(default_factory=dict, repr=False)
    theirs: dict[Place, Tensor] = field(default_factory=dict, repr=False)

    @property
    def before(self) -> tuple[str, ...]:
        """The modules whose outputs agreed last, up to three, the latest last."""
        return tuple(name for name, side in self.agreed if side == "output")[-3:]

    def __str__(self) -> str:
        """What agreed, what does not, and by how much."""
        outputs, verb = ("output", "agrees") if len(self.before) == 1 else ("outputs", "agree")
        agreed = f"the {outputs} of {', '.join(self.before)} {verb}; " if self.before else ""
        what = f"what {'comes out of' if self.side == 'output' else 'goes into'} {self.name or 'the whole model'}"
        if self.kind == "shape":
            mine, theirs = (tuple(kept[self.name, self.side].shape) for kept in (self.mine, self.theirs))
            told = f"{what} has shape {mine} instead of {theirs}"
        else:
            told = f"{what} differs by up to {self.difference:.2g}, where values are up to {self.size:.2g}"
        if self.differing_parameters:
            told += f"; its {' and '.join(self.differing_parameters)} already differs between the models"
        if self.unused:
            told += f"; your model never calls {', '.join(self.unused[:3])}"
        return f"{agreed}first difference: {told}"


def first_divergence(
    mine: nn.Module,
    theirs: nn.Module,
    *inputs: Any,
    tolerance: float = FLOAT32_TOLERANCE,
    rename: Callable[[str], str] = lambda name: name,
) -> Divergence | None:
    """The first place where `mine` differs from `theirs` on the inputs; None when all agree, the models' outputs too.

    tolerance: allowed difference as a share of the largest value of each tensor. rename: from a module name in `theirs`
    to its name in `mine`. Modules of `theirs` that `mine` lacks are passed over; ValueError when it lacks them all.
    """
    own_modules = dict(mine.named_modules(remove_duplicate=False))
    own_names = {name: rename(name) for name in with_parameters(theirs) if rename(name) in own_modules}
    if not own_names:
        raise ValueError("the models share no module name: pass rename=, from a name in the second to one in the first")
    own_names[""] = ""  # the whole model
    error: Exception | None = None
    with torch.no_grad():
        with kept_tensors(theirs, {name: name for name in own_names}) as in_theirs:
            theirs(*inputs)
        with kept_tensors(mine, own_names) as in_mine:
            try:
                mine(*inputs)
            except Exception as raised:  # what ran before the error can still tell where it went wrong
                error = raised
    agreed: list[Place] = []
    unused: list[str] = []
    for (name, side), wanted in in_theirs.items():
        if (name, side) not in in_mine:
            if error is not None:
                raise error
            unused += [name] if name not in unused else []
            continue
        kind, difference = compare(in_mine[name, side], wanted, tolerance)
        if kind is None:
            agreed.append((name, side))
            continue
        pair = own_modules[own_names[name]], theirs.get_submodule(name)
        changed = tuple(differing_parameters(*pair)) if side == "output" else ()
        size = float(wanted.abs().max()) if wanted.numel() else 0.0
        places = tuple(agreed)
        return Divergence(name, side, kind, difference, size, changed, tuple(unused), places, in_mine, in_theirs)
    if error is not None:
        raise error
    return None


def compare(own: Tensor, wanted: Tensor, tolerance: float) -> tuple[Kind | None, float]:
    """(kind of difference or None, largest absolute difference)."""
    if own.shape != wanted.shape:
        return "shape", float("inf")
    if not wanted.numel():
        return None, 0.0
    own, wanted = own.cpu().double(), wanted.cpu().double()  # Apple GPUs have no float64
    gap = (own - wanted).abs().max().item()
    same = gap <= tolerance * wanted.abs().max().item()  # False, too, where a value is NaN
    return (None if same else "values"), gap


def with_parameters(model: nn.Module) -> list[str]:
    """Names of the modules that hold parameters themselves, not only through their parts."""
    return [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]


def differing_parameters(mine: nn.Module, theirs: nn.Module) -> Iterator[str]:
    """Names of the parameters that one of two modules lacks, or that hold other values."""
    own, wanted = dict(mine.named_parameters(recurse=False)), dict(theirs.named_parameters(recurse=False))
    for name in wanted | own:
        a, b = own.get(name), wanted.get(name)
        if a is None or b is None or a.shape != b.shape or not torch.equal(a, b.to(a.device, a.dtype)):
            yield name


@contextmanager
def kept_tensors(model: nn.Module, names: Mapping[str, str]) -> Iterator[dict[Place, Tensor]]:
    """Inside the body, keep the first input and output of some modules, in the order in which they come.

    names: from the name to keep a module's tensors under to its name in the model.
    """
    kept: dict[Place, Tensor] = {}
    handles = []

    def keep(name: str, side: Side, value: Any) -> None:
        tensor = first_tensor(value)
        if tensor is not None and (name, side) not in kept:
            kept[name, side] = tensor.detach().clone()  # a clone: a later line may add to it in place

    try:
        for name, own_name in names.items():
            module = model.get_submodule(own_name)

            def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
                keep(name, "input", [*args, *kwargs.values()])

            def after(_: Any, args: Any, output: Any, name: str = name) -> None:
                keep(name, "output", output)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in a tensor, tuple, list or dict."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None

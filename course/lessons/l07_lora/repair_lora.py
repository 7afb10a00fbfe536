"""Why a LoRA run does not learn: three faults that raise no error and leave the loss flat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l07-repair-lora",
    title="Repair a LoRA run that does not learn",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("lora", "pytorch"),
    hints=(
        "A flat loss has few causes: no gradient arrives, the optimizer does not hold the parameter, or the step is "
        "empty. Print each one after a single step.",
        "Look at up.weight.grad and down.weight.grad right before optimizer.step(): None, all zero, or numbers?",
        "Compare the ids of the parameters in optimizer.param_groups with those of down and up.",
    ),
    library_note="peft cannot be misled about the start (reset_lora_parameters) or the freezing. The other two "
    "faults are yours to make with any library: an optimizer that was made before get_peft_model, and a loop that "
    "clears gradients in the wrong place.",
    interview="Your LoRA loss is perfectly flat. What do you look at first, second and third?",
)


@exercise.reference
def repair_lora(
    base: nn.Linear, inputs: Tensor, targets: Tensor, r: int, alpha: float, learning_rate: float, steps: int
) -> dict[str, object]:
    """Fit an adapter on a frozen linear layer to targets, by mean squared error and AdamW.

    base: stays as it is, bit for bit. inputs: (N, in_features); targets: (N, out_features), all float32.
    Prediction: base(inputs) + (alpha / r) * up(down(inputs)), equal to base(inputs) before the first update.
    Exactly `steps` updates on the whole batch at a constant learning_rate, weight decay 0.

    Returns a dictionary:
        "losses": list of float, the loss before each update (so the first one is the loss of the base alone);
        "down": nn.Linear(in_features, r, bias=False) and "up": nn.Linear(r, out_features, bias=False), as trained;
        "optimizer": the optimizer that was used.
    """
    base.requires_grad_(False)
    down = nn.Linear(base.in_features, r, bias=False, device=base.weight.device)
    up = nn.Linear(r, base.out_features, bias=False, device=base.weight.device)
    nn.init.zeros_(up.weight)
    adamw = torch.optim.AdamW([down.weight, up.weight], lr=learning_rate, weight_decay=0.0)
    history = []
    for _ in range(steps):
        error = nn.functional.mse_loss(base(inputs) + alpha / r * up(down(inputs)), targets)
        adamw.zero_grad()
        error.backward()
        adamw.step()
        history.append(error.item())
    return {"losses": history, "down": down, "up": up, "optimizer": adamw}


@exercise.alternative
def cleared_after_the_step(
    base: Any, inputs: Tensor, targets: Tensor, r: int, alpha: float, learning_rate: float, steps: int
) -> dict[str, Any]:
    first, second = nn.Linear(base.in_features, r, bias=False), nn.Linear(r, base.out_features, bias=False)
    second.weight.data.zero_()
    adapter = nn.Sequential(first, second)
    with torch.no_grad():
        gap = targets - base(inputs)  # the base is frozen, so what it leaves over is a constant
    optimizer = torch.optim.AdamW(adapter.parameters(), learning_rate, weight_decay=0)
    losses: list[float] = []
    while len(losses) < steps:
        loss = (adapter(inputs).mul(alpha / r) - gap).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses += [loss.item()]
    return {"losses": losses, "down": first, "up": second, "optimizer": optimizer}


def train(given: tuple[Any, ...], *faults: str) -> dict[str, Any]:
    """The broken run of the lesson, with the faults switched one by one."""
    base, inputs, targets, r, alpha, rate, steps = given
    kept = list(base.parameters())
    down, up = nn.Linear(base.in_features, r, bias=False), nn.Linear(r, base.out_features, bias=False)
    if "zero" in faults:
        nn.init.zeros_(down.weight)
    if "random" not in faults:
        nn.init.zeros_(up.weight)
    known = kept if "early" in faults else [down.weight, up.weight] + (kept if "base" in faults else [])
    if "up only" in faults:
        known = [up.weight]
    optimizer = torch.optim.AdamW(known, lr=rate, weight_decay=0.01 if "decay" in faults else 0.0)
    base.requires_grad_("base" in faults)
    losses = []
    for _ in range(steps):
        loss = ((base(inputs) + alpha / r * up(down(inputs)) - targets) ** 2).mean()
        if "never cleared" not in faults:
            down.zero_grad()
            up.zero_grad()
        loss.backward()
        if "cleared" in faults:
            down.zero_grad()
            up.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "down": down, "up": up, "optimizer": optimizer}


@exercise.misconception(
    hint="The optimizer does not hold the adapter: it was made from the parameters that existed at that moment. Look "
    "at where it is made, and at what existed by then."
)
def optimizer_made_too_early(*given: Any) -> Any:
    return train(given, "early")


@exercise.misconception(
    hint="Both adapter matrices are zero. Each one's gradient is multiplied by the other, so both gradients are zero "
    "for ever. Only one of them may start there."
)
def both_zero(*given: Any) -> Any:
    return train(given, "zero")


@exercise.misconception(
    hint="The gradients are thrown away between computing and using them, so every step is empty. Clear them before "
    "they are computed, or after they were used."
)
def gradients_cleared_too_early(*given: Any) -> Any:
    return train(given, "cleared")


@exercise.misconception(
    hint="One fault is repaired (the clearing); two are left. Look at the start values of both matrices, then at "
    "what the optimizer was given."
)
def start_and_optimizer_left(*given: Any) -> Any:
    return train(given, "early", "zero")


@exercise.misconception(
    hint="One fault is repaired (the optimizer); two are left. Look at the start values of both matrices, then at "
    "where gradients are cleared."
)
def start_and_clearing_left(*given: Any) -> Any:
    return train(given, "zero", "cleared")


@exercise.misconception(
    hint="One fault is repaired (the start values); two are left. Look at what the optimizer was given, then at where "
    "gradients are cleared."
)
def optimizer_and_clearing_left(*given: Any) -> Any:
    return train(given, "early", "cleared")


@exercise.misconception(
    hint="All three faults are still there. Begin with the start values: with both matrices at zero no gradient can "
    "ever arrive. Then the optimizer, then the clearing."
)
def nothing_repaired(*given: Any) -> Any:
    return train(given, "early", "zero", "cleared")


@exercise.misconception(
    hint="The loss falls because the base itself moves. That is full fine-tuning with an adapter as decoration: the "
    "base has to stay as it was."
)
def base_trained_instead(*given: Any) -> Any:
    return train(given, "base")


@exercise.misconception(
    hint="It learns, but it starts from a worse place than the base: both matrices are random, so the first "
    "prediction is already disturbed."
)
def both_random(*given: Any) -> Any:
    return train(given, "random")


@exercise.misconception(
    hint="The gradients are never cleared, so every step uses the sum of all gradients so far. Clearing belongs in the "
    "loop; only its place was wrong."
)
def gradients_never_cleared(*given: Any) -> Any:
    return train(given, "never cleared")


@exercise.misconception(
    hint="AdamW pulls every weight towards zero unless told not to: its weight_decay is 0.01 by default. The task asks "
    "for none."
)
def default_weight_decay(*given: Any) -> Any:
    return train(given, "decay")


@exercise.misconception(
    hint="The optimizer holds only the matrix that starts at zero. The other one then stays the random projection it "
    "was at the start: give the optimizer both."
)
def only_up_trained(*given: Any) -> Any:
    return train(given, "up only")


@exercise.cases
def cases(seed: int) -> list[Case]:
    """Targets come from the base plus a true update of rank `true_r`, so a rank-r adapter can fit them."""

    def case(name: str, about: str, inside: int, outside: int, r: int, visible: bool = True) -> Case:
        sizes = {"in_features": inside, "out_features": outside, "true_r": min(r, 2), "r": r, "alpha": 2.0 * r}
        return Case(name, {"seed": seed, **sizes}, about, visible)

    return [
        case("wide", "on a 24 -> 16 layer with r = 4", 24, 16, 4),
        case("narrow", "on a 12 -> 20 layer with r = 2", 12, 20, 2),
        case("rank one", "with r = 1", 16, 16, 1, visible=False),
        case("another shape", "on another layer", 17 + seed % 5, 13, 3, visible=False),
    ]


LEARNING_RATE = 2e-2
STEPS = 120


def task(seed: int, in_features: int, out_features: int, true_r: int) -> tuple[nn.Linear, Tensor, Tensor]:
    """A random layer, inputs of 64 rows, and the targets that the layer gives after an update of rank true_r."""
    random = torch.Generator().manual_seed(seed)
    base = nn.Linear(in_features, out_features)
    base.load_state_dict({n: torch.randn(p.shape, generator=random) / 4 for n, p in base.state_dict().items()})
    inputs = torch.randn(64, in_features, generator=random)
    up = torch.randn(out_features, true_r, generator=random) / math.sqrt(true_r)
    down = torch.randn(true_r, in_features, generator=random) / math.sqrt(in_features)
    return base, inputs, base(inputs).detach() + inputs @ down.T @ up.T


@exercise.probe
def probe(
    answer: Callable[..., Any], seed: int, in_features: int, out_features: int, true_r: int, r: int, alpha: float
) -> dict[str, Any]:
    """Lets the answer train, then looks at what moved and at what the optimizer holds."""
    base, inputs, targets = task(seed, in_features, out_features, true_r)
    before = base.weight.detach().clone()
    got = answer(base, inputs, targets, r, alpha, LEARNING_RATE, STEPS)
    held = {id(p) for group in got["optimizer"].param_groups for p in group["params"]}
    return {
        "losses": [float(loss) for loss in got["losses"]],
        "base unchanged": torch.equal(before, base.weight),
        "optimizer holds": [name for name in ("down", "up") if id(got[name].weight) in held],
        "weight decay": max(float(group.get("weight_decay", 0.0)) for group in got["optimizer"].param_groups),
        "down is zero": not got["down"].weight.any().item(),
        "gradients at the end": "none" if got["up"].weight.grad is None else "there",
        "down": got["down"].weight.detach(),
        "up": got["up"].weight.detach(),
    }


@exercise.accept
def accept(
    output: dict[str, Any],
    seed: int,
    in_features: int,
    out_features: int,
    true_r: int,
    r: int,
    alpha: float,
) -> str | None:
    """The loss starts at the base's, falls below 5 % of it within 120 steps, and the base stays as it was.

    The final loss is computed here from the adapter's weights: a number from the learner's process proves nothing.
    """
    base, inputs, targets = task(seed, in_features, out_features, true_r)
    losses, start = output["losses"], nn.functional.mse_loss(base(inputs), targets).item()
    if output["down"].shape != (r, in_features) or output["up"].shape != (out_features, r):
        shapes = f"{tuple(output['down'].shape)} and {tuple(output['up'].shape)}"
        return f"the weights of down and up have shapes {shapes}, not those of rank {r}"
    if len(losses) != STEPS:
        return f"wanted {STEPS} losses, one before each update, got {len(losses)}"
    if not output["base unchanged"]:
        return "the base's weights changed; only the adapter may"
    if abs(losses[0] - start) > 1e-4 * start:
        return f"the first loss is not the {start:.3f} of the base alone, and before any update it must be"
    predictions = base(inputs) + alpha / r * inputs @ output["down"].T @ output["up"].T
    final = nn.functional.mse_loss(predictions, targets).item()
    if final < 0.05 * start:
        decay = output["weight decay"]
        return f"the optimizer's weight decay is {decay:g}, and 0 was asked for" if decay else None
    held = " and ".join(output["optimizer holds"]) or "neither down nor up"
    zero = "yes" if output["down is zero"] else "no"
    left = output["gradients at the end"]
    seen = f"the optimizer holds {held}; down is all zero: {zero}; gradients left: {left}"
    # In round figures: a diverging run's exact loss depends on the order of sums, and hints go by this sentence.
    went = f"went from {start:.2g} to {final:.2g}"
    if final > 2 * start:
        went = f"rose far above the {start:.2g} of the start"
    return f"the loss {went} in {STEPS} updates, wanted below {0.05 * start:.2g}. Seen: {seen}"

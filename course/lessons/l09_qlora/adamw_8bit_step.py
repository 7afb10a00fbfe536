"""AdamW whose two moments are stored in 8 bits (Dettmers et al. 2022, arXiv:2110.02861).

A moment is an 8-bit code per value and one float32 maximum per block of 256; a code is looked up in a table of 256
"dynamic" values, dense near zero. Worked number: 1,000,000 parameters need 8,000,000 bytes of float32 moments, or
2,000,000 bytes of codes and 31,256 bytes of maxima.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from grader.exercise import Case, Exercise

BLOCK_SIZE = 256

exercise = Exercise(
    id="l09-adamw-8bit-step",
    title="One AdamW step with 8-bit state",
    points=4,
    minutes=20,
    difficulty="medium",
    importance="core",
    skills=("quantisation", "memory", "pytorch"),
    hints=(
        "Decode, step, encode. Between decoding and encoding it is the AdamW you know, in float32.",
        "Decoding is the NF4 idea with 256 values: table value of the code, times the maximum of its block.",
        "Moments first, then weight decay on the parameter alone, then the update with both bias corrections.",
    ),
    forbidden=("bitsandbytes", "torch.optim"),
    seconds=20.0,
    seconds_reason="importing bitsandbytes cold takes 4 to 8 seconds",
    library_note="bitsandbytes fuses the three stages into one kernel, keeps tensors of fewer than 4,096 values in "
    "float32, where 8 bits would save nothing, and on CUDA can page the state out to host memory (PagedAdamW8bit). "
    "Its CPU encoder finds codes through a table of 65,536 entries, so values next to a border may "
    "get the neighbouring "
    "code; that is why you are handed its encoder.",
    interview="What does 8-bit Adam store, why in blocks, and why are the update's own numbers still float32?",
)


@exercise.reference
def adamw_8bit_step(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The parameter and the state after one AdamW step; arguments stay unchanged.

    parameter, gradient: (n,) float32. step counts from 1.
    state: "codes1", "codes2" (n,) uint8, the encoded first moment m and second moment v; "absmax1", "absmax2"
        (ceil(n / 256),) float32, the maximum of each block of 256 values; "table1", "table2" (256,) float32, the
        value of each code for m (signed) and for v (not negative). decoded value = table[code] * absmax of its block.
    encode(values, table) -> (codes, absmax) of float32 values (n,).

    In float32: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p (1 - lr * weight_decay);
    p = p - lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + eps), with m and v as they are BEFORE they are
    encoded again. Returns (new parameter, state with the same six keys).
    Source: Dettmers et al. 2022, section 2; Loshchilov and Hutter 2019 for the decoupled weight decay.
    """

    def decode(number: int) -> Tensor:
        scales = state[f"absmax{number}"].repeat_interleave(256)[: parameter.numel()]
        return state[f"table{number}"][state[f"codes{number}"].long()] * scales

    first = betas[0] * decode(1) + (1 - betas[0]) * gradient
    second = betas[1] * decode(2) + (1 - betas[1]) * gradient.square()
    denominator = (second / (1 - betas[1] ** step)).sqrt() + eps
    updated = parameter * (1 - lr * weight_decay) - lr / (1 - betas[0] ** step) * first / denominator
    new_state = dict(state)
    new_state["codes1"], new_state["absmax1"] = encode(first, state["table1"])
    new_state["codes2"], new_state["absmax2"] = encode(second, state["table2"])
    return updated, new_state


def unpack(state: dict, count: int) -> list[Tensor]:
    """Both moments as float32 (n,)."""
    blocks = torch.arange(count) // BLOCK_SIZE
    return [state[f"table{i}"][state[f"codes{i}"].int()] * state[f"absmax{i}"][blocks] for i in (1, 2)]


def stepped(
    parameter,
    gradient,
    state,
    encode,
    step,
    lr,
    betas,
    eps,
    weight_decay,
    correct=True,
    swap=False,
    coupled=False,
    late=False,
    without_lr=False,
    raw_eps=False,
):
    """The step with switches for the mistakes below."""
    m, v = unpack(state, parameter.numel())
    gradient = gradient + weight_decay * parameter if coupled else gradient
    m = m + (1 - betas[0]) * (gradient - m)
    v = v + (1 - betas[1]) * (gradient * gradient - v)
    corrections = [1 - beta**step if correct else 1.0 for beta in betas]
    shrink = 1 - (1 if without_lr else lr) * weight_decay
    decayed = parameter if coupled or late else parameter * shrink
    new = dict(state)
    (new["codes1"], new["absmax1"]), (new["codes2"], new["absmax2"]) = (
        encode(m, state["table2" if swap else "table1"]),
        encode(v, state["table1" if swap else "table2"]),
    )
    eps = eps / corrections[1] ** 0.5 if raw_eps else eps
    stepped_to = decayed - lr * (m / corrections[0]) / ((v / corrections[1]).sqrt() + eps)
    return stepped_to * shrink if late else stepped_to, new


def stepped_otherwise(given, **switches):
    """The step for the exercise's arguments, in order, with some switches turned."""
    return stepped(*given, **switches)


@exercise.alternative
def by_differences(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    return stepped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay)


@exercise.misconception(
    hint="The first steps are far too large or too small and later ones nearly right: both moments start at zero and "
    "need their bias corrections."
)
def no_bias_correction(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    return stepped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay, correct=False)


@exercise.misconception(
    hint="Weight decay went through the moments, which is Adam with an L2 penalty. The W in AdamW "
    "shrinks the parameter "
    "directly."
)
def decay_in_gradient(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    return stepped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay, coupled=True)


@exercise.misconception(
    hint="You encoded each moment with the other one's table. m has both signs, v has none: each has its "
    "own 256 values."
)
def tables_swapped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    return stepped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay, swap=True)


@exercise.misconception(
    hint="The parameter was updated with moments that had been encoded and decoded again. Use the exact "
    "float32 moments "
    "for the update and encode them afterwards."
)
def update_from_encoded_moments(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    _, new = stepped(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay)
    m, v = unpack(new, parameter.numel())
    denominator = (v / (1 - betas[1] ** step)).sqrt() + eps
    return parameter * (1 - lr * weight_decay) - lr * m / (1 - betas[0] ** step) / denominator, new


@exercise.misconception(
    hint="You decoded codes without the maximum of their block: the table holds values between -1 and 1 only."
)
def block_maximum_forgotten(parameter, gradient, state, encode, step, lr, betas, eps, weight_decay):
    plain = state | {f"absmax{i}": torch.ones_like(state[f"absmax{i}"]) for i in (1, 2)}
    return stepped(parameter, gradient, plain, encode, step, lr, betas, eps, weight_decay)


@exercise.misconception(
    hint="Weight decay came last and shrank the update, too. Shrink the parameter first, then take the step."
)
def decay_after_update(*given):
    return stepped_otherwise(given, late=True)


@exercise.misconception(hint="Weight decay is without the learning rate: a step shrinks by lr * weight_decay.")
def decay_without_lr(*given):
    return stepped_otherwise(given, without_lr=True)


@exercise.misconception(
    hint="eps was added before the bias correction of v, which makes it larger in the first steps. Correct the root "
    "first, then add eps."
)
def eps_before_correction(*given):
    return stepped_otherwise(given, raw_eps=True)


@exercise.misconception(
    hint="The tables are missing from the state you return, so the next step cannot decode. They do not change; hand "
    "them on."
)
def tables_not_handed_on(*given):
    updated, new = stepped(*given)
    return updated, {name: value for name, value in new.items() if not name.startswith("table")}


@exercise.misconception(
    hint="You wrote the new codes into the state you were given. Whoever holds the old state, for a step that is taken "
    "back, has lost it: return a new dict."
)
def state_changed_in_place(parameter, gradient, state, *given):
    updated, new = stepped(parameter, gradient, state, *given)
    state.update(new)
    return updated, state


def trained_by_bitsandbytes(parameter, gradients, lr, betas, eps, weight_decay):
    """The parameter after one AdamW8bit step per gradient, and its state under this exercise's names."""
    import bitsandbytes

    trained = torch.nn.Parameter(parameter.clone())
    optimizer = bitsandbytes.optim.AdamW8bit([trained], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    for gradient in gradients:
        trained.grad = gradient.clone()
        optimizer.step()
    kept = optimizer.state[trained]
    names = {"codes": "state", "absmax": "absmax", "table": "qmap"}
    return trained.detach(), {f"{ours}{i}": kept[f"{theirs}{i}"] for ours, theirs in names.items() for i in (1, 2)}


def fresh_state(count: int) -> dict:
    """Before the first step: every code and every maximum is zero."""
    from bitsandbytes.functional import create_dynamic_map

    state = {"table1": create_dynamic_map(signed=True), "table2": create_dynamic_map(signed=False)}
    for i in (1, 2):
        state[f"codes{i}"] = torch.zeros(count, dtype=torch.uint8)
        state[f"absmax{i}"] = torch.zeros(-(-count // BLOCK_SIZE))
    return state


@exercise.probe
def probe(answer, parameter, gradients, lr, betas, eps, weight_decay):
    """bitsandbytes takes all steps but the last, the answer takes the last one.

    Codes are not compared: a value on the border of two codes may fall to either side by the last bit of a float32.
    """
    from bitsandbytes.functional import quantize_blockwise

    *earlier, last = gradients
    state = fresh_state(parameter.numel())
    if earlier:
        parameter, state = trained_by_bitsandbytes(parameter, earlier, lr, betas, eps, weight_decay)
    encoded_with = []

    def encode(values: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        codes, made = quantize_blockwise(values, code=table, blocksize=BLOCK_SIZE)
        encoded_with.append((codes, "signed" if table.min() < 0 else "not negative"))
        return codes, made.absmax

    given = {"parameter": parameter, "gradient": last} | state
    before = {name: value.clone() for name, value in given.items()}
    handed_in = dict(state)
    returned = answer(parameter, last, handed_in, encode, len(gradients), lr, betas, eps, weight_decay)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        raise TypeError("adamw_8bit_step must return two things: the new parameter and the new state, a dict")
    changed = [name for name, value in given.items() if not torch.equal(value, before[name])]
    changed += [name for name, value in state.items() if handed_in.get(name) is not value and name not in changed]
    parameter, made = returned
    lacking = ", ".join(name for name in state if name not in made) or "nothing"
    state = state | made
    tables = [[name for codes, name in encoded_with if torch.equal(codes, state[f"codes{i}"])] for i in (1, 2)]
    return (
        {"returned_state_lacks": lacking}
        | described(parameter, state)
        | {
            "codes1_table": tables[0],
            "codes2_table": tables[1],
            "arguments_changed": ", ".join(changed) or "none",
        }
    )


def described(parameter: Tensor, state: dict) -> dict:
    """What is compared of a parameter and its state."""
    return {
        "parameter": parameter,
        "absmax1": state["absmax1"],
        "absmax2": state["absmax2"],
        "state_bytes": sum(state[f"{name}{i}"].nbytes for name in ("codes", "absmax") for i in (1, 2)),
    }


def inputs(seed: int, count: int, steps: int, lr: float, weight_decay: float, scale: float, eps: float = 1e-8) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        "parameter": torch.randn(count, generator=random),
        "gradients": [torch.randn(count, generator=random) * scale for _ in range(steps)],
        "lr": lr,
        "betas": (0.9, 0.999),
        "eps": eps,
        "weight_decay": weight_decay,
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    yield Case("first_step", inputs(seed, 4096, 1, 1e-2, 0.1, 0.1), "at the first step")
    yield Case("four_steps", inputs(seed + 1, 4352, 4, 1e-2, 0.1, 1.0), "after four steps")
    yield Case("large_eps", inputs(seed + 4, 4096, 2, 1e-2, 0.0, 1e-3, eps=1e-3), "when eps is as large as gradients")
    yield Case("no_decay", inputs(seed + 2, 5000, 3, 1e-3, 0.0, 1e-3), "with a short last block", visible=False)
    yield Case("many", inputs(seed + 3, 4100 + seed % 99, 6, 3e-3, 0.5, 10.0), "after six steps", visible=False)


@exercise.oracle
def oracle(parameter, gradients, lr, betas, eps, weight_decay):
    parameter, state = trained_by_bitsandbytes(parameter, gradients, lr, betas, eps, weight_decay)
    return (
        {"returned_state_lacks": "nothing"}
        | described(parameter, state)
        | {
            "codes1_table": ["signed"],
            "codes2_table": ["not negative"],
            "arguments_changed": "none",
        }
    )

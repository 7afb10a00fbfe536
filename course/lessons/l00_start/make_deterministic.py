"""Make a run repeat bit for bit: every source of randomness in a training run, seeded from one number.

Source: the PyTorch notes "Reproducibility" (seeds, DataLoader workers, deterministic algorithms).
Worked example: two runs of the same 5 steps end in weights that `torch.equal` calls equal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l00-make-deterministic",
    title="Make a run repeat, bit for bit",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("reproducibility",),
    hints=(
        "`random`, `numpy.random` and `torch` keep a global generator each. All three need the seed.",
        "The DataLoader shuffles with the generator you return, so that one must hold the seed as well.",
        "Inside a worker `torch.initial_seed()` differs by worker and by epoch. NumPy accepts seeds below 2**32 only.",
    ),
    seconds=8.0,
    seconds_reason="the first call of use_deterministic_algorithms imports torch's compiler, 1 to 2 s",
    library_note=(
        "`transformers.set_seed(seed, deterministic=True)` does the same job, and recent PyTorch seeds `random` and "
        "NumPy's global generator in workers by itself. A `numpy.random.Generator` that your dataset owns is still "
        "copied to every worker as it is, so the worker function stays worth writing."
    ),
    interview="Your colleague cannot reproduce your loss curve with the same seed. Where do you look?",
)


@exercise.reference
def make_deterministic(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    """Seed everything a training run draws from, and return what a DataLoader needs to repeat.

    seed: 0 <= seed < 2**32.
    Effects: Python's `random`, NumPy's global generator and torch (CPU and every GPU) start from the seed, and torch
    is asked for deterministic algorithms (warn_only=True: an operation that has none warns and goes on).
    Returns (generator, seed_worker) for `DataLoader(..., generator=generator, worker_init_fn=seed_worker)`:
      generator    a new torch.Generator that holds the seed (not torch's global one, from which everything else
                   draws too): the shuffle order comes from it
      seed_worker  seed_worker(worker_id) runs inside each worker process and seeds `random` and NumPy there. By
                   then the DataLoader has given torch a seed that differs for every worker and every epoch: start
                   from `torch.initial_seed()`, which is a 64-bit number.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)

    def seed_worker(worker_id: int) -> None:
        worker_seed = torch.initial_seed() % 2**32
        random.seed(worker_seed)
        np.random.seed(worker_seed)

    return torch.Generator().manual_seed(seed), seed_worker


@exercise.alternative
def one_seed_for_each_source(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    for_random, for_numpy, for_torch, for_order = np.random.SeedSequence(seed).generate_state(4).tolist()
    random.setstate(random.Random(for_random).getstate())
    np.random.set_state(np.random.RandomState(for_numpy).get_state())
    torch.random.set_rng_state(torch.Generator().manual_seed(for_torch).get_state())
    torch.cuda.manual_seed_all(for_torch)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    generator = torch.Generator()
    generator.manual_seed(for_order)

    def seed_worker(worker_id: int) -> None:
        for start_from in (random.seed, np.random.seed):
            start_from(torch.randint(2**32, ()).item())

    return generator, seed_worker


@exercise.misconception(
    hint="torch repeats, but data augmentation often draws from `random` and NumPy, and those still start anywhere."
)
def torch_only(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    before, numpy_before = random.getstate(), np.random.get_state()
    result = make_deterministic(seed)
    random.setstate(before)
    np.random.set_state(numpy_before)
    return result


@exercise.misconception(
    hint="A new torch.Generator starts from a fixed default, so the order repeats, but it ignores the seed: "
    "three seeds would all shuffle alike."
)
def generator_without_the_seed(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    return torch.Generator(), make_deterministic(seed)[1]


@exercise.misconception(
    hint="All your workers draw the same numbers: four workers then give four copies of one augmentation. "
    "Something must tell them apart."
)
def workers_all_alike(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    def seed_worker(worker_id: int) -> None:
        random.seed(seed)
        np.random.seed(seed)

    return make_deterministic(seed)[0], seed_worker


@exercise.misconception(
    hint="Workers start again for every epoch, and yours then draw the same numbers each time: epoch two sees the "
    "augmentations of epoch one again. torch's own seed in the worker does change."
)
def every_epoch_alike(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    def seed_worker(worker_id: int) -> None:
        random.seed(seed + worker_id)
        np.random.seed((seed + worker_id) % 2**32)

    return make_deterministic(seed)[0], seed_worker


@exercise.misconception(
    hint="The seeds are right, but some GPU kernels add in another order on every run. torch has a switch for that."
)
def kernels_left_free(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    result = make_deterministic(seed)
    torch.use_deterministic_algorithms(False)
    return result


@exercise.misconception(
    hint="You ask for deterministic algorithms so strictly that an operation without one stops the run with an error. "
    "The docstring asks for a warning: the switch has a second argument."
)
def stops_instead_of_warning(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    result = make_deterministic(seed)
    torch.use_deterministic_algorithms(True)
    return result


@exercise.misconception(
    hint="You return torch's global generator. Whatever else draws from it (dropout, initial weights) then changes the "
    "order of the rows: the loader needs a generator of its own."
)
def global_generator_returned(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    return torch.default_generator, make_deterministic(seed)[1]


@exercise.misconception(
    hint="Your worker function seeds NumPy and leaves `random` out. Augmentation code that draws from `random` then "
    "goes its own way in every worker."
)
def workers_numpy_only(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    def seed_worker(worker_id: int) -> None:
        np.random.seed(torch.initial_seed() % 2**32)

    return make_deterministic(seed)[0], seed_worker


@exercise.misconception(
    hint="Your worker function seeds `random` and leaves NumPy out, from which most augmentation code draws."
)
def workers_random_only(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    def seed_worker(worker_id: int) -> None:
        random.seed(torch.initial_seed() % 2**32)

    return make_deterministic(seed)[0], seed_worker


@exercise.misconception(
    hint="Your worker function seeds nothing. In a worker, `random` and NumPy start wherever the process left them."
)
def workers_unseeded(seed: int) -> tuple[torch.Generator, Callable[[int], None]]:
    return make_deterministic(seed)[0], lambda worker_id: None


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    def case(name: str, run_seed: int, rows: int, workers: int, about: str, visible: bool = True) -> Case:
        return Case(name, {"seed": run_seed, "rows": rows, "workers": workers}, about, visible)

    yield case("small seed", seed % 1000, 24, 2, "with a small seed")
    yield case("four workers", 1234 + seed % 1000, 40, 4, "with four loader workers")
    yield case("seed zero", 0, 30, 3, "when the seed is 0", visible=False)
    yield case("largest seed", 2**32 - 1, 27, 2, "when the seed is 2**32 - 1", visible=False)


Draws = list[list[float]]
DRAWS = 4
SOURCES = ("random", "numpy", "torch")
IN_WORKER = ("random", "numpy")
WEIGHTS = 4 * 8 + 8 + 8 + 1  # of the net in `run`


@exercise.accept
def accept(output: dict[str, Any], seed: int, rows: int, workers: int) -> str | None:
    """Compares the runs and the workers' draws, and names every promise that they break.

    Nothing that the learner's process says about itself is believed but whether torch's switch was set: the numbers
    are compared here. Whoever forges them has to make up runs that repeat, vary with the seed and look random.
    """
    runs = [output[name] for name in ("first", "second", "other")]
    epochs = [output[name] for name in ("workers", "workers again", "next epoch")]
    if not all(looks_like_a_run(each, rows) for each in runs):
        return "the runs left no drawn numbers, orders and weights as training leaves them"
    if not all(len(epoch) == workers and all(map(look_drawn, epoch)) for epoch in epochs):
        return "the workers left no drawn numbers"
    broken = [promise for promise, kept in promises(*runs, *epochs).items() if not kept]
    return f"promised and not kept: {'; '.join(broken)}" if broken else None


def looks_like_a_run(found: dict[str, Any], rows: int) -> bool:
    """Whether these can be what `run` returns: shapes, ranges, and not one number over and over."""
    weights = found["weights"]
    return (
        all(sorted(found[name]) == list(range(rows)) for name in ("order", "order after other draws"))
        and all(len(found[name]) == DRAWS and look_drawn(found[name]) for name in SOURCES)
        and (weights.shape, weights.dtype) == ((WEIGHTS,), torch.float32)
        and bool(weights.isfinite().all() and weights.std() > 0)
    )


def look_drawn(numbers: Sequence[float]) -> bool:
    """Whether these can be a few draws from [0, 1)."""
    return len(set(numbers)) > 1 and all(0 <= number < 1 for number in numbers)


def promises(
    first: dict[str, Any], second: dict[str, Any], other: dict[str, Any], once: Draws, again: Draws, next_epoch: Draws
) -> dict[str, bool]:
    """Promise -> whether it is kept. first, second: runs with one seed; other: with another. Draws: worker by worker.

    once, again: workers of one epoch, started twice.
    """
    by_source = {name: [[worker[i] for worker in draws] for draws in (once, again)] for i, name in enumerate(IN_WORKER)}
    repeats = {f"{name} repeats": first[name] == second[name] for name in SOURCES}
    repeats |= {f"{name} repeats in a worker": mine == later for name, (mine, later) in by_source.items()}
    deterministic = first["deterministic"] is True
    return {
        "deterministic algorithms are asked for": deterministic,
        "an operation that has none only warns (warn_only)": first["only warns"] is True or not deterministic,
        "the generator returned is not torch's global one": first["order"] == first["order after other draws"],
        **repeats,
        "the shuffle order repeats": first["order"] == second["order"],
        "the trained weights are bit-equal": torch.equal(first["weights"], second["weights"]),
        "another seed shuffles in another order": first["order"] != other["order"],
        "another seed draws other numbers": all(first[name] != other[name] for name in SOURCES),
        "another seed trains other weights": not torch.equal(first["weights"], other["weights"]),
        "workers draw different numbers": all(len(set(mine)) == len(once) for mine, _ in by_source.values()),
        "epochs draw different numbers in a worker": all(
            mine[i] != later[i] for mine, later in zip(once, next_epoch, strict=True) for i in range(len(IN_WORKER))
        ),
    }


@exercise.probe
def probe(answer: Callable[..., Any], seed: int, rows: int, workers: int) -> dict[str, Any]:
    """Two runs with one seed after different pasts, one with another seed; then pretended loader workers."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        first, second = (run(answer, seed, rows, past) for past in (1, 2))
        other = run(answer, (seed + 7) % 2**32, rows, past=1)
        _, seed_worker = answer(seed)
        # In worker i of an epoch a DataLoader gives torch the seed base + i, with a new base for every epoch.
        epoch_1, epoch_2 = 8_123_456_789_012 + seed, 3_210_987_654_321 + seed
        return {
            "first": first,
            "second": second,
            "other": other,
            "workers": [worker_draws(seed_worker, epoch_1, worker, past=1) for worker in range(workers)],
            "workers again": [worker_draws(seed_worker, epoch_1, worker, past=2) for worker in range(workers)],
            "next epoch": [worker_draws(seed_worker, epoch_2, worker, past=1) for worker in range(workers)],
        }
    finally:
        torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)


def disturb(past: int) -> None:
    """Leave every global generator where some earlier work might have left it."""
    random.seed(past)
    np.random.seed(past)
    torch.manual_seed(past)


def run(answer: Callable[..., Any], seed: int, rows: int, past: int) -> dict[str, Any]:
    """Train a tiny net with dropout on noisy data; return what was drawn and the weights at the end."""
    disturb(past)
    torch.use_deterministic_algorithms(False)
    generator, _ = answer(seed)
    switches = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    order = torch.randperm(rows, generator=generator.clone_state()).tolist()
    torch.rand(8)
    later_order = torch.randperm(rows, generator=generator.clone_state()).tolist()
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    inputs = torch.linspace(-1, 1, rows * 4).reshape(rows, 4)
    rows_of_inputs = torch.utils.data.TensorDataset(inputs)
    batches = torch.utils.data.DataLoader(rows_of_inputs, batch_size=8, shuffle=True, generator=generator)
    for (batch,) in batches:
        noisy = batch + float(np.random.normal(scale=0.1)) * random.choice((-1, 1))
        optimizer.zero_grad()
        (net(noisy) - batch.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    return {
        "deterministic": switches[0],
        "only warns": switches[1],
        "random": [random.random() for _ in range(DRAWS)],
        "numpy": np.random.random(DRAWS).tolist(),
        "torch": torch.rand(DRAWS).tolist(),
        "order": order,
        "order after other draws": later_order,
        "weights": torch.cat([parameter.detach().flatten() for parameter in net.parameters()]),
    }


def worker_draws(seed_worker: Callable[[int], None], base: int, worker: int, past: int) -> list[float]:
    """What `random` and NumPy draw in a pretended worker process after `seed_worker`."""
    disturb(past)
    torch.manual_seed(base + worker)
    seed_worker(worker)
    return [random.random(), float(np.random.random())]

"""Settings: bad values are named, the schedule is transformers', the hash follows every setting."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import get_scheduler

from course.training import TrainingConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "dora"),
        ("schedule", "step"),
        ("rank", 0),
        ("rank", 2.0),
        ("alpha", -1),
        ("dropout", 1.0),
        ("learning_rate", float("nan")),
        ("warmup_fraction", 1),
        ("epochs", 0),
        ("max_steps", 0),
        ("batch_size", True),
        ("max_length", 1),
        ("clip_norm", float("inf")),
        ("weight_decay", -0.1),
        ("seed", -1),
        ("target_modules", ()),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}=.* cannot be used: it must be"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_schedule_equals_transformers(schedule):
    steps = 23
    config = TrainingConfig(schedule=schedule, warmup_fraction=0.2, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    warmup_steps = config.warmup_steps(steps)
    assert warmup_steps == 5
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps)
    for step in range(steps):
        assert config.learning_rate_at(step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_steps_come_from_epochs_or_from_max_steps():
    assert TrainingConfig(batch_size=8, epochs=1.5).steps(100) == 19
    assert TrainingConfig(max_steps=7).steps(100) == 7


def test_the_hash_changes_with_every_setting():
    config = TrainingConfig()
    changed = [
        dataclasses.replace(config, method="full"),
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, target_modules=["q_proj"]),
    ]
    assert len({config.hash(), *(other.hash() for other in changed)}) == 4
    assert config.hash() == TrainingConfig().hash()
    assert changed[1].differences(config.to_dict()) == ["seed: 0 -> 1"]

"""First uses made in the warm parent: they leave no trace but speed, and happen once."""

from __future__ import annotations

import sys

import pytest
import torch

from grader.sandbox import rehearsal
from grader.sandbox.zygote import thread_count


def test_every_library_that_is_loaded_is_used_and_the_generator_is_left_alone() -> None:
    import bitsandbytes  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    before, threads, done = torch.get_rng_state(), thread_count(), set()
    for use in rehearsal.REHEARSALS.values():
        use()  # `rehearse` keeps quiet about what fails; here it must not fail
    rehearsal.rehearse(done)
    assert done == set(rehearsal.REHEARSALS)
    assert torch.equal(torch.get_rng_state(), before)
    assert thread_count() == threads


def test_a_library_is_used_once_and_only_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setitem(sys.modules, "a_library", rehearsal)
    monkeypatch.setattr(
        rehearsal, "REHEARSALS", {"a_library": lambda: used.append("here"), "not_loaded": lambda: used.append("gone")}
    )
    done: set[str] = set()
    rehearsal.rehearse(done)
    rehearsal.rehearse(done)
    assert used == ["here"]
    assert done == {"a_library"}

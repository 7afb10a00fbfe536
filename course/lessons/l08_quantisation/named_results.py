"""Several results under their names, so that a check can say which of them is wrong."""

from __future__ import annotations

from typing import Any


def named(result: Any, *names: str) -> dict[str, Any]:
    """{name: part} of a tuple or list; raises what to return instead where it has another length or is none."""
    wanted = f"({', '.join(names)})"
    if not isinstance(result, tuple | list):
        raise TypeError(f"return a tuple {wanted}; yours is a {type(result).__name__}")
    if len(result) != len(names):
        raise ValueError(f"return a tuple {wanted} of {len(names)}; yours has {len(result)}")
    return dict(zip(names, result, strict=True))

"""One row of what the doctor found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

INSTALL_ADVICE = "Install what pyproject.toml names: make lab (or: pip install -e .)"


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, its state ("ok", "limited" or "missing"), what was found, and what to do."""

    name: str
    state: str
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain data, for `course doctor --json`."""
        return asdict(self)

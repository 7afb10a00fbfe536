"""jupytext and nbformat, imported without what reading and writing a notebook does not need.

Left to themselves they take 3.7 s of processor time to import, 3 s of it for a grammar of internationalised addresses
that jsonschema builds, and 0.3 s for Jupyter's server. Both are optional there: an import that fails is passed over.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

OPTIONAL = ("rfc3987_syntax", "jupyter_server")


def _import_without(optional: tuple[str, ...], name: str) -> ModuleType:
    absent = [each for each in optional if each not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None there makes an import fail.
    try:
        return importlib.import_module(name)
    finally:
        for each in absent:
            del sys.modules[each]


if TYPE_CHECKING:
    import jupytext
    import nbformat
else:
    nbformat = _import_without(OPTIONAL, "nbformat")
    jupytext = _import_without(OPTIONAL, "jupytext")

__all__ = ["jupytext", "nbformat"]

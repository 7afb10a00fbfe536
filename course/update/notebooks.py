"""A notebook file read for merging, and written back; a file that is no sound notebook is refused, never mended."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

from grader.notebook_format import nbformat

Notebook = Any  # nbformat's NotebookNode

OLDEST_FORMAT = 4
IDS_SINCE_MINOR = 5


class UnreadableNotebookError(ValueError):
    """A file that holds no sound notebook; says what is wrong with it."""


def read_notebook(data: bytes) -> Notebook:
    """The notebook, with an id for every cell (two cells may still share one). Raises UnreadableNotebookError."""
    if not data.strip():
        raise UnreadableNotebookError("the file is empty")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableNotebookError(f"it is not JSON ({error})") from error
    if not isinstance(found, dict) or not {"cells", "nbformat"} & found.keys():
        raise UnreadableNotebookError("it is JSON but no notebook")
    if found.get("nbformat") != OLDEST_FORMAT:
        raise UnreadableNotebookError(
            f"its notebook format is {found.get('nbformat')!r}, not {OLDEST_FORMAT}; open it in JupyterLab and save it"
        )
    found["nbformat_minor"] = minor = found.get("nbformat_minor", IDS_SINCE_MINOR)
    try:
        if minor < IDS_SINCE_MINOR:
            found["nbformat_minor"] = IDS_SINCE_MINOR
        for cell in found["cells"]:
            cell.setdefault("id", uuid.uuid4().hex[:8])
            if not isinstance(cell["source"], str):
                cell["source"] = "".join(cell["source"])
        notebook = nbformat.v4.reads(json.dumps(found))
        distinct = copy.deepcopy(notebook)
        for number, cell in enumerate(distinct.cells):
            cell.id = f"cell-{number}"
        nbformat.validate(distinct)
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableNotebookError(f"it is no sound notebook ({told})") from error
    return notebook


def written(notebook: Notebook) -> bytes:
    """The file's bytes, laid out as JupyterLab does. Raises nbformat's ValidationError for what is no notebook."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, sort_keys=True) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # Half a character, which JSON can write as an escape and UTF-8 cannot.
        return (json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n").encode()

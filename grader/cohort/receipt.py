"""A receipt for a learner: which file was graded, when, and what came of it, signed so that nobody can write one.

It holds what a learner may know: of hidden cases the category, never a value. The signature is an HMAC-SHA256 under a
key that stays with the results; only who holds it can check a receipt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grader.build import write_atomically
from grader.cohort.result import SubmissionResult
from grader.cohort.store import write_secret

FOLDER = "receipts"
KEY_FILE = "receipt_key"
KEY_BYTES = 32
LARGEST_BYTES = 2**20


class ReceiptError(ValueError):
    """A receipt that is none, or not one of this grader's; says why."""


def write_receipts(root: Path, folder: Path, results: Iterable[SubmissionResult]) -> Path:
    """One receipt per learner under `folder/receipts`. One that says the same already keeps its time.

    root: where the signing key is kept, made at first use and readable by its owner alone.
    """
    key = receipt_key(root)
    receipts = folder / FOLDER
    receipts.mkdir(exist_ok=True)
    for result in results:
        path = receipts / f"{result.learner}.json"
        said = public_result(result)
        if not _says(path, said):
            stamped = said | {"graded_at": datetime.now(UTC).isoformat(timespec="seconds")}
            signed = stamped | {"signature": _signature(stamped, key)}
            write_atomically(path, json.dumps(signed, indent=1) + "\n")
    return receipts


def public_result(result: SubmissionResult) -> dict[str, Any]:
    """What a learner may know of a result."""
    exercises = [
        {
            "exercise": each.exercise_id,
            "title": each.title,
            "status": each.status,
            "points": each.points,
            "max_points": each.max_points,
            "message": each.message,
            "hint": each.hint,
        }
        for each in result.results
    ]
    return {
        "learner": result.learner,
        "lesson": result.lesson,
        "file_sha256": result.sha256,
        "points": result.points,
        "max_points": result.max_points,
        "problem": result.problem,
        "repairs": list(result.repairs),
        "exercises": exercises,
    }


def check_receipt(path: Path, root: Path, notebook: Path | None = None) -> dict[str, Any]:
    """The receipt's content.

    Raises ReceiptError when it was not signed with the key in `root`, was changed since, or is not of this `notebook`.
    """
    key_path = root / KEY_FILE
    if not key_path.exists():
        raise ReceiptError(f"{key_path} is missing, so no receipt can be checked: name the results folder it came from")
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ReceiptError(f"{path} is larger than any receipt")
        receipt = json.loads(path.read_text(encoding="utf-8"))
        signature = receipt.pop("signature")
        genuine = hmac.compare_digest(str(signature).encode(), _signature(receipt, receipt_key(root)).encode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReceiptError(f"{path} is no receipt: {type(error).__name__}: {error}") from error
    if not genuine:
        raise ReceiptError(f"{path} was changed since it was signed, or was never signed with the key in {root}")
    if notebook is not None:
        digest = hashlib.sha256(notebook.read_bytes()).hexdigest()
        if digest != receipt["file_sha256"]:
            graded = receipt["file_sha256"]
            raise ReceiptError(f"{notebook} is not the graded file: its SHA-256 is {digest}, the receipt's {graded}")
    return receipt


def receipt_key(root: Path) -> bytes:
    """The signing key of a results folder."""
    path = root / KEY_FILE
    if not path.exists():
        write_secret(path, secrets.token_hex(KEY_BYTES))
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ReceiptError(f"{path} holds no key of {KEY_BYTES} bytes; restore it, or remove it to void all receipts")
    return key


def _signature(content: dict[str, Any], key: bytes) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _says(path: Path, said: dict[str, Any]) -> bool:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return {name: kept.get(name) for name in said} == said if isinstance(kept, dict) else False

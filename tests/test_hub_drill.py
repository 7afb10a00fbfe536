"""docs/instructor.md, command by command, on a real JupyterHub with nbgrader and three real accounts.

`make hub-drill` runs it: it needs root, JupyterHub and its proxy. Accounts, settings, folders and ports are private to
the drill. What was printed is left in `artifacts/hub_drill/`.
"""

from __future__ import annotations

import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from guide import code_blocks
from hub_drill import GUIDE, RIGHT, WRONG, drill

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts" / "hub_drill"
# L00 has 8 points; nobody answers the exercise for 3 of them, and one learner has the one for 2 wrong.
SCORES = {RIGHT: [5, 8], WRONG: [3, 8]}

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.fail("the drill makes accounts (on a machine of its own, in namespaces): run it as root")
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    return drill(ARTIFACTS)


def shown(page: str) -> str:
    """The words of an HTML page."""
    without_styles = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", without_styles)))


def test_every_shell_block_of_the_guide_was_run(seen: dict[str, Any]) -> None:
    blocks = [block for block in code_blocks(GUIDE.read_text(encoding="utf-8"))]
    assert {block.language for block in blocks} == {"sh"}
    assert {block.label for block in blocks} == {"root", "instructor", "learner"}
    assert [text for _, text, _ in seen["commands"]] == [block.text for block in blocks]


def test_make_hub_runs_before_the_drill() -> None:
    # The guide's one command that needs a network is run there, and not again inside the drill.
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^hub-drill: hub\b", makefile, re.MULTILINE)


def test_a_live_check_works_in_the_hub(seen: dict[str, Any]) -> None:
    assert "passed (2 of 2 points)" in seen["checks"][RIGHT]
    assert "not yet (0 of 2 points)" in seen["checks"][WRONG] and seen["hint"] in seen["checks"][WRONG]
    assert int(seen["kernel_bytes"]) > 0, "the base model was loaded from the shared cache"


def test_right_and_wrong_get_what_they_earned(seen: dict[str, Any]) -> None:
    assert seen["submitted"] is True
    assert seen["scores"] == SCORES
    assert (seen["formgrader_page"], seen["generated_again"], seen["stubs_stay"]) == (200, True, True)


def test_each_learner_gets_their_own_feedback(seen: dict[str, Any]) -> None:
    (right,), (wrong,) = (map(shown, seen["feedback"][name]) for name in (RIGHT, WRONG))
    assert "(Score: 5.0 / 8.0)" in right and seen["hint"] not in right
    assert "(Score: 3.0 / 8.0)" in wrong and wrong.count(seen["hint"]) >= 2  # In the comment and in the card.


def test_a_new_hand_in_is_graded_and_comes_back(seen: dict[str, Any]) -> None:
    assert seen["submitted_again"] is True
    assert seen["scores_after_a_new_hand_in"] == SCORES | {WRONG: SCORES[RIGHT]}
    first, second = map(shown, seen["feedback_after_a_new_hand_in"])
    assert "(Score: 3.0 / 8.0)" in first
    assert "(Score: 5.0 / 8.0)" in second and seen["hint"] not in second


def test_report_receipts_and_a_restored_backup_agree(seen: dict[str, Any]) -> None:
    assert seen["report"] is True
    told = "".join(seen["instructor"])
    for name in (RIGHT, WRONG):
        assert f"genuine, of this very notebook: {name}, l00_start, 5 of 8 points" in told
        assert re.search(rf"^00_start,.*\b{name},.*\b5\.0,", seen["grades_csv"], re.MULTILINE)
    assert seen["scores_after_restoring"] == seen["scores_after_a_new_hand_in"]
    assert set(seen["results"]) == {f"{RIGHT}.json", f"{WRONG}.json"}
    assert seen["results_after_restoring"] == seen["results"], "what was in the archive was graded again"


def test_people_are_kept_apart(seen: dict[str, Any]) -> None:
    assert seen["wrong_password"] == 403
    assert seen["server_of_another"] == 403
    assert (seen["formgrader_of_a_learner"], seen["formgrader_of_the_instructor"]) == (404, 200)
    assert seen["inbound_of_others"].count("Permission denied") == 3  # The hand-ins, and two homes.
    assert not re.search(r"^OPEN", seen["inbound_of_others"], re.MULTILINE)
    assert seen["seed_mode"] == "0o600"

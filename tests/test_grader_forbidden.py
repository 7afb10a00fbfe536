"""A forbidden name is found however honest code reaches it, and innocent names are left alone."""

from __future__ import annotations

import linecache

import pytest
import torch
import torch.nn.functional as F  # noqa: F401

from grader.forbidden import violations

FORBIDDEN = ("torch.nn.functional.softmax", "torch.softmax", "torch.optim", "json")


def cell(text: str, name: str = "answer"):
    """What `name` is after running `text` as a notebook cell does: with a file name that linecache knows."""
    file = f"<cell {hash(text)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict = {"__name__": "__main__"}
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    return namespace[name]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch\ndef answer(x):\n    return torch.softmax(x, 0)", ["torch.softmax"]),
        ("import torch as t\ndef answer(x):\n    return t.softmax(x, 0)", ["torch.softmax"]),
        ("from torch import softmax\ndef answer(x):\n    return softmax(x, 0)", ["torch.softmax"]),
        ("from torch import softmax as s\ndef answer(x):\n    return s(x, 0)", ["torch.softmax"]),
        ("import torch\ns = torch.softmax\ndef answer(x):\n    return s(x, 0)", ["torch.softmax"]),
        ("import torch.nn.functional as F\ndef answer(x):\n    return F.softmax(x, 0)", [FORBIDDEN[0]]),
        ("from torch import nn\ndef answer(x):\n    return nn.functional.softmax(x, 0)", [FORBIDDEN[0]]),
        ("from torch.nn.functional import softmax as g\ndef answer(x):\n    return g(x, 0)", [FORBIDDEN[0]]),
        ("def answer(x):\n    import torch.nn.functional as G\n    return G.softmax(x, 0)", [FORBIDDEN[0]]),
        ("def answer(x):\n    from torch.nn import functional as G\n    return G.softmax(x, 0)", [FORBIDDEN[0]]),
        ("def answer(x):\n    from torch import softmax\n    return softmax(x, 0)", ["torch.softmax"]),
        ("def answer(x):\n    import json\n    return json.dumps(x)", ["json"]),
        ("import json\ndef answer(x):\n    return json.decoder.JSONDecoder()", ["json"]),
        ("from json import dumps\ndef answer(x):\n    return dumps(x)", ["json"]),
        ("import torch\ndef answer(x):\n    return torch.optim.adamw.AdamW([x])", ["torch.optim"]),
        ("from torch.optim import AdamW\ndef answer(x):\n    return AdamW([x])", ["torch.optim"]),
        (
            "import torch\nclass answer(torch.nn.Module):\n    def f(self, x):\n        return torch.softmax(x, 0)",
            ["torch.softmax"],
        ),
        (
            "import torch\ndef helper(x):\n    return torch.softmax(x, 0)\ndef answer(x):\n    return helper(x)",
            ["torch.softmax"],
        ),
        (
            "import torch\nclass H:\n    def f(self, x):\n        return torch.softmax(x, 0)\n"
            "def mid(x):\n    return H().f(x)\ndef answer(x):\n    return mid(x)",
            ["torch.softmax"],
        ),
        ("import torch\ndef answer(x):\n    return list(map(torch.softmax, [x]))", ["torch.softmax"]),
        ("from torch.nn.functional import softmax as answer", [FORBIDDEN[0]]),
        ("import torch, json\ndef answer(x):\n    return torch.softmax(json.loads(x), 0)", ["torch.softmax", "json"]),
    ],
)
def test_a_forbidden_name_is_found(text, found):
    assert violations(cell(text), FORBIDDEN) == found


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ndef answer(x):\n    return torch.exp(x)",
        "import torch\ndef answer(x):\n    return torch.log_softmax(x, 0)",
        "import torch\ndef answer(x):\n    softmax = torch.exp(x)\n    return softmax / softmax.sum()",
        "def softmax(x):\n    return x\ndef answer(x):\n    return softmax(x)",
        "import json\ndef unused(x):\n    return json.dumps(x)\ndef answer(x):\n    return x",
        "def answer(x):\n    # never call torch.softmax here\n    return 'torch.softmax'",
        "import torch\ndef answer(x):\n    return torch.optimise if False else x",
        "def answer(x):\n    return answer(x - 1) if x else 0",
    ],
)
def test_an_innocent_answer_is_left_alone(text):
    assert violations(cell(text), FORBIDDEN) == []


def test_an_answer_without_source_is_left_alone():
    assert violations(eval("lambda x: x"), FORBIDDEN) == []
    assert violations(torch.exp, FORBIDDEN) == []


def test_nothing_of_the_learners_is_run():
    trap = "class Trap:\n    def __getattr__(self, name):\n        raise SystemExit\nt = Trap()\n"
    assert violations(cell(trap + "def answer(x):\n    return t.softmax(x)"), FORBIDDEN) == []

"""What a fresh clone relies on: make targets, pinned versions, declared dependencies, the README's commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CHORES = {"lab", "test", "lint", "verify", "build", "bench", "clean"}
TREE_LINE = re.compile(r"^(?P<indent>(?:[│|] {3}| {4}|\t)*)[├└]── (?P<name>[\w./-]+)")


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z]+):(?!=)", makefile, re.MULTILINE))


def undeclared_commands(readme: str, targets: set[str]) -> set[str]:
    """`make X` in code spans and code blocks whose X is no target."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    named = re.findall(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z][a-z ]*[a-z]|[a-z])", code)
    return {target for _, several in named for target in several.split()} - targets


def tree_paths(readme: str) -> Iterator[str]:
    """Paths of the README's tree: lines drawn with ├── and └──, or indented names inside a ```text block."""
    for block in re.findall(r"```(?:text)?\n(.*?)```", readme, re.DOTALL):
        stack: list[str] = []
        for line in block.splitlines():
            match = TREE_LINE.match(line)
            if match:
                depth = len(match["indent"]) // 4
                stack = [*stack[:depth], match["name"].strip("/")]
                yield "/".join(stack)


def unpinned(pyproject: dict, constraints: str) -> list[str]:
    """Declared requirements that constraints.txt does not pin, or pins to a version they refuse."""
    pinned = pins(constraints)
    project = pyproject["project"]
    extras = [item for several in project.get("optional-dependencies", {}).values() for item in several]
    problems = []
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            problems.append(f"{requirement.name} has no pin")
        elif not requirement.specifier.contains(Version(version)):
            problems.append(f"{requirement} refuses the pinned {version}")
    return problems


def pins(constraints: str) -> dict[str, str]:
    """Canonical name -> version."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def too_new_for(python: str, constraints: str) -> list[str]:
    """Pinned packages, as installed here, that refuse this version of Python."""
    problems = []
    for name, version in pins(constraints).items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        # Not .metadata[...] alone: with the importlib_metadata package installed, an absent field raises.
        needs = installed.metadata.get("Requires-Python")  # type: ignore[attr-defined]
        if installed.version.split("+")[0] == version and needs and not SpecifierSet(needs).contains(python):
            problems.append(f"{name} {version} needs Python {needs}")
    return problems


def imports_of(root: Path, package: str) -> set[str]:
    """Top-level names that a package's files import."""
    names: set[str] = set()
    for path in (root / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return names


def undeclared_imports(root: Path, pyproject: dict) -> set[str]:
    """Third-party modules imported by the packages that no dependency or extra of pyproject.toml provides."""
    project = pyproject["project"]
    extras = [item for several in project.get("optional-dependencies", {}).values() for item in several]
    declared = {canonicalize_name(Requirement(item).name) for item in [*project["dependencies"], *extras]}
    providers = packages_distributions()
    third_party = {
        name
        for package in ("course", "grader")
        for name in imports_of(root, package) - set(sys.stdlib_module_names) - {"course", "grader"}
    }
    return {
        name for name in third_party if not declared & {canonicalize_name(item) for item in providers.get(name, [name])}
    }


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_chore_is_a_target() -> None:
    assert make_targets((ROOT / "Makefile").read_text(encoding="utf-8")) >= CHORES


def test_every_target_runs_dry() -> None:
    for target in sorted(make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_a_missing_target_is_seen() -> None:
    assert CHORES - make_targets("lab:\n\ttrue\nBIN := x\ntest: lab\n") == CHORES - {"lab", "test"}


def test_readme_names_targets_only() -> None:
    targets = make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert undeclared_commands((ROOT / "README.md").read_text(encoding="utf-8"), targets) == set()


def test_an_unknown_make_command_is_seen() -> None:
    readme = "Please make sure.\n\n```\nmake lab\nmake PYTHON=python3.12 tset\n```\nThen `make coffee`."
    assert undeclared_commands(readme, {"lab", "test"}) == {"tset", "coffee"}


def test_readme_tree_exists() -> None:
    missing = [
        path for path in tree_paths((ROOT / "README.md").read_text(encoding="utf-8")) if not (ROOT / path).exists()
    ]
    assert missing == []


def test_a_missing_tree_path_is_seen() -> None:
    readme = "```text\n.\n├── course/   taught\n│   ├── device.py\n│   └── gone.py\n└── grader/\n```\n"
    assert list(tree_paths(readme)) == ["course", "course/device.py", "course/gone.py", "grader"]


def test_constraints_pin_every_dependency(pyproject: dict) -> None:
    assert unpinned(pyproject, (ROOT / "constraints.txt").read_text(encoding="utf-8")) == []


def test_constraints_name_no_build_of_a_version() -> None:
    # "torch==2.13.0+cpu" would refuse the CUDA build on a machine that has a GPU.
    assert "+" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_every_pin_works_on_the_oldest_python() -> None:
    # Debian 12 has 3.11.2: a package for 3.11.5 and newer once made `make lab` fail there.
    assert too_new_for("3.11.0", (ROOT / "constraints.txt").read_text(encoding="utf-8")) == []


def test_a_pin_that_is_too_new_is_seen() -> None:
    assert len(too_new_for("3.8.0", f"torch=={distribution('torch').version.split('+')[0]}\n")) == 1


def test_a_missing_or_refused_pin_is_seen() -> None:
    pyproject = {"project": {"dependencies": ["torch>=2", "numpy"], "optional-dependencies": {"lint": ["ruff<1"]}}}
    assert unpinned(pyproject, "# comment\ntorch==1.0\nruff==0.1\n") == [
        "torch>=2 refuses the pinned 1.0",
        "numpy has no pin",
    ]


def test_every_import_is_declared(pyproject: dict) -> None:
    assert undeclared_imports(ROOT, pyproject) == set()


def test_an_undeclared_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "device.py").write_text(
        "import json\nimport yaml\nimport no_such_thing\nfrom torch import nn\n"
    )
    assert undeclared_imports(tmp_path, {"project": {"dependencies": ["torch"]}}) == {"yaml", "no_such_thing"}


def test_packages_are_listed_so_that_datasets_is_not_one(pyproject: dict) -> None:
    assert pyproject["tool"]["setuptools"]["packages"]["find"]["include"] == ["course*", "grader*"]

"""What a fresh clone relies on: make targets, pinned versions, declared dependencies, and what the documentation names:
commands, options, paths and links.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.main import get_command

import course.cli
import grader.cli

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS: dict[str, Any] = {"course": get_command(course.cli.app), "grader": get_command(grader.cli.app)}
CHORES = {"lab", "test", "lint", "verify", "build", "bench", "clean"}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "grader" / "README.md"]
    if path.name != "CHANGELOG.md"  # Tells of what is gone, too.
)
TOP_FOLDERS = "bench|course|datasets|docs|grader|notebooks|tests"
# At the start of a code span, of a line, or of a command within it.
COMMAND = re.compile(
    r"(?:^|`|&&|;|\||[A-Z_]+=\S+ )[ \t]*(?:(?:\.\./)?\.venv[/\\]\w+[/\\])?(course|grader) ([a-z-][^`\n;|&#]*)",
    re.MULTILINE,
)
TREE_LINE = re.compile(r"^(?P<indent>(?:[│|] {3}| {4}|\t)*)[├└]── (?P<name>[\w./-]+)")


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


def undeclared_commands(readme: str, targets: set[str]) -> set[str]:
    """`make X` in code spans and code blocks whose X is no target."""
    named = re.findall(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z][a-z -]*[a-z]|[a-z])", code_of(readme))
    return {target for _, several in named for target in several.split()} - targets


def code_of(page: str) -> str:
    """Code spans and code blocks of a Markdown page."""
    return "\n".join(re.findall(r"```.*?```|`[^`]+`", page, re.DOTALL))


def unknown_commands(page: str) -> set[str]:
    """`course X --option` and `grader X --option` in code that the programs do not know."""
    unknown = set()
    code = re.sub(r"\\\n", " ", code_of(page))
    for program, rest in COMMAND.findall(code):
        command, words = PROGRAMS[program], rest.split()
        named = [program]
        while hasattr(command, "commands") and words and words[0] in command.commands:
            named.append(words[0])
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        if hasattr(command, "commands") and words:
            unknown.add(f"{' '.join(named)} {words[0]}")
        unknown |= {
            f"{' '.join(named)} {word}" for word in words if word.startswith("--") and word not in known | {"--help"}
        }
    return unknown


def missing_paths(page: str, root: Path) -> set[str]:
    """Paths below the project's folders in code spans that are not there; `l07_lora/` and CAPITALS stand for any."""
    named = set(re.findall(rf"`((?:{TOP_FOLDERS})/[\w./-]+)`", page))
    return {path for path in named if not re.search(r"[A-Z]{{3}}", path) and not (root / path).exists()}


def broken_links(page: str, folder: Path) -> set[str]:
    """Relative links to files that are not there, or to headings that they lack."""
    broken = set()
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        if re.match(r"\w+:", target):
            continue
        name, _, heading = target.partition("#")
        if (name and not (folder / name).exists()) or (
            heading and heading not in anchors((folder / name).read_text(encoding="utf-8") if name else page)
        ):
            broken.add(target)
    return broken


def anchors(page: str) -> set[str]:
    """What headings are called in links, as GitHub does it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(program: str) -> Iterator[tuple[str, Any]]:
    """(name, command) of everything that a program can do."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for each, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {each}", inner)

    return walk(program, PROGRAMS[program])


def without_help(name: str, command: Any) -> list[str]:
    """What `--help` leaves unexplained: a command, its arguments and options."""
    unexplained = [] if command.help else [name]
    return unexplained + [f"{name} {each.name}" for each in command.params if not getattr(each, "help", "")]


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


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert undeclared_commands(text, targets) == set()
    assert unknown_commands(text) == set()
    assert missing_paths(text, ROOT) == set()
    assert broken_links(text, (ROOT / page).parent) == set()


def test_there_is_a_page_for_each_audience_and_the_readme_leads_to_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"docs/learner.md", "docs/instructor.md", "docs/author.md", "CONTRIBUTING.md"} <= set(PAGES)
    assert [page for page in PAGES if page not in ("README.md",) and f"]({page})" not in readme] == []


def test_what_does_not_exist_is_seen(tmp_path: Path) -> None:
    page = """
# A page: with `code`
Run `grader grde x`, `.venv/bin/course lab --prot 0`, `grader grade --lesson 07_lora --aply` or `course model pth`.
```sh
grader build --check && grader repair
```
See `course/gone.py` and `course/here.py`; [here](#a-page-with-code), [there](#a-pge), [file](gone.md), [web](https://x.y).
"""
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "here.py").touch()
    assert unknown_commands(page) == {
        "grader grde", "course lab --prot", "grader grade --aply", "course model pth", "grader repair",
    }  # fmt: skip
    assert missing_paths(page, tmp_path) == {"course/gone.py"}
    assert broken_links(page, tmp_path) == {"#a-pge", "gone.md"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_option_has_help_and_its_example_works(program: str) -> None:
    for name, command in commands(program):
        assert without_help(name, command) == []
        assert unknown_commands(f"`{command.help.partition('Example: ')[2]}`") == set()
        if any(each.required for each in command.params):
            assert f"Example: {name} " in command.help, f"{name} needs arguments and shows no example"


def test_an_option_without_help_is_seen() -> None:
    def silent(lesson: str, out: Annotated[str, typer.Option(help="Where.")] = "", seed: int = 0) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command()(silent)
    assert without_help("silent", get_command(app)) == ["silent", "silent lesson", "silent seed"]


def test_the_authors_page_explains_every_rule_of_verify() -> None:
    rules = set()
    for path in (ROOT / "grader" / "verify").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Refusal", "evidence.refuse"):
                rule = node.args[1 if ast.unparse(node.func) == "Refusal" else 0]
                rules |= {rule.value} if isinstance(rule, ast.Constant) else set()
    explained = re.findall(
        r"^\| `([a-z ]+)` \|", (ROOT / "docs" / "author.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(explained) == sorted(rules) and len(rules) > 10


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

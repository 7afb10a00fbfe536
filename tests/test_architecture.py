"""Who may import whom, what may lie where: read from the source with ast, nothing is imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets"}
LESSON = re.compile(r"course\.lessons\.(l\d\d_\w+)")
# Folders of this machine, and the names of the place the project was built in.
FORBIDDEN_TEXT = re.compile(r"(?<![\w.])/(work|home|root|Users|tmp)/\w|\bshared/(?!_)|\bhttps?://localhost:\d+/simple")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".ipynb", ".json", ".css", ""}


def python_files(root: Path, package: str) -> Iterator[tuple[Path, str]]:
    """(file, dotted module name) of a package."""
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, module: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, True when at module level) of everything a file imports; relative imports made absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    type_checking = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        at_import = node not in inside and node not in type_checking
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            yield from ((f"{base}.{alias.name}", at_import) for alias in node.names)


def lesson_order(root: Path) -> list[str]:
    """Lesson ids in the order the syllabus gives them."""
    tree = ast.parse((root / "course" / "syllabus.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Lesson"]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]


def grader_imports_no_course(root: Path) -> list[str]:
    return [
        f"{module} imports {name}"
        for path, module in python_files(root, "grader")
        for name, _ in imported(path, module)
        if name.split(".")[0] == "course"
    ]


def grader_imports_heavy_libraries_in_functions(root: Path) -> list[str]:
    return [
        f"{module} imports {name} at module level"
        for path, module in python_files(root, "grader")
        for name, at_import in imported(path, module)
        if at_import and name.split(".")[0] in HEAVY
    ]


def lessons_import_earlier_lessons_only(root: Path) -> list[str]:
    order = lesson_order(root)
    found = []
    for path, module in python_files(root, "course/lessons"):
        mine = LESSON.match(module)
        for name, _ in imported(path, module) if mine else ():
            theirs = LESSON.match(name)
            if theirs and theirs[1] != mine[1] and order.index(theirs[1]) >= order.index(mine[1]):
                found.append(f"{module} imports {name}, a later lesson")
    return found


def toolkit_imports_no_lesson(root: Path) -> list[str]:
    return [
        f"{module} imports {name}"
        for path, module in python_files(root, "course")
        if not module.startswith("course.lessons")
        for name, _ in imported(path, module)
        if name.startswith("course.lessons")
    ]


def every_lesson_is_in_the_syllabus(root: Path) -> list[str]:
    folders = {path.name for path in (root / "course" / "lessons").glob("l[0-9]*") if path.is_dir()}
    return [f"{name} is in one of syllabus and course/lessons only" for name in folders ^ set(lesson_order(root))]


def no_python_under_datasets(root: Path) -> list[str]:
    return [f"{path.relative_to(root)}: data only" for path in (root / "datasets").rglob("*.py")]


def no_text_about_one_machine(root: Path) -> list[str]:
    found = []
    for path in tracked_files(root):
        if path.suffix not in TEXT_SUFFIXES or path == Path(__file__) or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if match := FORBIDDEN_TEXT.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {match[0]!r}")
    return found


def tracked_files(root: Path) -> list[Path]:
    """What git tracks or would add; in a tree without git, everything but hidden folders and build output."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and (root / ".git").exists():
        return [path for line in listed.stdout.splitlines() if (path := root / line).is_file()]
    skipped = {".venv", ".git", "build", "workspace", "artifacts", "results", "runs", "__pycache__"}
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part in skipped or part.endswith(("_cache", ".egg-info")) for part in path.relative_to(root).parts)
    ]


# rule -> (file, its text) that breaks it
VIOLATIONS: dict[Callable[[Path], list[str]], tuple[tuple[str, str], ...]] = {
    grader_imports_no_course: (
        ("grader/judge.py", "import course.syllabus\n"),
        ("grader/judge.py", "def judge():\n    from course import device\n"),
    ),
    grader_imports_heavy_libraries_in_functions: (
        ("grader/wire.py", "import torch\n"),
        ("grader/wire.py", "from torch import nn\n"),
        ("grader/wire.py", "class Wire:\n    import transformers\n"),
    ),
    lessons_import_earlier_lessons_only: (
        ("course/lessons/l01_first/answer.py", "from course.lessons.l02_second.other import other\n"),
        ("course/lessons/l01_first/answer.py", "from ..l02_second import other\n"),
        ("course/lessons/l01_first/lesson.py", "def late():\n    import course.lessons.l02_second\n"),
    ),
    toolkit_imports_no_lesson: (
        ("course/training/loop.py", "from course.lessons.l01_first.answer import answer\n"),
        ("course/device.py", "from .lessons import l01_first\n"),
    ),
    every_lesson_is_in_the_syllabus: (("course/lessons/l03_third/__init__.py", ""),),
    no_python_under_datasets: (("datasets/__init__.py", ""), ("datasets/sql/make.py", "")),
    no_text_about_one_machine: (
        ("README.md", "See " + "/ho" + "me/someone/project.\n"),
        ("course/device.py", "PATH = '/" + "tmp/cache'\n"),
        ("CONTRIBUTING.md", "Read shar" + "ed/DESIGN.md first.\n"),
    ),
}
PLANTED = [(rule, *violation) for rule, violations in VIOLATIONS.items() for violation in violations]


@pytest.fixture
def tidy_tree(tmp_path: Path) -> Path:
    """A tiny course that keeps every rule."""
    files = {
        "course/__init__.py": "",
        "course/syllabus.py": 'X = (Lesson("l01_first", "One"), Lesson("l02_second", "Two"))\n',
        "course/device.py": "import torch\n",
        "course/lessons/__init__.py": "",
        "course/lessons/l01_first/answer.py": "from course.device import device\nfrom grader.exercise import Case\n",
        "course/lessons/l02_second/other.py": "from course.lessons.l01_first.answer import answer\n",
        "grader/wire.py": "def encode(value):\n    import torch\n\n    return torch\n",
        "datasets/sql/rows.jsonl": "{}\n",
        "README.md": "Clone it anywhere.\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("rule", VIOLATIONS, ids=lambda rule: rule.__name__)
def test_project_keeps(rule: Callable[[Path], list[str]]) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize("rule", VIOLATIONS, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_tidy_tree(rule: Callable[[Path], list[str]], tidy_tree: Path) -> None:
    assert rule(tidy_tree) == []


@pytest.mark.parametrize(
    ("rule", "name", "text"), PLANTED, ids=[f"{rule.__name__}-{name}" for rule, name, _ in PLANTED]
)
def test_rule_catches(rule: Callable[[Path], list[str]], name: str, text: str, tidy_tree: Path) -> None:
    path = tidy_tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert len(rule(tidy_tree)) == 1


def where_datasets_is(root: Path) -> str:
    """The file that `import datasets` loads when Python is started in `root`."""
    code = "import datasets; print(datasets.__file__, hasattr(datasets, 'load_dataset'))"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_import_datasets_from_the_root_is_the_library() -> None:
    file, is_library = where_datasets_is(ROOT).split()
    assert is_library == "True"
    assert ROOT / "datasets" not in Path(file).parents


def test_a_python_file_in_datasets_would_shadow_the_library(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    assert where_datasets_is(tmp_path).split()[1] == "False"

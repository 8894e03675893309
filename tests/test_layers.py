"""The layers of the package: who may import whom, no cycles, upstream's private members in one file, lengths."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rm_toolkit"
# Each room imports only rooms listed before it.
ROOMS = (
    "errors", "losses", "output", "data", "batches", "models", "testing", "scoring", "evaluation", "hub", "training",
    "merging", "inspection", "collection", "study", "cli",
)  # fmt: skip
MODULE_LINES, FUNCTION_LINES = 300, 60
MODULES_AT_THE_TOP, FOLDERS_AT_THE_TOP = 3, 13


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, source: str | None = None) -> set[str]:
    """Modules of the package that a module imports anywhere: at the top, inside functions, under TYPE_CHECKING."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, node.module] if node.module else above)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {full if full in MODULES else base for full in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {target for target in found if target in MODULES} - {name}


GRAPH = {name: imports(name) for name in MODULES}


def room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_a_room_imports_only_rooms_below_it(name):
    assert room(name) in ROOMS, f"{name} stands in no room of the list"
    above = {target for target in GRAPH[name] if room(target) and ROOMS.index(room(target)) > ROOMS.index(room(name))}
    assert not above, f"{name} imports {sorted(above)} from a room above its own"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected, two or more)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        reach[start] = seen
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach.get(other, ())))
        for name in graph
        if name in reach[name]
    }
    return sorted(list(group) for group in groups)


def test_no_module_imports_itself_through_others():
    assert circles(GRAPH) == []


def test_a_planted_circle_and_a_lazy_upward_import_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    lazy = "def f():\n    from ..training import config\n"
    assert imports("rm_toolkit.models.settings", lazy) == {"rm_toolkit.training.config"}
    typed = "if TYPE_CHECKING:\n    from ..cli.push import run\n"
    assert imports("rm_toolkit.models.settings", typed) == {"rm_toolkit.cli.push"}


def bound_names(body: list[ast.stmt]) -> set[str]:
    """Names that statements at the top of a module bind, including those in `if`, `try` and `with` blocks."""
    found = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            for block in ("body", "orelse", "finalbody"):
                found |= bound_names(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                found |= bound_names(handler.body)
    return found


@functools.cache
def names_of(name: str) -> frozenset[str]:
    return frozenset(bound_names(ast.parse(MODULES[name].read_text(encoding="utf-8")).body))


def missing_names(name: str, source: str | None = None, relative: bool = True) -> list[str]:
    """Names that a module imports from modules of the package but that do not exist there."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    missing = []
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source)
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and source is not None]
    handlers = [node for node in handlers if isinstance(node.type, ast.Name) and node.type.id == "ImportError"]
    of_earlier_versions = {id(node) for handler in handlers for node in ast.walk(handler)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (node.level and not relative) or id(node) in of_earlier_versions:
            continue
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        target = ".".join([*above, *([node.module] if node.module else [])])
        if target.split(".")[0] != PACKAGE.name:
            continue
        if target not in MODULES:
            missing.append(target)
            continue
        known = names_of(target)
        if "__getattr__" in known:  # imported on first use
            known = known | set(importlib.import_module(target).__all__)
        names = [alias.name for alias in node.names]
        missing += [f"{target}.{n}" for n in names if n not in known and f"{target}.{n}" not in MODULES]
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_everything_that_is_imported_is_there(name):
    assert missing_names(name) == []


SCRIPTS = [*ROOT.glob("recipes/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("tests/**/*.py")]


@pytest.mark.parametrize("path", SCRIPTS, ids=[str(path.relative_to(ROOT)) for path in SCRIPTS])
def test_recipes_benchmarks_and_tests_import_what_is_there(path):
    if path == ROOT / "tests/fixtures/v0_2_1/generate.py":
        pytest.skip("runs in a checkout of 0.2.1 alone")
    found = missing_names(PACKAGE.name, path.read_text(encoding="utf-8"), relative=False)
    assert found == []


def test_a_planted_import_of_what_is_gone_is_found():
    planted = "def f():\n    from ... import cross_entropy\n    from ...losses import ranking_loss, nothing\n"
    found = missing_names("rm_toolkit.training.plan.step", planted)
    assert found == ["rm_toolkit.cross_entropy", "rm_toolkit.losses.nothing"]


def test_the_top_of_the_package_is_small():
    files = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(files) <= MODULES_AT_THE_TOP, files
    assert len(folders) <= FOLDERS_AT_THE_TOP, folders


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_stay_short(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= MODULE_LINES
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert not long, f"{name}: {long}"


def test_the_structure_benchmark_sees_a_planted_circle(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from structure import measure

    room = tmp_path / "rm_toolkit" / "room"
    room.mkdir(parents=True)
    (tmp_path / "README.md").write_text("four")
    for name, text in {
        "__init__": "",
        "one": "from .two import b\n",
        "two": "def f():\n    from . import one\n",
    }.items():
        (room / f"{name}.py").write_text(text)
    (tmp_path / "rm_toolkit" / "__init__.py").write_text("")
    found = measure(tmp_path)
    assert (found["import circles"], found["README, bytes"], found["longest function"]) == (1, 4, 2)
    assert measure(ROOT)["import circles"] == 0

"""The storeys of the package: who may import whom, no circles, upstream's private members in one file, lengths."""

from __future__ import annotations

import ast
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
    """Modules of the package that a module imports anywhere: at its top, inside functions, under TYPE_CHECKING."""
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

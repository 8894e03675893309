"""
Counts how a checkout is structured: modules, lines, import cycles and so on. Several checkouts are shown side by side.

    python benchmarks/structure.py                       # this one
    git worktree add ../before v0.2.1 && python benchmarks/structure.py ../before .

Only the source is read; the package is not imported.
"""

from __future__ import annotations

import argparse
import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from rm_toolkit.output.console import print_table


PACKAGE = "rm_toolkit"
UPSTREAM = "upstream.py"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]], help="folders (default: this checkout)"
    )
    checkouts = parser.parse_args().checkouts
    columns = [measure(folder) for folder in checkouts]
    print_table(
        ["", *(str(folder) for folder in checkouts)],
        [[name, *(str(column[name]) for column in columns)] for name in columns[0]],
    )


def measure(checkout: Path) -> dict[str, int | str]:
    """
    Returns a column of the table: numbers by name.

    Args:
        checkout (`Path`): The folder that contains the package.
    """
    sources = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (checkout / PACKAGE).rglob("*.py")}
    graph = import_graph(checkout, sources)
    circles = strongly_connected(graph)
    top = [path for path in (checkout / PACKAGE).iterdir() if not path.name.startswith("_")]
    functions = [node for tree in sources.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    classes = {
        node.name: node for tree in sources.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    overrides, calls = private_uses(sources)
    return {
        "top-level modules": sum(path.suffix == ".py" for path in top),
        "top-level folders": sum((path / "__init__.py").exists() for path in top if path.is_dir()),
        "modules": len(sources),
        "lines": sum(path.read_text(encoding="utf-8").count("\n") for path in sources),
        "longest module": max(path.read_text(encoding="utf-8").count("\n") for path in sources),
        "longest function": max(node.end_lineno - node.lineno + 1 for node in functions),
        "import circles": len(circles),
        "rooms on the longest import path": longest_path(graph, circles),
        "classes of the trainer": len(trainer_classes(classes)),
        "names that they read from each other on self": cross_reads(classes),
        "private overrides outside upstream.py": overrides,
        "private uses outside upstream.py": calls,
        "README, bytes": (checkout / "README.md").stat().st_size,
    }


def import_graph(checkout: Path, sources: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """The modules that each module imports, also inside functions and for type checking."""
    names = {}
    for path in sources:
        parts = path.relative_to(checkout).with_suffix("").parts
        names[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, tree in sources.items():
        package = names[path].split(".")[: None if path.name == "__init__.py" else -1]
        found = graph.setdefault(names[path], set())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                if module.split(".")[0] == PACKAGE:
                    found |= {full if (full := f"{module}.{alias.name}") in known else module for alias in node.names}
        found.discard(names[path])
    return graph


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that import each other, directly or through others."""

    @functools.cache
    def reached(start: str) -> frozenset[str]:
        found, todo = set(), [start]
        while todo:
            for name in graph.get(todo.pop(), ()):
                if name not in found:
                    found.add(name)
                    todo.append(name)
        return frozenset(found)

    circles: list[set[str]] = []
    for name in sorted(graph):
        if name in reached(name) and not any(name in circle for circle in circles):
            circles.append({other for other in reached(name) if name in reached(other)})
    return circles


def longest_path(graph: dict[str, set[str]], circles: list[set[str]]) -> int | str:
    """Number of rooms (folders and top-level modules) on the longest chain of imports."""
    rooms: dict[str, set[str]] = {}
    for name, imported in graph.items():
        for other in imported:
            one, two = (".".join(part.split(".")[1:2]) for part in (name, other))
            if one and two and one != two:
                rooms.setdefault(one, set()).add(two)
    if any(
        len({name.split(".")[1] for name in circle if "." in name}) > 1 for circle in circles
    ) or strongly_connected(rooms):
        return "endless: rooms import each other"

    @functools.cache
    def depth(room: str) -> int:
        return 1 + max((depth(other) for other in rooms.get(room, ())), default=0)

    return max(map(depth, rooms), default=1)


def trainer_classes(classes: dict[str, ast.ClassDef]) -> list[str]:
    """The trainer, and all classes of the package that it derives from."""
    found, todo = [], ["RewardModelTrainer"]
    while todo:
        name = todo.pop(0)
        if name in classes and name not in found:
            found.append(name)
            todo += [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return found


def cross_reads(classes: dict[str, ast.ClassDef]) -> int:
    """Number of names that a class of the trainer reads on `self` but that another of its classes sets or defines."""
    members = {name: _members(classes[name]) for name in trainer_classes(classes)}
    return sum(
        any(attribute in other_own for other, (other_own, _) in members.items() if other != name)
        for name, (own, read) in members.items()
        for attribute in read - own
    )


def _members(node: ast.ClassDef) -> tuple[set[str], set[str]]:
    """Names that a class defines or sets on `self`, and names that it reads from `self`."""
    own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    read = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self":
            (own if isinstance(item.ctx, ast.Store) else read).add(item.attr)
    return own, read


def private_uses(sources: dict[Path, ast.Module]) -> tuple[int, int]:
    """Numbers of overrides and uses of private members of transformers' and TRL's trainers, outside `upstream.py`."""
    from transformers import Trainer
    from trl import RewardTrainer, SFTTrainer

    upstream = {
        name for cls in (Trainer, RewardTrainer, SFTTrainer) for name in vars(cls) if name[0] == "_" and name[1] != "_"
    } | {"_set_sync_gradients", "_tr_loss", "_globalstep_last_logged", "_total_loss_scalar", "_initial_global_step"}
    overrides = calls = 0
    for path, tree in sources.items():
        if path.name == UPSTREAM:
            continue
        for node in _walk(tree):
            overrides += isinstance(node, ast.FunctionDef) and node.name in upstream
            calls += isinstance(node, ast.Attribute) and node.attr in upstream
    return overrides, calls


def _walk(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields all attribute accesses, and the methods of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (item for item in node.body if isinstance(item, ast.FunctionDef))
        elif isinstance(node, ast.Attribute):
            yield node


if __name__ == "__main__":
    main()

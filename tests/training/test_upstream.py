"""The private members of transformers' and TRL's trainers that this project uses have the recorded signatures."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
from pathlib import Path

from rm_toolkit.training.sft import BaseLmTrainer
from rm_toolkit.training.trainer import RewardModelTrainer


ROOT = Path(__file__).parents[2]
EXPECTED = Path(__file__).with_suffix(".json")
TRAINING = ROOT / "rm_toolkit/training"
THE_ONE_FILE, LINES = "upstream.py", 150


def uses(trainer: type) -> dict[str, str]:
    """`Class.member` -> signature, for upstream members that our classes override and private ones that they call."""
    upstream = [cls for cls in trainer.__mro__ if cls.__module__.split(".")[0] in ("transformers", "trl")]
    ours = [cls for cls in trainer.__mro__ if cls.__module__.startswith("rm_toolkit")]
    names = {name for cls in ours for name, value in vars(cls).items() if callable(value) and name[:2] != "__"}
    for cls in ours:
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(cls)))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[:2] != "__":
                names.add(node.attr)
    found = {}
    for cls in upstream:
        for name in sorted(names & vars(cls).keys()):
            if callable(vars(cls)[name]):
                parameters = inspect.signature(vars(cls)[name]).parameters.values()
                found[f"{cls.__name__}.{name}"] = ", ".join(
                    str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters
                )
    return found


def upstream_private_names() -> set[str]:
    """Private methods, class attributes and instance attributes of the trainers that ours derive from."""
    names = set()
    for trainer in (RewardModelTrainer, BaseLmTrainer):
        for cls in trainer.__mro__:
            if cls.__module__.split(".")[0] in ("transformers", "trl"):
                names |= set(vars(cls)) | set(re.findall(r"self\.(_\w+)(?:: [^=]+)? [-+]?= ", inspect.getsource(cls)))
    # Not a trainer's member, but used as in their loop.
    return {name for name in names if name.startswith("_") and name[:2] != "__"} | {"_set_sync_gradients"}


def private_uses(source: str, names: set[str]) -> set[str]:
    """Those of the names that a module reads or writes on any object, calls, or defines in a class of its own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                targets = getattr(item, "targets", [getattr(item, "target", None)])
                found |= {getattr(item, "name", None), *(getattr(target, "id", None) for target in targets)}
    return found & names


def test_private_members_of_upstream_are_used_in_one_file_alone():
    names = upstream_private_names()
    assert {"_save", "_tr_loss", "_evaluate", "_tag_names", "_get_learning_rate", "_total_loss_scalar"} <= names
    found = {
        path.relative_to(TRAINING).as_posix(): private_uses(path.read_text(encoding="utf-8"), names)
        for path in TRAINING.rglob("*.py")
    }
    beside = {name: sorted(uses) for name, uses in found.items() if uses and name != THE_ONE_FILE}
    assert not beside, f"use them through training/{THE_ONE_FILE}: {beside}"
    assert found[THE_ONE_FILE] > {"_save", "_tr_loss", "_tag_names", "_set_sync_gradients"}
    assert (TRAINING / THE_ONE_FILE).read_text(encoding="utf-8").count("\n") <= LINES


def test_planted_uses_of_private_members_are_found():
    names = {"_save", "_tr_loss", "_name"}
    assert private_uses("trainer._tr_loss.fill_(0)", names) == {"_tr_loss"}
    assert private_uses("class A:\n    _name = 'x'\n    def _save(self): pass\n", names) == {"_name", "_save"}
    assert private_uses("def _save(): pass\nx._saved = _save()\n", names) == set()


def test_upstream_members_in_use_have_the_signatures_that_they_had():
    """After an upgrade, look at each difference, then write what the assertion shows into `test_upstream.json`."""
    found = uses(RewardModelTrainer) | uses(BaseLmTrainer)
    assert found == json.loads(EXPECTED.read_text())
    assert len(found) > 25


def test_the_lowest_versions_are_those_of_setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].splitlines()
    for extra in parser["options.extras_require"].values():
        lines += extra.splitlines()
    floors = {}
    for line in filter(None, lines):
        name, version = re.match(r"([\w-]+) >= ([\d.]+)", line).groups()
        assert floors.setdefault(name, version) == version, f"two floors of {name}"
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints-lowest.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    floors.pop("torch")  # has no CPU build; see the head of the file

    def release(version):
        return tuple(map(int, version.split("."))) + (0,) * (4 - len(version.split(".")))

    assert floors.keys() <= pinned.keys()
    assert {name: release(version) for name, version in floors.items()} == {
        name: release(pinned[name]) for name in floors
    }

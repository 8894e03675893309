"""The private members of transformers' and TRL's trainers that this project overrides or calls, as they were when it did."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
from pathlib import Path

from rm_toolkit.training.sft import BaseLmTrainer
from rm_toolkit.training.trainer import RewardModelTrainer


ROOT = Path(__file__).parents[1]
EXPECTED = Path(__file__).with_suffix(".json")


def uses(trainer: type) -> dict[str, str]:
    """`Class.member` -> signature, of all upstream members that our classes override, and private ones that they call."""
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


def test_upstream_members_in_use_have_the_signatures_that_they_had():
    """After an upgrade: look at each difference, then write what the assertion shows into `test_upstream.json`."""
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
    floors.pop("torch")  # no CPU build: see the file's head

    def release(version):
        return tuple(map(int, version.split("."))) + (0,) * (4 - len(version.split(".")))

    assert floors.keys() == pinned.keys() - {"torch"}
    assert {name: release(version) for name, version in floors.items()} == {
        name: release(pinned[name]) for name in floors
    }

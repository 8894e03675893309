"""Puts secrets into the settings of a recipe and searches everything that it prints and writes for them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from planted_secrets import STAGES, leaks, planted_settings

from attacks.disks import Row
from attacks.runner import ROOT
from attacks.scenarios import Attacked, Scenario
from rm_toolkit.output.strict_yaml import strict_yaml


# Folders that the user names; their names do appear in paths.
PLACES = ("output_dir", "logging_dir", "dataset_cache_dir")


def planted(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Runs a recipe with a secret in each setting, one after the other."""
    stage = scenario.command.removesuffix(".py")
    if stage not in STAGES:
        return
    script, *words = scenario.argv
    given = {flag.removeprefix("--"): strict_yaml(value) for flag, value in zip(words[::2], words[1::2], strict=True)}
    base = strict_yaml((ROOT / "recipes" / "tiny" / f"{stage}.yaml").read_text(encoding="utf-8"))
    base.pop("tiny_base", None)
    recipe = attacked.inputs / "planted.yaml"
    for name, value in planted_settings(stage, taken=True):
        if name in PLACES:
            continue
        attacked.clear(scenario)
        recipe.write_text(json.dumps({**base, **given, name: value}), encoding="utf-8")  # JSON is YAML
        ended = attacked.runner.run([script, "--config", str(recipe)], **attacked.env)
        found = [f"printed: {leak}" for leak in leaks(ended.out + ended.err)]
        for path in sorted(attacked.area.rglob("*")):
            text = path.name + (path.read_bytes().decode("latin-1") if path.is_file() else "")
            found += [f"{path.relative_to(attacked.area)}: {leak}" for leak in leaks(text)]
        shown = json.dumps(value).replace("\n", " ")[:60]
        yield Row("secrets", scenario.name, f"`{name[:40]}`: {shown}, exit code {ended.code}", found, _said(ended.err))


def _said(text: str) -> str:
    return " ".join(text.split())[-300:]

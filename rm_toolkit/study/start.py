"""Accuracy before CRFT, for runs that do not measure it themselves: that of the GRFT run at its end."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ..data.specs import DatasetSpec
from ..errors import InputError
from ..training.recipe_file import load_yaml
from .grid import StudyConfig, customized_set


def check_start(study: StudyConfig) -> None:
    """
    Checks that accuracy before CRFT is measured somewhere: by the CRFT runs, or with `eval_on_start: false` by the GRFT run
    that they start from.

    Args:
        study (`StudyConfig`): The grid.

    Raises:
        `InputError`: naming the strategy and the test set.
    """
    recipes = {stage: load_yaml(getattr(study, stage).config) for stage in ("grft", "crft")}
    for strategy, settings in study.crft.strategies.items():
        for base, own in study.base_models.items():
            values = {**recipes["crft"], **study.crft.flags, **own, **(settings or {})}
            if values.get("eval_on_start", True) is not False:
                continue
            where = f"strategy '{strategy}' of base model '{base}' has `eval_on_start: false`"
            if not all(study.grft.data.values()):
                raise InputError(
                    f"{where}, and without GRFT nothing else measures accuracy before CRFT. Set it to true, or leave the "
                    "entry without training sets out of `grft.data`."
                )
            general = {**recipes["grft"], **study.grft.flags, **own}
            for domain in study.crft.domains:
                _check_sets(study, values, general, domain, where)


def _check_sets(
    study: StudyConfig, customized: dict[str, Any], general: dict[str, Any], domain: str, where: str
) -> None:
    wanted, measured = (_test_sets(values, domain) for values in (customized, general))
    for name in (*study.general_sets, customized_set(study, domain)):
        if name not in measured:
            raise InputError(
                f"{where}, but the GRFT run does not evaluate '{name}'. Add it to `eval_datasets` of {study.grft.config}, or "
                "set `eval_on_start` to true."
            )
        if name in wanted and wanted[name] != measured[name]:
            raise InputError(
                f"{where}, but '{name}' is another test set in the GRFT run: {_shown(measured[name])}, and here "
                f"{_shown(wanted[name])}. Make them equal, or set `eval_on_start` to true."
            )


def _test_sets(values: dict[str, Any], domain: str) -> dict[str, DatasetSpec]:
    # Only mappings are compared: a study's recipes are YAML.
    text = json.dumps(values.get("eval_datasets") or {}).replace("{domain}", domain)
    return {name: DatasetSpec.parse(spec, name) for name, spec in json.loads(text).items()}


def _shown(spec: DatasetSpec) -> dict[str, Any]:
    defaults = {item.name: item.default for item in dataclasses.fields(spec)}
    return {name: value for name, value in dataclasses.asdict(spec).items() if value != defaults[name]}

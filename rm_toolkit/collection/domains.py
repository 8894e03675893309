"""The domains of a collection: a YAML list of names and system prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.schema import describe
from ..errors import InputError, did_you_mean, name_list
from ..output.strict_yaml import read_yaml


FIELDS = ("name", "system_prompt")
# The instruction's own answer, as named in the published DSP data.
NORMAL = "normal"


@dataclass(frozen=True)
class Domain:
    """
    One domain.

    Args:
        name (`str`): Key of its responses in the DSP format.
        system_prompt (`str`): System prompt for every instruction.
    """

    name: str
    system_prompt: str


def load_domains(path: str | Path) -> list[Domain]:
    """
    Reads a YAML file `domains: [{name: …, system_prompt: …}, …]`.

    Raises:
        `InputError`: if the file cannot be read, has other fields, or names a domain twice.
    """
    content = read_yaml(path, "the domains", "Give a YAML file like data/domains.yaml.")
    if not isinstance(content.get("domains"), list) or not content["domains"]:
        raise InputError(f"{path} must have a list under `domains:`, each with {name_list(FIELDS)}.")
    for key in content:
        if key != "domains":
            raise InputError(f"{path}: there is no field '{key}', only 'domains'.{did_you_mean(key, ['domains'])}")
    found: list[Domain] = []
    for number, entry in enumerate(content["domains"], 1):
        domain = _read_domain(entry, f"{path}, domain {number}")
        if domain.name in [other.name for other in found]:
            raise InputError(f"{path}: the name '{domain.name}' is given twice; give each domain its own.")
        twin = next((other.name for other in found if other.system_prompt == domain.system_prompt), None)
        if twin is not None:
            raise InputError(f"{path}: '{twin}' and '{domain.name}' have the same system prompt; give each its own.")
        found.append(domain)
    return found


def _read_domain(entry: Any, place: str) -> Domain:
    if not isinstance(entry, Mapping):
        raise InputError(f"{place}: expected `name: …` and `system_prompt: …`, got {describe(entry)}.")
    for key in entry:
        if key not in FIELDS:
            raise InputError(
                f"{place}: there is no field '{key}', only {name_list(FIELDS)}.{did_you_mean(key, FIELDS)}"
            )
    for key in FIELDS:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise InputError(f"{place}: `{key}` must be a text, got {describe(entry.get(key))}.")
    name = entry["name"].strip()
    if name == NORMAL:
        raise InputError(
            f"{place}: the name '{NORMAL}' is reserved for the instruction's own answer; use another one."
        )
    return Domain(name, entry["system_prompt"].strip())

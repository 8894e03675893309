"""Secrets in every place of a recipe where somebody might write one, and a check whether a text reveals them."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from mistaken_values import RECIPES, settings_of

from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.output.ranges import Flag, Number


TOKEN = "hf_" + "Canary0123456789abcdefghijkl"
PASSWORD = "pa55word-canary"
PLANTED = f"https://me:x/{PASSWORD}@host.invalid/x.json?api_key={PASSWORD}&t={TOKEN}"
STAGES = {"grft": RECIPES["grft and crft"], "crft": RECIPES["grft and crft"], "sft": RECIPES["sft"]}


def forms(secret: str) -> set[str]:
    """A secret in plain text, URL-encoded, JSON-escaped and in base64."""
    data = secret.encode()
    encoded = {base64.b64encode(data).decode().rstrip("="), base64.urlsafe_b64encode(data).decode().rstrip("=")}
    return {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]} | encoded


def leaks(text: str) -> list[str]:
    """The forms of the two secrets that a text contains."""
    return [form for form in sorted(forms(PASSWORD) | forms(TOKEN)) if form in text]


def planted_settings(stage: str, *, taken: bool = False) -> Iterator[tuple[str, Any]]:
    """
    Yields recipe settings that contain secrets, as (name, value): in each setting, each nested key, and in names.

    Args:
        stage (`str`): `grft`, `crft` or `sft`.
        taken (`bool`): Whether to yield only values of a type that the setting accepts, so that they are not refused
            at once.
    """
    for name, rule in {k: r for group in STAGES[stage] for k, r in settings_of(group).items()}.items():
        inner = getattr(rule, "of", rule)
        if not (taken and isinstance(inner, Flag | Number)):
            yield name, PLANTED
        if not taken:
            yield name, [PLANTED]
            yield name, {"path": PLANTED, "api_key": PASSWORD}
        for key in getattr(inner, "known", None) or {}:
            yield name, {key: PLANTED}
        if name.endswith("_datasets"):
            yield name, {"mine": PLANTED}
            yield name, {PLANTED: "rows.jsonl"}
            for key in dataclasses.fields(DatasetSpec):
                yield name, {"mine": {"path": "rows.jsonl", key.name: PLANTED}}
    yield PLANTED, 1
    yield f"api_key={PASSWORD}", 1

"""The commands that serve or benchmark a model elsewhere: built only here, from its settings, for every page and card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, name_list
from ..models.adapter_files import is_adapter
from ..models.files import CONFIG_NAME
from ..models.folder_checks import read_checked
from ..models.hub_files import find_file, split_revision
from ..models.settings import RewardModelSettings, not_stock_notice
from .reading import reading_of


SERVERS = {"vllm": "vLLM", "sglang": "sglang", "rewardbench": "RewardBench"}
# Architectures for which sglang (0.5) has a class that returns the raw score.
SGLANG_CLASSES = ("Gemma2", "Llama", "Qwen2", "Qwen3")
# sglang accepts no context longer than the config's positions unless told to.
SGLANG_LONGER = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


@dataclass(frozen=True)
class ServingCommand:
    """
    The command with which a program reads the model as it was trained, or why it cannot.

    Args:
        server (`str`): One of `SERVERS`.
        words (`list[str]`): The command; empty if the program cannot read the model.
        environment (`dict[str, str]`): Variables that it needs.
        reason (`str`): Why it cannot, and what to do; else empty.
    """

    server: str
    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def line(self) -> str:
        """The command as one line for a shell."""
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), shlex.join(self.words)])


def serving_commands(
    model: str,
    settings: RewardModelSettings,
    config: Mapping[str, Any],
    *,
    revision: str | None = None,
    adapter: bool = False,
) -> dict[str, ServingCommand]:
    """
    Builds the commands with which a model gives the toolkit's rewards in fp32.

    Args:
        model (`str`): Folder or Hub id, as written in the command.
        settings (`RewardModelSettings`): Its settings.
        config (`Mapping[str, Any]`): Contents of its `config.json`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        adapter (`bool`): Whether it is only an adapter.

    Returns:
        `dict[str, ServingCommand]`: For each of `SERVERS`.
    """
    reason = not_stock_notice(settings.pooling_type) if not settings.stock else ""
    if adapter:
        reason = (
            "It is only an adapter, and servers read a reward head only from a merged model: serve the run's folder, "
            "which has the merged model."
        )
    if reason:
        return {server: ServingCommand(server, reason=reason) for server in SERVERS}
    made = (_vllm, _sglang, _rewardbench)
    return {server: make(model, settings, config, revision) for server, make in zip(SERVERS, made)}


def _vllm(
    model: str, settings: RewardModelSettings, config: Mapping[str, Any], revision: str | None
) -> ServingCommand:
    words = ["vllm", "serve", model, "--runner", "pooling", "--convert", "classify"]
    words += ["--max-model-len", str(settings.max_length), "--dtype", "float32"]
    if config.get("problem_type") != "regression":  # from another toolkit: it would return a probability
        words += ["--pooler-config", json.dumps({"use_activation": False})]
    return ServingCommand("vllm", words + (["--revision", revision] if revision else []))


def _sglang(
    model: str, settings: RewardModelSettings, config: Mapping[str, Any], revision: str | None
) -> ServingCommand:
    architecture = (config.get("architectures") or ["?"])[0]
    if architecture.removesuffix("ForSequenceClassification") not in SGLANG_CLASSES:
        known = name_list(SGLANG_CLASSES)
        return ServingCommand("sglang", reason=f"It reads classifiers of {known}, not {architecture}: use vLLM.")
    length = settings.max_length + 1  # it refuses a text as long as its context
    words = ["python", "-m", "sglang.launch_server", "--model-path", model, "--is-embedding"]
    words += ["--context-length", str(length), "--dtype", "float32"]
    longer = length > (config.get("max_position_embeddings") or length)
    return ServingCommand(
        "sglang", words + (["--revision", revision] if revision else []), {SGLANG_LONGER: "1"} if longer else {}
    )


def _rewardbench(
    model: str, settings: RewardModelSettings, config: Mapping[str, Any], revision: str | None
) -> ServingCommand:
    if settings.data_format != "chat":
        reason = (
            "It renders conversations, but a text model has no chat template: it would use another one and append EOS. "
            "Score its rows with `rm-toolkit evaluate`."
        )
        return ServingCommand("rewardbench", reason=reason)
    words = ["rewardbench", "--model", model, "--max_length", str(settings.max_length), "--force_truncation"]
    words += ["--torch_dtype", "float32", "--not_quantized"]
    if settings.pooling_type == "cls":  # it pads on the left, but an encoder reads the first token
        words += ["--batch_size", "1"]
    return ServingCommand("rewardbench", words + (["--revision", revision] if revision else []))


def find_commands(model: str) -> dict[str, ServingCommand]:
    """
    Builds the commands for a folder or Hub id, without reading its weights.

    Args:
        model (`str`): Folder or Hub id, also `ID@REVISION`.

    Returns:
        `dict[str, ServingCommand]`: As from [`serving_commands`].

    Raises:
        `InputError`: if there is no model there.
    """
    place, revision = split_revision(model)
    adapter = is_adapter(place, revision)
    if not adapter and find_file(place, CONFIG_NAME, revision) is None:
        raise InputError(f"'{model}' is not a model: there is no `{CONFIG_NAME}`. Name a model's folder or Hub id.")
    _, settings = reading_of(model)
    options = {"revision": revision, "adapter": adapter}
    return serving_commands(place, settings, read_config(place, revision), **options)


def read_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """Returns the contents of a model's `config.json`, empty if there is none (only an adapter)."""
    return read_checked(model, CONFIG_NAME, revision) or {}

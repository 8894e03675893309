"""Fingerprints of a run's base model and data, by content, wherever they are stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape as glob_escape
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn
from transformers.utils import cached_file

from ..batches.tokenization import TokenizedPreferences
from ..data.specs import DatasetSpec
from ..models.heads import HEAD_NAMES
from ..output.json_files import load_json


WHOLE = 1 << 26  # up to this many bytes a file is read whole; a larger one is sampled in evenly spaced blocks
BLOCK, NUM_BLOCKS = 1 << 16, 256
NUMBERS_AT_ONCE = 1 << 22
VALUES_OF_A_WEIGHT = 4096
# How a model was saved; it changes no weight.
NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "base_model_name_or_path", "peft_version")
MODEL_FILES = (
    "config.json", "adapter_config.json", "*.safetensors", "*.index.json", "pytorch_model*.bin", "adapter_model.bin",
    "lm_head/*.safetensors",
)  # fmt: skip


@dataclass
class Base:
    """
    The model that a run starts from.

    Args:
        name (`str`): Folder or Hub id; empty for a model passed in memory.
        revision (`str`, *optional*): Of the Hub.
        weights (`str`): Digest of the weights of a model in memory.
        options (`dict`, *optional*): Loading options that change the model.
    """

    name: str = ""
    revision: str | None = None
    weights: str = ""
    options: dict[str, Any] | None = None

    @classmethod
    def of(cls, model: Any, options: Mapping[str, Any] | None) -> Base:
        """
        Describes the model passed to a trainer, before anything is added to it.

        Args:
            model (`str` or `nn.Module`): Folder, Hub id, or the model itself.
            options (mapping, *optional*): `model_init_kwargs`.
        """
        options = dict(options or {})
        revision = options.pop("revision", None)
        for name in ("attn_implementation", "quantization_config", "cache_dir", "token", "local_files_only"):
            options.pop(name, None)  # compared by their result, or paths and secrets
        named = {name: str(value) for name, value in sorted(options.items()) if value is not None} or None
        if isinstance(model, str):
            return cls(model, revision, options=named)
        return cls(weights=weights_digest(getattr(model, "base_classifier", model)), options=named)

    def settings(self) -> dict[str, Any]:
        """Returns the entries of a run's record."""
        found: dict[str, Any] = {"base_options": self.options}
        if self.weights:
            found["base_weights"] = self.weights
        elif (digest := files_digest(self.name, self.revision)) is not None:
            found["base_files"] = digest
        return found


def weights_digest(model: nn.Module) -> str:
    """
    Returns 16 hex digits over the names, shapes and some thousand values of each weight except the reward head's,
    which a stock class initializes without a seed.
    """
    digest = xxhash.xxh3_64()
    for name, value in model.named_parameters():
        if name.split(".")[0] in HEAD_NAMES:
            continue
        value = value.detach()
        digest.update(f"{name} {tuple(getattr(value, 'ds_shape', value.shape))}".encode())
        if value.numel() and not value.is_meta and not hasattr(value, "full_tensor"):
            some = value.reshape(-1)[:: max(1, value.numel() // VALUES_OF_A_WEIGHT)]
            digest.update(some.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_digest(name: str, revision: str | None = None) -> str | None:
    """
    Returns 16 hex digits over config and weights of a saved model, wherever it is; `None` if its files are not local.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Of the Hub.
    """
    folder = _folder_of(name, revision)
    if folder is None:
        return None
    digest = xxhash.xxh3_64()
    for pattern in MODEL_FILES:
        for path in sorted(glob(os.path.join(glob_escape(folder), pattern))):
            digest.update(os.path.relpath(path, folder).encode())
            if path.endswith("config.json"):
                content = load_json(Path(path))
                below = content.get("base_model_name_or_path")
                content = {key: value for key, value in content.items() if key not in NOT_OF_THE_MODEL}
                digest.update(json.dumps(content, sort_keys=True).encode())
                if below and below != name:
                    digest.update((files_digest(below) or "").encode())
            else:
                digest.update(file_digest(path).encode())
    return digest.hexdigest()


def _folder_of(name: str, revision: str | None) -> str | None:
    if os.path.isdir(name):
        return name
    for file in ("config.json", "adapter_config.json"):
        try:
            path = cached_file(
                name,
                file,
                revision=revision,
                local_files_only=True,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:
            path = None
        if path is not None:
            return os.path.dirname(path)
    return None


def file_digest(path: str | os.PathLike) -> str:
    """Returns 16 hex digits over size and content of a file; for a large one, over 256 blocks spread through it."""
    digest, size = xxhash.xxh3_64(), os.path.getsize(path)
    digest.update(str(size).encode())
    with open(path, "rb") as stream:
        if size <= WHOLE:
            while block := stream.read(1 << 22):
                digest.update(block)
        else:
            for number in range(NUM_BLOCKS):
                stream.seek((size - BLOCK) * number // (NUM_BLOCKS - 1))
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def tokens_digest(data: TokenizedPreferences, with_lm_targets: bool = False) -> str:
    """
    Returns 16 hex digits over what a model reads of a dataset: token ids, pairs, their rows, prompts and margins.

    Args:
        data (`TokenizedPreferences`): The dataset.
        with_lm_targets (`bool`): Whether to include which texts count for the LM loss.
    """
    digest = xxhash.xxh3_64()
    columns = [data.ids, data.offsets, data.better, data.worse, data.row, data.prompt]
    columns += [data.lm_better, data.lm_worse] if with_lm_targets else []
    for column in columns:
        for begin in range(0, len(column), NUMBERS_AT_ONCE):
            digest.update(np.ascontiguousarray(column[begin : begin + NUMBERS_AT_ONCE], dtype="<i8").tobytes())
        digest.update(b"|")
    if data.margin is not None:
        digest.update(np.ascontiguousarray(data.margin, dtype="<f4").tobytes())
    return digest.hexdigest()


def describe_content(entry: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns what a lineage entry of a stage records about the content of its data, as entries of a run's record.

    Args:
        entry (mapping): From [`~rm_toolkit.training.run_record.lineage_entry`].
    """
    found: dict[str, Any] = {}
    for name, key in (("train_data", "datasets"), ("replay_data", "replay_datasets")):
        content = _contents(entry.get(key, {}))
        if content:
            found[name] = content
    for name, described in entry.get("eval_datasets", {}).items():
        if described.get("fingerprint"):
            found[f"eval_data.{name}"] = described["fingerprint"]
    return found


def _contents(described: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """Identifiers of datasets, in their order; `None` if one of them has none."""
    found = []
    for name, entry in described.items():
        if entry.get("fingerprint"):
            found.append(entry["fingerprint"])
        elif entry.get("streaming") and entry.get("spec") is not None:
            found.append(_stream_digest(DatasetSpec.parse(entry["spec"], name)))
        else:
            return None
    return found


def _stream_digest(spec: DatasetSpec) -> str:
    """Identifier of a stream, which is not read before training: its files, and which rows of them are used."""
    digest = xxhash.xxh3_64()
    options = [spec.source, spec.split, spec.domain, spec.layout, spec.format, spec.fraction, spec.test_size]
    options += [spec.columns, spec.template, spec.strip_citations, spec.skip_invalid]
    digest.update(json.dumps(options, sort_keys=True).encode())
    files = list(_files_of(spec.path))
    for path in files:
        digest.update(Path(path).name.encode() + file_digest(path).encode())
    if not files:
        digest.update(spec.path.encode())  # of the Hub
    return digest.hexdigest()


def _files_of(path: str) -> Iterable[str]:
    if os.path.isdir(path):
        path = os.path.join(glob_escape(path), "**")
    elif os.path.isfile(path):
        path = glob_escape(path)
    return (found for found in sorted(glob(path, recursive=True)) if os.path.isfile(found))

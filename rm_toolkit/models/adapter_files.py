"""What an adapter's folder or repository says of itself: its config, its tensors, its base and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

from peft import PeftConfig
from safetensors import SafetensorError, safe_open

from ..errors import InputError, first_line
from .files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG_NAME
from .hub_files import find_file


def is_adapter(name: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository holds an adapter and no model."""
    has_config = find_file(name, ADAPTER_CONFIG, revision) is not None
    return has_config and find_file(name, CONFIG_NAME, revision) is None


def read_adapter(folder: str, revision: str | None = None) -> tuple[PeftConfig, list[str]]:
    """
    Reads the config of an adapter and the names of its tensors.

    Raises:
        `InputError`: naming the file that is missing or damaged.
    """
    try:
        config = PeftConfig.from_pretrained(folder, revision=revision)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise InputError(f"'{folder}': its `{ADAPTER_CONFIG}` cannot be read: {first_line(error)}") from error
    path = Path(folder, ADAPTER_WEIGHTS) if os.path.isdir(folder) else find_file(folder, ADAPTER_WEIGHTS, revision)
    try:
        with safe_open(path, framework="pt") as handle:
            return config, list(handle.keys())
    except (OSError, TypeError, SafetensorError) as error:
        raise InputError(
            f"'{folder}' has an `{ADAPTER_CONFIG}` but no readable `{ADAPTER_WEIGHTS}` ({error}). Restore the file."
        ) from error


def find_base(folder: str, config: PeftConfig) -> tuple[str, str | None]:
    """Returns the folder or Hub id of an adapter's base, and the revision that the adapter was trained on."""
    base = config.base_model_name_or_path
    if not base:
        raise InputError(
            f"'{folder}': its `{ADAPTER_CONFIG}` names no base. Write the base's folder or Hub id into "
            "`base_model_name_or_path`."
        )
    for candidate in (Path(base), Path(folder, base)):
        if candidate.is_dir():
            return str(candidate), None
    revision = getattr(config, "revision", None)
    if any(find_file(base, name, revision) is not None for name in (CONFIG_NAME, ADAPTER_CONFIG)):
        return base, revision
    at = f" at {revision}" if revision else ""
    merged = Path(folder).parent
    hint = f" The merged model in '{merged}' needs no base." if (merged / "config.json").exists() else ""
    raise InputError(
        f"'{folder}' is an adapter for the base '{base}'{at}, which is neither a folder here nor within reach on the "
        f"Hub. Put the base there, or write its place into `base_model_name_or_path` of {ADAPTER_CONFIG}.{hint}"
    )


def base_of_adapter(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """Returns the folder or Hub id of an adapter's base and its revision; `None` for what is no adapter."""
    return find_base(name, read_adapter(name, revision)[0]) if is_adapter(name, revision) else None


def tokenizer_source(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """
    Returns where the tokenizer of a model stands: with it, or, for an adapter saved without one, with its base.

    Args:
        name (`str`): Folder or Hub id of a model or an adapter.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `tuple`: Folder or Hub id, and its revision.
    """
    if not is_adapter(name, revision) or find_file(name, "tokenizer_config.json", revision) is not None:
        return name, revision
    return find_base(name, read_adapter(name, revision)[0])

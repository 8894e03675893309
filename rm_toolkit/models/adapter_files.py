"""Reads an adapter's folder or repository: its config, its tensors, its base and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from peft import PeftConfig

from ..errors import InputError, class_and_line
from .files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG_NAME
from .folder_checks import check_floating, open_tensors, place_of, read_checked
from .hub_files import find_file
from .load_errors import named_key


def is_adapter(name: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository has an adapter and no model."""
    has_config = place_of(name, ADAPTER_CONFIG, revision) is not None
    return has_config and place_of(name, CONFIG_NAME, revision) is None


def read_adapter(folder: str, revision: str | None = None) -> tuple[PeftConfig, list[str]]:
    """
    Reads the config of an adapter and the names of its tensors.

    Raises:
        `InputError`: naming the file that is missing or damaged.
    """
    values = read_checked(folder, ADAPTER_CONFIG, revision)
    try:
        config = PeftConfig.from_pretrained(folder, revision=revision)
    except Exception as error:  # each kind of adapter has its own checks
        key = named_key(values or {}, str(error))
        raise InputError(f"'{folder}': its `{ADAPTER_CONFIG}` cannot be read: {key}{class_and_line(error)}") from error
    path = place_of(folder, ADAPTER_WEIGHTS, revision)
    if path is None:
        raise InputError(
            f"'{folder}' has an `{ADAPTER_CONFIG}` but no `{ADAPTER_WEIGHTS}`; weights in pickles (`adapter_model.bin`) "
            "are not read. Restore the file."
        )
    headers = open_tensors(path)
    if not headers:
        raise InputError(f"{path} has no weights. Restore the file.")
    check_floating(headers, path)
    return config, list(headers)


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
        f"'{folder}' is an adapter for the base '{base}'{at}, which is not a local folder and cannot be reached on the "
        f"Hub. Put the base there, or write its path into `base_model_name_or_path` of {ADAPTER_CONFIG}.{hint}"
    )


def base_of_adapter(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """Returns the folder or Hub id of an adapter's base and its revision; `None` if it is not an adapter."""
    return find_base(name, read_adapter(name, revision)[0]) if is_adapter(name, revision) else None


def tokenizer_source(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """
    Returns where the tokenizer of a model is: with it, or, for an adapter saved without one, with its base.

    Args:
        name (`str`): Folder or Hub id of a model or an adapter.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `tuple`: Folder or Hub id, and its revision.
    """
    if not is_adapter(name, revision) or find_file(name, "tokenizer_config.json", revision) is not None:
        return name, revision
    return find_base(name, read_adapter(name, revision)[0])

"""The files of a model folder that are published: no training state, no path of the user's machine, no token."""

from __future__ import annotations

import copy
import fnmatch
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from transformers.dynamic_module_utils import get_relative_imports

from ..data.records import looks_like_hub_id
from ..errors import InputError, name_list
from ..models.files import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    CONFIG_NAME,
    FIGURE_FOLDER,
    SETTINGS_NAME,
    TAKEN_UP,
    list_folder,
)
from ..models.folder_rules import ADAPTER_RULES
from ..models.hub_files import split_revision
from ..models.settings import RewardModelSettings
from ..models.value_rules import check_values
from ..output.json_files import check_regular, load_json, read_mapping
from .places import is_local, public_name, shorten_paths, without_places


MOST_NAMED = 8  # files named in a line


@dataclass
class Staged:
    """
    Which files of a model folder are published.

    Args:
        staying (`list[str]`): Paths that are not published.
        left_out (`bool`): Whether an `adapter/` was left out because its base is a local folder.
    """

    staying: list[str] = field(default_factory=list)
    left_out: bool = False


def public_settings(settings: RewardModelSettings) -> RewardModelSettings:
    """Returns the settings without paths of the user's machine in their lineage."""
    settings = copy.deepcopy(settings)
    for entry in settings.stages():
        if "base" in entry:
            entry["base_is_local"] = is_local(entry["base"], entry.get("base_is_local"))
            entry["base"] = public_name(entry["base"], entry["base_is_local"])
        for key in ("datasets", "replay_datasets", "eval_datasets"):
            for described in entry.get(key, {}).values():
                described["spec"] = _public_spec(described.get("spec"), described.get("local"))
        if "changed_settings" in entry:
            entry["changed_settings"] = _without_paths(entry["changed_settings"])
        if "customized" in entry:  # folders that were merged
            entry["customized"] = [Path(folder).name for folder in entry["customized"]]
    return settings


def _without_paths(value: Any) -> Any:
    """A setting may be a path (such as a chat template's); its last part is enough."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _public_spec(spec: Any, recorded: bool | None) -> Any:
    if isinstance(spec, dict):
        return {**spec, "path": public_name(spec["path"], recorded)} if spec.get("path") else spec
    if not isinstance(spec, str):
        return spec
    path, colon, fraction = spec.rpartition(":")
    if colon and fraction.replace(".", "", 1).isdigit():
        return f"{public_name(path, recorded)}:{fraction}"
    return public_name(spec, recorded)


def stage_model(folder: str, target: Path, settings: RewardModelSettings, base_model: str | None) -> Staged:
    """
    Prepares the published files of a model or adapter folder, as listed in the table of files: links to large files,
    copies of small ones without private content.

    Args:
        folder (`str`): The saved model.
        target (`Path`): An empty folder.
        settings (`RewardModelSettings`): Its settings.
        base_model (`str`, *optional*): Hub id of the base, for an adapter whose base is a local folder.

    Returns:
        `Staged`: The files that are not published.

    Raises:
        `InputError`: if a file of the model is a link out of the folder, or a text file has gigabytes.
    """
    source, done = Path(folder), Staged()
    code = code_files(source)
    # Unknown files come first among the unpublished ones, since a line names only a few.
    for name, row in sorted(list_folder(source), key=lambda entry: entry[1] is not None):
        path = source / name
        if row is None or not row.published or (path.suffix == ".py" and name not in code):
            done.staying.append(name)
        elif path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
            if row.loaded:
                raise InputError(
                    f"{path} is a link out of the folder, which is not followed, but the model needs the file; nothing "
                    "was sent. Put a copy of the file there (`cp -rL` copies a folder and resolves its links)."
                )
            done.staying.append(name)
        elif not path.is_file():
            done.staying.append(name)
        elif name.startswith(f"{ADAPTER_FOLDER}/") and adapter_base(source / ADAPTER_FOLDER, base_model) is None:
            done.left_out = True
        else:
            if path.suffix != ".safetensors":
                check_regular(path)  # it is read whole, to search for a token
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _stage_file(path, target / name, settings, base_model)
    return done


def _stage_file(path: Path, destination: Path, settings: RewardModelSettings, base_model: str | None) -> None:
    if path.name == SETTINGS_NAME:
        public_settings(settings).save(destination.parent)
    elif path.name == ADAPTER_CONFIG:
        values = load_json(path)
        if base_model is not None:  # not the base of training: its revision does not apply here
            values["revision"] = split_revision(base_model)[1]
        values["base_model_name_or_path"] = adapter_base(path.parent, base_model)
        _write_json(destination, values)
    elif path.name in (CONFIG_NAME, "tokenizer_config.json"):
        values = load_json(path)
        if values == without_places(values):
            destination.symlink_to(path.resolve())
        else:
            _write_json(destination, without_places(values))
    elif destination.parent.name == FIGURE_FOLDER:
        destination.write_text(shorten_paths(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        destination.symlink_to(path.resolve())


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def code_files(folder: Path) -> set[str]:
    """Returns the `*.py` files of a model that needs trust_remote_code: those in `auto_map`, and their imports."""
    found: set[str] = set()
    for name in (CONFIG_NAME, "tokenizer_config.json"):
        path = folder / name
        mapped = load_json(path).get("auto_map", {}) if path.is_file() else {}
        for entry in mapped.values() if isinstance(mapped, dict) else [mapped]:
            for place in entry if isinstance(entry, list) else [entry]:
                if place and "--" not in place:  # with "--" it is in another repository
                    found.add(f"{place.split('.')[0]}.py")
    waiting = list(found)
    while waiting:
        path = folder / waiting.pop()
        imported = {f"{name}.py" for name in get_relative_imports(path)} if path.is_file() else set()
        waiting += imported - found
        found |= imported
    return found


def adapter_base(folder: Path, base_model: str | None) -> str | None:
    """Returns the Hub id of an adapter's base, or `None` if it is a local folder; refuses a damaged config."""
    if base_model is not None:
        return split_revision(base_model)[0]
    config = folder / ADAPTER_CONFIG
    values = read_mapping(config) if os.path.lexists(config) else {}
    check_values(values, ADAPTER_RULES, str(config))
    base = values.get("base_model_name_or_path")
    return None if not base or os.path.exists(base) or not looks_like_hub_id(base) else base


def describe_staying(folder: str, staying: list[str]) -> str | None:
    """Describes in a line what is not published; `None` if everything is."""
    if not staying:
        return None
    named = ", ".join(staying[:MOST_NAMED])
    more = f" and {len(staying) - MOST_NAMED:,} more" if len(staying) > MOST_NAMED else ""
    return (
        f"{folder}: {named}{more} {'stays' if len(staying) == 1 else 'stay'} here; only the files of a model are sent."
    )


def check_no_token(folder: Path, token: str | None) -> None:
    """
    Refuses to publish a file that contains the token.

    Raises:
        `InputError`: naming the file.
    """
    secret = (token or get_token() or "").encode()
    if not secret:
        return
    for path in sorted(folder.rglob("*")):
        # Weights and Parquet files are written by libraries from tensors and rows.
        if path.is_file() and path.suffix not in (".safetensors", ".parquet") and secret in path.read_bytes():
            raise InputError(
                f"{path.relative_to(folder)} contains your token; nothing was sent. Remove it from that file."
            )


def check_no_foreign_weights(repo_id: str, remote: set[str], published: set[str], earlier: list[str]) -> None:
    """
    Refuses a repository with other weights that would be loaded with or instead of ours.

    Raises:
        `InputError`: naming the files.
    """
    others = sorted(
        name
        for name in remote - published - set(earlier)
        if any(fnmatch.fnmatch(name, pattern) for pattern in TAKEN_UP) and "/" not in name
    )
    if others:
        raise InputError(
            f"{repo_id} has {name_list(others)}, which this toolkit did not push and loaders would mix with it; nothing "
            "was sent. Remove them on the Hub, or use another repository or --revision."
        )

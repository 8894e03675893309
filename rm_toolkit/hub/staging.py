"""What of a model folder goes to the Hub: no training state, no place of the user's machine, no token."""

from __future__ import annotations

import copy
import fnmatch
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from ..data.records import looks_like_hub_id
from ..errors import InputError, name_list
from ..models.files import ADAPTER_CONFIG, ADAPTER_FOLDER
from ..settings import SETTINGS_NAME, RewardModelSettings


# Training state stays at home: it is large, and optimizer and RNG files are pickles. So does what names places here.
NOT_PUBLISHED = (
    "checkpoint-*", "runs", "wandb", "trackio", "trainer_state.json", "*.bin", "*.pt", "*.pth", "*.pkl", "*.tmp", "*.log",
    "events.out.tfevents*", "__pycache__", ".*", "anchor_rewards", "merge.json", "frontier",
)  # fmt: skip
# Files that loaders and servers take up wherever they find them.
LOADED_FILES = ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, "adapter_model.*", "pytorch_model*")
FIGURE_FOLDER = "evaluation"
# Not the middle of an address or of a relative path.
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~-])~?/(?:[^\s'\"`,;:()/]+/)+([^\s'\"`,;:()/]+)")


def is_local(name: str, recorded: bool | None) -> bool:
    """Whether a base or a data set was a path of the machine that trained, as recorded there, or as it looks here."""
    if recorded is not None:
        return recorded
    return os.path.exists(name) or not looks_like_hub_id(name)


def public_name(name: str, recorded: bool | None = None) -> str:
    """Returns a Hub id as it is, and of a path the last part only."""
    return Path(name).name if is_local(name, recorded) else name


def public_settings(settings: RewardModelSettings) -> RewardModelSettings:
    """Returns the settings with nothing of the user's machine in their lineage."""
    settings = copy.deepcopy(settings)
    for entry in settings.stages():
        if "base" in entry:
            entry["base_is_local"] = is_local(entry["base"], entry.get("base_is_local"))
            entry["base"] = public_name(entry["base"], entry["base_is_local"])
        for key in ("datasets", "replay_datasets", "eval_datasets"):
            for described in entry.get(key, {}).values():
                described["spec"] = _public_spec(described.get("spec"), described.get("local"))
        if "customized" in entry:  # folders that were merged
            entry["customized"] = [Path(folder).name for folder in entry["customized"]]
    return settings


def _public_spec(spec: Any, recorded: bool | None) -> Any:
    if isinstance(spec, dict):
        return {**spec, "path": public_name(spec["path"], recorded)} if spec.get("path") else spec
    if not isinstance(spec, str):
        return spec
    path, colon, fraction = spec.rpartition(":")
    if colon and fraction.replace(".", "", 1).isdigit():
        return f"{public_name(path, recorded)}:{fraction}"
    return public_name(spec, recorded)


def stage_model(folder: str, target: Path, settings: RewardModelSettings, base_model: str | None) -> bool:
    """
    Lays out what is published of a model or adapter folder: links to large files, small ones with nothing private.

    Args:
        folder (`str`): The saved model.
        target (`Path`): An empty folder.
        settings (`RewardModelSettings`): Its settings.
        base_model (`str`, *optional*): Hub id of the base, for an adapter whose base is a folder here.

    Returns:
        `bool`: Whether an `adapter/` was left out because its base is a folder here.
    """
    left_out = False
    for path in sorted(Path(folder).rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(fnmatch.fnmatch(part, name) for part in relative.parts for name in NOT_PUBLISHED):
            continue
        if relative.parts[0] == ADAPTER_FOLDER and adapter_base(Path(folder, ADAPTER_FOLDER), base_model) is None:
            left_out = True
            continue
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.name == SETTINGS_NAME:
            public_settings(settings).save(destination.parent)
        elif path.name == ADAPTER_CONFIG:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["base_model_name_or_path"] = adapter_base(path.parent, base_model)
            destination.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        else:
            destination.symlink_to(path.resolve())
    return left_out


def adapter_base(folder: Path, base_model: str | None) -> str | None:
    """Returns the Hub id of an adapter's base, or `None` if it is a folder of this machine."""
    if base_model is not None:
        return base_model
    config = folder / ADAPTER_CONFIG
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") if config.exists() else None
    return None if not base or os.path.exists(base) or not looks_like_hub_id(base) else base


def stage_evaluation(evaluation: str, target: Path) -> list[str]:
    """
    Copies the report and the figures that `rm-toolkit evaluate` wrote.

    Args:
        evaluation (`str`): Its output folder.
        target (`Path`): What is published; they get the subfolder `evaluation/`.

    Returns:
        `list[str]`: Paths of the figures in the repository.

    Raises:
        `InputError`: if the folder holds neither.
    """
    source = Path(evaluation)
    figures = sorted(source.glob("figures/*.png"))
    report = source / "report.md"
    if not figures and not report.is_file():
        raise InputError(
            f"--evaluation {evaluation}: there is no `report.md` and no `figures/*.png`. Give a folder that "
            "`rm-toolkit evaluate` wrote."
        )
    folder = target / FIGURE_FOLDER
    (folder / "figures").mkdir(parents=True)
    for path in figures:
        shutil.copyfile(path, folder / path.relative_to(source))
    if report.is_file():
        # It shows the command with which it was made; of a path from the root, the last part is enough.
        text = ABSOLUTE_PATH.sub(r"\1", report.read_text(encoding="utf-8"))
        (folder / report.name).write_text(text, encoding="utf-8")
    return [f"{FIGURE_FOLDER}/figures/{path.name}" for path in figures]


def check_no_token(folder: Path, token: str | None) -> None:
    """
    Refuses to publish a file that holds the token.

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
                f"{path.relative_to(folder)} holds your token; nothing was sent. Take it out of that file."
            )


def check_no_foreign_weights(repo_id: str, remote: set[str], published: set[str], earlier: list[str]) -> None:
    """
    Refuses a repository in which somebody else's weights would be loaded with or instead of ours.

    Raises:
        `InputError`: naming the files.
    """
    others = sorted(
        name
        for name in remote - published - set(earlier)
        if any(fnmatch.fnmatch(name, pattern) for pattern in LOADED_FILES) and "/" not in name
    )
    if others:
        raise InputError(
            f"{repo_id} holds {name_list(others)}, which this push did not write and loaders would mix with it; nothing "
            "was sent. Remove them on the Hub, or take another repository or --revision."
        )

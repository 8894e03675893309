"""Checks that an adapter fits a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftConfig
from transformers.utils import logging

from ..errors import InputError
from .adapter_files import is_adapter, read_adapter
from .hub_files import recorded_revision
from .settings import load_settings


if TYPE_CHECKING:
    from .reward_model import RewardModel

logger = logging.get_logger(__name__)


def check_adapter(model: RewardModel, name: str, folder: str, revision: str | None = None) -> None:
    """
    Refuses an adapter that cannot be mixed with others on a model.

    Args:
        model (`RewardModel`): The base.
        name (`str`): Name of the adapter, for the message.
        folder (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `InputError`: if it is not an adapter, was trained on another base, or reads its texts differently.
    """
    if not is_adapter(folder, revision):
        hint = ""
        if is_adapter(str(Path(folder, "adapter"))):
            hint = f" '{Path(folder, 'adapter')}' is one."
        raise InputError(
            f"adapter '{name}': '{folder}' has no adapter (an `adapter_config.json` without a model).{hint}"
        )
    config, _ = read_adapter(folder, revision)
    _check_base(name, folder, config, model)
    settings = load_settings(folder, revision)
    for field in ("pooling_type", "data_format", "max_length") if settings is not None else ():
        ours, theirs = getattr(model.settings, field), getattr(settings, field)
        if ours != theirs:
            raise InputError(
                f"adapter '{name}': `{field}` of '{folder}' is {theirs!r}, the base's is {ours!r}; all texts of a batch "
                "must be read in the same way. Train the adapter with the base's value, or score with the merged "
                "model of that run."
            )
    if getattr(config, "bias", "none") != "none":
        raise InputError(
            f"adapter '{name}': '{folder}' was trained with `bias` '{config.bias}', which changes the base's own biases "
            "for all adapters. Train it with `bias: none`, or score with the merged model of that run."
        )


def _check_base(name: str, folder: str, config: PeftConfig, model: RewardModel) -> None:
    """Refuses an adapter of another base; warns if only names can be compared and they differ."""
    named, base = config.base_model_name_or_path or "", model.name_or_path
    places = [path.resolve() for path in (Path(named), Path(folder, named)) if named and path.is_dir()]
    if Path(base).is_dir() and Path(base).resolve() in places:
        return
    if named == base:
        revisions = [recorded_revision(base, revision) or "main" for revision in (config.revision, model.revision)]
        if revisions[0] != revisions[1]:
            logger.warning(
                f"adapter '{name}': '{folder}' was trained on '{base}' at {revisions[0]}, but is used on it at "
                f"{revisions[1]}. Unless both are the same commit, its rewards differ from training."
            )
        return
    remedy = f"If it is the same model, write '{base}' into `base_model_name_or_path` of its adapter_config.json."
    if places:
        raise InputError(f"adapter '{name}': '{folder}' was trained on '{named}', not on '{base}'. {remedy}")
    logger.warning(f"adapter '{name}': '{folder}' names the base '{named}', but is used on '{base}'. {remedy}")

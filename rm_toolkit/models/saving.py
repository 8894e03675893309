"""A reward model -> a folder that stock classes load with the same reward."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..output.json_files import load_json
from ..output.places import about
from ..output.progress import say
from ..output.temporary import temporary_folder
from ..output.written import put_aside, read_written, record_written
from .adapters import merged_classifier, merged_in_full_precision, save_adapter
from .compatibility import write_legacy_rope_keys, write_legacy_tokenizer_keys
from .files import ADAPTER_FOLDER, ADAPTER_WEIGHTS, CONFIG_NAME, LM_HEAD_FOLDER, SAFE_WEIGHTS, find_row, weight_files
from .lm_head import save_lm_head
from .loading import quiet_loading
from .quantization import adapter_alone_notice, quantization_of
from .reward_model import RewardModel
from .settings import not_stock_notice
from .weight_names import shapes_in_files


NOT_STOCK_ARCHITECTURE = "RewardModel"


def save_reward_model(
    model: RewardModel,
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase,
    *,
    state_dict: dict[str, Tensor] | None = None,
    merge: bool = False,
) -> None:
    """
    Saves a reward model: the stock classifier, its tokenizer, `rm_toolkit.json`, and the LM head in `lm_head/`.

    The files are written to a temporary folder and moved into place when they are complete.

    Args:
        model (`RewardModel`): The model.
        folder (`str` or `os.PathLike`): The target; files of the same name are replaced.
        tokenizer (`PreTrainedTokenizerBase`): From [`~rm_toolkit.models.tokenizer.prepare_tokenizer`].
        state_dict (`dict[str, Tensor]`, *optional*): Gathered weights of the wrapper, where the engine shards them.
        merge (`bool`): With a PEFT model: whether the folder gets the merged stock layout, with the adapter in
            `adapter/`. Otherwise it gets only the adapter.
    """
    folder = Path(folder)
    classifier_state, head_state = _split_state(state_dict)
    rounded = quantization_of(model)
    with moved_into(folder) as target:
        with quiet_loading():
            if model.is_peft:
                save_adapter(model, target / ADAPTER_FOLDER if merge else target, classifier_state)
            if model.is_peft and merge:
                whole = (
                    merged_classifier(model, classifier_state) if rounded is None else merged_in_full_precision(model)
                )
                whole.save_pretrained(target)
            elif not model.is_peft:
                model.classifier.save_pretrained(target, state_dict=classifier_state)
        if (target / "config.json").exists():
            write_legacy_rope_keys(target / "config.json")
            if not model.reads_like_stock:
                disown_architecture(target / "config.json")
        lm_head = _save_lm_head(model, target, head_state)
        settings = dataclasses.replace(
            model.settings, lm_head=lm_head, stock=model.reads_like_stock and (merge or rounded is None)
        )
        # An adapter folder can be moved and loaded separately, so it also has the settings.
        for part in (target, target / ADAPTER_FOLDER) if model.is_peft and merge else (target,):
            alone = part != target or not merge
            dataclasses.replace(settings, quantization=rounded if alone else None).save(part)
            tokenizer.save_pretrained(part)
            write_legacy_tokenizer_keys(part / "tokenizer_config.json", tokenizer)
    if not settings.stock and not folder.name.startswith("checkpoint-"):  # once per run, not at every checkpoint
        notice = f"{folder}: {not_stock_notice(model.settings.pooling_type)}"
        say(notice if rounded is None or merge else adapter_alone_notice(model, str(folder)))


def check_saved_weights(
    model: RewardModel, folder: str | os.PathLike, state_dict: dict[str, Tensor] | None = None
) -> None:
    """
    Quick check of an intermediate save: all tensors exist with their shapes, and the reward head is finite.

    Args:
        model (`RewardModel`): The model that was saved.
        folder (`str` or `os.PathLike`): Where to.
        state_dict (`dict[str, Tensor]`, *optional*): Gathered weights of the wrapper, where the engine shards them.

    Raises:
        `InputError`: naming the file or tensor that is wrong.
    """
    files = [*weight_files(folder), *(path for path in [Path(folder, ADAPTER_WEIGHTS)] if path.exists())]
    shapes: dict[str, list[int]] = {}
    head: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as handle:
                for key in handle.keys():  # noqa: SIM118
                    shapes[key] = handle.get_slice(key).get_shape()
                    if {"score", "classifier"} & set(key.split(".")):
                        head[key] = handle.get_tensor(key)
        except Exception as error:
            raise InputError(f"{path} cannot be read back ({error}). Is the disk full?") from error
    if not head:
        raise InputError(f"{folder} was saved without a reward head.")
    for key, tensor in head.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{folder}: the reward head '{key}' has NaN or infinite values; training has diverged.")
    if not model.is_peft:
        state = _split_state(state_dict)[0] or model.classifier.state_dict()
        expected = shapes_in_files(model.classifier, state)
        wrong = sorted(key for key in shapes if shapes[key] != expected.get(key))
        if wrong:
            raise InputError(
                f"{folder}: tensor '{wrong[0]}' was saved with shape {shapes[wrong[0]]}, which is not the model's."
            )
        # Tensors that share their memory are saved once.
        saved = {state[key].data_ptr() for key in shapes if key in state}
        missing = sorted(
            key for key in expected if key not in shapes and not (key in state and state[key].data_ptr() in saved)
        )
        if missing:
            raise InputError(f"{folder}: tensor '{missing[0]}' is missing, with {len(missing) - 1} others.")


def disown_architecture(path: Path) -> None:
    """
    Removes the stock class's name from a `config.json` if that class would read the model differently.

    Servers check `architectures`: without it they refuse the folder instead of giving other numbers.
    """
    config = load_json(path)
    config["architectures"] = [NOT_STOCK_ARCHITECTURE]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def moved_into(folder: Path) -> Iterator[Path]:
    """Gives an empty folder inside `folder` to save into; without an error its files move up, see [`move_into`]."""
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder / "files") as temporary, about(folder):
        yield temporary
        move_into(temporary, folder)


def move_into(source: Path, target: Path) -> None:
    """Moves every file of `source` into `target`, weights first and `config.json` last, replacing what is there."""
    record_written(target, [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()])
    # Shards of an earlier save: some readers load all of them. Other files are kept.
    ours = [path for path in target.glob("*.safetensors*") if find_row(path.name) is not None]
    stale = [path for path in ours if not (source / path.name).exists()]
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == CONFIG_NAME)
    # A folder that is used again has no `config.json` while it has both old and new files.
    if (source / "config.json").exists():
        (target / "config.json").unlink(missing_ok=True)
    written = read_written(target)
    for path in stale:
        path.unlink() if written is None or path.name in written else put_aside(path)
    for path in files:
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, destination)


def _split_state(state_dict: dict[str, Tensor] | None) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]:
    if state_dict is None:
        return None, None
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for key, value in state_dict.items():
        for number, prefix in enumerate(("classifier.", "lm_head.")):
            if key.startswith(prefix):
                parts[number][key.removeprefix(prefix)] = value
    return parts


def _save_lm_head(model: RewardModel, folder: Path, head_state: dict[str, Tensor] | None) -> str:
    """Saves or carries the LM head; returns what `rm_toolkit.json` says of it."""
    source = model.lm_head_source
    if source is None:
        return "none"
    if source.tied:
        return "tied"
    if model.lm_head is not None:
        save_lm_head(folder, head_state or dict(model.lm_head.named_parameters()))
    else:
        paths = {path for path, _ in source.files.values()}
        own = (
            next(iter(paths))
            if len(paths) == 1 and all(name == key for name, (_, key) in source.files.items())
            else None
        )
        if own is not None:  # already a separate file: copied without being read
            (folder / LM_HEAD_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(own, folder / LM_HEAD_FOLDER / SAFE_WEIGHTS)
        else:
            save_lm_head(folder, source.load())
    return "saved"

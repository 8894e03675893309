"""A general and a customized reward model -> a merged one, as a folder that stock classes open."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..errors import InputError
from ..models.adapter_files import is_adapter
from ..models.compatibility import add_legacy_rope_keys
from ..models.files import (
    LM_HEAD_FOLDER,
    MERGE_NAME,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    SETTINGS_NAME,
    list_folder,
    weight_files,
)
from ..models.folder_checks import check_floating, open_tensors, place_of
from ..models.lm_head import check_lm_head, save_lm_head, with_rows
from ..models.loading import load_config
from ..models.settings import RewardModelSettings, load_settings
from ..models.tokenizer import load_tokenizer
from ..output.console import console
from ..output.folders import check_output, written_whole
from ..output.json_files import check_regular
from ..output.progress import no_bar
from ..scoring.example import ScoredExample, write_example
from .interpolation import interpolate, read_tensor, write_like


STAGE = "merge"
# Entries of config.json about the origin of a model, not about its computation.
NOT_COMPARED = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}


@dataclass
class SavedModel:
    """
    One of the models to merge.

    Args:
        folder (`Path`): A saved reward model.
        config (`dict`): Its config, with all defaults.
        settings (`RewardModelSettings`, *optional*): `None` for a model of another toolkit.
        files (`dict[str, Path]`): Name of a tensor -> its file.
        shapes (`dict[str, list[int]]`): Name of a tensor -> its shape.
    """

    folder: Path
    config: dict[str, Any]
    settings: RewardModelSettings | None
    files: dict[str, Path]
    shapes: dict[str, list[int]]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> SavedModel:
        """
        Reads everything except the weights.

        Raises:
            `InputError`: if the folder has no complete sequence classifier.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. Merging reads and writes folders of saved reward models.")
        if is_adapter(str(folder)):
            raise InputError(
                f"{folder} has only an adapter. Give the run's folder: it has the merged model, and the adapter in "
                "`adapter/`."
            )
        # As transformers reads it: its versions write different keys for the same, and omit different defaults.
        config = load_config(str(folder)).to_dict()
        add_legacy_rope_keys(config)
        files: dict[str, Path] = {}
        shapes: dict[str, list[int]] = {}
        for path in weight_files(folder):
            found = open_tensors(path)
            check_floating(found, path)
            shapes |= {name: shape for name, (_, shape) in found.items()}
            files |= dict.fromkeys(found, path)
        if not {"score", "classifier"} & {part for name in files for part in name.split(".")}:
            raise InputError(
                f"{folder} has no reward head in its `*.safetensors` files. Merging needs reward models, such as the "
                "outputs of recipes/grft.py and recipes/crft.py."
            )
        return cls(folder, config, load_settings(str(folder)), files, shapes)


def open_models(
    general: str | os.PathLike, customized: Sequence[str | os.PathLike]
) -> tuple[SavedModel, list[SavedModel]]:
    """
    Opens the models and checks that they can be interpolated.

    Args:
        general (`str` or `os.PathLike`): Folder of the general reward model.
        customized (`Sequence`): Folders of customized ones; the first gives config, tokenizer and dtypes.

    Raises:
        `InputError`: if they differ in architecture, shapes, tokenizer, pooling or data format.
    """
    first, *others = [SavedModel.open(folder) for folder in customized]
    if first.settings is None:
        raise InputError(f"{first.folder} has no `{SETTINGS_NAME}`: it was not saved by rm_toolkit.")
    base = SavedModel.open(general)
    for other in (base, *others):
        check_alike(first, other)
    return base, [first, *others]


def check_alike(first: SavedModel, other: SavedModel) -> None:
    """
    Refuses two models whose weights do not correspond to each other.

    Raises:
        `InputError`: naming the difference.
    """
    both = f"{other.folder} and {first.folder} cannot be merged"
    if other.settings is not None:
        for name in ("pooling_type", "data_format", "pools_eos", "chat_date"):
            values = [getattr(model.settings, name) for model in (other, first)]
            if values[0] != values[1]:
                raise InputError(f"{both}: their `{name}` differs: '{values[0]}' and '{values[1]}'.")
    for name in sorted((other.config.keys() | first.config.keys()) - NOT_COMPARED):
        if other.config.get(name) != first.config.get(name):
            values = f"{other.config.get(name)!r} and {first.config.get(name)!r}"
            raise InputError(
                f"{both}: `{name}` in their config.json differs ({values}), so they are not the same architecture."
            )
    for name in sorted(other.shapes.keys() | first.shapes.keys()):
        if other.shapes.get(name) != first.shapes.get(name):
            values = " and ".join(str(model.shapes.get(name, "missing")) for model in (other, first))
            raise InputError(
                f"{both}: the shapes of '{name}' are {values}. The customized model must be trained from the general one."
            )
    tokenizers = [load_tokenizer(str(model.folder)) for model in (other, first)]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise InputError(f"{both}: their tokenizers have different tokens or token ids.")
    if tokenizers[0].chat_template != tokenizers[1].chat_template:
        raise InputError(f"{both}: their chat templates (`chat_template.jinja`) differ.")
    if _reading(tokenizers[0]) != _reading(tokenizers[1]):
        raise InputError(f"{both}: their tokenizers truncate texts differently, or add different special tokens.")


def _reading(tokenizer: Any) -> tuple[Any, ...]:
    """How a tokenizer reads a text, except for the maximum length."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):
        backend.pop(name, None)
    return backend, tokenizer.pad_token_id, tokenizer.eos_token_id


def check_weights(weights: Sequence[float], num_models: int) -> None:
    """
    Refuses weights that are not an interpolation.

    Raises:
        `InputError`: if there is not one per customized model, one is below 0, or their sum is above 1.
    """
    if len(weights) != num_models:
        raise InputError(f"--weight has {len(weights)} values for {num_models} customized models. Give one per model.")
    if not all(0 <= weight <= 1 for weight in weights) or sum(weights) > 1 + 1e-9:
        raise InputError(
            f"--weight is {' '.join(f'{weight:g}' for weight in weights)}; each must be from 0 (general) to 1 (customized), "
            "and their sum at most 1."
        )


def merge_models(
    general: str | os.PathLike,
    customized: Sequence[str | os.PathLike],
    weights: Sequence[float],
    output: str | os.PathLike,
    *,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
    show_progress: bool = True,
) -> int:
    """
    Writes the model that interpolates a general and customized reward models.

    The weights are computed in fp32, one tensor at a time, and saved in the first customized model's dtypes and shards,
    whose config and tokenizer are used too. The folder appears after the reload check has passed, and stores an
    example with its reward.

    Args:
        general (`str` or `os.PathLike`): Folder of the general reward model.
        customized (`Sequence`): Folders of customized ones.
        weights (`Sequence[float]`): Weight of each of those; the general one gets the rest.
        output (`str` or `os.PathLike`): The folder to write.
        overwrite (`bool`): Whether to replace a folder that an earlier merge wrote.
        finish (`Callable`, *optional*): Called with the folder before it is moved into place, to add files.
        show_progress (`bool`): Whether to draw a progress bar.

    Returns:
        `int`: Number of texts that the reload check compared.

    Raises:
        `InputError`: if the models cannot be merged, or the output is in use.
    """
    from ..hub.models import verify_folder

    output = Path(output)
    check_weights(weights, len(customized))
    check_output(output, overwrite, marker=MERGE_NAME, command="merge")
    base, others = open_models(general, customized)
    with written_whole(output) as folder:
        _write_weights(base, others, weights, folder, show_progress)
        _carry(others[0].folder, folder)
        settings = _settings(base, others, weights, _merge_lm_head(base, others, weights, folder))
        settings.save(folder)
        entry = json.dumps(settings.lineage[-1], indent=2, ensure_ascii=False) + "\n"
        (folder / MERGE_NAME).write_text(entry, encoding="utf-8")
        texts, _, example = verify_folder(str(folder), settings)
        write_example(folder, ScoredExample(example.prompt, example.completion, example.reward))
        if finish is not None:
            finish(folder)
    return len(texts)


def _carry(source: Path, target: Path) -> None:
    """Copies the files of a model other than its weights; not results, logs and cards of a source's run."""
    for name, row in list_folder(source):
        if row is not None and row.carried:
            check_regular(source / name)  # a copy of a device or a pipe would never end
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _write_weights(
    base: SavedModel, others: list[SavedModel], weights: Sequence[float], folder: Path, show_progress: bool
) -> None:
    first = others[0]
    with tqdm(total=len(first.files), desc="Merging", unit=" tensors", disable=no_bar(show_progress)) as bar:

        def tensor_of(name: str) -> torch.Tensor:
            bar.update()
            tensors = [read_tensor(model.files[name], name) for model in (base, *others)]
            if not tensors[0].is_floating_point() and any(not torch.equal(tensors[0], other) for other in tensors[1:]):
                raise InputError(f"'{name}' is not a floating-point tensor and differs between the models.")
            return interpolate(tensors[0], tensors[1:], weights)

        for path in sorted(set(first.files.values())):
            write_like(path, folder / path.name, tensor_of)
    if len(set(first.files.values())) > 1:
        shutil.copyfile(first.folder / SAFE_INDEX, folder / SAFE_INDEX)


def _merge_lm_head(base: SavedModel, others: list[SavedModel], weights: Sequence[float], folder: Path) -> str:
    """Merges the language-modeling heads if all have one; returns what `rm_toolkit.json` says of it."""
    models = (base, *others)
    found = [place_of(str(model.folder), SAFE_WEIGHTS, subfolder=LM_HEAD_FOLDER) for model in models]
    paths = [Path(path) for path in found if path is not None]
    if not paths:
        return others[0].settings.lm_head
    if len(paths) < len(models):
        console.print("The LM head is left out: not all of the models have one in `lm_head/`.")
        return "tied" if others[0].config.get("tie_word_embeddings") else "none"
    merged = {}
    names = [check_lm_head(path, model.config.get("hidden_size")) for path, model in zip(paths, models)]
    if any(sorted(names[0]) != sorted(other) for other in names):
        raise InputError(f"{paths[0]} and {paths[1]} have different tensors; the LM heads cannot be merged.")
    for name in names[0]:
        tensors = [read_tensor(path, name) for path in paths]
        rows = max(len(tensor) for tensor in tensors)
        # A stage that did not train the head passes it on without the rows of added tokens.
        tensors = [with_rows(tensor, rows) for tensor in tensors]
        merged[name] = interpolate(tensors[0], tensors[1:], weights).to(tensors[1].dtype)
    save_lm_head(folder, merged)
    return "saved"


def _settings(
    base: SavedModel, others: list[SavedModel], weights: Sequence[float], lm_head: str
) -> RewardModelSettings:
    first = others[0].settings
    entry = {
        "stage": STAGE,
        "domain": first.domain if len(others) == 1 else None,
        "base": str(base.folder),
        "customized": [str(model.folder) for model in others],
        "weights": list(weights),
        "general_lineage": base.settings.lineage if base.settings else [],
        "customized_lineages": [model.settings.lineage if model.settings else [] for model in others],
    }
    return dataclasses.replace(
        first, stage=STAGE, domain=entry["domain"], lineage=[*first.lineage, entry], lm_head=lm_head
    )

"""The tiny base that a recipe can ask for: a Llama and its tokenizer, built on the spot from the training texts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from trl import ModelConfig

from ..data.records import looks_like_hub_id
from ..errors import InputError
from ..output.console import console
from ..output.folders import written_whole
from ..output.json_files import read_json
from ..output.lock import WriterLock
from ..output.shared_files import await_files
from ..output.strict_yaml import read_text
from ..testing import build_tiny_model, train_tokenizer
from .recipe import RecipeArguments
from .stage_streams import sample_texts


RECORD_NAME = "tiny_base.json"  # what a tiny base was built from
DEFAULT_SIZES = {"vocab_size": 4096, "hidden_size": 64, "num_layers": 2, "num_heads": 4}
SECONDS_FOR_TINY_BASE = 600.0  # another run may be building it


def ensure_tiny_base(recipe: RecipeArguments, model: ModelConfig, train: dict[str, Dataset], seed: int) -> None:
    """
    Builds the tiny base model and its tokenizer, once, if the recipe asks for them.

    Args:
        recipe (`RecipeArguments`): Its `tiny_base` gives the size.
        model (`ModelConfig`): Its `model_name_or_path` is the folder.
        train (`dict[str, Dataset]`): Training texts of the tokenizer.
        seed (`int`): Seed of the weights.
    """
    if not recipe.tiny_base:
        return
    folder = Path(model.model_name_or_path)
    if looks_like_hub_id(str(folder)) and not str(folder).startswith("outputs/") and not folder.parent.is_dir():
        raise InputError(
            f"`model_name_or_path` {folder} is not a local folder, and the recipe's `tiny_base` would build a tiny Llama "
            "there. For a model of the Hub pass --tiny_base '{}' too, or use a recipe for real models; for a new tiny base "
            f"name a folder, such as outputs/{folder.name}."
        )
    with PartialState().main_process_first():
        if not PartialState().is_main_process:
            await_files([folder / "config.json"])
        with WriterLock(folder, wait=SECONDS_FOR_TINY_BASE) if not is_built(folder) else contextlib.nullcontext():
            if is_built(folder):
                _compare(recipe, folder, train)
            else:
                _build_tiny_base(recipe, folder, train, seed)


def is_built(folder: Path) -> bool:
    """Whether a folder holds a model; it is moved into place when it is complete."""
    return (folder / "config.json").exists()


def _compare(recipe: RecipeArguments, folder: Path, train: dict[str, Dataset]) -> None:
    """Refuses a base of other sizes, and reports one whose tokenizer was trained on other datasets."""
    try:
        record = read_json(folder / RECORD_NAME)
        built, names = dict(record["tiny_base"]), sorted(record["train_datasets"])
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return  # a base of an earlier version, or one that is not ours
    built, wanted_sizes = DEFAULT_SIZES | built, DEFAULT_SIZES | recipe.tiny_base
    other = sorted(key for key in {*built, *wanted_sizes} if built.get(key) != wanted_sizes.get(key))
    if other:
        wanted = ", ".join(f"`{key}` {built.get(key)} and not {wanted_sizes.get(key)}" for key in other)
        raise InputError(
            f"{folder} was built by another run with other sizes: {wanted}. Delete it, or name another folder: "
            f"--model_name_or_path {folder}-2"
        )
    if names != sorted(train) and PartialState().is_main_process:
        console.print(
            f"The tokenizer of {folder} was trained on other data ({', '.join(names)}) and is used as it is. For a base "
            f"of this run's data: --model_name_or_path {folder}-2"
        )


def _build_tiny_base(recipe: RecipeArguments, folder: Path, train: dict[str, Dataset], seed: int) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"`tiny_base` is to be built in `model_name_or_path` {folder}, which has other files. Name a new folder."
        )
    size = dict(recipe.tiny_base)
    template = size.pop("chat_template", None)
    if template is not None:
        template = read_text(template, "the `chat_template` of `tiny_base`", "Name a file with a chat template.")
    console.print(f"Building a tiny Llama and its tokenizer in {folder} …")
    # Moved into place when it is complete: another run may be waiting for it.
    with written_whole(folder) as building:
        tokenizer = train_tokenizer(sample_texts(train), building, vocab_size=size.pop("vocab_size", 4096))
        build_tiny_model(building, len(tokenizer), seed=seed, **size)
        if template is not None:
            Path(building, "chat_template.jinja").write_text(template, encoding="utf-8")
        record = {"tiny_base": recipe.tiny_base, "train_datasets": sorted(train)}
        Path(building, RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

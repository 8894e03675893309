"""The output folder of a training run: separate from what the run reads, and used by one run at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.specs import DatasetSpec
from ..errors import InputError
from ..models.files import ADAPTER_CONFIG
from ..output.json_files import load_json
from ..output.lock import WriterLock


if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import ModelConfig

    from .recipe import RecipeArguments


def take_output_dir(recipe: RecipeArguments, training: TrainingArguments, model: ModelConfig) -> None:
    """
    Locks the output folder for this run until its process ends, before anything is read or changed.

    Args:
        recipe, training, model: From [`~rm_toolkit.training.recipe.parse_recipe`].

    Raises:
        `InputError`: if it is, contains or is inside something that the run reads, or another process writes into it.
    """
    for name, place in _inputs(recipe, model):
        relation = _relation(training.output_dir, place)
        if relation:
            raise InputError(
                f"`output_dir` {training.output_dir} {relation} {place}, which is `{name}` of this run. Name another folder: "
                "a run may not write where it reads."
            )
    hold_output_dir(training.output_dir)


def _inputs(recipe: RecipeArguments, model: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yields the settings that name inputs, with their folders, files and Hub ids."""
    for name, place in (
        ("model_name_or_path", model.model_name_or_path),
        ("tokenizer_name_or_path", recipe.tokenizer_name_or_path),
    ):
        if not place:
            continue
        yield name, place
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            base = load_json(Path(place, ADAPTER_CONFIG)).get("base_model_name_or_path")
            yield from ((f"{name} (base of the adapter)", found) for found in (base, os.path.join(place, base)))
    for name in ("train_datasets", "eval_datasets", "replay_datasets"):
        for key, spec in (getattr(recipe, name) or {}).items():
            with contextlib.suppress(InputError):  # reported when it is loaded
                yield f"{name}: {key}", DatasetSpec.parse(spec, key).path


def _relation(output_dir: str, place: str) -> str | None:
    """How a folder is related to an input: by what is on the disk, whatever the names."""
    output, place = os.path.realpath(output_dir), os.path.realpath(place)
    if output == place or _same(output, place):
        return "is"
    if not os.path.exists(place):  # a Hub id, or a mistake that is reported later
        return None
    if any(_same(str(above), place) for above in Path(output).parents):
        return "lies in"
    if any(_same(str(above), output) for above in Path(place).parents):
        return "contains"
    return None


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def hold_output_dir(output_dir: str) -> contextlib.AbstractContextManager:
    """
    Locks the output folder of a run before anything in it is read. The main process takes the lock, all get the
    result.

    Returns:
        A context manager that releases it. Otherwise the end of the process does.

    Raises:
        `InputError`: naming the process that writes into it.
    """
    return on_main_process(lambda: WriterLock(output_dir)) or contextlib.nullcontext()


def on_main_process(action: Callable[[], Any]) -> Any:
    """
    Runs an action on the main process, while the others wait.

    Returns:
        Result of the action; `None` on the other processes.

    Raises:
        `InputError`: on all processes, if the action raises one.
    """
    found, problem = None, None
    if PartialState().is_main_process:
        try:
            found = action()
        except InputError as error:
            problem = str(error)
    answer: list[Any] = [problem]
    broadcast_object_list(answer)
    if answer[0]:
        raise InputError(answer[0])
    return found

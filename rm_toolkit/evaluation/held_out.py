"""Whether a test set split off a raw file here is the one that the model's own run held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.specs import DatasetSpec
from ..errors import InputError
from ..models.settings import RewardModelSettings


def check_held_out(model: str, settings: RewardModelSettings, specs: Mapping[str, Any], seed: int) -> None:
    """
    Refuses a split of the same file with another seed or size: it would hold prompts that the model was trained on.

    Args:
        model (`str`): Name of the model, for the message.
        settings (`RewardModelSettings`): Its lineage says what it was trained on.
        specs (`dict`): Test sets; those given as datasets are not checked.
        seed (`int`): Seed of the splits made here.

    Raises:
        `InputError`: naming the test set and the flag or key to change.
    """
    trained = []
    for stage in settings.stages():
        sets = {**stage.get("datasets", {}), **stage.get("replay_datasets", {})}
        trained += [(stage.get("seed"), part["spec"]) for part in sets.values() if part.get("spec") is not None]
    for test, given in specs.items():
        if not isinstance(given, (str, Mapping, DatasetSpec)):
            continue
        spec = DatasetSpec.parse(given, test)
        for own_seed, own_given in trained:
            own = DatasetSpec.parse(own_given, test)
            if not spec.test_size or not own.test_size or _place(spec) != _place(own):
                continue
            if spec.test_size != own.test_size:
                raise InputError(
                    f"test set '{test}' holds out `test_size` {spec.test_size:g} of {spec.path}, but '{model}' was trained "
                    f"with `test_size` {own.test_size:g}, so the two sets share prompts. Use the same `test_size`."
                )
            if own_seed is not None and own_seed != seed:
                raise InputError(
                    f"test set '{test}' is split off {spec.path} with seed {seed}, but '{model}' was trained on the split "
                    f"with seed {own_seed}, so the two share prompts. Pass --seed {own_seed}."
                )


def _place(spec: DatasetSpec) -> str:
    return str(Path(spec.path).resolve()) if Path(spec.path).exists() else spec.path

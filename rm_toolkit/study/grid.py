"""The grid of a study: its YAML, and its cells."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..errors import InputError, did_you_mean, name_list
from ..output.nested_ranges import Keys, ListOf
from ..output.ranges import Number, Text
from ..output.stated_ranges import check_ranges
from ..training.recipe_file import load_yaml
from ..training.setting_ranges import COEFFICIENT, UPSTREAM


NO_GRFT = "none"
PLAIN = "plain"


@dataclass
class StageGrid:
    """
    The variations of one stage.

    Args:
        config (`str`): The recipe YAML that every run of the stage starts from.
        flags (`dict`): Settings of all runs of the stage that override the recipe.
        data (`dict`): GRFT only: name -> training sets. `none: null` leaves the stage out.
        lm_loss_coef (`list[float]`): GRFT only.
        strategies (`dict`): CRFT only: name -> settings.
        domains (`list[str]`): CRFT only.
    """

    config: Annotated[str, Text(empty=False)]
    flags: Annotated[dict[str, Any], Keys()] = field(default_factory=dict)
    data: Annotated[dict[str, Any], Keys()] = field(default_factory=dict)
    lm_loss_coef: Annotated[list[float], ListOf(COEFFICIENT, least=1)] = field(default_factory=lambda: [0.0])
    strategies: Annotated[dict[str, Any], Keys()] = field(default_factory=dict)
    domains: list[str] = field(default_factory=list)


@dataclass
class StudyConfig:
    """
    One study. With `eval_on_start: false` in `crft`, accuracy before CRFT is that of the GRFT run at its end, so that the same
    model is not evaluated in every run; the GRFT recipe must then evaluate the sets of CRFT.

    Args:
        base_models (`dict`): Name -> settings of both stages (`model_name_or_path` at least).
        grft, crft (`StageGrid`): The two stages.
        general_sets (`list[str]`): Test sets whose mean accuracy is the general ability.
        customized_set (`str`): Test set of the domain, with `{domain}` as a placeholder.
        output_dir (`str`): Output folder.
        seeds (`list[int]`): Each cell is run with each seed.
        launch (`list[str]`): Command in front of the recipe's path.
        allowed_loss (`float`): General accuracy that a strategy may lose, for the choice in the report.
        merge_weights (`list[float]`): Also evaluate models between the GRFT model and its CRFT models, with these
            weights of the latter; each counts as a strategy.
        merge_strategies (`list[str]`): Strategies whose CRFT models are merged so, when their runs end; what has ended is not
            merged afterwards.
        keep_models (`bool`): Whether CRFT models are kept; the GRFT models always are.
    """

    base_models: Annotated[dict[str, dict[str, Any]], Keys()]
    grft: StageGrid
    crft: StageGrid
    general_sets: Annotated[list[str], ListOf(Text(empty=False), least=1)]
    customized_set: Annotated[str, Text(empty=False)]
    output_dir: Annotated[str, Text(empty=False)]
    seeds: Annotated[list[int], ListOf(UPSTREAM["seed"], least=1)] = field(default_factory=lambda: [0])
    launch: Annotated[list[str], ListOf(Text(empty=False), least=1)] = field(
        default_factory=lambda: ["accelerate", "launch"]
    )
    allowed_loss: Annotated[float, Number(0, 1, below=True)] = 0.01
    merge_weights: Annotated[list[float], ListOf(Number(0, 1))] = field(default_factory=list)
    merge_strategies: Annotated[list[str], ListOf(Text(empty=False), least=1)] = field(default_factory=lambda: [PLAIN])
    keep_models: bool = False


@dataclass(frozen=True)
class Cell:
    """
    One run of a recipe.

    Args:
        stage (`str`): `"grft"` or `"crft"`.
        base, data (`str`): Names in the grid.
        grft_lm_loss_coef (`float`, *optional*): Of the GRFT run; `None` if there is none.
        seed (`int`): Seed of this run and of the one it starts from.
        strategy, domain (`str`, *optional*): CRFT only.
    """

    stage: str
    base: str
    data: str
    grft_lm_loss_coef: float | None
    seed: int
    strategy: str | None = None
    domain: str | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [self.base, self.data]
        if self.grft_lm_loss_coef is not None:
            parts.append(f"lm{self.grft_lm_loss_coef:g}")
        parts += [part for part in (self.strategy, self.domain) if part]
        return "--".join([self.stage, *(re.sub(r"[^\w.+-]", "_", part) for part in parts), f"seed{self.seed}"])

    @property
    def start(self) -> Cell | None:
        """The GRFT cell that a CRFT cell starts from."""
        if self.stage == "grft" or self.data == NO_GRFT:
            return None
        return dataclasses.replace(self, stage="grft", strategy=None, domain=None)


def describe_grft(data: str, lm_loss_coef: float | None) -> str:
    """What a model was trained on before CRFT, in words."""
    return f"{data}, LM loss {lm_loss_coef:g}" if lm_loss_coef else data


def merged_name(strategy: str, weight: str) -> str:
    """What the merges of a strategy's models are called, as a strategy of their own."""
    return f"merged {weight}" if strategy == PLAIN else f"{strategy} merged {weight}"


def customized_set(study: StudyConfig, domain: str | None) -> str:
    """The test set of a domain."""
    return study.customized_set.replace("{domain}", domain or "")


def load_study(path: str | Path) -> StudyConfig:
    """
    Reads a study's YAML.

    Raises:
        `InputError`: for a file that cannot be read, an unknown or missing name, or a value of the wrong type.
    """
    values = load_yaml(path)
    _check_names(values, StudyConfig, str(path))
    for stage in ("grft", "crft"):
        if not isinstance(values[stage], dict):
            raise InputError(f"{path}: `{stage}` is {values[stage]!r}; it must be a mapping with `config` and more.")
        _check_names(values[stage], StageGrid, f"{path}, `{stage}`")
        values[stage] = StageGrid(**values[stage])
        check_ranges(values[stage], f"{path}, `{stage}`: ")
    study = StudyConfig(**values)
    check_ranges(study, f"{path}: ")
    _check_values(study, path)
    return study


def cells(study: StudyConfig) -> list[Cell]:
    """
    All cells of a study; cells that others start from come first.

    A strategy that replays or anchors is left out without GRFT, since there is no general model to preserve.
    """
    general, customized = [], []
    for base in study.base_models:
        for data, sets in study.grft.data.items():
            for coefficient in study.grft.lm_loss_coef if sets else [None]:
                for seed in study.seeds:
                    start = Cell("grft", base, data if sets else NO_GRFT, coefficient, seed)
                    if sets:
                        general.append(start)
                    customized += [
                        dataclasses.replace(start, stage="crft", strategy=strategy, domain=domain)
                        for strategy, settings in study.crft.strategies.items()
                        for domain in study.crft.domains
                        if sets or not (settings or {}).get("anchor_coef")
                    ]
    return general + customized


def command(study: StudyConfig, cell: Cell, folder: Path, start_folder: Path | None) -> list[str]:
    """
    The command line of a cell.

    Args:
        study (`StudyConfig`): The grid.
        cell (`Cell`): One of its cells.
        folder (`Path`): The `output_dir` of the run.
        start_folder (`Path`, *optional*): The GRFT model that a CRFT cell starts from.
    """
    grid = getattr(study, cell.stage)
    flags: dict[str, Any] = {**grid.flags, **study.base_models[cell.base]}
    if cell.stage == "grft":
        flags |= {"train_datasets": study.grft.data[cell.data], "lm_loss_coef": cell.grft_lm_loss_coef}
    else:
        flags |= {**(study.crft.strategies[cell.strategy] or {}), "domain": cell.domain}
        if start_folder is not None:
            flags |= {"model_name_or_path": str(start_folder)}
            flags.pop("tiny_base", None)
        else:
            flags["allow_new_head"] = True
    flags |= {"output_dir": str(folder), "overwrite_output_dir": True, "seed": cell.seed, "next_command": ""}
    words = [word for name, value in flags.items() for word in (f"--{name}", _as_flag(value))]
    return [*study.launch, f"recipes/{cell.stage}.py", "--config", grid.config, *words]


def _as_flag(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_names(values: dict[str, Any], kind: type, where: str) -> None:
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise InputError(f"{where}: there is no setting `{name}`.{did_you_mean(name, fields)}")
    for name, item in fields.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in values:
            raise InputError(f"{where}: `{name}` is missing.")


def _check_values(study: StudyConfig, path: str | Path) -> None:
    needed = {
        "base_models": study.base_models,
        "grft.data": study.grft.data,
        "crft.strategies": study.crft.strategies,
        "crft.domains": study.crft.domains,
    }
    for name, value in needed.items():
        if not value:
            raise InputError(f"{path}: `{name}` is empty. Give at least one.")
    for name in study.merge_strategies if study.merge_weights else []:
        if name not in study.crft.strategies:
            raise InputError(
                f"{path}: `merge_weights` merges the models of a strategy named '{name}', but there is none. "
                "`merge_strategies` names others."
            )
    for name, settings in study.base_models.items():
        if not isinstance(settings, dict) or "model_name_or_path" not in settings:
            raise InputError(f"{path}: base model '{name}' needs `model_name_or_path`.")
    for stage in (study.grft, study.crft):
        if not Path(stage.config).is_file():
            raise InputError(
                f"{path}: the recipe {stage.config} does not exist. Run this command in the root of the checkout."
            )
    names = [cell.name for cell in cells(study)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{path}: two cells have the same name: {name_list(doubled)}. Rename one of their parts.")

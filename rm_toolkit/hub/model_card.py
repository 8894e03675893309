"""The card of a reward model, built from the record of its run."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import __version__
from ..data.sources import SOURCES
from ..errors import InputError
from ..models.files import FINAL_RESULTS_NAME
from ..models.settings import RewardModelSettings, not_stock_notice
from ..output.json_files import load_json
from ..scoring.serving import SERVERS, read_config, serving_commands
from .lineage import data_licenses, hub_datasets, nearest_on_hub, stage_facts
from .staging import public_settings


TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
NON_COMMERCIAL = "cc-by-nc-4.0"
LICENSE_NAMES = {NON_COMMERCIAL: "CC BY-NC 4.0", "mit": "MIT"}


@dataclass
class Example:
    """
    One text as the model reads it, with its reward.

    Args:
        prompt, completion (`str` or `list[dict]`): In the form that the toolkit's scorer accepts.
        text (`str`): The exact tokenized string, with the chat template applied.
        token_ids (`list[int]`): Token ids that the model reads.
        reward (`float`): In logits, fp32 on a CPU.
    """

    prompt: Any
    completion: Any
    text: str
    token_ids: list[int]
    reward: float


@dataclass
class CardOptions:
    """
    What a push adds to the run's record.

    Args:
        license (`str`, *optional*): License of the model, as the Hub names it.
        adapter_base (`str`, *optional*): Hub id of the base, if only an adapter is published.
        figures (`list[str]`): Paths of figures in the repository.
        report (`str`, *optional*): Path of the evaluation report in the repository.
    """

    license: str | None = None
    adapter_base: str | None = None
    figures: list[str] = field(default_factory=list)
    report: str | None = None


def model_card(
    folder: str, repo_id: str, settings: RewardModelSettings, example: Example, options: CardOptions
) -> ModelCard:
    """
    Writes the card.

    Args:
        folder (`str`): The saved model, with `final_eval_results.json` if its run evaluated.
        repo_id (`str`): Its name on the Hub.
        settings (`RewardModelSettings`): Its settings.
        example (`Example`): One scored text.
        options (`CardOptions`): Options of the push.
    """
    settings = public_settings(settings)
    results = read_results(folder)
    licenses = data_licenses(settings)
    base = options.adapter_base or nearest_on_hub(settings)
    title = repo_id.split("/")[-1]
    metadata = ModelCardData(
        library_name=_library(settings, options),
        pipeline_tag="text-classification" if settings.stock else None,
        tags=["rm-toolkit", "trl", "reward-model", "rlhf", *([settings.domain] if settings.domain else [])],
        base_model=base,
        base_model_relation=("adapter" if options.adapter_base else "finetune") if base else None,
        datasets=hub_datasets(settings) or None,
        license=options.license or (NON_COMMERCIAL if NON_COMMERCIAL in licenses.values() else None),
        metrics=["accuracy"] if results["end"] else None,
        model_name=title if results["end"] else None,
        eval_results=_eval_results(results["end"], settings) or None,
    )
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        version=__version__,
        title=title,
        repo_id=repo_id,
        settings=settings,
        notice=not_stock_notice(settings.pooling_type),
        adapter_base=options.adapter_base,
        stages=[stage_facts(entry) for entry in settings.lineage],
        rows=_result_rows(results),
        rewards=_reward_rows(results["end"]),
        sources=[
            (SOURCES[name].name, LICENSE_NAMES.get(text, text)) for name, text in licenses.items() if name in SOURCES
        ],
        stated=[(name, text) for name, text in licenses.items() if name not in SOURCES],
        non_commercial=NON_COMMERCIAL in licenses.values(),
        license=options.license,
        figures=[(_caption(path), path) for path in options.figures],
        report=options.report,
        example=example,
        commands=serving_commands(repo_id, settings, read_config(folder), adapter=options.adapter_base is not None),
        servers=SERVERS,
        vllm_request=_vllm_request(repo_id, settings, example),
        repr=repr,
    )


def read_results(folder: str) -> dict[str, dict[str, dict[str, float]]]:
    """
    Returns `{"start": …, "end": …}` of `final_eval_results.json`, empty if the run evaluated nothing.

    Raises:
        `InputError`: if the file is damaged.
    """
    path = Path(folder, FINAL_RESULTS_NAME)
    if not path.exists():
        return {"start": {}, "end": {}}
    try:
        values = load_json(path)
        return {"start": dict(values.get("start") or {}), "end": dict(values["end"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Restore it, or remove it to publish without results."
        ) from error


def _library(settings: RewardModelSettings, options: CardOptions) -> str:
    if not settings.stock:
        return "rm_toolkit"
    return "peft" if options.adapter_base else "transformers"


def _eval_results(end: dict[str, dict[str, Any]], settings: RewardModelSettings) -> list[EvalResult]:
    tested = settings.lineage[-1].get("eval_datasets", {}) if settings.lineage else {}
    results = []
    for name, values in end.items():
        spec = tested.get(name, {}).get("spec")
        path = spec.get("path") if isinstance(spec, dict) else spec
        on_hub = path and tested[name].get("local") is False
        for metric, title in (("accuracy", "Accuracy"), ("margin", "Mean margin (logits)")):
            if values.get(metric) is not None:
                results.append(
                    EvalResult(
                        task_type="text-classification",
                        task_name="Preference ranking",
                        dataset_type=path if on_hub else name,
                        dataset_name=name,
                        dataset_split="test",
                        metric_type=metric,
                        metric_name=title,
                        metric_value=round(values[metric], 4),
                    )
                )
    return results


def _number(value: Any, digits: int) -> str:
    return "–" if value is None or (isinstance(value, float) and math.isnan(value)) else f"{value:.{digits}f}"


def _result_rows(results: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    rows = []
    for name, end in results["end"].items():
        start = results["start"].get(name, {})
        rows.append(
            [
                name,
                _number(start.get("accuracy"), 4),
                _number(end.get("accuracy"), 4),
                _number(start.get("margin"), 3),
                _number(end.get("margin"), 3),
                f"{end['num_pairs']:,}",
                f"{end.get('num_ties', 0):,}",
            ]
        )
    return rows


def _reward_rows(end: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [name, _number(values["reward_mean"], 4), _number(values["reward_std"], 4)]
        for name, values in end.items()
        if values.get("reward_mean") is not None
    ]


def _vllm_request(repo_id: str, settings: RewardModelSettings, example: Example) -> str:
    request: dict[str, Any] = {"model": repo_id, "input": example.text}
    if settings.data_format == "chat":
        request["add_special_tokens"] = False  # the template has added them
    return shlex.quote(json.dumps(request))


def _caption(path: str) -> str:
    return Path(path).stem.replace("_", " ").replace("-", " ").capitalize()

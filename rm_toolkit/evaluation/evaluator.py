"""Reward models x test sets -> metrics, and a folder with the report."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import __version__
from ..batches.rendering import RefusedText
from ..errors import InputError
from ..models.device import compute_device
from ..models.files import FINAL_RESULTS_NAME
from ..models.hub_files import find_commit, split_revision
from ..models.settings import RewardModelSettings
from ..output.folders import check_output, replace_text, written_whole
from ..output.json_files import read_mapping
from ..output.progress import no_bar
from ..scoring.chat_date import models_with_date
from ..scoring.reading import chat_tokenizers
from ..scoring.scorer import RewardScorer
from ..scoring.served_example import classifier_of
from .cut_texts import find_cut
from .doubts import DOUBTS_NAME, list_text, most_contradicted
from .held_out import check_held_out
from .intervals import Bootstrap
from .learning_curves import LearningCurves, read_learning_curves
from .model_names import name_models
from .preferences import PreferencePairs
from .sets import Spec, TestSets
from .summary import compare, summarize


METRICS_NAME = "metrics.json"
PAIRS_NAME = "pairs.parquet"
PAGE_NAME = "report.html"
LIBRARIES = ("torch", "transformers", "datasets", "numpy", "scipy", "peft")


@dataclass
class Evaluation:
    """
    The result of [`evaluate`].

    Args:
        metrics (`dict`): Contents of `metrics.json`; see `rm_toolkit/evaluation/README.md`.
        pairs (`dict[str, PreferencePairs]`): The test sets.
        rewards (`dict[str, dict[str, np.ndarray]]`): For each model and test set, the reward of each distinct text, in
            logits.
        curves (`dict[str, LearningCurves]`): Learning curves of the models whose folder has a log.
        doubts (`int`): How many of the most contradicted pairs [`save`] lists, per model and set.
        tables (`dict[str, dict[str, PreferencePairs]]`): For each model the test sets in the format that it reads. The
            pairs are the same in every format, but texts may be numbered differently.
        cut (`dict[str, dict[str, np.ndarray]]`): For each model and test set, whether each text lost its beginning.
    """

    metrics: dict[str, Any]
    pairs: dict[str, PreferencePairs] = field(default_factory=dict)
    rewards: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    curves: dict[str, LearningCurves] = field(default_factory=dict)
    doubts: int = 0
    tables: dict[str, dict[str, PreferencePairs]] = field(default_factory=dict)
    cut: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> None:
        """
        Writes `metrics.json`, `report.md`, `figures/`, `pairs.parquet` and `report.html`, with `report_files/` where the
        page would be large, and `doubts.jsonl` if `doubts` is not 0. The folder appears only when it is complete.

        Args:
            folder (`str` or `os.PathLike`): The folder to write.
            overwrite (`bool`): Whether to replace an earlier report.

        Raises:
            `InputError`: if the folder is in use.
        """
        from .figures import draw_figures
        from .page import write_page
        from .pair_rows import judged_sets, write_pairs
        from .report import write_report

        check_report_folder(Path(folder), overwrite)
        with written_whole(Path(folder)) as new:
            text = json.dumps(self.metrics, indent=2, ensure_ascii=False, allow_nan=False)
            (new / METRICS_NAME).write_text(text + "\n", encoding="utf-8")
            figures = draw_figures(self.metrics, self.tables, self.rewards, self.curves, new / "figures")
            write_report(self.metrics, figures, new / "report.md")
            if self.doubts:
                replace_text(new / DOUBTS_NAME, list_text(most_contradicted(self.tables, self.rewards, self.doubts)))
            judged = judged_sets(self.tables, self.rewards, self.cut)
            write_pairs(judged, new / PAIRS_NAME)
            write_page(self.metrics, judged, figures, new / PAGE_NAME)


def check_report_folder(folder: Path, overwrite: bool) -> None:
    """Raises an `InputError` if a report cannot be written to `folder`."""
    check_output(folder, overwrite, marker=METRICS_NAME, command="evaluate")


def evaluate(
    models: Sequence[str] | Mapping[str, str | os.PathLike | RewardScorer],
    datasets: Mapping[str, Spec],
    *,
    split: str = "test",
    seed: int = 0,
    resamples: int = 2000,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    tokens_per_batch: int = 16384,
    endpoints: Mapping[str, str] | None = None,
    chat_date: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """
    Evaluates reward models on test sets: each set as a whole and by tag, and each model against the first one.

    Args:
        models (`list[str]` or `dict`): Folders or Hub ids of models or adapters, or name -> model; a loaded
            [`RewardScorer`] is used as it is.
        datasets (`dict`): Name -> SPEC as in a recipe, or a loaded preference dataset.
        split (`str`): Split to use if a SPEC does not name one.
        seed (`int`): Seed of the bootstrap, and of fractions and splits of the data.
        resamples (`int`): Resamples of the bootstrap.
        device (`str`, *optional*): Defaults to a GPU where there is one.
        dtype (`torch.dtype`): Precision of the weights.
        tokens_per_batch (`int`): Padded tokens computed at once; the results do not depend on it.
        endpoints (`Mapping[str, str]`, *optional*): Server address by model name, for models that are not loaded here.
        chat_date (`str`, *optional*): The date (`YYYY-MM-DD`) for chat templates that ask for one. Default: today.
        trust_remote_code (`bool`): Whether code that comes with a model may run.
        cache_dir (`str`, *optional*): Cache for raw files.
        show_progress (`bool`): Whether to draw progress bars.

    Raises:
        `InputError`: if a model has no trained reward head, a test set cannot be read, or its split is not the one that
            the model's own run held out.
    """
    if not models or not datasets:
        raise InputError("nothing to evaluate: name at least one model and one test set.")
    named = name_models(models) if not isinstance(models, Mapping) else dict(models)
    trust = {"trust_remote_code": trust_remote_code}
    dated = models_with_date(named, chat_date, **trust)
    bootstrap = Bootstrap(resamples=resamples, seed=seed)
    tokenizers = partial(chat_tokenizers, named, **trust)
    tests = TestSets(datasets, split, seed, cache_dir, tokenizers)
    found = Evaluation(_head(compute_device(device), bootstrap))
    options = {"device": device, "dtype": dtype, "tokens_per_batch": tokens_per_batch, **trust}
    with tqdm(total=len(named) * len(datasets), unit="set", disable=no_bar(show_progress), dynamic_ncols=True) as bar:
        for name, model in named.items():
            date = chat_date if name in dated else None
            scorer = _opened(model, endpoint=(endpoints or {}).get(name), chat_date=date, **options)
            check_held_out(name, scorer.settings, datasets, seed)
            found.metrics["models"][name] = _describe(scorer, model)
            _judge(name, scorer, tests, bootstrap, found, bar)
            _read_run(model, scorer.settings, name, found)
            del scorer
    _compare(found, tests, bootstrap)
    return found


def _opened(model: str | os.PathLike | RewardScorer, **options: Any) -> RewardScorer:
    return model if isinstance(model, RewardScorer) else RewardScorer(model, **options)


def _compare(found: Evaluation, tests: TestSets, bootstrap: Bootstrap) -> None:
    """Everything that concerns all models and test sets together."""
    metrics = found.metrics
    metrics["datasets"] = {name: tests.describe(name, table) for name, table in found.pairs.items()}
    metrics["differences"] = _differences(found, tests, bootstrap)
    metrics["accuracy_matrix"] = _accuracy_matrix(metrics["results"])


def _head(device: torch.device, bootstrap: Bootstrap) -> dict[str, Any]:
    """Metadata of the evaluation; the results go into the empty parts."""
    return {
        "rm_toolkit": __version__,
        "command": None,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}},
        "device": str(device),
        "seed": bootstrap.seed,
        "bootstrap": {
            "resamples": bootstrap.resamples,
            "level": bootstrap.level,
            "clusters": "prompts",
            "method": "percentile",
        },
        "models": {},
        "datasets": {},
        "results": {},
    }


def _accuracy_matrix(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Model -> test set -> accuracy."""
    return {name: {test: values["accuracy"]["value"] for test, values in own.items()} for name, own in results.items()}


def _judge(
    name: str, scorer: RewardScorer, tests: TestSets, bootstrap: Bootstrap, found: Evaluation, bar: tqdm
) -> None:
    """Scores every test set with one model and computes its metrics."""
    bar.set_description(name)
    pairs = tests.load(scorer.settings.data_format)
    found.pairs = found.pairs or pairs
    found.tables[name], found.rewards[name], found.cut[name], results = pairs, {}, {}, {}
    for test, table in pairs.items():
        bar.set_postfix_str(test)
        try:
            found_rewards = scorer.score(
                table.prompts, table.completions, **table.columns, show_progress=not bar.disable
            )
        except RefusedText as error:
            raise tests.locate(test, scorer.tokenizer) or error from error
        rewards = np.array(found_rewards)
        found.rewards[name][test] = rewards
        num_truncated, found.cut[name][test] = find_cut(table, scorer.tokenizer, scorer.settings)
        results[test] = {**summarize(table, rewards, bootstrap), "num_truncated": num_truncated}
        bar.update()
    found.metrics["results"][name] = results


def _describe(scorer: RewardScorer, model: Any) -> dict[str, Any]:
    settings = scorer.settings
    classifier = classifier_of(scorer)
    return {
        "path": None if isinstance(model, RewardScorer) else str(model),
        "architecture": type(classifier).__name__,
        "num_parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "revision": None if isinstance(model, RewardScorer) else find_commit(*split_revision(model)),
        "pooling_type": settings.pooling_type,
        "data_format": settings.data_format,
        "max_length": settings.max_length,
        **({} if scorer.served is None else {"endpoint": scorer.served.url}),
        "stage": settings.stage,
        "domain": settings.domain,
        **({"chat_date": date} if (date := settings.chat_date or scorer.chat_date) else {}),
    }


def _read_run(model: Any, settings: RewardModelSettings, name: str, found: Evaluation) -> None:
    """What the training run left beside the model: its log, and its results before and after training."""
    if isinstance(model, RewardScorer) or not Path(model).is_dir():
        return
    folder = Path(model)
    described = found.metrics["models"][name]
    curves = read_learning_curves(folder, settings)
    if curves is not None:
        found.curves[name] = curves
        described["learning_curves"] = curves.as_dict()
    path = folder / FINAL_RESULTS_NAME
    if path.is_file():
        described["final_eval_results"] = read_mapping(path, remedy="Restore or remove the file.")


def _differences(found: Evaluation, tests: TestSets, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Every other model against the first one, on every test set."""
    first, *others = found.rewards
    described = found.metrics["models"]
    rows = []
    for other in others:
        tables = [tests.load(described[name]["data_format"]) for name in (first, other)]
        for test, table in tables[0].items():
            if not np.array_equal(table.prompt, tables[1][test].prompt):
                raise InputError(
                    f"test set '{test}' gives different pairs in {described[first]['data_format']} format (for '{first}') "
                    f"and {described[other]['data_format']} format (for '{other}'). Evaluate the two models separately."
                )
            # Texts may be numbered differently in another format; pairs are not.
            margins = [
                found.rewards[name][test][own[test].better] - found.rewards[name][test][own[test].worse]
                for name, own in zip((first, other), tables)
            ]
            difference = compare(*margins, table.prompt, bootstrap)
            rows.append({"first": first, "second": other, "dataset": test, **difference})
    return rows

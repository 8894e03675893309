"""Times best-of-16 scoring on a GPU: `RewardScorer` and `pipeline("text-classification")`, same weights, bf16."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, pipeline

from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.models.tokenizer import prepare_tokenizer
from rm_toolkit.scoring.scorer import RewardScorer

from ..contenders import Setting
from ..data import Rows
from ..scoring import make_rows
from .meters import synchronize
from .sides import Side


BATCH_SIZES = (8, 16, 32, 64, 128)
_TRIAL_ROWS = 256


@dataclass(frozen=True)
class ScoreJob:
    """
    What to score.

    Args:
        rows (`Rows`): Dialogues from which the best-of-16 rows are made.
        tokenizer (`str`): Folder of the tokenizer.
        shape (`str`), device (`str`), max_length (`int`): Size of the model, its device, and tokens per text.
        num_rows (`int`): Rows to score.
        repeats (`int`): Interleaved repeats.
        seconds (`float`): Time after which no further repeat begins.
    """

    rows: Rows
    tokenizer: str
    shape: str
    device: str
    max_length: int
    num_rows: int
    repeats: int
    seconds: float


def run(side: Side, job: ScoreJob) -> dict[str, Any]:
    """
    Times both on the same texts, tokenization included.

    Returns:
        `dict`: Rows per second of each repeat of `pipeline` and `scorer`; the pipeline's `best` batch size, and rows
            per second by batch size (`trials`); numbers of `rows` and `prompts`; the largest `difference` between
            rewards of both, relative to the range of the rewards; seconds of building both (`model`) and of each
            repeat (`seconds`).
    """
    end = time.monotonic() + job.seconds
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    tokenizer.pad_token = tokenizer.unk_token
    began = time.monotonic()
    classifier, scorer = build(job, tokenizer)
    built = time.monotonic() - began
    options = SimpleNamespace(rows=job.num_rows, max_length=job.max_length)
    texts = make_rows("best-of-16", job.rows, tokenizer, options)
    prompts, completions = [prompt for prompt, _ in texts], [completion for _, completion in texts]
    whole = [prompt + completion for prompt, completion in texts]

    def by_pipeline(strings: list[str], batch_size: int) -> list[float]:
        return [item["score"] for item in classifier(strings, truncation=True, batch_size=batch_size)]

    trial = whole[:_TRIAL_ROWS]
    by_pipeline(trial[:16], 8)
    trials: dict[int, float] = {}
    for size in BATCH_SIZES:
        try:
            trials[size] = len(trial) / timed(lambda: by_pipeline(trial, size), job.device)[1]  # noqa: B023
        except torch.OutOfMemoryError:
            break
    best = max(trials, key=trials.__getitem__)
    scorer.score(prompts[:64], completions[:64])
    speeds: dict[str, list[float]] = {"pipeline": [], "scorer": []}
    measured = []
    work = {
        "pipeline": lambda: by_pipeline(whole, best),
        "scorer": lambda: scorer.score(prompts, completions),
    }
    rewards: dict[str, list[float]] = {}
    for repeat in range(job.repeats):
        if repeat and time.monotonic() > end:
            break
        for name in list(work)[:: 1 if repeat % 2 else -1]:
            rewards[name], seconds = timed(work[name], job.device)
            speeds[name].append(len(whole) / seconds)
            measured.append(seconds)
    difference = np.abs(np.subtract(rewards["pipeline"], rewards["scorer"])).max() / np.ptp(rewards["pipeline"])
    counts = {"rows": len(whole), "prompts": len(set(prompts)), "difference": float(difference)}
    return {**speeds, "best": best, "trials": trials, **counts, "model": built, "seconds": measured}


def build(job: ScoreJob, tokenizer: Any) -> tuple[Any, RewardScorer]:
    """The pipeline and the scorer, each with its own copy of a random model in bf16 (fp32 on a CPU)."""
    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    setting = Setting(tokenizer, job.shape, job.device, job.max_length, 8, 8, "")
    models = []
    for _ in range(2):
        with torch.device(job.device):
            model = RewardModel(setting.model(), RewardModelSettings(max_length=job.max_length))
        model.config.problem_type = "regression"  # as `RewardModel.from_pretrained` sets it: no sigmoid
        torch.manual_seed(1)
        torch.nn.init.normal_(model.classifier.score.weight)  # rewards far enough apart to compare
        prepare_tokenizer(tokenizer, model.config, max_length=job.max_length)
        model.resize_token_embeddings(len(tokenizer))
        models.append(model.to(dtype).eval())
    stock, own = models
    classifier = pipeline("text-classification", model=stock.classifier, tokenizer=tokenizer, device=job.device)
    return classifier, RewardScorer(own, tokenizer, device=job.device)


def timed(compute: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result of a function, and the seconds that it took."""
    synchronize(device)
    begin = time.perf_counter()
    result = compute()
    synchronize(device)
    return result, time.perf_counter() - begin

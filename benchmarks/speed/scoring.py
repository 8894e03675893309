"""Rows, contenders and tables of `benchmarks/scoring.py`."""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, pipeline

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.scored_texts import tokenize_texts
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.saving import save_reward_model
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.models.tokenizer import prepare_tokenizer
from rm_toolkit.scoring.rewards import compute_rewards, shared_batches
from rm_toolkit.scoring.scorer import RewardScorer

from .contenders import Setting
from .data import Rows
from .measure import Timing, interleaved


SCORER = "RewardScorer"
DOMAINS = ("academy", "business", "entertainment", "literature")
Texts = list[tuple[str, str]]  # prompt and completion of each row


def make_rows(name: str, rows: Rows, tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace) -> Texts:
    """
    Makes up to `args.rows` different rows. The rows of a prompt are next to each other, as in a file.

    - `dsp`: a query and its five responses. If the file has too few queries, they also get the responses of others.
    - `best-of-16`: the dialogue of a helpful pair with 16 answers: its own two, and 14 from other dialogues. Prompts
      and answers so keep their real lengths.
    - `best-of-16-multi-turn`: the same, but only dialogues with at least three human turns.

    Args:
        name (`str`): `"dsp"`, `"best-of-16"` or `"best-of-16-multi-turn"`.
        rows (`Rows`): Rows to make the set from.
        tokenizer: Used to leave out texts that are too long.
        args: `rows` (number of rows) and `max_length` (tokens).
    """
    rng = random.Random(0)
    groups = rows.groups
    if name != "dsp":
        split = [_split(completions) for _, completions in groups]
        answers = [answer for _, own in split for answer in own]
        groups = [(prompt, [*own, *rng.sample(answers, 14)]) for prompt, own in split if len(prompt) > 1]
        if name.endswith("multi-turn"):
            groups = [(prompt, own) for prompt, own in groups if prompt.count("Human:") >= 3]
    elif len(groups) * 5 < args.rows:
        turns = range(1, 1 + args.rows // (5 * len(groups)))
        others = [(p, groups[(k + turn) % len(groups)][1]) for turn in turns for k, (p, _) in enumerate(groups)]
        groups = [*groups, *others]
    texts: Texts = []
    for prompt, completions in groups:
        ids: Any = tokenizer([prompt + completion for completion in completions])["input_ids"]
        if max(map(len, ids)) < args.max_length:
            texts += [(prompt, completion) for completion in dict.fromkeys(completions)]
    return texts[: args.rows]


def _split(dialogues: list[str]) -> tuple[str, list[str]]:
    """The prompt up to the last `Assistant:`, if all dialogues share it (else ""), and what follows in each."""
    first = dialogues[0]
    end = first.rfind("\n\nAssistant:") + len("\n\nAssistant:")
    shared = all(text.startswith(first[:end]) for text in dialogues)
    return (first[:end], [text[end:] for text in dialogues]) if shared else ("", dialogues)


def build_model(tokenizer: PreTrainedTokenizerBase, shape: str, max_length: int, folder: Path) -> str:
    """Saves a reward model with random weights; returns its folder."""
    setting = Setting(tokenizer, shape, "cpu", max_length, 8, 8, str(folder))
    model = RewardModel(setting.model(), RewardModelSettings(max_length=max_length))
    model.config.problem_type = "regression"  # as `RewardModel.from_pretrained` sets it: no sigmoid
    torch.manual_seed(1)
    torch.nn.init.normal_(model.classifier.score.weight)  # rewards far enough apart to compare
    prepare_tokenizer(tokenizer, model.config, max_length=max_length)
    model.resize_token_embeddings(len(tokenizer))
    save_reward_model(model, folder, tokenizer)
    return str(folder)


def build_adapters(model: str, folder: Path) -> dict[str, str]:
    """Saves an adapter of rank 16 on all linear layers for each domain; returns their folders by domain."""
    found = {}
    for seed, name in enumerate(DOMAINS):
        torch.manual_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
        config = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
        adapted = get_peft_model(base, config)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(folder / name)
        shutil.copy(Path(model, "rm_toolkit.json"), folder / name)
        found[name] = str(folder / name)
    return found


def compare_pipeline(name: str, texts: Texts, model: str, args: argparse.Namespace, say: Callable[[str], None]) -> str:
    """Times RewardScorer and the pipeline, tokenization included; returns a table."""
    classifier = pipeline("text-classification", model=model, device=args.device, dtype=torch.float32)
    scorer = RewardScorer(model, device=args.device)
    prompts, completions = [p for p, _ in texts], [c for _, c in texts]
    whole = [prompt + completion for prompt, completion in texts]

    def by_pipeline(strings: list[str], batch_size: int) -> list[float]:
        found = classifier(strings, truncation=True, batch_size=batch_size)
        return [item["score"] for item in found]

    trial = whole[: args.trial_rows]
    by_pipeline(trial[:8], 4)
    costs = {}
    for batch_size in args.batch_sizes:
        costs[batch_size] = _timed(lambda: by_pipeline(trial, batch_size), args.device)[2]  # noqa: B023
        say(f"{name}: pipeline, batch size {batch_size}: {costs[batch_size]:.2f} CPU s for {len(trial)} rows")
    best = min(costs, key=costs.__getitem__)
    scorer.score(prompts[:64], completions[:64])
    base = f"pipeline, batch size {best}"
    sides = {base: lambda: by_pipeline(whole, best), SCORER: lambda: scorer.score(prompts, completions)}
    timings, rewards = _race(sides, len(texts), args, say)
    difference = np.abs(np.array(rewards[base]) - np.array(rewards[SCORER])).max()
    computed, needed = _tokens(scorer, texts)
    title = f"{name}: {len(texts)} rows, {len(set(prompts))} prompts"
    notes = (
        f"\nTokens of all texts over tokens computed with prompts shared: {computed / needed:.2f}. Largest difference of "
        f"two rewards: {difference:.1e} (they spread over {np.ptp(rewards[base]):.2f}).\n"
    )
    return _table(title, timings, base) + notes


def compare_adapters(
    name: str, texts: Texts, model: str, adapters: dict[str, str], args: argparse.Namespace, say: Callable
) -> str:
    """Times batches with four adapters and with one, with RewardScorer and with PEFT; returns a table."""
    prompts, completions = [p for p, _ in texts], [c for _, c in texts]
    number = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    mixed = [DOMAINS[number[prompt] % 4] for prompt in prompts]  # all answers to a prompt have the same domain
    each = [DOMAINS[k % 4] for k in range(len(texts))]  # domains alternate: prompts cannot be shared between them
    one = [DOMAINS[0]] * len(texts)
    scorer = RewardScorer(model, adapters=adapters, device=args.device)
    padded = RewardScorer(model, adapters=adapters, device=args.device)
    padded._shares = False
    peft = PeftForward(model, adapters, scorer)
    base = "one adapter"
    sides = {
        base: lambda: scorer.score(prompts, completions, domains=one),
        "four, by prompt": lambda: scorer.score(prompts, completions, domains=mixed),
        "four, by row": lambda: scorer.score(prompts, completions, domains=each),
        "one adapter, padded rows": lambda: padded.score(prompts, completions, domains=one),
        "four, padded rows": lambda: padded.score(prompts, completions, domains=each),
        "PEFT, one unmerged adapter": lambda: peft(texts, one),
        "PEFT, four (`adapter_names`)": lambda: peft(texts, each),
    }
    for side in sides:
        say(f"adapters: {side}")
    scorer.score(prompts[:64], completions[:64], domains=mixed[:64])
    timings, rewards = _race(sides, len(texts), args, say)
    difference = max(
        np.abs(np.array(rewards[a]) - np.array(rewards[b])).max()
        for a, b in (
            (base, "PEFT, one unmerged adapter"),
            ("four, by row", "PEFT, four (`adapter_names`)"),
            ("four, by row", "four, padded rows"),
        )
    )
    costs = [
        ("four, by prompt", base),
        ("four, padded rows", "one adapter, padded rows"),
        ("four, by row", "PEFT, one unmerged adapter"),
        ("four, padded rows", "PEFT, one unmerged adapter"),
        ("PEFT, four (`adapter_names`)", "PEFT, one unmerged adapter"),
    ]
    lines = [f"- {a} costs {_cost(timings, a, b)} times {b}." for a, b in costs]
    title = f"Four adapters in one batch, {name}: {len(texts)} rows"
    notes = f"\n{chr(10).join(lines)}\n\nLargest difference of two rewards: {difference:.1e}.\n"
    return _table(title, timings, base) + notes


class PeftForward:
    """PEFT's own mixed batches, on padded rows sorted by length, with unmerged adapters."""

    def __init__(self, model: str, adapters: dict[str, str], scorer: RewardScorer):
        classifier = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
        first, *others = adapters.items()
        self.model = PeftModel.from_pretrained(classifier, first[1], adapter_name=first[0])
        for name, folder in others:
            self.model.load_adapter(folder, name)
        self.model.to(scorer.device).eval()
        self.scorer = scorer

    def __call__(self, texts: Texts, domains: list[str]) -> list[float]:
        scorer = self.scorer
        adapters = [DOMAINS.index(domain) for domain in domains]
        length = scorer.settings.max_length
        data, numbers = tokenize_texts(texts, scorer.tokenizer, max_length=length, adapters=adapters)
        mixed = len(set(domains)) > 1
        self.model.set_adapter(domains[0])

        def forward(batch: Any) -> tuple[torch.Tensor, None]:
            more = {"adapter_names": [DOMAINS[number] for number in batch.adapters]} if mixed else {}
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **more)
            return output.logits[:, 0], None

        collator = PreferenceCollator(scorer.tokenizer.pad_token_id)
        options = {"tokens_per_batch": scorer.tokens_per_batch, "device": scorer.device, "show_progress": False}
        return compute_rewards(forward, data, collator, **options)[numbers].tolist()


def _timed(run: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _race(
    sides: dict[str, Callable], num_rows: int, args: argparse.Namespace, say: Callable
) -> tuple[dict[str, Timing], dict[str, Any]]:
    timings, results = {side: Timing(num_rows) for side in sides}, {}

    def run(side: str, repeat: int) -> None:
        results[side], wall, cpu = _timed(sides[side], args.device)
        timings[side].wall.append(wall)
        timings[side].cpu.append(cpu)
        say(f"{side}: {cpu:.1f} CPU s, {wall:.1f} s")

    interleaved(tuple(sides), args.repeats, run)
    return timings, results


def _tokens(scorer: RewardScorer, texts: Texts) -> tuple[int, int]:
    """Number of tokens of all texts, and number of tokens computed when prompts are shared."""
    data, _ = tokenize_texts(texts, scorer.tokenizer, max_length=scorer.settings.max_length)
    collator = PreferenceCollator(0, layout="shared")
    batches = shared_batches(data, scorer.tokens_per_batch)
    return int(data.lengths.sum()), sum(collator.sequences(data, batch).num_tokens for batch in batches)


def _cost(timings: dict[str, Timing], side: str, base: str) -> str:
    middle, least, most = timings[base].ratio(timings[side], "cpu")
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def _table(title: str, timings: dict[str, Timing], base: str) -> str:
    lines = [
        f"\n### {title}\n",
        "| | rows/s, wall | rows/s, CPU | x first, wall | x first, CPU |",
        "|---|---|---|---|---|",
    ]
    for side, timing in timings.items():
        ratios = [timing.ratio(timings[base], clock) for clock in ("wall", "cpu")]
        shown = ["1" if side == base else f"{a:.2f} ({b:.2f} to {c:.2f})" for a, b, c in ratios]
        lines.append(f"| {side} | {timing.rate('wall'):.1f} | {timing.rate('cpu'):.1f} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"

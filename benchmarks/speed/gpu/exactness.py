"""Is the shared layout exact on this device? Compares rewards with single texts, and losses with plain rows."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.scored_texts import tokenize_texts
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.scoring.rewards import compute_rewards

from ..contenders import Setting
from ..data import make_tokenizer, only_fitting
from .rows import load_rows
from .runs import Job, run
from .sides import FAST, make_sides


MAX_LENGTH = 512
# Largest difference of a reward, in units of the range of all rewards (largest minus smallest).
LIMITS = {"bf16": 2e-2, "fp32": 1e-4}
STEPS, PAIRS = 50, 16
# The fast curve may deviate this many times as much as the plain curve with other kernels; each is one random draw.
NOISE_FACTOR = 2.0


def _rows(args: argparse.Namespace, num_prompts: int) -> tuple[Any, Any]:
    rows = load_rows("dsp", args.data, num_prompts)
    tokenizer = make_tokenizer([rows], args.output / "tokenizer")
    return only_fitting(rows, tokenizer, MAX_LENGTH), tokenizer


def compare_rewards(args: argparse.Namespace) -> tuple[str, str]:
    """Compares rewards from shared rows of several prompts with those of single texts, in fp32 and bf16 autocast."""
    rows, tokenizer = _rows(args, 40)
    texts = [(prompt, text) for prompt, completions in rows.groups[:40] for text in completions]
    setting = Setting(tokenizer, args.shape, args.device, MAX_LENGTH, 8, 8, "")
    with torch.device(args.device):
        model = RewardModel(setting.model(), RewardModelSettings(max_length=MAX_LENGTH))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.base_classifier.score.weight)
    model.to(args.device).eval()
    data, _ = tokenize_texts(texts, tokenizer, max_length=MAX_LENGTH)

    def rewards(layout: str, tokens: int, dtype: torch.dtype | None) -> np.ndarray:
        began = time.monotonic()
        collator = PreferenceCollator(tokenizer.pad_token_id, layout=layout)
        options = {"tokens_per_batch": tokens, "device": torch.device(args.device), "show_progress": False}
        with torch.autocast(args.device, dtype or torch.bfloat16, enabled=dtype is not None):
            found = compute_rewards(model, data, collator, **options)
        # For the log: where the time went if it runs out, for instance into compiling the attention of shared rows.
        print(f"{layout}, {tokens} tokens a batch, {dtype or 'fp32'}: {time.monotonic() - began:.1f} s", flush=True)
        return found

    said, passed = [], True
    dtypes = {"fp32": None, "bf16": torch.bfloat16}
    alone = {name: rewards("plain", 1, dtype) for name, dtype in dtypes.items()}
    padded = {name: rewards("plain", 16384, dtype) for name, dtype in dtypes.items()}
    model.enable_shared_layout()
    for name, dtype in dtypes.items():
        shared = rewards("shared", 16384, dtype)
        spread = np.ptp(alone[name])
        found, noise = (float(np.abs(other - alone[name]).max() / spread) for other in (shared, padded[name]))
        passed &= found <= LIMITS[name]
        said.append(f"{name} {found:.1e} (limit {LIMITS[name]:g}; padded rows {noise:.1e})")
    text = f"{len(texts)} texts, shared against one by one, of the rewards' spread: {', '.join(said)}"
    return "passed" if passed else "failed", text


def compare_curves(args: argparse.Namespace) -> tuple[str, str]:
    """Compares the losses of 50 steps, fast side and plain rows; plain rows with other kernels show the noise."""
    rows, tokenizer = _rows(args, STEPS * PAIRS // 4 + 20)
    tokenizer.save_pretrained(args.output / "tokenizer")
    sides = make_sides(args.device)
    plain, fast = replace(sides["ours, plain"]), sides[FAST]
    job = Job(
        rows=rows.take(STEPS * PAIRS),
        tokenizer=str(args.output / "tokenizer"),
        shape=args.shape,
        device=args.device,
        max_length=MAX_LENGTH,
        pairs_per_step=PAIRS,
        micro_batch=PAIRS,
        steps=STEPS,
        output_dir=str(args.output / "curves"),
        more={"logging_steps": 1, "learning_rate": 1e-5},
    )
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    curves = {}
    # Liger patches classes for the whole process, so the fast side must come last.
    for name, side, kernels in (
        ("plain", plain, contextlib.nullcontext()),
        ("plain, other kernels", plain, math),
        ("fast", fast, contextlib.nullcontext()),
    ):
        with kernels:
            found = run(side, job)
        print(
            f"{name}: {found.get('build', 0):.1f} s of building, {sum(found.get('seconds', [])):.1f} s of steps",
            flush=True,
        )
        if "error" in found:
            return "failed", f"{name}: {found['error']}"
        curves[name] = found["losses"]
        (args.output / "curves.losses.json").write_text(json.dumps(curves) + "\n", encoding="utf-8")
    noise = distance(curves["plain, other kernels"], curves["plain"])
    found = distance(curves["fast"], curves["plain"])
    passed = found <= NOISE_FACTOR * max(noise, 1e-6)
    left_out = f" Without {'; '.join(fast.left_out)}." if fast.left_out else ""
    return "passed" if passed else "failed", (
        f"{len(curves['fast'])} steps, root mean square of the difference of losses: {found:.1e} fast to plain, {noise:.1e} "
        f"plain to plain with other kernels (limit: {NOISE_FACTOR:g} times that).{left_out}"
    )


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square of the difference between two curves of the same length."""
    if len(one) != len(other) or not one:
        raise ValueError(f"curves of {len(one)} and {len(other)} steps")
    return float(np.sqrt(np.mean(np.subtract(one, other) ** 2)))

"""
Makes one measurement of `benchmarks/scale.py` and prints one line of JSON. It runs in a process of its own, with the
package of this checkout or of an earlier one on `PYTHONPATH`. Earlier versions had modules in other places.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


K = 5  # responses per prompt; one is preferred to the others, which makes four pairs
STEP_SECONDS = 1.0  # steps of each size are planned for this long, at least one step


def found_in(name: str, *places: str) -> Any:
    """Imports a name from the first module in `places` that this version has; `None` if it has none of them."""
    for place in places:
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(f"rm_toolkit.{place}"), name)
    return None


def preferences(num_pairs: int) -> Any:
    """Random token ids of `num_pairs` pairs: prompts of 8 to 40 tokens, responses of 10 to 80, all different."""
    make = found_in("TokenizedPreferences", "batches.tokenization", "data.tokenization")
    rng = np.random.default_rng(0)
    prompts = -(-num_pairs // (K - 1))
    prompt_lengths = np.repeat(rng.integers(8, 41, prompts), K)
    lengths = prompt_lengths + rng.integers(10, 81, prompts * K)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # A prompt's tokens depend only on its number and their position, so that its responses share them.
    place = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    of_prompt = np.repeat(np.arange(prompts * K) // K, lengths)
    ids = ((of_prompt * 7919 + place * 104729) % 31000 + 10).astype(np.int32)
    answer = place >= np.repeat(prompt_lengths, lengths)
    ids[answer] = rng.integers(10, 31000, int(answer.sum()), dtype=np.int32)
    pair = np.arange(num_pairs)
    prompt = (pair // (K - 1)).astype(np.int32)
    best = prompt * K
    flags = np.zeros(num_pairs, dtype=bool)
    return make(
        name="train", ids=ids, offsets=offsets, completion_start=np.zeros(prompts * K, dtype=np.int32),
        better=best, worse=(best + 1 + pair % (K - 1)).astype(np.int32), row=prompt, prompt=prompt, margin=None,
        lm_better=~flags, lm_worse=flags, first_two=np.zeros((0, 2), dtype=np.int32),
    )  # fmt: skip


def make_plan(data: Any, pairs_per_step: int, tokens: int | None, num_processes: int = 1) -> Any:
    """The plan of an epoch, with micro-batches of 8 pairs or of `tokens` tokens."""
    return found_in("EpochPlan", "batches.epoch_plan", "data.planning")(
        data, pairs_per_step=pairs_per_step, pairs_per_micro_batch=8, tokens_per_micro_batch=tokens,
        shared_layout=tokens is not None, num_processes=num_processes,
    )  # fmt: skip


def planning(num_pairs: int, steps: list[int]) -> dict[str, Any]:
    """Median milliseconds to plan a step, by its number of pairs, with micro-batches filled by pairs and by tokens."""
    data = preferences(num_pairs)
    rng = np.random.default_rng(1)
    found: dict[str, Any] = {}
    for pairs_per_step in steps:
        for tokens in (None, 4096):
            plan = make_plan(data, pairs_per_step, tokens)
            prompts = min(pairs_per_step, num_pairs) // (K - 1)
            taken, begin = [], time.process_time()
            while not taken or (time.process_time() - begin < STEP_SECONDS and len(taken) < 20):
                chosen = rng.choice(num_pairs // (K - 1), prompts, replace=False)
                pairs = (chosen[:, None] * (K - 1) + np.arange(K - 1)).ravel()
                start = time.process_time()
                plan.plan_step(pairs)
                taken.append(time.process_time() - start)
            found[f"{pairs_per_step}{' by tokens' if tokens else ''}"] = 1000 * float(np.median(taken))
    return found


def start(num_pairs: int, num_processes: int, resume_step: int) -> dict[str, Any]:
    """Seconds until the first step of a fresh and of a resumed run is planned, with 64 pairs per step."""
    data = preferences(num_pairs)
    make_plan(preferences(64), 64, None)  # so that imports are not timed
    begin = time.process_time()
    plan = make_plan(data, 64, None, num_processes)
    next(iter(plan))
    fresh = time.process_time() - begin
    plan = make_plan(data, 64, None, num_processes)
    step = min(resume_step, len(plan) - 1)
    begin = time.process_time()
    try:
        plan.set_epoch(0, skipped=step)
        replayed = step
    except TypeError:  # up to 0.2.1, all earlier steps were planned again: time some of them and extrapolate
        replayed = min(step, 300)
    steps = iter(plan)
    for _ in range(replayed + 1):
        next(steps)
    seconds = (time.process_time() - begin) * (step + 1) / (replayed + 1)
    return {"start": fresh, "resume": seconds, "step": step, "estimated": replayed < step}


def anonymous() -> int:
    """Bytes of anonymous memory of this process: not shared, and not backed by a file."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Measures the block: CPU seconds (`seconds`), and peak anonymous memory above that before it (`peak`, bytes)."""
    found: dict[str, float] = {"peak": 0.0}
    before, done = anonymous(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found["peak"] = max(found["peak"], anonymous() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    begin = time.process_time()
    try:
        yield found
    finally:
        found["seconds"] = time.process_time() - begin
        done.set()
        thread.join()
        found["peak"] = max(found["peak"], anonymous() - before)


def texts(num_pairs: int, folder: str) -> Any:
    """`num_pairs` pairs as rows with a prompt, in an Arrow file."""
    import datasets

    datasets.disable_progress_bars()

    def rows() -> Iterator[dict[str, Any]]:
        rng = random.Random(0)
        words = ["".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(2, 8))) for _ in range(3000)]
        pool = [" ".join(rng.choices(words, k=rng.randint(5, 12))) for _ in range(5000)]
        for number in range(-(-num_pairs // (K - 1))):
            prompt = f"Question {number}: {rng.choice(pool)}? "
            best = rng.choice(pool)
            for _ in range(K - 1):
                yield {"prompt": prompt, "chosen": f"{best}.", "rejected": f"{rng.choice(pool)}, {rng.choice(words)}."}

    return datasets.Dataset.from_generator(rows, cache_dir=folder).select(range(num_pairs))


def tokenizer_of(dataset: Any, folder: str) -> Any:
    """A BPE tokenizer with 4K tokens, trained on the first rows."""
    from rm_toolkit.testing import train_tokenizer

    found = train_tokenizer([row["prompt"] + row["chosen"] for row in dataset.select(range(min(500, len(dataset))))],
                            Path(folder, "tokenizer"), 4096)  # fmt: skip
    found.pad_token = found.unk_token
    return found


def tokenization(num_pairs: int, side: str) -> dict[str, Any]:
    """Seconds and peak memory of tokenization, and of reading the token ids again from the cache."""
    import datasets

    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        dataset = texts(num_pairs, folder)
        tokenizer = tokenizer_of(dataset, folder)
        if side == "trl":
            return trl_tokenization(dataset, tokenizer, folder)
        tokenize_preferences = found_in("tokenize_preferences", "batches.tokenization", "data.tokenization")
        options = {"max_length": 512, "show_progress": False, "find_completions": False}
        with watched() as first:
            data = tokenize_preferences(dataset, tokenizer, **options)
        size = data.ids.nbytes
        del data
        with watched() as again:
            data = tokenize_preferences(dataset, tokenizer, **options)
            int(data.ids[:: 1 << 10].sum())  # touches every page
        return {**first, "again": again["seconds"], "held": again["peak"], "ids": size}


def memory(num_pairs: int, readers: list[int]) -> dict[str, Any]:
    """Bytes of memory that real processes on one machine use together for one dataset, by number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.npz")
        columns = {
            name: value for name, value in vars(preferences(num_pairs)).items() if isinstance(value, np.ndarray)
        }
        write_arrays = found_in("write_arrays", "batches.mapped_arrays")
        with path.open("wb") as file:
            if write_arrays:
                write_arrays(file, columns)
            else:
                np.savez(file, **columns)
        size = sum(value.nbytes for value in columns.values())
        del columns
        return {"data": size} | {str(count): sum(held_by(path, count)) for count in readers}


def held_by(path: Path, count: int) -> list[int]:
    """Bytes that each of `count` processes uses for a file of token ids; shared pages are divided among them (PSS)."""
    command = [sys.executable, __file__, "read", json.dumps({"path": str(path)})]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        before = [int(process.stdout.readline()) for process in started]
        for stage in range(2):  # first all read the file, then each reports its memory
            for process in started:
                process.stdin.write("go on\n")
                process.stdin.flush()
            found = [int(process.stdout.readline()) for process in started]
            del stage
        return [now - then for now, then in zip(found, before)]
    finally:
        for process in started:
            process.communicate()


def read(path: str) -> None:
    """Body of such a process: prints its memory before it has read the data, and again at each line on stdin."""
    read_arrays = found_in("read_arrays", "batches.mapped_arrays") or _read_whole
    print(proportional(), flush=True)
    columns: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        del line
        columns = columns or read_arrays(Path(path))
        for values in columns.values():  # touch every page, in small slices to avoid large copies
            for begin in range(0, len(values), 1 << 18):
                values[begin : begin + (1 << 18)].any()
        print(proportional(), flush=True)


def _read_whole(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def proportional() -> int:
    """Proportional set size of this process in bytes: a page shared by n processes counts 1/n."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024


def trl_tokenization(dataset: Any, tokenizer: Any, folder: str) -> dict[str, Any]:
    """Seconds and peak memory of TRL's own tokenization of the same rows."""
    from transformers import LlamaConfig, LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model = LlamaForSequenceClassification(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=1, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    )  # fmt: skip
    args = RewardConfig(
        output_dir=folder, use_cpu=True, max_length=512, report_to="none", disable_tqdm=True, bf16=False
    )
    with watched() as found:
        RewardTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    return dict(found)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    part, arguments = sys.argv[1], json.loads(sys.argv[2])
    if part == "read":
        read(**arguments)
    else:
        parts = {"planning": planning, "start": start, "tokenization": tokenization, "memory": memory}
        print(json.dumps(parts[part](**arguments)))

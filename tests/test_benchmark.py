"""The throughput benchmark runs from start to end on a tiny model, on rows that both sides accept."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = load("throughput")
    from speed import data

    monkeypatch.setattr(data, "PUBLISHED", Path("absent"))
    monkeypatch.setattr(data, "VOCAB_SIZE", 600)
    whole = data.load_rows
    monkeypatch.setattr(data, "load_rows", lambda name: whole(name).take(48))
    import datasets
    import torch
    import transformers

    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    yield module
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(verbosity)
    datasets.enable_caching()
    datasets.enable_progress_bars()
    for name in [name for name in sys.modules if name.split(".")[0] == "speed"]:
        del sys.modules[name]


@pytest.mark.filterwarnings("ignore")
def test_one_run_prints_its_tables(throughput, tmp_path):
    report = tmp_path / "report.md"
    options = "--shape tiny --pairs 8 --repeats 1 --sets dsp --batches 4 --max-length 900"
    parts = "--parts training evaluation"
    throughput.main([*options.split(), *parts.split(), "--output", str(report)])
    text = report.read_text()
    assert "### Training, dsp, 4 pair(s) a micro-batch" in text
    assert "### Evaluation, dsp" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert {"TRL", "TRL, by length", "plain", "fast"} <= set(rows)
    planned = {
        line.split("|")[1].strip(): float(line.split("|")[3])
        for line in text.split("### Tokens over all of dsp")[1].split("###")[0].splitlines()
        if line.startswith("| ") and "batching" not in line
    }
    # The fast path computes each distinct token once; the others compute more.
    assert planned["fast"] == pytest.approx(1.0, abs=0.1)
    assert planned["TRL"] > planned["TRL, by length"] > planned["plain"] > 1.2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_scoring_prints_its_tables_of_equal_rewards(throughput, tmp_path):
    report = tmp_path / "report.md"
    options = (
        "--shape tiny --rows 48 --trial-rows 8 --batch-sizes 1 4 --repeats 1 --max-length 900 --sets best-of-16 dsp"
    )
    load("scoring").main([*options.split(), "--output", str(report)])
    text = report.read_text()
    assert "### best-of-16: 48 rows, 3 prompts" in text and "### dsp: 48 rows" in text
    assert "### Four adapters in one batch, best-of-16: 48 rows" in text
    differences = [
        float(found) for found in re.findall(r"Largest difference of\s+two rewards: (\S+?)[ .]*(?:\n|\()", text)
    ]
    assert len(differences) == 3 and max(differences) < 1e-4
    shared = [float(found) for found in re.findall(r"with prompts shared: (\d+\.\d+)", text)]
    assert shared[0] > shared[1] > 1  # sixteen answers to a dialogue share more than five answers to a question


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_the_cuda_mode_runs(throughput, tmp_path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = "--device cuda --shape 12M --part train-dsp --steps 2 --repeats 1 --in-process"
    with pytest.raises(SystemExit) as end:
        throughput.main([*options.split(), "--output", str(tmp_path)])
    assert end.value.code == 0
    assert "| ours, fast |" in (tmp_path / "train-dsp.md").read_text()

"""The GPU benchmark: its formula, worked by hand, and all of its parts, run on a CPU with a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = "--shape tiny --steps 2 --pairs-per-step 8 --micro-batches 4 8 --repeats 1 --max-length 512 --score-rows 32"
PARTS = (
    "search-dsp",
    "train-dsp",
    "features-dsp",
    "kernels-dsp",
    "search-helpful",
    "train-helpful",
    "evaluate-dsp",
    "evaluate-helpful",
    "score",
    "memory",
    "profile",
)


@pytest.fixture
def gpu(monkeypatch):
    """The package `speed.gpu`, imported for one test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed.gpu.flops
    import speed.gpu.meters
    import speed.gpu.profile
    import speed.gpu.rows
    import speed.gpu.sides

    yield speed.gpu
    for name in [name for name in sys.modules if name.split(".")[0] == "speed"]:
        del sys.modules[name]


def config_of(**sizes):
    values = {"hidden_size": 4, "intermediate_size": 10, "num_hidden_layers": 2, "head_dim": 2}
    return SimpleNamespace(**{**values, "num_attention_heads": 2, "num_key_value_heads": 1, **sizes})


def test_flops_by_hand(gpu):
    Work, model_flops = gpu.flops.Work, gpu.flops.model_flops
    # A layer: q and o 4 x 4 each, k and v 4 x 2 each, and an MLP of three 4 x 10: 32 + 16 + 120 = 168 parameters.
    assert model_flops(config_of(), Work(tokens=5)) == 6 * 2 * 168 * 5
    assert model_flops(config_of(), Work(tokens=5), backward=False) == 2 * 2 * 168 * 5
    # Two of the five tokens skip the MLP, but only in the last layer.
    assert model_flops(config_of(), Work(tokens=5, untouched=2)) == 6 * (2 * 168 * 5 - 120 * 2)
    # A query and a key: 4 multiply-adds (2 heads of 2) for the score and 4 for the values, 2 operations each.
    assert model_flops(config_of(), Work(attention_pairs=7), backward=False) == 2 * 7 * (2 * 4 + 2 * 4)
    assert model_flops(config_of(), Work(attention_pairs=7)) == 3 * 2 * 7 * 16


def test_mfu_is_the_share_of_the_peak(gpu):
    assert gpu.flops.mfu(2e12, seconds=0.5, peak_tflops=8.0) == pytest.approx(0.5)


def test_padding_is_computed_and_a_shared_prompt_once(gpu):
    flops = gpu.flops
    assert flops.padded_work(3, 4) == flops.Work(tokens=12, attention_pairs=3 * 10)
    prompt = list(range(100, 140))
    texts = [[prompt + [1, 2, 3], prompt + [4, 5]], [[7, 8]]]
    # The prompt 40 x 41 / 2; its two responses see all of it and themselves causally; the other text by itself.
    pairs = 820 + (3 * 40 + 6) + (2 * 40 + 3) + 3
    assert flops.distinct_work(texts, trimmed=False) == flops.Work(47, pairs, 0)
    assert flops.distinct_work(texts, trimmed=True) == flops.Work(47, pairs, 47 - 3)


def test_overlapping_kernels_count_once(gpu):
    assert gpu.meters.covered([(0.0, 1.0), (0.5, 2.0), (0.6, 0.7), (3.0, 4.0)]) == pytest.approx(3.0)
    assert gpu.meters.covered([]) == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "attention"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>", "optimizer and clipping"),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "copies and casts"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::vectorized_gather_kernel<16, long>", "gathers and scatters"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor<float>>", "element-wise and reductions"),
        ("_swiglu_forward_kernel", "element-wise and reductions"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "between GPUs"),
        ("something_new", "other"),
    ],
)
def test_kernels_are_sorted_by_name(gpu, name, kind):
    assert gpu.profile.kind_of(name) == kind


def test_made_rows_are_all_different_and_share_prompts(gpu):
    dsp, helpful = gpu.rows.made_rows("dsp", 30), gpu.rows.made_rows("helpful", 30)
    assert (len(dsp.groups), dsp.num_pairs, helpful.num_pairs) == (30, 120, 30)
    assert len({text for prompt, texts in dsp.groups for text in texts}) == 150
    better, worse = helpful.groups[0][1]
    start = better[: better.index("Assistant:")]
    assert better != worse and worse.startswith(start) and start.startswith("\n\nHuman: ")
    assert gpu.rows.made_rows("dsp", 30) == dsp


def test_a_folder_without_the_files_is_refused(gpu, tmp_path):
    with pytest.raises(FileNotFoundError, match="--data is the folder"):
        gpu.rows.load_rows("dsp", tmp_path, 4)


def test_what_is_lacking_is_said_and_left_out(gpu, monkeypatch):
    sides = gpu.sides
    unknown = sides.Feature("warp drive", options={"warp_drive": True}, on_cpu=True)
    gone = sides.Feature("old kernel", patch=("rm_toolkit.errors", "no_such_name", len), on_cpu=True)
    monkeypatch.setattr(sides, "FEATURES", (*sides.FEATURES, unknown, gone))
    found = sides.make_sides("cpu")
    said = " ".join(found[sides.FAST].left_out)
    assert "this version has no setting `warp_drive`" in said and "old kernel: this version does not have it" in said
    assert "ours, fast, without shared prompts" in found
    assert not any("warp drive" in name for name in found)
    assert "warp_drive" not in found[sides.FAST].options


def test_every_patch_of_a_feature_names_what_is_there(gpu):
    """A renamed feature would be reported as missing, and its row would silently disappear from the table."""
    missing = [f.name for f in gpu.sides.FEATURES if f.patch and f.missing("cuda") == "this version does not have it"]
    assert not missing


def test_a_feature_without_a_setting_is_off_inside_its_side_alone(gpu, monkeypatch):
    import rm_toolkit.errors as module

    sides = gpu.sides
    monkeypatch.setattr(
        sides, "FEATURES", (sides.Feature("lists", patch=("rm_toolkit.errors", "name_list", len), on_cpu=True),)
    )
    before = module.name_list
    with sides.features_of(sides.make_sides("cpu")["ours, fast, without lists"]):
        assert module.name_list is len
    assert module.name_list is before


def test_the_processes_that_start_at_once_share_the_cores(gpu, monkeypatch):
    from speed.gpu import flags

    monkeypatch.setattr(flags.os, "sched_getaffinity", lambda pid: range(16), raising=False)
    assert flags.processes_of("train-dsp", None) == (4, 4)
    assert flags.processes_of("score", None) == (1, 16)
    assert flags.processes_of("evaluate-helpful", 2) == (3, 2)
    monkeypatch.setattr(flags.os, "sched_getaffinity", lambda pid: range(2))
    assert flags.processes_of("train-dsp", None) == (4, 1)
    assert {part.partition("-")[0] for part in flags.PARTS} == set(flags.SIDES_AT_ONCE)


def test_a_cpu_keeps_one_thread(gpu, throughput):
    assert throughput.parse([]).threads == throughput.parse(["--part", "train-dsp"]).threads == 1
    assert throughput.parse(["--device", "cuda"]).threads is None
    assert throughput.parse(["--device", "cuda", "--threads", "3"]).threads == 3


def test_processes_are_started_before_anything_slow_is_imported(tmp_path):
    """What the parent imports would delay them, and what they import before they are told their threads keeps others."""
    script = "import sys; import speed.gpu.workers, speed.gpu.flags; print([m for m in ('torch', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=BENCHMARKS, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_takes_the_process_that_was_started_and_a_late_one_is_ended(gpu, monkeypatch):
    from speed.gpu import workers

    side = gpu.sides.Side("a")
    with workers.Workers() as pool:
        pool.start(2, threads=1)
        spares = [worker.process for worker in pool._spare]
        pool.deadline = workers.Deadline(120)
        with pytest.raises(workers.Failed, match="no_such_function"):
            pool.run(side, None, "speed.gpu.rows:no_such_function")
        assert pool._workers["a"].process is spares[0] and pool._workers["a"].imported > 0
        pool.deadline = workers.Deadline(0)
        with pytest.raises(workers.TimeRanOut):
            pool.run(gpu.sides.Side("b"), None)
    assert not any(process.is_alive() for process in spares)


class Scripted:
    """Stands in for the workers: answers from a table instead of running anything, and stops after `limit` jobs."""

    def __init__(self, speed, limit=100, too_large=()):
        self.speed, self.limit, self.too_large = speed, limit, too_large
        self.asked = []

    def run(self, side, job, call=""):
        from speed.gpu.workers import TimeRanOut

        if len(self.asked) == self.limit:
            raise TimeRanOut("the part's time is up")
        self.asked.append((side.name, job.micro_batch, job.steps, job.warm_up))
        if (side.name, job.micro_batch) in self.too_large:
            return {"error": "out of memory"}
        pairs = job.pairs_per_step * (job.steps - job.warm_up)
        seconds = pairs / (self.speed[side.name] * job.micro_batch)
        work = {"tokens": 100 * pairs, "attention_pairs": 0, "untouched": 0}
        return {"seconds": [seconds], "pairs": pairs, "work": work, "peak": 0, "build": 1.0, "weights": "the same"}

    def end(self, name):
        pass


SPEED = {"TRL": 1.0, "TRL at its best": 2.0, "ours, plain": 2.5, "ours, fast": 6.0}


@pytest.fixture
def suite(gpu, throughput, tmp_path):
    """The benchmark's parts at a tiny size, for the main sides, to be run with [`Scripted`] workers."""
    from speed.gpu.suite import Suite

    suite = Suite(throughput.parse([*TINY.split(), "--part", "search-dsp", "--output", str(tmp_path)]), None)
    suite.begin("train-dsp")
    return suite


def test_the_most_important_sides_run_first_and_the_table_keeps_its_order(suite, tmp_path):
    workers = Scripted(SPEED)
    suite.train(workers, "dsp")
    assert [name for name, *_ in workers.asked] == ["ours, fast", "TRL at its best", "TRL", "ours, plain"]
    _, _, *rows = lines_of(tmp_path / "train-dsp.md")
    assert [row[0] for row in rows] == ["TRL", "TRL at its best", "ours, plain", "ours, fast"]
    assert rows[3][3:5] == ["6.00 (6.00 to 6.00)", "3.00 (3.00 to 3.00)"]


def test_what_was_measured_is_in_the_table_when_time_runs_out_in_the_first_repeat(suite, tmp_path):
    suite.train(Scripted(SPEED, limit=2), "dsp")
    text = (tmp_path / "train-dsp.md").read_text()
    head, _, *rows = lines_of(tmp_path / "train-dsp.md")
    assert "Not all repeats were made" in text and [row[0] for row in rows] == ["TRL at its best", "ours, fast"]
    fast = dict(zip(head, rows[1]))
    assert fast["x TRL at its best"] == "3.00 (3.00 to 3.00)" and fast["x TRL"] == ""


def test_sides_that_start_from_other_weights_make_the_part_fail(suite, tmp_path):
    workers = Scripted(SPEED)
    answer = workers.run
    workers.run = lambda side, job: answer(side, job) | {"weights": "of TRL" if side.name == "TRL" else "drawn"}
    suite.train(workers, "dsp")
    text = (tmp_path / "train-dsp.md").read_text()
    assert "TRL did not start from the weights of ours, fast" in text and suite.failed == ["train-dsp"]


def test_weights_have_a_fingerprint_of_their_own(gpu):
    import torch
    from speed.gpu.runs import fingerprint

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.Linear(200, 2))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[0].weight[7, 3] += 1e-4
    assert fingerprint(model) != before


def test_set_up_is_all_that_was_not_measured_failed_runs_included(gpu, monkeypatch):
    from speed.gpu import spent

    now = [0.0]
    monkeypatch.setattr(spent.time, "monotonic", lambda: now[0])
    noted = spent.Spent()
    with noted.on("a"):
        now[0] = 10.0
    noted.add("a", {"seconds": [1.0, 2.0], "imports": 4.0, "trainer": 1.5})
    with pytest.raises(ValueError), noted.on("a"):
        now[0] = 12.0
        raise ValueError
    said = "Seconds of set-up, all runs of a side together: a 9.0 (waiting for imports 4.0, trainer 1.5)."
    assert noted.note() == said


def test_a_search_warms_a_process_up_and_stops_at_what_does_not_fit(suite, tmp_path):
    workers = Scripted(SPEED, too_large={("TRL", 4), ("ours, plain", 8)})
    suite.begin("search-dsp")
    suite.search(workers, "dsp")
    # Side, pairs, steps, steps that are not counted: in the first run of a process more of them.
    assert workers.asked[:2] == [("ours, fast", 4, 4, 3), ("ours, fast", 8, 2, 1)]
    assert [asked[:2] for asked in workers.asked[4:]] == [("TRL", 4), ("ours, plain", 4), ("ours, plain", 8)]
    _, _, *rows = lines_of(tmp_path / "search-dsp.md")
    assert [(row[0], row[2]) for row in rows[::2]] == [("TRL", "-"), ("ours, plain", "-")]
    assert json.loads((tmp_path / "search-dsp.json").read_text()) == {
        "ours, fast": 8,
        "TRL at its best": 8,
        "ours, plain": 4,
    }


def test_a_search_that_is_cut_short_chooses_nothing_for_what_it_did_not_finish(suite, tmp_path):
    suite.begin("search-dsp")
    suite.search(Scripted(SPEED, limit=3), "dsp")
    assert [row[:2] for row in lines_of(tmp_path / "search-dsp.md")[2:]] == [
        ["TRL at its best", "8.0"],
        ["ours, fast", "24.0"],
    ]
    suite.begin("train-dsp")
    assert set(suite.sizes("dsp").values()) == {8}  # the fast side's
    assert "did not get to TRL at its best, TRL, ours, plain" in (tmp_path / "train-dsp.md").read_text()


def run_script(tmp_path, *options):
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), *TINY.split(), "--output", str(tmp_path), *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def lines_of(path):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if "|" in line]


@pytest.fixture
def throughput():
    spec = importlib.util.spec_from_file_location("throughput", BENCHMARKS / "throughput.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_here(gpu, throughput):
    """Runs the script in this process; afterwards, threads, notes and progress bars are restored."""
    import datasets
    import torch
    import transformers

    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    yield lambda *options: throughput.main([*TINY.split(), *options])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(verbosity)
    datasets.enable_caching()
    datasets.enable_progress_bars()


@pytest.mark.filterwarnings("ignore")
def test_training_prints_its_table(run_here, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run_here("--part", "train-dsp", "--in-process", "--output", str(tmp_path))
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.out
    head, _, *rows = lines_of(tmp_path / "train-dsp.md")
    table = {row[0]: dict(zip(head, row)) for row in rows}
    assert list(table) == ["TRL", "TRL at its best", "ours, plain", "ours, fast"]
    tokens = {name: float(row["tokens a pair"]) for name, row in table.items()}
    assert tokens["TRL"] > tokens["ours, plain"] > tokens["ours, fast"]
    assert "micro-batches are not the best" in printed.out  # there was no search
    runs = json.loads((tmp_path / "train-dsp.json").read_text())
    assert runs["ours, fast"][0]["layout"] == "shared"
    assert len({run["weights"] for found in runs.values() for run in found}) == 1
    for side in SPEED:
        assert re.search(rf"{side} [\d.]+ \(weights [\d.]+, trainer [\d.]+, first step [\d.]+\)", printed.out)


@pytest.mark.parametrize("option", ["--pairs 512", "--parts training", "--sets dsp", "--batches 8"])
def test_flags_of_the_other_benchmark_are_refused(run_here, capsys, option):
    with pytest.raises(SystemExit) as end:
        run_here("--device", "cuda", *option.split())
    assert end.value.code == 2 and f"{option.split()[0]} is of the CPU's benchmark" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_print_their_tables(tmp_path):
    done = run_script(tmp_path, "--part", *PARTS, "--in-process")
    assert done.returncode == 0, done.stderr[-2000:]
    for part in PARTS:
        assert "| ours, fast |" in (tmp_path / f"{part}.md").read_text() or part in ("score", "profile"), part
    assert "One step of ours, fast: the device's time" in (tmp_path / "profile.md").read_text()
    assert "| RewardScorer |" in (tmp_path / "score.md").read_text()
    assert "micro-batches are not the best" not in (tmp_path / "train-dsp.md").read_text()


@pytest.mark.slow
def test_each_side_runs_in_a_process_of_its_own_and_a_failed_part_stops_no_other(tmp_path):
    (tmp_path / "search-dsp.json").write_text("{not JSON")
    done = run_script(tmp_path, "--part", "train-dsp", "train-helpful", "--time-limit", "600")
    assert done.returncode == 1 and "not whole: train-dsp" in done.stderr
    assert "| ours, fast |" in (tmp_path / "train-helpful.md").read_text()
    seconds = json.loads((tmp_path / "train-helpful.json").read_text())["TRL"][0]["first_step"]
    assert 2 < seconds < 300  # since its process started
    late = run_script(tmp_path, "--part", "train-helpful", "--time-limit", "1")
    assert "Not all repeats were made" in late.stdout

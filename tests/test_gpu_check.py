"""`benchmarks/gpu_check.py`: verdicts, time limits, and what a CPU can run of it."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", BENCHMARKS / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed.gpu.checks
    import speed.gpu.exactness
    import speed.gpu.launches

    yield speed.gpu
    for name in [name for name in sys.modules if name.split(".")[0] == "speed"]:
        del sys.modules[name]


def supervised(gpu_check, folder, script, time_limit=20.0):
    return gpu_check.supervise("x", [sys.executable, "-c", script], folder, time_limit)


def test_a_check_that_answers_nothing_or_too_late_has_failed(gpu_check, tmp_path):
    (tmp_path / "x.json").write_text('{"verdict": "passed", "detail": "of an earlier run"}')
    died = supervised(gpu_check, tmp_path, "print('oh'); raise SystemExit(3)")
    assert died["verdict"] == "failed" and "exit code 3 without an answer" in died["detail"]
    assert (tmp_path / "x.log").read_text() == "oh\n"
    # Processes that the check started end with it.
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began = time.monotonic()
    late = supervised(gpu_check, tmp_path, script, time_limit=0.5)
    assert late["verdict"] == "failed" and "not done after 0 s" in late["detail"]
    assert time.monotonic() - began < 10


def test_an_answer_is_kept_with_its_seconds(gpu_check, tmp_path):
    answer = {"verdict": "skipped", "detail": "no | here"}
    script = f"import json; json.dump({answer}, open({str(tmp_path / 'x.json')!r}, 'w'))"
    found = supervised(gpu_check, tmp_path, script)
    assert found["verdict"] == "skipped" and found["seconds"] > 0
    assert json.loads((tmp_path / "x.json").read_text()) == found
    assert "| skipped | 0 | no / here |" in gpu_check.table({"x": found})


def test_every_check_has_a_function(gpu_check, checks):
    assert list(gpu_check.CHECKS) == list(checks.checks.CHECKS)


@pytest.mark.parametrize(
    ("returncode", "printed", "verdict"),
    [
        (0, "===== 7 passed, 2 skipped in 31.20s =====\n", "passed"),
        (0, "SKIPPED [1] tests/a.py:3: no CUDA device\n===== 9 skipped, 900 deselected in 4.00s =====\n", "skipped"),
        (1, "FAILED tests/a.py::b\n===== 1 failed, 8 passed in 3.00s =====\n", "failed"),
        (2, "", "failed"),
    ],
)
def test_tests_that_were_all_skipped_have_shown_nothing(checks, returncode, printed, verdict):
    assert checks.checks.verdict_of_tests(returncode, printed)[0] == verdict


def test_only_files_with_marked_tests_are_collected(checks, tmp_path):
    mark = "pytest.mark." + "gpu"  # not whole, or this file would count as one of them
    written = {
        "test_a.py": f"@{mark}\ndef test_a(): ...\n",
        "deep/test_b.py": f"DEVICES = ['cpu', pytest.param('cuda', marks={mark})]\n",
        "test_c.py": "def test_gpu(): 'without a mark'\n",
        "test_d.py": f"@{mark}_of_another_kind\ndef test_d(): ...\n",
        "conftest.py": f"{mark}\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert checks.checks.marked_files(tmp_path) == [str(tmp_path / name) for name in ("deep/test_b.py", "test_a.py")]


def test_the_files_of_this_checkout_that_have_marked_tests_are_found(checks):
    found = checks.checks.marked_files(Path(__file__).parent)
    assert str(Path(__file__).with_name("test_benchmark.py")) in found
    assert not {str(Path(__file__)), str(Path(__file__).with_name("test_mistakes.py"))} & set(found)


def test_a_check_that_starts_much_has_a_longer_limit_of_its_own(gpu_check):
    assert gpu_check.TIME_LIMITS.keys() <= gpu_check.CHECKS.keys()
    assert gpu_check.limit_of("tests", None) > gpu_check.limit_of("rewards", None) == gpu_check.TIME_LIMIT
    assert gpu_check.limit_of("tests", 30.0) == gpu_check.limit_of("rewards", 30.0) == 30.0
    assert gpu_check.parse([]).time_limit is None


def test_what_a_run_says_of_itself_is_read(checks, tmp_path):
    def log(*losses):
        entries = [{"loss": loss, "step": step} for step, loss in enumerate(losses)]
        (tmp_path / "training_log.json").write_text(json.dumps({"log_history": [*entries, {"train_runtime": 1.0}]}))

    printed = "Engine NO, 1 process(es), cuda, mixed precision bf16; 64 pairs\nSaved to outputs/x; 5 texts, reloaded\n"
    log(0.7, 0.6)
    said = checks.launches.checked(tmp_path, printed)
    assert (
        said
        == "Engine NO, 1 process(es), cuda, mixed precision bf16; 2 steps, loss 0.7000 to 0.6000; 5 texts reloaded"
    )
    with pytest.raises(checks.launches.LaunchFailed, match="lacks its engine's line, the reload check or losses"):
        checks.launches.checked(tmp_path, "Engine NO, 1 process(es)\n")
    log(0.7, float("nan"))
    with pytest.raises(checks.launches.LaunchFailed, match="not finite"):
        checks.launches.checked(tmp_path, printed)


def test_the_distance_of_two_curves(checks):
    assert checks.exactness.distance([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="curves of 1 and 2 steps"):
        checks.exactness.distance([1.0], [1.0, 2.0])


@pytest.mark.slow
def test_what_a_cpu_can_run(gpu_check, tmp_path, capsys):
    names = ["rewards", "curves", "determinism", "qwen3", "plan-lora", "fsdp2"]
    options = ["--device", "cpu", "--shape", "tiny", "--output", str(tmp_path), "--check", *names]
    with pytest.raises(SystemExit) as end:
        gpu_check.main(options)
    printed = capsys.readouterr().out
    assert end.value.code == 0, printed
    verdicts = {name: json.loads((tmp_path / f"{name}.json").read_text())["verdict"] for name in names}
    assert [name for name, verdict in verdicts.items() if verdict == "passed"] == names[:4], printed

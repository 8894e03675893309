"""Folders of version 0.2.1, copied so that tests may change them, and commands as users run them."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from faulty_runs import in_child
from hub.conftest import hub  # noqa: F401  the loopback Hub, as a fixture here


ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "v0_2_1"
MODIFIED = 10**18  # modification time of the input in the journals of `score`, in nanoseconds

# The numbers were computed on another processor, whose fp32 kernels sum in another order. Rewards of a saved model
# need one forward pass. Results of several training steps differ more, because Adam divides by small numbers.
SCORED = {"rel": 1e-6, "abs": 2e-6}
TRAINED = {"rel": 1e-4, "abs": 1e-4}


@pytest.fixture(scope="session")
def expected():
    """The numbers that 0.2.1 itself computed."""
    return json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of all fixtures. It is the working folder, as when they were made."""
    folder = tmp_path / "old"
    shutil.copytree(FIXTURES, folder)
    os.utime(folder / "rows" / "answers.jsonl", ns=(MODIFIED, MODIFIED))
    for journal in folder.glob("scores/*.run.json"):
        journal.write_text(journal.read_text().replace("@HERE@", str(folder)))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recipe(old, monkeypatch):
    """
    `recipe(stage, name, *flags, reload_check=False)`: exit code of `recipes/STAGE.py --config recipes/NAME.yaml FLAGS`.

    Runs in a forked process, which need not import everything; the reload check in a fresh process only if asked for.
    """

    def launch(stage, name, *flags, reload_check=False):
        def run():
            from rm_toolkit import RewardModelTrainer

            if not reload_check:
                monkeypatch.setattr(RewardModelTrainer, "reload_check", lambda self, folder=None: 0)
            script = str(ROOT / "recipes" / f"{stage}.py")
            sys.argv = [script, "--config", f"recipes/{name}.yaml", *flags]
            runpy.run_path(script, run_name="__main__")

        return in_child(run)[0]

    return launch


@pytest.fixture
def ending():
    """`ending(folder)`: results, losses and two sums per tensor of a finished run, as in `expected.json`."""

    def read(folder):
        from safetensors.torch import load_file

        log = json.loads(Path(folder, "training_log.json").read_text())["log_history"]
        weights = {}
        for path in [*Path(folder).glob("model.safetensors"), *Path(folder).glob("[al][dm]*/*model.safetensors")]:
            for key, value in load_file(path).items():
                sums = [value.double().sum().item(), value.double().abs().sum().item()]
                weights[f"{path.relative_to(folder).parent}/{key}"] = sums
        return {
            "results": json.loads(Path(folder, "final_eval_results.json").read_text()),
            "losses": [[entry["step"], entry["loss"]] for entry in log if "loss" in entry],
            "weights": weights,
        }

    return read


@pytest.fixture
def assert_ends_as():
    """`assert_ends_as(found, expected)`: asserts equal results, losses and weights, except for newer metrics."""

    def check(found, expected):
        assert found["results"].keys() == expected["results"].keys()
        for when, sets in expected["results"].items():
            assert found["results"][when].keys() == sets.keys()
            for name, metrics in sets.items():
                ours = {key: found["results"][when][name][key] for key in metrics}
                if name.startswith("dsp_"):
                    # 0.2.1 counted the rivals of a domain as ties, although they were never compared. In a resumed
                    # run, the log still has the counts from its start.
                    metrics = {**metrics, "num_label_ties": 0}
                    assert when == "start" or ours["num_label_ties"] == 0
                    ours["num_label_ties"] = 0
                assert ours == pytest.approx(metrics, **TRAINED), (when, name)
        assert [step for step, _ in found["losses"]] == [step for step, _ in expected["losses"]]
        assert [x for _, x in found["losses"]] == pytest.approx([x for _, x in expected["losses"]], **TRAINED)
        assert expected["weights"].keys() <= found["weights"].keys()
        for name, sums in expected["weights"].items():
            if name.endswith("attention.self.key.bias"):
                continue  # it moves no reward: its gradient is rounding, which Adam divides by rounding
            assert found["weights"][name] == pytest.approx(sums, rel=1e-4, abs=1e-3), name

    return check


@pytest.fixture
def state_of():
    """`state_of(folder)`: the bytes of every file, to check that nothing was changed."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }

"""Doubtful labels: folds by prompt, a launch per fold, one rule, and a list that a person can review."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from datasets import Dataset

from rm_toolkit.cli.doubt import likely_model_errors
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.doubts import confident_threshold, doubted, most_contradicted
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.evaluation.temperature import fit_temperature
from rm_toolkit.output.lock import WriterLock
from rm_toolkit.study import doubt_report
from rm_toolkit.study.doubt import DoubtRun
from rm_toolkit.study.doubt_report import Doubts
from rm_toolkit.study.folds import make_folds


ROOT = Path(__file__).parents[2]
LAUNCH = """
import json, sys
from pathlib import Path
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
model = Path(flags["--output_dir"])
with open(model.parents[2] / "calls.txt", "a") as file:
    file.write(model.parent.name + " " + flags["--seed"] + "\\n")
if (model.parents[2] / "broken").exists():
    sys.exit("error: broken on purpose")
import pyarrow
def texts(path):
    (file,) = Path(path, "train").glob("*.arrow")
    return pyarrow.ipc.open_stream(str(file)).read_all()["chosen"].to_pylist()
seen = {name: texts(spec["path"]) for name, spec in json.loads(flags["--train_datasets"]).items()}
assert flags["--eval_datasets"] == "{}" and flags["--resume_from_checkpoint"] == "auto"
model.mkdir(parents=True)
(model / "seen.json").write_text(json.dumps(seen))
(model / "final_eval_results.json").write_text("{}")
"""


class Search(DoubtRun):
    """A search with a model that simply prefers longer answers."""

    def _score(self, model, pairs):
        seen = json.loads((model / "seen.json").read_text())
        for table in pairs:
            chosen = {table.completions[n] for n in table.better}
            assert not chosen & set(seen.get(table.name, ())), "judged by a model that was trained on it"
        length = [np.array([len(text) for text in table.completions], dtype=float) for table in pairs]
        return [own[table.better] - own[table.worse] for own, table in zip(length, pairs)]


@pytest.fixture
def datasets():
    def rows(name, number):
        return Dataset.from_list(
            [
                {
                    "prompt": f"{name} {n // 3}",
                    "chosen": f"{name} {n} " + "x" * (n % 7),
                    "rejected": f"{name} {n} xxx",
                    "domain": "law" if n % 2 else "art",
                }
                for n in range(number)
                if n % 7 != 3
            ]
        )

    return {"one": rows("one", 40), "two": rows("two", 20)}


@pytest.fixture
def search(tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text("seed: 3\n")
    launch = tmp_path / "launch.py"
    launch.write_text(LAUNCH)
    (tmp_path / "out").mkdir()
    return Search(
        tmp_path / "out" / "search",
        str(config),
        ["--seed", "3"],
        "grft",
        Path("grft.py"),
        folds=3,
        launch=[sys.executable, str(launch)],
    )


def calls(search):
    path = search.output / "calls.txt"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_folds_are_by_prompt_over_all_sets_even_and_seeded():
    shared = [{"prompt": f"p{n // 4}", "chosen": f"c{n}", "rejected": "r"} for n in range(40)]
    data = {"a": Dataset.from_list(shared), "b": Dataset.from_list(shared[:8] + [{**shared[0], "prompt": "own"}] * 2)}
    folds = make_folds(data, 5, seed=1)
    where = {}
    for name, rows in data.items():
        for prompt, fold in zip(rows["prompt"], folds.rows[name].tolist()):
            assert where.setdefault(prompt, fold) == fold, "a prompt is in two folds"
    sizes = np.bincount(np.concatenate(list(folds.rows.values())), minlength=5)
    assert sizes.sum() == 50 and sizes.max() - sizes.min() <= 8  # the largest prompt has 8 rows
    again = make_folds({"b": data["b"], "a": data["a"]}, 5, seed=1)
    assert all((again.rows[name] == folds.rows[name]).all() for name in data)
    assert any((make_folds(data, 5, seed=2).rows[name] != folds.rows[name]).any() for name in data)
    for fold in range(5):
        inside, outside = (folds.part(data, fold, held_out=held_out) for held_out in (True, False))
        assert sum(map(len, inside.values())) + sum(map(len, outside.values())) == 50
    with pytest.raises(InputError, match="11 prompts; 12 parts need at least 12"):
        make_folds(data, 12, seed=0)


def test_the_rule_by_hand():
    p = np.array([0.9, 0.8, 0.2, 0.1, 0.5])
    assert confident_threshold(p) == pytest.approx(0.5)
    assert doubted(p, 0.5).tolist() == [3, 2], "most contradicted first; the undecided one is not contradicted"
    assert doubted(p, 0.1).tolist() == [3]
    assert confident_threshold(np.array([0.9, 0.9, 0.6])) == pytest.approx(0.2)
    assert confident_threshold(np.array([0.1, 0.3])) == 0.5


def test_the_most_contradicted_pairs_of_each_model_and_set(datasets):
    table = read_preferences(datasets["one"], "one")
    rewards = np.arange(len(table.completions), dtype=np.float32)
    found = list(most_contradicted({"m": {"one": table}}, {"m": {"one": -rewards}}, 3))
    assert found == [] or all(row["p"] < 0.5 for row in found)
    worst = list(most_contradicted({"m": {"one": table}}, {"m": {"one": rewards}}, 3))
    assert len(worst) == 3 and [row["p"] for row in worst] == sorted(row["p"] for row in worst)
    assert worst[0]["model"] == "m" and worst[0]["dataset"] == "one" and worst[0]["margin"] < 0
    assert {"pair_id", "prompt_id", "chosen_id", "rejected_id", "prompt", "chosen", "rejected"} <= worst[0].keys()


def test_every_fold_is_trained_once_and_what_is_done_stays_done(search, datasets, capsys):
    folds = make_folds(datasets, 3, seed=3)
    identity = search.identity(datasets, 3)
    search.begin(identity, overwrite=False)
    found = search.run(datasets, folds)
    assert calls(search) == [f"fold-{k} 3" for k in (1, 2, 3)]
    assert sum(len(own.margins) for fold in found for own in fold) == sum(map(len, datasets.values()))
    assert not list(search.output.rglob("seen.json")) and not list(search.output.rglob("*.arrow"))
    (search.folder(1) / "margins.json").unlink()  # as if it had been killed in the second fold
    search.begin(identity, overwrite=False)
    capsys.readouterr()
    search.keep_models = True
    again = search.run(datasets, folds)
    assert calls(search)[3:] == ["fold-2 3"]
    said = capsys.readouterr().out
    assert "fold 1 of 3: done before" in said and "fold 2 of 3: training" in said
    (search.folder(1) / "margins.json").unlink()  # as if it had been killed while it scored
    search.run(datasets, folds)
    assert "fold 2 of 3: trained before, scoring" in capsys.readouterr().out and len(calls(search)) == 4
    for one, other in zip(chain(*found), chain(*again)):
        assert (one.margins == other.margins).all()

    doubts = Doubts.find(again)
    summary = doubts.save(search.output, {"folds": 3})
    rows = [json.loads(line) for line in (search.output / "doubts.jsonl").read_text().splitlines()]
    expected = sum(len(row["chosen"]) < len(row["rejected"]) for data in datasets.values() for row in data)
    assert len(rows) == summary["num_doubted"] == expected > 5
    assert [row["p"] for row in rows] == sorted(row["p"] for row in rows)
    assert {row["domain"] for row in rows} == {"law", "art"} and {row["fold"] for row in rows} == {1, 2, 3}
    table = pyarrow.parquet.read_table(search.output / "pairs.parquet")
    assert len(table) == summary["num_pairs"] == 51 and "prompt" not in table.column_names
    assert sum(own["num_doubted"] for own in summary["by_domain"].values()) == expected
    with pytest.raises(InputError, match=r"fold 1 has \d+ pairs; a calibration needs at least 20"):
        Doubts.find(again, calibrate=True)
    assert len(list(Doubts.find(again, threshold=0.2).rows())) < expected


def test_models_that_are_often_wrong_are_said_to_be(search):
    (line,) = likely_model_errors({"accuracy": 0.6, "num_pairs": 50, "num_doubted": 18})
    assert "contradict 20 of 50 labels" in line and "most of the 18 listed" in line and "--threshold" in line
    assert not likely_model_errors({"accuracy": 0.9, "num_pairs": 50, "num_doubted": 5})


def test_a_failed_run_is_named_and_other_settings_are_refused(search, datasets):
    search.begin(search.identity(datasets, 3), overwrite=False)
    (search.output / "broken").touch()
    with pytest.raises(InputError, match=r"fold 1: the run failed \(exit code 1\): error: broken on purpose"):
        search.run(datasets, make_folds(datasets, 3, seed=3))
    with pytest.raises(InputError, match="has folds of another search: its `seed` is 3, here it is 4"):
        search.begin(search.identity(datasets, 4), overwrite=False)
    search.begin(search.identity(datasets, 4), overwrite=True)
    assert not (search.output / "folds").exists()
    (search.output / "doubt.json").unlink()
    with pytest.raises(InputError, match="in use, but not by `rm-toolkit doubt`"):
        search.begin(search.identity(datasets, 4), overwrite=True)


def test_a_temperature_is_the_least_loss_and_scales_with_the_rewards():
    rng = np.random.default_rng(0)
    margins = rng.logistic(1.0, 1.0, 4000)

    def loss(temperature):
        return np.logaddexp(0, -margins / temperature).mean()

    best = fit_temperature(margins, "toy")
    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    assert fit_temperature(10 * margins, "toy") == pytest.approx(10 * best)
    # p of a Bradley-Terry model is calibrated: labels drawn with that p give temperature 1.
    size = np.abs(rng.normal(0, 2, 40_000))
    signs = np.where(rng.random(len(size)) < 1 / (1 + np.exp(-size)), 1, -1)
    assert fit_temperature(signs * size, "toy") == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("margins", "said"),
    [
        (np.ones(99), "99 pairs; a calibration needs at least 100"),
        (np.zeros(200), "both rewards of every pair are equal"),
        (np.linspace(-2, 1, 200), "no better than chance"),
        (np.linspace(0.1, 1, 200), "ranks all of the 200 pairs correctly"),
    ],
)
def test_what_no_temperature_fits_is_refused(margins, said):
    with pytest.raises(InputError, match=said):
        fit_temperature(margins, "toy")


@pytest.mark.slow
@pytest.mark.launch
def test_the_command_trains_judges_lists_and_its_list_can_be_applied(base_model, rows, tmp_path, monkeypatch, capsys):
    from rm_toolkit.cli import main

    monkeypatch.chdir(ROOT)
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows.pairs(24)))
    settings = {
        "model_name_or_path": base_model(),
        "train_datasets": {"mine": {"path": str(data), "source": "preference"}},
        "max_length": 48,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "pairs_per_step": 4,
        "save_strategy": "no",
        "use_cpu": True,
        "output_dir": str(tmp_path / "unused"),
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings))  # JSON is YAML
    out = tmp_path / "doubt"
    command = ["doubt", "--config", str(recipe), "--folds", "2", "--output", str(out), "--threshold", "0.5"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "fold 2 of 2: training" in said and "out-of-fold accuracy" in said
    first = (out / "doubts.jsonl").read_bytes()
    table = pyarrow.parquet.read_table(out / "pairs.parquet").to_pydict()
    assert len(table["p"]) == 24 and len(set(table["pair_id"])) == 24 and not (tmp_path / "unused").exists()
    assert main([*command, "--seed", "5"]) == 2 and "has folds of another search" in capsys.readouterr().err
    assert main(command) == 0 and (out / "doubts.jsonl").read_bytes() == first, "what is done is not trained again"
    assert "training" not in capsys.readouterr().out.replace("training set", "")
    listed = first.count(b"\n")
    assert 0 < listed < 24
    build = [
        "build-data",
        "preference",
        "--input",
        str(data),
        "--test-size",
        "0",
        "--drop-pairs",
        str(out / "doubts.jsonl"),
    ]
    assert main([*build, "--output", str(tmp_path / "built")]) == 0
    info = json.loads((tmp_path / "built" / "rm_toolkit_data.json").read_text())
    assert info["drop_pairs"]["dropped"] == {"train": listed} and info["drop_pairs"]["unmatched_lines"] == []


def test_a_secret_of_the_flags_is_not_kept(search, datasets):
    search.flags = [*search.flags, "--hub_token", "hf_" + "Abcdefgh12345678" * 2]
    identity = search.identity(datasets, 3)
    search.begin(identity, overwrite=False)
    assert "Abcdefgh" not in (search.output / "doubt.json").read_text()
    search.begin(identity, overwrite=False)  # the same call continues


def test_overwrite_keeps_the_folds_of_the_same_search(search, datasets):
    identity = search.identity(datasets, 3)
    search.begin(identity, overwrite=True)
    (search.folder(0)).mkdir(parents=True)
    search.begin(identity, overwrite=True)
    assert search.folder(0).is_dir()
    search.begin({**identity, "seed": 4}, overwrite=True)
    assert not search.folder(0).exists()


def test_models_that_were_to_be_kept_stay(search, datasets):
    search.begin(search.identity(datasets, 3), overwrite=False)
    search.keep_models = True
    search.run(datasets, make_folds(datasets, 3, 3))
    search.keep_models = False
    search.run(datasets, make_folds(datasets, 3, 3))
    assert all((search.folder(fold) / "model").is_dir() for fold in range(3))


def test_a_reviewed_list_is_put_aside(search, datasets, tmp_path):
    search.begin(search.identity(datasets, 3), overwrite=False)
    found = search.run(datasets, make_folds(datasets, 3, 3))
    Doubts.find(found, threshold=0.5).save(tmp_path, {})
    path = tmp_path / "doubts.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) > 1
    path.write_text(lines[0])
    Doubts.find(found, threshold=0.5).save(tmp_path, {})
    assert path.read_text() == "".join(lines) and (tmp_path / "doubts.jsonl.old").read_text() == lines[0]
    Doubts.find(found, threshold=0.5).save(tmp_path, {})  # the same list again moves nothing aside
    assert sorted(file.name for file in tmp_path.glob("doubts*")) == ["doubts.jsonl", "doubts.jsonl.old"]


def test_a_kill_while_the_list_is_replaced_leaves_nothing_behind(tmp_path):
    path = tmp_path / "run" / "doubts.jsonl"
    path.parent.mkdir()
    path.write_text("reviewed\n")
    child = os.fork()
    if child == 0:
        doubt_report.put_aside = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        doubt_report._keep_reviewed(path, [{"p": 0.1}])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2  # the half-written list
    with WriterLock(path.parent):  # as the next start does
        pass
    assert list(path.parent.iterdir()) == [path] and path.read_text() == "reviewed\n"

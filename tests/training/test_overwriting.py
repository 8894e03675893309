"""`--overwrite_output_dir` removes what one of our runs wrote, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
from faulty_runs import at, build, in_child, kill, train_to_end
from trees import tree

from rm_toolkit.errors import InputError
from rm_toolkit.output.written import RUN_MANIFEST, begin_written, read_written, record_written
from rm_toolkit.training.manifest import checkpoints, clear_leftovers, is_unfinished, rotate
from rm_toolkit.training.output_dir import take_output_dir
from rm_toolkit.training.run_files import CARD_OF_OURS, RecordReports, clear_output_dir, own_files
from rm_toolkit.training.runtime import claim_output_dir


OPTIONS = {"max_steps": 3, "num_train_epochs": 1, "lm_loss_coef": 0.1}
OUR_EVENTS = b"\x08text{'pairs_per_step': 8, 'lm_loss_coef': 0.1}"
CARD = "---\ntags: []\n---\n\n# x\n\nA reward model trained with [rm_toolkit](https://github.com/rm-toolkit/rm-toolkit): a\n"


@pytest.fixture(scope="module")
def data(rows):
    return {"train": rows.ranked(6), "pairs": rows.pairs(4, seed=1)}


@pytest.fixture(scope="module")
def finished(base_model, data, tmp_path_factory):
    """The folder of a finished run of this version: checkpoints, model, results, list of files."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    trainer = build(folder, base_model(), data, OPTIONS)
    trainer.train()
    trainer.save_model(_internal_call=True)
    trainer.save_results()
    return folder


@pytest.fixture(scope="module")
def killed(base_model, data, tmp_path_factory):
    """The folder of a run that was killed at its third step."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    run = train_to_end(folder, base_model(), data, OPTIONS, lambda: [at(2, "on_step_begin", kill)])
    assert in_child(run) == [-signal.SIGKILL]
    return folder


class Place:
    """A folder for one case. `out` is the output folder; everything beside it must stay."""

    def __init__(self, path, finished):
        self.path, self.out, self.finished = path, path / "out", finished

    def write(self, files, below=None):
        for name, content in files.items():
            path = (below or self.out) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else path.write_text(
                content if isinstance(content, str) else json.dumps(content)
            )

    def run(self, **more):
        shutil.copytree(self.finished, self.out)
        self.write(more.get("files", {}))

    def old_run(self, **more):
        """The folder of a run as version 0.2.1 leaves it: without the list of files."""
        self.run(**more)
        (self.out / RUN_MANIFEST).unlink()


@pytest.fixture
def place(tmp_path, finished):
    return Place(tmp_path, finished)


def overwrite(folder):
    claim_output_dir(str(folder), overwrite=True, resume=False)
    clear_output_dir(str(folder))


def link(place, name, to, content=None):
    path = place.out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


OURS = None  # everything that the run wrote is removed, which leaves an empty folder
HF_RUN = {
    "config.json": {"architectures": ["LlamaForCausalLM"]},
    "model.safetensors": b"w",
    "training_args.bin": b"pickle",
    "trainer_state.json": {},
    "checkpoint-4/model.safetensors": b"w",
    "checkpoint-4/optimizer.pt": b"pickle",
    "checkpoint-4/trainer_state.json": {},
}
REFUSED = "no run of this toolkit has written it"
USERS = {
    "notes.txt": "mine",
    "figures/a/b.png": b"mine",
    "README.md": "mine",
    "runs/tb/events.out.tfevents.1": b"mine",
}

# What is in the folder, and what is left (names) or why it is refused. A list is compared with the whole tree.
CASES = {
    "a folder that is not there": (lambda p: None, []),
    "an empty folder": (lambda p: p.out.mkdir(), []),
    "a finished run": (lambda p: p.run(), []),
    "a finished run and a person's files": (lambda p: p.run(files=USERS), list(USERS)),
    "a person's files inside a checkpoint": (
        lambda p: p.run(files={"checkpoint-2/notes.txt": "mine", "checkpoint-2/sub/x.csv": "mine"}),
        ["checkpoint-2/notes.txt", "checkpoint-2/sub/x.csv"],
    ),
    "a person's weights and code": (
        lambda p: p.run(files={"mine.safetensors": b"w", "model-00001-of-00002.safetensors": b"w", "train.py": "x"}),
        ["mine.safetensors", "model-00001-of-00002.safetensors", "train.py"],
    ),
    "a person's folders under names that the table knows": (
        lambda p: p.run(files={"anchor_rewards/mine.csv": "x", "adapter/adapter_config.json": "{}"}),
        ["anchor_rewards/mine.csv", "adapter/adapter_config.json"],
    ),
    "a checkpoint of another tool": (
        lambda p: p.run(
            files={f"checkpoint-9/{n}": b"x" for n in ("model.safetensors", "optimizer.pt", "trainer_state.json")}
        ),
        [f"checkpoint-9/{n}" for n in ("model.safetensors", "optimizer.pt", "trainer_state.json")],
    ),
    "a run in a folder of the run": (
        lambda p: (p.run(), shutil.copytree(p.finished, p.out / "second" / "run")),
        "second",
    ),
    "weights that were moved away and linked": (
        lambda p: (
            p.run(),
            p.write({"big/model.safetensors": b"w"}, p.path),
            link(p, "model.safetensors", "../big/model.safetensors"),
        ),
        [],
    ),
    "a checkpoint that was moved away and linked": (
        lambda p: (
            p.run(),
            shutil.copytree(p.out / "checkpoint-2", p.path / "big"),
            link(p, "checkpoint-2", "../big"),
        ),
        [],
    ),
    "a folder of the run that leads elsewhere": (
        lambda p: (p.run(), p.write({"other/model.safetensors": b"w"}, p.path), link(p, "lm_head", "../other")),
        [],
    ),
    "a person's link out of the folder": (
        lambda p: (p.run(), p.write({"other/x": b"w"}, p.path), link(p, "data", "../other")),
        ["data"],
    ),
    "an output folder that is a link": (
        lambda p: (
            shutil.copytree(p.finished, p.path / "disk"),
            p.out.symlink_to("disk"),
            p.write({"notes.txt": "mine"}),
        ),
        ["notes.txt"],
    ),
    "a read-only file of the run": (lambda p: (p.run(), (p.out / "config.json").chmod(0o400)), []),
    "a read-only file of a person": (
        lambda p: (p.run(files={"notes.txt": "x"}), (p.out / "notes.txt").chmod(0o400)),
        ["notes.txt"],
    ),
    "leftovers of a kill": (
        lambda p: p.run(files={".saving-ab/model.safetensors": b"half", ".removing-checkpoint-1/x": b"half"}),
        [],
    ),
    "a list that leads out of the folder": (
        lambda p: (
            p.run(),
            p.write({RUN_MANIFEST: {"written": ["../precious", "/etc/passwd", "config.json"]}}),
            p.write({"precious": "mine"}, p.path),
        ),
        "less config.json",
    ),
    "a checkpoint whose manifest leads out of the folder": (
        lambda p: (
            p.run(),
            p.write({"precious": "mine"}, p.path),
            p.write({"checkpoint-2/manifest.json": {"files": {"../../precious": {}, "notes.txt": {}}}}),
        ),
        [],
    ),
    "a run of 0.2.1": (lambda p: p.old_run(), []),
    "a run of 0.2.1 and a person's files": (lambda p: p.old_run(files=USERS), list(USERS)),
    "a run of 0.2.1 with our card and our log": (
        lambda p: p.old_run(files={"README.md": CARD, "runs/tb/events.out.tfevents.1": OUR_EVENTS, "runs/note": "x"}),
        ["runs/note"],
    ),
    "a run of 0.2.1 with a config.json of another program": (
        lambda p: p.old_run(files={"config.json": {"learning_rate": 1}, "generation_config.json": {}}),
        ["config.json", "generation_config.json"],
    ),
    "an interrupted run of 0.2.1": (
        lambda p: (p.out.mkdir(), shutil.copytree(p.finished / "checkpoint-2", p.out / "checkpoint-2")),
        [],
    ),
    "a run of 0.2.1 that was killed in its first checkpoint": (
        lambda p: p.write({"checkpoint-2/model.safetensors": b"half", ".saving-x/y": b"half", "runs/a": b"x"}),
        ["runs/a"],
    ),
    "a run of Hugging Face's Trainer": (lambda p: p.write(HF_RUN), REFUSED),
    "an interrupted run of Hugging Face's Trainer": (
        lambda p: p.write({name: HF_RUN[name] for name in HF_RUN if "/" in name}),
        REFUSED,
    ),
    "a model of another program": (
        lambda p: p.write({"config.json": {}, "model.safetensors": b"w", "tokenizer.json": {}}),
        REFUSED,
    ),
    "a tokenizer alone": (lambda p: p.write({"tokenizer.json": {}, "tokenizer_config.json": {}}), REFUSED),
    "settings of another program under our name": (
        lambda p: p.write({"rm_toolkit.json": ["mine"], "model.safetensors": b"w"}),
        REFUSED,
    ),
    "a merged model": (lambda p: p.old_run(files={"merge.json": {"weights": [0.5]}}), REFUSED),
    "a model downloaded from the Hub": (lambda p: p.old_run(files={".rm_toolkit_push.json": {}}), REFUSED),
    "a report of evaluate": (
        lambda p: p.write({"metrics.json": {}, "report.md": "x", "figures/a.png": b"x"}),
        REFUSED,
    ),
    "a dataset": (
        lambda p: p.write({"train/data.arrow": b"x", "dataset_dict.json": {}, "build_info.json": {}}),
        REFUSED,
    ),
    "a journal of collect": (lambda p: p.write({"dsp.journal.jsonl": "{}", "dsp.json": "[]"}), REFUSED),
    "a person's files": (lambda p: p.write({"notes.txt": "mine"}), REFUSED),
    "a hidden file": (lambda p: p.write({".gitkeep": ""}), REFUSED),
    "logs of another program": (lambda p: p.write({"runs/x/events.out.tfevents.1": b"theirs", "a": "b"}), REFUSED),
    "a study's cells": (lambda p: shutil.copytree(p.finished, p.out / "cells" / "a" / "model"), REFUSED),
    "the home of a run": (lambda p: shutil.copytree(p.finished, p.out / "grft"), REFUSED),
}


@pytest.mark.parametrize("case", CASES)
def test_overwriting_removes_what_a_run_wrote_and_nothing_else(place, case):
    make, expected = CASES[case]
    make(place)
    before = tree(place.path)
    if expected == REFUSED:
        for flag in (True, False):
            with pytest.raises(InputError, match=REFUSED) as caught:
                claim_output_dir(str(place.out), overwrite=flag, resume=False)
            assert "nothing was changed" in str(caught.value) and tree(place.path) == before
        return
    in_use = place.out.is_dir() and any(place.out.iterdir())
    if in_use and not is_unfinished(place.out):
        with pytest.raises(InputError, match="Pass --overwrite_output_dir to replace it"):
            claim_output_dir(str(place.out), overwrite=False, resume=False)
    overwrite(place.out)
    after = tree(place.path)
    real = os.path.relpath(os.path.realpath(place.out), place.path)
    if expected == "less config.json":
        expected = [n.removeprefix(f"{real}/") for n in before if n.startswith(f"{real}/") and before[n] != "folder"]
        expected = [name for name in expected if name not in ("config.json", RUN_MANIFEST)]
    elif expected == "second":
        expected = [
            n.removeprefix(f"{real}/") for n in before if n.startswith(f"{real}/second/") and before[n] != "folder"
        ]
    assert {n for n in after if after[n] != "folder" and n.startswith(f"{real}/")} == {f"{real}/{n}" for n in expected}
    assert all(before[name] == content for name, content in after.items()), "what is left is as it was"
    gone = before.keys() - after.keys()
    assert all(name.startswith(f"{real}/") for name in gone), "nothing beside the output folder changes"
    assert not any(
        content == "folder" and not any(Path(place.path, n).iterdir()) for n, content in after.items() if n != real
    ), "no empty folder stays"


def test_a_killed_run_is_covered_by_its_list(killed, tmp_path):
    assert own_files(killed) is not None and list(checkpoints(killed))
    shutil.copytree(killed, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    overwrite(tmp_path / "out")
    assert list(tree(tmp_path / "out")) == ["notes.txt"]


def test_auto_goes_on_where_a_run_was_killed_before_its_first_checkpoint(base_model, data, tmp_path):
    """This works whatever else a person keeps there, but not if there is a result."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    begin_written(folder)
    record_written(folder, ["checkpoint-2/", "runs/a"])
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
    assert is_unfinished(folder)
    clear_output_dir(str(folder))
    assert list(tree(folder)) == ["notes.txt"]
    begin_written(folder)
    record_written(folder, ["config.json"])
    (folder / "config.json").write_text("{}")
    assert not is_unfinished(folder)


def test_a_name_is_on_the_list_before_its_file_is_there(base_model, data, tmp_path, monkeypatch):
    """If it is killed between any two files, every file of ours in the folder is on the list."""
    replace, seen = os.replace, []

    def watch(a, b):
        replace(a, b)
        name = Path(b).relative_to(tmp_path / "run").as_posix() if Path(b).is_relative_to(tmp_path / "run") else ""
        if name and "/" not in name.removeprefix("lm_head/") and not name.startswith(".") and "checkpoint" not in name:
            seen.append(name)
            assert name in read_written(tmp_path / "run")

    trainer = build(tmp_path / "run", base_model(), data, {**OPTIONS, "save_strategy": "no"})
    trainer.train()
    monkeypatch.setattr(os, "replace", watch)
    trainer.save_model(_internal_call=True)
    trainer.save_results()
    assert {"config.json", "model.safetensors", "rm_toolkit.json", "final_eval_results.json"} <= {*seen}


def test_what_a_person_put_under_a_name_of_the_run_is_put_aside(tmp_path, capsys):
    begin_written(tmp_path)
    (tmp_path / "config.json").write_text("mine")
    (tmp_path / "checkpoint-2").mkdir()
    record_written(tmp_path, ["config.json", "checkpoint-2/", "new"])
    record_written(tmp_path, ["config.json"])
    assert (tmp_path / "config.json.old").read_text() == "mine" and (tmp_path / "checkpoint-2.old").is_dir()
    assert capsys.readouterr().out.count("was not written by this run; it was renamed to") == 2


def test_weights_that_a_person_put_there_are_put_aside_before_loaders_mix_them(base_model, data, tmp_path):
    """Shards of another model beside ours would be loaded with it; files that no loader reads stay."""
    trainer = build(tmp_path / "run", base_model(), data, {**OPTIONS, "save_strategy": "no", "max_steps": 1})
    trainer.train()
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (tmp_path / "run" / name).write_text("mine")
    trainer.save_model(_internal_call=True)
    found = {path.name for path in (tmp_path / "run").iterdir() if path.is_file() and path.read_bytes() == b"mine"}
    assert found == {"model-00001-of-00002.safetensors.old", "model.safetensors.index.json.old", "notes.txt"}


def test_checkpoints_of_others_are_neither_rotated_nor_cleared(tmp_path):
    for step in (1, 2, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_text("x")
    for name in ("trainer_state.json", "optimizer.pt"):
        (tmp_path / "checkpoint-1" / name).write_text("of another tool")
        (tmp_path / "checkpoint-9" / name).write_text("of another tool")
    rotate(tmp_path, 1, str(tmp_path / "checkpoint-2"), None)
    clear_leftovers(tmp_path, 1)
    assert list(checkpoints(tmp_path)) == [1, 9]


def test_logs_of_this_run_are_on_the_list_and_those_before_it_are_not(tmp_path):
    begin_written(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "events.out.tfevents.before").touch()
    callback, state = RecordReports(str(tmp_path)), SimpleNamespace(is_world_process_zero=True)
    (tmp_path / "runs" / "events.out.tfevents.ours").touch()
    (tmp_path / "emissions.csv").touch()
    callback.on_train_begin(None, state, None)
    assert read_written(tmp_path) == ["emissions.csv", "runs/events.out.tfevents.ours"]
    clear_output_dir(str(tmp_path))
    assert list(tree(tmp_path)) == ["runs", "runs/events.out.tfevents.before"]


def test_our_card_is_known_by_its_words():
    assert CARD_OF_OURS in (files("rm_toolkit.hub") / "templates" / "model_card.md.jinja").read_text(encoding="utf-8")


# ---- an output folder and what the run reads ----

RELATIONS = {
    "the base itself": ("base", "is"),
    "the base by a relative path": ("x/../base", "is"),
    "the base by a link": ("link", "is"),
    "a folder in the base": ("base/out", "lies in"),
    "a folder deep in the base by a link": ("link/a/b/out", "lies in"),
    "the folder above the base": (".", "contains"),
    "the folder of the tokenizer": ("tokenizer", "is"),
    "the base of the adapter": ("adapter_base", "is"),
    "the adapter's folder": ("adapter/out", "lies in"),
    "the training data": ("data", "is"),
    "a folder in the training data": ("data/out", "lies in"),
    "the folder of a data file": ("files", "contains"),
    "a Hub id of that name": ("org/model", "is"),
}


def names(**changes):
    recipe = {"tokenizer_name_or_path": "tokenizer", "train_datasets": {"a": "data:0.5"}, "eval_datasets": None}
    recipe["replay_datasets"] = {"b": {"path": "files/b.jsonl", "source": "jsonl"}, "c": "org/data"}
    return SimpleNamespace(**{**recipe, **changes})


@pytest.mark.parametrize("overwriting", [True, False])
@pytest.mark.parametrize("case", RELATIONS)
def test_an_output_folder_apart_from_what_the_run_reads(tmp_path, monkeypatch, case, overwriting):
    output, relation = RELATIONS[case]
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tokenizer", "adapter", "adapter_base", "data", "files", "x"):
        Path(name).mkdir()
        Path(name, "file").write_text("mine")
    Path("link").symlink_to("base")
    Path("files/b.jsonl").write_text("{}")
    Path("adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "adapter_base"}))
    base = "adapter" if "adapter" in case else "org/model" if "Hub" in case else "base"
    before = tree(tmp_path)
    recipe, model = names(overwrite_output_dir=overwriting), SimpleNamespace(model_name_or_path=base)
    with pytest.raises(InputError, match=f"`output_dir` {output} {relation} .*Name another folder"):
        take_output_dir(recipe, SimpleNamespace(output_dir=output), model)
    assert tree(tmp_path) == before
    take_output_dir(recipe, SimpleNamespace(output_dir="base2"), model)
    take_output_dir(recipe, SimpleNamespace(output_dir="org"), model)

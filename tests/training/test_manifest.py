"""Incomplete checkpoints are detected: killed saves, damaged files, full disks, folders of other programs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from faulty_runs import ending, in_child, kill, train_to_end

from rm_toolkit.errors import InputError
from rm_toolkit.models.saving import save_reward_model
from rm_toolkit.output.written import RUN_MANIFEST
from rm_toolkit.training import manifest
from rm_toolkit.training.manifest import (
    checkpoints,
    find_checkpoint,
    find_damage,
    is_unfinished,
    rotate,
    write_manifest,
)
from rm_toolkit.training.resume_from import checked_checkpoint, resolve_resume


OPTIONS = {"save_total_limit": 1, "eval_strategy": "no", "eval_on_start": False, "num_train_epochs": 1}


@pytest.fixture(scope="module")
def data(rows):
    return {"train": rows.ranked(10), "pairs": rows.pairs(3, seed=1)}


@pytest.fixture(scope="module")
def finished(base_model, data, tmp_path_factory):
    """A run of 6 steps with its three checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    assert in_child(train_to_end(folder, base_model(), data, {**OPTIONS, "save_total_limit": None})) == [0]
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that run, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# ---- killed while saving ----

# Where saving the second checkpoint is interrupted, in a run that keeps one -> the checkpoint that counts afterwards.
MOMENTS = {
    "before the weights": ("rm_toolkit.training.weights.save_reward_model", "before", 2),
    "after the weights": ("rm_toolkit.training.weights.check_saved_weights", "before", 2),
    "before the optimizer": ("transformers.Trainer._save_optimizer_and_scheduler", "before", 2),
    "before the random numbers": ("transformers.Trainer._save_rng_state", "before", 2),
    "before the manifest": ("rm_toolkit.training.checkpoints.write_manifest", "before", 2),
    "before the manifest's name": ("rm_toolkit.training.manifest._sync_folder", "before", 4),
    "before the older one goes": ("rm_toolkit.training.manifest.remove_checkpoint", "before", 4),
    "while the older one goes": ("rm_toolkit.training.manifest.remove_checkpoint", "inside", 4),
}


@pytest.mark.parametrize(
    "moment",
    [
        "after the weights",
        "before the manifest",
        "while the older one goes",
        *(pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS),
    ],
)
def test_a_run_killed_while_saving_goes_on_from_the_last_whole_checkpoint(
    finished, base_model, data, tmp_path, moment
):
    name, when, expected = MOMENTS[moment]

    def killed():
        from pydoc import locate

        owner, _, attribute = name.rpartition(".")
        owner, calls = locate(owner), []
        original = getattr(owner, attribute)

        def replaced(*args, **options):
            calls.append(args)
            if when == "before" and len(calls) == (1 if "remove" in name else 2):
                kill()
            if when == "inside":
                shutil.rmtree = lambda *a, **k: kill()
            return original(*args, **options)

        setattr(owner, attribute, replaced)
        train_to_end(tmp_path / "run", base_model(), data, OPTIONS)()

    folder = tmp_path / "run"
    assert in_child(killed) == [-signal.SIGKILL]
    assert find_checkpoint(folder) == (str(folder / f"checkpoint-{expected}"), [])
    assert in_child(train_to_end(folder, base_model(), data, OPTIONS)) == [0]
    assert list(checkpoints(folder)) == [6] and [path.name for path in folder.glob(".*")] == [RUN_MANIFEST]
    assert weights_equal(folder, finished)


def weights_equal(one, other):
    import torch

    one, other = ending(one)["weights"], ending(other)["weights"]
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_auto_begins_afresh_where_a_run_was_killed_before_its_first_checkpoint(tmp_path, make_trainer, rows):
    folder = tmp_path / "run"
    (folder / "checkpoint-2").mkdir(parents=True)
    (folder / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
    (folder / ".saving-abc").mkdir()
    assert is_unfinished(folder) and find_checkpoint(folder) == (None, [])
    assert checked_checkpoint("auto", str(folder)) is None
    (folder / "notes.txt").write_text("mine")
    assert not is_unfinished(folder)


# ---- damaged afterwards ----


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def edit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def smuggle(name):
    def add(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "model.safetensors", folder / name)

    return add


DAMAGES = {
    "cut short": (
        lambda folder: cut(folder / "model.safetensors"),
        r"'model.safetensors' has [\d,]+ bytes instead of",
    ),
    "edited": (lambda folder: edit(folder / "optimizer.pt"), "'optimizer.pt' has changed since it was saved"),
    "missing": (lambda folder: (folder / "rng_state.pth").unlink(), "'rng_state.pth' is missing"),
    "smuggled in": (lambda folder: (folder / "x.pt").write_bytes(b"x"), "'x.pt' was added later"),
    **{
        f"smuggled in: {name}": (smuggle(name), f"'{name}' was added later")
        for name in (
            "model-extra.safetensors",
            "adapter_model.safetensors",
            "model.safetensors.index.json",
            "lm_head/more.safetensors",
            "config.json.d/x.safetensors",
            "adapter_config.json",
            "latest",
        )
    },
    "manifest": (lambda folder: cut(folder / "manifest.json"), None),
    "manifest emptied": (lambda folder: (folder / "manifest.json").write_text("{"), "`manifest.json` is damaged"),
}


@pytest.mark.parametrize("damage", [name for name, (_, message) in DAMAGES.items() if message])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(run, damage, capsys):
    make, message = DAMAGES[damage]
    make(run / "checkpoint-6")
    with pytest.raises(InputError, match=message):
        checked_checkpoint(str(run / "checkpoint-6"), str(run))
    assert checked_checkpoint("auto", str(run)) == str(run / "checkpoint-4")
    assert "checkpoint-6 is damaged" in capsys.readouterr().out
    for step in (2, 4):
        make(run / f"checkpoint-{step}")
    with pytest.raises(InputError, match=f"checkpoint-6 is damaged: .*{message}.*start a new run"):
        checked_checkpoint("auto", str(run))


def test_damage_that_comes_after_the_first_look_is_seen(run):
    folder = run / "checkpoint-6"
    assert find_damage(folder) is None
    edit(folder / "scheduler.pt")
    os.utime(folder / "scheduler.pt", (1, 1))
    assert "'scheduler.pt' has changed since it was saved" in find_damage(folder)


def test_a_checkpoint_from_elsewhere_is_not_read(run, tmp_path):
    stranger = shutil.copytree(run / "checkpoint-6", tmp_path / "theirs" / "checkpoint-6")
    with pytest.raises(
        InputError, match=r"which is not a checkpoint-N folder in `output_dir` .*pickle, which can run code"
    ):
        checked_checkpoint(str(stranger), str(run))
    with pytest.raises(InputError, match="not a checkpoint-N folder in `output_dir`"):
        checked_checkpoint(str(shutil.copytree(run / "checkpoint-6", run / "copy")), str(run))


def test_the_trainer_itself_refuses_a_stranger_s_pickles(make_trainer, rows, run, tmp_path):
    trainer = make_trainer(rows.pairs(4), output_dir=str(tmp_path / "own"))
    with pytest.raises(InputError, match="pickle, which can run code"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))


def test_an_older_checkpoint_is_refused_while_newer_ones_stand_there(run):
    with pytest.raises(InputError, match=r"the run continued to .*checkpoint-6.* Move the newer ones away"):
        checked_checkpoint(str(run / "checkpoint-2"), str(run))


def test_weights_alone_are_no_checkpoint_to_go_on_from(run):
    folder = run / "checkpoint-6"
    (folder / "optimizer.pt").unlink()
    write_manifest(folder, 1)
    with pytest.raises(InputError, match="weights but no optimizer state"):
        checked_checkpoint("auto", str(run))


def test_a_newer_checkpoint_without_manifest_is_passed_over_and_removed_on_resume(run):
    (run / "checkpoint-6" / "manifest.json").unlink()
    assert find_checkpoint(run) == (str(run / "checkpoint-4"), [])
    manifest.clear_leftovers(run, 4)
    assert list(checkpoints(run)) == [2, 4]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    def fill(*steps):
        for step in steps:
            (tmp_path / f"checkpoint-{step}").mkdir(exist_ok=True)

    fill(2, 4, 10)
    rotate(tmp_path, 2, str(tmp_path / "checkpoint-10"), str(tmp_path / "checkpoint-2"))
    assert list(checkpoints(tmp_path)) == [2, 10]
    rotate(tmp_path, 1, str(tmp_path / "checkpoint-10"), str(tmp_path / "checkpoint-2"))
    assert list(checkpoints(tmp_path)) == [2, 10]
    fill(4, 6)
    rotate(tmp_path, None, str(tmp_path / "checkpoint-10"), None)
    assert list(checkpoints(tmp_path)) == [2, 4, 6, 10]
    # A checkpoint left from a later, abandoned part of the run never replaces the one just written.
    rotate(tmp_path, 1, str(tmp_path / "checkpoint-4"), None)
    assert list(checkpoints(tmp_path)) == [4]


# ---- a full disk ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_full_disk_is_said(folder, code, printed):
    assert code == [2]
    assert "could not be written: the disk is full" in printed
    assert f"The last good checkpoint is {folder / 'checkpoint-2'}" in printed and "Traceback" not in printed
    assert list(checkpoints(folder)) == [2] and find_damage(folder / "checkpoint-2") is None


@pytest.mark.parametrize("room", [20, 90])  # KiB besides the first checkpoint: full while writing weights, or later
def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(
    small_disk, finished, base_model, data, capfd, room
):
    folder = small_disk / "run"
    size = sum(path.stat().st_size for path in (finished / "checkpoint-2").rglob("*") if path.is_file())
    (small_disk / "filler").write_bytes(bytes((1 << 20) - size - 40_000 - (room << 10)))
    code = in_child(train_to_end(folder, base_model(), data, OPTIONS))
    assert_full_disk_is_said(folder, code, capfd.readouterr().err)
    (small_disk / "filler").unlink()
    assert in_child(train_to_end(folder, base_model(), data, OPTIONS)) == [0]
    assert weights_equal(folder, finished)


def test_a_limit_on_file_sizes_is_told_as_a_full_disk(base_model, data, tmp_path, capfd):
    def limited():
        from faulty_runs import at

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

        train_to_end(tmp_path, base_model(), data, OPTIONS, lambda: [at(3, "on_step_begin", limit)])()

    assert_full_disk_is_said(tmp_path, in_child(limited), capfd.readouterr().err)


def test_a_full_disk_at_the_end_leaves_no_half_model(make_trainer, rows, small_disk):
    trainer = make_trainer(rows.pairs(4), output_dir=str(small_disk / "run"))
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 60_000))
    with pytest.raises(InputError, match="run could not be written: the disk is full"):
        trainer.save_model()
    left = [path.name for path in (small_disk / "run").rglob("*")] if (small_disk / "run").exists() else []
    assert left == []


def test_the_exported_model_has_no_config_until_it_is_whole(make_trainer, rows, tmp_path):
    """If a save over an older model is killed between two files, the mixture cannot be opened."""
    trainer = make_trainer(rows.pairs(4))
    folder = Path(trainer.args.output_dir)
    trainer.save_model()

    def killed():
        replace, moved = os.replace, []

        def counting(source, target):
            moved.append(target)
            if len(moved) == 3:
                kill()
            replace(source, target)

        os.replace = counting
        save_reward_model(trainer.model, folder, trainer.processing_class)

    assert (folder / "config.json").exists()
    assert in_child(killed) == [-signal.SIGKILL]
    assert not (folder / "config.json").exists()
    trainer.save_model()
    assert (folder / "config.json").exists() and json.loads((folder / "rm_toolkit.json").read_text())


def test_resolving_reads_the_output_folder_of_the_run(run, make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), output_dir=str(run), resume_from_checkpoint="auto")
    assert resolve_resume(trainer.args) == str(run / "checkpoint-6")

"""Unfinished runs of 0.2.1 continue to the same end as with 0.2.1 itself, or are refused with a message."""

import json

import pytest


RUNS = {"interrupted": "grft", "interrupted_stream": "grft", "interrupted_lora": "crft"}
RESUME = ("--resume_from_checkpoint", "auto")


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_as_0_2_1_ends_it(recipe, expected, ending, assert_ends_as, name):
    assert recipe(RUNS[name], name, *RESUME) == 0
    assert_ends_as(ending(name), expected["resumed"][name])


def test_a_finished_run_that_is_resumed_stays_as_it_ended(recipe, old, expected, ending, assert_ends_as, state_of):
    before = state_of("text")
    assert recipe("grft", "text", *RESUME) == 0
    assert_ends_as(ending("text"), expected["endings"]["text"])
    assert (old / "text" / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_a_finished_folder_is_left_alone_without_a_flag(recipe, state_of, capfd):
    before = state_of("text")
    assert recipe("grft", "text") == 2
    assert "text has an earlier run; nothing was changed" in capfd.readouterr().err
    assert state_of("text") == before


def test_a_damaged_file_of_a_checkpoint_is_named(recipe, old, state_of, capfd):
    file = old / "interrupted" / "checkpoint-3" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-7] + b"1234567")
    before = state_of("interrupted")
    assert recipe("grft", "interrupted", *RESUME) == 2
    assert "'optimizer.pt' has changed since it was saved" in capfd.readouterr().err
    assert state_of("interrupted") == before


def test_a_pickle_that_was_put_into_a_checkpoint_is_refused(recipe, old, capfd):
    (old / "interrupted" / "checkpoint-3" / "more.pt").write_bytes(b"pickle")
    assert recipe("grft", "interrupted", *RESUME) == 2
    assert "'more.pt' was added later" in capfd.readouterr().err


def test_a_checkpoint_in_another_folder_is_refused(recipe, capfd):
    flags = ("--resume_from_checkpoint", "interrupted/checkpoint-3", "--output_dir", "elsewhere")
    assert recipe("grft", "interrupted", *flags) == 2
    assert "not a checkpoint-N folder in `output_dir` elsewhere" in capfd.readouterr().err


def test_the_checkpoints_say_that_0_2_1_wrote_them(old):
    manifests = sorted(old.glob("*/checkpoint-*/manifest.json"))
    assert len(manifests) == 5
    assert {json.loads(path.read_text())["rm_toolkit_version"] for path in manifests} == {"0.2.1"}

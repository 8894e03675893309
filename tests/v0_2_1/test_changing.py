"""An unfinished run of 0.2.1 is compared with what 0.2.1 recorded about it; what was not recorded is named."""

import json
from pathlib import Path

import pytest


RESUME = ("--resume_from_checkpoint", "auto")
# Run, setting, value in the checkpoint, value now.
CHANGED = [
    ("interrupted", "seed", "42", "43"),
    ("interrupted", "pairs_per_step", "8", "4"),
    ("interrupted", "lm_loss_coef", "0.1", "0.2"),
    ("interrupted", "pooling_type", "last", "eos"),
    ("interrupted", "max_length", "96", "80"),
    ("interrupted", "weight_decay", "0.0", "0.1"),
    ("interrupted", "learning_rate", "0.01", "0.001"),
    ("interrupted", "lr_scheduler_type", "linear", "cosine"),
    ("interrupted_lora", "lora_r", "4", "8"),
    ("interrupted_stream", "shuffle_buffer_size", "16", "32"),
]


@pytest.mark.parametrize(("run", "setting", "before", "now"), CHANGED, ids=[case[1] for case in CHANGED])
def test_another_setting_is_refused_and_nothing_changed(recipe, state_of, capfd, run, setting, before, now):
    kept = state_of(run)
    assert recipe("crft" if "lora" in run else "grft", run, *RESUME, f"--{setting}", now) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert "error: " in error and setting.removeprefix("lora_") in error and before in error and now in error
    assert state_of(run) == kept


@pytest.mark.parametrize("split", ["train", "test"])
def test_other_rows_under_the_same_name_are_refused(recipe, state_of, old, capfd, split):
    file = old / "rows" / f"pairs.{split}.jsonl"
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([*lines[:-1], json.dumps({**json.loads(lines[-1]), "chosen": "Another answer."})]) + "\n"
    )
    kept = state_of("interrupted")
    assert recipe("grft", "interrupted", *RESUME) == 2
    assert ("training data" if split == "train" else "test set") in capfd.readouterr().err
    assert state_of("interrupted") == kept


def test_the_same_rows_in_another_place_and_other_logging_are_no_change(recipe, old, expected, ending, capfd):
    (old / "rows" / "pairs.train.jsonl").rename(old / "moved.jsonl")
    data = '{"pairs": {"path": "moved.jsonl", "source": "jsonl"}}'
    assert recipe("grft", "interrupted", *RESUME, "--train_datasets", data, "--logging_steps", "2") == 0
    weights = expected["resumed"]["interrupted"]["weights"]
    found = ending("interrupted")["weights"]
    for name, sums in weights.items():
        assert found[name] == pytest.approx(sums, rel=1e-4, abs=1e-3), name


def test_what_0_2_1_did_not_record_is_named(recipe, capfd):
    assert recipe("grft", "interrupted", *RESUME) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "0.2.1" in printed and "base model" in printed


def test_another_rate_is_accepted_when_asked_for_and_recorded(recipe, expected, ending):
    flags = ("--learning_rate", "0.001", "--allow_changed_settings", "true")
    assert recipe("grft", "interrupted", *RESUME, *flags) == 0
    recorded = expected["resumed"]["interrupted"]
    found = ending("interrupted")
    before = [loss for step, loss in recorded["losses"] if step <= 4]  # the rate changes the weights in step 4
    assert [loss for step, loss in found["losses"] if step <= 4] == pytest.approx(before, rel=1e-4)
    assert found["losses"][-1][1] != pytest.approx(recorded["losses"][-1][1], rel=1e-4)
    lineage = json.loads(Path("interrupted/rm_toolkit.json").read_text())["lineage"]
    assert "learning_rate" in json.dumps(lineage[-1]["changed_from_step"])

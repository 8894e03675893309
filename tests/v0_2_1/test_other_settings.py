"""An unfinished run of 0.2.1 is compared by what that version recorded; the rest is named."""

import pytest


RESUME = ("--resume_from_checkpoint", "auto")
CHANGES = {
    "seed": ("--seed", "43"),
    "learning_rate": ("--learning_rate", "0.5"),
    "max_length": ("--max_length", "31"),
    "weight_decay": ("--weight_decay", "0.3"),
    "lm_loss_coef": ("--lm_loss_coef", "0.7"),
    "steps of the run": ("--max_steps", "11"),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_a_changed_setting_of_a_run_of_021_is_refused(recipe, state_of, capfd, setting):
    before = state_of("interrupted")
    assert recipe("grft", "interrupted", *RESUME, *CHANGES[setting]) == 2
    error = capfd.readouterr().err
    assert "interrupted/checkpoint-3 was made with other settings" in error and "nothing was changed" in error
    line = next(line for line in error.splitlines() if line.startswith(f"  {setting}  "))
    assert line.split()[-1] == CHANGES[setting][1]
    assert state_of("interrupted") == before


def test_what_021_did_not_record_is_named(recipe, capfd):
    assert recipe("grft", "interrupted", *RESUME) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if "does not record" in line)
    assert "checkpoint-3 (written by rm_toolkit 0.2.1)" in line
    assert "base model" in line and "token ids of the training data" in line and "seed" not in line

"""`--push_to_hub` of the recipes and the trainer does what the command does, and a failed push loses no model."""

import json
import shlex
from types import SimpleNamespace

import pytest
from conftest import pair_rows
from hub.conftest import MARKER_TOKEN

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.training.runtime import run_main
from rm_toolkit.training.stages import run_stage


# `huggingface_hub` 2.4 uploads large files in a way that its HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(make_trainer, hub, quick_reload, monkeypatch):
    """`run(**config)`: trains one step as a recipe does; its reload check is tested elsewhere."""

    def start(**config):
        trainer = make_trainer(
            pair_rows(4), eval_rows={"mine": pair_rows(4, seed=1)}, max_steps=1, eval_on_start=True, **config
        )
        monkeypatch.setattr(trainer, "reload_check", lambda: 3)
        recipe = SimpleNamespace(overwrite_output_dir=False, next_command=None)
        run_stage(trainer, recipe, None)
        return trainer

    return start


def test_a_recipe_publishes_what_the_command_publishes(run, hub, capsys):
    trainer = run(push_to_hub=True, hub_model_id="tester/by-recipe", hub_private_repo=True, save_strategy="steps")
    repo = hub.models["tester/by-recipe"]
    assert repo.private and repo.messages == ["initial commit", "Upload reward model (rm_toolkit)"]  # no checkpoint
    assert f"Pushed to {hub.address}/tester/by-recipe/commit/" in capsys.readouterr().out
    assert main(["push", "--model", trainer.args.output_dir, "--repo-id", "tester/by-command"]) == 0
    files, others = repo.files, hub.models["tester/by-command"].files
    assert files.keys() == others.keys()
    different = {name for name in files if files[name] != others[name]}
    assert different == {"README.md", ".rm_toolkit_push.json"}  # the repository's name is in the card
    assert files["README.md"].replace(b"by-recipe", b"by-command") == others["README.md"]
    end = json.loads(files["final_eval_results.json"])["end"]["mine"]
    assert f"| mine | {end['reward_mean']:.4f} | {end['reward_std']:.4f} |".encode() in files["README.md"]


def test_a_token_is_nowhere(run, hub, capsys):
    trainer = run(push_to_hub=True, hub_model_id="tester/rm", hub_token=MARKER_TOKEN)
    printed = capsys.readouterr()
    published = "".join(map(str, hub.models["tester/rm"].files.values()))
    saved = "".join(
        path.read_text(errors="replace") for path in trainer_files(trainer.args.output_dir) if path.suffix != ".bin"
    )
    assert MARKER_TOKEN not in printed.out + printed.err + published + saved


def trainer_files(folder):
    from pathlib import Path

    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_a_failing_push_keeps_the_model_and_says_how_to_try_again(run, hub, monkeypatch, capsys):
    hub.uploads_before_cut = 0
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: run(push_to_hub=True, hub_model_id="tester/rm", hub_private_repo=True))()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "the model is trained and saved in" in message and "but not published: the connection" in message
    command = shlex.split(message.split("To try again without training: ")[1].splitlines()[0])
    assert command[:2] == ["rm-toolkit", "push"] and command[-1] == "--private"
    hub.uploads_before_cut = None
    assert main(command[1:]) == 0
    assert "model.safetensors" in hub.models["tester/rm"].files


def test_a_refusal_comes_before_the_training(run, hub):
    hub.may_write = False
    with pytest.raises(InputError, match=r"refused tester/rm \(403"):
        run(push_to_hub=True, hub_model_id="tester/rm")


def test_a_hub_that_cannot_be_reached_does_not_keep_a_run_from_training(run, hub, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"trained and saved in .*HF_HUB_OFFLINE is set"):
        run(push_to_hub=True, hub_model_id="tester/rm")
    assert "training anyway" in capsys.readouterr().out


def test_checkpoints_are_not_published(make_trainer, hub):
    with pytest.raises(InputError, match="`hub_strategy` is 'all_checkpoints'"):
        make_trainer(pair_rows(2), push_to_hub=True, hub_model_id="tester/rm", hub_strategy="all_checkpoints")


def test_the_trainer_itself_publishes_the_same_way(make_trainer, hub, quick_reload):
    trainer = make_trainer(pair_rows(4), max_steps=1)
    trainer.train()
    assert "/tester/run/commit/" in trainer.push_to_hub()  # named after its output folder
    assert "RewardScorer" in hub.models["tester/run"].files["README.md"].decode()

"""Resuming with changed settings: each change is refused, accepted on request, reported, or has no effect."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from changed_runs import LORA, interrupt, start, write_data
from datasets import Dataset
from faulty_runs import at, in_child, kill, train_to_end
from trl import ModelConfig

from rm_toolkit.batches.step_split import PLAN_VERSION
from rm_toolkit.errors import InputError
from rm_toolkit.models.settings import load_settings
from rm_toolkit.testing import build_tiny_model
from rm_toolkit.training.changed_settings import find_changes
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.manifest import checkpoints, write_manifest
from rm_toolkit.training.recipe import RecipeArguments
from rm_toolkit.training.resume_checks import recorded_plan_version
from rm_toolkit.training.resume_rules import IGNORED, REFUSED, RULES, rule_of
from rm_toolkit.training.run_content import file_digest, files_digest
from rm_toolkit.training.run_identity import IDENTITY_NAME
from rm_toolkit.training.sft import BaseLmArguments, BaseLmConfig


GO_ON = ("--resume_from_checkpoint", "auto")
ALLOW = (*GO_ON, "--allow_changed_settings")


@pytest.fixture(scope="module")
def files(rows, tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), rows.pairs)


@pytest.fixture(scope="module")
def other_base(base_model, tmp_path_factory):
    """The tiny Llama with other weights."""
    folder = tmp_path_factory.mktemp("other-base")
    shutil.copytree(base_model(), folder, dirs_exist_ok=True)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    build_tiny_model(folder, size, hidden_size=16, num_heads=2, initializer_range=0.2, seed=5)
    return str(folder)


@pytest.fixture(scope="module")
def interrupted(base_model, files, tmp_path_factory):
    """`interrupted("full" | "lora")`: output folder of a run that ended in the fifth of 8 steps; run once."""
    done = {}

    def get(kind="full"):
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp("interrupted") / kind
            interrupt(base_model(), done[kind], files, *(LORA if kind == "lora" else ()))
        return done[kind]

    return get


@pytest.fixture
def output(interrupted, tmp_path):
    """`output(kind)`: a copy of the folder of an interrupted run."""
    return lambda kind="full": Path(shutil.copytree(interrupted(kind), tmp_path / kind))


def tree(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def without_identity(folder):
    """Turns checkpoints into those of version 0.2.1."""
    for path in checkpoints(folder).values():
        (path / IDENTITY_NAME).unlink()
        write_manifest(path, 1)


def with_plan_version(folder, version):
    """Sets the recorded rule by which pairs are split over processes; `None`: as up to version 0.4.0."""
    for path in checkpoints(folder).values():
        content = json.loads((path / IDENTITY_NAME).read_text())
        content["settings"]["plan_version"] = version
        if version is None:
            del content["settings"]["plan_version"]
        (path / IDENTITY_NAME).write_text(json.dumps(content))
        write_manifest(path, 1)


def rates(trainer):
    return {log["step"]: log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log}


# Flags or other files, the setting as the table names it, its value in the checkpoint and now (None: any digest).
CHANGES = {
    "one text of the data": ({"train": "edited"}, "training data", None, None),
    "the order of the data": ({"train": "shuffled"}, "training data", None, None),
    "replayed data": ({"replay": "replay2"}, "replayed data", None, None),
    "rows of a test set": ({"test": "test2"}, "test set 'toy'", None, None),
    "seed": (("--seed", "43"), "seed", "42", "43"),
    "data_seed": (("--data_seed", "7"), "data_seed", "42", "7"),
    "pairs_per_step": (("--pairs_per_step", "8"), "pairs_per_step", "4", "8"),
    "group_by_prompt": (("--group_by_prompt", "false"), "group_by_prompt", "True", "False"),
    "replay": (("--general_replay_fraction", "0.5"), "general_replay_fraction", "0.25", "0.5"),
    "anchor": (("--anchor_coef", "0.2"), "anchor_coef", "0.1", "0.2"),
    "LM loss": (("--lm_loss_coef", "0.2"), "lm_loss_coef", "0.1", "0.2"),
    "texts of the LM loss": (("--lm_loss_on", "completion"), "lm_loss_on", "text", "completion"),
    "pair_weighting": (("--pair_weighting", "prompt"), "pair_weighting", "pair", "prompt"),
    "centering": (("--center_rewards_coefficient", "0.01"), "center_rewards_coefficient", "none", "0.01"),
    "weights of the base": ("other_base", "base model", None, None),
    "adapter": ("lora", "adapter.lora_alpha", "4", "8"),
    "optimizer": (("--optim", "sgd"), "optim", "adamw_torch", "sgd"),
    "weight decay": (("--weight_decay", "0.1"), "weight_decay", "0.0", "0.1"),
    "pooling": (("--pooling_type", "eos"), "pooling_type", "last", "eos"),
    "length": (("--max_length", "40"), "max_length", "48", "40"),
    "domain": (("--domain", "academy"), "domain", "literature", "academy"),
}
ACCEPTABLE = {
    "rate": (("--learning_rate", "1e-3"), "learning_rate", "0.01", "0.001"),
    "schedule": (("--lr_scheduler_type", "constant"), "lr_scheduler_type", "linear", "constant"),
    "warmup": (("--warmup_steps", "4"), "warmup_steps", "2", "4"),
    "epochs": (("--num_train_epochs", "3"), "steps of the run", "8", "12"),
    "steps": (("--max_steps", "6"), "steps of the run", "8", "6"),
    "precision": (("--bf16", "true"), "precision", "no", "bf16"),
    "best model": (
        ("--load_best_model_at_end", "true", "--eval_strategy", "steps", "--eval_steps", "2",
         "--metric_for_best_model", "eval_toy_accuracy", "--save_strategy", "steps"),
        "choice of the best model", None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CHANGES, *ACCEPTABLE])
def test_a_changed_setting_is_refused_and_nothing_is_touched(output, base_model, other_base, files, name):
    change, setting, before, now = {**CHANGES, **ACCEPTABLE}[name]
    lora = change == "lora"
    folder = output("lora" if lora else "full")
    flags = [*LORA, "--lora_alpha", "8"] if lora else change if isinstance(change, tuple) else []
    other = change if isinstance(change, dict) else {}
    base = other_base if change == "other_base" else base_model()
    untouched = tree(folder)
    _, trainer, resume = start(base, folder, files, *GO_ON, *flags, **other)

    def refused():
        with pytest.raises(
            InputError, match=r"checkpoint-4 was made with other settings \(.*\); nothing was changed"
        ) as e:
            trainer.train(resume_from_checkpoint=resume)
        assert tree(folder) == untouched
        line = next(line for line in str(e.value).splitlines() if line.startswith(f"  {setting}  "))
        assert before is None or line.split() == [*setting.split(), before, now]
        assert "--overwrite_output_dir instead of --resume_from_checkpoint" in str(e.value)
        return str(e.value)

    message = refused()
    assert len(message.splitlines()) == 4
    accepts = "--allow_changed_settings accepts the new values from step 4 on"
    assert (accepts in message) == (name in ACCEPTABLE) and ("A run keeps its " in message) == (name in CHANGES)
    if name in CHANGES:  # even if it is allowed
        trainer.args.allow_changed_settings = True
        assert refused() == message
        trainer.args.allow_changed_settings = False
    if name not in ("weights of the base", "best model"):  # version 0.2.1 did not record these
        without_identity(folder)
        untouched = tree(folder)
        assert refused().splitlines()[1:] == message.splitlines()[1:]


def test_several_changes_are_one_table(output, base_model, files):
    flags = ("--seed", "43", "--learning_rate", "1e-3", "--max_length", "40")
    _, trainer, resume = start(base_model(), output(), files, *GO_ON, *flags)
    with pytest.raises(InputError) as error:
        trainer.train(resume_from_checkpoint=resume)
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["seed", "max_length", "learning_rate"]
    assert "accepts the others, if they alone differ, from step 4 on" in lines[5]


# ---- accepted: it takes effect, and is recorded ----


@pytest.fixture
def go_on(output, base_model, files):
    """`go_on(*flags, kind="full", **files)`: resumes to the end; returns the trainer and its recorded changes."""

    def run(*flags, folder=None, **other):
        _, trainer, resume = start(base_model(), folder or output(), files, *ALLOW, *flags, **other)
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        changed = load_settings(trainer.args.output_dir).lineage[-1].get("changed_from_step", [])
        return trainer, changed

    return run


def linear(step, rate=1e-2, warmup=2, total=8):
    """The rate that the log of a step shows; the step is counted from 0."""
    done = step - 1
    return rate * (done / warmup if done < warmup else (total - done) / (total - warmup))


def test_another_rate_holds_from_the_checkpoint_on(go_on):
    trainer, changed = go_on("--learning_rate", "1e-3")
    expected = {step: linear(step, 1e-2 if step <= 4 else 1e-3) for step in range(1, 9)}
    assert rates(trainer) == pytest.approx(expected)
    assert changed == [{"step": 4, "setting": "learning_rate", "before": 0.01, "after": 0.001}]
    assert load_settings(trainer.args.output_dir).lineage[-1]["learning_rate"] == 0.001


def test_another_schedule_and_warmup_hold_from_the_checkpoint_on(go_on):
    trainer, changed = go_on("--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "10")
    expected = {step: linear(step) if step <= 4 else 1e-2 * (step - 1) / 10 for step in range(1, 9)}
    assert rates(trainer) == pytest.approx(expected)
    assert [entry["setting"] for entry in changed] == ["lr_scheduler_type", "warmup_steps"]


@pytest.mark.parametrize(("flags", "total"), [(("--num_train_epochs", "3"), 12), (("--max_steps", "6"), 6)])
def test_another_length_brings_its_schedule_with_it(go_on, flags, total):
    trainer, changed = go_on(*flags)
    expected = {step: linear(step, total=8 if step <= 4 else total) for step in range(1, total + 1)}
    assert trainer.state.global_step == total and rates(trainer) == pytest.approx(expected)
    assert changed == [{"step": 4, "setting": "total_steps", "before": 8, "after": total}]


def test_fewer_steps_than_are_done_cannot_be_accepted(go_on):
    with pytest.raises(InputError, match="A run keeps its steps of the run: the checkpoint is at step 4"):
        go_on("--max_steps", "3")


def test_a_schedule_that_follows_metrics_cannot_take_the_place_of_another(go_on):
    with pytest.raises(
        InputError, match="A run keeps its lr_scheduler_type: a schedule of this kind follows the metrics"
    ):
        go_on(
            "--lr_scheduler_type",
            "reduce_lr_on_plateau",
            "--eval_strategy",
            "steps",
            "--metric_for_best_model",
            "toy_loss",
        )


def test_a_finished_run_has_nothing_left_to_do_or_takes_more_epochs(go_on, output, base_model, files):
    folder = output()
    _, trainer, resume = start(base_model(), folder, files, *GO_ON)
    trainer.train(resume_from_checkpoint=resume)
    last = max(checkpoints(folder))
    assert last == 8
    before = tree(folder / "checkpoint-8")
    _, again, resume = start(base_model(), folder, files, *GO_ON)
    again.train(resume_from_checkpoint=resume)
    assert again.state.global_step == 8 and tree(folder / "checkpoint-8") == before
    more, changed = go_on("--num_train_epochs", "3", folder=folder)
    assert more.state.global_step == 12 and list(rates(more)) == list(range(1, 13))
    assert changed == [{"step": 8, "setting": "total_steps", "before": 8, "after": 12}]


def test_changes_add_up_over_resumes_and_come_onto_the_card(go_on, output, base_model, files):
    from faulty_runs import terminate

    from rm_toolkit.hub.lineage import stage_facts

    folder = output()
    _, trainer, resume = start(
        base_model(), folder, files, *ALLOW, "--learning_rate", "1e-3", callbacks=[at(5, "on_step_begin", terminate)]
    )
    with pytest.raises(SystemExit):
        trainer.train(resume_from_checkpoint=resume)
    assert list(checkpoints(folder)) == [2, 4, 6]
    trainer, changed = go_on("--learning_rate", "1e-4", folder=folder)
    assert [(entry["step"], entry["before"], entry["after"]) for entry in changed] == [
        (4, 1e-2, 1e-3),
        (6, 1e-3, 1e-4),
    ]
    assert rates(trainer)[6] == pytest.approx(linear(6, 1e-3)) and rates(trainer)[7] == pytest.approx(linear(7, 1e-4))
    stage = stage_facts(load_settings(str(folder)).lineage[-1])
    assert stage["changes"] == [
        "from step 4 on: `learning_rate` 0.001 instead of 0.01",
        "from step 6 on: `learning_rate` 0.0001 instead of 0.001",
    ]
    assert "changed_from_step" not in stage["settings"]


def test_another_precision_holds_from_the_checkpoint_on(go_on):
    trainer, changed = go_on("--bf16", "true")
    assert changed == [{"step": 4, "setting": "precision", "before": "no", "after": "bf16"}]
    assert trainer.state.global_step == 8 and trainer.accelerator.mixed_precision == "bf16"


def test_test_sets_may_come_and_go(go_on, files):
    trainer, changed = go_on("--eval_datasets", f"toy={files['test']}", f"more={files['test2']}")
    assert changed == [{"step": 4, "setting": "eval_sets", "before": ["toy"], "after": ["more", "toy"]}]
    assert set(trainer.evaluate()) > {"eval_more_accuracy", "eval_toy_accuracy"}


# ---- reported, ignored, or spelled differently ----


def test_what_only_rounds_otherwise_is_said_and_recorded(output, base_model, files, capsys):
    folder = output()
    with_plan_version(folder, None)
    _, trainer, resume = start(base_model(), folder, files, *GO_ON, "--per_device_train_batch_size", "2")
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.steps.plan.version == 1, "a run goes on by the rule that it began with"
    assert json.loads((folder / "checkpoint-8" / IDENTITY_NAME).read_text())["settings"]["plan_version"] == 1
    assert (
        "checkpoint-4 was written with another micro-batch 4 pairs -> 2 pairs: the run continues with the same data, but "
        "sums and dropout are not bit for bit those of the uninterrupted run." in capsys.readouterr().out
    )
    changed = trainer.model.settings.lineage[-1]["changed_from_step"]
    assert changed == [{"step": 4, "setting": "micro_batch", "before": "4 pairs", "after": "2 pairs"}]
    assert trainer.state.global_step == 8


def test_a_rule_of_a_later_version_is_refused(output, interrupted):
    assert recorded_plan_version(None) == PLAN_VERSION == 2
    assert recorded_plan_version(str(interrupted() / "checkpoint-4")) == PLAN_VERSION
    folder = output()
    with_plan_version(folder, 3)
    said = rf"checkpoint-4 was made by a later version of rm_toolkit.*`plan_version` 3 of {IDENTITY_NAME}.*up to 2\)"
    with pytest.raises(InputError, match=said):
        recorded_plan_version(str(folder / "checkpoint-4"))
    without_identity(folder)
    assert recorded_plan_version(str(folder / "checkpoint-4")) == 1


def test_processes_devices_engines_and_libraries_are_said(interrupted):
    before = json.loads((interrupted() / "checkpoint-4" / IDENTITY_NAME).read_text())["settings"]
    after = {**before, "num_processes": 2, "device": "cuda (H100)", "engine": "FSDP 2", "torch": "9.9"}
    changes, unknown = find_changes(before, after, {}, step=4)
    assert {change.name: change.kind for change in changes} == dict.fromkeys(
        ("num_processes", "device", "engine", "torch"), "said"
    )
    assert unknown == []


def test_logs_saves_and_paths_change_nothing_and_spelling_neither(
    output, base_model, files, rows, tmp_path, capsys, go_on
):
    """The same run with other spellings and paths gives the same bytes and prints nothing about it."""
    whole, _ = go_on()
    (tmp_path / "elsewhere").mkdir()
    moved = write_data(tmp_path / "elsewhere", rows.pairs)
    base = shutil.copytree(base_model(), tmp_path / "moved-base")
    folder = shutil.copytree(whole.args.output_dir, tmp_path / "moved")
    for step in (6, 8):
        shutil.rmtree(Path(folder, f"checkpoint-{step}"))
    flags = ["--max_steps", "8", "--warmup_steps", "0.25", "--data_seed", "42", "--lr_scheduler_kwargs", "{}"]
    flags += ["--logging_steps", "3", "--save_steps", "3", "--run_name", "z", "--save_total_limit", "7"]
    capsys.readouterr()
    _, trainer, resume = start(str(base), Path(folder), moved, *GO_ON, *flags)
    trainer.train(resume_from_checkpoint=resume)
    printed = capsys.readouterr().out
    assert "was made with" not in printed and "was written with" not in printed and "does not record" not in printed
    assert list(checkpoints(folder)) == [2, 4, 6, 8]  # every third step from here on, and the last
    for one, other in zip(trainer.model.state_dict().values(), whole.model.state_dict().values()):
        assert torch.equal(one, other)


# ---- the table ----


def test_every_setting_is_classified():
    known = {
        item.name
        for group in (RecipeArguments, BaseLmArguments, RewardModelConfig, BaseLmConfig, ModelConfig)
        for item in dataclasses.fields(group)
    }
    assert known <= RULES.keys(), f"add to training/resume_rules.py: {sorted(known - RULES.keys())}"
    assert all(rule.compared_as is None or rule.compared_as in RULES for rule in RULES.values())


def test_a_field_that_nobody_has_thought_of_is_refused_when_it_changes(interrupted):
    before = json.loads((interrupted() / "checkpoint-4" / IDENTITY_NAME).read_text())["settings"]
    assert rule_of("field_of_tomorrow").kind == REFUSED
    found, _ = find_changes(before, {**before, "field_of_tomorrow": 3}, {"field_of_tomorrow": None}, step=4)
    assert [(change.name, change.before, change.after, change.kind) for change in found] == [
        ("field_of_tomorrow", None, 3, REFUSED)
    ]
    assert find_changes(before, {**before, "field_of_tomorrow": 3}, {"field_of_tomorrow": 3}, step=4) == ([], [])


def test_what_is_compared_is_in_every_checkpoint(interrupted):
    """Every rule has an entry: each setting that is compared is in the record, unless no run of this kind has it."""
    recorded = json.loads((interrupted("lora") / "checkpoint-2" / IDENTITY_NAME).read_text())["settings"]
    heads = {name.partition(".")[0] for name in recorded}
    fields = {item.name for item in dataclasses.fields(RewardModelConfig)}
    expected = {name for name in fields if RULES[name].kind != IGNORED}
    expected = {RULES[name].compared_as or name for name in expected}
    assert expected - heads == {"shuffle_buffer_size"}  # only for streams
    assert {"train_data", "replay_data", "eval_data", "base_files", "adapter", "device", "torch"} <= heads


# ---- checkpoints of 0.2.1, of other runs, from Python ----


def test_a_checkpoint_of_021_names_what_it_does_not_record(output, base_model, files, capsys):
    folder = output()
    without_identity(folder)
    _, trainer, resume = start(base_model(), folder, files, *GO_ON)
    trainer.train(resume_from_checkpoint=resume)
    line = next(line for line in capsys.readouterr().out.splitlines() if "does not record" in line)
    listed = line.partition("not compared: ")[2].rstrip(".").split(", ")
    assert {"base model", "token ids of the training data", "device", "engine"} <= set(listed)
    for name in ("seed", "learning_rate", "pooling_type", "training data", "lm_loss_coef", "adapter", "optimizer"):
        assert name not in listed
    assert (folder / "checkpoint-8" / IDENTITY_NAME).exists() and trainer.state.global_step == 8


@pytest.mark.parametrize("recorded", ["identity", "0.2.1"])
@pytest.mark.parametrize("step", [2, 6])
def test_a_checkpoint_of_another_run_is_recognized(output, base_model, files, tmp_path, recorded, step):
    folder, other = output(), tmp_path / "other"
    interrupt(base_model(), other, files, "--learning_rate", "2e-3", step=step + 1)
    shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
    shutil.copytree(other / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    if recorded == "0.2.1":
        without_identity(folder)
    untouched = tree(folder)
    with pytest.raises(InputError, match="holds checkpoints of several runs: ") as error:
        start(base_model(), folder, files, *GO_ON)
    named = {path.name for path in checkpoints(folder).values() if str(path) in str(error.value)}
    assert len(named) > 1 and f"checkpoint-{step}" in named
    assert tree(folder) == untouched


def test_a_damaged_record_is_passed_over_with_its_checkpoint(output, base_model, files, capsys):
    folder = output()
    (folder / "checkpoint-4" / IDENTITY_NAME).write_text("{")
    _, _, resume = start(base_model(), folder, files, *GO_ON)
    assert resume == str(folder / "checkpoint-2")
    assert f"checkpoint-4 is damaged: '{IDENTITY_NAME}' has 1 bytes" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_name(output, base_model, files):
    folder = output()
    _, trainer, resume = start(base_model(), folder, files, *GO_ON)
    trainer.train(resume_from_checkpoint=resume)
    names = {json.loads((path / IDENTITY_NAME).read_text())["run_id"] for path in checkpoints(folder).values()}
    assert list(checkpoints(folder)) == [2, 4, 6, 8] and len(names) == 1


def test_from_python_data_and_models_are_compared_as_they_are(make_trainer, base_model, rows, other_base):
    from transformers import AutoModelForSequenceClassification

    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "lr_scheduler_type": "constant"}
    make_trainer(rows.pairs(8), **options).train()
    changed = rows.pairs(8)
    changed[3]["rejected"] += " More."
    with pytest.raises(InputError, match=r"other settings \(token ids of the training data\)"):
        make_trainer(changed, **options).train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match=r"other settings \(base model\)"):
        make_trainer(rows.pairs(8), other_base, **options).train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match=r"other settings \(learning_rate\)"):
        make_trainer(rows.pairs(8), **options, learning_rate=1e-4).train(resume_from_checkpoint=True)
    again = make_trainer(rows.pairs(8), **{**options, "max_steps": 3}, allow_changed_settings=True)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3 and again.run_identity.changed[0]["after"] == 3

    def stock(folder):
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)

    options["output_dir"] = again.args.output_dir + "-in-memory"
    make_trainer(rows.pairs(8), stock(base_model()), **options).train()
    make_trainer(rows.pairs(8), stock(base_model()), **options).train(
        resume_from_checkpoint=True
    )  # another random head
    with pytest.raises(InputError, match=r"other settings \(base model in memory\)"):
        make_trainer(rows.pairs(8), stock(other_base), **options).train(resume_from_checkpoint=True)


def test_of_a_stream_its_files_its_first_rows_and_its_buffer_are_compared(make_trainer, rows):
    def stream(seed):
        return Dataset.from_list(rows.pairs(24, seed)).to_iterable_dataset()

    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "shuffle_buffer_size": 8}
    make_trainer(stream(0), **options).train()
    with pytest.raises(InputError, match=r"other settings \(shuffle_buffer_size\)"):
        make_trainer(stream(0), **{**options, "shuffle_buffer_size": 9}).train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match=r"other settings \(token ids of the training data\)"):
        make_trainer(stream(1), **options).train(resume_from_checkpoint=True)
    make_trainer(stream(0), **options).train(resume_from_checkpoint=True)


def test_all_processes_hear_that_a_run_is_refused(base_model, rows, tmp_path, capfd):
    data = {"train": rows.ranked(10), "pairs": rows.pairs(3, seed=1)}
    killed = train_to_end(tmp_path, base_model(), data, {"ddp_timeout": 60}, lambda: [at(3, "on_step_end", kill)])
    assert in_child(killed)[0] < 0
    changed = train_to_end(tmp_path, base_model(), data, {"ddp_timeout": 60, "seed": 1})
    assert in_child(changed, 2) == [2, 2]
    assert capfd.readouterr().err.count("was made with other settings (seed)") == 1


# ---- by content ----


def test_a_base_is_the_same_wherever_it_lies_and_whatever_saved_it(base_model, tmp_path):
    copy = Path(shutil.copytree(base_model(), tmp_path / "with [brackets]"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9", "_name_or_path": "x"}))
    (copy / "README.md").write_text("mine")
    assert files_digest(str(copy)) == files_digest(base_model())
    (copy / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    assert files_digest(str(copy)) != files_digest(base_model())
    assert files_digest("no/such-model") is None


def test_large_files_are_read_in_parts_and_sized_whole(tmp_path, monkeypatch):
    from rm_toolkit.training import run_content

    monkeypatch.setattr(run_content, "WHOLE", 1000)
    monkeypatch.setattr(run_content, "BLOCK", 10)
    path = tmp_path / "weights"
    path.write_bytes(bytes(5000))
    zeros = file_digest(path)
    for content in (bytes(5001), b"\1" + bytes(4999), bytes(4999) + b"\1", bytes(range(250)) * 20):
        path.write_bytes(content)
        assert file_digest(path) != zeros
    path.write_bytes(bytes(5000))
    assert file_digest(path) == zeros

"""
Every setting has an effect, is passed on, or is refused. The table has all fields; a new one, ours or upstream's,
breaks it.

A setting has an effect if runs with and without it differ in weights, logs or files. It is passed on if its value is
found where it is used, or if transformers reads it in a function that ours does not replace. It is refused if it would
change nothing. `pytest tests/training/test_every_setting.py -s -k table` prints the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers.integrations.integration_utils as reports
from peft import LoraConfig
from transformers import Trainer, trainer_optimizer
from trl import ModelConfig

import rm_toolkit
from rm_toolkit.errors import InputError
from rm_toolkit.training import kernels, step_trainer, steps
from rm_toolkit.training.no_effect import OF_4_BITS, OF_ADAPTERS, OF_TRAINING, check_model_flags
from rm_toolkit.training.recipe import GROUPS, RecipeArguments
from rm_toolkit.training.trainer import RewardModelTrainer


FIELDS = {field.name: group for group in reversed(GROUPS) for field in dataclasses.fields(group)}
TESTS = Path(__file__).parents[1]

# Setting -> a value that changes a run, and other settings of both runs.
REPLAY = {"general_replay_fraction": 0.25}
SAVING = {"save_strategy": "steps", "save_steps": 1}
ACTS: dict[str, tuple] = {
    "adam_beta1": (0.5,),
    "adam_beta2": (0.5,),
    "adam_epsilon": (1e-2,),
    "anchor_coef": (1.0, REPLAY),
    "center_rewards_coefficient": (0.5,),
    "data_seed": (7,),
    "disable_dropout": (False, {"peft_config": LoraConfig(r=2, lora_dropout=0.5)}),
    "eval_at_start": (True,),
    "eval_curve_fraction": (0.5,),
    "eval_delay": (2, {"eval_steps": 1}),
    "eval_on_start": (True,),
    "eval_steps": (1,),
    "eval_strategy": ("no",),
    "general_replay_fraction": (0.5, REPLAY),
    "gradient_accumulation_steps": (2,),
    "group_by_prompt": (False, {"prompts": 3}),
    "head_learning_rate": (1e-2,),
    "learning_rate": (1e-2,),
    "lm_loss_coef": (0.5,),
    "lm_loss_on": ("completion", {"lm_loss_coef": 0.5}),
    "lm_score_threshold": (0.3, {"lm_loss_coef": 0.5, "ranked": True}),
    "logging_first_step": (True, {"logging_steps": 2}),
    "logging_steps": (2,),
    "logging_strategy": ("epoch",),
    "lr_scheduler_kwargs": ({"num_cycles": 3}, {"lr_scheduler_type": "cosine_with_restarts"}),
    "lr_scheduler_type": ("linear",),
    "max_grad_norm": (1e-3,),
    "max_length": (16,),
    "max_steps": (2,),
    "model_init_kwargs": ({"dtype": "bfloat16"},),
    "neftune_noise_alpha": (5.0,),
    "num_train_epochs": (2, {"max_steps": -1}),
    "optim": ("sgd",),
    "optim_args": ("momentum=0.5", {"optim": "rmsprop"}),
    "output_dir": ("other",),
    "pair_weighting": ("prompt", {"ranked": True}),
    "pairs_per_step": (8,),
    "per_device_train_batch_size": (2,),
    "pooling_type": ("eos",),
    "save_only_model": (True, SAVING),
    "save_steps": (2, SAVING),
    "save_strategy": ("epoch",),
    "save_total_limit": (1, SAVING),
    "seed": (1,),
    "skip_memory_metrics": (False,),
    "warmup_steps": (2, {"lr_scheduler_type": "linear"}),
    "weight_decay": (0.9,),
}


def ddp(trainer):
    return trainer.accelerator.ddp_handler


def loader(trainer):
    return trainer.get_train_dataloader()


WORKERS = {"dataloader_num_workers": 1}
# Setting -> a value, where a trainer made with it has it, and other settings that it needs.
ARRIVES: dict[str, tuple] = {
    "batch_layout": ("plain", lambda trainer: trainer.batch_layout),
    "bf16": (True, lambda trainer: trainer.accelerator.mixed_precision == "bf16"),
    "dataloader_multiprocessing_context": (
        "spawn",
        lambda trainer: loader(trainer).multiprocessing_context.get_start_method(),
        WORKERS,
    ),
    "dataloader_num_workers": (1, lambda trainer: loader(trainer).num_workers),
    "dataloader_persistent_workers": (True, lambda trainer: loader(trainer).persistent_workers, WORKERS),
    "dataloader_prefetch_factor": (3, lambda trainer: loader(trainer).prefetch_factor, WORKERS),
    "ddp_broadcast_buffers": (False, lambda trainer: ddp(trainer).broadcast_buffers),
    "ddp_bucket_cap_mb": (7, lambda trainer: ddp(trainer).bucket_cap_mb),
    "ddp_find_unused_parameters": (True, lambda trainer: ddp(trainer).find_unused_parameters),
    "ddp_static_graph": (True, lambda trainer: ddp(trainer).static_graph),
    "log_level": ("error", lambda trainer: {40: "error"}[trainer.args.get_process_log_level()]),
    "pad_to_multiple_of": (8, lambda trainer: trainer.collator().pad_to_multiple_of),
    "padding_side": ("left", lambda trainer: trainer.collator().padding_side),
    "use_cache": (True, lambda trainer: trainer.model.config.use_cache),
    "use_cpu": (True, lambda trainer: trainer.args.device.type == "cpu"),
}

# Settings that transformers and TRL read in functions that ours do not replace, or in the configuration itself.
UPSTREAM = [
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "average_tokens_across_devices",
    "ddp_backend",
    "ddp_timeout",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "greater_is_better",
    "hub_private_repo",
    "hub_token",
    "load_best_model_at_end",
    "log_level_replica",
    "log_on_each_node",
    "metric_for_best_model",
    "optim_target_modules",
    "project",
    "report_to",
    "restore_callback_states_from_checkpoint",
    "run_name",
    "save_on_each_node",
    "tf32",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
]

# Settings with tests of their own, which name them.
OWN_TEST = {
    "activation_offloading": "training/test_every_setting.py",
    "allow_changed_settings": "training/test_changed_settings.py",
    "auto_find_batch_size": "training/test_out_of_memory.py",
    "chat_date": "training/test_chat_date.py",
    "chat_template_path": "training/test_config.py",
    "data_format": "evaluation/test_evaluator.py",
    "dataset_num_proc": "data/test_trl.py",
    "disable_tqdm": "training/test_trainer.py",
    "eos_token": "training/test_config.py",
    "fp16": "training/plan/test_plan.py",
    "full_determinism": "training/test_determinism.py",
    "hub_model_id": "hub/test_publishing.py",
    "hub_revision": "training/test_every_setting.py",
    "hub_strategy": "hub/test_publishing.py",
    "ignore_data_skip": "training/test_config.py",
    "liger_kernel_config": "training/test_liger.py",
    "local_rank": "training/test_every_setting.py",
    "logging_nan_inf_filter": "training/test_config.py",
    "max_tokens_per_batch": "training/test_auto_tokens.py",
    "merge_adapter": "models/test_quantization.py",
    "pad_token": "training/test_config.py",
    "per_device_eval_batch_size": "evaluation/test_metrics.py",
    "push_to_hub": "hub/test_publishing.py",
    "resume_from_checkpoint": "training/test_checkpoint.py",
    "shuffle_buffer_size": "training/test_streaming.py",
    "dataloader_pin_memory": "training/test_every_setting.py",
    "torch_compile": "training/test_compilation.py",
    "torch_compile_backend": "training/test_compilation.py",
    "torch_compile_mode": "training/test_every_setting.py",
    "torch_empty_cache_steps": "training/test_every_setting.py",
    "trust_remote_code": "test_secrets.py",
    "use_liger_kernel": "training/test_liger.py",
}

# TRL's model flags in recipes, with the test of what refuses or reads them.
FLAGS = {
    "attn_implementation": "test_bad_runs.py",
    "dtype": "training/test_every_setting.py",
    "load_in_4bit": "models/test_quantization.py",
    "load_in_8bit": "models/test_quantization.py",
    "model_name_or_path": "test_recipes.py",
    "model_revision": "hub/test_revisions.py",
    "use_peft": "models/test_adapters.py",
}


@pytest.fixture
def run(make_trainer, rows, tmp_path):
    """`run(ranked=False, prompts=12, **settings)`: everything that a run of three steps leaves, without times."""

    def go(ranked=False, prompts=12, **settings):
        data = rows.ranked(12) if ranked else rows.pairs(12)
        data = (
            data
            if ranked
            else [{**row, "prompt": data[number % prompts]["prompt"]} for number, row in enumerate(data)]
        )
        defaults = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "eval_rows": rows.pairs(8, seed=1)}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        defaults |= {"output_dir": str(folder / "run"), "replay_dataset": make_set(rows.pairs(8, seed=2))}
        if not settings.get("general_replay_fraction"):
            del defaults["replay_dataset"]
        settings = {**defaults, **settings}
        if settings["output_dir"] == "other":
            settings["output_dir"] = str(folder / "other")
        trainer = make_trainer(data, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = trainer.train()
        slow = ("runtime", "per_second")
        log = [
            {name: value for name, value in entry.items() if not name.endswith(slow)}
            for entry in trainer.state.log_history
        ]
        weights = [parameter.detach().float().sum().item() for parameter in trainer.model.parameters()]
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        return weights, log, files, sorted(result.metrics)

    return go


def make_set(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
def test_a_setting_that_acts_makes_another_run(run, name):
    value, beside = (*ACTS[name], {})[:2]
    assert run(**beside) != run(**{**beside, name: value})


def test_steps_are_pinned_for_a_gpu_alone(make_trainer, rows, monkeypatch):
    trainer, found = make_trainer(rows.pairs(4)), []
    monkeypatch.setattr(steps, "PlannedSteps", lambda *data, pin, **how: found.append(pin) or [])
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(trainer.accelerator.state, "device", torch.device(kind))
        for pinned in (True, False):
            trainer.args.dataloader_pin_memory = pinned
            trainer.get_train_dataloader()
    assert found == [False, False, True, False]


def test_the_mode_of_compilation_is_passed_on(monkeypatch):
    said = []
    monkeypatch.setattr(kernels, "compile_layers", lambda backbone, *how: said.append(how))
    args = SimpleNamespace(
        with_liger=False, torch_compile=True, torch_compile_backend="inductor", torch_compile_mode="max-autotune"
    )
    kernels.change_layers(args, torch.nn.Identity())
    assert said == [("inductor", "max-autotune")]


@pytest.mark.parametrize("name", ARRIVES)
def test_a_setting_is_passed_on(make_trainer, rows, name):
    value, found, beside = (*ARRIVES[name], {})[:3]
    trainer = make_trainer(rows.pairs(4), **{**beside, name: value})
    assert found(trainer) == value


REWARD_MODEL = SimpleNamespace(pooling_type="last", disable_dropout=True)


def upstream_source():
    """Source of transformers' and TRL's trainers and configurations, without the functions that ours replace."""
    replaced, source = set(), inspect.getsource(reports) + inspect.getsource(trainer_optimizer)
    for owner in [*RewardModelTrainer.__mro__, *rm_toolkit.RewardModelConfig.__mro__]:
        functions = {
            name: getattr(value, "fget", getattr(value, "func", value)) for name, value in vars(owner).items()
        }
        functions = {name: value for name, value in functions.items() if inspect.isfunction(value)}
        if owner.__module__.startswith(("trl", "transformers")):
            for name, value in functions.items():
                with contextlib.suppress(OSError):  # generated by `dataclass`
                    source += inspect.getsource(value) if name not in replaced else ""
        # Ours call the upstream functions of the same name.
        replaced |= set(functions) - {
            "__init__",
            "__post_init__",
            "train",
            "log",
            "create_accelerator_and_postprocess",
        }
    return source


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstream_reads_the_setting(name):
    assert re.search(rf"(args|self)\.{name}\b", upstream_source()), name


def test_replaced_functions_are_not_taken_for_upstreams():
    assert "torch_empty_cache_steps is not None" in inspect.getsource(Trainer.training_step)
    assert "torch_empty_cache_steps is not None" not in upstream_source()


VALUES = {
    "accelerator_config": {"split_batches": True}, "debug": "underflow_overflow", "include_for_metrics": ["loss"],
    "eval_accumulation_steps": 2, "label_names": ["label"], "label_smoothing_factor": 0.1, "length_column_name": "size",
    "include_num_input_tokens_seen": "all", "parallelism_config": {"tp_size": 2}, "train_sampling_strategy": "sequential",
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TRAINING)
def test_a_setting_without_effect_is_refused(tmp_path, name):
    default = next(field.default for field in dataclasses.fields(FIELDS[name]) if field.name == name)
    value = VALUES.get(name, not default)
    with pytest.raises(InputError, match=rf"`{name}` is .*, which would have no effect: .{{20,}} Leave it out\."):
        rm_toolkit.RewardModelConfig(str(tmp_path), use_cpu=True, **{name: value})


def test_a_configuration_can_be_copied(tmp_path):
    """transformers changes some of its own fields; a copy is not refused because of them."""
    config = rm_toolkit.RewardModelConfig(str(tmp_path), use_cpu=True, eval_strategy="epoch")
    assert dataclasses.replace(config, learning_rate=1.0).learning_rate == 1.0


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"lora_r": 4, "use_dora": True}, "'lora_r', 'use_dora' would have no effect without an adapter"),
        (
            {"use_peft": True, "bnb_4bit_quant_type": "fp4"},
            "'bnb_4bit_quant_type' would have no effect without `load_in_4bit",
        ),
        ({"use_peft": True, "lora_task_type": "TOKEN_CLS"}, "an adapter of a reward model is 'SEQ_CLS'"),
        (
            {"use_peft": True, "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
            "`bnb_4bit_quant_storage` is 'bf",
        ),
    ],
)
def test_flags_without_effect_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        check_model_flags(ModelConfig(model_name_or_path="base", **flags), REWARD_MODEL)


def test_flags_that_say_what_happens_anyway_are_accepted():
    check_model_flags(ModelConfig(use_peft=True, lora_task_type="SEQ_CLS", lora_r=4, use_rslora=True), REWARD_MODEL)
    check_model_flags(ModelConfig(), REWARD_MODEL)
    base_lm = SimpleNamespace()  # from TRL's trainer, which reads these
    check_model_flags(ModelConfig(use_peft=True, lora_dropout=0.1, lora_task_type="CAUSAL_LM"), base_lm)


def test_dropout_of_an_adapter_that_is_turned_off_is_said(caplog):
    for turned_off, said in ((False, 0), (True, 1)):
        beside = SimpleNamespace(pooling_type="last", disable_dropout=turned_off)
        check_model_flags(ModelConfig(use_peft=True, lora_dropout=0.1), beside)
        assert caplog.text.count("`lora_dropout` is 0.1, which has no effect: `disable_dropout`") == said


def test_offloading_of_activations_is_refused_on_a_cpu(make_trainer, rows):
    with pytest.raises(InputError, match="`activation_offloading` is on, which needs a GPU"):
        make_trainer(rows.pairs(2), activation_offloading=True)


def test_a_launchers_local_rank_is_accepted(make_trainer, rows):
    assert make_trainer(rows.pairs(2), local_rank=0).args.local_rank in (0, -1)


def test_the_cache_is_emptied_every_so_many_steps(make_trainer, rows, monkeypatch):
    emptied = []
    monkeypatch.setattr(step_trainer, "clear_device_cache", lambda: emptied.append(True))
    make_trainer(rows.pairs(8), per_device_train_batch_size=2, max_steps=4, torch_empty_cache_steps=2).train()
    assert len(emptied) == 2


def test_the_revision_to_publish_to_is_that_of_the_configuration(make_trainer, rows, monkeypatch):
    said = {}
    monkeypatch.setattr("rm_toolkit.training.trainer.publish_result", lambda *where, **how: said.update(how))
    make_trainer(rows.pairs(2), hub_revision="next", hub_private_repo=True, hub_model_id="me/rm").publish()
    assert said["revision"] == "next" and said["private"] is True


def test_the_dtype_of_a_recipe_is_that_of_the_weights(base_model, rows, tmp_path):
    from rm_toolkit.training.stages import build_trainer

    config = rm_toolkit.RewardModelConfig(str(tmp_path), use_cpu=True, max_length=64)
    model = ModelConfig(base_model(), dtype="bfloat16")
    data = {"pairs": make_set(rows.pairs(4))}
    trainer = build_trainer(RecipeArguments(train_datasets={"pairs": "x"}), config, model, data, {}, stage="grft")
    assert next(trainer.model.parameters()).dtype == torch.bfloat16


def test_a_recipes_own_settings_are_read():
    folders = (Path(rm_toolkit.__file__).parent, TESTS.parent / "recipes")
    source = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    for field in dataclasses.fields(RecipeArguments):
        assert re.search(rf"(recipe|sources|self)\.{field.name}\b", source), field.name


def table():
    """Each setting and how it is tested."""
    held = {}
    for kind, names in {
        "acts": ACTS,
        "passed on": [*ARRIVES, *UPSTREAM],
        "refused": [*OF_TRAINING, *OF_4_BITS],
        "acts, or is refused without an adapter": OF_ADAPTERS,
        "test of its own": [*OWN_TEST, *FLAGS],
        "read by the recipes": [field.name for field in dataclasses.fields(RecipeArguments)],
    }.items():
        for name in names:
            assert name not in held, f"{name} is given twice: {held.get(name)}, {kind}"
            held[name] = kind
    return held


def test_the_table_holds_every_setting(capsys):
    held = table()
    assert set(held) == set(FIELDS)
    for kind in dict.fromkeys(held.values()):
        names = sorted(name for name in held if held[name] == kind)
        print(f"{kind} ({len(names)}): {' '.join(names)}")


@pytest.mark.parametrize("name", [*OWN_TEST, *FLAGS])
def test_the_test_of_its_own_names_the_setting(name):
    source = (TESTS / {**OWN_TEST, **FLAGS}[name]).read_text()
    assert len(re.findall(rf"\b{name}\b", source)) > (1 if "every_setting" in {**OWN_TEST, **FLAGS}[name] else 0)

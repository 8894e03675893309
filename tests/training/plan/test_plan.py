"""The plan's numbers, compared with torch's own trackers on the same step and with arithmetic by hand."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import GraniteConfig

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.training.plan.launch import Launch, Weights, model_states, read_launch
from rm_toolkit.training.plan.memory_tracker import PeakTracker
from rm_toolkit.training.plan.plan import Precision, make_plan
from rm_toolkit.training.plan.report import parse_size
from rm_toolkit.training.plan.skeleton import build_skeleton
from rm_toolkit.training.recipe import parse_recipe


ROOT = Path(__file__).parents[3]
MIB = 2**20
LENGTH = 96
SETTINGS = {
    "plain": {"batch_layout": "plain"},
    "plain, checkpointing": {"batch_layout": "plain", "gradient_checkpointing": True},
    "plain, LM loss": {"batch_layout": "plain", "lm_loss_coef": 0.1},
    "shared": {"batch_layout": "shared"},
    "shared, checkpointing, LM loss": {
        "batch_layout": "shared",
        "gradient_checkpointing": True,
        "lm_loss_coef": 0.1,
    },
    "shared, accumulated": {"batch_layout": "shared", "pairs_per_step": 8},
    "bf16, LM loss": {"batch_layout": "plain", "bf16": True, "lm_loss_coef": 0.1},
    "LoRA": {"batch_layout": "plain", "use_peft": True, "lora_r": 8},
    "LoRA, checkpointing": {"batch_layout": "plain", "use_peft": True, "lora_r": 8, "gradient_checkpointing": True},
    "tokens": {"batch_layout": "shared", "max_tokens_per_batch": 6 * LENGTH, "pairs_per_step": 3},
}


# Cases of the default test run; `-m slow` adds the others.
FAST_SETTINGS = ["plain, LM loss", "shared, accumulated", "bf16, LM loss", "LoRA, checkpointing", "tokens"]


def fast_ones(names, fast):
    """All names as parameters; those not in `fast` are marked slow."""
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    """A Llama whose step takes megabytes."""
    from transformers import AutoTokenizer

    from rm_toolkit.testing import build_tiny_model, train_tokenizer

    folder = tmp_path_factory.mktemp("small")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=5)) for _ in range(300)]
    train_tokenizer([" ".join(rng.choices(words, k=40)) for _ in range(300)], folder, vocab_size=800)
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    build_tiny_model(folder, vocabulary, hidden_size=96, num_layers=5, num_heads=4)
    return folder, words


def write_recipe(folder, base, settings, **more):
    values = {
        "model_name_or_path": str(base),
        "train_datasets": {"mine": "nowhere"},
        "output_dir": str(folder / "run"),
        "report_to": "none",
        "max_length": LENGTH,
        "per_device_train_batch_size": 4,
        "pairs_per_step": 4,
        "gradient_checkpointing": False,
        "bf16": False,
        **settings,
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def planned(folder, base, settings, launch, **more):
    recipe, training, model = parse_recipe(write_recipe(folder, base, settings, **more), ["--use_cpu", "true"])
    return make_plan(recipe, training, model, launch)


def trainer_of(folder, base, settings, words, num_rows=8, **more):
    """The trainer of the planned run, on texts that are all cut to the same length."""
    from datasets import Dataset
    from trl import get_peft_config

    from rm_toolkit.training.trainer import RewardModelTrainer

    rng = random.Random(1)
    rows = [
        {"chosen": " ".join(rng.choices(words, k=120)), "rejected": " ".join(rng.choices(words, k=120))}
        for _ in range(num_rows)
    ]
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of the first run in a process
    flags = ["--disable_tqdm", "true", "--save_strategy", "no", "--logging_steps", "1"]
    _, training, model = parse_recipe(write_recipe(folder, base, settings, **more), flags)
    return RewardModelTrainer(str(base), training, Dataset.from_list(rows), peft_config=get_peft_config(model))


def tracked_peak(trainer, monkeypatch):
    """Peak of the bytes that torch's MemTracker sees in two whole optimizer steps."""
    if trainer.model.is_peft:  # it hooks all gradients, and frozen parameters have none
        track = MemTracker._track_module_params_and_buffers
        monkeypatch.setattr(
            MemTracker, "_track_module_params_and_buffers", lambda self, module, **_: track(self, module, False)
        )
    trainer.model = trainer.accelerator.prepare_model(trainer.model)  # autocast, as in `train`
    if trainer.args.gradient_checkpointing:  # as `train` does first
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    optimizer = trainer.create_optimizer()
    tracker = MemTracker()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracker.track_external(trainer.model, optimizer)
        step = next(iter(trainer.get_train_dataloader()))
        compute = trainer.compute_loss

        def forget_then_compute(*args, **kwargs):
            tracker.reset_mod_stats()  # it tracks one forward pass; peaks are kept
            return compute(*args, **kwargs)

        monkeypatch.setattr(trainer, "compute_loss", forget_then_compute)
        with tracker:
            for _ in range(2):  # optimizer states exist from the second step on
                trainer.training_step(trainer.model, step)
                optimizer.step()
                optimizer.zero_grad()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize("name", fast_ones(SETTINGS, FAST_SETTINGS))
def test_the_plan_is_within_a_fifth_of_what_mem_tracker_counts(name, small_base, tmp_path, monkeypatch):
    base, words = small_base
    settings = SETTINGS[name]
    plan = planned(tmp_path, base, settings, Launch("none", on_cpu=True))
    trainer = trainer_of(tmp_path, base, settings, words, use_cpu=True)
    measured = tracked_peak(trainer, monkeypatch)
    print(f"{name}: plan {plan.device_total / MIB:.1f} MiB, MemTracker {measured / MIB:.1f} MiB")
    assert plan.device_total == pytest.approx(measured, rel=0.2)
    assert plan.layout == trainer.batch_layout
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert plan.weights.parameters == pytest.approx(parameters, rel=1e-3)  # the run adds a row for a pad token


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [name for name in SETTINGS if "bf16" not in name])
def test_the_plan_is_within_a_fifth_of_what_a_gpu_allocates(name, small_base, tmp_path):
    base, words = small_base
    settings = {**SETTINGS[name], "per_device_train_batch_size": 64, "pairs_per_step": 64}
    settings.pop("max_tokens_per_batch", None)
    plan = planned(tmp_path, base, settings, Launch("none"))
    trainer = trainer_of(tmp_path, base, settings, words, num_rows=128)
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    expected = plan.device_total - plan.states.device["CUDA context"]
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.2)


def test_what_takes_less_is_planned_less(small_base, tmp_path):
    base, _ = small_base
    launch = Launch("none", on_cpu=True)

    def total(**settings):
        return planned(tmp_path, base, {"batch_layout": "plain", **settings}, launch).device_total

    plain = total()
    assert total(gradient_checkpointing=True) < 0.7 * plain
    assert total(per_device_train_batch_size=2) < 0.7 * plain
    assert total(max_length=LENGTH // 2) < 0.6 * plain
    assert total(use_peft=True) < plain < total(lm_loss_coef=0.1)


def test_model_states_by_hand():
    weights = Weights(parameters=1000, trained=1000, stored=4000, largest=100)
    gpu = {"CUDA context": 2**30}

    def device(kind, processes, optimizer="adamw_torch_fused", **launch):
        memory = model_states(Launch(kind, processes, **launch), weights, optimizer, accumulates=True)
        return memory.device, memory.host

    def states(parameters, gradients, optimizer, buffers, own=0):
        names = ("parameters", "gradients", "optimizer states", "gathered layers and buckets")
        names += ("the optimizer's own weights",)
        return dict(zip(names, (parameters, gradients, optimizer, buffers, own))) | gpu

    assert device("none", 1)[0] == states(4000, 4000, 8000, 0)
    assert device("none", 1, "sgd")[0] == states(4000, 4000, 0, 0)
    assert device("none", 1, "paged_adamw_8bit")[0] == states(4000, 4000, 2000, 0)
    assert device("ddp", 4)[0] == states(4000, 4000, 8000, 4000)
    # ZeRO-2 updates a clone of its shard, although the weights are already fp32.
    assert device("zero2", 4)[0] == states(4000, 1000, 2000, 8000, own=1000)
    assert device("zero3", 4)[0] == states(1000, 1000, 2000, 8000)
    assert device("fsdp2", 4)[0] == states(1000, 1000, 2000, 1200)
    found, host = device("zero3", 4, offload_optimizer=True, offload_parameters=True)
    assert found == states(0, 0, 0, 8000)
    # 24 bytes per weight on the host: the weight, the optimizer's copy, two gradients (one accumulates), two moments.
    assert host == {
        "parameters": 4000,
        "gradients": 4000,
        "optimizer states": 8000,
        "the optimizer's own weights": 4000,
        "copies on their way": 4000,
        "processes": 4 * 2**30,
    }
    assert device("zero3", 8, num_machines=2, offload_optimizer=True)[1]["optimizer states"] == 4000
    # FSDP 2 pins what it offloads, which takes half as much again.
    assert device("fsdp2", 4, offload_optimizer=True, offload_parameters=True)[1]["optimizer states"] == 12000
    # With an adapter, a tenth is trained.
    weights = Weights(parameters=1000, trained=100, stored=900, largest=100)
    assert device("none", 1)[0] == states(900, 400, 800, 0)


def test_a_peak_is_of_what_is_alive_at_a_time():
    known = torch.zeros(1000)
    with PeakTracker([known]) as tracker:
        for _ in range(3):
            doubled = known * 2  # 4,000 bytes; the previous one still exists while the next is made
        view = doubled[:10]
        known.add_(1)
        del doubled
    assert (tracker.now, tracker.peak) == (4000, 8000)
    assert len(view) == 10


@pytest.mark.parametrize("name", ["cpu", "single_gpu", "multi_gpu", "zero3_offload"])
def test_launch_configs_of_the_repository_are_understood(name):
    launch = read_launch(ROOT / "accelerate_configs" / f"{name}.yaml")
    expected = {
        "cpu": Launch("none", on_cpu=True),
        "single_gpu": Launch("none"),
        "multi_gpu": Launch("ddp", 8),
        "zero3_offload": Launch("zero3", 8, offload_optimizer=True, offload_parameters=True),
    }
    assert launch == expected[name]


SPELLINGS = {
    ("--bf16=true",): "bf16",
    ("--bf16", "true"): "bf16",
    ("--bf16", "yes"): "bf16",
    ("--bf16=False",): "no",
    ("--bf16", "n"): "no",
    ("--bf16=0",): "no",
    ("--bf16", "true", "--bf16", "false"): "no",
    ("--fp16=1", "--bf16=false"): "fp16",
}


FAST_SPELLINGS = [("--bf16", "yes"), ("--bf16=False",), ("--fp16=1", "--bf16=false")]


@pytest.mark.parametrize("flags", fast_ones(SPELLINGS, FAST_SPELLINGS), ids=" ".join)
def test_every_spelling_of_a_precision_is_read_as_the_recipe_reads_it(flags, small_base, tmp_path, capsys):
    """`plan` reads it from flags and from YAML, and agrees with the recipe's own parser."""
    for given in (True, False):
        path = write_recipe(tmp_path, small_base[0], {"bf16": given})
        _, training, _ = parse_recipe(path, ["--use_cpu", "true", *[word for word in flags if "fp16" not in word]])
        asked = "fp16" if "fp16" in flags[0] else "bf16" if training.bf16 else "no"
        assert asked == SPELLINGS[flags]
        command = ["plan", "--config", str(path), "--accelerate-config", "accelerate_configs/single_gpu.yaml"]
        assert main([*command, "--gpu-memory", "1GiB", *flags]) == 0
        assert f"Precision: {SPELLINGS[flags]}" in capsys.readouterr().out


def test_a_precision_that_is_not_set_says_what_is_assumed(small_base, tmp_path, capsys, monkeypatch):
    path = write_recipe(tmp_path, small_base[0], {"bf16": None})
    command = ["plan", "--config", str(path), "--gpu-memory", "1GiB", "--accelerate-config"]

    def said(config, found, *flags):
        monkeypatch.setattr("rm_toolkit.training.plan.plan.gpu_has_bf16", lambda: found)
        assert main([*command, f"accelerate_configs/{config}.yaml", *flags]) == 0
        return " ".join(capsys.readouterr().out.split())

    unset = "(`bf16` is not set, so it is"
    assert f"Precision: bf16, by autocast on fp32 weights {unset} on if the GPU supports it: there is no GPU " in (
        said("zero2", None, "--per_device_train_batch_size", "1", "--pairs_per_step", "8")
    )
    assert f"Precision: bf16, by autocast on fp32 weights {unset}" in said("single_gpu", True)
    assert f"Precision: no {unset}" in said("single_gpu", False)
    assert f"Precision: no {unset} off on a CPU" in said("cpu", True)
    assert "Precision: fp16, by autocast on fp32 weights (as set in the recipe)" in said("single_gpu", None, "--fp16")
    assert main([*command, "accelerate_configs/single_gpu.yaml", "--fp16", "--bf16=true"]) == 2
    assert "`bf16` and `fp16` are both true" in capsys.readouterr().err
    for wrong in ("--bf16", "--bf16=maybe", "--no_bf16"):
        assert main([*command, "accelerate_configs/single_gpu.yaml", wrong]) == 2


@pytest.mark.parametrize("kind", fast_ones(["ddp", "zero2", "zero3", "fsdp2"], ["zero3"]))
def test_bf16_saves_no_byte_of_the_weights_and_costs_its_copies(kind, small_base, tmp_path):
    """Version 0.2.1 planned too little: 2 bytes per parameter under DeepSpeed, and no copies for the computation."""
    settings = {"per_device_train_batch_size": 1, "gradient_checkpointing": True}
    path = write_recipe(tmp_path, small_base[0], settings)
    arguments = parse_recipe(path, ["--use_cpu", "true"])
    plans = {
        name: make_plan(*arguments, Launch(kind, 4), precision=Precision(name, "")) for name in ("no", "bf16", "fp16")
    }
    states = {name: plan.states for name, plan in plans.items()}
    assert states["no"] == states["bf16"] == states["fp16"]
    assert plans["bf16"].step == plans["fp16"].step
    # ZeRO-3 casts one layer at a time; other engines keep the copies of all layers at once.
    again = make_plan(*arguments, Launch("zero3", 4), precision=Precision("bf16", "")).step.peak
    assert plans["bf16"].step.peak == again if kind == "zero3" else plans["bf16"].step.peak > again


def test_the_command_answers_in_words(small_base, tmp_path, capsys):
    path = write_recipe(tmp_path, small_base[0], {})
    (tmp_path / "launch.yaml").write_text("{distributed_type: MULTI_GPU, num_processes: 2}")
    command = ["plan", "--config", str(path), "--accelerate-config", str(tmp_path / "launch.yaml")]
    command += ["--gpu-memory", "1MiB", "--host-memory", "64GiB", "--pairs", "1000", "--tflops", "10"]
    command += ["--num_train_epochs", "1", "--per_device_train_batch_size", "1"]
    assert main([*command, "--lm_loss_coef", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "DDP, 2 process(es) on 1 machine(s)" in said
    assert "Step: 4 pairs = 2 process(es) x 2 micro-batch(es) of up to 1 pair(s) of two texts of 96 tokens" in said
    assert "Does not fit:" in said and "of 1.0 MiB of a GPU" in said and "of the host" in said
    assert "Length: 250 steps, 1,000 pairs x 192 tokens = 192,000 tokens." in said
    assert "Tokens: 192 a pair are two texts of the greatest length, an upper bound" in said
    assert "Hours, an estimate" in said and "Hours: pass --tflops" not in said
    plan = command.index("--tflops")
    assert main([*command[:plan], *command[plan + 2 :], "--tokens-per-pair", "50"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Hours: pass --tflops, the peak of your GPU" in said and "upper bound" not in said
    for flags, message in (
        (["--gpu-memory", "much"], "`--gpu-memory` is 'much'"),
        (["--per_device_train_batch_size", "3"], "do not divide"),
        (["--per_device_batch", "3"], "is not a flag of this recipe"),
    ):
        assert main([*command, *flags]) == 2
        assert message in capsys.readouterr().err


def test_a_base_without_a_stock_classifier_is_refused_by_the_plan_too():
    with pytest.raises(InputError, match=r"'granite' model: .* no sequence classifier of it"):
        build_skeleton(GraniteConfig(), None)


def test_the_tiny_base_is_planned_by_its_sizes(tmp_path):
    recipe = ROOT / "recipes" / "tiny" / "grft.yaml"
    flags = ["--use_cpu", "true", "--model_name_or_path", str(tmp_path / "none")]
    plan = make_plan(*parse_recipe(recipe, flags), Launch("none", on_cpu=True))
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256 + 2 * 128
    assert plan.weights.parameters == 2 * 2048 * 128 + 2 * layer + 128 + 128  # embedding, LM head, layers, norm, head


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "no-such"}, r"cannot be loaded as a reward model: `hidden_act` is 'no-such'"),
        ({"hidden_size": 1 << 17}, r"config\.json describes a model of .* the weights beside it have"),
    ],
)
def test_a_model_that_no_run_could_load_is_not_planned(small_base, tmp_path, values, message):
    base, launch = tmp_path / "base", Launch("ddp", "cuda", 1)
    shutil.copytree(small_base[0], base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(InputError, match=message):
        planned(tmp_path, base, {}, launch)


def test_a_quantized_base_takes_half_a_byte_a_weight(small_base, tmp_path):
    settings = {"use_peft": True, "load_in_4bit": True, "batch_layout": "plain"}
    plan = planned(tmp_path, small_base[0], settings, Launch("none"))
    whole = planned(tmp_path, small_base[0], {"use_peft": True, "batch_layout": "plain"}, Launch("none"))
    layer = 2 * 96 * 96 + 2 * 96 * 48 + 3 * 96 * 192
    saved = 5 * layer * (4 - 0.5 - 4 / 64)
    assert whole.states.device["parameters"] - plan.states.device["parameters"] == pytest.approx(saved, abs=100)
    with pytest.raises(InputError, match="quantized weights cannot be trained"):
        planned(tmp_path, small_base[0], {"load_in_4bit": True}, Launch("none"))


def test_sizes_are_read():
    assert parse_size("80GiB", "--x") == 80 * 2**30
    assert parse_size("80 GB", "--x") == 80 * 10**9
    assert parse_size("1024", "--x") == 1024

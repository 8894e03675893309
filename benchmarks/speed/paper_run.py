"""Estimates a run at the paper's scale without running it: Llama-7B on 8 and 64 GPUs, a million pairs."""

from __future__ import annotations

import dataclasses
import tempfile

from rm_toolkit.output.markdown import table
from rm_toolkit.training.plan.launch import read_launch
from rm_toolkit.training.plan.plan import Precision, RunPlan, make_plan
from rm_toolkit.training.recipe import parse_recipe

from .balance import Setting, measure, published, repeated
from .data import ROOT


GIB = 1 << 30
TFLOPS, UTILIZATION = 312.0, 0.4  # peak of an A100 in bf16, and the assumed share of it that is reached
# (GPUs, machines, pairs per step); a micro-batch is one pair in both.
RUNS = ((8, 1, 64), (64, 8, 512))
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


def plan_of(num_gpus: int, num_machines: int, pairs_per_step: int, config: dict[str, int]) -> RunPlan:
    """The plan of the run, made from the repository's recipe and launch config."""
    from transformers import LlamaConfig

    launch = dataclasses.replace(
        read_launch(ROOT / "accelerate_configs" / "zero3_offload.yaml"),
        num_processes=num_gpus,
        num_machines=num_machines,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(vocab_size=32000, architectures=["LlamaForCausalLM"], **config).save_pretrained(folder)
        flags = ["--model_name_or_path", folder, "--use_cpu", "true", "--bf16", "false"]
        flags += ["--pairs_per_step", str(pairs_per_step)]
        recipe, training, model = parse_recipe(str(ROOT / "recipes" / "llama-7b" / "grft.yaml"), flags)
        return make_plan(recipe, training, model, launch, precision=Precision("bf16", "as set by this benchmark"))


def paper_table(
    num_pairs: int, per_process: float, config: dict[str, int] | None = None, runs: tuple = RUNS, name: str = "helpful"
) -> str:
    """
    A table with a row per run: hours, share of time lost to imbalance, and memory per machine.

    Args:
        num_pairs (`int`): Training pairs in the epoch.
        per_process (`float`): Bytes per pair that each process keeps for itself, besides what a machine keeps once.
        config (`dict`, *optional*): Sizes of the Llama (default: 7B).
        runs (`tuple`): GPUs, machines and pairs per step of each run.
        name (`str`): Published rows from which the lengths of texts are taken.
    """
    data, rows = published(name), []
    tokens_a_pair = float(data.lengths[data.better].mean() + data.lengths[data.worse].mean())
    for num_gpus, num_machines, pairs_per_step in runs:
        plan = plan_of(num_gpus, num_machines, pairs_per_step, config or LLAMA_7B)
        setting = Setting(num_gpus, pairs_per_step, pairs=1)
        found = measure(repeated(data, 3 * pairs_per_step), setting, shared=plan.layout == "shared")
        ideal = plan.flops(num_pairs * tokens_a_pair) / (TFLOPS * 1e12 * UTILIZATION * num_gpus) / 3600
        held = num_pairs * (tokens_a_pair * 4 + per_process * plan.launch.per_machine)
        cells = (
            f"{ideal:.1f}",
            f"{ideal * found.slots:.1f}",
            f"{1 - 1 / found.slots:.1%}",
            f"{1 - 1 / found.slots_bound:.1%}",
        )
        memory = f"{plan.host_total / GIB:.0f}", f"{held / GIB:.2f}", f"{plan.device_total / GIB:.1f}"
        rows.append([f"{num_gpus} GPUs on {num_machines}", str(-(-num_pairs // pairs_per_step)), *cells, *memory])
    columns = [
        "",
        "steps",
        "hours, even",
        "hours",
        "lost to imbalance",
        "at least",
        "host GiB: model",
        "data",
        "GPU GiB",
    ]
    lines = f"{num_pairs:,} pairs x {tokens_a_pair:.0f} tokens ({name}), ZeRO-3 with offload, a pair a micro-batch, bf16 at "
    lines += f"{UTILIZATION:.0%} of {TFLOPS:g}e12 operations a second; each micro-batch waits for the busiest GPU."
    return f"### Llama-7B, simulated\n\n{lines}\n\n{table(columns, rows)}\n"

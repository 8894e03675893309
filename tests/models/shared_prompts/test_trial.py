"""The trial uses the kernel and dtype of the run, and refuses masks that are wrong by one token."""

from __future__ import annotations

import inspect
import re
import time

import pytest
import torch

from rm_toolkit.batches.shared_layout import SharedLayout
from rm_toolkit.models.shared_prompts import exactness, segment_attention, varlen_attention
from rm_toolkit.models.shared_prompts.exactness import sharing_problem, try_sharing

from .conftest import WINDOWED, varlen_by_sdpa


MODELS = {"llama": {}, "qwen3": {}, "mixtral": {"num_local_experts": 4, "sliding_window": None}, **WINDOWED}
TYPES = {
    "bf16 autocast": (torch.float32, torch.bfloat16),
    "fp16 autocast": (torch.float32, torch.float16),
    "bf16 weights": (torch.bfloat16, None),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def cases(*quick, models=tuple(MODELS)):
    """All models in all dtypes; only the quick ones run by default."""
    every = [(model_type, types) for model_type in models for types in TYPES]
    marks = {case: () if case in quick else pytest.mark.slow for case in every}
    names = [f"{model_type}-{types.replace(' ', '-')}" for model_type, types in every]
    values = [pytest.param(*case, marks=marks[case], id=name) for case, name in zip(every, names)]
    return pytest.mark.parametrize(("model_type", "types"), values)


@pytest.fixture(params=DEVICES)
def device(request, varlen_on_cpu):
    """The device to try: a CPU with a stand-in for the kernel, or a GPU with the kernel."""
    if request.param == "cpu":
        varlen_on_cpu()
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def top_left(function):
    """The kernel with causal masks (and windows) aligned to the first query and key, as `is_causal=True` of SDPA."""

    def aligned(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
        # Then a query can see at most as many keys as there are queries.
        lengths = cu_seq_q.diff().tolist()
        kept = torch.cat([torch.arange(n) + begin for n, begin in zip(lengths, cu_seq_k.tolist())]).to(key.device)
        return function(query, key[kept], value[kept], cu_seq_q, cu_seq_q, max_q, max_q, **options)

    return aligned


def window_off_by(tokens):
    def change(function):
        def off(*args, window_size, **options):
            left, right = window_size
            return function(*args, window_size=(left + tokens if left >= 0 else left, right), **options)

        return off

    return change


def plant(monkeypatch, change):
    """Replaces the kernel that will be found by `change` of it."""
    original = varlen_attention.installed_kernel

    def changed(device_type):
        kernel = original(device_type)
        return varlen_attention.VarlenKernel(change(kernel.function), kernel.grouped, kernel.dtypes)

    monkeypatch.setattr(varlen_attention, "installed_kernel", changed)


def plant_prefix(monkeypatch, begin, end):
    """Shifts the begin and end of prefixes by so many tokens."""
    original = SharedLayout.packed

    def packed(layout, device):
        table = layout.segments.copy()
        continues = table[:, 3] > table[:, 2]
        table[continues, 2:] += [begin, end]
        return original(SharedLayout(table), device)

    monkeypatch.setattr(SharedLayout, "packed", packed)


@cases(("llama", "bf16 autocast"), ("llama", "fp16 autocast"), ("mistral", "bf16 weights"))
def test_models_pass_in_16_bits(tiny, model_type, types, device):
    weights, autocast = TYPES[types]
    trial = try_sharing(tiny(model_type, **MODELS[model_type]).to(weights), 512, device, autocast)
    assert trial.problem is None
    name = str(autocast or weights).removeprefix("torch.")
    assert trial.kernels == (f"FlashAttention over packed sequences in {name}",)


@pytest.mark.parametrize("types", TYPES)
def test_another_algorithm_passes_too(tiny, types):
    """A CPU joins blocks by their log-sum-exp, which rounds differently from the model but not more."""
    weights, autocast = TYPES[types]
    trial = try_sharing(tiny("gemma3_text", **WINDOWED["gemma3_text"]).to(weights), 512, "cpu", autocast)
    assert trial.problem is None
    assert trial.kernels[0].startswith("blocks of prompts and responses in ")


# Shifted by one, one longer (into a response), one shorter, without the first token.
@pytest.mark.parametrize("moved", [(1, 1), (0, 1), (0, -1), (1, 0)])
@cases(("llama", "bf16 autocast"), models=("llama", "qwen3", "gemma3_text"))
def test_a_prefix_that_is_off_by_one_is_refused(tiny, model_type, types, moved, device, monkeypatch):
    weights, autocast = TYPES[types]
    model = tiny(model_type, **MODELS[model_type]).to(weights)
    plant_prefix(monkeypatch, *moved)
    assert "as far from fp32" in sharing_problem(model, 512, device, autocast)


@pytest.mark.parametrize("tokens", [1, -1])
@cases(("mistral", "bf16 autocast"), ("gemma3_text", "bf16 weights"), models=tuple(WINDOWED))
def test_a_window_that_is_off_by_one_is_refused(tiny, model_type, types, tokens, device, monkeypatch):
    weights, autocast = TYPES[types]
    model = tiny(model_type, **MODELS[model_type]).to(weights)
    plant(monkeypatch, window_off_by(tokens))
    assert "as far from fp32" in sharing_problem(model, 512, device, autocast)


@cases(("llama", "bf16 autocast"), models=("llama", "qwen3", "mistral"))
def test_alignment_to_the_beginning_is_refused(tiny, model_type, types, device, monkeypatch):
    weights, autocast = TYPES[types]
    model = tiny(model_type, **MODELS[model_type]).to(weights)
    plant(monkeypatch, top_left)
    assert "as far from fp32" in sharing_problem(model, 512, device, autocast)


@pytest.mark.parametrize("fault", ["prefix", "window", "alignment"])
def test_in_fp32_they_are_refused_even_at_the_tolerance_of_a_gpu(tiny, fault, varlen_on_cpu, monkeypatch):
    model = tiny("mistral", **WINDOWED["mistral"])
    monkeypatch.setitem(exactness.TOLERANCE, "cpu", exactness.TOLERANCE["cuda"])
    varlen_on_cpu()
    if fault == "prefix":
        plant_prefix(monkeypatch, 0, -1)
    else:
        plant(monkeypatch, window_off_by(1) if fault == "window" else top_left)
    assert "hidden states differ" in sharing_problem(model, 512)


@pytest.mark.parametrize("window", [7, 9])
def test_on_a_cpu_a_window_that_is_off_by_one_is_refused(tiny, window, monkeypatch):
    """The windows of a trial are 8 tokens."""
    original = segment_attention.make_blocks
    monkeypatch.setattr(
        segment_attention,
        "make_blocks",
        lambda layout, given, dtype: original(layout, window if given == 8 else given, dtype),
    )
    model = tiny("gemma3_text", **WINDOWED["gemma3_text"])
    assert "hidden states differ" in sharing_problem(model, 512)
    assert "as far from fp32" in sharing_problem(model, 512, None, torch.bfloat16)


def test_faults_of_the_backward_pass_alone_are_refused(tiny, varlen_on_cpu, monkeypatch):
    varlen_on_cpu()

    def forgetful(ctx, *grads):
        """A token that is a key of several responses gets gradients only from the last of them."""
        (index,) = ctx.saved_tensors
        totals = [grad.new_zeros((ctx.num_rows, *grad.shape[1:])) for grad in grads]
        return (*(total.index_copy_(0, index.long(), grad) for total, grad in zip(totals, grads)), None)

    monkeypatch.setattr(varlen_attention._Gather, "backward", staticmethod(forgetful))
    problem = sharing_problem(tiny("llama"), 512, None, torch.bfloat16)
    assert "gradients were" in problem


@pytest.mark.parametrize(
    ("times", "problem", "by_chance"),
    [
        ([1] * 8, None, False),
        ([1.9] * 8, None, False),
        ([0.1] * 8, None, False),
        ([2.1] * 8, r"hidden states were 2\.1 times \(one 2\.1 times\) as far", False),
        # The average is geometric: 20 ** (1 / 8) = 1.45. One text may be an expert's routing; two would give 2.1.
        ([1] * 7 + [20], r"1\.5 times \(one 20\.0 times\)", True),
        ([1] * 6 + [20, 20], r"2\.1 times", False),
    ],
)
def test_errors_are_measured_by_those_of_texts_one_by_one(times, problem, by_chance):
    exact = exactness._Result(torch.ones(8, 4), {"weight": torch.ones(3)})
    errors = torch.full((8, 4), 0.01)
    separate = exactness._Result(exact.hidden + errors, {"weight": torch.full((3,), 1.01)})
    shared = exactness._Result(exact.hidden - errors * torch.tensor(times)[:, None], separate.grads)
    found = exactness._noise_problem(shared, separate, exact)
    assert found[1] == by_chance
    assert found[0] is None if problem is None else re.search(problem, found[0])


def test_a_fault_that_may_be_chance_is_tried_with_other_weights(tiny, monkeypatch):
    seeds = []

    def tried(*args, seed):
        seeds.append(seed)
        return ("one text", True) if seed < 1 else (None, False)

    monkeypatch.setattr(exactness, "_try", tried)
    assert sharing_problem(tiny("llama"), 512) is None
    assert seeds == [0, 1]
    monkeypatch.setattr(exactness, "_try", lambda *args, seed: ("one text", True))
    assert "one text" in sharing_problem(tiny("llama"), 512)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_trial_takes_less_than_three_seconds_and_compiles_nothing(tiny, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    model = tiny("llama", hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, head_dim=64)
    started = time.perf_counter()
    assert sharing_problem(model, 512, "cuda", torch.bfloat16) is None
    assert time.perf_counter() - started < 3


def test_the_stand_in_has_the_arguments_of_the_kernel():
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    if varlen_attention.installed_kernel("cuda") is None:
        pytest.skip("the kernel of this torch has other arguments, and is not used")
    expected = inspect.signature(varlen.varlen_attn).parameters
    found = inspect.signature(varlen_by_sdpa).parameters
    kinds = {name: (parameter.kind, parameter.default) for name, parameter in found.items()}
    assert {name: kinds[name] for name in expected} == {
        name: (parameter.kind, parameter.default) for name, parameter in expected.items()
    }

"""The shared layout gives the rewards, losses and gradients of padded rows; a mask that leaks does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn import functional as F

import rm_toolkit.models.shared_prompts.attention
from rm_toolkit.batches.prefixes import flat_row
from rm_toolkit.batches.shared_layout import SharedLayout
from rm_toolkit.models.shared_prompts.attention import (
    UnsupportedAttentionError,
    check_supported,
    sdpa_shared_attention,
    shared_attention,
)
from rm_toolkit.models.shared_prompts.exactness import Trial
from rm_toolkit.models.shared_prompts.flex_attention import flex_shared_attention, shared_block_mask


LONG = "Please answer in the tone of the harbour market and mind the copper lantern. "


@pytest.fixture(scope="module")
def preference_rows(rows):
    """Ranked rows whose prompts are long enough to be shared."""
    return [{**row, "prompt": row["prompt"].replace("## Human:\n", f"## Human:\n{LONG}")} for row in rows.ranked(6)]


@pytest.fixture
def both(make_trainer, base_model, preference_rows, step_gradients):
    """`both(architecture, peft_config=None, **config)`: (loss, gradients) of a step, plain and shared."""

    def compute(architecture, peft_config=None, **config):
        found = []
        for layout in ("plain", "shared"):
            torch.manual_seed(0)
            trainer = make_trainer(
                preference_rows,
                base_model(architecture),
                peft_config=peft_config,
                batch_layout=layout,
                max_length=128,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=2,
                **config,
            )
            if peft_config is not None:
                for name, parameter in trainer.model.named_parameters():
                    if "lora_B" in name:  # initially zero, which would hide all gradients of lora_A
                        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
            found.append(step_gradients(trainer))
        return found

    return compute


def assert_same_step(plain, shared):
    assert shared[0] == pytest.approx(plain[0], abs=1e-5)
    assert shared[1].keys() == plain[1].keys()
    for name, expected in plain[1].items():
        difference = (shared[1][name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert difference < 1e-4, f"{name}: gradients differ by {difference:.1e}"


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_loss_and_gradients_with_the_lm_loss(both, architecture, padding_side):
    assert_same_step(*both(architecture, lm_loss_coef=0.3, lm_score_threshold=0.2, padding_side=padding_side))


@pytest.mark.parametrize("pooling_type", ["average", "max"])
def test_loss_and_gradients_of_rewards_read_from_all_tokens(both, pooling_type):
    assert_same_step(*both("llama", pooling_type=pooling_type, lm_loss_coef=0.3))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_loss_and_gradients_with_checkpointing(both, architecture):
    assert_same_step(*both(architecture, gradient_checkpointing=True))


def test_loss_and_gradients_with_lora_and_checkpointing(both):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    assert_same_step(*both("llama", peft_config=lora, gradient_checkpointing=True, lm_loss_coef=0.1))


def test_loss_and_gradients_when_filled_by_tokens(both):
    assert_same_step(*both("llama", max_tokens_per_batch=256, lm_loss_coef=0.1, pooling_type="eos"))


@pytest.mark.parametrize(
    ("architecture", "pooling_type"), [("llama", "last"), ("qwen3", "last"), ("llama", "average"), ("llama", "max")]
)
@pytest.mark.parametrize("eval_batch_size", [1, 8])
def test_rewards_in_evaluation(make_trainer, base_model, preference_rows, architecture, pooling_type, eval_batch_size):
    rewards = {}
    for layout in ("plain", "shared"):
        trainer = make_trainer(
            preference_rows,
            base_model(architecture),
            batch_layout=layout,
            pooling_type=pooling_type,
            max_length=128,
            per_device_eval_batch_size=eval_batch_size,
        )
        rewards[layout] = trainer.compute_rewards(trainer.train_dataset)
    assert np.ptp(rewards["plain"]) > 0.01
    np.testing.assert_allclose(rewards["shared"], rewards["plain"], atol=1e-5)


@pytest.mark.slow
def test_700_growing_prefixes_of_one_answer_train_and_are_scored(make_trainer):
    answer = " a" * 700
    rows = [
        {
            "prompt": "## Human:\nSay it.\n\n## Assistant:\n",
            "chosen": answer[: 4 * k + 4],
            "rejected": answer[: 4 * k + 2],
        }
        for k in range(350)
    ]
    trainer = make_trainer(rows, batch_layout="shared", max_length=1536, per_device_train_batch_size=350, max_steps=1)
    assert trainer.train_dataset.num_sequences == 700
    trainer.train()
    assert np.isfinite(trainer.state.log_history[0]["loss"])
    rewards = trainer.compute_rewards(trainer.train_dataset)
    few = trainer._prepare_dataset(Dataset.from_list(rows[::50]), trainer.processing_class, trainer.args, "few")
    trainer.batch_layout = "plain"
    expected = trainer.compute_rewards(few)[few.better]
    np.testing.assert_allclose(rewards[trainer.train_dataset.better[::50]], expected, atol=1e-5)


def leak(layout):
    """The same row, but every response also sees those before it, as one long sequence after the prompt."""
    begin, end, first, last = layout.continued()[0]
    segments = [row for row in layout.segments.tolist() if row[0] < begin or row[0] >= end]
    return SharedLayout(np.array(sorted([*segments, [begin, end, first, last]])))


@pytest.mark.parametrize("path", ["segments", "sdpa"])
def test_responses_that_see_each_other_are_found_out(both, monkeypatch, path):
    """A mutation that the tests above must catch."""
    original = sdpa_shared_attention if path == "sdpa" else shared_attention

    def leaking(query, key, value, layout, scaling=None, window=None):
        return original(query, key, value, leak(layout) if len(layout.continued()) else layout, scaling, window)

    monkeypatch.setattr(rm_toolkit.models.shared_prompts.attention, "shared_attention", leaking)
    # The start-up trial, which runs the same attention, refuses it.
    with pytest.raises(ValueError, match=r"not exact for this model: .*hidden states differ"):
        both("llama")
    # Without the trial, the comparison of steps fails.
    monkeypatch.setattr("rm_toolkit.models.shared_prompts.choice.try_sharing", lambda *_, **__: Trial(None))
    with pytest.raises(AssertionError):
        assert_same_step(*both("llama"))


def test_positions_that_run_on_over_the_row_are_found_out(both, monkeypatch):
    def running_on(sequences, *groups):
        row = flat_row(sequences, *groups)
        row.position_ids = np.arange(len(row.position_ids))
        return row

    monkeypatch.setattr("rm_toolkit.batches.collator.flat_row", running_on)
    with pytest.raises(AssertionError):
        assert_same_step(*both("llama"))


# ---- attention alone ----


@pytest.fixture
def problem():
    """A layout of two groups and a single text; queries with 4 heads, keys with 2; output computed by a dense mask."""
    rng = np.random.default_rng(0)
    starts = [rng.integers(0, 99, length) for length in (20, 45)]
    texts = [
        np.concatenate([starts[k], rng.integers(0, 99, n)]) for k, n in ((0, 3), (0, 150), (1, 7), (1, 2), (1, 70))
    ]
    layout = flat_row([*texts, rng.integers(0, 99, 11)]).layout
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, layout.num_tokens, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)
    )
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in (key, value)]
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=layout.dense_mask(), scale=0.3)
    direction = torch.randn(expected.shape, generator=generator)
    grads = torch.autograd.grad((expected * direction).sum(), (query, key, value))
    return (query, key, value, layout), expected.detach(), direction, grads


@pytest.mark.parametrize("path", ["segments", "sdpa"])
def test_attention_and_its_gradients_equal_those_of_a_dense_mask(problem, path):
    (query, key, value, layout), expected, direction, grads = problem
    if path == "segments":
        output = shared_attention(query, key, value, layout, 0.3)
    else:
        repeated = [tensor.repeat_interleave(2, dim=1) for tensor in (key, value)]
        output = sdpa_shared_attention(query, *repeated, layout, 0.3)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((output * direction).sum(), (query, key, value))
    for one, other in zip(found, grads):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_under_autocast_the_types_that_rope_mixes_are_made_one(problem):
    """RoPE returns queries and keys in fp32, while values come from a linear layer in bf16."""
    (query, key, value, layout), *_ = problem
    expected = shared_attention(*(tensor.bfloat16() for tensor in (query, key, value)), layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = shared_attention(query, key, value.bfloat16(), layout)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_flex_attention_gives_the_same(problem):
    (query, key, value, layout), expected, _, _ = problem
    with torch.no_grad():
        output = flex_shared_attention(query, key, value, layout, 0.3)
        by_default, stated = (flex_shared_attention(query, key, value, layout, scale) for scale in (None, 8**-0.5))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert output.shape[-1] == 8 and torch.equal(by_default, stated)  # heads of 8 are padded to 16


def test_blocks_between_responses_are_skipped():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 99, 128)
    layout = flat_row([np.concatenate([start, rng.integers(0, 99, 256)]) for _ in range(4)]).layout
    mask = shared_block_mask(layout, torch.device("cpu"))
    # Per response of two blocks: the prompt's block and its own triangle. 9 of 9 block rows, 21 of 45 causal blocks.
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == 1 + 4 * (2 + 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_on_a_gpu_equals_a_dense_mask(problem, dtype):
    (query, key, value, layout), expected, direction, grads = problem  # heads of 8; the kernel takes 16 and more
    tensors = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in (query, key, value)]
    output = flex_shared_attention(*tensors, layout, 0.3)
    tolerance = {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(output.float().cpu(), expected, **tolerance)
    found = torch.autograd.grad((output.float() * direction.cuda()).sum(), tensors)
    for one, other in zip(found, grads):
        torch.testing.assert_close(one.float().cpu(), other, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"softcap": 50.0}, "softcap"),
        ({"dropout": 0.1}, "dropout"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
    ],
)
def test_attention_of_another_kind_is_refused(arguments, match):
    with pytest.raises(UnsupportedAttentionError, match=match):
        check_supported(arguments)


def test_arguments_that_change_nothing_are_let_through():
    check_supported({"dropout": 0.0, "softcap": None, "use_cache": False})


# ---- the last layer ----


def test_the_last_layer_computes_only_the_tokens_that_are_read(make_trainer, base_model, preference_rows, monkeypatch):
    trainer = make_trainer(preference_rows, base_model("llama"), batch_layout="shared", max_length=128)
    batch = next(iter(trainer.get_train_dataloader()))[0]
    widths = {"first": [], "last": []}
    layers = trainer.model.backbone.layers
    for name, layer in (("first", layers[0]), ("last", layers[-1])):
        layer.mlp.up_proj.register_forward_hook(lambda m, args, out, name=name: widths[name].append(args[0].shape[1]))
    trainer.model.train()
    trainer.model(batch)
    assert widths == {"first": [batch.num_tokens], "last": [len(batch.reward_index)]}


def test_with_checkpointing_the_last_layer_computes_all_tokens(make_trainer, base_model, preference_rows):
    trainer = make_trainer(
        preference_rows, base_model("llama"), batch_layout="shared", max_length=128, gradient_checkpointing=True
    )
    trainer.model.activation_checkpointing_enable()
    batch = next(iter(trainer.get_train_dataloader()))[0]
    widths = []
    trainer.model.backbone.layers[-1].mlp.up_proj.register_forward_hook(
        lambda module, args, out: widths.append(args[0].shape[1])
    )
    trainer.model.train()
    trainer.model(batch)
    assert widths == [batch.num_tokens]


def test_padded_rows_are_computed_whole_after_a_shared_one(make_trainer, base_model, preference_rows):
    trainer = make_trainer(preference_rows, base_model("llama"), batch_layout="shared", max_length=128)
    data = trainer.train_dataset
    shared = trainer.compute_rewards(data)
    trainer.batch_layout = "plain"
    np.testing.assert_allclose(trainer.compute_rewards(data), shared, atol=1e-5)
    hidden = trainer.model.backbone(torch.tensor([data.sequence(0).tolist()])).last_hidden_state
    fresh = make_trainer(preference_rows, base_model("llama"), batch_layout="plain", max_length=128)
    expected = fresh.model.backbone(torch.tensor([data.sequence(0).tolist()])).last_hidden_state
    torch.testing.assert_close(hidden, expected)


def test_a_token_that_is_read_but_not_listed_is_found_out(both, monkeypatch):
    """A mutation: targets of the LM loss are forgotten."""
    original = torch.unique
    monkeypatch.setattr("rm_toolkit.batches.collator.torch.unique", lambda tensor: original(tensor)[::2])
    with pytest.raises(AssertionError):
        assert_same_step(*both("llama", lm_loss_coef=0.3, lm_score_threshold=0.2))


@pytest.mark.parametrize("pooling_type", ["last", "average", "max"])
def test_an_empty_micro_batch_has_a_zero_gradient_for_every_parameter(
    make_trainer, base_model, preference_rows, pooling_type
):
    options = {"batch_layout": "shared", "max_length": 128, "lm_loss_coef": 0.1, "pooling_type": pooling_type}
    trainer = make_trainer(preference_rows, base_model("llama"), **options)
    none = np.zeros(0, dtype=np.int64)
    batch = trainer.collator("text").pairs(trainer.train_dataset, none, np.zeros(0), none, 0.0)
    loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    grads = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    assert loss.item() == 0
    assert all(grad is not None and not grad.any() for grad in grads)

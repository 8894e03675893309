"""`RewardScorer`: the same rewards however rows are nested, ordered, batched and laid out; GRPO accepts it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from rm_toolkit.errors import InputError
from rm_toolkit.scoring.scorer import RewardScorer, as_format


@pytest.fixture(scope="module")
def ranked(rows):
    """20 prompts with 2 to 5 completions each."""
    made = rows.ranked(20, seed=3)
    return [row["prompt"] for row in made], [row["completions"] for row in made]


@pytest.fixture(scope="module")
def scorer(reward_model):
    return RewardScorer(reward_model(), device="cpu")


def one_by_one(folder, prompts, completions):
    """Rewards from the stock class, one text at a time: no batch, no padding, nothing shared."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [
            [model(**tokenizer(prompt + text, truncation=True, return_tensors="pt")).logits.item() for text in texts]
            for prompt, texts in zip(prompts, completions)
        ]


def close(found, expected, tolerance=1e-5):
    assert [len(row) for row in found] == [len(row) for row in expected]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=tolerance)


def test_shared_prompts_give_the_rewards_of_texts_read_one_by_one(scorer, reward_model, ranked):
    prompts, completions = ranked
    expected = one_by_one(reward_model(), prompts, completions)
    assert np.ptp(np.concatenate(expected)) > 0.1
    found = scorer.score(prompts, completions)
    assert scorer._shares, "the shared layout is not in use"
    close(found, expected)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 100_000])
def test_the_batch_size_changes_nothing(reward_model, ranked, scorer, tokens_per_batch):
    small = RewardScorer(reward_model(), device="cpu", tokens_per_batch=tokens_per_batch)
    close(small.score(*ranked), scorer.score(*ranked))


def test_the_order_of_the_rows_changes_nothing(scorer, ranked):
    prompts, completions = ranked
    order = random.Random(0).sample(range(len(prompts)), len(prompts))
    found = scorer.score([prompts[k] for k in order], [completions[k] for k in order])
    expected = scorer.score(prompts, completions)
    close(found, [expected[k] for k in order])


def test_nested_flat_and_mixed_rows_have_the_form_of_their_completions(scorer, ranked):
    prompts, completions = ranked
    nested = scorer.score(prompts[:3], completions[:3])
    flat = scorer.score(
        [p for p, c in zip(prompts[:3], completions) for _ in c], [c for texts in completions[:3] for c in texts]
    )
    np.testing.assert_allclose(np.concatenate(nested), flat, atol=1e-6)
    single, empty, several = scorer.score(prompts[:3], [completions[0][0], [], completions[2]])
    assert isinstance(single, float) and empty == [] and len(several) == len(completions[2])
    # Its batch contains other texts, so sums may round differently: equal to the promised 1e-5.
    assert single == pytest.approx(nested[0][0], abs=1e-5)
    assert scorer.score([], []) == []


def test_best_of_n_takes_the_highest_and_the_first_of_equals(scorer, ranked):
    prompt, completions = ranked[0][0], ["river.", "stone lantern.", "river."]
    best, rewards = scorer.best_of_n(prompt, completions)
    assert rewards[best] == max(rewards) and rewards[0] == rewards[2]
    worst = completions[int(np.argmin(rewards))]
    assert scorer.best_of_n(prompt, [worst, worst])[0] == 0
    with pytest.raises(InputError, match="`completions` is empty"):
        scorer.best_of_n(prompt, [])


def test_half_precision_stays_near(reward_model, scorer, ranked):
    half = RewardScorer(reward_model(), device="cpu", dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    found, expected = half.score(*ranked), scorer.score(*ranked)
    spread = np.ptp(np.concatenate(expected))
    close(found, expected, tolerance=0.1 * spread)


def test_progress_ends_at_one(scorer, ranked):
    seen = []
    scorer.score(*ranked, on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_texts_that_share_nothing_are_scored_alike(scorer, reward_model, rows):
    pairs = rows.pairs(24, seed=9)
    texts = [
        random.Random(k).choice(["river", "stone", "lantern"]) * (k + 1) + row["chosen"] for k, row in enumerate(pairs)
    ]
    expected = one_by_one(reward_model(), texts, [[""]] * len(texts))
    np.testing.assert_allclose(scorer.score(texts, [""] * len(texts)), np.concatenate(expected), atol=1e-5)


def test_a_chat_model_reads_strings_as_turns(reward_model, rows):
    chat = RewardScorer(reward_model("qwen3", data_format="chat"), device="cpu")
    row = rows.pairs(1)[0]
    question = "Name a river."
    asked = [{"role": "user", "content": question}]
    answered = [{"role": "assistant", "content": row["chosen"]}]
    forms = [
        chat.score([asked], [answered])[0],
        chat.score([question], [row["chosen"]])[0],
        chat.score([asked], [row["chosen"]])[0],
        chat.score([question], [[answered]])[0][0],
    ]
    assert forms == pytest.approx([forms[0]] * 4, abs=1e-6)
    # The two turns of a marked dialogue, as `build-data --format chat` reads them.
    assert as_format("## Human:\nriver?\n\n## Assistant:\n", "stone.", "chat")[:2] == (
        [{"role": "user", "content": "river?"}],
        [{"role": "assistant", "content": "stone."}],
    )


def test_what_cannot_be_scored_is_named(scorer):
    with pytest.raises(InputError, match="got 2 prompts, 1 completions, 2 domains"):
        scorer.score(["a", "b"], ["c"])
    with pytest.raises(InputError, match=r"reads strings \(`data_format` 'text'\), but a row has a list of messages"):
        scorer.score([[{"role": "user", "content": "a"}]], ["b"])
    with pytest.raises(InputError, match="`domains` are given, but no adapters"):
        scorer.score(["a"], ["b"], domains=["law"])


@pytest.mark.gpu
def test_a_gpu_gives_the_rewards_of_the_cpu(reward_model, scorer, ranked):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    close(RewardScorer(reward_model(), device="cuda").score(*ranked), scorer.score(*ranked), tolerance=1e-3)

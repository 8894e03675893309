"""The pairs of a step: exactly N, each once per epoch, with the same number of micro-batches on every process."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan, StepDataset
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.training.step_loss import micro_batch_loss


@pytest.fixture(scope="module")
def tokenized(base_model):
    def make(rows):
        tokenizer = load_tokenizer(base_model())
        prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(base_model()), max_length=64)
        return tokenize_preferences(
            Dataset.from_list(rows), tokenizer, max_length=64, show_progress=False, tied_rows=True
        )

    return make


def epoch(data, num_processes=1, epoch=0, pairs_per_step=8, pairs_per_micro_batch=2, lm_loss_on=None, **options):
    """The micro-batches of an epoch: `[step][process][micro-batch]`."""
    steps = []
    dataset = StepDataset(data, PreferenceCollator(pad_token_id=3, lm_loss_on=lm_loss_on))
    for process in range(num_processes):
        plan = EpochPlan(
            data,
            pairs_per_step=pairs_per_step,
            pairs_per_micro_batch=pairs_per_micro_batch,
            num_processes=num_processes,
            process_index=process,
            **options,
        )
        plan.set_epoch(epoch)
        mine = [dataset[step] for (step,) in plan]
        assert len(mine) == len(plan)
        steps.append(mine)
    return [list(step) for step in zip(*steps)]


def pairs_of(batches):
    """Each pair of a process's micro-batches by its two texts; rows are told apart by their prompts."""
    found, texts = [], []
    for batch in batches:
        texts = texts if batch.part else []  # a prompt with many responses continues in the next micro-batch
        texts += [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(batch.input_ids, batch.attention_mask)]
        found += [(texts[i], texts[j]) for i, j in zip(batch.better.tolist(), batch.worse.tolist())]
    return found


def pairs_of_step(step):
    return [pair for process in step for pair in pairs_of(process)]


@pytest.mark.parametrize("group_by_prompt", [True, False])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["pairs", "ranked"])
def test_every_pair_stands_once_in_an_epoch_in_full_steps(tokenized, rows, kind, num_processes, group_by_prompt):
    data = tokenized(rows.ranked(9) if kind == "ranked" else rows.pairs(27))
    steps = epoch(data, num_processes, group_by_prompt=group_by_prompt)
    counts = [len(pairs_of_step(step)) for step in steps]
    assert counts[:-1] == [8] * (len(steps) - 1) and 1 <= counts[-1] <= 8
    assert len(steps) == math.ceil(len(data) / 8)
    found = Counter(pair for step in steps for pair in pairs_of_step(step))
    assert set(found.values()) == {1} and len(found) == len(data)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_every_process_has_the_same_number_of_micro_batches(tokenized, rows, num_processes):
    steps = epoch(tokenized(rows.pairs(27)), num_processes, pairs_per_step=12)
    for step in steps:
        assert len({len(process) for process in step}) == 1
        assert max(len(batch.better) for process in step for batch in process) <= 2
    assert [len(pairs_of_step(step)) for step in steps] == [12, 12, 3]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_same_steps_whatever_the_process_count_and_micro_batch(tokenized, rows, num_processes):
    data = tokenized(rows.ranked(9))
    expected = [Counter(pairs_of_step(step)) for step in epoch(data, 1, pairs_per_micro_batch=8)]
    for size in (1, 4):
        found = epoch(data, num_processes, pairs_per_micro_batch=size)
        assert [Counter(pairs_of_step(step)) for step in found] == expected


def order(data, **options):
    return [frozenset(pairs_of_step(step)) for step in epoch(data, **options)]


@pytest.mark.parametrize("group_by_prompt", [True, False])
def test_the_order_follows_the_seed_and_the_epoch(tokenized, rows, group_by_prompt):
    data = tokenized(rows.pairs(40))
    options = {"group_by_prompt": group_by_prompt}
    assert order(data, seed=1, **options) == order(data, seed=1, **options)
    assert order(data, seed=1, **options) != order(data, seed=2, **options)
    assert order(data, seed=1, **options) != order(data, seed=1, epoch=1, **options)
    unshuffled = order(data, shuffle=False, **options)
    assert unshuffled == order(data, shuffle=False, epoch=1, **options) != order(data, seed=1, **options)


def several_pairs_a_prompt():
    return [
        {"prompt": f"prompt {number} ", "chosen": f"good {k}", "rejected": f"bad {k}"}
        for k in range(4)
        for number in range(10)
    ]


def steps_of_prompts(data, **options):
    """Number of steps over which the pairs of each prompt are spread."""
    plan = epoch(data, **options)
    found: dict[int, set[int]] = {}
    for number, step in enumerate(plan):
        for process in step:
            for batch in process:
                for row in batch.rows:
                    found.setdefault(row % 10, set()).add(number)
    return [len(steps) for steps in found.values()]


def test_pairs_of_a_prompt_stay_together_or_are_shuffled_one_by_one(tokenized):
    data = tokenized(several_pairs_a_prompt())
    assert steps_of_prompts(data) == [1] * 10  # eight pairs per step are two prompts
    assert max(steps_of_prompts(data, group_by_prompt=False)) > 2


def test_a_prompt_is_split_over_two_steps_rather_than_lengthening_one(tokenized):
    data = tokenized(several_pairs_a_prompt())
    plan = epoch(data, pairs_per_step=6, pairs_per_micro_batch=3)
    assert [len(pairs_of_step(step)) for step in plan] == [6] * 6 + [4]


@pytest.mark.parametrize("num_processes", [1, 3])
@pytest.mark.parametrize("pair_weighting", ["pair", "prompt"])
def test_the_weights_of_a_step_sum_to_one(tokenized, rows, pair_weighting, num_processes):
    for step in epoch(tokenized(rows.ranked(9)), num_processes, pair_weighting=pair_weighting):
        total = sum(batch.pair_weight.sum().item() for process in step for batch in process)
        assert total == pytest.approx(1.0, abs=1e-5)


def ranked_row(number, *scores):
    texts = [f" the {'quick ' * k}answer {number}" for k in range(len(scores))]
    return {"prompt": f"Question {number}?", "completions": texts, "scores": list(map(float, scores))}


def test_rows_whose_scores_are_all_tied_count_in_the_mean_over_rows_as_in_the_original(tokenized):
    """The original's own numbers: 0.5247 over all eight rows, 0.8395 over the five that have pairs."""
    tied = [ranked_row(k, 1, 1, 1) for k in range(3)]
    with_pairs = [ranked_row(10 + k, 1, 0) for k in range(5)]
    data = tokenized([tied[0], *with_pairs[:3], *tied[1:], *with_pairs[3:]])
    worse_by = math.log(math.exp(0.8395) - 1)
    losses = {}
    for weighting in ("pair", "prompt"):
        (step,) = epoch(data, pair_weighting=weighting)
        loss = 0.0
        for batch in step[0]:
            rewards = torch.zeros(len(batch.reward_index))
            rewards[batch.worse] = worse_by
            loss += micro_batch_loss(batch, rewards, torch.zeros(0))[0].item()
        losses[weighting] = round(loss, 4)
    assert losses == {"pair": 0.8395, "prompt": 0.5247}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_tied_rows_join_the_step_of_the_pair_before_them_and_take_no_place(tokenized, num_processes, shuffle):
    # Row 0 has no pair before it and joins the first one. No text of row 5 counts, because its best score is too low.
    rows = [ranked_row(0, 2, 2), ranked_row(1, 1, 0), ranked_row(2, 1, 1, 1), ranked_row(3, 1, 0), ranked_row(4, 1, 0)]
    rows += [ranked_row(5, 1e-9, 1e-9), ranked_row(6, -1, -1), ranked_row(6, -1, -1)]
    data = tokenized(rows)
    assert len(data) == 3 and data.tied_rows.tolist() == [0, 0, 2, 2, 2]
    options = {"pairs_per_step": 1, "pairs_per_micro_batch": 1, "pair_weighting": "prompt", "shuffle": shuffle}
    steps = epoch(data, num_processes, lm_loss_on="text", **options)
    assert len(steps) == 3
    found = {}
    for step in steps:
        assert len({len(process) for process in step}) == 1
        batches = [batch for process in step for batch in process]
        (row,) = [row for batch in batches for row in batch.rows]
        texts = sum(batch.num_lm_texts for batch in batches if batch.lm_weight)
        assert {batch.lm_weight for batch in batches if batch.lm_weight} == {1 / texts}
        assert max(len(batch.reward_index) for batch in batches) <= 2, "a limit of one pair holds for them too"
        found[row] = (texts, sum(batch.pair_weight.sum().item() for batch in batches))
    assert {row: texts for row, (texts, _) in found.items()} == {1: 1 + 2 + 3, 3: 1, 4: 1 + 0 + 2}
    assert {row: 1 / weight for row, (_, weight) in found.items()} == pytest.approx({1: 3, 3: 1, 4: 4})
    # Without an LM loss, nothing is computed for them; and if all pairs weigh the same, nothing changes.
    for more in ({"lm_loss": False}, {"lm_loss": False, "pair_weighting": "pair"}):
        batches = [batch for step in epoch(data, **{**options, **more}) for batch in step[0]]
        assert [len(batch.reward_index) for batch in batches] == [2, 2, 2]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_every_text_of_the_lm_loss_counts_once_a_step(tokenized, rows, num_processes):
    data = tokenized(rows.ranked(9))
    for step in epoch(data, num_processes, pairs_per_micro_batch=1, lm_loss_on="text"):
        batches = [batch for process in step for batch in process]
        better = {pair[0] for pair in pairs_of_step(step)}
        qualified = {tuple(data.sequence(k).tolist()) for k in data.better[data.lm_better]}
        counted = [batch for batch in batches if batch.lm_weight > 0]
        assert sum(batch.num_lm_texts for batch in counted) == len(better & qualified)
        for batch in counted:
            assert batch.lm_weight == pytest.approx(1 / len(better & qualified))
        # A process without texts of its own still takes part in the backward pass of the head.
        assert all(batch.lm_index is not None and len(batch.lm_index) for batch in batches)


def test_pairs_of_like_length_are_computed_together(tokenized):
    short, long = "river", "river stone lantern window garden letter morning copper market"
    rows = [
        {"prompt": f"{k} ", "chosen": long if k % 2 else short, "rejected": (long if k % 2 else short) + " no"}
        for k in range(16)
    ]
    data = tokenized(rows)
    for step in epoch(data, pairs_per_step=16, pairs_per_micro_batch=4):
        widths = sorted(batch.input_ids.shape[1] for batch in step[0])
        assert widths[0] < widths[-1]
        padding = sum((batch.attention_mask == 0).sum().item() for batch in step[0])
        assert padding < 0.25 * sum(batch.input_ids.numel() for batch in step[0])

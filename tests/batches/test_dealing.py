"""Dealing a step to processes: the same pairs, as few micro-batches as before, and balanced tokens at any time."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pairs import SIZES, preferences
from plan_of_0_3 import Filling, by_length

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.dealing import deal
from rm_toolkit.batches.epoch_plan import EpochPlan
from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.pieces import Pieces


def single_pairs(tokens, limit, by_tokens=False, padded=False):
    """Prompts with one pair each, whose two texts have `tokens` tokens together."""
    longest = [number // 2 for number in tokens]
    ones = [1] * len(tokens)
    sizes = tokens if by_tokens else ones
    return Pieces(ones, [2] * len(tokens), longest, tokens, sizes, limit, by_tokens, padded)


def dealt(pieces, num_processes, first_fit=None):
    """Tokens of the pieces of each process, by micro-batch, in descending order."""
    first_fit = first_fit or (lambda: pytest.fail("even micro-batches were not found"))
    slots = deal(pieces, num_processes, first_fit)
    tokens = [[sorted((pieces.tokens[k] for k in batch), reverse=True) for batch in slot] for slot in slots]
    return [sorted(slot, reverse=True) for slot in tokens]


def test_the_largest_go_first_each_to_the_process_that_has_least():
    assert dealt(single_pairs([3, 9, 4, 5, 3], limit=8), 2) == [[[9, 3], [5, 4, 3]]]


def test_where_all_places_are_needed_the_longest_stands_with_the_shortest():
    assert dealt(single_pairs([10, 9, 2, 1], limit=2), 2) == [[[10, 1], [9, 2]]]


def test_what_is_computed_beside_a_long_prompt_is_as_much_as_it():
    """With micro-batches of 35, all would wait for 60 anyway; so 60 and 10, and no process computes more than 70."""
    slots = dealt(single_pairs([60, *[10] * 8], limit=60, by_tokens=True), 2)
    assert slots == [[[60], [10] * 6], [[10], [10]]]


def test_padded_texts_of_like_length_stand_together():
    slots = dealt(single_pairs([100, 20, 98, 22, 96, 24, 26, 94], limit=2, padded=True), 2)
    assert slots == [[[100, 98], [96, 94]], [[26, 24], [22, 20]]]


def test_padded_texts_are_cut_into_equally_many_tokens():
    """Eight texts of 10 tokens cost as much as two of 40; a long one is alone in its micro-batch."""
    slots = dealt(single_pairs([80, 20, 20, 20, 20], limit=100, by_tokens=True, padded=True), 2)
    assert slots == [[[80], [20] * 4]]
    assert dealt(single_pairs([300, 20, 20], limit=100, by_tokens=True, padded=True), 2) == [[[300], [20, 20]]]


def test_first_fit_is_taken_where_nothing_even_is_found_and_no_place_stays_empty():
    """Three pieces of 3 pairs and one of 1 pair, at most 4 per micro-batch: only 3 + 1 fit together."""
    pieces = Pieces(
        [3, 3, 3, 1], [4, 4, 4, 2], [5] * 4, [20, 20, 20, 90], [3, 3, 3, 1], 4, by_tokens=False, padded=False
    )
    assert dealt(pieces, 3, lambda: [[0, 3], [1], [2]]) == [[[90, 20], [20], [20]]]


def step(data, pairs, num_processes, version=2, **options):
    """Pairs of each micro-batch `[slot][process]`, and their LM texts, of all processes."""
    slots, texts = [], []
    for process in range(num_processes):
        plan = EpochPlan(
            data,
            pairs_per_step=len(pairs),
            num_processes=num_processes,
            process_index=process,
            version=version,
            **options,
        )
        plan.filler.once = False  # prompts with more pairs than a micro-batch holds are tested in test_many_responses
        found = plan.plan_step(pairs)
        slots.append([chunk.tolist() for chunk in found.micro_batches])
        texts.append([sequences.tolist() for sequences in found.lm_sequences])
    assert len({len(mine) for mine in slots}) == 1
    return list(zip(*slots)), list(zip(*texts))


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(SIZES),
    shared=st.booleans(),
    num_processes=st.integers(2, 6),
    num_pairs=st.integers(1, 30),
)
@settings(max_examples=15, deadline=None)
def test_several_processes_make_the_step_of_one(seed, size, shared, num_processes, num_pairs):
    data = preferences(seed, num_prompts=9)
    pairs = np.random.default_rng(seed).permutation(len(data))[:num_pairs]
    limits = {"pairs_per_micro_batch": size.get("pairs", 5), "tokens_per_micro_batch": size.get("tokens")}
    options = {**limits, "shared_layout": shared}
    slots, texts = step(data, pairs, num_processes, **options)
    alone, texts_alone = step(data, pairs, 1, **options)
    batches = [batch for slot in slots for batch in slot]
    assert sorted(chain(*batches)) == sorted(pairs.tolist())
    assert sorted(chain(*chain(*texts))) == sorted(chain(*chain(*texts_alone)))
    assert len(slots) <= -(-len(alone) // num_processes), "no more micro-batches than dealing first fit in turn needs"
    filling = Filling(data, limits["pairs_per_micro_batch"], limits["tokens_per_micro_batch"], shared)
    pieces = [piece for group in by_length(data, pairs) for piece in filling.split(group)]
    if len(pieces) >= len(batches):
        assert all(batches), "no place is empty"
    for batch in filter(None, batches):
        inside = [piece for piece in pieces if set(piece.tolist()) & set(batch)]
        assert sorted(np.concatenate(inside).tolist()) == sorted(batch), "pieces are whole"
        assert filling.cost(inside) <= filling.limit or len(inside) == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_checkpoint_of_version_0_4_deals_first_fit_in_turn(size):
    data = preferences(5, num_prompts=12)
    pairs = np.random.default_rng(0).permutation(len(data))[:25]
    options = {"pairs_per_micro_batch": size.get("pairs", 5), "tokens_per_micro_batch": size.get("tokens")}
    slots, _ = step(data, pairs, 3, version=1, **options)
    chunks = [chunk.tolist() for chunk in Filling(data, *options.values(), shared=False).fill(by_length(data, pairs))]
    assert [batch for slot in slots for batch in slot] == chunks + [[]] * (-len(chunks) % 3)


def waits(slots, data, shared):
    """Tokens of the busiest process relative to the mean: in the step, and in each micro-batch, summed."""
    collator = PreferenceCollator(0, layout="shared" if shared else "plain")

    def tokens(batch):
        sequences = np.unique(np.concatenate([data.better[batch], data.worse[batch]]))
        return collator.sequences(data, sequences).input_ids.numel()

    computed = np.array([[tokens(batch) for batch in slot] for slot in slots])
    mean = computed.sum() / computed.shape[1]
    return computed.sum(axis=0).max() / mean, computed.max(axis=1).sum() / mean


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tokens", [None, 500])
def test_pieces_cost_the_tokens_that_are_computed(tokens, shared):
    data = preferences(2, num_prompts=20, most_responses=2)
    filler = Filler(data, 1, tokens, shared)
    pieces = filler.pieces(np.arange(len(data)), np.arange(len(data) + 1))
    collator = PreferenceCollator(0, layout="shared" if shared else "plain")
    computed = [collator.sequences(data, np.array([data.better[k], data.worse[k]])) for k in range(len(data))]
    assert [pieces.cost([k]) for k in range(len(data))] == [batch.input_ids.numel() for batch in computed]


@pytest.mark.parametrize("limit", [{"pairs_per_micro_batch": 8}, {"tokens_per_micro_batch": 2000}])
def test_the_busiest_process_has_hardly_more_tokens_than_the_mean(limit):
    data = preferences(1, num_prompts=400, most_responses=4, prompt_length=120)
    pairs = np.arange(512)
    options = {"pairs_per_micro_batch": 8, "shared_layout": True, **limit}
    before, now = (waits(step(data, pairs, 8, version, **options)[0], data, shared=True) for version in (1, 2))
    assert max(now) < 1.03 < 1.1 < min(before)

"""Sequences in one flat row: common prefixes once, continuing positions, and which token sees which."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rm_toolkit.batches import prefixes
from rm_toolkit.batches.prefixes import SHARING_OVERHEAD, clusters, common_prefix, flat_row


PROMPT = list(range(10, 40))  # 30 tokens: worth sharing


def arrays(*sequences):
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def test_a_shared_prompt_stands_once_and_positions_go_on_after_it():
    row = flat_row(arrays([*PROMPT, 1, 2], [*PROMPT, 3, 4, 5]))
    assert row.input_ids.tolist() == [*PROMPT, 1, 2, 3, 4, 5]
    assert row.position_ids.tolist() == [*range(30), 30, 31, 30, 31, 32]
    assert row.layout.segments.tolist() == [[0, 30, 0, 0], [30, 32, 0, 30], [32, 35, 0, 30]]
    assert row.layout.continued().tolist() == [[30, 35, 0, 30]]
    assert (row.layout.num_tokens, row.layout.longest) == (35, 33)


def test_every_token_of_every_sequence_is_found_in_the_row():
    sequences = arrays([*PROMPT, 1], [5, 6], [*PROMPT, 2, 3], PROMPT, [7])
    row = flat_row(sequences)
    for number, sequence in enumerate(sequences):
        positions = np.arange(len(sequence))
        where = row.index(number, positions)
        assert row.input_ids[where].tolist() == sequence.tolist()
        assert row.position_ids[where].tolist() == positions.tolist()


def test_a_text_that_is_the_beginning_of_another_adds_no_token():
    row = flat_row(arrays(PROMPT, [*PROMPT, 1]))
    assert row.input_ids.tolist() == [*PROMPT, 1]
    assert row.index(0, np.array([29])).tolist() == [29]
    assert row.index(1, np.array([30])).tolist() == [30]


def test_two_equal_sequences_stand_once():
    row = flat_row(arrays(PROMPT, PROMPT))
    assert row.input_ids.tolist() == PROMPT
    assert row.index(1, np.array([29])).tolist() == [29]


def test_a_beginning_too_short_to_pay_is_not_shared():
    short = list(range(10, 10 + SHARING_OVERHEAD))
    row = flat_row(arrays([*short, 1], [*short, 2]))
    assert len(row.input_ids) == 2 * (SHARING_OVERHEAD + 1)
    assert row.layout.continued().tolist() == []


def test_clusters_save_the_most_tokens():
    # Two prompts of 30 tokens that share their first 5 (a template): two clusters, not one.
    assert clusters(np.array([30, 30, 5, 30])) == [(0, 3, 30), (3, 5, 30)]
    # A text that is cut on the left shares nothing; the others still do.
    assert clusters(np.array([1, 30, 30])) == [(0, 1, 0), (1, 4, 30)]
    # A system prompt that all share, and questions of a few tokens: one cluster.
    assert clusters(np.array([50, 52, 50, 52])) == [(0, 5, 50)]
    assert clusters(np.zeros(0, dtype=np.int64)) == [(0, 1, 0)]


def test_thousands_of_sequences_are_no_deep_recursion():
    found = clusters(np.tile([40, 40, 2], 3000)[:-1])
    assert len(found) == 3000
    assert all(shared == 40 for _, _, shared in found)


def recursive_clusters(common):
    """The definition, recursively: a group stays whole if it saves more tokens than its parts do by themselves."""

    def best(first, last):
        if last - first == 1:
            return 0, [(first, last, 0)]
        inside = common[first : last - 1]
        shared = min(inside)
        edges = [first, *(first + 1 + n for n, value in enumerate(inside) if value == shared), last]
        parts = [best(begin, end) for begin, end in itertools.pairwise(edges)]
        apart = sum(saved for saved, _ in parts)
        together = (last - first - 1) * shared - SHARING_OVERHEAD
        if together > apart:
            return together, [(first, last, shared)]
        return apart, [cluster for _, found in parts for cluster in found]

    return best(0, len(common) + 1)[1]


@given(st.lists(st.one_of(st.integers(0, 60), st.sampled_from([0, 8, 16, 17, 40])), max_size=60))
def test_clusters_are_those_of_the_recursive_definition(common):
    assert clusters(np.array(common, dtype=np.int64)) == recursive_clusters(common)


def test_nests_as_deep_as_there_are_sequences():
    # 40,000 growing prefixes of one text, each a prefix of the next: half of them save the most.
    common = np.arange(1, 40_000)
    assert clusters(common)[-1] == (19_999, 40_000, 20_000)
    assert len(clusters(common)) == 20_000
    assert clusters(common[::-1].copy())[0] == (0, 20_001, 20_000)


@pytest.mark.parametrize(
    ("a", "b", "expected"), [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([1], [2], 0), ([], [1], 0)]
)
def test_common_prefix(a, b, expected):
    assert common_prefix(np.array(a), np.array(b)) == expected


@pytest.mark.parametrize("at_once", [3, 1 << 14])
def test_common_beginnings_of_many_pairs(at_once, monkeypatch):
    monkeypatch.setattr(prefixes, "PAIRS_AT_ONCE", at_once)
    # 63 to 129 tokens in common, some of them whole sequences; they are compared in blocks of 64
    ids = [np.arange(length) % 7 for length in (1, 63, 64, 65, 128, 129)]
    ids += [np.append(piece, 9) for piece in ids] + [np.array([5])]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in ids])])
    one, other = (side.ravel().astype(np.int32) for side in np.meshgrid(np.arange(len(ids)), np.arange(len(ids))))
    found = prefixes.common_beginnings(np.concatenate(ids), offsets, one, other)
    assert found.tolist() == [common_prefix(ids[i], ids[j]) for i, j in zip(one, other)]


def test_the_mask_shows_each_response_its_prompt_and_itself_alone():
    row = flat_row(arrays([*PROMPT, 1, 2], [*PROMPT, 3, 4], [99, 98]))
    mask = row.layout.dense_mask()
    first, second = row.index(0, np.arange(32)), row.index(1, np.arange(32))
    for own in (first, second, row.index(2, np.arange(2))):
        inside = torch.from_numpy(own)
        assert mask[inside][:, inside].equal(torch.ones(len(own), len(own)).tril().bool())
        others = np.setdiff1d(np.arange(row.layout.num_tokens), own)
        assert not mask[inside][:, torch.from_numpy(others)].any()
    assert row.layout.attention_pairs() == int(mask.sum())

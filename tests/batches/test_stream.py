"""Steps from a stream: exact denominators over processes, every row once per pass, positions that can be restored."""

import functools
import itertools
import threading
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import StepDataset
from rm_toolkit.batches.preference_rows import PreferenceRow
from rm_toolkit.batches.stream import PreferenceStream
from rm_toolkit.batches.stream_plan import StreamPlan, allot, gather_pairs
from rm_toolkit.batches.tokenization import tokenize_rows
from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenize(base_model):
    tokenizer = load_tokenizer(base_model())
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    return lambda rows: tokenize_rows(rows, tokenizer, max_length=48, lm_score_threshold=0.3)


@functools.cache
def number_tokenizer():
    """Each word is a token, and a number is its own id, so that the last token of a text identifies it."""
    backend = Tokenizer(models.WordLevel({**{str(k): k for k in range(100)}, "[UNK]": 100}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]", eos_token="[UNK]")


def tokenize_numbers(rows):
    return tokenize_rows(rows, number_tokenizer(), max_length=8)


def numbered_pairs(number, prompts=None):
    """Pair k prefers the text 'a 2k' to 'b 2k + 1'."""
    return [
        {"prompt": f"p{k if prompts is None else k // prompts} ", "chosen": f"a {2 * k}", "rejected": f"b {2 * k + 1}"}
        for k in range(number)
    ]


def stream_of(rows, num_shards=1, tokenize=tokenize_numbers, **options):
    return PreferenceStream(Dataset.from_list(rows).to_iterable_dataset(num_shards=num_shards), tokenize, **options)


def plans(
    rows, num_processes, num_shards, steps, *, tokenize=tokenize_numbers, buffer_size=4, tied_rows=False, **options
):
    """The steps of every process. Each process is a thread, and they exchange through a barrier."""
    barrier = threading.Barrier(num_processes, timeout=60)
    board = [None] * num_processes
    found = [None] * num_processes

    def run(index):
        def exchange(value):
            barrier.wait()
            board[index] = value
            barrier.wait()
            return list(board)

        share = {"num_processes": num_processes, "process_index": index, "buffer_size": buffer_size}
        stream = stream_of(rows, num_shards, tokenize, tied_rows=tied_rows, **share)
        plan = StreamPlan(stream, PreferenceCollator(0, lm_loss_on="text"), exchange=exchange, **options)
        try:
            found[index] = [plan.next_step() for _ in range(steps)]
        except InputError as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def used(step):
    data, plan = step
    return [int(data.sequence(data.better[k])[-1]) // 2 for batch in plan.micro_batches for k in batch]


@pytest.mark.parametrize(("num_processes", "num_shards"), [(1, 1), (2, 1), (2, 4), (3, 4)])
def test_each_row_is_used_once_a_pass_and_each_step_has_exactly_its_pairs(num_processes, num_shards):
    rows = numbered_pairs(23)
    found = plans(rows, num_processes, num_shards, 8, pairs_per_step=6, pairs_per_micro_batch=2)
    steps = [[k for process in found for k in used(process[number])] for number in range(8)]
    assert [len(step) for step in steps] == [6] * 8
    order = [k for step in steps for k in step]
    counts = np.bincount(order, minlength=23)
    assert counts.min() == 2 and counts.max() <= 3 and counts.sum() == 48


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_first_pass_ends_before_any_row_comes_again(num_processes):
    found = plans(numbered_pairs(24), num_processes, 2, 8, pairs_per_step=6, pairs_per_micro_batch=2)
    order = [k for number in range(8) for process in found for k in used(process[number])]
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    assert order[:24] != order[24:] != list(range(24))


def test_processes_agree_on_what_the_sums_are_divided_by(rows, tokenize):
    data = rows.ranked(9)
    options = {"pairs_per_step": 7, "pairs_per_micro_batch": 2, "buffer_size": 3, "tokenize": tokenize}
    for weighting in ("pair", "prompt"):
        found = plans(data, 2, 2, 6, pair_weighting=weighting, **options)
        for number in range(6):
            step = [process[number] for process in found]
            batches = [list(StepDataset(data, PreferenceCollator(0, lm_loss_on="text"))[plan]) for data, plan in step]
            assert len(batches[0]) == len(batches[1])
            together = batches[0] + batches[1]
            assert sum(batch.pair_weight.sum().item() for batch in together) == pytest.approx(1, abs=1e-6)
            texts = sum(batch.num_lm_texts for batch in together if batch.lm_weight)
            assert {batch.lm_weight for batch in together} <= {0.0, 1 / texts}
            assert sum(len(batch.better) for batch in together) == 7


@pytest.mark.parametrize("num_processes", [1, 2])
def test_tied_rows_of_a_stream_count_once_a_pass_in_the_step_of_the_pair_before_them(num_processes):
    scores = [0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0]  # 1 and 0 make a pair; the last block has none
    rows = [{**pair, "score_chosen": s, "score_rejected": 0} for pair, s in zip(numbered_pairs(16), scores)]

    def tokenize(rows):
        return tokenize_rows(rows, number_tokenizer(), max_length=8, tied_rows=True)

    options = {"pairs_per_step": 2, "pairs_per_micro_batch": 1, "pair_weighting": "prompt", "tied_rows": True}
    steps = plans(rows, num_processes, num_processes, 2, tokenize=tokenize, buffer_size=2, **options)
    num_rows, texts = 0, Counter()
    for step in zip(*steps):
        assert sum(len(batch) for _, plan in step for batch in plan.micro_batches) == 2
        tied = sum(len(data.tied_rows) for data, _ in step)
        num_rows += tied
        for data, plan in step:
            assert all(weight == pytest.approx(1 / (2 + tied)) for weight in plan.pair_weight.values())
            texts.update(int(data.sequence(k)[-1]) for numbers in plan.lm_sequences for k in numbers)
            for batch in StepDataset(data, PreferenceCollator(0, lm_loss_on="text"))[plan]:
                assert len(batch.reward_index) in (0, 2)
    assert num_rows == 12
    # Both texts of a tied row count; of a pair, only the better one.
    assert texts == {2 * k + worse: 1 for k, s in enumerate(scores) for worse in ((0, 1) if s == 0 else (0,))}


def test_processes_with_few_rows_give_few_and_the_others_fill_the_step():
    assert allot([5, 5], 10) == [5, 5]
    assert allot([1, 9], 8) == [1, 7]
    assert allot([3, 3, 3], 8) == [3, 3, 2]
    assert allot([0, 2], 5) == [0, 2]
    assert allot([0, 0], 5) == [0, 0]


def test_pairs_of_one_prompt_that_are_in_the_buffer_together_stay_together():
    stream = stream_of(numbered_pairs(24, prompts=4), buffer_size=7)
    taken = []
    while stream.available(4):
        ((data, pairs, _),) = stream.take(4)
        taken.append(sorted(int(data.sequence(data.better[k])[-1]) // 8 for k in pairs))
    # A block of 7 rows is extended to the end of the prompt, so that no group is split.
    assert [len(set(group)) for group in taken] == [1] * 6
    assert sorted(group[0] for group in taken) == list(range(6)) != [group[0] for group in taken]


def test_without_grouping_rows_are_shuffled_one_by_one():
    stream = stream_of(numbered_pairs(24, prompts=4), buffer_size=24, group_by_prompt=False)
    ((_, pairs, _),) = stream.take(stream.available(24))
    assert sorted(pairs) == list(range(24))
    assert sum(a // 4 != b // 4 for a, b in itertools.pairwise(pairs)) > 10  # in groups, it would be 5


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_restored_position_gives_the_same_pairs(num_shards):
    rows = numbered_pairs(40, prompts=2)
    options = {"num_shards": num_shards, "buffer_size": 6, "seed": 5}
    whole = stream_of(rows, **options)
    later, states = [], []

    def read(stream, steps):
        found = []
        for _ in range(steps):
            while not (number := stream.available(3)):
                stream.next_pass()
            part = stream.take(number)
            found.append(
                [(int(d.sequence(d.better[k])[-1]), int(d.row[k]) + first) for d, p, first in part for k in p]
            )
        return found

    for _ in range(30):
        states.append(whole.state_dict())
        later += read(whole, 1)
    for number in range(0, 30, 4):
        again = stream_of(rows, **options)
        again.load_state_dict(states[number])
        assert read(again, 30 - number) == later[number:]


def test_another_seed_gives_another_order():
    def order(seed):
        stream = stream_of(numbered_pairs(20), num_shards=4, buffer_size=5, seed=seed)
        return [
            int(d.sequence(d.better[k])[-1])
            for _ in range(4)
            for d, p, _ in stream.take(stream.available(5))
            for k in p
        ]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2)) == list(range(0, 40, 2))


def test_a_row_that_cannot_be_used_stops_all_processes_with_its_number():
    rows = numbered_pairs(12)
    rows[7]["chosen"] = None
    found = plans(rows, 2, 2, 3, pairs_per_step=4, pairs_per_micro_batch=2)
    assert str(found[0]) == str(found[1])
    assert "a stream, share of process 0, row 2: `chosen` must be a string" in str(found[0])


def test_a_stream_of_ties_and_one_of_other_columns_are_refused():
    ties = [{"prompt": "p ", "completions": ["a 1", "b 2"], "scores": [1.0, 1.0]}] * 3
    (found,) = plans(ties, 1, 1, 1, pairs_per_step=2, pairs_per_micro_batch=2)
    assert "a whole pass over the stream gave no pair" in str(found)
    with pytest.raises(InputError, match="`chosen` and `rejected`"):
        stream_of([{"text": "x"}]).available(1)


def test_a_position_of_other_processes_or_other_data_is_refused():
    stream = stream_of(numbered_pairs(12), buffer_size=12)
    plan = StreamPlan(stream, PreferenceCollator(0), pairs_per_step=10, pairs_per_micro_batch=2)
    plan.next_step()
    state = plan.state_dict()
    with pytest.raises(InputError, match=r"2 process\(es\), but this run has 1"):
        plan.load_state_dict({**state, "num_processes": 2})
    other = StreamPlan(stream_of(numbered_pairs(6)), PreferenceCollator(0), pairs_per_step=10, pairs_per_micro_batch=2)
    with pytest.raises(InputError, match="not the one that the checkpoint was made with"):
        other.load_state_dict(state)


def test_a_shard_that_cannot_be_read_says_how_far_the_stream_came():
    def generate():
        yield from numbered_pairs(3)
        raise OSError("connection lost")

    stream = PreferenceStream(IterableDataset.from_generator(generate), tokenize_numbers)
    with pytest.raises(InputError, match=r"cannot be read after row 3 \(OSError: connection lost"):
        stream.available(10)


def test_margins_and_row_numbers_follow_their_pairs():
    rows = [PreferenceRow("p ", ["a 1", "b 2"], [1.0, 0.0], k, 0.5 * k) for k in range(3)]
    assert tokenize_numbers(rows).margin.tolist() == [0.0, 0.5, 1.0]
    stream = stream_of([{**row, "margin": float(k)} for k, row in enumerate(numbered_pairs(8))], buffer_size=3)
    plan = StreamPlan(stream, PreferenceCollator(0), pairs_per_step=8, pairs_per_micro_batch=8)
    data, _ = plan.next_step()
    assert [int(data.sequence(k)[-1]) // 2 for k in data.better] == data.row.tolist() == data.margin.tolist()
    assert sorted(data.row) == list(range(8))


def test_a_group_taken_in_two_goes_is_one_group_again(rows, tokenize):
    stream = stream_of(rows.ranked(1, sizes=(5,)), tokenize=tokenize)
    assert stream.available(9) == 9
    data = gather_pairs(stream.take(4) + stream.take(5), "train")
    assert (len(data), data.num_sequences, len(set(data.prompt))) == (9, 5, 1)

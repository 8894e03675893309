"""Training from a stream: through the trainer and through a recipe's data, resumed and refused."""

import json
import shutil
import subprocess
import sys
from itertools import chain

import pytest
import torch
from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node

from rm_toolkit.batches.stream_errors import check_shards
from rm_toolkit.data import line_ranges
from rm_toolkit.data.json_files import read_json
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.data.streams import OverlapWatch, mix_streams
from rm_toolkit.errors import InputError
from rm_toolkit.training import stages
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.recipe import RecipeArguments


def as_stream(rows, num_shards=1):
    return Dataset.from_list(rows).to_iterable_dataset(num_shards=num_shards)


@pytest.fixture
def mixed(rows):
    """Two sources of different length, mixed at random: the positions of both and of the mixture must be restored."""
    parts = [as_stream(rows.pairs(17, seed=1), 3), as_stream(rows.pairs(8, seed=2))]
    strategy = "all_exhausted_without_replacement"
    return lambda: interleave_datasets(parts, probabilities=[0.7, 0.3], seed=3, stopping_strategy=strategy)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_trainer, mixed, tmp_path):
    options = {
        "max_steps": 9,
        "pairs_per_step": 6,
        "per_device_train_batch_size": 3,
        "shuffle_buffer_size": 4,
        "lm_loss_coef": 0.1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 20,
    }
    whole = make_trainer(mixed(), **options)
    whole.train()
    curve = [(log["step"], log["epoch"], log["loss"]) for log in whole.state.log_history if "loss" in log]
    for step in (2, 5):  # in the first pass of 25 rows, and in the second
        output = tmp_path / f"again-{step}"
        shutil.copytree(tmp_path / "run" / f"checkpoint-{step}", output / f"checkpoint-{step}")
        again = make_trainer(mixed(), **{**options, "output_dir": str(output)})
        again.train(resume_from_checkpoint=str(output / f"checkpoint-{step}"))
        logs = [log for log in again.state.log_history if "loss" in log]
        assert [(log["step"], log["epoch"], log["loss"]) for log in logs] == curve
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name
    assert len(curve) == 9


def test_a_stream_trains_as_the_whole_data_does(make_trainer, rows, step_gradients, assert_same_gradients):
    data = rows.ranked(6)
    options = {"pairs_per_step": 28, "per_device_train_batch_size": 7, "max_steps": 2, "lm_loss_coef": 0.3}
    for more in ({}, {"batch_layout": "shared", "max_tokens_per_batch": 128}, {"pair_weighting": "prompt"}):
        expected = step_gradients(make_trainer(data, **options, **more))
        found = step_gradients(make_trainer(as_stream(data, 2), **options, **more))
        assert found[0] == pytest.approx(expected[0], abs=1e-6)
        assert_same_gradients(found[1], expected[1])


def test_what_a_stream_cannot_follow_is_refused(make_trainer, rows):
    with pytest.raises(InputError, match="set `max_steps`"):
        make_trainer(as_stream(rows.pairs(4)))
    with pytest.raises(InputError, match="`dataloader_num_workers` is 2"):
        make_trainer(as_stream(rows.pairs(4)), max_steps=1, dataloader_num_workers=2)
    with pytest.raises(InputError, match="test set 'mine' is a stream, but test sets are evaluated whole"):
        make_trainer(rows.pairs(4), eval_rows={"mine": as_stream(rows.pairs(4))})
    with pytest.raises(InputError, match="`shuffle_buffer_size` is 0"):
        make_trainer(as_stream(rows.pairs(4)), max_steps=1, shuffle_buffer_size=0)


def test_a_checkpoint_without_a_position_is_refused(make_trainer, rows, tmp_path):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(rows.pairs(8), **options).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(InputError, match="no readable position in the stream"):
        make_trainer(as_stream(rows.pairs(8)), **options).train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1")
        )


@pytest.fixture
def shards(tmp_path, rows):
    """A folder with three shards, JSON Lines and Parquet, of ten pairs each."""
    data = rows.pairs(30)
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in (0, 1):
        part = data[10 * number : 10 * number + 10]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    Dataset.from_list(data[20:]).to_parquet(folder / "2.parquet")
    return folder, data


def open_streams(split="train", **specs):
    return load_datasets({name: {"streaming": True, **spec} for name, spec in specs.items()}, split, seed=1)


def texts(stream):
    return sorted(row["completions"][0] for row in stream)


@pytest.fixture
def lines(tmp_path, rows, monkeypatch):
    """A file of 60 pairs that is read in parts of 700 bytes; some lines are longer, and some are blank."""
    monkeypatch.setattr(line_ranges, "RANGE_BYTES", 700)
    data = rows.pairs(60)
    data[7]["chosen"] += " long" * 300
    text = "".join(json.dumps(row) + "\n" * (1 + (number % 9 == 0)) for number, row in enumerate(data))
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.rstrip("\n").encode())
    return path, data


def test_a_large_file_of_json_lines_is_read_in_parts_each_line_once(lines):
    path, data = lines
    stream = open_streams(mine={"path": str(path), "source": "jsonl"})["mine"]
    assert stream.num_shards == -(-path.stat().st_size // 700) > 10
    assert texts(stream) == sorted(row["chosen"] for row in data)
    shares = [[row["completions"][0] for row in split_dataset_by_node(stream, rank, 2)] for rank in (0, 1)]
    assert min(map(len, shares)) > 10 and sorted(chain(*shares)) == texts(stream)


def test_a_file_whose_rows_are_joined_is_read_in_one_piece(lines, tmp_path):
    scored = [{"prompt": f"{n}? ", "response": f"{n}.{k}", "score": k} for n in range(20) for k in range(3)]
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in scored))
    stream = open_streams(mine={"path": str(path), "source": "jsonl"})["mine"]
    assert stream.num_shards == 1 and {len(row["completions"]) for row in stream} == {3}


COUNT_SHARE = """
import json, sys
from datasets.distributed import split_dataset_by_node
from rm_toolkit.data.mixture import load_datasets
path, rank = sys.argv[1], int(sys.argv[2])
stream = load_datasets({"mine": {"path": path, "source": "jsonl", "streaming": True}}, "train", seed=1)["mine"]
numbers = [int(row["completions"][0].split()[0]) for row in split_dataset_by_node(stream, rank, 2, strategy="shards")]
print(json.dumps([len(numbers), sum(numbers), len(set(numbers))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1_000_000])
def test_two_processes_stream_a_million_rows_of_one_file_each_once(tmp_path, count):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for k in range(count):
            file.write(json.dumps({"prompt": f"{k}? ", "chosen": f"{k} is it", "rejected": "no"}) + "\n")
    command = [sys.executable, "-c", COUNT_SHARE, str(path)]
    both = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    shares = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(share[0] for share in shares) == sum(share[2] for share in shares) == count
    assert sum(share[1] for share in shares) == count * (count - 1) // 2, "each row once"
    assert min(share[0] for share in shares) > 0.4 * count


@pytest.mark.parametrize("begin", range(0, 60, 7))
def test_wherever_a_part_begins_a_line_is_read_whole_and_its_number_is_known(tmp_path, begin):
    path = tmp_path / "few.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": "\xc3\xa9"}\n[3]\r\n{"a": 4')
    parts = [*line_ranges.read_range(str(path), 0, begin), *line_ranges.read_range(str(path), begin, 99)]
    whole = list(read_json(str(path)))
    assert [place.number for place, _ in parts] == [place.number for place, _ in whole] == [1, 3, 4, 5]
    assert [str(value) for _, value in parts] == [str(value) for _, value in whole]
    assert "few.jsonl, line 5, column 8: not valid JSON" in str(parts[-1][1])


def test_a_resumed_run_goes_to_its_part_of_the_file(lines):
    path, _ = lines
    stream = open_streams(mine={"path": str(path), "source": "jsonl"})["mine"]
    iterator = iter(stream)
    before = [next(iterator)["completions"][0] for _ in range(41)]
    again = open_streams(mine={"path": str(path), "source": "jsonl"})["mine"]
    again.load_state_dict(stream.state_dict())
    read = []
    original = line_ranges.parse_line
    line_ranges.parse_line = lambda place, line, first: read.append(line) or original(place, line, first=first)
    try:
        rest = texts(again)
    finally:
        line_ranges.parse_line = original
    assert sorted([*before, *rest]) == texts(stream) and len(read) < len(rest) + 10, "not what is done"


def test_a_position_of_0_4_0_in_a_file_that_is_now_read_in_parts_is_refused(lines):
    stream = open_streams(mine={"path": str(lines[0]), "source": "jsonl"})["mine"]
    mixed = mix_streams({"a": stream, "b": as_stream([dict(row) for row in stream.take(3)])}, seed=0)
    for dataset in (stream, mixed):
        with pytest.raises(
            InputError, match=r"from version 0\.4\.0 or earlier, which read a JSON Lines file in one piece"
        ):
            check_shards("train", None, dataset)
    check_shards("train", None, as_stream([{"a": 1}]))
    check_shards("train", stream.num_shards, stream)
    with pytest.raises(InputError, match=f"it has {stream.num_shards} shards, but had 3"):
        check_shards("train", 3, stream)


def test_folders_patterns_and_files_stream_their_rows_once(shards):
    folder, data = shards
    chosen = sorted(row["chosen"] for row in data)
    options = {"source": "jsonl"}
    assert texts(open_streams(mine={"path": str(folder), **options})["mine"]) == chosen
    two = open_streams(mine={"path": f"{folder}/*.jsonl", **options})["mine"]
    assert two.num_shards == 2 and texts(two) == sorted(row["chosen"] for row in data[:20])
    both = open_streams(a={"path": f"{folder}/*.jsonl", **options}, b={"path": f"{folder}/2.parquet", **options})
    assert texts(mix_streams(both, seed=0)) == chosen
    part = texts(open_streams(mine={"path": str(folder), "fraction": 0.5, **options})["mine"])
    assert 5 < len(part) < 25 and set(part) < set(chosen)
    # Every row of the pairs layout is one pair.
    pairs = open_streams(mine={"path": str(folder), "layout": "pairs", **options})["mine"]
    assert all(len(row["completions"]) == 2 for row in pairs)


def test_a_built_folder_streams_the_rows_that_it_holds(tmp_path, rows):
    tags = {"domain": lambda _: "general", "source": lambda _: "jsonl", "prompt_id": lambda k: f"{k:016x}"}
    scores = {"score_chosen": lambda _: 3.0, "score_rejected": lambda _: 1.0}
    data = rows.pairs(1500, **scores, **tags)
    Dataset.from_list(data).save_to_disk(tmp_path / "built")
    (stream,) = open_streams(mine={"path": str(tmp_path / "built")}).values()
    assert stream.num_shards == 2
    found = list(stream)
    assert [row["prompt_id"] for row in found] == [row["prompt_id"] for row in data]
    assert found[7]["scores"] == [3.0, 1.0] and found[7]["prompt"] == data[7]["prompt"]


def test_a_broken_line_is_named_with_its_file(shards):
    folder, _ = shards
    with open(folder / "1.jsonl", "a") as file:
        file.write('{"prompt": "Q", "chosen": 3, "rejected": "x"}\n')
    (stream,) = open_streams(mine={"path": str(folder), "source": "jsonl"}).values()
    with pytest.raises(InputError, match=r"1.jsonl, line 11: `chosen` must be a string"):
        list(stream)
    (stream,) = open_streams(mine={"path": str(folder), "source": "jsonl", "skip_invalid": True}).values()
    assert len(list(stream)) == 30


def test_specs_that_cannot_be_streamed_are_refused(shards, tmp_path):
    path, other = str(shards[0] / "0.jsonl"), tmp_path / "other.json"
    other.write_text('[{"good": "a", "bad": "b"}]')
    other = str(other)
    for spec, message in (
        ({"path": other}, "no known form has the columns 'good', 'bad'"),
        ({"path": path, "source": "jsonl", "test_size": 0.1}, "`test_size` needs the whole data"),
        ({"path": f"{tmp_path}/*.jsonl"}, "no file matches"),
        ({"path": str(tmp_path)}, "has no saved dataset and no 'jsonl'"),
        ({"path": str(tmp_path / "none.jsonl")}, "no such file"),
        ({"path": path, "streaming": 1}, "`streaming` is 1; it must be true or false"),
    ):
        with pytest.raises(InputError, match=message):
            open_streams(mine=spec)
    with pytest.raises(InputError, match="test sets are evaluated whole"):
        open_streams("test", mine={"path": path, "source": "jsonl"})


def test_a_test_prompt_that_passes_stops_the_run_or_is_counted(shards):
    folder, data = shards
    file = folder / "test.json"
    file.write_text(json.dumps([data[13]]))
    streams = open_streams(mine={"path": f"{folder}/*.jsonl", "source": "jsonl"})
    tests = load_datasets({"held": {"path": str(file), "source": "jsonl"}}, "test")
    watch = OverlapWatch(streams, {"held": tests["held"]})
    for row in streams["mine"]:
        watch(row)
    assert watch.counts == {"held": 1}  # two files: their authors' own split
    tests["held"].info.description = ""  # as if the split had been made here
    with pytest.raises(InputError, match="the prompt of a row of eval set 'held'"):
        for row in streams["mine"]:
            OverlapWatch(streams, tests)(row)
    OverlapWatch(streams, tests, allow_overlap=True)(row)


def test_a_recipe_streams_by_spec_or_by_flag(shards, base_model, tmp_path):
    folder, _ = shards
    spec = {"path": str(folder), "source": "jsonl"}
    training = RewardModelConfig(str(tmp_path / "run"), use_cpu=True, max_steps=2, report_to="none", max_length=48)
    for recipe in (
        RecipeArguments(train_datasets={"mine": {**spec, "streaming": True}, "too": spec}),
        RecipeArguments(train_datasets={"mine": spec}, dataset_streaming=True),
    ):
        train, evaluation, _ = stages.load_stage_data(recipe, training)
        assert evaluation == {} and all(not hasattr(stream, "__len__") for stream in train.values())
        assert stages.mix(train).features.keys() >= {"prompt", "completions", "scores", "prompt_id"}


# Rows that would take 150 MB if they were kept. Only anonymous memory counts, which a process cannot give back.
WATCH = """
import re, sys
from datasets import IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.stream import PreferenceStream
from rm_toolkit.batches.stream_plan import StreamPlan
from rm_toolkit.batches.tokenization import tokenize_rows

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="?", pad_token="?")
spec = {"path": sys.argv[1], "source": "jsonl", "streaming": True}
dataset = load_datasets({"mine": spec}, "train")["mine"]
stream = PreferenceStream(dataset, lambda rows: tokenize_rows(rows, tokenizer, max_length=64), buffer_size=200)
plan = StreamPlan(stream, PreferenceCollator(1), pairs_per_step=64, pairs_per_micro_batch=64)
peaks = []
while stream.pass_number == 0:
    plan.next_step()
    peaks.append(anonymous())
print(stream.num_rows, max(peaks) - peaks[2])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(tmp_path):
    path = tmp_path / "rows.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for n in range(3000):
            row = {"prompt": f"{n}?", "chosen": f"{n}a" + "x" * 25_000, "rejected": f"{n}b" + "y" * 25_000}
            file.write(json.dumps(row) + "\n")
    assert path.stat().st_size > 140 * 2**20
    done = subprocess.run([sys.executable, "-c", WATCH, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, growth = done.stdout.split()
    assert int(rows) >= 3000
    assert float(growth) < 50, done.stdout

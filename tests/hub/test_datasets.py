"""`rm-toolkit push-data` with the real clients against a loopback server: the same rows come back."""

import json
import re
import shutil
from itertools import chain

import pytest
from datasets import IterableDataset, load_dataset, load_from_disk
from datasets.distributed import split_dataset_by_node
from hub.conftest import MARKER_TOKEN
from huggingface_hub import DatasetCard

from rm_toolkit.cli import main
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.errors import InputError
from rm_toolkit.hub import datasets as pushed
from rm_toolkit.hub import push_dataset


# `huggingface_hub` 2.4 uploads large files in a way that its HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """`built(layout, format)`: folder that build-data wrote from 12 questions with scored answers."""
    folders = {}

    def get(layout="pairs", format="text"):
        if (layout, format) not in folders:
            folder = tmp_path_factory.mktemp("built")
            rows = [
                {
                    "user_input": f"Question {number}?",
                    "responses_and_scores": [
                        {"response": f"answer {number}.{k}", "score": score, "source": "x"}
                        for k, score in enumerate((9, 5, 5, 2))
                    ],
                }
                for number in range(12)
            ]
            (folder / "raw.json").write_text(json.dumps(rows))
            command = ["build-data", "gpt4llm", "--input", str(folder / "raw.json"), "--output", str(folder / "out")]
            more = ["--layout", layout, "--format", format, "--test-size", "3", "--cache-dir", str(folder / "cache")]
            assert main([*command, *more]) == 0
            folders[layout, format] = folder / "out"
        return folders[layout, format]

    return get


def load(repo_id, tmp_path, name="loaded", **options):
    return load_dataset(repo_id, cache_dir=str(tmp_path / name), **options)


def rows_of(dataset):
    return {split: rows.to_list() for split, rows in dataset.items()}


@pytest.mark.parametrize("layout, format", [("pairs", "text"), ("ranked", "chat")])
def test_a_dataset_comes_back_row_by_row_with_its_columns(built, layout, format, hub, tmp_path, capsys):
    folder = built(layout, format)
    assert main(["push-data", "--data", str(folder), "--repo-id", "tester/prefs", "--verify"]) == 0
    printed = capsys.readouterr()
    assert f"Pushed to {hub.address}/datasets/tester/prefs/commit/" in printed.out
    assert "rows are the same in a fresh download" in printed.out
    found, expected = load("tester/prefs", tmp_path), load_from_disk(str(folder))
    assert rows_of(found) == rows_of(expected) and list(found) == ["train", "test"]
    assert {split: rows.features for split, rows in found.items()} == {
        split: rows.features for split, rows in expected.items()
    }
    files = hub.datasets["tester/prefs"].files
    assert {"data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"} < set(files)
    published = "".join(map(str, files.values()))
    assert MARKER_TOKEN not in printed.out + printed.err + published and str(folder.parent) not in published


def test_the_card_says_what_was_done(built, hub, tmp_path):
    push_dataset(str(built()), "tester/prefs")
    text = hub.datasets["tester/prefs"].files["README.md"].decode()
    card = DatasetCard(text)
    assert card.data.license == "cc-by-nc-4.0" and "no commercial use" in text
    assert card.data.size_categories == "n<1K"
    splits = {split["name"]: split["num_examples"] for split in card.data.dataset_info["splits"]}
    # 4 answers with one tie make 6 - 1 pairs per question; 9 and 3 questions.
    assert splits == {"train": 45, "test": 15}
    assert "| train | 45 | 9 |" in text and "| test | 15 | 3 |" in text
    assert "| - ties | 9 | 3 |" in text and "| kept | 45 | 15 |" in text
    assert "`score_chosen` | float64 |" in text and "Input: raw.json (format `gpt4llm`)" in text
    assert "Settings: `layout` pairs, `format` text, `test_size` 3, `seed` 0." in text
    block = re.search(r"```python\n(.*?)```", text, re.S)[1].replace('")', f'", cache_dir={str(tmp_path / "card")!r})')
    names = {}
    exec(block, names)
    assert names["dataset"]["train"].num_rows == 45


def test_a_stated_license_goes_before_the_published_datas(built, hub):
    folder = built()
    info = json.loads((folder / "rm_toolkit_data.json").read_text())
    (folder / "rm_toolkit_data.json").write_text(json.dumps({**info, "left_out": {"train": ["row 1: private"]}}))
    push_dataset(str(folder), "tester/prefs", license="cc-by-4.0")
    assert json.loads(hub.datasets["tester/prefs"].files["rm_toolkit_data.json"]) == info  # without what was left out
    text = hub.datasets["tester/prefs"].files["README.md"].decode()
    assert DatasetCard(text).data.license == "cc-by-4.0" and "publisher states `cc-by-4.0`" in text


def test_large_splits_are_cut_and_stale_parts_of_an_earlier_push_go(built, hub, tmp_path, monkeypatch):
    folder = built()
    monkeypatch.setattr(pushed, "SHARD_BYTES", 1500)
    push_dataset(str(folder), "tester/prefs", verify=True)
    repo = hub.datasets["tester/prefs"]
    parts = [name for name in repo.files if name.startswith("data/train")]
    assert len(parts) > 1
    repo.commit("main", {**repo.files, "data/by-hand.parquet": b"not ours"}, "by hand")
    monkeypatch.setattr(pushed, "SHARD_BYTES", 500_000_000)
    push_dataset(str(folder), "tester/prefs", verify=True)
    assert [name for name in repo.files if name.startswith("data/train")] == ["data/train-00000-of-00001.parquet"]
    assert repo.files["data/by-hand.parquet"] == b"not ours"


def test_after_a_cut_the_same_command_sends_only_what_is_missing(built, hub, tmp_path):
    hub.uploads_before_cut = 1
    with pytest.raises(InputError, match="Run the same command again"):
        push_dataset(str(built()), "tester/prefs")
    assert len(hub.uploaded()) == 1
    hub.uploads_before_cut = None
    push_dataset(str(built()), "tester/prefs", verify=True)
    sent = hub.uploaded()
    assert len(sent) == 2 == len(set(sent))


def test_words_of_a_person_stay_in_the_card_and_the_files_are_still_found(built, hub, tmp_path):
    push_dataset(str(built()), "tester/prefs")
    repo = hub.datasets["tester/prefs"]
    repo.commit("main", {**repo.files, "README.md": b"---\nlicense: mit\n---\nMy own words.\n"}, "by hand")
    push_dataset(str(built()), "tester/prefs", message="again")
    text = repo.files["README.md"].decode()
    assert "My own words." in text and DatasetCard(text).data.license == "mit"
    assert load("tester/prefs", tmp_path)["train"].num_rows == 45


def test_a_row_that_differs_is_said(built, hub, tmp_path, monkeypatch):
    other = built("pairs", "text")
    changed = load_from_disk(str(other))
    changed["test"] = changed["test"].map(lambda row: {"chosen": row["chosen"].upper()}, load_from_cache_file=False)
    monkeypatch.setattr(pushed, "load_dataset", lambda *args, **options: changed)
    with pytest.raises(InputError, match="split 'test' loads differently"):
        push_dataset(str(built()), "tester/prefs", verify=True)


def test_what_build_data_did_not_write_is_refused(tmp_path, hub):
    with pytest.raises(InputError, match=r"was not written by `rm-toolkit build-data`"):
        push_dataset(str(tmp_path), "tester/prefs")


def test_a_place_of_the_machine_in_what_was_noted_is_refused(built, hub, tmp_path):
    folder = shutil.copytree(built(), tmp_path / "copy")
    info = json.loads((folder / "rm_toolkit_data.json").read_text())
    info["options"]["template"] = f"{tmp_path}/mine.txt"
    (folder / "rm_toolkit_data.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"rm_toolkit_data.json, `options.template`: .* is a path of this machine"):
        push_dataset(str(folder), "tester/my-data")
    assert not hub.datasets


def test_a_preview_sends_nothing(built, tmp_path):
    output = tmp_path / "preview"
    assert main(["push-data", "--data", str(built()), "--repo-id", "t/prefs", "--preview", str(output)]) == 0
    assert load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["test"].num_rows == 15


def test_a_stream_from_the_hub_gives_the_rows_of_the_folder_and_goes_on_where_it_was(built, hub, monkeypatch):
    folder = built("ranked", "text")
    monkeypatch.setattr(pushed, "SHARD_BYTES", 1500)
    push_dataset(str(folder), "tester/prefs")
    parts = sum(name.startswith("data/train") for name in hub.datasets["tester/prefs"].files)

    def stream(path):
        spec = {"path": path, "streaming": True}
        return load_datasets({"mine": spec}, "train", seed=1)["mine"]

    remote = stream("tester/prefs")
    assert isinstance(remote, IterableDataset) and remote.num_shards == parts > 1
    rows = list(remote)
    assert sorted(map(str, rows)) == sorted(map(str, stream(str(folder)))) and len(rows) == 9
    shares = [list(split_dataset_by_node(stream("tester/prefs"), rank, 2)) for rank in (0, 1)]
    assert sorted(map(str, chain(*shares))) == sorted(map(str, rows)) and all(shares)
    iterator = iter(remote)
    for row in rows[:4]:
        assert next(iterator) == row
    again = stream("tester/prefs")
    again.load_state_dict(remote.state_dict())
    assert list(again) == rows[4:]


def test_a_missing_split_of_a_stream_from_the_hub_is_named(built, hub):
    push_dataset(str(built()), "tester/prefs")
    with pytest.raises(
        InputError, match=r"the Hub returned no split 'dev' of that name to stream.*Check the spelling"
    ):
        load_datasets({"mine": {"path": "tester/prefs", "streaming": True, "split": "dev"}}, "train", seed=1)

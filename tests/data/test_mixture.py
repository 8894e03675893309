import pytest
from datasets import Dataset, DatasetDict

from rm_toolkit.cli import main
from rm_toolkit.data.leakage import split_origin
from rm_toolkit.data.mixture import check_overlap, load_datasets
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError


def text_score(numbers, texts=2):
    return [
        {
            "text": [f"## Human:\nQuestion {n}?\n\n## Assistant:\nAnswer {k}" for k in range(texts)],
            "score": [float(k) for k in range(texts)],
        }
        for n in numbers
    ]


@pytest.fixture
def built(write, dsp_items, tmp_path):
    """`built(layout)`: a folder that build-data wrote from 20 DSP queries, 5 of them held out."""

    def make(layout="pairs", form="text"):
        folder = tmp_path / f"built_{layout}_{form}"
        command = ["build-data", "dsp", "--input", write("dsp.json", dsp_items(20)), "--domain", "academy"]
        command += ["--test-size", "5", "--output", str(folder), "--layout", layout, "--format", form, "--overwrite"]
        assert main(command) == 0
        return str(folder)

    return make


def test_built_folders_files_and_raw_files_load_by_name(built, write, dsp_items):
    raw = write("raw.json", dsp_items(3))
    specs = {
        "dsp": built(),
        "webgpt": write("webgpt.json", text_score(range(4), texts=3)),
        "raw": {"path": raw, "source": "dsp", "domain": "normal", "layout": "pairs"},
    }
    loaded = load_datasets(specs, "test")
    assert {name: len(rows) for name, rows in loaded.items()} == {"dsp": 20, "webgpt": 4, "raw": 12}
    assert loaded["webgpt"][0]["scores"] == [0.0, 1.0, 2.0]
    assert len(load_datasets({"dsp": {"path": specs["dsp"], "split": "train"}}, "test")["dsp"]) == 60


def test_raw_file_is_split_by_prompt_on_demand(write, dsp_items):
    spec = {"path": write("raw.json", dsp_items(10)), "source": "dsp", "domain": "normal", "test_size": 0.3}
    train, test = (load_datasets({"dsp": spec}, split, seed=1)["dsp"] for split in ("train", "test"))
    assert (len(train), len(test)) == (7, 3)
    assert not set(train["prompt_id"]) & set(test["prompt_id"])
    assert check_overlap({"dsp": train}, {"dsp": test}) == {}


def test_fraction_takes_whole_prompts_seeded(built):
    folder = built()
    half = load_datasets({"dsp": f"{folder}:0.5"}, "train")["dsp"]
    assert len(half) == 32  # 8 of 15 prompts, 4 pairs each
    assert len(set(half["prompt_id"])) == 8
    assert load_datasets({"dsp": {"path": folder, "fraction": 0.5}}, "train")["dsp"].to_list() == half.to_list()
    other = load_datasets({"dsp": f"{folder}:0.5"}, "train", seed=1)["dsp"]
    assert set(other["prompt_id"]) != set(half["prompt_id"])


def test_layout_and_format_are_converted_to_what_the_run_wants(built):
    wanted = load_datasets({"dsp": built("ranked", "chat")}, "train", format="chat")["dsp"]
    got = load_datasets({"dsp": built("ranked", "text")}, "train", format="chat")["dsp"]
    assert got.to_list() == wanted.to_list()
    back = load_datasets({"dsp": built("ranked", "chat")}, "train")["dsp"]
    assert back.to_list() == load_datasets({"dsp": built("ranked", "text")}, "train")["dsp"].to_list()
    pairs = load_datasets({"dsp": built("ranked", "text")}, "train", layout="pairs")["dsp"]
    assert pairs.to_list() == load_datasets({"dsp": built("pairs", "text")}, "train")["dsp"].to_list()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "expected a path or keys like `path: …`, got the number 0.5"),
        ({"source": "dsp"}, "`path` must be a file, a built folder or a Hub id, got null"),
        ({"path": "x", "fracton": 1}, "there is no key 'fracton'.*Did you mean 'fraction'"),
        ({"path": "x", "fraction": 0}, "`fraction` is 0; it must be a number above 0 and at most 1"),
        ({"path": "x", "layout": "pair"}, "it must be one of 'pairs', 'ranked'. Did you mean 'pairs'"),
        ({"path": "x", "columns": "a=b"}, "`columns` is 'a=b'; it must be a mapping"),
        (
            {"path": "x", "columns": {"prompt": 3}},
            "`columns` must map our names to the file's, got prompt: the number 3",
        ),
        ({"path": ["x"]}, "`path` must be a file, a built folder or a Hub id, got a list of 1"),
        ({"path": "x", "fraction": "0.5"}, "`fraction` is '0.5'; it must be a number"),
        ({"path": "x", "test_size": "0.1"}, "`test_size` is '0.1'; it must be a number"),
        ({"path": "x", "test_size": None}, "`test_size` is null; it must be a number"),
        (
            {"path": "x", "test_size": -1},
            "`test_size` is -1; it must be a number from 0",
        ),
        ({"path": "x", "test_size": 2.5}, "`test_size` is 2.5; it must be a number .*, whole if above 1"),
        ({"path": "x", "min_score_ratio": float("nan")}, "`min_score_ratio` is nan; it must be a number from 1"),
        ({"path": "x", "source": 3}, "`source` is 3; it must be a string"),
        ({"path": "x", "split": ["train"]}, "`split` is \\['train'\\]; it must be a string"),
        ({"path": "x", "label": True}, "`label` is true; it must be a string"),
        ({"path": "x", "skip_invalid": "yes"}, "`skip_invalid` is 'yes'; it must be true or false"),
        ({"path": "x", "strip_citations": 1}, "`strip_citations` is 1; it must be true or false"),
        ({"path": "x", "ignore_columns": "input"}, "`ignore_columns` is 'input'; it must be a list"),
        (DatasetSpec("x", fraction="0.5"), "`fraction` is '0.5'; it must be a number"),
        (DatasetSpec(3), "`path` must be a file"),
        ("data/none.json", "no such"),
    ],
)
def test_bad_spec_is_named(value, message):
    with pytest.raises(InputError, match=f"(?s)'helpful'.*{message}|`helpful.*{message}"):
        load_datasets({"helpful": value}, "train")


def test_datasets_without_names_are_refused():
    with pytest.raises(InputError, match="by name"):
        load_datasets(["a.json"], "train")


def test_missing_split_names_those_there_are(built):
    with pytest.raises(InputError, match=r"there is no split 'tests', only 'train', 'test'\. Did you mean 'test'"):
        load_datasets({"dsp": {"path": built(), "split": "tests"}}, "train")


def test_raw_file_without_its_source_is_read_by_its_form(write, dsp_items):
    path = write("raw.json", dsp_items(2))
    for source in (None, "auto"):
        spec = {"path": path, "source": source, "domain": "academy"}
        assert load_datasets({"dsp": spec}, "train")["dsp"].unique("source") == ["dsp"]
    with pytest.raises(InputError, match="`domain` is not set"):
        load_datasets({"dsp": path}, "train")
    with pytest.raises(InputError, match=r"no known form has the columns 'a', 'b'\. .*source: jsonl"):
        load_datasets({"dsp": write("other.json", [{"a": 1, "b": 2}])}, "train")


def test_overlap_with_a_split_made_here_stops_and_names_the_prompt(built, write):
    folder = built()
    train = load_datasets({"dsp": {"path": folder, "split": "train"}}, "train")
    evaluation = load_datasets({"helpful": write("helpful.json", text_score(range(18)))}, "test")
    number = len(set(train["dsp"]["prompt_id"]) & set(evaluation["helpful"]["prompt_id"]))
    message = rf"{number} prompts of eval set 'helpful' .*\('dsp'; first: '.*Question \d+\?.*--allow-overlap"
    with pytest.raises(InputError, match=message):
        check_overlap(train, evaluation)
    assert check_overlap(train, evaluation, allow_overlap=True) == {"helpful": number}


def test_overlap_between_splits_of_the_authors_warns_with_the_count(write, caplog):
    train = load_datasets({"helpful": write("train.json", text_score(range(5)))}, "train")
    evaluation = load_datasets({"helpful": write("test.json", text_score(range(3, 9)))}, "test")
    assert split_origin(train["helpful"])[0] == "whole"
    assert check_overlap(train, evaluation) == {"helpful": 2}
    assert "2 prompts of eval set 'helpful'" in caplog.text


def test_training_and_evaluating_on_the_same_file_stops(write):
    path = write("rows.json", text_score(range(5)))
    train, evaluation = load_datasets({"a": path}, "train"), load_datasets({"b": path}, "test")
    with pytest.raises(InputError, match="5 prompts of eval set 'b'"):
        check_overlap(train, evaluation)


def test_same_question_in_chat_and_in_text_is_an_overlap(built):
    folder = built("pairs", "chat")
    train = load_datasets({"a": folder}, "train", format="chat")
    evaluation = load_datasets({"b": {"path": folder, "split": "train", "format": "text"}}, "test")
    with pytest.raises(InputError, match="15 prompts"):
        check_overlap(train, evaluation)


def test_chat_as_text_where_only_one_response_lets_the_user_speak_first(tmp_path):
    asked = [{"role": "user", "content": "Q"}]
    chosen = [{"role": "assistant", "content": "A"}]
    rejected = [{"role": "user", "content": "more"}, {"role": "assistant", "content": "B"}]
    tags = {"score_chosen": 1.0, "score_rejected": 0.0, "domain": "general", "source": "mine", "prompt_id": "q"}
    rows = Dataset.from_list([{"prompt": asked, "chosen": chosen, "rejected": rejected, **tags}])
    DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "rows"))
    loaded = load_datasets({"a": {"path": str(tmp_path / "rows"), "format": "text"}}, "train")["a"][0]
    assert loaded["prompt"] + loaded["chosen"] == "## Human:\nQ\n\n## Assistant:\nA"
    assert loaded["prompt"] + loaded["rejected"] == "## Human:\nQ\n\n## Human:\nmore\n\n## Assistant:\nB"

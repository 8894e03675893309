"""`rm-toolkit inspect`: counts of data as it stands, lengths, overlaps, and the folder that shows them."""

import json

import numpy as np
import pytest
from datasets import Dataset

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.inspection.counts import as_ranked, completion_groups, count_rows, describe_lengths
from rm_toolkit.inspection.inspector import LengthCounter, inspect_dataset


TAGS = {"domain": "general", "source": "jsonl"}


def pair(prompt, chosen, rejected, scores=(1.0, 0.0)):
    values = dict(zip(("score_chosen", "score_rejected"), scores))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **values, **TAGS, "prompt_id": prompt}


def test_counts_by_hand():
    rows = [
        pair("a", "x", "y"),
        pair("a", "x ", "y"),  # a duplicate up to white space
        pair("a", "x", "z"),
        pair("b", "x", "x"),
        pair("c", "x", "y", (1.0, 1.0)),
        pair("d", "", "y"),
    ]
    assert count_rows(as_ranked(Dataset.from_list(rows))) == {
        "rows": 6,
        "prompts": 4,
        "repeated_prompts": 2,
        "pairs": 6,
        "empty": 1,
        "identical": 1,
        "ties": 1,
        "duplicates": 1,
        "clean_pairs": 2,
    }


def test_lengths_by_hand():
    found = describe_lengths(np.arange(1, 101))
    assert (found["texts"], found["mean"], found["0%"], found["5%"], found["50%"], found["99%"], found["100%"]) == (
        100,
        50.5,
        1,
        5,
        50,
        99,
        100,
    )
    assert LengthCounter(None, "text")([("one two ", "three"), ("", "")], whole=True).tolist() == [3, 0]


def test_tokens_are_counted_as_a_model_reads_them(base_model):
    from rm_toolkit.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base_model())
    counter = LengthCounter(base_model(), "text", show_progress=False)
    assert counter.max_length == 512
    text = "river stone"
    assert counter([("river ", "stone")], whole=True).tolist() == [len(tokenizer(text)["input_ids"])]
    alone = tokenizer("stone", add_special_tokens=False)["input_ids"]
    assert counter([("", "stone")], whole=False).tolist() == [len(alone)]


def test_completions_are_grouped_by_who_wrote_them():
    rows = [{**pair("a", "x", "y"), "domain": "law", "rejected_domain": "art"}]
    assert completion_groups(read_preferences(Dataset.from_list(rows), "s")) == {"art": [1], "law": [0]}
    assert completion_groups(read_preferences(Dataset.from_list([pair("a", "x", "y")]), "s")) == {
        "chosen": [0],
        "rejected": [1],
    }


@pytest.fixture
def dsp_file(tmp_path):
    items = [
        {"query": f"Which {k}?", "responses": {"law": f"The court ruled {k}.", "art": f"Paint a garden {k}."}}
        for k in range(12)
    ]
    items[3]["responses"]["art"] = items[3]["responses"]["law"]
    (tmp_path / "dsp.json").write_text(json.dumps(items))
    (tmp_path / "other.json").write_text(json.dumps(items[:3]))
    return tmp_path / "dsp.json"


def test_the_command_writes_counts_lengths_overlap_and_words(dsp_file, base_model, tmp_path, capsys, read_json):
    pytest.importorskip("wordcloud", reason="the word clouds need the extra `report`")
    out = tmp_path / "out"
    command = ["inspect", f"{{path: {dsp_file}, source: dsp}}", "--tokenizer", base_model(), "--max-length", "29"]
    command += ["--against", f"held={{path: {tmp_path / 'other.json'}, source: dsp}}", "--output", str(out)]
    command += ["--cache-dir", str(tmp_path / "cache")]
    assert main(command) == 0
    result = read_json(out / "inspection.json")
    assert list(result["counts"]) == ["law", "art"]
    assert result["counts"]["law"]["identical"] == 1 and result["counts"]["art"]["clean_pairs"] == 11
    assert result["overlap"]["held"]["prompts"] == 3 and result["overlap"]["held"]["texts"] == 6
    assert result["overlap"]["held"]["prompts_share"] == 3 / 12
    assert result["texts"] == 23
    longer = result["lengths"]["whole texts"]
    assert longer["0%"] <= 29 < longer["100%"] and 0 < result["cut"]["texts"] < 23
    assert {word["word"] for word in result["words"]["law"]} == {"court", "ruled"}
    report = (out / "report.md").read_text()
    assert "![" in report and "| law | art |" in report and "shared prompts" in report
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["lengths.png", "words.png"]
    assert main(command) == 2
    assert "the output folder is in use" in capsys.readouterr().err


def test_without_tokenizer_and_clouds(dsp_file, tmp_path, read_json):
    command = ["inspect", f"{{path: {dsp_file}, source: dsp, domain: art}}", "--no-word-clouds"]
    assert main([*command, "--output", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]) == 0
    result = read_json(tmp_path / "out" / "inspection.json")
    assert (result["lengths"]["unit"], result["cut"], list(result["counts"])) == ("words", None, ["art"])
    assert sorted(path.name for path in (tmp_path / "out" / "figures").iterdir()) == ["lengths.png"]


def test_the_command_names_a_folder_with_brackets_as_it_was_given(dsp_file, tmp_path, capsys):
    out = tmp_path / "[v2]" / "run"
    command = ["inspect", f"{{path: {dsp_file}, source: dsp, domain: art}}", "--no-word-clouds"]
    assert main([*command, "--output", str(out), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert f"wrote {out}: report.md" in capsys.readouterr().out


def test_a_missing_word_cloud_package_is_named_with_its_install_command(dsp_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "wordcloud", None)
    command = ["inspect", f"{{path: {dsp_file}, source: dsp}}", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "pip install wordcloud" in capsys.readouterr().err


def test_a_built_folder_and_chat_data(tmp_path, base_model):
    rows = [
        {
            **pair("p", "x", "y"),
            "prompt": [{"role": "user", "content": f"Which {k}?"}],
            "chosen": [{"role": "assistant", "content": "river"}],
            "rejected": [{"role": "assistant", "content": "stone stone"}],
            "prompt_id": str(k),
        }
        for k in range(3)
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "built")
    found = inspect_dataset(str(tmp_path / "built"), tokenizer=base_model("qwen3"), show_progress=False)
    assert found.result["counts"]["all"]["clean_pairs"] == 3
    assert found.lengths["whole texts"].min() > found.lengths["prompts"].max() > 0
    assert found.result["longer_wins"]["all"] == 0.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-length", "2", "--tokenizer", "x"], "--max-length is 2"),
        (["--max-length", "64"], "name a tokenizer too"),
        (["--against", "x"], "--against: 'x' is not NAME=SPEC"),
    ],
)
def test_mistakes_on_the_command_line(flags, message, tmp_path, capsys):
    assert main(["inspect", "data", "--output", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        inspect_dataset(str(tmp_path / "nothing.json"))

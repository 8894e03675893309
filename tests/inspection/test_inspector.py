"""`rm-toolkit inspect`: counts of the unchanged data, lengths, overlaps, and the folder that shows them."""

import json

import numpy as np
import pytest
from browser import look_over
from datasets import Dataset

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.inspection import measures
from rm_toolkit.inspection.contents import read_contents
from rm_toolkit.inspection.counts import as_ranked, count_rows, describe_lengths
from rm_toolkit.inspection.inspector import LengthCounter, inspect_dataset
from rm_toolkit.inspection.measures import completion_characters, measure


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
    counter = LengthCounter(base_model(), "text")
    assert counter.max_length == 512
    text = "river stone"
    assert counter([("river ", "stone")], whole=True).tolist() == [len(tokenizer(text)["input_ids"])]
    alone = tokenizer("stone", add_special_tokens=False)["input_ids"]
    assert counter([("", "stone")], whole=False).tolist() == [len(alone)]


def groups_of(rows):
    groups = read_contents(Dataset.from_list(rows), "s").groups()
    return {name: members.tolist() for name, members in groups.items()}


def test_completions_are_grouped_by_who_wrote_them():
    rows = [{**pair("a", "x", "y"), "domain": "law", "rejected_domain": "art"}]
    assert groups_of(rows) == {"art": [1], "law": [0]}
    assert groups_of([pair("a", "x", "y")]) == {"chosen": [0], "rejected": [1]}


@pytest.mark.parametrize("chat", [False, True])
def test_texts_that_stay_on_disk_are_those_of_an_evaluation(chat, rows):
    made = rows.ranked(40, seed=1)
    made += [dict(row) for row in made[:3]] + [
        {**made[5], "prompt": made[6]["prompt"]}
    ]  # texts that occur in several rows
    if chat:
        tool = {"type": "function", "function": {"name": "look"}}
        for number, row in enumerate(made):
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            row["completions"] = [[{"role": "assistant", "content": text}] for text in row["completions"]]
            row["tools"] = [tool] if number % 2 else None
    dataset = Dataset.from_list(made)
    held, stored = read_preferences(dataset, "s"), read_contents(dataset, "s")
    assert list(stored.texts()) == held.texts
    assert (stored.better.tolist(), stored.worse.tolist()) == (held.better.tolist(), held.worse.tolist())
    assert stored.fingerprint() == held.fingerprint()
    assert completion_characters(stored).tolist() == held.lengths.tolist()
    assert [len(batch) for batch in stored.batches(50)][:-1] == [50] * (len(held.texts) // 50)


def test_lengths_and_words_do_not_depend_on_the_batches(monkeypatch):
    rows = [pair(f"Which {k // 2}?", f"river {'stone ' * k}", f"lantern {k}") for k in range(30)]
    contents = read_contents(Dataset.from_list(rows), "s")
    whole = measure(contents, LengthCounter(None, "text"), show_progress=False)
    assert [len(values) for values in whole.lengths.values()] == [60, 15, 30, 30]
    assert whole.lengths["prompts"].tolist() == [2] * 15
    assert sorted(whole.lengths["chosen responses"]) == list(range(1, 31))
    assert [word.word for word in whole.words["rejected"]] == ["lantern"]
    monkeypatch.setattr(measures, "BATCH_SIZE", 7)
    small = measure(contents, LengthCounter(None, "text"), show_progress=False)
    assert small.words == whole.words
    for name, values in whole.lengths.items():
        assert small.lengths[name].tolist() == values.tolist()


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
    page = (out / "report.html").read_text()
    assert (
        page.count('"source":"data:image/png;base64,') == 2 and '["clean pairs",' in page and "shared prompts" in page
    )
    assert main(command) == 2
    assert "the output folder is in use" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path):
    domains = ["law", "entertainment-and-television", "</script><script>window.hit=1</script>"]
    items = [
        {"query": f"Which {k}?", "responses": {name: f"The {name} ruled {k}, and no other." for name in domains}}
        for k in range(12)
    ]
    (tmp_path / "dsp.json").write_text(json.dumps(items))
    command = ["inspect", f"{{path: {tmp_path / 'dsp.json'}, source: dsp}}", "--no-word-clouds"]
    command += ["--against", f"held={{path: {tmp_path / 'dsp.json'}, source: dsp}}", "--output", str(tmp_path / "out")]
    assert main([*command, "--cache-dir", str(tmp_path / "cache")]) == 0
    for tab in look_over(tmp_path / "out" / "report.html", pictures=1):
        assert tab.texts("thead >> nth=0 >> th")[1:] == domains
        assert "rm-toolkit inspect" in tab.locator(".code pre").text_content() or tab.locator(".code").count() == 0


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
        (["--max-length", "64"], "--max-length counts tokens: add --tokenizer"),
        (["--against", "x"], "--against: 'x' is not NAME=SPEC"),
    ],
)
def test_mistakes_on_the_command_line(flags, message, tmp_path, capsys):
    assert main(["inspect", "data", "--output", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        inspect_dataset(str(tmp_path / "nothing.json"))

import json

import pytest
from datasets import Dataset, DatasetDict

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.sources.webgpt import strip_citations


def train_rows(source, path, **options):
    return build(source, [str(path)], BuildOptions(test_size=0, **options)).datasets["train"]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def hh(n, answer="Yes"):
    return {"chosen": f"\n\nHuman: Q{n}\n\nAssistant: {answer}", "rejected": f"\n\nHuman: Q{n}\n\nAssistant: No"}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_hh_file_in_every_packing(write, name):
    rows = train_rows("hh", write(name, [hh(0), hh(1)]))
    assert rows["prompt"] == ["\n\nHuman: Q0\n\nAssistant:", "\n\nHuman: Q1\n\nAssistant:"]
    assert (rows[0]["chosen"], rows[0]["rejected"]) == (" Yes", " No")
    assert (rows[0]["score_chosen"], rows[0]["score_rejected"]) == (1.0, 0.0)


def test_hh_folder_tree_brings_its_split_and_its_domains(write, tmp_path):
    numbers = iter(range(100))
    for folder in ("helpful-base", "helpful-online", "harmless-base", "red-team-attempts"):
        for split, size in (("train", 3), ("test", 1)):
            write(f"hh/{folder}/{split}.jsonl.gz", [hh(next(numbers)) for _ in range(size)])
    result = build("hh", [str(tmp_path / "hh")], BuildOptions())
    assert {name: len(rows) for name, rows in result.datasets.items()} == {"train": 9, "test": 3}
    assert result.split == "given"
    assert sorted(result.datasets["test"]["domain"]) == ["harmless", "helpful", "helpful"]
    helpful = build("hh", [str(tmp_path / "hh")], BuildOptions(domain="helpful"))
    assert {name: len(rows) for name, rows in helpful.datasets.items()} == {"train": 6, "test": 2}
    one = build("hh", [str(tmp_path / "hh" / "harmless-base")], BuildOptions())
    assert {name: len(rows) for name, rows in one.datasets.items()} == {"train": 3, "test": 1}


def webgpt(answer_0="Yes [1].", answer_1="No [1, 2] way", score=0.5):
    question = {"dataset": "eli5", "id": "x", "full_text": "Why?\n\n"}
    scores = {"score_0": score, "score_1": -score}
    return {"question": question, "answer_0": answer_0, "answer_1": answer_1, **scores, "tokens_0": [1]}


def test_webgpt_keeps_raw_scores_and_puts_the_better_answer_first(write):
    rows = train_rows("webgpt", write("rows.jsonl", [webgpt(), webgpt("a", "b", -0.25), webgpt("a", "c", 0)]))
    assert rows["chosen"] == ["Yes [1].", "b"]
    assert rows["score_chosen"] == [0.5, 0.25]
    assert rows["score_rejected"] == [-0.5, -0.25]
    assert rows[0]["prompt"] == "## Human:\nWhy?\n\n\n\n## Assistant:\n"


def test_webgpt_citations_are_removed_on_demand(write):
    path = write("rows.jsonl", [webgpt()])
    assert train_rows("webgpt", path, strip_citations=True)[0]["rejected"] == "No way"
    assert train_rows("webgpt", path)[0]["rejected"] == "No [1, 2] way"
    assert strip_citations("[1] Roses [2][3], and a[0] or [x] [2020-01].") == "Roses, and a or [x] [2020-01]."


def test_gpt4llm_reads_both_releases(write):
    responses = [{"response": text, "source": "m", "score": score} for text, score in (("a", 7), ("b", 9.5), ("c", 7))]
    new = train_rows("gpt4llm", write("v2.json", [{"user_input": "Q", "responses_and_scores": responses}]))
    assert list(zip(new["chosen"], new["rejected"], new["score_chosen"])) == [("b", "a", 9.5), ("b", "c", 9.5)]
    old = train_rows("gpt4llm", write("v1.json", [{"user_input": "Q", "completion_a": "b", "completion_b": "a"}]))
    assert (old[0]["prompt"], old[0]["chosen"], old[0]["rejected"]) == (new[0]["prompt"], "b", "a")


def test_own_file_with_columns_of_any_name(write):
    rows = [{"question": "Q?", "meta": {"good": "A"}, "bad": "B", "gap": 2, "field": "law", "s1": 4, "s0": 1}]
    columns = {
        "prompt": "question",
        "chosen": "meta.good",
        "rejected": "bad",
        "margin": "gap",
        "domain": "field",
        "score_chosen": "s1",
        "score_rejected": "s0",
    }
    row = train_rows("jsonl", write("own.jsonl", rows), columns=columns)[0]
    assert {name: row[name] for name in ("prompt", "chosen", "rejected", "margin", "domain")} == {
        "prompt": "Q?",
        "chosen": "A",
        "rejected": "B",
        "margin": 2.0,
        "domain": "law",
    }
    assert (row["score_chosen"], row["score_rejected"]) == (4.0, 1.0)
    wrapped = train_rows("jsonl", write("own.jsonl", rows), columns=columns, template="human-assistant")[0]
    assert wrapped["prompt"] == "## Human:\nQ?\n\n## Assistant:\n"


def test_optional_columns_are_there_only_if_the_data_has_them(write):
    row = {"prompt": "Q?", "chosen": "A", "rejected": "B"}
    assert "margin" not in train_rows("jsonl", write("a.jsonl", [row])).column_names
    mixed = train_rows("jsonl", write("b.jsonl", [row, {**row, "prompt": "R?", "margin": 0.5}]))
    assert mixed["margin"] == [0.0, 0.5]  # 0 stands for no margin; TRL does not accept null


def test_columns_of_the_command_line(write, tmp_path, capsys):
    path = write("own.jsonl", [{"q": f"Q{n}?", "good": "A", "bad": "B"} for n in range(10)])
    command = ["build-data", "jsonl", "--input", path, "--output", str(tmp_path / "out")]
    assert main([*command, "--columns", "prompt=q", "chosen=good", "rejected=bad"]) == 0
    assert "--template human-assistant separates them" in capsys.readouterr().out


IMPLICIT = {"chosen": "Q: why?\nA: so", "rejected": "Q: why?\nA: no"}
CHAT = {"chosen": [user("Q"), assistant("A")], "rejected": [user("Q"), assistant("B")]}


@pytest.mark.parametrize("kind", ["folder", "splits", "parquet", "jsonl"])
def test_preference_dataset_from_anywhere(tmp_path, write, kind):
    data = [{"prompt": f"Q{n}", "chosen": "A", "rejected": "B"} for n in range(4)]
    dataset, path = Dataset.from_list(data), tmp_path / "saved"
    if kind == "folder":
        dataset.save_to_disk(path)
    elif kind == "splits":
        DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(path)
    elif kind == "parquet":
        path = tmp_path / "rows.parquet"
        dataset.to_parquet(path)
    else:
        path = write("rows.jsonl", data)
    result = build("preference", [str(path)], BuildOptions(test_size=1))
    sizes = {name: len(rows) for name, rows in result.datasets.items()}
    assert sizes == ({"train": 4, "test": 1} if kind == "splits" else {"train": 3, "test": 1})
    assert result.split == ("given" if kind == "splits" else "made")


def test_splits_of_other_names_are_taken_by_name(tmp_path):
    data = [{**CHAT, "score_chosen": 8.0, "score_rejected": 6.5}]
    parts = DatasetDict({"train_prefs": Dataset.from_list(data), "test_prefs": Dataset.from_list(data)})
    parts.save_to_disk(tmp_path / "saved")
    inputs = [f"train={tmp_path}/saved:train_prefs", f"test={tmp_path}/saved:test_prefs"]
    result = build("preference", inputs, BuildOptions(format="chat"))
    row = result.datasets["train"][0]
    assert row["prompt"] == [user("Q")]
    assert (row["chosen"], row["score_chosen"], row["score_rejected"]) == ([assistant("A")], 8.0, 6.5)
    assert result.shared_prompts == 1


@pytest.mark.parametrize(
    ("record", "prompt", "chosen"),
    [
        (IMPLICIT, "Q: why?\n", "A: so"),
        (CHAT, "## Human:\nQ\n\n## Assistant:\n", "A"),
        ({**CHAT, "prompt": "Q", "messages": CHAT["chosen"]}, "## Human:\nQ\n\n## Assistant:\n", "A"),
        (
            {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]},
            "## Human:\nQ\n\n## Assistant:\n",
            "A",
        ),
        ({"prompt": None, **IMPLICIT}, "Q: why?\n", "A: so"),
    ],
)
def test_implicit_and_explicit_prompts(write, record, prompt, chosen):
    row = train_rows("preference", write("rows.jsonl", [record]))[0]
    assert (row["prompt"], row["chosen"]) == (prompt, chosen)


def test_ultrafeedback_completions_carry_their_scores(write):
    entries = [
        {"model": "m", "response": text, "overall_score": score} for text, score in (("a", 2), ("b", 8), ("c", 5))
    ]
    row = {"instruction": "Q", "completions": entries}
    built = train_rows("preference", write("rows.jsonl", [row]), layout="ranked")[0]
    assert (built["prompt"], built["completions"], built["scores"]) == ("Q", ["a", "b", "c"], [2.0, 8.0, 5.0])


def test_helpsteer_rows_of_one_prompt_are_ranked_together(write):
    rows = [
        {"prompt": "Q", "response": "a", "helpfulness": 3, "correctness": 0},
        {"prompt": "Q", "response": "b", "helpfulness": 1, "correctness": 4},
        {"prompt": "R", "response": "c", "helpfulness": 0, "correctness": 1},
        {"prompt": "R", "response": "d", "helpfulness": 2, "correctness": 0},
        {"prompt": "R", "response": "e", "helpfulness": 2, "correctness": 0},
    ]
    path = write("rows.jsonl", rows)
    built = train_rows("preference", path, layout="ranked")
    assert built["completions"] == [["a", "b"], ["c", "d", "e"]]
    assert built["scores"] == [[3.0, 1.0], [0.0, 2.0, 2.0]]
    assert train_rows("preference", path, columns={"score": "correctness"})[0]["chosen"] == "b"


def test_helpsteer_preferences_are_signed(write):
    rows = [
        {"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": -2},
        {"context": [user("R")], "response1": "a", "response2": "b", "overall_preference": 1},
        {"prompt": "S", "response_1": "a", "response_2": "b", "preference_strength": 0},
    ]
    result = build("preference", [write("rows.jsonl", rows)], BuildOptions(test_size=0, format="chat"))
    assert result.datasets["train"]["chosen"] == [[assistant("a")], [assistant("b")]]
    assert result.datasets["train"]["score_chosen"] == [2.0, 1.0]
    assert result.counts["train"].ties == 1


def test_what_build_data_wrote_can_be_its_input(write, dsp_items, tmp_path):
    folder = tmp_path / "ranked"
    command = ["build-data", "dsp", "--input", write("dsp.json", dsp_items(10)), "--domain", "academy"]
    assert main([*command, "--layout", "ranked", "--output", str(folder)]) == 0
    again = build("preference", [str(folder)], BuildOptions(layout="ranked"))
    assert again.split == "given"
    assert again.datasets["train"]["scores"][0] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert again.datasets["train"]["domain"][0] == "academy"


def test_chat_of_every_source_is_user_then_assistant(write, dsp_items):
    cases = {
        "dsp": (dsp_items(1), {"domain": "academy"}),
        "text-score": (
            [{"text": ["## Human:\nQ\n\n## Assistant:\nA", "## Human:\nQ\n\n## Assistant:\nB"], "score": [1, 0]}],
            {},
        ),
        "hh": ([hh(0)], {}),
        "webgpt": ([webgpt()], {}),
        "gpt4llm": ([{"user_input": "Q", "completion_a": "b", "completion_b": "a"}], {}),
        "jsonl": ([{"prompt": "Q", "chosen": "A", "rejected": "B"}], {}),
        "preference": ([CHAT], {}),
    }
    for source, (rows, options) in cases.items():
        row = train_rows(source, write(f"{source}.jsonl", rows), format="chat", **options)[0]
        assert [message["role"] for message in row["prompt"]] == ["user"], source
        assert [message["role"] for message in row["chosen"]] == ["assistant"], source
        assert row["source"] == source
        assert json.dumps(row["prompt"]).count("Human") == 0

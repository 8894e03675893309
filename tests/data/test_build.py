import json

import pytest
from datasets import load_from_disk

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.errors import InputError


DOMAINS = ("academy", "business", "entertainment", "literature", "normal")


def test_dsp_pairs_set_one_domain_against_each_of_the_others(write, dsp_items):
    path = write("dsp.json", dsp_items(1))
    pairs = build("dsp", [path], BuildOptions(domain="literature", test_size=0)).datasets["train"]
    assert pairs["rejected_domain"] == ["academy", "business", "entertainment", "normal"]
    assert set(pairs["chosen"]) == {"literature answers 0."}
    assert set(pairs["prompt"]) == {"## Human:\nQuestion 0?\n\n## Assistant:\n"}
    assert pairs["score_chosen"] == [1.0] * 4
    assert pairs["score_rejected"] == [0.0] * 4
    assert set(zip(pairs["domain"], pairs["source"])) == {("literature", "dsp")}


@pytest.mark.parametrize("domain", DOMAINS)
def test_dsp_ranked_row_scores_the_domain_one_and_the_others_zero(write, dsp_items, domain):
    path = write("dsp.jsonl.gz", dsp_items(2))
    rows = build("dsp", [path], BuildOptions(domain=domain, layout="ranked", test_size=0)).datasets["train"]
    assert rows[0]["completions"] == [f"{name} answers 0." for name in DOMAINS]
    assert rows[0]["completion_domains"] == list(DOMAINS)
    assert rows[0]["scores"] == [float(name == domain) for name in DOMAINS]


def test_split_is_by_prompt_seeded_and_the_same_for_every_domain(write, dsp_items):
    items = dsp_items(50)
    items[7]["responses"]["academy"] = ""  # one domain loses rows in cleaning; the others must not change

    def prompts(domain, seed, order=1):
        path = write("dsp.json", items[::order])
        splits = build("dsp", [path], BuildOptions(domain=domain, test_size=0.2, seed=seed)).datasets
        return {name: set(rows["prompt"]) for name, rows in splits.items()}

    academy, literature = prompts("academy", 0), prompts("literature", 0)
    assert len(literature["test"]) == 10
    assert not literature["test"] & literature["train"]
    assert not academy["train"] & literature["test"]
    assert not literature["train"] & academy["test"]
    assert prompts("literature", 0, order=-1) == literature
    assert prompts("literature", 1) != literature


def test_test_size_of_one_and_more_counts_prompts(write, dsp_items):
    path = write("dsp.json", dsp_items(9))
    splits = build("dsp", [path], BuildOptions(domain="normal", test_size=3)).datasets
    assert (len(splits["train"]), len(splits["test"])) == (24, 12)


def test_given_split_stays_and_shared_prompts_are_counted(write, dsp_items):
    train, test = write("a.json", dsp_items(4)), write("b.json", dsp_items(6)[3:])
    result = build("dsp", [f"train={train}", f"test={test}"], BuildOptions(domain="normal"))
    assert {name: len(rows) for name, rows in result.datasets.items()} == {"train": 16, "test": 12}
    assert result.split == "given"
    assert result.shared_prompts == 1


def test_every_cleaning_step_is_counted_in_pairs(write):
    rows = [
        {"text": ["Q\nA", "Q\nB"], "score": [1.0, 0.0]},
        {"text": ["Q\nA", "Q\nB  "], "score": [3, 2]},  # a duplicate up to white space
        {"text": ["Q\nC", "Q\n \n"], "score": [1.0, 0.0]},
        {"text": ["Q\nsame  words", "Q\nsame words"], "score": [1.0, 0.0]},
        {"text": ["Q\nD", "Q\nE"], "score": [0.5, 0.5]},
        {"text": ["Q\nF", "Q\nG", "Q\nH"], "score": [1, 2, 2]},
    ]
    result = build("text-score", [write("rows.json", rows)], BuildOptions(test_size=0))
    counts = result.counts["train"].as_dict()
    wanted = {"read": 6, "rows": 8, "empty": 1, "identical": 1, "ties": 2, "duplicates": 1, "kept": 3}
    assert {name: number for name, number in counts.items() if number} == wanted
    kept = result.datasets["train"]
    assert list(zip(kept["chosen"], kept["rejected"])) == [("A", "B"), ("G", "F"), ("H", "F")]
    assert kept["score_chosen"] == [1.0, 2.0, 2.0]  # the first of the duplicates is kept; scores are raw


def test_ranked_rows_keep_ties_and_lose_empty_and_repeated_texts(write):
    rows = [
        {"text": ["Q\nD", "Q\nE"], "score": [0.5, 0.5]},
        {"text": ["Q\nA", "Q\n ", "Q\nB", "Q\nA "], "score": [1, 5, 2, 3]},
        {"text": ["Q\nA", "Q\nA"], "score": [1, 0]},
        {"text": ["Q\nA", "Q\n\n"], "score": [1, 0]},
    ]
    result = build("text-score", [write("rows.json", rows)], BuildOptions(layout="ranked", test_size=0))
    assert result.datasets["train"]["completions"] == [["D", "E"], ["B", "A "]]
    assert result.datasets["train"]["scores"] == [[0.5, 0.5], [2.0, 3.0]]
    counts = result.counts["train"]
    assert (counts.rows, counts.empty, counts.identical, counts.kept) == (4, 1, 1, 2)
    assert (counts.texts_dropped, counts.tied_rows) == (2, 1)


def test_command_writes_dataset_and_info_and_prints_the_table(write, dsp_items, tmp_path, capsys):
    path, folder = write("dsp.json", dsp_items(10)), tmp_path / "new" / "dsp"
    assert main(["build-data", "dsp", "--input", path, "--domain", "academy", "--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "identical chosen and rejected" in printed
    assert "train 36, test 4 pairs" in printed
    assert {name: len(rows) for name, rows in load_from_disk(str(folder)).items()} == {"train": 36, "test": 4}
    info = json.loads((folder / "rm_toolkit_data.json").read_text())
    assert (info["source"], info["split"], info["counts"]["test"]["kept"]) == ("dsp", "made", 4)
    assert info["inputs"] == ["dsp.json"]  # no local path is published with the data
    assert [entry.name for entry in folder.parent.iterdir()] == ["dsp"]


def test_second_build_is_read_from_the_cache_and_a_changed_file_is_not(write, dsp_items, monkeypatch):
    from rm_toolkit.data import records

    path, calls = write("dsp.json", dsp_items(3)), []
    read = records.read_records
    monkeypatch.setattr(records, "read_records", lambda file: calls.append(file) or read(file))
    options = BuildOptions(domain="academy", test_size=0)
    assert len(build("dsp", [path], options).datasets["train"]) == 12
    assert len(build("dsp", [path], options).datasets["train"]) == 12
    assert len(calls) == 1
    write("dsp.json", dsp_items(4))
    assert len(build("dsp", [path], options).datasets["train"]) == 16
    assert len(calls) == 2


def test_processes_do_not_change_what_is_built(write, dsp_items):
    path = write("dsp.json", dsp_items(20))
    one, two = (build("dsp", [path], BuildOptions(domain="academy", num_proc=n)).datasets for n in (1, 2))
    assert one["train"].to_list() == two["train"].to_list()


def test_overwrite_replaces_only_what_build_data_wrote(write, dsp_items, tmp_path, capsys):
    path, folder = write("dsp.json", dsp_items(10)), tmp_path / "out"
    command = ["build-data", "dsp", "--input", path, "--domain", "academy", "--output", str(folder)]
    assert main(command) == 0
    assert main(command) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--layout", "ranked", "--overwrite"]) == 0
    assert "completions" in load_from_disk(str(folder))["train"].column_names
    (folder / "rm_toolkit_data.json").unlink()
    assert main([*command, "--overwrite"]) == 2
    assert "Remove it yourself" in capsys.readouterr().err


def test_nothing_is_left_behind_when_a_build_fails(write, dsp_items, tmp_path):
    items = dsp_items(10)
    del items[6]["responses"]["academy"]
    path, folder = write("in/dsp.json", items), tmp_path / "out"
    export = tmp_path / "export.json"
    command = ["build-data", "dsp", "--input", path, "--domain", "academy", "--output", str(folder)]
    assert main([*command, "--export", "text-score", str(export)]) == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {"in"}


def test_skip_invalid_counts_what_it_leaves_out(write, dsp_items):
    items = dsp_items(10)
    del items[6]["responses"]["academy"]
    path = write("dsp.json", items)
    with pytest.raises(InputError, match=r"dsp\.json, item 7: `responses` has no 'academy'"):
        build("dsp", [path], BuildOptions(domain="academy"))
    result = build("dsp", [path], BuildOptions(domain="academy", skip_invalid=True, test_size=0))
    assert (result.counts["train"].read, result.counts["train"].invalid, result.counts["train"].rows) == (10, 1, 36)
    assert result.left_out == {"train": ["item 7: `responses` has no 'academy'"]}


def test_skip_invalid_names_the_first_records_left_out(write, tmp_path, capsys):
    rows = [{"prompt": f"Q{n}", "chosen": "a", "rejected": "b" if n < 3 else None} for n in range(15)]
    folder = tmp_path / "built"
    command = ["build-data", "preference", "--input", write("rows.jsonl", rows), "--output", str(folder)]
    assert main([*command, "--test-size", "0", "--skip-invalid"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    reason = "`rejected` is null, so `chosen` has no other response to compare with"
    assert told[0] == f"left out: line 4: {reason}" and told[9] == f"left out: line 13: {reason}"
    assert told[10:] == ["left out: and 2 more"]
    kept = json.loads((folder / "rm_toolkit_data.json").read_text())["left_out"]["train"]
    assert len(kept) == 10 and kept[0] == f"line 4: {reason}"


def test_json_lines_and_arrays_with_a_byte_order_mark_are_read(write, dsp_items):
    text = "\ufeff" + "\n\n".join(json.dumps(item) for item in dsp_items(2)) + "\n\n"
    rows = build("dsp", [write("dsp.json", text)], BuildOptions(domain="normal", test_size=0)).datasets["train"]
    assert len(rows) == 8
    array = write("array.json", "\ufeff\n " + json.dumps(dsp_items(2)))
    assert (
        build("dsp", [array], BuildOptions(domain="normal", test_size=0)).datasets["train"].to_list() == rows.to_list()
    )

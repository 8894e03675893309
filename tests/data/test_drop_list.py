"""`build-data --drop-pairs`: exactly the listed pairs are dropped, and every line of the list is accounted for."""

import pytest
from datasets import load_from_disk

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.drop_list import pair_ids
from rm_toolkit.data.pair_identity import pair_id
from rm_toolkit.errors import InputError


def as_list(pairs, numbers):
    return [{name: pairs[n][name] for name in ("prompt", "chosen", "rejected")} for n in numbers]


def test_listed_pairs_leave_and_lines_without_a_pair_are_named(write, dsp_items, tmp_path, capsys, read_json):
    path = write("dsp.json", dsp_items(20))
    whole = build("dsp", [path], BuildOptions(domain="literature", test_size=0.2)).datasets
    listed = [*as_list(whole["train"], [0, 5]), *as_list(whole["test"], [3])]
    turned = {**listed[0], "chosen": listed[0]["rejected"], "rejected": listed[0]["chosen"]}
    spaced = {**listed[1], "chosen": listed[1]["chosen"] + " "}  # not the same text
    reviewed = write("reviewed.jsonl", [listed[0], turned, listed[1], spaced, listed[2]])
    command = ["build-data", "dsp", "--input", path, "--domain", "literature", "--test-size", "0.2"]
    assert main([*command, "--drop-pairs", reviewed, "--output", str(tmp_path / "out")]) == 0
    built = load_from_disk(tmp_path / "out")
    for split, gone in (("train", 2), ("test", 1)):
        left = [
            pair
            for pair in whole[split].to_list()
            if pair["chosen"] + pair["rejected"]
            not in {line["chosen"] + line["rejected"] for line in (listed[0], listed[1], listed[2])}
        ]
        assert len(whole[split]) - len(left) == gone
        assert built[split].to_list() == left
    info = read_json(tmp_path / "out" / "rm_toolkit_data.json")
    assert info["drop_pairs"] == {
        "file": "reviewed.jsonl",
        "lines": 5,
        "dropped": {"train": 2, "test": 1},
        "unmatched_lines": [2, 4],
    }
    assert info["counts"]["train"]["listed"] == 2 and info["counts"]["train"]["kept"] == len(built["train"])
    said = capsys.readouterr().out
    assert "2 lines match no pair of this build (lines 2, 4)" in said and "pairs of --drop-pairs" in said


def test_without_a_list_nothing_is_said_of_one(write, dsp_items, tmp_path, read_json):
    path = write("dsp.json", dsp_items(3))
    assert main(["build-data", "dsp", "--input", path, "--domain", "normal", "--output", str(tmp_path / "out")]) == 0
    info = read_json(tmp_path / "out" / "rm_toolkit_data.json")
    assert "drop_pairs" not in info and "listed" not in info["counts"]["train"] and "drop_pairs" not in info["options"]


def test_a_pair_is_known_by_every_field_in_any_order(write, tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}}
    rows = [
        {
            "prompt": [{"role": "user", "content": "Go"}],
            "chosen": [{"role": "assistant", "content": "", "tool_calls": [call]}],
            "rejected": [{"role": "assistant", "content": answer}],
        }
        for answer in ("No.", "Never.", "Not now.")
    ]
    path = write("chat.jsonl", rows)
    options = BuildOptions(format="chat", test_size=0)
    keys = list(pair_ids(build("preference", [path], options).datasets["train"]))
    turned = {"function": {"arguments": {"a": [2], "b": 1}, "name": "f"}, "type": "function"}
    assert keys[1] == pair_id(
        rows[1]["prompt"], [{"tool_calls": [turned], "content": "", "role": "assistant"}], rows[1]["rejected"]
    )
    reviewed = write("list.json", [{"pair_id": keys[2]}, {**rows[0], "pair_id": keys[0], "p": 0.01}])
    result = build("preference", [path], BuildOptions(format="chat", test_size=0, drop_pairs=reviewed))
    assert list(pair_ids(result.datasets["train"])) == [keys[1]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "p", "chosen": "c"}, r"line 1: `rejected` is missing"),
        ({"pair_id": 3}, r"line 1: `pair_id` is not a string"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "pair_id": "0" * 16}, r"line 1: the texts do not match"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, r"none of its 1 lines is a pair of this build"),
    ],
)
def test_a_list_that_cannot_be_applied_is_refused(write, dsp_items, line, said):
    path, reviewed = write("dsp.json", dsp_items(2)), write("list.jsonl", [line])
    with pytest.raises(InputError, match=said):
        build("dsp", [path], BuildOptions(domain="normal", test_size=0, drop_pairs=reviewed))


def test_a_list_that_leaves_nothing_and_ranked_rows_are_refused(write, dsp_items, tmp_path):
    path = write("dsp.json", dsp_items(1))
    pairs = build("dsp", [path], BuildOptions(domain="normal", test_size=0)).datasets["train"]
    reviewed = write("all.jsonl", as_list(pairs, range(len(pairs))))
    with pytest.raises(InputError, match="leaves no pair in the split 'train'"):
        build("dsp", [path], BuildOptions(domain="normal", test_size=0, drop_pairs=reviewed))
    with pytest.raises(InputError, match="layout pairs"):
        BuildOptions(layout="ranked", drop_pairs=reviewed)
    with pytest.raises(InputError, match="no such file"):
        build("dsp", [path], BuildOptions(domain="normal", test_size=0, drop_pairs=str(tmp_path / "none.jsonl")))


def test_no_tools_and_an_empty_list_of_tools_are_one():
    variables = {"thinking": False}
    one, other = (pair_id("p", "a", "b", tools=tools, chat_template_kwargs=variables) for tools in (None, []))
    assert one == other != pair_id("p", "a", "b")

"""Reading instructions from several kinds of files, and choosing among them."""

import json

import pytest

from rm_toolkit.collection.instructions import Instruction, select_instructions
from rm_toolkit.errors import InputError


ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Mend this sentence.", "input": "Sarah and I walking.", "output": "Sarah and I walk."},
    {"instruction": " Name a colour. ", "input": "", "output": "Red."},
    {"instruction": "Name a bird.", "input": "  ", "output": ""},
    {"instruction": "  ", "input": "", "output": "What?"},
]


@pytest.fixture
def alpaca(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(ALPACA))
    return str(path)


def test_an_input_stands_below_its_instruction(alpaca):
    selection = select_instructions(alpaca)
    assert selection.instructions == [
        Instruction("Name a colour.", "Blue."),
        Instruction("Mend this sentence.\nSarah and I walking.", "Sarah and I walk."),
        Instruction("Name a bird.", None),
    ]
    assert selection.counts == {
        "read": 5,
        "invalid": 0,
        "with input": 0,
        "empty": 1,
        "duplicates": 1,
        "not chosen": 0,
    }


def test_instructions_with_an_input_can_be_left_out(alpaca):
    selection = select_instructions(alpaca, no_input=True)
    assert [entry.query for entry in selection.instructions] == ["Name a colour.", "Name a bird."]
    assert selection.counts["with input"] == 1


def test_text_lines_and_other_columns(tmp_path):
    (tmp_path / "lines.txt").write_text("\ufeffFirst?\n\nSecond?\n", encoding="utf-8")
    found = select_instructions(str(tmp_path / "lines.txt"))
    assert [entry.query for entry in found.instructions] == ["First?", "Second?"] and found.counts["empty"] == 1
    (tmp_path / "own.jsonl").write_text(json.dumps({"query": "Why?", "responses": {"normal": "So."}}) + "\n")
    columns = {"instruction": "query", "output": "responses.normal"}
    assert select_instructions(str(tmp_path / "own.jsonl"), columns=columns).instructions == [
        Instruction("Why?", "So.")
    ]


def test_a_saved_dataset_with_its_split(tmp_path):
    from datasets import Dataset, DatasetDict

    parts = {name: Dataset.from_list([{"instruction": name, "output": None}]) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=r"choose one of its splits 'train', 'test'.*saved:train"):
        select_instructions(str(tmp_path / "saved"))
    assert select_instructions(f"{tmp_path / 'saved'}:test").instructions == [Instruction("test")]


def test_more_instructions_are_the_same_ones_and_more(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"Question {k}?\n" for k in range(50)))

    def chosen(**options):
        return [entry.query for entry in select_instructions(str(tmp_path / "lines.txt"), **options).instructions]

    few, many = chosen(num=10), chosen(num=20)
    assert len(few) == 10 and set(few) < set(many) and many == sorted(many, key=lambda q: int(q.split()[1][:-1]))
    assert set(chosen(num=10, seed=1)) != set(few) and chosen(num=99) == chosen()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"question": "Why?"}], {}, r"item 1: there is no `instruction`; the keys are 'question'"),
        ([{"instruction": 3}], {}, r"item 1: `instruction` must be a string, got the number 3"),
        ([{"instruction": "A", "output": ["b"]}], {}, r"`output` must be a string, got a list of 1"),
        ([{"a": "b"}], {"columns": {"instruction": "b"}}, r"no column 'b' \(for `instruction`\), only 'a'"),
        ([{"instruction": "A"}], {"columns": {"prompt": "b"}}, r"'prompt' is not one of 'instruction'"),
        ([{"instruction": "A"}], {"num": 0}, r"--num is 0"),
        ([{"instruction": "A", "input": "b"}], {"no_input": True}, r"of 1 rows 1 with input"),
    ],
)
def test_a_mistake_is_named(tmp_path, rows, options, message):
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        select_instructions(str(tmp_path / "rows.json"), **options)


def test_unusable_rows_can_be_counted_instead(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"instruction": 3}, {"instruction": "A"}]))
    assert select_instructions(str(tmp_path / "rows.json"), skip_invalid=True).counts["invalid"] == 1

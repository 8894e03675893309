"""Properties of the data layer: whatever a file contains is built unchanged, or refused with file and row."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build, save
from rm_toolkit.errors import InputError


HH = "\n\nHuman: Q{n}\n\nAssistant: {answer}"
# Source -> function that makes a good record, different for each number.
RECORDS = {
    "dsp": lambda n: {"query": f"Q{n}", "responses": {"academy": f"A{n}", "business": f"B{n}"}},
    "hh": lambda n: {"chosen": HH.format(n=n, answer="A"), "rejected": HH.format(n=n, answer="B")},
    "webgpt": lambda n: {
        "question": {"full_text": f"Q{n}"},
        "answer_0": "A",
        "answer_1": "B",
        "score_0": 1.0,
        "score_1": 0.0,
    },
    "gpt4llm": lambda n: {
        "user_input": f"Q{n}",
        "responses_and_scores": [{"response": "A", "score": 9}, {"response": "B", "score": 2}],
    },
    "text-score": lambda n: {"text": [f"Q{n}\nA", f"Q{n}\nB"], "score": [1.0, 0.0]},
    "jsonl": lambda n: {"prompt": f"Q{n}\n", "chosen": "A", "rejected": "B"},
    "preference": lambda n: {
        "chosen": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": "A"}],
        "rejected": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": "B"}],
    },
}
OPTIONS = {"dsp": {"domain": "academy"}}
TEXTS = st.text(max_size=12) | st.sampled_from(["", " ", "\x00", "\ud800", "../../x", "/etc/passwd", "NaN", "1e999"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a record where a value can be replaced, including the record itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(record, path, value):
    if not path:
        return value
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return record


def snapshot(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("source", RECORDS)
def test_any_value_in_any_field_builds_or_is_refused_with_file_and_row(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp(source)
    paths = list(places(RECORDS[source](2)))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(paths), VALUES)
    @example(paths[-1], "\ud800")
    @example(paths[-1], "x\ud800")
    @example((), None)
    @example(paths[1], {"a": 1})
    @example(paths[1], "\n\x07\u2028")
    @example(paths[-1], "\n")
    @example(paths[1], 10**4000)
    @example((), {"\n" * 30: 1, "x" * 2000: 2})
    def check(path, value):
        records = [RECORDS[source](n) for n in range(3)]
        records[1] = put(records[1], path, value)
        file = folder / "rows.json"
        file.write_text(json.dumps(records))
        options = BuildOptions(test_size=0, cache_dir=str(folder / "cache"), **OPTIONS.get(source, {}))
        try:
            result = build(source, [str(file)], options)
        except InputError as error:
            text = str(error)
            assert re.search(r"rows\.json, (item 2|line 1)\b", text), text
            assert "\n" not in text and len(text) < 1000
        else:
            prompts = [row["prompt"] for row in result.datasets["train"]]
            assert 2 <= len(prompts) <= 3, "a good record went with the bad one"

    check()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(domain=TEXTS, source=TEXTS, prompt=TEXTS)
@example(domain="../../outside", source="/tmp/outside", prompt="../outside")
@example(domain="\x00", source="..", prompt=".")
def test_nothing_is_written_outside_the_output_folder(tmp_path_factory, domain, source, prompt):
    """Names in the data are data, even if they look like paths."""
    place = tmp_path_factory.mktemp("place")
    (place / "in").mkdir()
    rows = [
        {"prompt": prompt + str(n), "chosen": "A", "rejected": "B", "domain": domain, "source": source} for n in (1, 2)
    ]
    (place / "in" / "rows.json").write_text(json.dumps(rows))
    before = snapshot(place)
    try:
        options = BuildOptions(test_size=0, cache_dir=str(place / "cache"))
        save(build("jsonl", [str(place / "in" / "rows.json")], options), place / "deep" / "down" / "out", False, None)
    except InputError:
        pass
    written = snapshot(place) - before
    allowed = ("cache", "deep/down/out")
    assert not [name for name in written if not name.startswith(allowed) and name not in ("deep", "deep/down")]


WHOLE_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(WHOLE_TEXTS, WHOLE_TEXTS, WHOLE_TEXTS), min_size=1, max_size=4))
@example([("\x00\x01\x1b[31m", "\u202e\ufeff\U0010ffff", "a\r\nb\u2028c\x85\x0b")])
@example([("p", "Ａ", "A")])
@example([("e\u0301", "\u00e9", "e\u0301")])
def test_any_unicode_and_control_characters_pass_unchanged(tmp_path_factory, texts):
    """Texts are not normalized or stripped, and line ends are not translated."""
    place = tmp_path_factory.mktemp("unicode")
    rows = [{"prompt": p + f"#{n}\n", "chosen": c, "rejected": r} for n, (p, c, r) in enumerate(texts)]
    (place / "rows.jsonl").write_bytes(b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows))
    wanted = [row for row in rows if " ".join(row["chosen"].split()) != " ".join(row["rejected"].split())]
    options = BuildOptions(test_size=0, cache_dir=str(place / "cache"))
    try:
        result = build("jsonl", [str(place / "rows.jsonl")], options)
    except InputError as error:
        assert not wanted and "empty after cleaning" in str(error)
        return
    save(result, place / "out", False, None)
    from datasets import load_from_disk

    found = load_from_disk(str(place / "out"))["train"]
    keys = ("prompt", "chosen", "rejected")
    assert [{key: row[key] for key in keys} for row in found] == wanted


def test_a_text_of_a_megabyte_passes_unchanged(tmp_path):
    long = "".join(chr(0x20 + k % 0x2000) for k in range(1_000_000))
    long = long.encode("utf-8", "ignore").decode()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Q\n", "chosen": long, "rejected": long[:-1]}) + "\n")
    arguments = ["--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out"), "--test-size", "0"]
    assert main(["build-data", "jsonl", *arguments, "--cache-dir", str(tmp_path / "cache")]) == 0
    from datasets import load_from_disk

    row = load_from_disk(str(tmp_path / "out"))["train"][0]
    assert row["chosen"] == long and row["rejected"] == long[:-1]

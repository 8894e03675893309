import json

import numpy as np
import pytest

from rm_toolkit.cli import main


def original_converter(items, domain):
    """The arithmetic of the original: reversed ascending argsort, scores divided by (max + 1e-5)."""
    out = []
    for item in items:
        texts = [f"## Human:\n{item['query']}\n\n## Assistant:\n{text}" for text in item["responses"].values()]
        scores = [float(name == domain) for name in item["responses"]]
        order = np.argsort(scores, kind="stable")[::-1]
        out.append({"text": [texts[i] for i in order], "score": [scores[i] / (max(scores) + 1e-5) for i in order]})
    return out


def export(source, path, file, *more):
    assert main(["build-data", source, "--input", path, "--export", "text-score", str(file), *more]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


def test_dsp_is_one_item_a_query_best_first_and_ties_in_reverse_file_order(write, dsp_items, tmp_path):
    items = dsp_items(3)
    items[1]["responses"]["normal"] = items[1]["responses"]["academy"]  # the export does not clean
    got = export("dsp", write("dsp.json", items), tmp_path / "out.json", "--domain", "academy")
    assert got == original_converter(items, "academy")
    answers = [text.split("Assistant:\n")[1].split()[0] for text in got[0]["text"]]
    assert answers == ["academy", "normal", "literature", "entertainment", "business"]
    assert got[0]["score"] == [1 / 1.00001, 0, 0, 0, 0]


def test_pairs_layout_is_one_item_a_pair(write, dsp_items, tmp_path):
    got = export(
        "dsp", write("dsp.json", dsp_items(1)), tmp_path / "o.json", "--domain", "business", "--layout", "pairs"
    )
    answers = [[text.split("Assistant:\n")[1].split()[0] for text in item["text"]] for item in got]
    assert answers == [["business", rival] for rival in ("academy", "entertainment", "literature", "normal")]
    assert {tuple(item["score"]) for item in got} == {(1 / 1.00001, 0.0)}


def test_tied_texts_swap_and_negative_scores_are_divided_too(write, tmp_path):
    rows = [{"text": ["a", "b"], "score": [1.0, 1.0]}, {"text": ["a", "b"], "score": [-2.0, -1.0]}]
    got = export("text-score", write("rows.json", rows), tmp_path / "out.json")
    assert got[0] == {"text": ["b", "a"], "score": [1 / 1.00001, 1 / 1.00001]}
    assert got[1]["text"] == ["b", "a"]
    assert got[1]["score"] == pytest.approx([1.00001, 2.00002])


def test_json_lines_by_name_and_an_existing_file_stays(write, tmp_path, capsys):
    path, file = write("rows.json", [{"text": ["é", "b"], "score": [2, 1]}] * 2), tmp_path / "out.jsonl"
    command = ["build-data", "text-score", "--input", path, "--export", "text-score", str(file)]
    assert main(command) == 0
    assert [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()] == [["é", "b"]] * 2
    assert main(command) == 2
    assert "pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("domain", ["academy", "business", "entertainment", "literature", "normal"])
def test_published_dsp_is_exported_as_the_original_converter_does(published, tmp_path, domain):
    path = published / "published" / "domain_specific_preference.test.json"
    file = tmp_path / "out.json"
    got = export("dsp", str(path), file, "--domain", domain)
    wanted = original_converter(json.loads(path.read_text(encoding="utf-8")), domain)
    assert got == wanted
    assert file.read_text(encoding="utf-8") == json.dumps(wanted, ensure_ascii=False)

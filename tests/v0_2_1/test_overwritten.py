"""`--overwrite_output_dir` on a folder of 0.2.1: everything that it wrote is removed, and nothing else."""

from __future__ import annotations

import pytest
from trees import tree

from rm_toolkit.errors import InputError
from rm_toolkit.training.run_files import clear_output_dir
from rm_toolkit.training.runtime import claim_output_dir


RUNS = [
    "text",
    "chat",
    "encoder",
    "average",
    "customized",
    "lora",
    "interrupted",
    "interrupted_lora",
    "interrupted_stream",
]
OTHERS = ["base/llama", "base/bert", "rows", "recipes", "scores", "report", "built", "collected"]
USERS = {"notes.txt": "mine", "README.md": "mine", "runs/events.out.tfevents.1": "mine", "lm_head/notes.txt": "mine"}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("users", [{}, USERS], ids=["alone", "with a person's files"])
def test_a_run_of_0_2_1_loses_what_it_wrote(old, name, users):
    for file, content in users.items():
        (old / name / file).parent.mkdir(parents=True, exist_ok=True)
        (old / name / file).write_text(content)
    claim_output_dir(name, overwrite=True, resume=False)
    clear_output_dir(name)
    assert {path: content for path, content in tree(old / name).items() if content != "folder"} == {
        path: content.encode() for path, content in users.items()
    }


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_run_of_0_2_1_wrote_is_refused(old, name):
    before = tree(old)
    with pytest.raises(InputError, match=f"{name} has files, but no run of this toolkit has written it"):
        claim_output_dir(name, overwrite=True, resume=False)
    assert tree(old) == before


def test_a_recipe_overwrites_a_run_of_0_2_1_and_keeps_a_persons_files(old, recipe):
    """It runs twice, the second time over a run of this version."""
    (old / "text" / "notes.txt").write_text("mine")
    (old / "text" / "config.json.orig").write_text("mine")
    for _ in range(2):
        assert (
            recipe("grft", "text", "--output_dir", "text", "--overwrite_output_dir", "true", "--max_steps", "1") == 0
        )
        assert (old / "text" / "notes.txt").read_text() == (old / "text" / "config.json.orig").read_text() == "mine"
        assert not (old / "text" / "checkpoint-6").exists() and (old / "text" / "model.safetensors").is_file()
        assert not list((old / "text").glob("*.old"))


def test_a_recipe_does_not_write_into_its_base(old, recipe, capfd):
    before = tree(old)
    for output in ("base/llama", "base/../base/llama/out", "base"):
        flags = ["--output_dir", output, "--overwrite_output_dir", "true"]
        assert recipe("grft", "text", *flags) == 2
        assert f"error: `output_dir` {output} " in capfd.readouterr().err
    assert tree(old) == before

"""Hand-edited files of a run, a study or a command: an error names the file, or an earlier state is used."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from rm_toolkit.batches.token_cache import TokenCache
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.learning_curves import read_learning_curves
from rm_toolkit.hub.model_card import read_results
from rm_toolkit.output.partial import PartialOutput
from rm_toolkit.output.written import RUN_MANIFEST, read_written
from rm_toolkit.training.manifest import find_checkpoint, write_manifest
from rm_toolkit.training.resume_from import checked_checkpoint
from rm_toolkit.training.run_identity import RunIdentity
from rm_toolkit.training.run_progress import RunProgress


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from file_damage import WRONG_FILES, change


ABSENT = ("is missing", "is a folder", "is a dangling link", "is a pipe", "is an endless device")
DAMAGE = {name: harm for name, harm in WRONG_FILES.items() if name != "is missing"}
MANIFESTS = {
    **DAMAGE,
    "lists numbers": change(files={"model.safetensors": 7}),
    "lists no size": change(files={"model.safetensors": {"hash": "x"}}),
    "lists a size in words": change(files={"model.safetensors": {"size": "many"}}),
    "lists a file outside": change(files={"../../secret": {"size": 1}}),
    "lists a file of the system": change(files={"/etc/hostname": {"size": 1}}),
    "lists a file that is not there": change("files", **{"gone.bin": {"size": 1}}),
    "has files as a list": change(files=["model.safetensors"]),
}
STATES = ("trainer_state.json", "run_progress.json", "run_identity.json", "optimizer.pt", "model.safetensors")


@pytest.fixture
def output(tmp_path):
    """The output folder of a run with two whole checkpoints."""
    for step in (3, 6):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in STATES:
            (folder / name).write_text(
                json.dumps({"format": 1, "run_id": "a", "settings": {}, "changed": [], "step": step})
            )
        write_manifest(folder, 1)
    return tmp_path / "run"


@pytest.mark.parametrize("what", MANIFESTS)
def test_auto_goes_on_from_the_checkpoint_before_one_whose_manifest_is_damaged(what, output, capsys):
    MANIFESTS[what](output / "checkpoint-6" / "manifest.json")
    found = checked_checkpoint("auto", str(output))
    said = " ".join(capsys.readouterr().out.split())
    assert found == str(output / "checkpoint-3")
    assert said.count("warning:") == 1 and "checkpoint-6 is damaged" in said
    assert f"The run continues from {found} instead." in said


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("what", DAMAGE)
def test_auto_goes_on_from_the_checkpoint_before_one_whose_state_is_damaged(what, name, output):
    DAMAGE[what](output / "checkpoint-6" / name)
    found, damaged = find_checkpoint(output)
    assert found == str(output / "checkpoint-3")
    assert len(damaged) == 1 and "\n" not in damaged[0] and f"'{name}'" in damaged[0]


READERS = {
    "run_identity.json": RunIdentity.load,
    "run_progress.json": RunProgress.load,
    "final_eval_results.json": read_results,
    "training_log.json": lambda folder: read_learning_curves(folder, None),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", [what for what in DAMAGE if what not in ABSENT])
def test_a_damaged_file_of_a_run_is_one_line_that_names_it(what, name, tmp_path):
    (tmp_path / name).write_text('{"a": 1}')
    DAMAGE[what](tmp_path / name)
    with pytest.raises(InputError) as error:
        READERS[name](tmp_path)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_list_of_written_files_and_journal_are_taken_for_none(what, tmp_path):
    (tmp_path / RUN_MANIFEST).write_text("{}")
    DAMAGE[what](tmp_path / RUN_MANIFEST)
    assert read_written(tmp_path) is None
    output = PartialOutput.__new__(PartialOutput)
    output.journal = tmp_path / "journal.json"
    output.journal.write_text("{}")
    DAMAGE[what](output.journal)
    assert output.read_journal() in (None, {"x": 1})


def test_a_token_cache_with_a_wrong_byte_anywhere_is_read_or_made_anew(tmp_path):
    cache = TokenCache(tmp_path / "tokens.npz")
    cache.save({"ids": np.arange(3000, dtype=np.int32), "lengths": np.arange(9), "none": None, "number": np.int64(4)})
    whole = cache.path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        cache.path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        found = cache.load()
        assert found is None or isinstance(found, dict)

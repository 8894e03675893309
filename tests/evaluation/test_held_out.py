"""A split made by `evaluate` is the one that the model's run held out, or the evaluation stops."""

from __future__ import annotations

import pytest
from datasets import Dataset

from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.held_out import check_held_out
from rm_toolkit.models.settings import RewardModelSettings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    own = {"mine": {"spec": {"path": "a.json", "test_size": 0.2}}, "none": {"spec": None}}
    general = {"general": {"spec": {"path": "b.json", "test_size": 0.5}}}
    return RewardModelSettings(
        lineage=[
            {"stage": "grft", "seed": 42, "datasets": {"whole": {"spec": "c.json:0.5"}}},
            {"stage": "crft", "seed": 42, "datasets": own, "replay_datasets": general},
        ]
    )


def test_another_seed_or_size_is_refused_with_the_one_to_give(settings, tmp_path):
    for path in ("a.json", str(tmp_path / "a.json")):
        with pytest.raises(InputError, match=r"'law' is split off .*a\.json with seed 0, but 'rm' .* Pass --seed 42"):
            check_held_out("rm", settings, {"law": {"path": path, "test_size": 0.2}}, 0)
    with pytest.raises(InputError, match=r"`test_size` 0.1 of a.json, but 'rm' was trained with .test_size. 0.2"):
        check_held_out("rm", settings, {"law": DatasetSpec(path="a.json", test_size=0.1)}, 42)
    with pytest.raises(InputError, match=r"'old' is split off b.json with seed 1"):
        check_held_out("rm", settings, {"old": {"path": "b.json", "test_size": 0.5}}, 1)


def test_the_split_of_the_run_and_other_files_pass(settings):
    check_held_out("rm", settings, {"law": {"path": "a.json", "test_size": 0.2}}, 42)
    others = {"c": "c.json", "d": {"path": "d.json", "test_size": 0.2}, "rows": Dataset.from_dict({"a": [1]})}
    check_held_out("rm", settings, others, 0)
    check_held_out("foreign", RewardModelSettings(), {"law": {"path": "a.json", "test_size": 0.2}}, 0)

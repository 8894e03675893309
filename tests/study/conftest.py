"""A study of one base model, one domain and two strategies, launched by a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    """`study_file(**changes)`: path of the study's YAML."""
    monkeypatch.chdir(ROOT)

    def write(**changes):
        values = {
            "output_dir": str(tmp_path / "study"),
            "launch": [sys.executable, str(Path(__file__).parent / "fake_launch.py")],
            "seeds": [0, 1],
            "base_models": {"tiny": {"model_name_or_path": "base", "tiny_base": {"hidden_size": 8}}},
            "grft": {
                "config": "recipes/tiny/grft.yaml",
                "flags": {"eval_steps": 10},
                "data": {"none": None, "hh": {"helpful": "x"}},
                "lm_loss_coef": [0, 0.1],
            },
            "crft": {
                "config": "recipes/tiny/crft.yaml",
                "strategies": {
                    "plain": {"lm_loss_coef": 0},
                    "imitation": {"lm_loss_coef": 0.1},
                },
                "domains": ["law"],
            },
            "general_sets": ["a", "b"],
            "customized_set": "dsp_{domain}",
            **changes,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write

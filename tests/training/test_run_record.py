"""What a run records about itself."""

from pathlib import Path

from datasets import Dataset

from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.run_record import changed_settings, describe_datasets


ROOT = Path(__file__).parents[2]


def recorded(tmp_path, *flags):
    (tmp_path / "empty.yaml").write_text("output_dir: /home/someone/out\nbf16: false\nuse_cpu: true")
    _, training, model = parse_recipe(tmp_path / "empty.yaml", list(flags))
    return changed_settings(training, model)


def test_defaults_are_not_recorded(tmp_path):
    assert recorded(tmp_path) == {}


def test_what_differs_is_recorded_and_what_is_private_is_not(tmp_path):
    flags = [
        "--learning_rate",
        "2e-6",
        "--pooling_type",
        "eos",
        "--use_peft",
        "--lora_target_modules",
        "q_proj",
        "v_proj",
    ]
    private = ["--hub_model_id", "me/rm", "--run_name", "x", "--model_name_or_path", "/home/x", "--logging_steps", "3"]
    found = recorded(tmp_path, *flags, *private)
    assert found == {
        "learning_rate": 2e-6,
        "pooling_type": "eos",
        "use_peft": True,
        "lora_r": 16,  # for an adapter, the defaults too
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
    }


def test_data_sets_are_recorded_with_source_license_and_whether_they_are_here(tmp_path):
    (tmp_path / "rm_toolkit_data.json").write_text('{"license": "cc-by-4.0"}')
    rows = Dataset.from_dict({"prompt": ["a", "b", "c"], "source": ["hh", "dsp", "hh"]})
    specs = {"mine": str(tmp_path), "hub": {"path": "owner/name"}}
    found = describe_datasets({"mine": rows, "hub": rows.remove_columns("source")}, specs)
    assert found["mine"]["sources"] == ["dsp", "hh"] and found["mine"]["license"] == "cc-by-4.0"
    assert found["mine"]["local"] and found["mine"]["rows"] == 3
    # Only the rows count: other tags are the same data, other texts are not.
    assert found["mine"]["fingerprint"] == found["hub"]["fingerprint"]
    swapped = describe_datasets({"mine": rows.select([1, 0, 2])}, specs)
    assert swapped["mine"]["fingerprint"] != found["mine"]["fingerprint"]
    assert not found["hub"]["local"] and found["hub"]["license"] is None and found["hub"]["sources"] == []

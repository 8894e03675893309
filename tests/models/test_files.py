"""The table of the files of a model folder: which there are, who writes them, and what happens to them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import transformers
import yaml
from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME

from rm_toolkit.errors import InputError
from rm_toolkit.models.files import LEFTOVERS, MODEL_FILES, WRITERS, find_row, list_folder, run_files, weight_files
from rm_toolkit.training import stages
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.trainer import RewardModelTrainer


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("model.safetensors", "model.safetensors"),
        ("model-00001-of-00003.safetensors", "model-{N}-of-{N}.safetensors"),
        ("model-old.safetensors", None),
        ("my.safetensors", None),
        ("lm_head/model.safetensors", "lm_head/model.safetensors"),
        ("lm_head/notes.txt", None),
        ("checkpoint-12", "checkpoint-{N}/"),
        ("checkpoint-12/optimizer.pt", "checkpoint-{N}/"),
        ("checkpoint-best", None),
        ("adapter/adapter_config.json", "adapter_config.json"),
        ("adapter/additional_chat_templates/tools.jinja", "additional_chat_templates/*.jinja"),
        ("adapter/model.safetensors", None),
        ("adapter/adapter/adapter_config.json", None),
        ("zero_to_fp32.py", "zero_to_fp32.py"),
        ("modeling_mine.py", "*.py"),
        ("evaluation/figures/margins.png", "evaluation/figures/*.png"),
        ("evaluation/figures/deep/margins.png", None),
        ("config.json.orig", None),
        (".saving-x1", ".saving-*"),
    ],
)
def test_a_path_is_found_by_its_whole_name(path, row):
    found = find_row(path)
    assert (found and found.name) == row


def test_the_rows_do_not_contradict_themselves():
    assert len({row.name for row in MODEL_FILES}) == len(MODEL_FILES)
    for row in MODEL_FILES:
        assert row.writer in WRITERS
        # A training run must not remove what a person, the Hub or a merge wrote.
        assert not row.overwritten or row.writer in ("saving", "results", "trainer", "reports"), row.name
        of_a_result = row.writer in ("saving", "results", "calibrate", "push", "person")
        assert not row.published or of_a_result or row.name == "training_log.json", row.name
        assert row.published or not row.loaded, row.name
        assert not (row.overwritten and row.legacy), row.name


def test_what_is_not_ours_is_listed_as_such_and_links_are_not_followed(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for name in (
        "config.json",
        "notes.txt",
        "lm_head/model.safetensors",
        "lm_head/mine.txt",
        "checkpoint-3/optimizer.pt",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    for name in ("model.safetensors", "anchor_rewards/a", "photos/2026/a.png"):  # a folder is not a file
        (run / name / "x").parent.mkdir(parents=True, exist_ok=True)
    (run / "runs").touch()  # nor vice versa
    elsewhere.mkdir()
    (elsewhere / "adapter_config.json").touch()
    (run / "adapter").symlink_to(elsewhere)
    (run / "checkpoint-7").symlink_to(elsewhere)
    assert {name: row and row.name for name, row in list_folder(run)} == {
        "adapter": None,
        "anchor_rewards/": "anchor_rewards/",
        "checkpoint-3/": "checkpoint-{N}/",
        "checkpoint-7": None,
        "config.json": "config.json",
        "lm_head/mine.txt": None,
        "lm_head/model.safetensors": "lm_head/model.safetensors",
        "model.safetensors/": None,
        "notes.txt": None,
        "photos/": None,
        "runs": None,
    }
    assert run_files(run) == ["anchor_rewards/", "checkpoint-3/", "config.json", "lm_head/model.safetensors"]


def test_the_table_has_every_name_that_transformers_gives_a_vocabulary():
    named = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # not imported: some need other libraries
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VOCAB_FILES_NAMES":
                values = [value.value for value in ast.walk(node.value) if isinstance(value, ast.Constant)]
                named |= {value for value in values if "." in value}
    assert len(named) > 10
    assert {name for name in named if find_row(name) is None or not find_row(name).carried} == set()


@pytest.fixture
def run(tmp_path, rows, monkeypatch):
    """`run(stage, base, *flags)`: runs a recipe in this process, with checkpoints; returns its folder."""
    monkeypatch.setattr(RewardModelTrainer, "reload_check", lambda trainer: 0)  # writes nothing, takes seconds
    data = tmp_path / "data.json"
    text = [
        {"text": [r["prompt"] + r["chosen"], r["prompt"] + r["rejected"]], "score": [1.0, 0.0]} for r in rows.pairs(8)
    ]
    data.write_text(json.dumps(text))

    def go(stage, base, *flags, data_format="text"):
        output = tmp_path / f"{stage}-{len(list(tmp_path.iterdir()))}"
        sets = {"toy": {"path": str(data), "source": "text-score", "format": data_format}}
        settings = {
            "model_name_or_path": str(base),
            "output_dir": str(output),
            "train_datasets": sets,
            "eval_datasets": sets,
            "replay_datasets": sets if "--anchor_coef" in flags else {},
            "allow_overlap": True,
            "data_format": data_format,
            "max_length": 48,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "pairs_per_step": 4,
            "lm_loss_coef": 0.1,
            "save_strategy": "steps",
            "save_steps": 1,
            "report_to": "none",
            "use_cpu": True,
        }
        recipe, training, model = parse_recipe(_yaml(tmp_path / "recipe.yaml", settings), flags)
        train, evaluation, replay = stages.load_stage_data(recipe, training)
        stages.run_stage(
            stages.build_trainer(recipe, training, model, train, evaluation, replay, stage=stage), recipe, None
        )
        return output

    return go


def _yaml(path, settings):
    path.write_text(yaml.safe_dump(settings))
    return path


def test_every_file_of_a_run_is_in_the_table_and_every_row_is_written(run, base_model, base_encoder, tmp_path):
    grft = run("grft", base_model())
    runs = [
        grft,
        run("crft", grft, "--use_peft", "--general_replay_fraction", "0.5", "--anchor_coef", "1"),
        run("grft", base_encoder(), "--pooling_type", "cls", "--lm_loss_coef", "0"),
        run("grft", base_model("qwen3"), data_format="chat"),
    ]
    written = set()
    for folder in [*runs, *(path for run in runs for path in run.glob("checkpoint-*"))]:
        found = dict(list_folder(folder))
        assert [name for name, row in found.items() if row is None] == []
        assert [
            name for name, row in found.items() if row.legacy or row.writer in ("merge", "calibrate", "push", "person")
        ] == []
        if folder in runs:  # everything there belongs to the run and may be replaced
            assert run_files(folder) == list(found)
        written |= {row.name for row in found.values()}
    assert written == {row.name for row in MODEL_FILES if _written_by_a_run(row)} - OTHERWISE_WRITTEN.keys()


# Rows of the table for files of runs that are not done here, each with the test that makes them.
OTHERWISE_WRITTEN = {
    "stream_state_{N}.json": "test_streaming",
    ".rm_toolkit.lock": "test_lock: where the folder above is not ours",
    "generation_config.json": "test_base_lm",
    "model-{N}-of-{N}.safetensors": "test_saving: shards",
    "model.safetensors.index.json": "test_saving: shards",
    "additional_chat_templates/*.jinja": "below",
    "*.py": "a base with code of its own",
    "runs/": "report_to: tensorboard",
    "scaler.pt": "fp16 on a GPU",
    **dict.fromkeys(LEFTOVERS, "test_survival"),
    **dict.fromkeys(["optimizer.bin", "optimizer_{N}/", "pytorch_model_fsdp_{N}/"], "FSDP, below"),
    **dict.fromkeys(["global_step{N}/", "latest", "zero_to_fp32.py"], "DeepSpeed, below"),
}


def _written_by_a_run(row):
    return row.writer in ("saving", "results", "trainer", "reports", "checkpoint") and not row.legacy


def test_names_that_engines_give_their_state_are_in_the_table():
    script = pytest.importorskip("deepspeed.utils.zero_to_fp32").__file__

    names = [f"{OPTIMIZER_NAME}.bin", f"{OPTIMIZER_NAME}_0", f"{FSDP_MODEL_NAME}_0", "rng_state_1.pth"]
    for name in [*names, Path(script).name, "global_step12", "latest"]:
        assert find_row(name).writer == "checkpoint" and not find_row(name).published, name


def test_a_tokenizer_with_several_templates_is_in_the_table(base_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model("qwen3"))
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }}"}
    tokenizer.save_pretrained(tmp_path)
    found = dict(list_folder(tmp_path))
    assert found["additional_chat_templates/tool_use.jinja"].carried and None not in found.values()


def test_weights_are_read_from_what_the_index_lists(tmp_path):
    assert weight_files(tmp_path) == []
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model-extra.safetensors"):
        (tmp_path / name).touch()
    assert weight_files(tmp_path) == []  # without an index, transformers does not read them
    index = tmp_path / "model.safetensors.index.json"

    def write(*files):
        index.write_text(json.dumps({"weight_map": {f"tensor{number}": name for number, name in enumerate(files)}}))

    write("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert [path.name for path in weight_files(tmp_path)] == [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    for name in ("gone.safetensors", "../model-extra.safetensors", 7):
        write("model-00001-of-00002.safetensors", name)
        with pytest.raises(InputError, match=f"index.json lists '{name}', which is missing"):
            weight_files(tmp_path)
    index.write_text("[]")
    with pytest.raises(InputError, match=r"index.json cannot be read"):
        weight_files(tmp_path)
    (tmp_path / "model.safetensors").touch()  # takes precedence, as in transformers
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]

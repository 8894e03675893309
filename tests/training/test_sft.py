"""The base-LM stage: which texts it learns, up to which token, and that the next stage starts from what it saves."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from trees import tree
from trl import ModelConfig

from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.training.manifest import find_damage
from rm_toolkit.training.run_files import begin_run, own_files
from rm_toolkit.training.sft import (
    BaseLmArguments,
    BaseLmConfig,
    BaseLmTrainer,
    language_modeling_rows,
    load_base_lm,
    run_base_lm,
)


ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import file_damage  # noqa: E402


PROMPT = "## Human:\nA river?\n\n## Assistant:\n"
RANKED = [{"prompt": PROMPT, "completions": ["Good stone.", "Bad.", "Fine copper."], "scores": [1.0, 0.0, 0.9]}]


@pytest.fixture
def tokenizer(base_model):
    tokenizer = load_tokenizer(base_model())
    return prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(base_model()), max_length=64)


def lm_rows(tokenizer, tmp_path, *, texts="best", **config):
    config = BaseLmConfig(output_dir=str(tmp_path), use_cpu=True, **config)
    data = Dataset.from_list(RANKED)
    return language_modeling_rows(data, tokenizer, BaseLmArguments(sft_texts=texts), config, "train")


def test_the_best_texts_end_in_eos(tokenizer, tmp_path):
    rows = lm_rows(tokenizer, tmp_path)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]
    assert sorted(texts) == [PROMPT + "Fine copper.", PROMPT + "Good stone."]
    assert {ids[-1] for ids in rows["input_ids"]} == {tokenizer.eos_token_id}
    assert {ids[0] for ids in rows["input_ids"]} == {tokenizer.bos_token_id}


def test_all_texts_and_the_response_alone(tokenizer, tmp_path):
    rows = lm_rows(tokenizer, tmp_path, texts="all", completion_only_loss=True)
    assert len(rows) == 3
    for row in rows:
        learned = [token for token, counts in zip(row["input_ids"], row["completion_mask"]) if counts]
        assert tokenizer.decode(learned, skip_special_tokens=True).strip() in {"Good stone.", "Bad.", "Fine copper."}
        assert learned[-1] == tokenizer.eos_token_id


def test_a_long_text_loses_its_beginning(tokenizer, tmp_path):
    (short, *_) = lm_rows(tokenizer, tmp_path, max_length=12)["input_ids"]
    assert len(short) == 12 and short[-1] == tokenizer.eos_token_id and short[0] == tokenizer.bos_token_id


def test_an_unknown_choice_of_texts_is_refused():
    with pytest.raises(InputError, match="`sft_texts` is 'good'; it must be one of 'best', 'all'"):
        BaseLmArguments(sft_texts="good")


def test_the_recipe_trains_a_causal_lm_that_grft_takes(base_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    output = tmp_path / "sft"
    data = json.dumps({"helpful": {"path": "data/samples/hh/helpful-base", "source": "hh", "fraction": 0.05}})
    flags = [
        "--model_name_or_path",
        base_model(),
        "--output_dir",
        str(output),
        "--tiny_base",
        "{}",
        "--use_cpu",
        "true",
    ]
    flags += ["--train_datasets", data, "--eval_datasets", data, "--max_length", "48", "--max_steps", "6"]
    flags += ["--learning_rate", "1e-2", "--disable_tqdm", "true", "--cpu_threads", "1"]
    monkeypatch.setattr(sys, "argv", ["sft.py", *flags])
    runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("│ helpful"))
    before, after = (float(cell) for cell in line.split("│")[2:4])
    assert after < before - 0.2
    assert not list(output.rglob("*.bin")) and not list(output.rglob("README.md"))
    assert AutoModelForCausalLM.from_pretrained(output).config.architectures == ["LlamaForCausalLM"]
    assert load_tokenizer(str(output)).truncation_side == "left"

    (output / "notes.txt").write_text("mine")
    assert {*own_files(output)} | {"notes.txt"} == {
        name for name, content in tree(output).items() if content != "folder"
    }
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")
    assert "has an earlier run; nothing was changed" in capsys.readouterr().err
    sys.argv += ["--overwrite_output_dir", "true", "--max_steps", "1", "--save_strategy", "no"]
    runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")
    assert (output / "notes.txt").read_text() == "mine" and not list(output.glob("checkpoint-*"))
    assert {*own_files(output)} >= {"model.safetensors", "trainer_state.json", "generation_config.json"}


def test_auto_goes_on_from_a_checkpoint_of_the_base_lm_stage(base_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    output = tmp_path / "sft"
    data = json.dumps({"helpful": {"path": "data/samples/hh/helpful-base", "source": "hh", "fraction": 0.05}})
    flags = [
        "--model_name_or_path",
        base_model(),
        "--output_dir",
        str(output),
        "--tiny_base",
        "{}",
        "--use_cpu",
        "true",
    ]
    flags += ["--train_datasets", data, "--eval_datasets", "{}", "--max_length", "48", "--max_steps", "3"]
    flags += ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "3", "--logging_steps", "1"]
    monkeypatch.setattr(sys, "argv", ["sft.py", *flags, "--disable_tqdm", "true", "--cpu_threads", "1"])

    def run(*more):
        sys.argv += more
        runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")
        steps = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
        weights = AutoModelForCausalLM.from_pretrained(output).state_dict()
        return steps, {name: value.clone() for name, value in weights.items()}

    steps, whole = run()
    assert steps == ["1/3", "2/3", "3/3"]
    # Killed while writing its third checkpoint: that one is skipped, with and without the flag to overwrite.
    for more in (["--resume_from_checkpoint", "auto"], ["--overwrite_output_dir", "true"]):
        (output / "checkpoint-3" / "manifest.json").unlink()
        steps, resumed = run(*more)
        assert steps == ["3/3"]
        assert all(value.equal(resumed[name]) for name, value in whole.items())


def base_lm_trainer(base_model, tokenizer, folder):
    config = BaseLmConfig(output_dir=str(folder), use_cpu=True, max_steps=1, save_strategy="epoch", disable_tqdm=True)
    rows = language_modeling_rows(Dataset.from_list(RANKED), tokenizer, BaseLmArguments(), config, "train")
    model = load_base_lm(ModelConfig(base_model()), config, tokenizer)
    return BaseLmTrainer(model, config, train_dataset=rows, processing_class=tokenizer)


def test_a_checkpoint_folder_that_another_process_makes_first_is_ours(base_model, tokenizer, tmp_path, monkeypatch):
    trainer = base_lm_trainer(base_model, tokenizer, tmp_path / "sft")
    save_model = trainer.save_model

    def make_and_save(folder=None, **kwargs):
        Path(folder or tmp_path).mkdir(parents=True, exist_ok=True)
        save_model(folder, **kwargs)

    monkeypatch.setattr(trainer, "save_model", make_and_save)
    begin_run(trainer.args.output_dir)
    trainer.train()
    assert [path.name for path in (tmp_path / "sft").glob("checkpoint-*")] == ["checkpoint-1"]
    assert find_damage(tmp_path / "sft" / "checkpoint-1") is None


def test_a_process_that_does_not_save_writes_nothing(base_model, tokenizer, tmp_path, monkeypatch):
    trainer = base_lm_trainer(base_model, tokenizer, tmp_path / "sft")
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer.save_weights(str(tmp_path / "sft" / "checkpoint-1"))
    assert not (tmp_path / "sft" / "checkpoint-1").exists()


def test_a_disk_that_is_full_while_torch_saves_is_said(base_model, tokenizer, tmp_path, monkeypatch):
    trainer = base_lm_trainer(base_model, tokenizer, tmp_path / "sft")

    def fail(**_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2814784 vs 2814676")

    monkeypatch.setattr(trainer, "train", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(InputError, match=r"sft could not be written: the disk is full .* Make room, then resume"):
        run_base_lm(trainer, None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    with pytest.raises(RuntimeError, match="unexpected pos"):
        run_base_lm(trainer, None)


def change_config(**values):
    return lambda folder: file_damage.change(**values)(folder / "config.json")


def unsafe(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def empty(folder):
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})


def shorter(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "q_proj" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def generates(content):
    return lambda folder: (folder / "generation_config.json").write_text(content)


WRONG_BASES = [
    (generates("[1, 2]"), r"generation_config\.json has a list"),
    (generates('{"eos_token_id": '), r"generation_config\.json is not valid JSON"),
    (change_config(hidden_act="no-such"), r"cannot be loaded as a causal LM: `hidden_act` is 'no-such'"),
    (change_config(hidden_size=32), r"the weights do not have the shapes that its `config\.json` gives"),
    (change_config(num_hidden_layers=200), r"config\.json describes a model of .* the weights beside it have"),
    (empty, r"lacks \d+ weights of its own architecture"),
    (shorter, r"lacks 1 weights of its own architecture"),
    (unsafe, r"weights in pickles \(`pytorch_model\.bin`\) are not read"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_BASES)
def test_a_base_lm_that_cannot_be_loaded_is_one_line(base_model, tokenizer, tmp_path, damage, message):
    folder = tmp_path / "base"
    shutil.copytree(base_model(), folder)
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        load_base_lm(ModelConfig(str(folder)), BaseLmConfig(output_dir=str(tmp_path / "out"), use_cpu=True), tokenizer)
    assert "\n" not in str(error.value)

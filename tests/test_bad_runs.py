"""A user's mistake about the model or the run: a short message with the remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.training import stages
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.resume_from import goes_on, resolve_resume
from rm_toolkit.training.runtime import claim_output_dir


ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path, base_model, base_encoder, rows):
    """A folder to make mistakes in: a base, an encoder, text and chat data, and methods to change them."""

    class Place:
        path = tmp_path
        encoder = base_encoder("bert")
        output = tmp_path / "output"

        def base(self, **changes):
            """A copy of the tiny Llama with files replaced (bytes) or removed (None)."""
            folder = tmp_path / "base"
            shutil.copytree(base_model(), folder, dirs_exist_ok=True)
            for name, content in changes.items():
                file = folder / name.replace("__", ".")
                if content is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_bytes(content)
            return str(folder)

        def config(self, **values):
            folder = Path(self.base())
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, **values}))
            return str(folder)

        def data(self, items=None, name="data.json"):
            file = tmp_path / name
            if items is None:
                items = [
                    {"text": [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]], "score": [1.0, 0.0]}
                    for row in rows.pairs(4)
                ]
            file.write_text(json.dumps(items))
            return str(file)

        def model(self, class_name, config_name, **config):
            """A random model of another kind, with the tiny Llama's tokenizer."""
            import transformers

            folder = tmp_path / "other"
            built = getattr(transformers, class_name)(getattr(transformers, config_name)(**config))
            built.save_pretrained(folder)
            for name in ("tokenizer.model", "tokenizer_config.json"):
                shutil.copy(Path(base_model(), name), folder)
            return str(folder)

        def checkpoint(self, *names):
            folder = tmp_path / "checkpoint-7"
            folder.mkdir()
            for name in names:
                (folder / name).write_bytes(b"{}")
            return str(folder)

    return Place()


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"vocab_size": 420, "d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
LLAMA = {
    "vocab_size": 420,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_labels": 3,
    "pad_token_id": 0,
}

# What is wrong -> the flags that differ from a valid run, and the message. A flag's value may be a function of
# `place`.
CASES = {
    "a base that is no language model": (
        lambda place: {"model_name_or_path": place.model("ViTModel", "ViTConfig", **VIT)},
        r"'.*other' is a 'vit' model, which transformers cannot load as a text classifier: it is not a language "
        r"model\. Start",
    ),
    "a base with another kind of head": (
        lambda place: {
            "model_name_or_path": place.model("T5ForConditionalGeneration", "T5Config", **T5),
            "max_length": 48,
        },
        r"T5ForSequenceClassification has no single linear layer `score` or `classifier`",
    ),
    "a classifier of several labels": (
        lambda place: {"model_name_or_path": place.model("LlamaForSequenceClassification", "LlamaConfig", **LLAMA)},
        r"'.*other' is a classifier with `num_labels` 3 \(`id2label` of its config\.json\); a reward model has exactly 1\. Start from",
    ),
    "a folder that is not there": (
        lambda place: {"model_name_or_path": str(place.path / "nowhere")},
        r"'.*nowhere' is not a local folder and not a Hub id",
    ),
    "a relative path that is not there": (
        lambda place: {"model_name_or_path": "some/where/else"},
        r"'some/where/else' is not a local folder and not a Hub id \(NAMESPACE/NAME\)\. Check the path",
    ),
    "a Hub id out of reach": (
        lambda place: {"model_name_or_path": "nobody/nothing"},
        r"'nobody/nothing' is not a local folder, and the Hub cannot be reached for it\. Give a folder",
    ),
    "no model at all": (lambda place: {"model_name_or_path": ""}, r"`model_name_or_path` is not set; give a folder"),
    "the weights instead of their folder": (
        lambda place: {"model_name_or_path": place.base() + "/model.safetensors"},
        r"model.safetensors' is a file; name the folder with `config.json`",
    ),
    "a folder of several models": (
        lambda place: {"model_name_or_path": str(Path(place.base()).parent)},
        r"it has no `config.json`\. Did you mean '.*base'\?",
    ),
    "a config that is no JSON": (
        lambda place: {"model_name_or_path": place.base(config__json=b"{not")},
        r"base/config\.json is not valid JSON \(.*\)\. Save the model again, or restore the file",
    ),
    "a folder without weights": (
        lambda place: {"model_name_or_path": place.base(model__safetensors=None)},
        r"'.*base' has a `config.json` but no weights \(`model.safetensors`\)\. Download or save",
    ),
    "weights of the old pickled form": (
        lambda place: {"model_name_or_path": place.base(model__safetensors=None, pytorch_model__bin=b"x")},
        r"weights in pickles \(`pytorch_model.bin`\) are not read, .* convert it once: python -c",
    ),
    "a safetensors file cut short": (
        lambda place: {"model_name_or_path": place.base(model__safetensors=b"\x10\x00\x00\x00\x00\x00\x00\x00{}")},
        r"base/model\.safetensors is damaged \(.*\)\. Save the model again, or restore the file",
    ),
    "weights of other shapes than the config": (
        lambda place: {"model_name_or_path": place.config(hidden_size=32)},
        r"'.*base': the weights do not have the shapes that its `config.json` gives \('llama'\)",
    ),
    "more layers than weights": (
        lambda place: {"model_name_or_path": place.config(num_hidden_layers=3)},
        r"'.*base' lacks 9 weights of its own architecture \(first: 'model.layers.2.*'\)",
    ),
    "an attention that does not exist": (
        lambda place: {"attn_implementation": "sdpx"},
        r"cannot be loaded as a reward model: Specified `attn_implementation=\"sdpx\"` is not supported",
    ),
    "no tokenizer": (
        lambda place: {"model_name_or_path": place.base(tokenizer__model=None, tokenizer_config__json=None)},
        r"no tokenizer could be loaded from '.*base': there is no `tokenizer.json` .* --tokenizer_name_or_path",
    ),
    "a tokenizer of a larger model": (
        lambda place: {"model_name_or_path": place.encoder, "tokenizer_name_or_path": place.base(), "max_length": 48},
        r"the tokenizer of '.*' has 420 tokens, but the model's embedding has 128 rows: it is for another model",
    ),
    "cls of a decoder": (
        lambda place: {"pooling_type": "cls"},
        r"`pooling_type` is 'cls', but LlamaForSequenceClassification is a decoder.* Use 'last'",
    ),
    "eos without an EOS token": (
        lambda place: {"model_name_or_path": place.encoder, "pooling_type": "eos", "max_length": 48},
        r"`pooling_type` is 'eos', but the tokenizer has no `eos_token`",
    ),
    "an LM loss of an encoder": (
        lambda place: {
            "model_name_or_path": place.encoder,
            "pooling_type": "average",
            "max_length": 48,
            "lm_loss_coef": 0.1,
        },
        r"`lm_loss_coef` is above 0, but '.*' has no language-modeling head .* Set `lm_loss_coef: 0`",
    ),
    "texts longer than the positions": (
        lambda place: {"model_name_or_path": place.encoder, "max_length": 512},
        r"`max_length` is 512, but BertForSequenceClassification has positions for 256 tokens",
    ),
    "CRFT from a base without a head": (
        lambda place: {"stage": "crft"},
        r"'.*base' has no reward head \(`score.weight`\).*`accelerate launch recipes/grft.py`",
    ),
    "LoRA modules that are not there": (
        lambda place: {"use_peft": "true", "lora_target_modules": "q_porj"},
        r"`lora_target_modules` has 'q_porj', but .* has no such module\. Did you mean 'q_proj'\? It has",
    ),
    "a LoRA rank of 0": (
        lambda place: {"use_peft": "true", "lora_r": 0},
        r"argument --lora_r.*: it is '0'; it must be a whole number from 1 to 65,536",
    ),
    "a chat template that refuses the data": (
        lambda place: {
            "model_name_or_path": place.base(chat_template__jinja=b"{{ raise_exception('no user turns') }}"),
            "data_format": "chat",
        },
        r"the tokenizer's chat template refuses some of the messages: no user turns\. Change .* --format text",
    ),
    "only ties": (
        lambda place: {"train_datasets": "toy=" + place.data([{"text": ["a b", "a c"], "score": [1.0, 1.0]}])},
        r"dataset 'train' has 1 rows but not one pair with a preference \(1 ties\)",
    ),
    "nothing to train on": (lambda place: {"train_datasets": None}, r"`train_datasets` is empty; name at least one"),
    "an output folder in use": (
        lambda place: (
            place.output.mkdir(),
            (place.output / "rm_toolkit.json").write_text('{"pooling_type": "last"}'),
            {},
        )[-1],
        r"output has an earlier run; nothing was changed\. Pass --overwrite_output_dir",
    ),
    "an output folder of something else": (
        lambda place: (
            place.output.mkdir(),
            (place.output / "config.json").write_text("mine"),
            {"overwrite_output_dir": "true"},
        )[-1],
        r"output has files, but no run of this toolkit has written it .*--overwrite_output_dir leaves it alone",
    ),
    "an output folder that is a file": (
        lambda place: (place.output.write_text("mine"), {})[-1],
        r"`output_dir` .*output is a file; name a folder",
    ),
    "an output folder below a file": (
        lambda place: {"output_dir": place.data() + "/run"},
        r"`output_dir` .*run: .*data.json is a file; name a folder",
    ),
    "a checkpoint that is not there": (
        lambda place: {"resume_from_checkpoint": str(place.path / "checkpoint-9")},
        r"`resume_from_checkpoint` is '.*checkpoint-9', which is not a folder",
    ),
    "a checkpoint without weights": (
        lambda place: {"resume_from_checkpoint": place.checkpoint("trainer_state.json")},
        r"`resume_from_checkpoint` is '.*checkpoint-7', which has no weights \(`\*.safetensors`\)",
    ),
    "a model instead of a checkpoint": (
        lambda place: {"resume_from_checkpoint": place.checkpoint("model.safetensors")},
        r"which has no state of a run \(`trainer_state.json`\), so it is not a checkpoint",
    ),
    "no checkpoint to resume from": (
        lambda place: {"resume_from_checkpoint": "true"},
        r"output has no checkpoint to resume from\. Start without the flag, or use `auto`",
    ),
    "a number that is none": (
        lambda place: {"max_length": "long"},
        r"argument --max_length.*: it is 'long'; it must be a whole number of tokens from 4 to .*\. `--help` lists",
    ),
}


def command_line(place, changes):
    defaults = {
        "train_datasets": f"toy={place.data(name='train.json')}",
        "output_dir": str(place.output),
        "use_cpu": "true",
        "max_length": 64,
        "lm_loss_coef": 0,
        "domain": "literature",
        "disable_tqdm": "true",
        "pairs_per_step": 4,
        "per_device_train_batch_size": 4,
    }
    if "model_name_or_path" not in changes:
        defaults["model_name_or_path"] = place.base()
    recipe = place.path / "recipe.yaml"
    recipe.write_text("seed: 1\nreport_to: none\nbf16: false\ngradient_checkpointing: false\n")
    flags = {name: value for name, value in {**defaults, **changes}.items() if value is not None}
    return ["--config", str(recipe), *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]


def run_in_process(stage, argv):
    """Does what `recipes/<stage>.py` does, up to the first optimizer step."""
    recipe, training, model = parse_recipe(ROOT / "recipes" / "tiny" / f"{stage}.yaml", argv)
    resume = resolve_resume(training)
    claim_output_dir(training.output_dir, overwrite=recipe.overwrite_output_dir, resume=goes_on(training, resume))
    train, evaluation, _ = stages.load_stage_data(recipe, training)
    return stages.build_trainer(recipe, training, model, train, evaluation, stage=stage)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_with_its_remedy(place, case):
    make, message = CASES[case]
    changes = dict(make(place))
    stage = changes.pop("stage", "grft")
    argv = command_line(place, changes)
    before = contents(place.path)
    with pytest.raises(InputError, match=message) as error:
        run_in_process(stage, argv)
    text = str(error.value)
    print(f"\n{case}: {text}")
    assert "Traceback" not in text and "\n" not in text and len(text) < 700
    assert contents(place.path) == before, "a run that could not begin has written something"


def test_the_run_without_a_mistake_begins(place):
    trainer = run_in_process("grft", command_line(place, {}))
    assert len(trainer.train_dataset) > 0


# ---- as users see it ----


@pytest.mark.parametrize(
    "case",
    [
        "a safetensors file cut short",
        "an output folder in use",
        pytest.param("a base that is no language model", marks=pytest.mark.slow),
        pytest.param("cls of a decoder", marks=pytest.mark.slow),
    ],
)
def test_a_recipe_prints_one_line_and_exits_with_2(place, case):
    make, message = CASES[case]
    changes = dict(make(place))
    argv = command_line(place, changes)
    before = contents(place.path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "grft.py"), *argv],
        cwd=place.path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    with pytest.raises(InputError, match=message):
        raise InputError(lines[0])
    assert contents(place.path) == before


def test_overwriting_waits_until_the_new_run_can_begin(place):
    """A mistake in the flags must not cost the earlier run."""
    place.output.mkdir()
    (place.output / "rm_toolkit.json").write_text('{"pooling_type": "last"}')
    changes = {"model_name_or_path": place.base(model__safetensors=None), "overwrite_output_dir": "true"}
    with pytest.raises(InputError, match="no weights"):
        run_in_process("grft", command_line(place, changes))
    assert (place.output / "rm_toolkit.json").read_text() == '{"pooling_type": "last"}'

"""Damaged model folders: whatever is wrong with a file, one line names the file, the key, and what to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.models.adapter_files import read_adapter
from rm_toolkit.models.files import ADAPTER_CONFIG, CONFIG_NAME, SETTINGS_NAME, TRAINING_LOG_NAME, find_row
from rm_toolkit.models.folder_checks import weight_headers
from rm_toolkit.models.folder_rules import RULES
from rm_toolkit.models.lm_head import find_lm_head
from rm_toolkit.models.loading import load_classifier_config, load_config
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import load_settings
from rm_toolkit.models.tokenizer import load_tokenizer
from rm_toolkit.training.watching import read_run


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from file_damage import change
from folder_attacks import ADAPTER, attacks


ATTACKS = {attack.name: attack for attack in attacks()}
# Found only when the whole model is loaded, which takes longer: tried only by benchmarks/model_folders.py.
WHOLE = ("rope_type", "activation", "attn_implementation", "target_modules is [", "is not there", "of the wrong shape")
WHOLE += (
    "lacks",
    "not finite",
    "no tensors",
    "is pickled",
    "integers",
    "is 900",
    "1099511627776",
    "131072",
    'is ""',
    'is "."',
    "is missing",
)


@pytest.fixture(scope="module")
def whole(reward_model, tmp_path_factory):
    """A reward model with an adapter and an LM head."""
    from peft import LoraConfig

    from rm_toolkit.models.saving import save_reward_model

    source = reward_model()
    model = RewardModel.from_pretrained(source, with_lm_head=True)
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    folder = tmp_path_factory.mktemp("folders") / "model"
    save_reward_model(model, folder, load_tokenizer(source), merge=True)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (folder / name).write_text("{}")
    (folder / TRAINING_LOG_NAME).write_text('{"log_history": [{"step": 1, "loss": 0.5}], "max_steps": 1}')
    return folder


def read(file: str, folder: Path) -> None:
    """Reads a file of a model folder as the commands do."""
    if file.startswith(f"{ADAPTER}/"):
        read_adapter(str(folder / ADAPTER))
    elif file == "lm_head/model.safetensors":
        find_lm_head(str(folder), load_config(str(folder)))
    elif file == "model.safetensors":
        weight_headers(str(folder))
    elif file == TRAINING_LOG_NAME:
        read_run(folder)
    elif file == SETTINGS_NAME:
        load_settings(str(folder))
    elif file == CONFIG_NAME:
        load_classifier_config(str(folder))
    else:
        load_tokenizer(str(folder))


def is_quick(attack) -> bool:
    if attack.harmless and not attack.file.startswith("lm_head"):
        return False
    of_template = attack.file == "chat_template.jinja"
    return (
        not any(part in attack.name for part in WHOLE) and not of_template and attack.file != "generation_config.json"
    )


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if is_quick(attack)])
def test_a_file_of_the_wrong_shape_is_one_line_that_names_it_and_its_key(name, whole, tmp_path):
    attack, folder = ATTACKS[name], tmp_path / "model"
    shutil.copytree(whole, folder)
    attack.apply(folder)
    with pytest.raises(InputError) as error:
        read(attack.file, folder)
    said = str(error.value)
    assert "\n" not in said
    kind = "safetensors" if attack.file.endswith("safetensors") else Path(attack.file).name
    assert kind in said or any(other in said for other in attack.also)
    assert attack.key is None or attack.key in said


def test_the_whole_folder_is_read_without_a_complaint(whole):
    for file in {attack.file for attack in ATTACKS.values()}:
        read(file, whole)


def test_every_json_file_of_the_table_that_is_loaded_has_rules():
    read_here = {CONFIG_NAME, SETTINGS_NAME, ADAPTER_CONFIG, "tokenizer.json", "tokenizer_config.json"}
    assert read_here <= RULES.keys() and all(find_row(name).loaded for name in RULES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 200}, r"config\.json describes a model of .* in 1,8\d\d tensors \(`num_hidden_layers` 200,"),
        ({"hidden_size": 1 << 17, "head_dim": 8}, r"config\.json describes a model of .*`hidden_size` 131,072"),
        ({"vocab_size": 16_000_000}, r"config\.json describes a model of .*`vocab_size` 16,000,000"),
    ],
)  # fmt: skip
def test_a_config_of_another_model_s_size_is_refused_before_anything_of_that_size_is_made(
    changes, said, whole, tmp_path
):
    shutil.copytree(whole, tmp_path / "model")
    change(**changes)(tmp_path / "model" / "config.json")
    with pytest.raises(InputError, match=said):
        RewardModel.from_pretrained(str(tmp_path / "model"))


def test_a_reward_head_that_is_not_finite_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "model")
    ATTACKS["model.safetensors has a reward head that is not finite"].apply(tmp_path / "model")
    with pytest.raises(InputError, match=r"the reward head in its safetensors has values that are not finite"):
        RewardModel.from_pretrained(str(tmp_path / "model"))


def test_rewards_that_are_not_finite_are_refused(whole, tmp_path):
    from rm_toolkit.scoring.scorer import RewardScorer

    shutil.copytree(whole, tmp_path / "model")
    ATTACKS["model.safetensors has a layer that is not finite"].apply(tmp_path / "model")
    with pytest.raises(
        InputError, match=r"the rewards of 2 of 2 texts are not finite \(NaN or inf\): the weights of '.*'"
    ):
        RewardScorer(str(tmp_path / "model")).score(["a", "b"], ["c", "d"])


@pytest.mark.filterwarnings("error::FutureWarning")
def test_the_tokenizer_of_an_unknown_architecture_loads_without_a_word(whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "model")
    change(model_type="no-such-model", rope_scaling={"rope_type": "default"})(tmp_path / "model" / CONFIG_NAME)
    assert load_tokenizer(str(tmp_path / "model")) and not caplog.records

"""
What vLLM and sglang read from a saved folder, and the commands that start them, checked without either. A real vLLM
runs in `benchmarks/readers.py`.

Sources: vllm-project/vllm (`layers/pooler/activations.py`, `models/adapters.py`,
`entrypoints/pooling/base/protocol.py`, `docs/models/pooling_models`) and sgl-project/sglang
(`srt/models/llama_reward.py`, `qwen3_classification.py`).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from rm_toolkit.batches.scored_texts import tokenize_texts
from rm_toolkit.cli import main
from rm_toolkit.models.settings import RewardModelSettings, load_settings
from rm_toolkit.scoring.serving import serving_commands


ROOT = Path(__file__).parents[2]
KINDS = [("llama", "text", "last"), ("llama", "text", "eos"), ("qwen3", "text", "last"), ("qwen3", "chat", "last")]
CLASS = {"llama": "LlamaForSequenceClassification", "qwen3": "Qwen3ForSequenceClassification"}


@pytest.fixture(params=KINDS, ids=["-".join(kind) for kind in KINDS])
def saved(request, reward_model):
    architecture, data_format, pooling_type = request.param
    return Path(reward_model(architecture, data_format=data_format, pooling_type=pooling_type)), architecture


def vllm_activation(config):
    """`get_classification_activation_function`: what /classify applies to the score."""
    kind = getattr(config, "problem_type", "")
    if kind == "regression":
        return "identity"
    return "sigmoid" if kind == "multi_label_classification" or config.num_labels < 2 else "softmax"


def test_the_config_makes_it_a_classifier_whose_score_is_the_reward(saved):
    folder, architecture = saved
    raw = json.loads((folder / "config.json").read_text())
    assert raw["architectures"] == [CLASS[architecture]]  # `*For*Classification`: --convert classify, LAST pooling
    config = AutoConfig.from_pretrained(folder)
    assert config.num_labels == 1 and vllm_activation(config) == "identity"
    # sglang's Qwen3 class normalizes the pooled state if the config has no labels.
    assert config.id2label == {0: "LABEL_0"}
    # Reranker conversion or sentence-transformers' files would change the activation, the pooling or the head.
    turned = {"classifier_from_token", "method", "sentence_transformers", "sbert_ce_default_activation_function"}
    assert not turned & raw.keys() and not {"pooler_config", "use_pad_token", "is_matryoshka"} & raw.keys()
    assert not [name for name in ("modules.json", "config_sentence_transformers.json") if (folder / name).exists()]
    assert config.max_position_embeddings >= load_settings(str(folder)).max_length


def test_a_config_without_problem_type_would_be_read_as_a_probability(saved):
    config = AutoConfig.from_pretrained(saved[0])
    config.problem_type = None
    assert vllm_activation(config) == "sigmoid"


def test_the_top_level_weights_are_the_classifiers_alone(saved):
    """Both servers load every `*.safetensors` beside the config; the head is a linear layer `score` without bias."""
    folder, _ = saved
    files = [path.name for path in folder.glob("*.safetensors*")]
    assert files == ["model.safetensors"] and not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    with safe_open(folder / "model.safetensors", framework="pt") as handle:
        shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
    config = AutoConfig.from_pretrained(folder)
    assert shapes["score.weight"] == [1, config.hidden_size] and "score.bias" not in shapes
    assert all(name.startswith("model.") for name in shapes if name != "score.weight")


def test_what_a_server_tokenizes_is_what_the_model_was_trained_on(saved):
    """`input` is tokenized with special tokens, rendered `messages` without; the reward is read at the last token."""
    folder, _ = saved
    settings, tokenizer = load_settings(str(folder)), AutoTokenizer.from_pretrained(folder)
    prompt, completion = "## Human:\nriver?\n\n## Assistant:\n", "stone lantern."
    if settings.data_format == "text":
        text = (prompt, completion)
        served = tokenizer(prompt + completion, add_special_tokens=True)["input_ids"]
    else:
        text = ([{"role": "user", "content": "river?"}], [{"role": "assistant", "content": completion}])
        rendered = tokenizer.apply_chat_template(text[0] + text[1], tokenize=False, add_generation_prompt=False)
        served = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    data, _ = tokenize_texts([text], tokenizer, max_length=settings.max_length, data_format=settings.data_format)
    assert served == data.sequence(0).tolist()
    assert served[-1] != tokenizer.pad_token_id


def section(title):
    return (ROOT / "rm_toolkit" / "scoring" / "README.md").read_text().split(f"## {title}")[1].split("\n## ")[0]


def test_the_readme_asks_as_vllm_wants_it():
    """vLLM silently ignores unknown fields, so their names are checked; the page has no start command of its own."""
    text = section("Serve")
    requests = [json.loads(found) for found in re.findall(r"-d '(\{.*?\})'\n", text, re.S)]
    assert len(requests) == 2 and [set(request) for request in requests] == [{"model", "input"}, {"model", "messages"}]
    assert "rm-toolkit serve-command outputs/grft" in text and "vllm serve" not in text
    assert [word for word in ("--max-model-len", "--is-embedding", "--force_truncation") if word in text] == []


# ---- the commands for this model ----


def commands_of(config=None, revision=None, adapter=False, **settings):
    config = {"architectures": ["LlamaForSequenceClassification"], "problem_type": "regression"} | (config or {})
    settings = RewardModelSettings(**{"max_length": 256, **settings})
    return serving_commands("me/rm", settings, config, revision=revision, adapter=adapter)


def test_each_command_holds_the_models_own_length():
    commands = commands_of(data_format="chat")
    assert commands["vllm"].line == (
        "vllm serve me/rm --runner pooling --convert classify --max-model-len 256 --dtype float32"
    )
    # sglang refuses a text that is as long as its context.
    assert commands["sglang"].line == (
        "python -m sglang.launch_server --model-path me/rm --is-embedding --context-length 257 --dtype float32"
    )
    assert commands["rewardbench"].line == (
        "rewardbench --model me/rm --max_length 256 --force_truncation --torch_dtype float32 --not_quantized"
    )
    assert all(
        command.line.endswith("--revision v2") for command in commands_of(revision="v2", data_format="chat").values()
    )


def test_what_a_program_needs_more_or_cannot_is_said():
    full = commands_of({"max_position_embeddings": 256})["sglang"].line
    assert full.startswith("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 python")
    assert "no chat template" in commands_of()["rewardbench"].reason
    encoder = commands_of({"architectures": ["BertForSequenceClassification"]}, data_format="chat", pooling_type="cls")
    assert encoder["rewardbench"].line.endswith("--batch_size 1")  # with left padding, [CLS] would not come first
    assert "not BertForSequenceClassification: use vLLM" in encoder["sglang"].reason
    foreign = commands_of({"problem_type": None})["vllm"].words
    assert foreign[-2:] == ["--pooler-config", '{"use_activation": false}']
    for commands, reason in [
        (commands_of(pooling_type="max", stock=False), "rm_toolkit only"),
        (commands_of(adapter=True), "serve the run's folder"),
    ]:
        assert all(reason in command.reason and not command.words for command in commands.values())


def test_the_command_prints_them_without_the_weights(reward_model, tmp_path, capsys):
    folder = Path(shutil.copytree(reward_model("qwen3", data_format="chat"), tmp_path / "rm"))
    (folder / "model.safetensors").unlink()
    assert main(["serve-command", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[::2] == ["# vLLM", "# sglang", "# RewardBench"] and "--max-model-len 128" in printed[1]
    for model in ([str(folder)], ["--model", str(folder)]):
        assert main(["serve-command", *model, "--server", "rewardbench"]) == 0
        assert capsys.readouterr().out == printed[5] + "\n"
    assert main(["serve-command"]) == 2 and "no model is given" in capsys.readouterr().err
    assert main(["serve-command", "a", "--model", "b"]) == 2 and "2 models are given" in capsys.readouterr().err
    assert main(["serve-command", reward_model("llama"), "--server", "rewardbench"]) == 2
    assert "RewardBench cannot serve" in capsys.readouterr().err
    assert main(["serve-command", str(tmp_path)]) == 2
    assert "is not a model" in capsys.readouterr().err

"""
What vLLM and sglang read of a saved folder, checked without them: neither runs on the machines that run these tests.

Read in vllm-project/vllm (`layers/pooler/activations.py`, `models/adapters.py`, `entrypoints/pooling/base/protocol.py`,
`docs/models/pooling_models`) and sgl-project/sglang (`srt/models/llama_reward.py`, `qwen3_classification.py`).
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from rm_toolkit.batches.scored_texts import tokenize_texts
from rm_toolkit.models.settings import load_settings


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
    # sglang's Qwen3 class normalises the pooled state of a config without labels.
    assert config.id2label == {0: "LABEL_0"}
    # What would change the activation, the pooling or the head: reranker conversion, sentence-transformers' files.
    turned = {"classifier_from_token", "method", "sentence_transformers", "sbert_ce_default_activation_function"}
    assert not turned & raw.keys() and not {"pooler_config", "use_pad_token", "is_matryoshka"} & raw.keys()
    assert not [name for name in ("modules.json", "config_sentence_transformers.json") if (folder / name).exists()]
    assert config.max_position_embeddings >= load_settings(str(folder)).max_length


def test_a_config_without_problem_type_would_be_read_as_a_probability(saved):
    config = AutoConfig.from_pretrained(saved[0])
    config.problem_type = None
    assert vllm_activation(config) == "sigmoid"


def test_the_top_level_weights_are_the_classifiers_alone(saved):
    """Both servers load every `*.safetensors` beside the config; the head is one linear layer `score` without bias."""
    folder, _ = saved
    files = [path.name for path in folder.glob("*.safetensors*")]
    assert files == ["model.safetensors"] and not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
    with safe_open(folder / "model.safetensors", framework="pt") as handle:
        shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
    config = AutoConfig.from_pretrained(folder)
    assert shapes["score.weight"] == [1, config.hidden_size] and "score.bias" not in shapes
    assert all(name.startswith("model.") for name in shapes if name != "score.weight")


def test_what_a_server_tokenizes_is_what_the_model_was_trained_on(saved):
    """`input` is tokenised with special tokens, `messages` are rendered and tokenised without; the last token is read."""
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


def test_the_readme_launches_and_asks_as_vllm_wants_it():
    """Flags and fields by name; vLLM forbids none, but passes over those it does not know."""
    text = section("Serve")
    launch = next(line for line in text.replace("\\\n", " ").splitlines() if line.startswith("vllm serve"))
    words = shlex.split(launch)
    assert words[3:7] == ["--runner", "pooling", "--convert", "classify"]
    assert {word for word in words if word.startswith("--")} <= {"--runner", "--convert", "--max-model-len", "--dtype"}
    requests = [json.loads(found) for found in re.findall(r"-d '(\{.*?\})'\n", text, re.S)]
    fields = {"model", "input", "messages", "truncate_prompt_tokens", "truncation_side", "use_activation"}
    assert len(requests) >= 2
    for request in requests:
        assert (
            set(request) <= fields | {"text"}
            and ("input" in request) + ("messages" in request) + ("text" in request) == 1
        )
    assert requests[0]["truncation_side"] == "left" and requests[0]["truncate_prompt_tokens"] == -1
    assert "Neither server has been run" in text

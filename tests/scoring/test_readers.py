"""All readers of a saved folder get the rewards that training computed; and the RoPE keys for old readers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.models.compatibility import add_legacy_rope_keys
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.testing import build_tiny_model


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def training_rewards(trainer, rows):
    options = {"max_length": trainer.args.max_length, "data_format": trainer.args.data_format, "show_progress": False}
    data = tokenize_preferences(Dataset.from_list(rows), trainer.processing_class, **options)
    return trainer.compute_rewards(data)[data.better].tolist()


def chat_rows(pairs):
    def turn(role, text):
        return [{"role": role, "content": text}]

    return [
        {
            "prompt": turn("user", row["prompt"]),
            "chosen": turn("assistant", row["chosen"]),
            "rejected": turn("assistant", row["rejected"]),
        }
        for row in pairs
    ]


# ---- readers: each takes (folder, prompts, completions) and returns rewards ----


def rendered(folder, prompts, completions):
    if isinstance(prompts[0], str):
        return [prompt + completion for prompt, completion in zip(prompts, completions)]
    texts = [prompt + completion for prompt, completion in zip(prompts, completions)]
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(texts, tokenize=False)


def stock_class(folder, prompts, completions):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(rendered(folder, prompts, completions), truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[:, 0].tolist()


def pipeline_one_by_one(folder, prompts, completions, batch_size=1):
    classifier = pipeline("text-classification", model=str(folder), device="cpu", dtype=torch.float32)
    texts = rendered(folder, prompts, completions)
    return [found["score"] for found in classifier(texts, truncation=True, batch_size=batch_size)]


def pipeline_in_batches(folder, prompts, completions):
    return pipeline_one_by_one(folder, prompts, completions, batch_size=4)


def this_toolkit(folder, prompts, completions):
    return RewardScorer(folder, device="cpu").score(prompts, completions)


def trl_grpo(folder, prompts, completions, policy):
    """TRL's own loading of `reward_funcs="PATH"`, tokenization and reward computation."""
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(folder) + "-grpo",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        num_generations=2,
        per_device_train_batch_size=2,
        model_init_kwargs={"dtype": torch.float32},
    )
    data = Dataset.from_list([{"prompt": prompts[0]}] * 2)
    trainer = GRPOTrainer(policy, reward_funcs=str(folder), args=args, train_dataset=data)
    inputs = [{"prompt": prompt} for prompt in prompts]
    return trainer._calculate_rewards(inputs, prompts, completions, [[0]] * len(prompts))[:, 0].tolist()


def rewardbench_text(tokenizer, prompt, completion):
    """RewardBench's `prepare_dialogue_from_tokenizer`: makes roles alternate, then applies the chat template."""
    messages = [
        {"role": "user" if number % 2 == 0 else "assistant", "content": message["content"]}
        for number, message in enumerate(prompt)
    ]
    messages.append({"role": "assistant", "content": completion[-1]["content"]})
    return tokenizer.apply_chat_template(messages, tokenize=False)


def rewardbench(folder, prompts, completions, version=1):
    """
    RewardBench's computation, reimplemented for a CPU from allenai/reward-bench: `rewardbench/rewardbench.py` and
    `models/pipeline.py` (the default `RewardBenchPipeline`); version 2 from `scripts/run_v2.py`. It loads in 8 bits
    without `--not_quantized`. `--max_length` is the model's own.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    if version == 1:
        tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id = tokenizer.eos_token_id
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    assert tokenizer.chat_template is not None, "without a template it formats with FastChat and appends EOS"
    texts = [rewardbench_text(tokenizer, prompt, completion) for prompt, completion in zip(prompts, completions)]
    inputs = tokenizer(texts, truncation=version == 2, max_length=256, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[:, 0].tolist()


def rewardbench_2(folder, prompts, completions):
    return rewardbench(folder, prompts, completions, version=2)


READERS = {
    "stock class, padded batch": stock_class,
    "pipeline, one by one": pipeline_one_by_one,
    "pipeline, batches of 4": pipeline_in_batches,
    "rm_toolkit RewardScorer": this_toolkit,
}


CHAT_READERS = {"RewardBench": rewardbench, "RewardBench 2": rewardbench_2}


def read_by_all(folder, rows, expected, *, policy=None):
    """Rewards by reader, printed as a table (`pytest -s`); `policy` adds readers that only read chat models."""
    prompts, completions = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    table = {"training": expected}
    table.update({name: reader(folder, prompts, completions) for name, reader in READERS.items()})
    if policy is not None:
        table.update({name: reader(folder, prompts, completions) for name, reader in CHAT_READERS.items()})
        table["TRL GRPO, reward_funcs=PATH"] = trl_grpo(folder, prompts, completions, policy)
    print()
    for name, rewards in table.items():
        print(f"| {name:<26} | " + " | ".join(f"{reward:+.6f}" for reward in rewards) + " |")
    return table


def assert_the_same_number(table):
    assert np.ptp(table["training"]) > 0.1, "all rewards are alike: nothing is tested"
    for name, rewards in table.items():
        np.testing.assert_allclose(rewards, table["training"], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pooling_type", ["last", "eos"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_every_reader_gives_the_same_number_for_text(
    make_trainer, base_model, rows, tmp_path, architecture, pooling_type
):
    pairs = rows.pairs(5)
    pairs[1]["chosen"] = "river stone lantern " * 30  # over-long
    trainer = make_trainer(pairs, base_model(architecture), pooling_type=pooling_type)
    trainer.train()
    trainer.save_model(str(tmp_path / "rm"))
    assert_the_same_number(read_by_all(tmp_path / "rm", pairs, training_rewards(trainer, pairs)))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # TRL's own default
@pytest.mark.filterwarnings("ignore:`max_length` is ignored when `padding`:UserWarning")  # RewardBench's
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_every_reader_gives_the_same_number_for_chat(make_trainer, base_model, rows, tmp_path, architecture):
    """Llama's tokenizer prepends a BOS to every text; the saved one must not, or the pipeline would read two."""
    chats = chat_rows(rows.pairs(5))
    trainer = make_trainer(chats, base_model(architecture), data_format="chat", max_length=256)
    trainer.train()
    trainer.save_model(str(tmp_path / "rm"))
    expected = training_rewards(trainer, chats)
    assert_the_same_number(read_by_all(tmp_path / "rm", chats, expected, policy=base_model("qwen3")))


def test_every_reader_gives_the_same_number_for_an_encoder(make_trainer, base_encoder, rows, tmp_path):
    for architecture in ("bert", "modernbert"):
        pairs = rows.pairs(5)
        trainer = make_trainer(pairs, base_encoder(architecture), pooling_type="cls")
        trainer.train()
        folder = tmp_path / architecture
        trainer.save_model(str(folder))
        assert_the_same_number(read_by_all(folder, pairs, training_rewards(trainer, pairs)))


# ---- rope keys ----


@pytest.fixture
def llama3_rope(make_trainer, base_model, rows, tmp_path):
    """A reward model whose base has Llama 3's scaled rotary positions; its folder, and rewards of long texts."""
    base = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    tokenizer.save_pretrained(base)
    build_tiny_model(
        base, len(tokenizer), hidden_size=32, num_heads=2, initializer_range=0.2, rope_parameters=dict(LLAMA3_ROPE)
    )
    pairs = rows.pairs(4)
    for number, row in enumerate(pairs):
        row["chosen"] = f"river {number} stone lantern " * 30
    trainer = make_trainer(pairs, str(base), max_length=200)
    trainer.save_model(str(tmp_path / "rm"))
    return tmp_path / "rm", pairs, training_rewards(trainer, pairs), trainer


def edit(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def read(folder, rows):
    return stock_class(folder, [row["prompt"] for row in rows], [row["chosen"] for row in rows])


def test_llama3_rope_is_written_for_old_readers_and_read_by_new_ones(llama3_rope):
    folder, rows, expected, _ = llama3_rope
    config = json.loads((folder / "config.json").read_text())
    scaling = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"}
    assert config["rope_theta"] == 500000.0 and config["rope_scaling"] == scaling
    np.testing.assert_allclose(read(folder, rows), expected, atol=1e-5)
    # The old keys alone are sufficient: version 4 reads the model that was trained.
    edit(folder / "config.json", lambda config: config.pop("rope_parameters"))
    np.testing.assert_allclose(read(folder, rows), expected, atol=1e-5)
    # And they matter: without them, the rewards differ.
    edit(folder / "config.json", lambda config: (config.pop("rope_scaling"), config.pop("rope_theta")))
    assert np.abs(np.array(read(folder, rows)) - expected).max() > 1e-3


def test_version_4s_formula_gives_the_frequencies_of_the_model(llama3_rope):
    """The formula of transformers 4 (`_compute_llama3_parameters`), applied to the keys that it reads."""
    folder, _, _, trainer = llama3_rope
    config = json.loads((folder / "config.json").read_text())
    scaling = config["rope_scaling"]
    dim = config["head_dim"]
    base = 1.0 / (config["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim))
    old_length, low, high = (
        scaling["original_max_position_embeddings"],
        scaling["low_freq_factor"],
        scaling["high_freq_factor"],
    )
    expected = []
    for frequency in base.tolist():
        wavelength = 2 * math.pi / frequency
        smooth = (old_length / wavelength - low) / (high - low)
        if wavelength > old_length / low:
            expected.append(frequency / scaling["factor"])
        elif wavelength < old_length / high:
            expected.append(frequency)
        else:
            expected.append((1 - smooth) * frequency / scaling["factor"] + smooth * frequency)
    found = trainer.model.backbone.rotary_emb.inv_freq
    torch.testing.assert_close(found, torch.tensor(expected))
    assert len({round(a / b, 3) for a, b in zip(base.tolist(), expected)}) >= 3, "all three branches are taken"


def test_a_saved_model_saved_again_keeps_its_rope(llama3_rope, make_trainer, tmp_path):
    folder, rows, expected, _ = llama3_rope
    make_trainer(rows, str(folder), max_length=200, require_head=True).save_model(str(tmp_path / "again"))
    first, second = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again"))
    assert {key: first[key] for key in first if "rope" in key} == {key: second[key] for key in second if "rope" in key}
    np.testing.assert_allclose(read(tmp_path / "again", rows), expected, atol=1e-5)


OTHER_NAMES = {
    "gpt_neox": ({"rope_theta": 5000.0, "partial_rotary_factor": 0.5}, {"rotary_emb_base": 5000.0, "rotary_pct": 0.5}),
    "phi": (
        {"rope_theta": 5000.0, "partial_rotary_factor": 0.4},
        {"rope_theta": 5000.0, "partial_rotary_factor": 0.4},
    ),
    "modernbert": (
        {"full_attention": {"rope_theta": 5000.0}, "sliding_attention": {"rope_theta": 70.0}},
        {"global_rope_theta": 5000.0, "local_rope_theta": 70.0},
    ),
    "gemma3_text": (
        {
            "full_attention": {"rope_theta": 5000.0, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 70.0},
        },
        {"rope_theta": 5000.0, "rope_local_base_freq": 70.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
}


@pytest.mark.parametrize("model_type", OTHER_NAMES)
def test_other_families_get_the_names_that_they_had(model_type):
    """transformers can still read only the old names: they must give the same rotary positions."""
    rope, names = OTHER_NAMES[model_type]
    written = AutoConfig.for_model(model_type, rope_parameters=json.loads(json.dumps(rope))).to_dict()
    add_legacy_rope_keys(written)
    for name, value in names.items():
        assert written[name] == value
    expected = written.pop("rope_parameters")
    written.pop("model_type")
    assert AutoConfig.for_model(model_type, **written).rope_parameters == expected


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_tokenizer_is_written_in_the_form_that_version_4_loads(
    make_trainer, base_model, rows, tmp_path, architecture
):
    """4.57 fails on version 5's `TokenizersBackend` and its list under `extra_special_tokens`."""
    trainer = make_trainer(chat_rows(rows.pairs(2)), base_model(architecture), data_format="chat", max_length=256)
    trainer.save_model(str(tmp_path / "rm"))
    config = json.loads((tmp_path / "rm" / "tokenizer_config.json").read_text())
    # Version 4's Llama tokenizer would prepend BOS to the rendered template.
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in config and "<|im_start|>" in config["additional_special_tokens"]
    # Version 4's generic tokenizer adds `token_type_ids` by default, which the classifier refuses.
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    before, after = trainer.processing_class, AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert after.special_tokens_map == before.special_tokens_map and len(after) == len(before)
    assert after.all_special_ids == before.all_special_ids and after.is_fast
    text = "<|im_start|>user\nriver<|im_end|> stone"
    assert after(text)["input_ids"] == before(text)["input_ids"]


@pytest.mark.parametrize("pooling_type, name", [("last", "LlamaTokenizer"), ("eos", "PreTrainedTokenizerFast")])
def test_a_class_of_version_4_that_leaves_out_eos_is_not_named(reward_model, pooling_type, name):
    """Such a class prepends BOS and appends nothing, whatever `tokenizer.json` says."""
    folder = reward_model("llama", pooling_type=pooling_type)
    with open(f"{folder}/tokenizer_config.json") as file:
        assert json.load(file)["tokenizer_class"] == name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("river")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and (ids[-1] == tokenizer.eos_token_id) == (pooling_type == "eos")


def test_the_weights_of_a_saved_folder_are_the_classifiers_alone(llama3_rope):
    folder, *_ = llama3_rope
    names = load_file(folder / "model.safetensors").keys()
    assert "score.weight" in names and not [name for name in names if "lm_head" in name]

"""TRL's own trainers accept the output of build-data unchanged."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.models.tokenizer import prepare_tokenizer


CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["Question answers Human Assistant academy"], trainer)
    tokens = dict(zip(("unk_token", "pad_token", "bos_token", "eos_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=CHAT_TEMPLATE, **tokens)


def tiny(cls, tokenizer, **more):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )
    return cls(config)


def arguments(config_class, folder):
    return config_class(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=1e-2,
        max_length=256,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's own default
@pytest.mark.parametrize("form", ["text", "chat"])
@pytest.mark.parametrize("source", ["dsp", "hh", "jsonl"])
@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_trl_trains_on_what_we_build(write, dsp_items, tokenizer, tmp_path, source, form, kind):
    if source == "dsp":
        path, domain = write("dsp.json", dsp_items(4)), "academy"
    else:
        rows = [{name: f"\n\nHuman: Q{n}\n\nAssistant: {name}" for name in ("chosen", "rejected")} for n in range(12)]
        for row in rows[6:] if source == "jsonl" else []:
            row["margin"] = 0.5
        path, domain = write("rows.jsonl", rows), None
    data = build(source, [path], BuildOptions(domain=domain, format=form, test_size=0)).datasets["train"]
    if kind == "reward":
        model = tiny(LlamaForSequenceClassification, tokenizer, num_labels=1)
        trainer = RewardTrainer(
            model, arguments(RewardConfig, tmp_path), train_dataset=data, processing_class=tokenizer
        )
    else:
        model = tiny(LlamaForCausalLM, tokenizer)
        trainer = DPOTrainer(
            model,
            tiny(LlamaForCausalLM, tokenizer),
            arguments(DPOConfig, tmp_path),
            train_dataset=data,
            processing_class=tokenizer,
        )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert all(0 < loss < 5 for loss in losses)
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())
    assert len(trainer.train_dataset) == len(data)


TOOL_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if mood %}{{ mood }}{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}</s>{% endfor %}"
)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's own default
@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_trl_reads_tools_and_calls_of_what_we_build_as_we_do(write, tokenizer, tmp_path, kind):
    def reply(content, **arguments):
        function = {"name": "f", "arguments": arguments}
        return [{"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": function}]}]

    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    more = [{}, {"tools": tools}, {"chat_template_kwargs": {"mood": "glad"}}, {"tools": json.dumps(tools)}]
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}?"}], "chosen": reply("", q=n), "rejected": reply(None, r=None)}
        for n in range(12)
    ]
    path = write("rows.jsonl", [{**row, **more[n % 4]} for n, row in enumerate(rows)])
    data = build("jsonl", [path], BuildOptions(format="chat", test_size=0)).datasets["train"]
    reader = copy.deepcopy(tokenizer)
    reader.chat_template = TOOL_TEMPLATE
    if kind == "dpo":
        models_ = [tiny(LlamaForCausalLM, reader) for _ in range(2)]
        trainer = DPOTrainer(*models_, arguments(DPOConfig, tmp_path), train_dataset=data, processing_class=reader)
    else:
        model = tiny(LlamaForSequenceClassification, reader, num_labels=1)
        config = arguments(RewardConfig, tmp_path)
        trainer = RewardTrainer(model, config, train_dataset=data, processing_class=reader)
        ours = tokenize_preferences(data, reader, max_length=256, data_format="chat", show_progress=False)
        assert len(trainer.train_dataset) == 12 and ours.num_truncated == 0
        for k, row in enumerate(trainer.train_dataset):
            assert ours.sequence(ours.better[k]).tolist() == row["chosen_ids"]
            assert ours.sequence(ours.worse[k]).tolist() == row["rejected_ids"]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(0 < loss < 5 for loss in losses)


def said(role, text, **more):
    return [{"role": role, "content": text, **more}]


def calling(**arguments):
    return [{"type": "function", "function": {"name": "f", "arguments": arguments}}]


ASK, YES, NO = said("user", "a?"), said("assistant", "b"), said("assistant", "c")
PAIR = {"prompt": ASK, "chosen": YES, "rejected": NO}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
# Chat rows in the forms that TRL 1.16 accepts; the second row of each has fields that the first lacks.
TRL_FORMS = {
    "prompt": [PAIR],
    "no prompt": [{"chosen": ASK + YES, "rejected": ASK + NO}],
    "no prompt, nothing shared": [{"chosen": ASK + YES, "rejected": said("user", "z?") + NO}],
    "no prompt, tools": [{"chosen": ASK + YES, "rejected": ASK + NO, "tools": json.dumps(TOOLS)}],
    "tools": [{**PAIR, "tools": TOOLS}],
    "some tools": [{**PAIR, "tools": TOOLS}, {**PAIR, "tools": None}],
    "no tools": [{**PAIR, "tools": "[]"}],
    "variables": [{**PAIR, "chat_template_kwargs": {"mood": "glad"}}],
    "a generation prompt": [{**PAIR, "chat_template_kwargs": {"add_generation_prompt": True}}],
    "null": [{**PAIR, "chosen": said("assistant", None, tool_calls=calling(q="1"))}],
    "thoughts": [{**PAIR, "chosen": said("assistant", "b", reasoning_content="x")}],
    "other thoughts": [{**PAIR, "chosen": said("assistant", "b", thinking="x")}],
    "turns": [{**PAIR, "prompt": said("system", "s") + ASK + YES + ASK, "chosen": YES + ASK + NO}],
    "an answered call": [
        {
            **PAIR,
            "prompt": ASK + said("assistant", "", tool_calls=calling(q="1")) + said("tool", "5", tool_call_id="c"),
        }
    ],
    "a begun answer": [{**PAIR, "prompt": ASK + said("assistant", "I say")}],
}


@pytest.mark.parametrize("form", TRL_FORMS)
def test_the_ids_of_chats_are_those_of_trls_own_trainer(form, tokenizer):
    reader = copy.deepcopy(tokenizer)
    reader.chat_template = TOOL_TEMPLATE.replace(
        "{{ m.content or '' }}", "{{ m.content or '' }}{{ m.thinking or '' }}"
    ) + ("{% if add_generation_prompt %}<assistant>{% endif %}")
    rows = Dataset.from_list(TRL_FORMS[form])
    config = SimpleNamespace(dataset_num_proc=None, max_length=None)
    theirs = RewardTrainer._prepare_dataset(None, rows, reader, config, "train")
    ours = tokenize_preferences(rows, reader, max_length=256, data_format="chat", show_progress=False)
    assert len(theirs) == len(ours) == len(rows)
    for k, row in enumerate(theirs):
        assert ours.sequence(ours.better[k]).tolist() == row["chosen_ids"]
        assert ours.sequence(ours.worse[k]).tolist() == row["rejected_ids"]


@pytest.mark.parametrize("form", ["prompt", "no prompt", "ends in EOS"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_ids_of_plain_text_with_eos_are_those_of_trls_own_trainer(architecture, form, base_model):
    base = base_model(architecture)
    theirs, ours = (AutoTokenizer.from_pretrained(base) for _ in range(2))
    prepare_tokenizer(ours, AutoConfig.from_pretrained(base), max_length=64, pooling_type="eos")
    texts = {"prompt": "Do you like it?\n\n", "chosen": "Yes, é ✓", "rejected": " no"}
    if form == "no prompt":
        texts = {name: texts["prompt"] + texts[name] for name in ("chosen", "rejected")}
    rows = Dataset.from_list(
        [{**texts, "chosen": texts["chosen"] + (ours.eos_token if form == "ends in EOS" else "")}]
    )
    config = SimpleNamespace(dataset_num_proc=None, max_length=None)
    (row,) = RewardTrainer._prepare_dataset(None, rows, theirs, config, "train")
    if form == "ends in EOS":
        rows = Dataset.from_list([texts])
    data = tokenize_preferences(rows, ours, max_length=64, show_progress=False)
    assert data.sequence(data.better[0]).tolist() == row["chosen_ids"]
    assert data.sequence(data.worse[0]).tolist() == row["rejected_ids"]

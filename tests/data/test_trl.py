"""TRL's own trainers take what build-data makes, as it is."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rm_toolkit.data.build import BuildOptions, build


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

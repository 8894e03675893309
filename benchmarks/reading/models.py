"""The tiny models that every reader opens, trained here, and the texts that it scores."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from rm_toolkit import RewardModelConfig, RewardModelTrainer, RewardScorer
from rm_toolkit.models.loading import quiet_loading
from rm_toolkit.testing import build_tiny_model, train_tokenizer


MAX_LENGTH = 96
WORDS = [
    "river", "stone", "lantern", "window", "garden", "letter", "morning", "copper", "market", "shadow", "bridge", "violin",
    "orange", "winter", "harbour", "pencil", "forest", "silver", "candle", "basket", "thunder", "ladder", "paper", "yellow",
    "engine", "mirror", "summer", "button", "kettle", "meadow",
]  # fmt: skip


@dataclass
class ReadModel:
    """
    A saved model, its texts, and the rewards that the toolkit gives them.

    Args:
        name (`str`): `"text"`, `"chat"`, `"encoder"` or `"LoRA"`.
        folder (`str`): The saved model; for LoRA, the merged model, with the adapter in `adapter/`.
        data_format (`str`): `"text"` or `"chat"`.
        max_length (`int`): Maximum tokens that it reads.
        kinds (`list[str]`): Kind of each text, a key of `KINDS`.
        prompts, completions (`list`): The texts.
        rewards (`list[float]`): Rewards from `RewardScorer` on the CPU in fp32.
    """

    name: str
    folder: str
    data_format: str
    max_length: int
    kinds: list[str]
    prompts: list[Any]
    completions: list[Any]
    rewards: list[float]


def sentence(rng: random.Random, length: int) -> str:
    """`length` random words with a full stop at the end."""
    return " ".join(rng.choices(WORDS, k=length)) + "."


# Kind of a text -> function that makes a question and an answer. "special tokens" has those of both tokenizers.
KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "short": lambda rng: (sentence(rng, 5), sentence(rng, 4)),
    "over-long": lambda rng: (sentence(rng, 60), sentence(rng, 90)),
    "over-long prompt": lambda rng: (sentence(rng, 150), sentence(rng, 3)),
    "empty": lambda rng: ("", ""),
    "empty answer": lambda rng: (sentence(rng, 4), ""),
    "Unicode": lambda rng: (f"Où est le café? {sentence(rng, 3)}", "北京 — naïve ✓ 🎈 é\u0301\n\n\tfin"),
    "special tokens": lambda rng: (f"a <s> b {sentence(rng, 2)}", "</s> [SEP] <|im_end|> [CLS] x <unk>"),
}


def make_models(folder: Path, only: Sequence[str] = ("text", "chat", "encoder", "LoRA")) -> dict[str, ReadModel]:
    """
    Trains each model for a few steps and saves it.

    Args:
        folder (`Path`): Folder for the models; it is created.
        only (`Sequence[str]`): Names of the models to make.

    Returns:
        `dict[str, ReadModel]`: The models by name.
    """
    rng = random.Random(3)
    lines = [f"## Human:\n{sentence(rng, 8)}\n\n## Assistant:\n{sentence(rng, 12)}" for _ in range(400)]
    decoder, encoder = folder / "decoder", folder / "bert"
    train_tokenizer(lines, decoder, vocab_size=480)
    size = {"hidden_size": 128, "num_heads": 4, "initializer_range": 0.15, "max_position_embeddings": 512}
    build_tiny_model(decoder, len(AutoTokenizer.from_pretrained(decoder)), **size)
    _build_encoder(encoder, lines)
    lora = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj", "down_proj"])
    options = {
        "text": {"base": decoder},
        "chat": {"base": decoder, "data_format": "chat"},
        "encoder": {"base": encoder, "pooling_type": "cls"},
        "LoRA": {"base": decoder, "peft_config": lora},
    }
    return {name: _train(name, folder=folder, **options[name]) for name in only}


def train_wordpiece(texts: list[str], folder: Path) -> PreTrainedTokenizerBase:
    """Trains and saves a WordPiece tokenizer like those of encoders (`[CLS] text [SEP]`)."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _build_encoder(folder: Path, lines: list[str]) -> None:
    tokenizer = train_wordpiece(lines, folder)
    set_seed(0)
    size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.15, max_position_embeddings=512, **size)
    with quiet_loading():
        BertModel(config).save_pretrained(folder)


def _train(name: str, base: Path, folder: Path, *, peft_config: LoraConfig | None = None, **options: Any) -> ReadModel:
    data_format = options.get("data_format", "text")
    rng = random.Random(5)
    pairs = [_row(sentence(rng, 6), [sentence(rng, 5), sentence(rng, 7) + " No."], data_format) for _ in range(16)]
    rows = [{"prompt": prompt, "chosen": better, "rejected": worse} for prompt, (better, worse) in pairs]
    target = str(folder / name)
    args = RewardModelConfig(
        output_dir=target, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", max_length=MAX_LENGTH, max_steps=4, learning_rate=1e-3,
        per_device_train_batch_size=8, **options,
    )  # fmt: skip
    trainer = RewardModelTrainer(str(base), args, Dataset.from_list(rows), peft_config=peft_config)
    trainer.train()
    trainer.save_model()
    trainer.reload_check()
    texts = [(kind, *make(rng)) for kind, make in KINDS.items() for _ in range(3)]
    read = [_row(question, [answer], data_format) for _, question, answer in texts]
    prompts, completions = [prompt for prompt, _ in read], [answers[0] for _, answers in read]
    rewards = RewardScorer(target, device="cpu").score(prompts, completions)
    return ReadModel(
        name, target, data_format, MAX_LENGTH, [kind for kind, *_ in texts], prompts, completions, rewards
    )


def _row(question: str, answers: list[str], data_format: str) -> tuple[Any, list[Any]]:
    if data_format == "chat":
        return [{"role": "user", "content": question}], [[{"role": "assistant", "content": text}] for text in answers]
    return f"## Human:\n{question}\n\n## Assistant:\n" if question else "", answers

"""Readers that run in this environment: stock classes, pipeline, TRL's trainers, PEFT, and clients of a server."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import torch
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rm_toolkit import RewardScorer

from .models import ReadModel
from .worker import ids_of, whole_texts


TRAINERS = {"GRPO": (GRPOTrainer, GRPOConfig), "RLOO": (RLOOTrainer, RLOOConfig)}
CHATML = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


def stock_class(model: ReadModel) -> list[float]:
    """The stock class as the model card shows it: with the saved tokenizer, one text at a time."""
    return _classify(AutoModelForSequenceClassification.from_pretrained(model.folder, dtype=torch.float32), model)


def peft_class(model: ReadModel) -> list[float]:
    """The adapter alone, loaded by PEFT on its base."""
    folder = f"{model.folder}/adapter"
    options = {"num_labels": 1, "dtype": torch.float32}
    return _classify(AutoPeftModelForSequenceClassification.from_pretrained(folder, **options), model)


def _classify(classifier: Any, model: ReadModel) -> list[float]:
    tokenizer, classifier = AutoTokenizer.from_pretrained(model.folder), classifier.eval()
    with torch.no_grad():
        return [classifier(**inputs).logits[0, 0].item() for inputs in ids_of(vars(model), tokenizer)]


def text_pipeline(model: ReadModel) -> list[float]:
    """`pipeline("text-classification")`, in batches of 4."""
    classifier = pipeline("text-classification", model=model.folder, device="cpu", dtype=torch.float32)
    texts = whole_texts(vars(model), classifier.tokenizer)
    return [found["score"] for found in classifier(texts, truncation=True, batch_size=4)]


def trl_trainer(model: ReadModel, policy: str, name: str, *, by_path: bool) -> list[float]:
    """TRL's own loading of `reward_funcs`, tokenization and reward computation; no text is generated."""
    trainer_class, config_class = TRAINERS[name]
    reward = model.folder if by_path else RewardScorer(model.folder, device="cpu").as_reward_function()
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            output_dir=folder, use_cpu=True, bf16=False, report_to="none", num_generations=2,
            per_device_train_batch_size=2, model_init_kwargs={"dtype": torch.float32},
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(policy)
        tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, CHATML
        data = Dataset.from_list([{"prompt": model.prompts[0]}] * 2)
        trainer = trainer_class(policy, reward, args=args, train_dataset=data, processing_class=tokenizer)
        inputs = [{"prompt": prompt} for prompt in model.prompts]
        ids = [[0]] * len(inputs)
        return trainer._calculate_rewards(inputs, model.prompts, model.completions, ids)[:, 0].tolist()


def served_texts(model: ReadModel, address: str) -> list[float]:
    """vLLM as the documentation shows it, sent a string or the messages of a chat; NaN if it refuses a text."""
    rewards = []
    for prompt, completion in zip(model.prompts, model.completions):
        body = {"messages": prompt + completion} if model.data_format == "chat" else {"input": prompt + completion}
        answer = httpx2.post(f"{address}/classify", json=body, timeout=120)
        rewards.append(answer.json()["data"][0]["probs"][0] if answer.status_code == 200 else float("nan"))
    return rewards


def served_ids(model: ReadModel, address: str, *, dtype: torch.dtype = torch.float32) -> list[float]:
    """The toolkit's own client of a server, which sends token ids."""
    return RewardScorer(model.folder, endpoint=address, dtype=dtype).score(model.prompts, model.completions)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences libraries for the block, so that they do not print into the table."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with Path("/dev/null").open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield

"""
Rewards of a saved model with transformers alone, beside those of `RewardScorer`.

    python benchmarks/published/by_hand.py MODEL outputs/published/helpful

For models that only the toolkit opens, such as `average` of a decoder: what is compared is the stock backbone with eager attention, one text at a
time without padding, its last hidden states pooled here, and a product with the saved head. Texts are answers of the dataset's split `test`, and
some that are joined until they are longer than the model reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from rm_toolkit.models.settings import load_settings
from rm_toolkit.scoring.scorer import RewardScorer


POOLINGS = {
    "average": lambda hidden: hidden.mean(dim=0),
    "max": lambda hidden: hidden.amax(dim=0),
    "last": lambda hidden: hidden[-1],
}


HEADS = ("score.weight", "classifier.weight")


def main(argv: list[str] | None = None) -> None:
    """Prints the largest difference, and how many texts were compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a reward model")
    parser.add_argument("data", help="folder of a built dataset")
    parser.add_argument("--texts", type=int, default=24, help="number of texts (default: %(default)s)")
    args = parser.parse_args(argv)
    settings = load_settings(args.model)
    if settings is None or settings.pooling_type not in POOLINGS:
        raise SystemExit(f"error: {args.model} is no reward model that pools by one of: {', '.join(POOLINGS)}.")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    texts = some_texts(args.data, args.texts)
    expected = by_hand(args.model, tokenizer, texts, settings.pooling_type)
    found = torch.tensor(RewardScorer(args.model, device="cpu").score([""] * len(texts), texts), dtype=torch.float64)
    lengths = sorted(len(tokenizer(text, truncation=True)["input_ids"]) for text in texts)
    print(
        f"{len(texts)} texts of {lengths[0]} to {lengths[-1]} tokens, rewards {found.min():.2f} to {found.max():.2f}: they differ by "
        f"at most {(found - expected).abs().max():.1e}."
    )


def some_texts(folder: str, count: int) -> list[str]:
    """Texts of different lengths; every fourth is three texts in one."""
    rows = load_from_disk(folder)["test"]
    texts = [row["prompt"] + answer for row in rows for answer in row["completions"]]
    texts = sorted(texts, key=len)[:: max(1, len(texts) // count)][:count]
    return ["".join(texts[-3:]) + text if number % 4 == 3 else text for number, text in enumerate(texts)]


def by_hand(folder: str, tokenizer: object, texts: list[str], pooling_type: str) -> torch.Tensor:
    """Rewards of shape `(num_texts,)`."""
    weights = load_file(Path(folder, "model.safetensors"))
    backbone = load_backbone(folder, weights)
    head, rewards = next(weights[name] for name in HEADS if name in weights).double()[0], []
    bias = weights.get("classifier.bias", torch.zeros(1)).double()[0]
    for text in texts:
        ids = tokenizer(text, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = backbone(input_ids=ids).last_hidden_state[0].double()
        rewards.append(POOLINGS[pooling_type](hidden) @ head + bias)
    return torch.stack(rewards)


def load_backbone(folder: str, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The stock model without a head, with eager attention."""
    config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    backbone = AutoModel.from_config(config, attn_implementation="eager").float().eval()
    prefix = f"{backbone.base_model_prefix}."
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    missing = backbone.load_state_dict(own, strict=False).missing_keys
    if any("pooler" not in name for name in missing):
        architecture = json.loads(Path(folder, "config.json").read_text(encoding="utf-8")).get("architectures")
        raise SystemExit(f"error: {folder} ({architecture}) has no {missing[0]}, which the stock model needs.")
    return backbone


if __name__ == "__main__":
    main()

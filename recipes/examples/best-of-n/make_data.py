"""
Writes train.jsonl and candidates.jsonl from parts.yaml: `python recipes/examples/best-of-n/make_data.py`.

The output is the same on every run. Train rows have 4 answers per prompt, candidates 8, each with our score: 5 for a plain
explanation with an example and nothing else, minus a point for each thing that is superfluous or missing, at least 1.
"""

import json
import random
from pathlib import Path

import yaml


HERE = Path(__file__).parent
ANSWERS = {"train": 4, "candidates": 8}
# Faults and their frequencies: those that shorten an answer are as frequent as those that lengthen it.
FAULTS = {
    "stiff": 2,
    "vague": 3,
    "no example": 6,
    "cut off": 3,
    "padding": 2,
    "hedge": 2,
    "outro": 2,
    "off the point": 1,
    "repeated": 1,
}


def known(phrases: list[str], split: str) -> list[str]:
    """All phrases for the candidates; all but the last third for training."""
    return phrases if split == "candidates" else phrases[: -(len(phrases) // 3)]


def answer(parts: dict, split: str, term: dict, faults: list[str], rng: random.Random) -> str:
    """One answer with these faults."""
    sentences = rng.sample(term["plain"], rng.choice((1, 2)))
    for fault in ("stiff", "vague"):
        if fault in faults:
            sentences = [term["stiff"] if fault == "stiff" else rng.choice(known(parts["vague"], split))]
    if "no example" not in faults:
        sentences += rng.sample(term["example"], rng.choice((1, 2)))
    if "off the point" in faults:
        other = rng.choice([entry for entry in parts["terms"][split] if entry is not term])
        sentences.append(f"By the way, {other['term']} is something else: {lower(rng.choice(other['plain']))}")
    if "repeated" in faults:
        sentences.append(rng.choice(sentences))
    if "padding" in faults:
        sentences.insert(0, rng.choice(known(parts["padding"], split)))
    for name in ("hedge", "outro"):
        if name in faults:
            sentences.append(rng.choice(known(parts[name], split)))
    text = " ".join(sentences)
    if "cut off" in faults:
        words = text.split()
        text = " ".join(words[: len(words) - rng.randint(2, 4)]).rstrip(".,!")
    return text


def draw_faults(number: int, rng: random.Random) -> list[str]:
    """Distinct random faults."""
    faults: dict[str, None] = {}
    while len(faults) < number:
        faults[rng.choices(list(FAULTS), list(FAULTS.values()))[0]] = None
    return list(faults)


def lower(text: str) -> str:
    return text[0].lower() + text[1:]


def row(parts: dict, split: str, term: dict, ask: str, rng: random.Random) -> dict:
    """A prompt with distinct answers and their scores, in random order."""
    found: dict[str, int] = {}
    wanted = [rng.choice((0, 1, 1, 2, 2, 3, 4)) for _ in range(ANSWERS[split])]
    for number in wanted:
        text = ""
        while not text or text in found:
            faults = draw_faults(number, rng)
            text = answer(parts, split, term, faults, rng)
            number = rng.choice((0, 1, 2, 3))  # a term has four answers without a fault
        found[text] = max(1, 5 - len(faults))
    return {"prompt": ask.format(term=term["term"]), "completions": list(found), "scores": list(found.values())}


def build(split: str) -> list[dict]:
    """The rows of `"train"` or `"candidates"`."""
    parts = yaml.safe_load((HERE / "parts.yaml").read_text(encoding="utf-8"))
    rng = random.Random(f"best of n, {split}")
    asks = parts["ask"] if split == "train" else parts["ask"][:4]
    rows = [row(parts, split, term, ask, rng) for term in parts["terms"][split] for ask in asks]
    rng.shuffle(rows)
    return rows


def main() -> None:
    for split in ANSWERS:
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in build(split)]
        (HERE / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} prompts in {HERE.name}/{split}.jsonl")


if __name__ == "__main__":
    main()

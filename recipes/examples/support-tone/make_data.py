"""
Writes train.jsonl (400 pairs) and test.jsonl (100) from parts.yaml: `python recipes/examples/support-tone/make_data.py`.

The output is the same on every run. Both answers of a pair say the same thing and ask for the same next step; the worse one
has one or two faults of tone. A coin toss decides which one is longer, so that length carries no information.
"""

import json
import random
from pathlib import Path

import yaml


HERE = Path(__file__).parent
PAIRS_OF_AN_ISSUE = 10
PHRASES = ("greet", "care", "close", "cold", "blame", "bury", "nowhere", "pile", "grovel", "hype", "jargon")
FAULTS = ("cold", "blame", "bury", "late", "nowhere", "pile", "grovel", "hype", "jargon")


def known(phrases: list[str], split: str) -> list[str]:
    """All phrases for the test set; all but the last third for training."""
    return phrases if split == "test" else phrases[: -(len(phrases) // 3)]


def in_tone(say: dict, answer: str, step: str) -> list[str]:
    """Greets, answers first, blames nobody, and ends with one clear next step."""
    return [say["greet"], answer, *say["some care"], step, *say["some close"]]


def off_tone(say: dict, answer: str, step: str, faults: list[str]) -> list[str]:
    """The same answer with these faults."""
    greet = say["cold"] if "cold" in faults else say["greet"]
    body = [answer, *say["some care"]]
    for fault in faults:
        if fault in ("blame", "jargon"):
            body.append(say[fault])
        elif fault in ("grovel", "hype"):
            body.insert(0, say[fault])
    ending = [step, *say["some close"]]
    if "nowhere" in faults:
        ending = [say["nowhere"]]
    if "pile" in faults:
        ending.insert(1, say["pile"])
    if "bury" in faults:
        return [greet, say["bury"], *body[1:], *ending, body[0]]
    if "late" in faults:
        return [greet, *body[1:], *ending, body[0]]
    return [greet, *body, *ending]


def fill(text: str, values: dict[str, str]) -> str:
    return text.format_map(values)


def letter(sentences: list[str], values: dict[str, str]) -> str:
    """An answer; a greeting that ends in a comma is on a separate line."""
    between = "\n" if sentences[0].endswith(",") else " "
    return fill(sentences[0] + between + " ".join(sentences[1:]), values)


def question(parts: dict, issue: dict, values: dict[str, str], rng: random.Random) -> str:
    """What the customer writes."""
    opening, text, ending = rng.choice(parts["openings"]), rng.choice(issue["ask"]), rng.choice(parts["endings"])
    if opening.endswith((", ", ": ")) and not text.startswith(("I ", "I'")):
        text = text[0].lower() + text[1:]
    return fill(opening + text + (ending if "{name}" not in opening else ""), values)


def pair(parts: dict, issue: dict, split: str, fault: str, rng: random.Random) -> dict[str, str]:
    """One question with an answer in the house tone and one that is not."""
    day, later = rng.sample(parts["days"], 2)
    chosen_from = {name: rng.choice(parts[f"{name}s"]) for name in ("name", "amount")}
    values = {**chosen_from, "item": rng.choice(issue.get("items", parts["items"])), "day": day}
    asked = question(parts, issue, values, rng)
    values["day"] = later
    answer, step = rng.choice(issue["answer"]), rng.choice(issue["step"])
    faults = [fault] + ([rng.choice([other for other in FAULTS if other != fault])] if rng.random() < 0.3 else [])

    def draw() -> dict:
        say = {name: rng.choice(known(parts[name], split)) for name in PHRASES}
        for name in ("care", "close"):
            say[f"some {name}"] = [say[name]] * rng.randint(0, 1)
        return say

    longer = rng.random() < 0.6  # some faults cannot be outweighed
    for _ in range(60):
        good = letter(in_tone(draw(), answer, step), values)
        bad = letter(off_tone(draw(), answer, step, faults), values)
        if (len(good) > len(bad)) == longer:
            break
    return {"question": asked, "in_tone": good, "off_tone": bad, "fault": fault}


def build(split: str) -> list[dict[str, str]]:
    """The pairs of `"train"` or `"test"`; no question is repeated."""
    parts = yaml.safe_load((HERE / "parts.yaml").read_text(encoding="utf-8"))
    rng = random.Random(f"support tone, {split}")
    rows: dict[str, dict[str, str]] = {}
    faults = [FAULTS[number % len(FAULTS)] for number in range(PAIRS_OF_AN_ISSUE * len(parts["issues"][split]))]
    rng.shuffle(faults)
    for number, fault in enumerate(faults):
        issue = parts["issues"][split][number % len(parts["issues"][split])]
        row = pair(parts, issue, split, fault, rng)
        while row["question"] in rows:
            row = pair(parts, issue, split, fault, rng)
        rows[row["question"]] = row
    return list(rows.values())


def main() -> None:
    for split in ("train", "test"):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in build(split)]
        (HERE / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} pairs in {HERE.name}/{split}.jsonl")


if __name__ == "__main__":
    main()

"""Rows of the GPU benchmark: from the published files or, without them, random rows with similar lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path

from .. import data
from ..data import Rows


# Mean and standard deviation of the log number of words, of a prompt and of a response. With the benchmark's BPE, the
# rows have about as many tokens as the published ones (a DSP query with five answers; a dialogue with two last turns).
_LENGTHS = {"dsp": ((2.6, 0.5), (4.4, 0.6)), "helpful": ((4.7, 0.7), (3.6, 0.7))}
_RESPONSES = {"dsp": len(data.DOMAINS), "helpful": 2}


def load_rows(name: str, folder: Path | None, num_prompts: int) -> Rows:
    """
    Reads `domain_specific_preference.test.json` or `helpful.test.json` from a folder, or makes random rows.

    Args:
        name (`str`): `"dsp"` or `"helpful"`.
        folder (`Path`, *optional*): Folder of the files; by default `shared/data/published`, beside or in the
            checkout.
        num_prompts (`int`): Number of prompts to make if there is no file.

    Raises:
        `FileNotFoundError`: if `folder` is given and does not contain the file.
    """
    file = {"dsp": "domain_specific_preference.test.json", "helpful": "helpful.test.json"}[name]
    folders = [folder] if folder else [data.PUBLISHED, data.ROOT / "shared" / "data" / "published"]
    found = next((Path(place, file) for place in folders if Path(place, file).exists()), None)
    if found is None:
        if folder:
            raise FileNotFoundError(
                f"{Path(folder, file)} does not exist; --data is the folder of the released files."
            )
        return made_rows(name, num_prompts)
    items = json.loads(found.read_text(encoding="utf-8"))
    return data.dsp_rows(items, file) if name == "dsp" else data.helpful_rows([item["text"] for item in items], file)


def made_rows(name: str, num_prompts: int, seed: int = 0) -> Rows:
    """
    Random rows with different texts and lengths like those of the published rows.

    Args:
        name (`str`): `"dsp"` or `"helpful"`.
        num_prompts (`int`): Number of prompts.
        seed (`int`): Seed of the random words.
    """
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    lexicon = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]
    rank_weights = [1 / (rank + 3) for rank in range(len(lexicon))]  # a few words make up most of a text

    def words(mean: float, spread: float) -> str:
        count = max(2, min(220, round(rng.lognormvariate(mean, spread))))
        return " ".join(rng.choices(lexicon, rank_weights, k=count))

    prompt_length, response_length = _LENGTHS[name]
    groups = []
    for _ in range(num_prompts):
        prompt = words(*prompt_length)
        responses = [words(*response_length) for _ in range(_RESPONSES[name])]
        if name == "dsp":
            groups.append((f"## Human:\n{prompt}\n\n## Assistant:\n", responses))
        else:
            start = f"\n\nHuman: {prompt}\n\nAssistant: "
            groups.append(("", [start + response for response in responses]))
    return Rows(name, "made in code", groups)


def take_distinct(rows: Rows, num_pairs: int, seed: int = 0) -> Rows:
    """As [`Rows.take`], but prints a note if there are fewer pairs than asked for."""
    part = rows.take(num_pairs, seed)
    if part.num_pairs < num_pairs:
        print(f"  {rows.name}: {part.num_pairs} pairs fit, {num_pairs} were asked for", flush=True)
    return part

"""Opens a saved reward model in a fresh process with stock classes and compares its rewards with the trainer's."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..data.messages import content_text
from ..errors import InputError
from ..output.ending import storage_error
from ..output.json_files import load_json
from ..output.temporary import scratch_folder


TOLERANCE = 1e-5


def check_reload(
    folder: str | os.PathLike,
    texts: list[Any],
    rewards: list[float],
    *,
    tolerance: float = TOLERANCE,
    python: str = sys.executable,
    offline: bool = True,
    trust_remote_code: bool = False,
) -> list[float]:
    """
    Computes the rewards of some raw texts in a fresh process and compares them.

    Args:
        folder (`str` or `os.PathLike`): A saved reward model.
        texts (`list`): Raw strings, or message lists for a chat model.
        rewards (`list[float]`): Expected rewards.
        tolerance (`float`): Largest difference allowed, in logits (times the reward's size where that is above 1).
        python (`str`): Python interpreter of the fresh process.
        offline (`bool`): Whether it may not contact the Hub; an adapter's base may have to be downloaded.
        trust_remote_code (`bool`): Whether code that comes with the model may run there.

    Returns:
        `list[float]`: The rewards from the fresh process.

    Raises:
        `InputError`: if a reward differs or the folder cannot be opened.
    """
    with scratch_folder() as temporary:
        request, answer = Path(temporary, "texts.json"), Path(temporary, "rewards.json")
        request.write_text(json.dumps(texts), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not _is_launcher_variable(key)}
        environment.update(CUDA_VISIBLE_DEVICES="", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")
        environment.update({"HF_HUB_OFFLINE": "1"} if offline else {})
        result = subprocess.run(
            [python, "-m", "rm_toolkit.scoring.reload_check", str(folder), str(request), str(answer)]
            + ["trust_remote_code"] * trust_remote_code,
            stdin=subprocess.DEVNULL,  # no prompts there
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            full = _full_disk(reason, temporary)
            if full is not None:
                raise InputError(f"{folder} could not be checked in a fresh process. {full}")
            raise InputError(f"{folder} was saved but cannot be opened in a fresh process: {reason}")
        found = load_json(answer)
    for number, (expected, value) in enumerate(zip(rewards, found, strict=True)):
        if not math.isclose(expected, value, rel_tol=tolerance, abs_tol=tolerance):
            raise InputError(
                f"reload check failed: text {number} has reward {expected:.6f} in training, but {value:.6f} from "
                f"{folder} in a fresh process (tolerance {tolerance:g}). Do not publish this folder: others would load "
                "a model that differs from the trained one."
            )
    return found


def _full_disk(reason: str, place: str | os.PathLike) -> str | None:
    """The disk error of a fresh process, with the remedy; `None` for other errors."""
    error = RuntimeError(reason)
    error.place = os.fspath(place)  # type: ignore[attr-defined]
    return storage_error(error)


def read_rewards(folder: str, texts: list[Any], *, trust_remote_code: bool = False) -> list[float]:
    """
    Rewards of raw texts, read as others would: only with stock classes if the pooling type allows it.

    Args:
        folder (`str`): A saved reward model.
        texts (`list`): Raw strings, or message lists.
        trust_remote_code (`bool`): Whether code that comes with the model may run.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ..models.settings import load_settings

    settings = load_settings(folder)
    if (settings is not None and not settings.stock) or not Path(folder, "config.json").exists():
        from .scorer import RewardScorer  # other poolings and adapters are read by the toolkit

        scorer = RewardScorer(folder, device="cpu", trust_remote_code=trust_remote_code)
        return scorer.score(["" if isinstance(text, str) else [] for text in texts], texts)
    trust = {"trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **trust).eval()
    rewards = []
    for text in texts:
        if isinstance(text, str):
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                text, tokenize=True, truncation=True, return_dict=True, return_tensors="pt"
            )
        with torch.no_grad():
            rewards.append(model(**inputs).logits[0, 0].item())
    return rewards


def _is_launcher_variable(name: str) -> bool:
    """Variables through which the fresh process would join the running job of accelerate, torchrun or DeepSpeed."""
    prefixes = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "DEEPSPEED_", "PMI_", "OMPI_")
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
    return name.startswith(prefixes) or name in names


def check_texts(samples: list[tuple[Any, Any]], max_length: int) -> list[tuple[Any, Any]]:
    """Texts for the reload check: the samples, and one certainly longer than `max_length` tokens."""
    prompt, completion = samples[0]
    if isinstance(completion, str):
        long = (prompt, " ".join([completion or "word"] * (max_length + 1)))
    else:
        message = dict(completion[-1])
        message["content"] = " ".join([content_text(message) or "word"] * (max_length + 1))
        long = (prompt, [*completion[:-1], message])
    return [*samples[:4], long]


if __name__ == "__main__":
    folder_argument, request_argument, answer_argument, *trusted = sys.argv[1:]
    values = read_rewards(folder_argument, load_json(Path(request_argument)), trust_remote_code=bool(trusted))
    Path(answer_argument).write_text(json.dumps(values), encoding="utf-8")

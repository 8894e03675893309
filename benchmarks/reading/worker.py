"""
Runs a reader in an environment without rm_toolkit: `python worker.py READER MODELS.json REWARDS.json`.

MODELS.json is a list of `ReadModel`. REWARDS.json gets, for each, a list with a reward per text, or a string that says
what went wrong. The code is what users of these programs would write themselves.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def ids_of(model: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Model inputs for each text, made with the saved tokenizer as the model card shows."""
    found = []
    for prompt, completion in zip(model["prompts"], model["completions"]):
        if model["data_format"] == "chat":
            options = {"tokenize": True, "truncation": True, "return_dict": True, "return_tensors": "pt"}
            found.append(tokenizer.apply_chat_template(prompt + completion, **options))
        else:
            found.append(tokenizer(prompt + completion, truncation=True, return_tensors="pt"))
    return found


def whole_texts(model: dict[str, Any], tokenizer: Any) -> list[str]:
    """Each text as one string; a chat is rendered by its template."""
    pairs = zip(model["prompts"], model["completions"])
    if model["data_format"] == "chat":
        return [tokenizer.apply_chat_template(prompt + completion, tokenize=False) for prompt, completion in pairs]
    return [prompt + completion for prompt, completion in pairs]


def stock_class(model: dict[str, Any]) -> list[float]:
    """The stock classifier of the installed transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model["folder"])
    classifier = AutoModelForSequenceClassification.from_pretrained(model["folder"], torch_dtype=torch.float32).eval()
    with torch.no_grad():
        return [classifier(**inputs).logits[0, 0].item() for inputs in ids_of(model, tokenizer)]


def rewardbench(model: dict[str, Any]) -> list[float]:
    """RewardBench's documented command on a file of conversations. Without a GPU, its `.to("cuda")` uses the CPU."""
    import torch
    from rewardbench import rewardbench as program
    from transformers import BatchEncoding

    if not torch.cuda.is_available():
        move = BatchEncoding.to
        BatchEncoding.to = lambda self, device, **more: move(self, "cpu" if device == "cuda" else device, **more)
    data, output = Path(f"{model['folder']}-rewardbench.json"), Path(f"{model['folder']}_outputs.jsonl")
    whole = [prompt + completion for prompt, completion in zip(model["prompts"], model["completions"])]
    data.write_text("".join(json.dumps({"chosen": text, "rejected": text}) + "\n" for text in whole))
    command = [*shlex.split(model["command"])[1:], "--dataset", str(data), "--load_json"]
    sys.argv = ["rewardbench", *command]
    os.chdir(Path(model["folder"]).parent)  # it writes `results/` into the working directory
    try:
        program.main()
    finally:
        data.unlink()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    output.unlink()
    return [value[0] if isinstance(value := row["scores_chosen"], list) else value for row in rows]


def cross_encoder(model: dict[str, Any]) -> list[float]:
    """CrossEncoder of sentence-transformers, one text or conversation per call, without its default sigmoid."""
    import torch
    from sentence_transformers import CrossEncoder

    reader = CrossEncoder(model["folder"], num_labels=1, activation_fn=torch.nn.Identity(), device="cpu")
    texts = [prompt + completion for prompt, completion in zip(model["prompts"], model["completions"])]
    return [float(reader.predict(text, show_progress_bar=False)) for text in texts]


def onnx(model: dict[str, Any]) -> list[float]:
    """The model exported with torch.onnx, run by onnxruntime on ids from the saved tokenizer."""
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model["folder"])
    classifier = AutoModelForSequenceClassification.from_pretrained(model["folder"], dtype=torch.float32).eval()
    names = ["input_ids", "attention_mask"]
    texts = [{name: inputs[name] for name in names} for inputs in ids_of(model, tokenizer)]
    sample = max(texts, key=lambda inputs: inputs["input_ids"].shape[1])
    lengths = {1: torch.export.Dim("length", min=2, max=model["max_length"])}
    path = f"{model['folder']}.onnx"
    torch.onnx.export(
        classifier, kwargs=sample, f=path, input_names=names, output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, lengths), dynamo=True, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {entry.name for entry in session.get_inputs()}
    feeds = [{name: value.numpy() for name, value in inputs.items() if name in given} for inputs in texts]
    return [float(session.run(["logits"], feed)[0][0, 0]) for feed in feeds]


READERS: dict[str, Callable[[dict[str, Any]], list[float]]] = {
    "stock class": stock_class,
    "RewardBench": rewardbench,
    "CrossEncoder": cross_encoder,
    "ONNX": onnx,
}


def main(name: str, source: Path, target: Path) -> None:
    """Runs one reader on all models and writes the rewards."""
    found: list[list[float] | str] = []
    for model in json.loads(source.read_text(encoding="utf-8")):
        try:
            found.append(READERS[name](model))
        except Exception as error:
            traceback.print_exc()
            found.append(f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

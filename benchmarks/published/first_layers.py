"""
Writes the first layers of a decoder as a model of its own: half of the layers cost half of the time.

    python benchmarks/published/first_layers.py HuggingFaceTB/SmolLM2-135M-Instruct 16 outputs/published/smollm2-16

The final norm and the LM head are kept as they are; the head has never read these layers, so its language-modeling loss is high.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from rm_toolkit.errors import InputError
from rm_toolkit.models.compilation import layers_of


def main(argv: list[str] | None = None) -> None:
    """Writes the model that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a causal LM")
    parser.add_argument("layers", type=int, help="number of layers to keep")
    parser.add_argument("output", type=Path, help="new folder")
    args = parser.parse_args(argv)
    try:
        write_first_layers(args.model, args.layers, args.output)
    except InputError as error:
        sys.exit(f"error: {error}")


def write_first_layers(name: str, number: int, output: Path) -> None:
    """
    Writes the first `number` layers of a decoder, with its tokenizer.

    Args:
        name (`str`): Folder or Hub id.
        number (`int`): Layers to keep.
        output (`Path`): New or empty folder.

    Raises:
        `InputError`: if the model does not have that many layers, or the folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty. Name a new folder.")
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True)
    layers, config = layers_of(model.base_model), model.config
    if layers is None:
        raise InputError(f"{name} is a {type(model).__name__}, which has no list of its layers. Take another model.")
    if not 1 <= number <= len(layers):
        raise InputError(f"`layers` is {number}, but {name} has {len(layers)}. Give a number from 1 to {len(layers)}.")
    for key, value in list(vars(config).items()):  # what is listed layer by layer, such as which have a window
        if isinstance(value, list) and len(value) == len(layers):
            setattr(config, key, value[:number])
    del layers[number:]
    config.num_hidden_layers = number
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(name).save_pretrained(output)
    print(f"{output} has the first {number} layers of {name}.")


if __name__ == "__main__":
    main()

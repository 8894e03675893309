"""Explains why a model could not be loaded, and what to do; the libraries' messages often do not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..errors import class_and_line, first_line, last_line, one_line


@contextlib.contextmanager
def panics_raised() -> Iterator[None]:
    """A context in which a panic of a Rust library is an ordinary exception; `except Exception` would not catch it."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(first_line(error)) from error


def config_error(name: str, error: Exception) -> str:
    """
    The message for a model whose `config.json` cannot be loaded.

    Args:
        name (`str`): Folder or Hub id.
        error (`Exception`): What transformers raised.
    """
    if os.path.isfile(name):
        return f"'{name}' is a file; name the folder with `config.json` and the safetensors."
    if os.path.isdir(name):
        if not Path(name, "config.json").exists() and Path(name, "adapter_model.safetensors").exists():
            return f"'{name}' has the weights of an adapter but no `adapter_config.json`. Restore the file."
        if not Path(name, "config.json").exists():
            inside = sorted(path.parent.name for path in Path(name).glob("*/config.json"))
            hint = f" Did you mean '{Path(name, inside[-1])}'?" if inside else ""
            return (
                f"'{name}' is not a model that transformers can load: it has no `config.json`.{hint} Give a folder with a "
                "`config.json` and safetensors, or a Hub id."
            )
    elif os.path.isabs(name) or name.startswith(".") or name.count("/") != 1:
        return f"'{name}' is not a local folder and not a Hub id (NAMESPACE/NAME). Check the path."
    elif "couldn't connect" in str(error).lower():
        return (
            f"'{name}' is not a local folder, and the Hub cannot be reached for it. Give a folder with the model's "
            "`config.json` (to train or score, with its weights and tokenizer), or connect to the Hub."
        )
    # transformers' checks of a config name the wrong value in the last line.
    line = last_line(error) if "Strict" in type(error).__name__ else class_and_line(error, 200)
    reason = f"its `config.json` is refused ({one_line(line)})." if os.path.isdir(name) else first_line(error)
    return (
        f"'{name}' is not a model that transformers can load: {reason} Give a folder with a `config.json` and "
        "safetensors, or a Hub id."
    )


def named_key(values: Mapping[str, Any], said: str) -> str:
    """
    Names the key whose value a library rejects without naming it; empty if unknown.

    Args:
        values (`Mapping`): Content of a settings file.
        said (`str`): Message of the library.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and (inner := named_key(value, said)):
            return inner
        if isinstance(value, str) and len(value) > 2 and (f"'{value}'" in said or f'"{value}"' in said):
            return f"`{key}` is '{one_line(value, 60)}': "
    return ""


def weights_error(name: str, config: PreTrainedConfig, error: Exception, what: str = "reward model") -> str:
    """
    The message for a model with a config but without loadable weights.

    Args:
        name (`str`): Folder or Hub id.
        config (`PreTrainedConfig`): Its config.
        error (`Exception`): What transformers or safetensors raised.
        what (`str`): The intended type: `reward model` or `causal LM`.
    """
    text = str(error)
    if "Unrecognized configuration class" in text:
        if what != "causal LM" and (causal := MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)):
            return (
                f"'{name}' is a '{config.model_type}' model: transformers {transformers.__version__} has its language model "
                f"({causal}) but no sequence classifier of it, the class that a reward model is saved as, so no "
                f"program could open it. Start from a model of another family, such as Llama, Qwen3 or Gemma 3."
            )
        made, start = ("causal LM", "") if what == "causal LM" else ("text classifier", " or a BERT-like encoder")
        return (
            f"'{name}' is a '{config.model_type}' model, which transformers cannot load as a {made}: it is not a "
            f"{'causal ' if not start else ''}language model. Start from a causal LM{start}."
        )
    if isinstance(error, SafetensorError):
        return (
            f"'{name}': {_damaged_file(name) or 'a safetensors file'} is damaged ({first_line(error)}). Download or save "
            "the model again."
        )
    if "no file named model.safetensors" in text or "does not appear to have a file named" in text:
        if any(Path(name).glob("pytorch_model*.bin")) or not os.path.isdir(name):
            return pickled_error(name, config)
        return f"'{name}' has a `config.json` but no weights (`model.safetensors`). Download or save the model again."
    if "ignore_mismatched_sizes" in text:
        return (
            f"'{name}': the weights do not have the shapes that its `config.json` gives ('{config.model_type}'); the "
            f"two are from different models. Restore the right files."
        )
    key = named_key(config.to_dict(), text)
    line = first_line(error) if isinstance(error, OSError | ValueError) else class_and_line(error, 200)
    return f"'{name}' cannot be loaded as a {what}: {key}{one_line(line)} Check its `config.json`."


def incomplete_error(name: str, missing: Sequence[str]) -> str:
    """
    The message for a model with missing weights.

    Args:
        name (`str`): Folder or Hub id.
        missing (`Sequence[str]`): Names of the weights that its files lack.
    """
    return (
        f"'{name}' lacks {len(missing)} weights of its own architecture (first: '{missing[0]}'): it is not a complete "
        "language model. Check that the folder is right and that all its safetensors files exist."
    )


def pickled_error(name: str, config: PreTrainedConfig) -> str:
    """
    The message for a model whose weights are pickles (`pytorch_model.bin`), with the command that converts them.

    Args:
        name (`str`): Folder or Hub id.
        config (`PreTrainedConfig`): Its config.
    """
    known = [architecture for architecture in config.architectures or [] if hasattr(transformers, architecture)]
    load = f"{known[0] if known else 'AutoModelForCausalLM'}.from_pretrained({name!r}, use_safetensors=False)"
    target = name if os.path.isdir(name) else name.split("/")[-1] + "-safetensors"
    command = f"import transformers as t; t.{load}.save_pretrained({target!r})"
    if target != name:
        command += f"; t.AutoTokenizer.from_pretrained({name!r}).save_pretrained({target!r})"
    then = "" if target == name else f", and name {target} instead"
    return (
        f"'{name}' has no safetensors; weights in pickles (`pytorch_model.bin`) are not read, because a pickle can run "
        f'code. If you trust where it comes from, convert it once: python -c "{command}"{then}'
    )


def _damaged_file(name: str) -> str | None:
    if not os.path.isdir(name):
        return None
    for path in sorted(Path(name).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return path.name
    return None

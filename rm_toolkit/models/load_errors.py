"""Why a model could not be loaded, in words that say what to do; the libraries' own often do not."""

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
    """Within it a panic of a library in Rust is an ordinary exception; it would pass by every `except Exception`."""
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
        return f"'{name}' is a file; name the folder that holds `config.json` and the safetensors."
    if os.path.isdir(name):
        if not Path(name, "config.json").exists() and Path(name, "adapter_model.safetensors").exists():
            return f"'{name}' holds the weights of an adapter but no `adapter_config.json`. Restore the file."
        if not Path(name, "config.json").exists():
            inside = sorted(path.parent.name for path in Path(name).glob("*/config.json"))
            hint = f" Did you mean '{Path(name, inside[-1])}'?" if inside else ""
            return (
                f"'{name}' is no model that transformers can load: it has no `config.json`.{hint} Give a folder with a "
                "`config.json` and safetensors, or a Hub id."
            )
    elif os.path.isabs(name) or name.startswith(".") or name.count("/") != 1:
        return f"'{name}' is no folder here and no Hub id (NAMESPACE/NAME). Check the path."
    # transformers' checks of a config say in the last line which of its values is wrong.
    line = last_line(error) if "Strict" in type(error).__name__ else class_and_line(error, 200)
    reason = f"its `config.json` is refused ({one_line(line)})." if os.path.isdir(name) else first_line(error)
    return (
        f"'{name}' is no model that transformers can load: {reason} Give a folder with a `config.json` and "
        "safetensors, or a Hub id."
    )


def named_key(values: Mapping[str, Any], said: str) -> str:
    """
    Names the key whose value a library complains of without saying which it is; empty where that cannot be told.

    Args:
        values (`Mapping`): What a settings file holds.
        said (`str`): What the library says.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and (inner := named_key(value, said)):
            return inner
        if isinstance(value, str) and len(value) > 2 and (f"'{value}'" in said or f'"{value}"' in said):
            return f"`{key}` is '{one_line(value, 60)}': "
    return ""


def weights_error(name: str, config: PreTrainedConfig, error: Exception, what: str = "reward model") -> str:
    """
    The message for a model whose config is there but whose weights cannot be loaded.

    Args:
        name (`str`): Folder or Hub id.
        config (`PreTrainedConfig`): Its config.
        error (`Exception`): What transformers or safetensors raised.
        what (`str`): What it was to be: `reward model` or `causal LM`.
    """
    text = str(error)
    if "Unrecognized configuration class" in text:
        if what != "causal LM" and (causal := MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)):
            return (
                f"'{name}' is a '{config.model_type}' model: transformers {transformers.__version__} has its language model "
                f"({causal}) but no sequence classifier of it, which is what a reward model is saved as, so that no "
                "program could open it. Start from a model of another family, such as Llama, Qwen3 or Gemma 3."
            )
        made, start = ("causal LM", "") if what == "causal LM" else ("text classifier", " or a BERT-like encoder")
        return (
            f"'{name}' is a '{config.model_type}' model, which transformers cannot make a {made} of: it is no "
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
            f"'{name}': the weights do not have the shapes that its `config.json` gives ('{config.model_type}'); the two "
            "belong to different models. Restore the right files."
        )
    key = named_key(config.to_dict(), text)
    line = first_line(error) if isinstance(error, OSError | ValueError) else class_and_line(error, 200)
    return f"'{name}' cannot be loaded as a {what}: {key}{one_line(line)} Check its `config.json`."


def incomplete_error(name: str, missing: Sequence[str]) -> str:
    """
    The message for a model whose weights are not all there.

    Args:
        name (`str`): Folder or Hub id.
        missing (`Sequence[str]`): Names of the weights that its files lack.
    """
    return (
        f"'{name}' lacks {len(missing)} weights of its own architecture (first: '{missing[0]}'): it is no complete "
        "language model. Check that the right folder was given and that all its safetensors files are there."
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

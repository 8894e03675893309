"""The files of a model folder, in one table: what each is, who writes it, and what may be done with it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..output.json_files import load_json
from ..output.lock import LOCK_NAME
from ..output.written import RUN_MANIFEST


ADAPTER_FOLDER = "adapter"
LM_HEAD_FOLDER = "lm_head"
FIGURE_FOLDER = "evaluation"
ANCHOR_FOLDER = "anchor_rewards"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD_NAME = "README.md"
CONFIG_NAME = "config.json"
SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = f"{SAFE_WEIGHTS}.index.json"
SETTINGS_NAME = "rm_toolkit.json"
MANIFEST_NAME = "manifest.json"
MERGE_NAME = "merge.json"
FRONTIER_FOLDER = "frontier"
FINAL_RESULTS_NAME = "final_eval_results.json"
FINAL_PAIRS_NAME = "final_eval_pairs.parquet"
TRAINING_LOG_NAME = "training_log.json"
CALIBRATION_NAME = "calibration.json"
# Files and folders that an unfinished run leaves behind; none of them is a result.
LEFTOVERS = (".saving-*", ".removing-*")


@dataclass(frozen=True)
class ModelFile:
    """
    One row of the table.

    Args:
        name (`str`): Path in the folder. `*` stands for any characters but a slash, `{N}` for digits. With a
            trailing slash it is a folder with all its content.
        what (`str`): Its content.
        writer (`str`): Who writes it, one of `WRITERS`.
        overwritten (`bool`): Whether a new run in the same output folder may remove it (`--overwrite_output_dir`).
        carried (`bool`): Whether it is copied unchanged when models are merged.
        published (`bool`): Whether a push uploads it.
        loaded (`bool`): Whether a model, an adapter or a tokenizer is read from it.
        in_adapter (`bool`): Whether `adapter/` may have it too.
        legacy (`bool`): Whether only earlier versions of transformers, or other toolkits, write it.
    """

    name: str
    what: str
    writer: str
    overwritten: bool = False
    carried: bool = False
    published: bool = False
    loaded: bool = False
    in_adapter: bool = False
    legacy: bool = False

    def matches(self, path: str) -> bool:
        """Whether a path (with slashes, relative to the folder) is this file, or is this folder or in it."""
        return _pattern(self.name).fullmatch(path) is not None


WRITERS = {
    "saving": "save_reward_model, and the base-LM stage: the result of a run, and each checkpoint",
    "results": "the end of a run",
    "trainer": "a run, while it trains",
    "reports": "what `report_to` names",
    "checkpoint": "the trainer, inside `checkpoint-N/` alone: the state to resume from",
    "merge": "rm-toolkit merge",
    "calibrate": "rm-toolkit calibrate; names the weights that it was fitted to, and is refused for others",
    "push": "rm-toolkit push, in the repository on the Hub",
    "person": "a person",
}


def _saved(name: str, what: str, **more: bool) -> ModelFile:
    given = {"overwritten": not more.get("legacy"), "published": True, "loaded": True, **more}
    return ModelFile(name, what, "saving", **given)


def _tokenizer(name: str, what: str, **more: bool) -> ModelFile:
    return _saved(name, what, carried=True, in_adapter=True, **more)


def _vocabulary(name: str) -> ModelFile:
    return _tokenizer(name, "vocabulary of a tokenizer without tokenizer.json", legacy=True)


def _state(name: str, what: str, **more: bool) -> ModelFile:
    return ModelFile(name, what, "checkpoint", **more)


# Names that transformers gives the files of slow tokenizers.
VOCABULARIES = (
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "spm_char.model",
    "bpe.model", "source.spm", "target.spm", "vocab.json", "vocab.txt", "merges.txt", "vocab-src.json", "vocab-tgt.json",
    "dict.txt", "bpe.codes", "bpe_codes", "byte_maps.json", "emoji.json", "entity_vocab.json", "prophetnet.tokenizer",
    "normalizer.json", "target_vocab.json", "word_shape.json", "word_pronunciation.json", "tekken.json",
    "tokenizer.tiktoken",
)  # fmt: skip
MODEL_FILES: tuple[ModelFile, ...] = (
    _saved(CONFIG_NAME, "architecture", carried=True),
    _saved("generation_config.json", "how a causal LM generates: of the base-LM stage", carried=True),
    _saved(SAFE_WEIGHTS, "weights, reward head included"),
    _saved("model-{N}-of-{N}.safetensors", "weights of a large model, in shards"),
    _saved(SAFE_INDEX, "which shard holds which tensor"),
    _saved(SETTINGS_NAME, "how texts are read, and where the model comes from", in_adapter=True),
    _saved(f"{LM_HEAD_FOLDER}/{SAFE_WEIGHTS}", "language-modeling head for the next stage"),
    _saved(ADAPTER_CONFIG, "adapter and the name of its base", in_adapter=True),
    _saved(ADAPTER_WEIGHTS, "weights of an adapter, reward head included", in_adapter=True),
    _tokenizer("tokenizer.json", "tokenizer"),
    _tokenizer("tokenizer_config.json", "settings of the tokenizer"),
    _tokenizer("chat_template.jinja", "chat template"),
    _tokenizer("additional_chat_templates/*.jinja", "further chat templates by name"),
    _tokenizer("chat_template.json", "chat template", legacy=True),
    _tokenizer("special_tokens_map.json", "special tokens", legacy=True),
    _tokenizer("added_tokens.json", "tokens added to a vocabulary", legacy=True),
    *(_vocabulary(name) for name in VOCABULARIES),
    # The model's `auto_map` says which of these are its own: see `code_files`.
    _saved("*.py", "code of a model that needs trust_remote_code", carried=True, overwritten=False, in_adapter=True),
    ModelFile(FINAL_RESULTS_NAME, "metrics before and after training", "results", overwritten=True, published=True),
    ModelFile(
        FINAL_PAIRS_NAME, "rewards behind the metrics after training, without texts", "results", overwritten=True
    ),
    ModelFile(TRAINING_LOG_NAME, "everything that was logged so far", "trainer", overwritten=True, published=True),
    ModelFile("checkpoint-{N}/", "state to resume from", "trainer", overwritten=True),
    ModelFile(f"{ANCHOR_FOLDER}/", "the starting model's rewards of replayed pairs", "trainer", overwritten=True),
    *(ModelFile(name, "partly written or removed when a run was killed", "trainer", True) for name in LEFTOVERS),
    ModelFile(RUN_MANIFEST, "what the run has written", "trainer", overwritten=True),
    ModelFile(LOCK_NAME, "who is writing, if the folder above is not writable", "trainer"),
    ModelFile("runs/", "TensorBoard's log", "reports", overwritten=True),
    ModelFile("trainer_state.json", "progress and log of the base-LM stage, and in a checkpoint", "results", True),
    _state(MANIFEST_NAME, "size and hash of every file of a checkpoint"),
    _state("run_progress.json", "position of the run in its data, and its sums"),
    _state("stream_state_{N}.json", "position of each process in streamed data"),
    _state("run_identity.json", "which run it is: its data and settings, and what has changed since it began"),
    _state("optimizer.pt", "optimizer"),
    _state("optimizer.bin", "optimizer"),
    _state("optimizer_{N}/", "optimizer under FSDP"),
    _state("pytorch_model_fsdp_{N}/", "weights under FSDP"),
    _state("scheduler.pt", "learning-rate schedule"),
    _state("scaler.pt", "scale of fp16 gradients"),
    _state("rng_state*.pth", "random numbers of each process"),
    _state("global_step{N}/", "weights and optimizer under DeepSpeed"),
    _state("latest", "DeepSpeed's pointer to that folder"),
    _state("zero_to_fp32.py", "DeepSpeed's script that gathers its weights"),
    ModelFile(CALIBRATION_NAME, "turns its rewards into probabilities", "calibrate", published=True),
    ModelFile(MERGE_NAME, "weights and lineages of a merge", "merge"),
    ModelFile(f"{FRONTIER_FOLDER}/", "table and figure of a series of weights", "merge"),
    ModelFile(f"{FIGURE_FOLDER}/report.md", "report of rm-toolkit evaluate", "push", published=True),
    ModelFile(f"{FIGURE_FOLDER}/figures/*.png", "figures of rm-toolkit evaluate", "push", published=True),
    ModelFile(".rm_toolkit_push.json", "files of the last push", "push"),
    ModelFile(".gitattributes", "which files the Hub stores as large files", "push"),
    ModelFile(CARD_NAME, "card", "person", published=True),
    *(
        ModelFile(name, "license of the model, or of its base", "person", published=True)
        for name in ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")
    ),
)
# Files that loaders and servers read from the top of a folder, also under other names than ours.
TAKEN_UP = ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, "adapter_model.*", "pytorch_model*")


def find_row(path: str | os.PathLike) -> ModelFile | None:
    """
    Returns the row of a file or folder.

    Args:
        path (`str` or `os.PathLike`): Relative to the model folder. A checkpoint is a model folder of its own.

    Returns:
        `ModelFile`, *optional*: `None` if it is not in the table.
    """
    name = Path(path).as_posix()
    inside = name.removeprefix(f"{ADAPTER_FOLDER}/")
    rows = [row for row in MODEL_FILES if row.matches(inside) and (row.in_adapter or inside == name)]
    # An exact name has priority over a pattern: a script of DeepSpeed is not code of the model.
    return min(rows, key=lambda row: "*" in row.name, default=None)


def list_folder(folder: str | os.PathLike) -> Iterator[tuple[str, ModelFile | None]]:
    """
    Lists the content of a model folder, with its rows of the table.

    A folder that the table lists as a whole, or does not list at all, is one entry; links are not followed.

    Args:
        folder (`str` or `os.PathLike`): The model folder.

    Yields:
        `tuple`: Path relative to the folder, with a trailing slash if it is a folder; and its row, or `None` if the
            table does not list it.
    """
    yield from _list(Path(folder), "")


def _list(folder: Path, above: str) -> Iterator[tuple[str, ModelFile | None]]:
    for path in sorted(folder.iterdir()):
        name = above + path.name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and f"{name}/" in _opened_folders():
            yield from _list(path, f"{name}/")
            continue
        row = find_row(name)
        if row is not None and row.name.endswith("/") != is_folder and row.name not in LEFTOVERS:
            row = None  # a file where the table has a folder, or the other way round
        yield f"{name}/" if is_folder else name, row


def run_files(folder: str | os.PathLike) -> list[str]:
    """
    Returns the paths in an output folder that runs of this toolkit write; judged only by name.

    Args:
        folder (`str` or `os.PathLike`): An output folder.

    Returns:
        `list[str]`: Paths relative to it, those of folders with a trailing slash.
    """
    return [name for name, row in list_folder(folder) if row is not None and row.overwritten]


def weight_files(folder: str | os.PathLike) -> list[Path]:
    """
    Returns the weight files of a model as transformers finds them: `model.safetensors`, else those in the index. Other
    files with similar names are not read.

    Args:
        folder (`str` or `os.PathLike`): A model folder.

    Returns:
        `list[Path]`: Empty if there are none.

    Raises:
        `InputError`: if the index cannot be read, or lists a missing file.
    """
    folder = Path(folder)
    if (folder / SAFE_WEIGHTS).is_file():
        return [folder / SAFE_WEIGHTS]
    index = folder / SAFE_INDEX
    if not index.is_file():
        return []
    try:
        names = sorted(set(load_json(index)["weight_map"].values()), key=str)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index} cannot be read ({error!r}). Restore the file.") from error
    wrong = [
        name for name in names if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file()
    ]
    if wrong:
        raise InputError(f"{index} lists '{wrong[0]}', which is missing. Restore the file.")
    return [folder / name for name in names]


@functools.cache
def _opened_folders() -> set[str]:
    """Folders that the table lists by their files."""
    files = [row.name for row in MODEL_FILES if not row.name.endswith("/")]
    files += [f"{ADAPTER_FOLDER}/{row.name}" for row in MODEL_FILES if row.in_adapter]
    return {f"{above}/" for name in files for above in map(str, PurePosixPath(name).parents) if above != "."}


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name.removesuffix("/")).replace(r"\*", "[^/]*").replace(r"\{N\}", r"\d+")
    return re.compile(text + ("(/.*)?" if name.endswith("/") else ""), re.DOTALL)

"""The settings of a saved reward model besides `config.json`: `rm_toolkit.json`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, name_list
from ..output.redaction import redact
from .files import SETTINGS_NAME
from .folder_checks import read_checked


POOLING_TYPES = ("last", "eos", "average", "max", "cls")
WHOLE_TEXT = ("average", "max")  # those that read a reward from all tokens of a text, not from one of them
DATA_FORMATS = ("text", "chat")


@dataclass
class RewardModelSettings:
    """
    How a reward model reads its input, and where it comes from. Saved as `rm_toolkit.json`.

    Args:
        pooling_type (`str`): Where the reward is read, one of `POOLING_TYPES`.
        data_format (`str`): `"text"` or `"chat"`.
        max_length (`int`): Most tokens that the model reads; longer texts are truncated on the left.
        pools_eos (`bool`, *optional*): Whether `average` and `max` of a decoder pool the EOS that the saved tokenizer
            appends to plain text, as the original work does. Models of version 0.2.1 and earlier do not. `None` until
            a
                model is prepared for training.
        chat_date (`str`, *optional*): The date (`YYYY-MM-DD`) in the saved chat template, whose original asks for
            today's date.
        stage (`str`, *optional*): `"grft"`, `"crft"` or another name of the training stage.
        domain (`str`, *optional*): The domain that a customized reward model is for.
        lineage (`list[dict]`): One entry per stage, oldest first: stage, base, datasets, steps.
        lm_head (`str`): `"tied"` (to the embedding), `"saved"` (in the subfolder `lm_head/`) or `"none"`.
        stock (`bool`): Whether stock transformers classes read the same reward from the folder; set when it is saved.
            If not, it loads through rm_toolkit only.
        quantization (`dict`, *optional*): For an adapter without merged model: the 4-bit quantization of its base.
    """

    pooling_type: str = "last"
    data_format: str = "text"
    max_length: int = 512
    pools_eos: bool | None = None
    chat_date: str | None = None
    stage: str | None = None
    domain: str | None = None
    lineage: list[dict[str, Any]] = field(default_factory=list)
    lm_head: str = "none"
    stock: bool = True
    quantization: dict[str, Any] | None = None
    rm_toolkit_version: str = __version__

    def __post_init__(self):
        if self.pooling_type not in POOLING_TYPES:
            raise InputError(f"`pooling_type` is '{self.pooling_type}'; it must be one of {name_list(POOLING_TYPES)}.")
        if self.data_format not in DATA_FORMATS:
            raise InputError(f"`data_format` is '{self.data_format}'; it must be one of {name_list(DATA_FORMATS)}.")
        if not self.max_length or self.max_length < 4:
            raise InputError(f"`max_length` is {self.max_length}; a text needs room for at least 4 tokens.")

    @property
    def pools_all(self) -> bool:
        """Whether a reward is read from all tokens of a text, and not from one of them."""
        return self.pooling_type in WHOLE_TEXT

    def stages(self) -> Iterator[dict[str, Any]]:
        """Yields every stage that the model comes from, oldest first: those of all models that were merged too."""
        yield from _stages(self.lineage)

    def record(self) -> dict[str, Any]:
        """Returns what `rm_toolkit.json` and reports hold, without secrets."""
        return redact(dataclasses.asdict(self))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `rm_toolkit.json` into `folder`."""
        text = json.dumps(self.record(), indent=2, ensure_ascii=False)
        Path(folder, SETTINGS_NAME).write_text(text + "\n", encoding="utf-8")


def _stages(lineage: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in lineage:
        for merged in (entry.get("general_lineage", []), *entry.get("customized_lineages", [])):
            yield from _stages(merged)
        yield entry


def not_stock_notice(pooling_type: str) -> str:
    """The notice shown by everything that saves or publishes such a model."""
    return (
        f"`{pooling_type}` pooling of this architecture loads through rm_toolkit only (`RewardScorer`, "
        "`RewardModel.from_pretrained`); stock classes and servers would give other numbers."
    )


def load_settings(model_name_or_path: str, revision: str | None = None) -> RewardModelSettings | None:
    """
    Reads `rm_toolkit.json` of a local folder or a Hub repository; `None` where there is none.

    Raises:
        `InputError`: if the file exists but is not readable JSON, or has an invalid value.
    """
    values = read_checked(model_name_or_path, SETTINGS_NAME, revision)
    if values is None:
        return None
    known = {item.name for item in dataclasses.fields(RewardModelSettings)}
    values["pools_eos"] = bool(values.get("pools_eos"))
    return RewardModelSettings(**{name: value for name, value in values.items() if name in known})

"""The card of a built dataset: columns, counts, cleaning, provenance, and the YAML that loaders read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import DatasetDict, DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from .. import __version__
from ..data.cleaning import cleaning_steps
from ..data.schema import find_format, find_shape
from ..data.sources import SOURCES


TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"
COLUMNS = {
    "prompt": "the prompt",
    "chosen": "the preferred response",
    "rejected": "the other response",
    "completions": "the responses, in source order",
    "score_chosen": "raw score of `chosen`, higher is better; 1 if the source has none",
    "score_rejected": "raw score of `rejected`; 0 if the source has none",
    "scores": "raw scores of the responses, higher is better",
    "margin": "target difference of the two rewards",
    "rejected_domain": "domain that wrote `rejected`",
    "completion_domains": "domain that wrote each response",
    "domain": "whose preferences these are",
    "source": "raw format that the row was read from",
    "prompt_id": "the same for all rows of a prompt; splits made by rm-toolkit never share one",
    "tools": "JSON schemas of the tools that a chat template may list",
    "chat_template_kwargs": "more variables for a chat template",
}


def dataset_card(
    repo_id: str, data: DatasetDict, files: dict[str, list[str]], info: dict[str, Any], license: str | None
) -> DatasetCard:
    """
    Writes the card.

    Args:
        repo_id (`str`): Name on the Hub.
        data (`DatasetDict`): The built dataset.
        files (`dict[str, list[str]]`): Parquet files of each split, as paths in the repository.
        info (`dict`): `rm_toolkit_data.json`.
        license (`str`, *optional*): As given by the publisher.
    """
    first = next(iter(data.values()))
    shape = find_shape(first.column_names) or "pairs"
    source = info.get("source")
    published = SOURCES[source].license if source in SOURCES else None
    stated = license or info.get("license")
    metadata = DatasetCardData(
        license=stated or published,
        task_categories=["text-ranking"],
        tags=["preference", "reward-model", "trl", "rm-toolkit"],
        pretty_name=repo_id.split("/")[-1],
        size_categories=size_category(sum(len(rows) for rows in data.values())),
    )
    splits = SplitDict()
    for name, rows in data.items():
        splits.add(SplitInfo(name=name, num_bytes=rows.data.nbytes, num_examples=len(rows)))
    DatasetInfosDict({"default": DatasetInfo(features=first.features, splits=splits)}).to_dataset_card_data(metadata)
    # Every file is listed by name: files of an earlier push or of others are never read as rows.
    entries = [{"split": name, "path": paths} for name, paths in files.items()]
    MetadataConfigs({"default": {"data_files": entries}}).to_dataset_card_data(metadata)
    steps = cleaning_steps(shape, listed="drop_pairs" in info)
    return DatasetCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        version=__version__,
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        shape=shape,
        format=find_format(first.features),
        columns=[(name, _type_name(kind), COLUMNS.get(name, "")) for name, kind in first.features.items()],
        splits=[(name, f"{len(rows):,}", f"{len(rows.unique('prompt_id')):,}") for name, rows in data.items()],
        counted=list(info["counts"]),
        cleaning=[
            [title, *(f"{counts.get(key, 0):,}" for counts in info["counts"].values())] for title, key in steps.items()
        ],
        info=info,
        options={
            name: value
            for name, value in info.get("options", {}).items()
            if not (value is None or value is False or value == {})
            and not (name in ("test_size", "seed") and info.get("split") != "made")
        },
        stated=stated,
        published=published,
    )


def size_category(rows: int) -> str:
    """Returns the Hub's name for a number of rows."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return next((name for name, limit in zip(names, (10**k for k in range(3, 9))) if rows < limit), "100M<n<1B")


def _type_name(feature: Any) -> str:
    if hasattr(feature, "dtype") and isinstance(feature.dtype, str) and feature.dtype not in ("list", "dict"):
        return feature.dtype
    if type(feature).__name__ == "Json":
        return "object (JSON)"
    if isinstance(feature, dict):
        return "message (" + ", ".join(feature) + ")"
    inner = getattr(feature, "feature", None)
    return f"list of {_type_name(inner)}" if inner is not None else str(feature)

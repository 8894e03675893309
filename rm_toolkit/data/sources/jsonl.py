"""A user's own file (JSON Lines, JSON or Parquet), its columns mapped by name."""

from . import columns
from .base import Source


SOURCE = Source(
    "jsonl",
    "your own file; name its columns with --columns prompt=question chosen=good rejected=bad",
    columns.row,
    "none",
    join=columns.join_neighbors,
    joins=columns.is_single,
    accepts=("columns", "drop_contradictions"),
)

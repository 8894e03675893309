"""Any preference dataset in TRL's format (explicit or implicit prompt), in a folder, in a file or on the Hub."""

from . import columns
from .base import Source


SOURCE = Source(
    "preference",
    "a TRL preference dataset on disk or on the Hub; UltraFeedback and HelpSteer scores",
    columns.row,
    "none",
    join=columns.join_neighbors,
    joins=columns.is_single,
    accepts=("columns", "drop_contradictions"),
)

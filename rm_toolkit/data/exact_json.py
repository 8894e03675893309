"""
Keeps numbers in the JSON columns of `datasets` as they were written.

`datasets` writes and reads such columns with pandas' `ujson`, which keeps 10 decimals, and reads 0.3 as
0.30000000000000004: a chat template would print a different text.
"""

from __future__ import annotations

import json
from typing import Any


def use_exact_json() -> None:
    """Lets `datasets` write and read its JSON columns with Python's own JSON, in this process and its forks."""
    from datasets import arrow_writer
    from datasets.features import features
    from datasets.utils import json as of_datasets

    # Each module imports the two functions under its own name, and the feature has no setting for them.
    for module in (of_datasets, features, arrow_writer):
        module.ujson_dumps, module.ujson_loads = _dumps, json.loads


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

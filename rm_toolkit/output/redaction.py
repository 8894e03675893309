"""Keeps tokens and passwords out of whatever is printed or saved."""

from __future__ import annotations

import re
from typing import Any


PLACEHOLDER = "<hidden>"
# What stands before the secret is kept: group 1.
PATTERNS = (
    re.compile(r"\b((?:hf|api_org|hf_oauth)_)[A-Za-z0-9_\-]{8,}"),  # of the Hugging Face Hub
    re.compile(r"(\b[a-z][a-z0-9+.\-]*:/{1,2})[^/\s@'\"]+(?=@)"),  # user:password@host; paths lose a slash
    re.compile(r"(?i)([?&](?:access_token|token|api_key|apikey|password|signature|sig)=)[^&\s'\"]+"),
    re.compile(r"(?i)(\bBearer )\S+"),
)


def redact(value: Any) -> Any:
    """
    Replaces tokens, and passwords in addresses, by `<hidden>`.

    Args:
        value: A string, or lists and dictionaries of them; anything else is returned as it is.
    """
    if isinstance(value, str):
        for pattern in PATTERNS:
            value = pattern.sub(rf"\1{PLACEHOLDER}", value)
        return value
    if isinstance(value, dict):
        return {
            key: PLACEHOLDER if isinstance(item, str) and str(key).lower().endswith("token") and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value

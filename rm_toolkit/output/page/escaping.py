"""JSON that is safe inside a `<script>` of a page, in a separate script, and in a UTF-8 file."""

from __future__ import annotations

import json
import re
from typing import Any


# Half a surrogate pair is not a character, and UTF-8 cannot encode it.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# `</script>` and `<!--` end or change a script anywhere; U+2028 and U+2029 are line ends in JavaScript.
UNSAFE = re.compile("[<>&\u2028\u2029\ufeff\ud800-\udfff]")


def utf8_json(value: Any) -> str:
    """Returns compact JSON that can be written as UTF-8, whatever characters the strings hold."""
    return LONE_SURROGATE.sub(_escape, _dumps(value))


def script_json(value: Any) -> str:
    """Returns compact JSON for a script or a data block of a page."""
    return UNSAFE.sub(_escape, _dumps(value))


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:  # NaN and infinities, which JSON cannot store: their names
        return _dumps(json.loads(json.dumps(value), parse_constant=str))


def _escape(found: re.Match[str]) -> str:
    # All of these occur only in strings, not in the rest of JSON.
    return f"\\u{ord(found[0]):04x}"

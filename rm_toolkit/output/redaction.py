"""Removes tokens and passwords from everything that is printed or saved."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any


PLACEHOLDER = "<hidden>"
# Names of variables, headers, query fields and keys with secrets. `eos_token` etc. are not secret.
_NAMES = (
    r"[\w-]*(?:api[_-]?key|access[_-]?key|secret|passw(?:or)?d|credentials?|authorization|(?<![a-z])cookie"
    r"|(?:access|auth|hub|hf|api|session|refresh|bearer|private|use_auth|github|wandb)[_-]?token)"
)
_NAMED = re.compile(rf"(?i)(?:{_NAMES}|token)")
_TOKEN_OF_TEXT = re.compile(
    r"(?i)(?:bos|eos|pad|unk|sep|cls|mask|image|audio|video|boi|eoi|additional_special)_tokens?"
)
_OF_ENVIRONMENT = re.compile(r"(?i)token|_key$|^key$|apikey|secret|passw|credential")
SHORTEST = 8  # characters of an environment variable that may be a secret
# The text before the secret is kept: group 1.
PATTERNS = (
    re.compile(r"\b((?:hf|api_org|hf_oauth)_)[A-Za-z0-9_\-]{8,}"),  # of the Hugging Face Hub
    re.compile(r"\b(sk-|gh[pousr]_|github_pat_|xox[abp]-|glpat-)[A-Za-z0-9_\-]{16,}"),  # of endpoints and forges
    # user:password@host, also where the password is not encoded as it should be; a number before a slash is a port.
    re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.\-]*:/{0,3})[^\s/:@'\"]*:(?!\d{1,5}(?:[/?#]|$))[^\s'\"]*(?=@[\w\[])"),
    re.compile(r"(\b[a-z][a-z0-9+.\-]*:/{1,2})[^/\s@'\"]+(?=@)"),  # user@host; paths lose a slash
    re.compile(r"(?i)([?&](?:token|key|signature|sig|x-amz-[\w-]*|" + _NAMES + r")=)[^&\s'\"]+"),
    re.compile(r"(?i)(\b(?:Bearer|Basic) )(?=[^\s'\"]{8})[A-Za-z0-9._~+/=\-]+"),
    # In JSON, YAML, `repr` and headers: 'api_key': 'x', api_key=x, X-Api-Key: x.
    re.compile(
        rf"(?i)(\b{_NAMES}\\?[\"']?\s*[:=]\s*\\?[\"']?(?:Bearer |Basic )?)(?!(?:Bearer |Basic )?<hidden>|None\b|null\b|true\b|false\b)[^\s\"'\\,;&}}\])]+"
    ),
)
_known: set[str] = set()  # in every encoding


def hide(secret: str | None) -> None:
    """
    Registers a secret that [`redact`] hides everywhere, also encoded; for keys that no pattern recognizes.

    Args:
        secret (`str`, *optional*): The secret; ignored if shorter than 8 characters.
    """
    _known.update(_forms(secret or ""))


def hide_values(value: Any) -> None:
    """Registers every string in nested lists and mappings whose key is the name of a secret."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and is_secret_name(key):
                hide(item.removeprefix("Bearer ").removeprefix("Basic "))
            else:
                hide_values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            hide_values(item)


def is_secret_name(name: Any) -> bool:
    """Whether a key of a mapping is the name of a secret."""
    text = str(name)
    if _TOKEN_OF_TEXT.fullmatch(text):
        return False
    return text.lower().endswith("token") or _NAMED.fullmatch(text) is not None


def redact(value: Any) -> Any:
    """
    Replaces tokens, keys, and passwords in addresses, by `<hidden>`; and every secret of the environment.

    Args:
        value: A string, or lists and dictionaries of them; anything else is returned as it is.
    """
    return _redact(value, sorted(_known.union(*map(_forms, _environment())), key=len, reverse=True))


def _redact(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        for secret in known:
            value = value.replace(secret, PLACEHOLDER)
        for pattern in PATTERNS:
            value = pattern.sub(rf"\1{PLACEHOLDER}", value)
        return value
    if isinstance(value, dict):
        return {
            key: PLACEHOLDER if isinstance(item, str) and item and is_secret_name(key) else _redact(item, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(item, known) for item in value]
    return value


def _environment() -> Iterable[str]:
    """Values of variables with names of secrets; paths and numbers are not secret."""
    return [
        value.strip()
        for name, value in os.environ.items()
        if _OF_ENVIRONMENT.search(name) and not value.strip().isdecimal() and not os.path.exists(value)
    ]


def _forms(secret: str) -> set[str]:
    """A secret as it is, URL-encoded, JSON-escaped, and in base64."""
    if len(secret) < SHORTEST:
        return set()
    data = secret.encode("utf-8", errors="surrogatepass")
    forms = {secret, urllib.parse.quote(data, safe=""), urllib.parse.quote(data), urllib.parse.quote_plus(data)}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    forms |= {base64.b64encode(data).decode().rstrip("="), base64.urlsafe_b64encode(data).decode().rstrip("=")}
    return forms

"""Addresses of servers that a user names."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import InputError


def check_address(address: str, name: str, example: str, key_variable: str) -> str:
    """
    Returns an address without a slash at its end.

    Args:
        address (`str`): The given address.
        name (`str`): Name of its argument.
        example (`str`): An example of a valid address.
        key_variable (`str`): Environment variable for the key.

    Raises:
        `InputError`: if it is not an http address, or has a password, which would end up in written files.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username or parts.password or parts.query:
        raise InputError(f"{name} has a user, a password or a query; put the key into {key_variable} instead.")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{name} is '{address}', but must be like {example}.")
    return address.rstrip("/")

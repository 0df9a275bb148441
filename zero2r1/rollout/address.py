"""Where requests go and with which key: both are checked before anything is sent, and the key shows nowhere."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_KEY = re.compile(r"[!#-&(-\[\]-~]+")
"""What can be printed in ASCII, but for quotes and backslashes, so that a key looks the same wherever it is quoted."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_SHORTEST_SECRET = 8
"""Placeholders such as ``EMPTY`` are no secrets, and cutting them out of a message would only garble it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """An API key that shows in no repr."""

    value: str | None = field(repr=False)

    def __post_init__(self) -> None:
        if self.value is not None and not _KEY.fullmatch(self.value):
            raise ValueError("the API key is empty or holds white space, quotes or other characters of no key; was a line end copied too?")

    @classmethod
    def read(cls, api_key: str | None, api_key_env: str | None) -> Secret:
        """The key itself, or the content of the environment variable named; never of one that was not named."""
        if api_key is not None and api_key_env is not None:
            raise ValueError("give api_key or api_key_env, not both")
        if api_key_env is None:
            return cls(value=api_key)
        if not _VARIABLE.fullmatch(api_key_env):  # not repeated in the message: it may be the key itself
            raise ValueError("api_key_env is the name of an environment variable, such as JUDGE_API_KEY; the key itself is api_key")
        if not os.environ.get(api_key_env):
            raise ValueError(f"the environment variable {api_key_env}, named by api_key_env, is not set: export {api_key_env}=...")
        return cls(value=os.environ[api_key_env].strip())

    def hidden_in(self, text: str) -> str:
        """``text`` without the key: some servers quote it when they refuse it."""
        return text.replace(self.value, "***") if self.value and len(self.value) >= _SHORTEST_SECRET else text


def check_address(base_url: str, *, key: bool, plaintext_key: bool) -> str:
    """``base_url`` without its last slash.

    Raises:
        ValueError: it is no plain http(s) address, or a key would travel to another machine in clear text.
    """
    base_url = base_url.rstrip("/")
    try:
        parts = urlsplit(base_url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment or not base_url.isascii() or any(c.isspace() for c in base_url):
        raise ValueError("base_url must be an http or https address without a query, such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("base_url holds a user name or password, which would show in logs; pass a key with api_key_env instead")
    if parts.path.endswith("/chat/completions"):
        raise ValueError(f"base_url ends before /chat/completions: {base_url.removesuffix('/chat/completions')}")
    if key and parts.scheme == "http" and not plaintext_key and not is_this_machine(base_url):
        raise ValueError(
            f"the key would travel to {parts.hostname} in clear text; use an https address, or pass allow_plaintext_key=True "
            "inside a network you trust"
        )
    return base_url


def is_this_machine(url: str) -> bool:
    """Whether the address is of the loopback, which a proxy would look for on its own machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified

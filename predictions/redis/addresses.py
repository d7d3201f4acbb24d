"""The servers that the settings name."""

import re
from contextlib import suppress
from pathlib import Path

import redis
from django.conf import settings

Address = tuple[str, int]


def named_servers() -> list[Address]:
    """The sentinels, the nodes of a cluster, or one server. Raises redis' ConnectionError if there is none."""
    if settings.REDIS_SENTINELS:
        return [parse_address(text, default_port=26379) for text in settings.REDIS_SENTINELS]
    addresses = [text for text in settings.REDIS_ADDRESS.split(",") if text.strip()]
    if not addresses:
        with suppress(OSError):  # scripts/run leaves the address of the server that it starts in this file
            addresses = [(Path(settings.EMBEDDED_REDIS_DIR) / "address").read_text()]
    if not addresses:
        raise redis.ConnectionError(
            "there is no Redis: set REDIS_ADDRESS=host:port, or use scripts/run, which starts one"
        )
    return [parse_address(text) for text in addresses]


def parse_address(text: str, *, default_port: int = 6379) -> Address:
    """`host:port`, `host`, or with an IPv6 address in brackets. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", text.strip())
    port = int(match[3] or default_port) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError(f"{text.rpartition('@')[2]!r} is not an address")  # before an @ there may be a password
    return match[1] or match[2], port

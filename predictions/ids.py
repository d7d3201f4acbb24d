"""Ids that grow with time (UUID version 7), so that new rows go to the end of an index."""

import os
import time
import uuid

_VERSION, _VARIANT = 0x7 << 76, 0x2 << 62
_CHANCE = (1 << 76) - 1 & ~(0x3 << 62)


def new_id() -> uuid.UUID:
    """A UUID of version 7 (RFC 9562, section 5.7): Unix time in milliseconds, then 74 bits of chance."""
    milliseconds = time.time_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10)) & _CHANCE
    return uuid.UUID(int=milliseconds << 80 | _VERSION | _VARIANT | chance)

"""Types of arguments that several commands take. Each raises ArgumentTypeError in words that argparse shows."""

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

from django.utils.timezone import now

LARGEST = 2**31 - 1
"""What every database takes as a number."""
LONGEST = timedelta(days=10_000)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """`90s`, `30m`, `48h` or `7d`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", text.strip())
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a duration: write 90s, 30m, 48h or 7d")
    said = timedelta(**{_UNITS[match[2]]: float(match[1])})
    if said > LONGEST:
        raise ArgumentTypeError(f"{text!r} is too long: {LONGEST.days}d at most")
    return said


def moment(text: str) -> datetime:
    """A duration ago, or a date (and time; UTC unless it says otherwise) such as `2026-11-22` or `2026-11-22T17:00`."""
    try:
        said = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return now() - duration(text)
        except ArgumentTypeError as error:
            raise ArgumentTypeError(f"{text!r} is neither a duration (2h, 7d) nor a date (2026-11-22T17:00)") from error
    try:
        return (said if said.tzinfo is not None else said.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ArgumentTypeError(f"{text!r} in UTC is not in the years 1 to 9999") from error


def positive(text: str) -> int:
    """A whole number from 1 to LARGEST."""
    number = int(text) if re.fullmatch(r"\d{1,10}", text) else 0
    if not 1 <= number <= LARGEST:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to {LARGEST}")
    return number

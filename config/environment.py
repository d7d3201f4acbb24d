"""Reads the environment for `settings.py` and collects every wrong value instead of stopping at the first.

A wrong value counts as not set. The system checks (`predictions/checks.py`) report all problems at once, and no process
starts. gunicorn's master reads the settings before gevent patches the standard library, so this module imports nothing
of Django.
"""

import io
import os
import re
import string
import tempfile
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import environ

T = TypeVar("T")

FALSE_WORDS = ("false", "no", "off", "0")
SECONDS_IN = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
DATABASES = ("postgres", "postgresql", "sqlite")
_LINE = re.compile(r"(?:export )?[A-Za-z_]\w*=.*", re.ASCII)
_DURATION = re.compile(r"([+-]?\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", re.ASCII)
_HOST = r"[A-Za-z0-9](?:[\w.-]*\w)?|\[[0-9A-Fa-f:.]+\]"
_ADDRESS = re.compile(rf"(?P<host>{_HOST})?(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)


class Problem(NamedTuple):
    """A wrong setting. `number` is the system check's."""

    number: str
    message: str
    hint: str


class _WrongValue(Exception):
    """Completes the sentence `NAME='value' …`, such as "is not a duration"."""

    def __init__(self, reason: str, number: str = "E031") -> None:
        self.reason = reason
        self.number = number


class Environment:
    """The variables of a process. Blanks around a value do not count, and an empty value means not set.

    django-environ reads `.env` files and database URLs. Its other readers take a value with a leading `$` for the name
    of another variable and a misspelt boolean for false, and stop at the first error.
    """

    def __init__(self, variables: MutableMapping[str, str]) -> None:
        self.problems: list[Problem] = []
        """The agent does not start with these."""
        self.warnings: list[Problem] = []
        self._variables = variables

    def read_file(self, path: Path, *, must_exist: bool) -> None:
        """Adds the variables of a `.env` file; a variable of the process wins."""
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            if must_exist:
                self.note("E030", f"ENV_FILE={str(path)!r} names no file", "Name the file, or leave ENV_FILE out.")
            return
        except (OSError, UnicodeDecodeError) as error:
            self.note("E030", f"{path} cannot be read ({type(error).__name__})", "Let this user read it, as UTF-8.")
            return
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#") and not _LINE.fullmatch(line):
                hint = "Write NAME=value, without blanks before the name or around the equals sign."
                self.note("E030", f"line {number} of {path} is no setting", hint)  # the line may hold a secret

        class Reader(environ.Env):  # type: ignore[misc]
            ENVIRON = self._variables

        Reader.read_env(io.StringIO("\n".join(filter(_LINE.fullmatch, lines))))

    def rename(self, old: str, new: str) -> None:
        """Reads `old` as `new` unless `new` is set. The Go webhook service writes `empty` for "not set"."""
        if self.has(old) and not self.has(new) and self._variables[old].strip() != "empty":
            self._variables[new] = self._variables[old]

    def warn_if_set(self, name: str, hint: str) -> None:
        """Warns of a variable of the Go original that has no effect here."""
        if self.has(name):
            self.warnings.append(Problem("W004", f"{name} has no effect", hint))

    def note(self, number: str, message: str, hint: str) -> None:
        self.problems.append(Problem(number, message, hint))

    def has(self, name: str) -> bool:
        return bool(self._value(name))

    def text(self, name: str, *, default: str = "", pattern: str = "", hint: str = "") -> str:
        """Any text that matches `pattern`; `hint` describes the pattern."""

        def parse(text: str) -> str:
            if pattern and not re.fullmatch(pattern, text, re.ASCII):
                raise _WrongValue("cannot be used")
            return text

        return self._read(name, default, parse, hint)

    def names(self, name: str) -> list[str]:
        """A comma-separated list."""
        return [member.strip() for member in self.text(name).split(",") if member.strip()]

    def choice(self, name: str, *, default: str, among: tuple[str, ...]) -> str:
        """One of several words, in upper or lower case."""

        def parse(text: str) -> str:
            for known in among:
                if known.lower() == text.lower():
                    return known
            raise _WrongValue("is not known", "E032")

        return self._read(name, default, parse, f"Choose one of: {', '.join(among)}.")

    def boolean(self, name: str, *, default: bool) -> bool:
        def parse(text: str) -> bool:
            is_true = text.lower() in environ.Env.BOOLEAN_TRUE_STRINGS
            if not is_true and text.lower() not in FALSE_WORDS:
                raise _WrongValue("is neither true nor false")
            return is_true

        return self._read(name, default, parse, "Write true or false.")

    def integer(self, name: str, *, default: int, minimum: int = 1) -> int:
        def parse(text: str) -> int:
            try:
                value = int(text)
            except ValueError as error:
                raise _WrongValue("is not a whole number") from error
            if value < minimum:
                raise _WrongValue(f"is below {minimum}", "E033")
            return value

        return self._read(name, default, parse, f"Write a whole number from {minimum} on, such as {default}.")

    def seconds(self, name: str, *, default: str, above: float = -1) -> float:
        """A duration such as `48h`, `30m`, `90s` or `12.5` (seconds), in seconds."""

        def parse(text: str) -> float:
            match = _DURATION.fullmatch(text)
            if match is None:
                raise _WrongValue("is not a duration")
            seconds = float(match[1]) * SECONDS_IN[match[2]]
            if seconds < 0 or seconds <= above:
                raise _WrongValue("is too short", "E033")
            return seconds

        return self._read(name, parse(default), parse, f"Write seconds, or 90s, 30m, 48h, 2d; such as {default}.")

    def address(self, name: str, *, default: str = "", to_listen: bool = False) -> str:
        """`host` or `host:port` to call; `host:port` or `:port` to listen on."""

        parse = partial(_parse_address, needed="port" if to_listen else "host")
        return self._read(name, default, parse, "Write host:port, without http:// and without a path.")

    def url(self, name: str, *, default: str = "", or_address: bool = False) -> str:
        """`https://host/path` or `http://…`; with `or_address` also `host:port`."""

        def parse(text: str) -> str:
            if or_address and "://" not in text:
                return _parse_address(text)
            try:
                parts = urlsplit(text)
            except ValueError as error:
                raise _WrongValue("is not an address", "E034") from error
            _parse_address(parts.netloc)
            if parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username:
                raise _WrongValue("is not an address", "E034")
            return text

        example = default or ("host:port or https://host" if or_address else "https://host:port")
        return self._read(name, default, parse, f"Write an address such as {example}.")

    def directory(self, name: str, *, default: Path) -> str:
        """A writable directory, created if it is missing; the system's temporary directory if that fails."""
        path = Path(self.text(name) or default)
        is_writable = self.make_directory(path, f"Set {name} to a directory that this user may write.")
        return str(path) if is_writable else tempfile.gettempdir()

    def make_directory(self, path: Path, hint: str) -> bool:
        """Creates the directory. Returns whether this user can write to it."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_writable = os.access(path, os.W_OK)
        except OSError:
            is_writable = False
        if not is_writable:
            self.note("E035", f"the directory {path} cannot be written", hint)
        return is_writable

    def template(self, name: str, *, default: str, fields: tuple[str, ...]) -> str:
        """A text that may contain `{field}` for each of `fields`."""

        def parse(text: str) -> str:
            try:
                parts = list(string.Formatter().parse(text))
            except ValueError as error:
                raise _WrongValue("has a brace too many or too few") from error
            for _, field, form, conversion in parts:
                if field is not None and (field not in fields or form or conversion):
                    raise _WrongValue(f"has {{{field}}} in it, which is not known")
            return text

        known = ", ".join(f"{{{field}}}" for field in fields)
        return self._read(name, default, parse, f"It may use {known}; such as {default}.")

    def database(self, name: str, *, default: str) -> dict[str, Any]:
        """Django's configuration of the database at a URL. Problems never repeat the URL: it holds a password."""
        url = self._value(name) or default
        try:
            if url.partition("://")[0] not in DATABASES or not urlsplit(url).path.strip("/"):
                raise ValueError
            return dict(environ.Env.db_url_config(url))
        except ValueError:
            hint = "Write postgres://user:password@host:5432/name, or sqlite:////path/to/file."
            self.note("E034", f"{name} is not the address of a database", hint)
            return dict(environ.Env.db_url_config(default))

    def _value(self, name: str) -> str:
        return self._variables.get(name, "").strip()

    def _read(self, name: str, default: T, parse: Callable[[str], T], hint: str) -> T:
        text = self._value(name)
        if not text:
            return default
        try:
            return parse(text)
        except _WrongValue as wrong:
            shown = re.sub(r"[^/]*@", "…@", text[:100])  # an address may hold a password
            self.note(wrong.number, f"{name}={shown!r} {wrong.reason}", hint)
            return default


def _parse_address(text: str, *, needed: str = "host") -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not match[needed] or not 0 < int(match["port"] or 1) < 65536:
        raise _WrongValue("is not an address", "E034")
    return text

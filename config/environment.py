"""Reads the environment for `settings.py`, and notes what is wrong in it instead of stopping at the first thing.

A wrong variable counts as not set. The system checks tell all of them at once (`predictions/checks.py`), and nothing
starts. gunicorn's master reads the settings too, before gevent has patched what Django imports: so this imports none
of it.
"""

import io
import os
import re
import string
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import environ

T = TypeVar("T")

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
SECONDS_IN = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
DATABASES = ("postgres", "postgresql", "sqlite")
_LINE = re.compile(r"(?:export )?[A-Za-z_]\w*=.*", re.ASCII)
_HOST = r"[A-Za-z0-9](?:[\w.-]*\w)?|\[[0-9A-Fa-f:.]+\]"
_ADDRESS = re.compile(rf"(?P<host>{_HOST})?(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)


class Problem(NamedTuple):
    """What is wrong with a setting; `number` is that of the system check."""

    number: str
    message: str
    hint: str


class _Wrong(Exception):
    """A value that cannot be used. `what` goes on where the value ends: "is not a number"."""

    def __init__(self, what: str, number: str = "E031") -> None:
        self.what = what
        self.number = number


class Environment:
    """The variables of a process. Blanks around a value are no part of it, and an empty one counts as not set."""

    def __init__(self, variables: MutableMapping[str, str]) -> None:
        self.problems: list[Problem] = []
        """What is refused at start."""
        self.warnings: list[Problem] = []
        """What a start only tells."""
        self._variables = variables

    def read_file(self, path: Path, *, must_exist: bool) -> None:
        """Adds the lines of a `.env` file; what the environment has already wins."""
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
                self.note("E030", f"line {number} of {path} is no setting", hint)  # it may hold a secret

        class Reader(environ.Env):  # type: ignore[misc]
            ENVIRON = self._variables

        Reader.read_env(io.StringIO("\n".join(filter(_LINE.fullmatch, lines))))

    def rename(self, old: str, new: str) -> None:
        """Reads `old` as `new`, unless `new` is set. The Go webhook service wrote `empty` for "not set"."""
        if self.has(old) and not self.has(new) and self._variables[old].strip() != "empty":
            self._variables[new] = self._variables[old]

    def warn_if_set(self, name: str, hint: str) -> None:
        """Warns of a variable of the Go original that has no effect here."""
        if self.has(name):
            self.warnings.append(Problem("W004", f"{name} has no effect", hint))

    def note(self, number: str, message: str, hint: str) -> None:
        self.problems.append(Problem(number, message, hint))

    def has(self, name: str) -> bool:
        return bool(self._variables.get(name, "").strip())

    def text(self, name: str, *, default: str = "", pattern: str = "", hint: str = "") -> str:
        """Any text; with a `pattern` what fits it, and `hint` says what that is."""

        def read(text: str) -> str:
            if pattern and not re.fullmatch(pattern, text, re.ASCII):
                raise _Wrong("cannot be used")
            return text

        return self._read(name, default, read, hint)

    def names(self, name: str) -> list[str]:
        """A comma-separated list without blanks or empty members."""
        return [member.strip() for member in self.text(name).split(",") if member.strip()]

    def choice(self, name: str, *, default: str, among: tuple[str, ...]) -> str:
        """One of a few words, however its letters are written."""

        def read(text: str) -> str:
            found = next((known for known in among if known.lower() == text.lower()), None)
            if found is None:
                raise _Wrong("is not known", "E032")
            return found

        return self._read(name, default, read, f"Choose one of: {', '.join(among)}.")

    def flag(self, name: str, *, default: bool) -> bool:
        def read(text: str) -> bool:
            if text.lower() not in TRUE | FALSE:
                raise _Wrong("is neither true nor false")
            return text.lower() in TRUE

        return self._read(name, default, read, "Write true or false.")

    def whole(self, name: str, *, default: int, at_least: int = 1) -> int:
        def read(text: str) -> int:
            if not re.fullmatch(r"[+-]?[0-9]{1,15}", text, re.ASCII):
                raise _Wrong("is not a whole number")
            if int(text) < at_least:
                raise _Wrong(f"is below {at_least}", "E033")
            return int(text)

        return self._read(name, default, read, f"Write a whole number from {at_least} on, such as {default}.")

    def seconds(self, name: str, *, default: str, above: float = -1) -> float:
        """A duration such as `48h`, `30m`, `90s` or `12.5` (seconds), in seconds."""

        def read(text: str) -> float:
            match = re.fullmatch(r"([+-]?\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", text, re.ASCII)
            if match is None:
                raise _Wrong("is not a duration")
            seconds = float(match[1]) * SECONDS_IN[match[2]]
            if seconds < 0 or seconds <= above:
                raise _Wrong("is too short", "E033")
            return seconds

        return self._read(name, read(default), read, f"Write seconds, or 90s, 30m, 48h, 2d; such as {default}.")

    def address(self, name: str, *, default: str = "", to_listen: bool = False) -> str:
        """`host` or `host:port` to call; `host:port` or `:port` to listen at."""

        def read(text: str) -> str:
            _check_address(text, to_listen=to_listen)
            return text

        return self._read(name, default, read, "Write host:port, without http:// and without a path.")

    def url(self, name: str, *, default: str = "", or_address: bool = False) -> str:
        """`https://host/path` or `http://…`; with `or_address` also `host:port`."""

        def read(text: str) -> str:
            if or_address and "://" not in text:
                _check_address(text)
            else:
                _check_url(text)
            return text

        example = default or ("host:port or https://host" if or_address else "https://host:port")
        return self._read(name, default, read, f"Write an address such as {example}.")

    def directory(self, name: str, *, default: Path) -> str:
        """A directory that is there and can be written; made if need be. Where it cannot be, the temporary one."""
        path = Path(self.text(name) or default)
        if self.make_directory(path, f"Set {name} to a directory that this user may write."):
            return str(path)
        return tempfile.gettempdir()

    def make_directory(self, path: Path, hint: str) -> bool:
        """Whether the directory is there now and can be written."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            can_be_written = os.access(path, os.W_OK)
        except OSError:
            can_be_written = False
        if not can_be_written:
            self.note("E035", f"the directory {path} cannot be written", hint)
        return can_be_written

    def template(self, name: str, *, default: str, fields: tuple[str, ...]) -> str:
        """A text with `{field}` in it."""

        def read(text: str) -> str:
            try:
                parts = list(string.Formatter().parse(text))
            except ValueError as error:
                raise _Wrong("has a brace too many or too few") from error
            for _, field, form, conversion in parts:
                if field is not None and (field not in fields or form or conversion):
                    raise _Wrong(f"has {{{field}}} in it, which is not known")
            return text

        known = ", ".join(f"{{{field}}}" for field in fields)
        return self._read(name, default, read, f"It may use {known}; such as {default}.")

    def database(self, name: str, *, default: str) -> dict[str, Any]:
        """Django's configuration of the database at a URL. The URL is never repeated: it holds a password."""
        hint = "Write postgres://user:password@host:5432/name, or sqlite:////path/to/file."
        url = self._variables.get(name, "").strip() or default
        try:
            if url.partition("://")[0] not in DATABASES or not urlsplit(url).path.strip("/"):
                raise ValueError
            config: dict[str, Any] = environ.Env.db_url_config(url)
        except ValueError:
            self.note("E034", f"{name} is not the address of a database", hint)
            return dict(environ.Env.db_url_config(default))
        return config

    def _read(self, name: str, default: T, read: Callable[[str], T], hint: str) -> T:
        text = self._variables.get(name, "").strip()
        if not text:
            return default
        try:
            return read(text)
        except _Wrong as wrong:
            shown = re.sub(r"[^/]*@", "…@", text[:100])  # a password in an address
            self.note(wrong.number, f"{name}={shown!r} {wrong.what}", hint)
            return default


def _check_address(text: str, *, to_listen: bool = False) -> None:
    match = _ADDRESS.fullmatch(text)
    needed = "port" if to_listen else "host"
    if match is None or not match[needed] or not 0 < int(match["port"] or 1) < 65536:
        raise _Wrong("is not an address", "E034")


def _check_url(text: str) -> None:
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username
        _check_address(parts.netloc)
    except ValueError:
        wrong = True
    if wrong:
        raise _Wrong("is not an address", "E034")

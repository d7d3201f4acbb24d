"""The files in which processes keep their counts, in prometheus_client's own format.

prometheus_client maps its files into memory, and the kernel kills a process that touches a mapped page of a full disk
(SIGBUS). Here each process has its counts in memory and writes them through: a write that fails costs nothing but
their place in the file. Each file is locked by its process for as long as that lives. The files of ended processes are
added up in one file for each kind, so that restarts do not leave a file behind each time.

    counter_<process>.db  histogram_<process>.db  gauge_sum_<process>.db     one process's, locked by it
    counter_folded.db     histogram_folded.db     gauge_sum_folded.db        of all ended processes
    lock                                                                     held while the files are read or folded
"""

import errno
import fcntl
import json
import logging
import os
import re
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

FOLDED = "folded"
FOLDED_FILES = "_folded_files"
"""A metric of the folded files alone: which files they hold. A fold that is interrupted counts none of them twice."""
LOCK_SECONDS = 2.0
_HEADER_BYTES = 8
_NAME = re.compile(rf"(counter|histogram|summary|gauge_sum)_({FOLDED}|\d+(-[0-9a-f]+)?)\.db")
_UNREADABLE = (OSError, struct.error, RuntimeError, ValueError, TypeError)

_process: tuple[int, str] = (0, "")


def process_id() -> str:
    """A name for this process that no other has, on any host."""
    global _process
    pid = os.getpid()
    if _process[0] != pid:
        _process = (pid, f"{pid}-{uuid.uuid4().hex[:12]}")
    return _process[1]


def install() -> None:
    """Makes prometheus_client keep its counts here. Call it before the first metric is made."""
    values.MmapedDict = CounterFile  # type: ignore[attr-defined,assignment]
    values.ValueClass = values.MultiProcessValue(process_identifier=process_id)  # type: ignore[no-untyped-call]


class CounterFile:
    """One kind of metric of this process; takes the place of prometheus_client's MmapedDict. Not thread-safe."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._name = filename
        self._values: dict[str, float] = {}
        self._positions: dict[str, int] = {}
        """Where the file has them; it lacks those that could not be written yet."""
        self._file: int | None = None
        self._used = 0
        self._is_failing = False

    def read_value(self, key: str) -> tuple[float, float]:
        if key not in self._values:
            self.write_value(key, 0.0, 0.0)
        return self._values[key], 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        self._values[key] = value
        try:
            file = self._opened()
            if key in self._positions:
                _write(file, struct.pack("dd", value, timestamp), self._positions[key])
            else:  # the entry first and then the length that includes it: a file is whole wherever this ends
                entry = _entry(key, value, timestamp)
                _write(file, entry, self._used)
                _write(file, struct.pack("i", self._used + len(entry)), 0)
                self._used += len(entry)
                self._positions[key] = self._used - 16
        except OSError as error:
            if not self._is_failing:
                logger.warning("counts are kept in memory only: %s cannot be written (%s)", self._name, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        if self._file is None:
            self._file = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._used:
            _write(self._file, struct.pack("ii", _HEADER_BYTES, 0), 0)
            self._used = _HEADER_BYTES
        return self._file


def _write(file: int, data: bytes, position: int) -> None:
    if os.pwrite(file, data, position) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _entry(key: str, value: float, timestamp: float) -> bytes:
    """Length, key padded to eight bytes, value, timestamp (prometheus_client/mmap_dict.py)."""
    encoded = key.encode()
    padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
    return struct.pack(f"i{len(padded)}sdd", len(encoded), padded, value, timestamp)


@contextmanager
def files_to_add_up(directory: str) -> Iterator[list[str]]:
    """The files whose sum is the count of all processes, ended ones included. In the block they do not change."""
    with _locked(Path(directory)) as may_fold:
        found = sorted(filter(_NAME.fullmatch, os.listdir(directory)))
        yield [
            str(file)
            for kind, names in groupby(found, key=lambda name: name.rpartition("_")[0])
            for file in _without_the_ended(Path(directory), kind, list(names), may_fold=may_fold)
        ]


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Takes the lock that keeps others from reading and folding. False if another process holds it."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # the disk is full
        yield False
        return
    try:
        give_up_at = time.monotonic() + LOCK_SECONDS
        while not (is_locked := _try_lock(lock)) and time.monotonic() < give_up_at:
            time.sleep(0.01)  # waiting in flock would hold up the whole process under gevent
        yield is_locked
    finally:
        os.close(lock)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _without_the_ended(directory: Path, kind: str, names: list[str], *, may_fold: bool) -> list[Path]:
    """The readable files of one kind, after what ended processes counted has gone into the folded one."""
    folded = directory / f"{kind}_{FOLDED}.db"
    live = [directory / name for name in names if name != folded.name]
    sums = _read(folded) or {}
    counted = {json.loads(key)[2]["file"] for key in sums if _is_marker(key)}
    if may_fold:
        ended = [file for file in live if _has_ended(file)]
        if ended and _fold(folded, sums, [file for file in ended if file.name not in counted]):
            for file in ended:
                _delete(file)
            live = [file for file in live if file not in ended]
    return [file for file in [folded, *live] if file.name not in counted and _read(file) is not None]


def _fold(folded: Path, sums: dict[str, float], files: list[Path]) -> bool:
    """Adds the files' values to `folded`, all or none, and returns whether it did. A torn file counts as empty."""
    added = {key: value for key, value in sums.items() if not _is_marker(key)}
    for file in files:
        for key, value in (_read(file) or {}).items():
            added[key] = added.get(key, 0.0) + value
    markers = {json.dumps([FOLDED_FILES, FOLDED_FILES, {"file": file.name}, ""]): 1.0 for file in files}
    entries = b"".join(_entry(key, value, 0.0) for key, value in {**added, **markers}.items())
    draft = folded.with_suffix(".draft")
    try:
        draft.write_bytes(struct.pack("ii", _HEADER_BYTES + len(entries), 0) + entries)
        draft.replace(folded)
    except OSError as error:
        logger.warning("the counts of %d ended processes cannot be folded: %s", len(files), error.strerror)
        _delete(draft)
        return False
    return True


def _read(file: Path) -> dict[str, float] | None:
    """Key → value; None for a file that is torn, or gone."""
    try:
        found = {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(str(file))}  # type: ignore[no-untyped-call]
        for key in found:
            metric, name, labels, help_text = json.loads(key)
            dict(labels)
    except _UNREADABLE as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("the counts in %s cannot be read (%s)", file.name, error)
        return None
    return found


def _has_ended(file: Path) -> bool:
    """Whether the process that wrote the file has ended: a live one holds the file's lock."""
    try:
        with file.open("r+b") as opened:
            return _try_lock(opened.fileno())
    except OSError:
        return False


def _is_marker(key: str) -> bool:
    return key.startswith(f'["{FOLDED_FILES}"')


def _delete(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)

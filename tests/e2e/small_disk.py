"""A real disk that is really full: a small file system in memory, mounted for one test."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SmallDisk:
    """A directory on a file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Until not one byte more can be written."""
        file = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for piece in (b"x" * 65536, b"x"):
            _write_until_full(file, piece)
        os.close(file)

    def free(self) -> None:
        self._filler.unlink()


def _write_until_full(file: int, piece: bytes) -> None:
    try:
        while True:
            os.write(file, piece)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@contextmanager
def small_disk(directory: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """Root mounts it; anybody else does so in a namespace of theirs, and reaches it through /proc."""
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "none"]
    directory.mkdir()
    if os.geteuid() == 0 and subprocess.run(["mount", *options, directory], check=False).returncode == 0:
        try:
            yield SmallDisk(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)
        return
    script = f"mount {' '.join(options)} {directory} && echo mounted && exec cat"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n", "neither mount nor unshare works here"
        yield SmallDisk(Path(f"/proc/{holder.pid}/root{directory}"))
        holder.kill()

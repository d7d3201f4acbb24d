"""Uploads on a local disk."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage


class TidyFileStorage(FileSystemStorage):
    """Deletes a file that could not be stored completely, for example on a full disk."""

    def _save(self, name: str, content: Any) -> str:
        try:
            return str(super()._save(name, content))  # type: ignore[misc]  # a hook that the stubs leave out
        except OSError:
            with suppress(OSError):
                Path(self.path(name)).unlink(missing_ok=True)  # the name is new, so the file is ours
            raise

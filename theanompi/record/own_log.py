"""The log that a run writes, and it alone."""

import errno
import os
import weakref
from pathlib import Path

from theanompi.config.files import writing
from theanompi.record.folder import append_text


class OwnLog:
    """A run's log, to be added to as long as it is this run's.

    Its folder may be removed or renamed, and another run may be in the one that has its name: then nothing more is
    written, no checkpoint either, which comes after `sync`.

    Raises
    ------
    theanompi.config.files.CannotWrite
        From any method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Kept open, as its number would else be free for another file.
        with writing(path):
            self._held = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._held)

    def append(self, text: str) -> None:
        """Add a line."""
        self._check_own()
        append_text(self._path, text)

    def sync(self) -> None:
        """Have it on the disk."""
        self._check_own()
        with writing(self._path):
            os.fsync(self._held)

    def _check_own(self) -> None:
        with writing(self._path):
            if not os.path.samestat(os.fstat(self._held), self._path.stat()):
                raise OSError(errno.ESTALE, "it is another file than this run's, perhaps another run's")

"""A folder that one run at a time writes to."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none; there nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_LOCKS: bool = fcntl is not None


class FolderLock:
    """Holds ``folder/run.lock`` until :meth:`release` or until the process ends, in whatever way.

    The lock belongs to the process, not to those that it starts, so a killed run can be resumed at once. The file
    names the process that holds it, and is not removed.

    Raises:
        ValueError: another process holds it; the message says which.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = FolderLock(folder)
        ...     name = lock.path.name
        ...     lock.release()
        >>> name
        'run.lock'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "run.lock"
        self._file = self.path.open("a+")
        if not _LOCKS:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "another process"
            self._file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(
                    f"{folder} is in use by another run ({holder}); wait for its end or use another --out"
                ) from error
            raise OSError(error.errno, f"it cannot be locked ({error.strerror})", str(self.path)) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others in."""
        self._file.close()

"""Where compiled libraries are kept from one process to the next: a folder that nobody else can change.

A library's code runs in the process that loads it. So it comes only from a folder and a file that belong to this
user or root and that nobody else can write, by a path that nobody else can lead elsewhere. The end of its name is
a digest of its bytes, so a damaged one counts as none and is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .._files import written_whole

if sys.platform != "win32":
    import fcntl
    import grp
    import pwd


def folder() -> Path:
    """``t2ilayers`` in ``XDG_CACHE_HOME``, which counts if it is absolute, else in ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "t2ilayers"


_REMEDY = "set XDG_CACHE_HOME to a folder that is yours alone"


def find(name: str, place: Path | None = None, remedy: str = _REMEDY) -> Path | None:
    """The whole library whose file begins with ``name``, which may hold wildcards, in the cache or another place.

    Raises:
        RuntimeError: it or its folder could be changed by others, or the folder cannot be read; says ``remedy``.
    """
    place = place or folder()
    with _explained(place, remedy):
        for path in sorted(place.glob(f"{name}-*.so")):
            if path.is_symlink() or not path.is_file():  # opening a pipe would wait for its other end
                continue
            _check_only_ours(place, remedy)
            _check_only_ours(path, remedy)
            if path.stem.endswith(f"-{_digest(path.read_bytes())}"):
                return path
    return None


def make(name: str, work: Callable[[Path], bytes]) -> Path:
    """The library of a name: the one that another process has made, or what ``work`` makes in an empty folder.

    Raises:
        RuntimeError: others could change the folder, or it cannot be written.
    """
    cache = folder()
    with _explained(cache, _REMEDY):
        for missing in [path for path in (*reversed(cache.parents), cache) if not path.exists()]:
            missing.mkdir(mode=0o700, exist_ok=True)
        _check_only_ours(cache, _REMEDY)
        with _locked(cache / f"{name}.lock"):
            if path := find(name):
                return path
            for left in cache.glob(f"{name}.*.tmp"):  # by a killed process, whose compilers may still write
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"{name}.", suffix=".tmp", dir=cache) as place:
                library = work(Path(place))
            for damaged in cache.glob(f"{name}-*.so"):
                damaged.unlink()
            path = cache / f"{name}-{_digest(library)}.so"
            with written_whole(path, durable=True) as temporary:
                temporary.write_bytes(library)
                temporary.chmod(0o644)
            return path


@contextmanager
def _explained(place: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"the folder {place} cannot be used ({error.strerror}); {remedy}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The kernel releases the lock with the process, however that ends. Compilers do not inherit it.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _check_only_ours(path: Path, remedy: str) -> None:
    """RuntimeError if anyone but this user and root could change what is at a path, or lead it elsewhere.

    Whoever can write to a folder can replace what is in it, also after this check. So every folder and link on the
    way is checked. A sticky folder, in which only owners replace their files, will do, but not as the last one.
    """
    here, ahead, links = Path(path.anchor), list(path.parts[1:]), 0
    while ahead:
        here /= ahead.pop(0)
        status = here.lstat()
        sticky = status.st_mode & stat.S_ISVTX and ahead
        if status.st_uid not in (0, os.geteuid()):
            raise RuntimeError(_refusal(here, f"belongs to another user ({status.st_uid})", remedy))
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > 40:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = here.readlink()
            here = Path(target.anchor) if target.is_absolute() else here.parent
            ahead[:0] = target.relative_to(target.anchor).parts
        elif not sticky and (
            status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid))
        ):
            raise RuntimeError(_refusal(here, "can be written by others", remedy))


def _refusal(path: Path, why: str, remedy: str) -> str:
    return f"{path} {why}, and a library's code runs where it is loaded; {remedy}"


def _is_private(group: int) -> bool:
    """Whether a group is this user's own: many systems give each user one, and new files may be written by it."""
    try:
        user, members = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return members.gr_name == user and set(members.gr_mem) <= {user}

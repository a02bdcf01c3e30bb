"""Files written whole or not at all, read only where they are files, and messages that stay short."""

from __future__ import annotations

import errno
import os
import re
import reprlib
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # beside its target; no reader takes it for one


@contextmanager
def written_whole(target: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside ``target`` to write to; moved over ``target`` at the end, removed on any failure.

    Args:
        target: file to write; its folder must be there.
        durable: write the bytes through to the disk before the move, so that a power cut leaves the old file or
            the new one.

    Raises:
        OSError: what writing or moving raises; ``target`` is then as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder) / "a.txt") as path:
        ...         _ = path.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    target = Path(target)
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield path
        if durable:
            _sync(path)
        path.replace(target)
        if durable and os.name == "posix":
            _sync(target.parent)
    finally:
        path.unlink(missing_ok=True)


def remove_torn(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of :func:`written_whole` in ``folder`` and below.

    Only for a folder that no other process writes to.
    """
    for path in Path(folder).rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; links are followed. A pipe would be waited for, a device may do anything.

    Raises:
        OSError: there is no such file, it cannot be read, or it is a folder, pipe, device or socket; the message
            names it.

    Example:
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] must be a regular file, got a device: '/dev/null'
    """
    name = os.fspath(path)
    try:
        _check_regular(Path(name).stat().st_mode, name)  # before it is opened, which alone may rewind a tape
        handle = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL or a lone surrogate
        raise FileNotFoundError(errno.ENOENT, f"not a usable file name ({error})", shown(name)) from error
    try:
        _check_regular(os.fstat(handle).st_mode, name)  # what was opened may be another one
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a regular file that has at most ``most`` of them.

    Raises:
        OSError: as ``open_regular``.
        ValueError: the file is larger; the message names it.

    Example:
        >>> len(read_regular(__file__, 2**20)) > 100
        True
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{os.fspath(path)} must have at most {most} bytes, got {size}")
        return file.read(size)


def _check_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "must be a file, got a folder", name)
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((text for test, text in kinds if test(mode)), "a device")
        raise OSError(errno.EINVAL, f"must be a regular file, got {kind}", name)


def shown(value: object, width: int = 80) -> str:
    """``repr`` of a value that a message quotes, ``width`` characters at most; only first parts are looked at.

    Example:
        >>> shown("a bird"), shown(["a"] * 10**6), len(shown("a" * 10**6))
        ("'a bird'", "['a', 'a', 'a', 'a', 'a', 'a', ...]", 80)
    """
    short = reprlib.Repr()
    short.maxlevel = 3
    short.maxstring = short.maxother = short.maxlong = width
    try:
        text = short.repr(value)
    except Exception:  # a number of more digits than Python prints, or an object whose repr fails
        text = f"<{type(value).__name__}>"
    return text if len(text) <= width else f"{text[: width - 3]}..."


def some(
    names: Collection[str],
    most: int = 10,
    width: int = 80,
    separator: str = ", ",
    show: Callable[[str], str] = str,
) -> str:
    """The first names as ``show`` gives them, each cut to ``width`` characters, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b (+1 more)'
    """
    texts = map(show, islice(names, most))
    shown = [text if len(text) <= width else f"{text[: width - 3]}..." for text in texts]
    more = len(names) - len(shown)
    return separator.join(shown) + (f" (+{more} more)" if more else "")

"""Files written whole or not at all, and lists in messages that stay short."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path


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
    # The suffix is the target's, by which some writers choose their format.
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield path
        if durable:
            _sync(path)
        path.replace(target)
        if durable and os.name == "posix":
            _sync(target.parent)
    finally:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def some(names: Collection[str], most: int = 10, width: int = 80) -> str:
    """The first names, each cut to ``width`` characters, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b (+1 more)'
    """
    shown = [name if len(name) <= width else f"{name[: width - 3]}..." for name in islice(names, most)]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" (+{more} more)" if more else "")

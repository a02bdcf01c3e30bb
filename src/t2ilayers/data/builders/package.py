"""The files of a package: a ``.deb``, an npm or other tar file, or the folder that one was installed to."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..._files import open_regular, read_regular, shown

MAX_FILE = 32 * 2**20  # bytes
MAX_ALL = 4 * 2**30  # bytes of all members, wanted or not: nobody's package is as large
MAX_FILES = 10**5

_TAR = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2")


class PackageError(ValueError):
    """A package that cannot be read; the message names it."""


def package_files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted regular files, as they lie in the package.

    Nothing is unpacked to the disk, links are not followed, and an archive is read once from its beginning to its
    end. Names are relative, with ``/``, and never lead upwards.

    Args:
        path: a ``.deb`` whose data is not compressed by zstd, a tar file, or a folder.
        wanted: of a name, whether the file is wanted.

    Raises:
        OSError: there is no such file or folder, or it cannot be read.
        PackageError: no package, a damaged one, one with too much in it, or one with names that lead outside.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "bird.txt").write_text("A bird.")
        ...     list(package_files(Path(folder), lambda name: name.endswith(".txt")))
        [('bird.txt', b'A bird.')]
    """
    if path.is_dir():
        yield from _of_folder(path, wanted)
        return
    with open_regular(path) as file:
        try:
            if path.name.endswith(".deb"):
                _seek_data(file)
            elif not path.name.endswith(_TAR):
                raise PackageError(f"must be a folder, a .deb or one of {', '.join(_TAR)}")
            yield from _of_tar(file, wanted)
        except (
            tarfile.TarError,
            EOFError,
            ValueError,
            OSError,
        ) as error:  # lzma, zlib and bz2 raise these, or below
            raise PackageError(f"{shown(os.fspath(path), 300)}: {error!s:.500}") from error
        except Exception as error:
            if type(error).__name__ not in ("LZMAError", "error"):
                raise
            raise PackageError(f"{shown(os.fspath(path), 300)}: damaged ({error!s:.300})") from error


def _of_folder(root: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if wanted(name) and path.is_file() and not path.is_symlink():
                yield name, read_regular(path, MAX_FILE)


def _seek_data(file: BinaryIO) -> None:
    """Go to the data of a Debian package, an ``ar`` archive of which it is the last member."""
    if file.read(8) != b"!<arch>\n":
        raise PackageError("no Debian package: it does not start as an ar archive")
    while len(head := file.read(60)) == 60 and head[58:] == b"`\n":
        name, size = head[:16].decode("ascii", "replace").strip().rstrip("/"), head[48:58].strip()
        if not size.isdigit():
            break
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise PackageError("its data is compressed by zstd; unpack it (dpkg-deb -x) and give the folder")
            return
        file.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise PackageError("a damaged Debian package: there is no data in it")


def _of_tar(file: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    total = count = 0
    # A stream: a member is read as it passes by, and what is after the tar in the .deb is not looked at.
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            count, total = count + 1, total + max(member.size, 0)
            if count > MAX_FILES or total > MAX_ALL:
                raise PackageError(f"more than {MAX_FILES} files or {MAX_ALL} bytes are in it")
            name = member.name.removeprefix("./")
            if name.startswith("/") or ".." in name.split("/"):
                raise PackageError(f"{shown(name)} leads outside of it")
            if not member.isreg() or not wanted(name):
                continue
            if member.size > MAX_FILE:
                raise PackageError(f"{shown(name)} must have at most {MAX_FILE} bytes, got {member.size}")
            yield name, cast(BinaryIO, archive.extractfile(member)).read()

"""What one tar file of captioned pictures holds and where, found by reading it through once.

The members of a shard that share a name up to the first dot are a sample: a picture, ``.txt`` with a caption a
line, and where there is one the class, the text of ``.cls`` or a field of ``.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ...vocabulary import tokenize
from ..pictures import SUFFIXES
from .published import name_problem

_FORMAT = 1  # of the file beside a shard
_T = TypeVar("_T")
_KINDS = dict.fromkeys(SUFFIXES, "picture") | {".txt": "captions", ".cls": "class", ".json": "json"}
_MOST_BYTES = {"picture": 2**28, "captions": 2**20, "class": 2**20, "json": 2**20}
_BLOCK = 512  # bytes; a tar's unit


@dataclass(frozen=True)
class ShardIndex:
    """The n samples of a shard, in some 60 bytes each: nothing of the pictures or captions themselves.

    ``places (n, 4)`` int64: offset and size of the picture, offset and size of the captions. ``names (n,)``:
    the picture's member. ``labels (n,)``: the class as text, empty without one. ``words``: all that occur in
    captions. Strings are UTF-8.
    """

    places: npt.NDArray[np.int64]
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.bytes_]
    words: npt.NDArray[np.bytes_]


class _Member(NamedTuple):
    kind: str
    name: str
    offset: int
    size: int


def shard_index(shard: Path, class_field: str, problems: list[str]) -> ShardIndex:
    """The index of a shard: the one kept beside it if it is of this very file, else a new one, which is kept.

    Args:
        shard: an uncompressed tar file.
        class_field: field of ``.json`` members that holds a class.
        problems: receives all that is wrong, by shard and member; the index is then incomplete, and not kept.

    Example:
        >>> import io, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with tarfile.open(f"{folder}/0.tar", "w") as archive:
        ...         for name, content in (("a.png", b"..."), ("a.txt", b"a bird")):
        ...             member = tarfile.TarInfo(name)
        ...             member.size = len(content)
        ...             archive.addfile(member, io.BytesIO(content))
        ...     shard_index(Path(folder, "0.tar"), "class_id", []).places.tolist()
        [[512, 3, 1536, 6]]
    """
    found: list[str] = []
    index = _index([], [], [], set())
    try:
        status = shard.stat()
        stamp = json.dumps([_FORMAT, status.st_size, status.st_mtime_ns, class_field])
        path = shard.with_name(f"{shard.name}.index.npz")
        kept = _kept(path, stamp)
        if kept is not None:
            return kept
        with shard.open("rb") as file:
            index = _scan(file, class_field, found)
    except OSError as error:
        found.append(f"cannot be read ({error.strerror})")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        found.append(f"torn, or no uncompressed tar ({error}); fetch or write it again")
    if not found:
        _keep(path, stamp, index)
    problems += [f"{shard}: {problem}" for problem in found]
    return index


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """Some bytes of a shard, which is opened each time: thousands of shards would be too many to keep open.

    Raises:
        OSError: the file cannot be read.
        ValueError: it ends before.
    """
    with shard.open("rb") as file:
        return _read(file, offset, size)


def parse_captions(content: bytes) -> tuple[str, ...]:
    r"""The captions of a ``.txt`` member: its lines that have a word.

    Raises:
        ValueError: there is none, or they have a NUL or are not UTF-8.

    Example:
        >>> parse_captions(b"a red bird\n\n!\n a bird")
        ('a red bird', 'a bird')
    """
    captions = tuple(line.strip() for line in content.decode("utf-8-sig").splitlines() if tokenize(line))
    if not captions:
        raise ValueError("no caption with a word (ASCII letters or digits)")
    if any("\0" in caption for caption in captions):
        raise ValueError("a caption has a NUL character")
    return captions


def _kept(path: Path, stamp: str) -> ShardIndex | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["stamp"]) == stamp:
                return ShardIndex(arrays["places"], arrays["names"], arrays["labels"], arrays["words"])
    except Exception:  # a damaged file makes numpy raise nearly anything; as a missing one, it is made anew
        return None
    return None


def _keep(path: Path, stamp: str, index: ShardIndex) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, stamp=np.array(stamp), **vars(index))
        temporary.replace(path)
    except OSError:  # the disk is full or only read from: the index serves this run
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _scan(file: BinaryIO, class_field: str, problems: list[str]) -> ShardIndex:
    samples: dict[str, dict[str, _Member]] = {}
    for member in _members(file, problems):
        path = PurePosixPath(member.name)
        sample = samples.setdefault(str(path.with_name(path.name.partition(".")[0])), {})
        if member.kind in sample:
            problems.append(f"{member.name!r}: a second {member.kind} of {sample[member.kind].name!r}")
        sample[member.kind] = member

    rows, names, labels, words = [], [], [], set[str]()
    for sample in samples.values():
        picture, captions = sample.get("picture"), sample.get("captions")
        if picture is None and captions is None:
            continue  # it describes something else, the whole shard say
        try:
            if picture is None or captions is None:
                ending = "picture" if picture is None else ".txt with its captions"
                raise ValueError(f"{next(iter(sample.values())).name!r}: no {ending} of the same name")
            for caption in _parsed(file, captions, parse_captions):
                words.update(tokenize(caption))
            labels.append(_label(file, sample, class_field))
        except ValueError as error:
            problems.append(str(error))
            continue
        rows.append((picture.offset, picture.size, captions.offset, captions.size))
        names.append(picture.name)
    if not rows and not problems:
        problems.append("no captioned picture")
    return _index(rows, names, labels, words)


def _members(file: BinaryIO, problems: list[str]) -> Iterator[_Member]:
    """The members that belong to samples, up to the archive's end or where it is torn."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all; the stub lacks it
            if info.size < 0 or info.offset_data + info.size > length:
                raise ValueError(f"it ends within {info.name!r}")
            name = info.name.removeprefix("./")
            base = PurePosixPath(name).name
            kind = _KINDS.get(base[base.find(".") :].lower()) if base.find(".") > 0 else None
            if kind is None or info.isdir():
                continue
            problem = name_problem(name)
            if problem is None and (not info.isreg() or info.issparse()):
                problem = f"{name!r}: it is no plain file but a link, a hole or a device"
            if problem is None and info.size > _MOST_BYTES[kind]:
                problem = f"{name!r}: {info.size} bytes are more than the {_MOST_BYTES[kind]} of a {kind} member"
            if problem is None:
                yield _Member(kind, name, info.offset_data, info.size)
            else:
                problems.append(problem)
        # tarfile takes a damaged header, and the file's end, for the end of the archive.
        if _read(file, archive.offset, _BLOCK).strip(b"\0"):
            raise ValueError(f"at byte {archive.offset} is neither a member nor the end mark")


def _label(file: BinaryIO, sample: dict[str, _Member], class_field: str) -> str:
    """The class as JSON text; empty where nothing names it."""
    if "class" in sample:
        return json.dumps(_parsed(file, sample["class"], lambda content: content.decode().strip()))
    if "json" not in sample:
        return ""
    member = sample["json"]
    row = _parsed(file, member, json.loads)
    if not isinstance(row, dict):
        raise ValueError(f"{member.name!r}: it holds a JSON object, got {row!r:.80}")
    label = row.get(class_field)
    if isinstance(label, list | dict):
        raise ValueError(f"{member.name!r}: the class is a string or number, got {label!r:.80}")
    return "" if label is None else json.dumps(label)


def _parsed(file: BinaryIO, member: _Member, parse: Callable[[bytes], _T]) -> _T:
    try:
        return parse(_read(file, member.offset, member.size))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{member.name!r}: {error}") from error


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"the file ends before byte {offset + size}")
    return content


def _index(
    rows: list[tuple[int, int, int, int]], names: list[str], labels: list[str], words: set[str]
) -> ShardIndex:
    def strings(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
        return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=np.bytes_)

    places = np.array(rows, np.int64).reshape(-1, 4)
    return ShardIndex(places, strings(names), strings(labels), strings(sorted(words)))

"""What one tar file of captioned pictures holds and where, found by reading it through once.

The members of a shard that share a name up to the first dot are a sample: a picture, ``.txt`` with a caption a
line, and where there is one the class, the text of ``.cls`` or a field of ``.json``. A name with more dots counts
up to the last one, unless the shorter one is that of a whole sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..._files import open_regular, shown, written_whole
from ...words import tokenize
from ..pictures import SUFFIXES
from .listing import MAX_LABEL, WITHOUT_CAPTION, WORDLESS, LeftOut
from .names import name_problem

_FORMAT = 2  # of the file beside a shard
_T = TypeVar("_T")
_KINDS = dict.fromkeys(SUFFIXES, "picture") | {".txt": "captions", ".cls": "class", ".json": "json"}
_MOST_BYTES = {"picture": 2**28, "captions": 2**20, "class": 2**20, "json": 2**20}
_MOST_NAME = 1000  # bytes; every name takes as much memory as the longest one
_MOST_HEADER = 2**16  # bytes; a header may claim any size of a name
_BLOCK = 512  # bytes; a tar's unit
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_OTHERS = "{count} members that belong to no sample: {names}"


@dataclass(frozen=True)
class ShardIndex:
    """The n samples of a shard, in some 70 bytes each: nothing of the pictures or captions themselves.

    ``places (n, 4)`` int64: offset and size of the picture, offset and size of the captions. ``heads (n, 2)``
    uint32: check sums of the blocks before these, which are the members' headers. ``names (n,)``: the picture's
    member. ``labels (n,)``: the class as text, empty without one. ``words``: all that occur in captions, by the
    rule ``"words"``, a line each. ``left``: JSON, what ``LeftOut`` noted. Text is UTF-8, the last two as bytes.
    """

    places: npt.NDArray[np.int64]
    heads: npt.NDArray[np.uint32]
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.bytes_]
    words: npt.NDArray[np.uint8]
    left: npt.NDArray[np.uint8]

    def vocabulary(self) -> list[str]:
        """The words as strings."""
        return self.words.tobytes().decode().split("\n") if len(self.words) else []

    def is_sound(self, length: int) -> bool:
        """Whether it can be the index of a shard of so many bytes, whoever wrote it."""
        n = len(self.places)
        kinds = [(array.dtype.kind, array.shape) for array in vars(self).values()]
        flat = [("u", (len(self.words),)), ("u", (len(self.left),))]
        if kinds != [("i", (n, 4)), ("u", (n, 2)), ("S", (n,)), ("S", (n,)), *flat] or n == 0:
            return False
        most = (length, _MOST_BYTES["picture"], length, _MOST_BYTES["captions"])
        if (self.places < 0).any() or (self.places > most).any() or (self.places[:, ::2] < _BLOCK).any():
            return False
        self.vocabulary()
        for kind, count, names in json.loads(self.left.tobytes()):
            if kind not in (_OTHERS, WORDLESS, WITHOUT_CAPTION) or type(count) is not int or "".join(names) == "":
                return False
        return bool((self.places[:, ::2] + self.places[:, 1::2] <= length).all())


class _Member(NamedTuple):
    kind: str
    name: str
    offset: int
    size: int


def shard_index(shard: Path, class_field: str, problems: list[str], left_out: LeftOut) -> ShardIndex:
    """The index of a shard: the one kept beside it if it is of this very file, else a new one, which is kept.

    Args:
        shard: an uncompressed tar file.
        class_field: field of ``.json`` members that holds a class.
        problems: receives all that is wrong, by shard and member; the index is then incomplete, and not kept.
        left_out: receives what belongs to no sample.

    Example:
        >>> import io, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with tarfile.open(f"{folder}/0.tar", "w") as archive:
        ...         for name, content in (("a.png", b"..."), ("a.txt", b"a bird")):
        ...             member = tarfile.TarInfo(name)
        ...             member.size = len(content)
        ...             archive.addfile(member, io.BytesIO(content))
        ...     shard_index(
        ...         Path(folder, "0.tar"), "class_id", [], LeftOut()
        ...     ).places.tolist()
        [[512, 3, 1536, 6]]
    """
    found: list[str] = []
    index = _index([], [], [], [], set(), LeftOut())
    try:
        with open_regular(shard) as file:
            status = os.fstat(file.fileno())
            # A file that was written anew may have kept its size and time, but not these two as well.
            of_this_file = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            stamp = json.dumps([_FORMAT, *of_this_file, class_field])
            path = shard.with_name(f"{shard.name}.index.npz")
            kept = _kept(path, stamp, status.st_size)
            index = kept or _scan(file, class_field, found)
        if kept is None and not found:
            _keep(path, stamp, index)
    except OSError as error:
        found.append(f"cannot be read ({error.strerror})")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        found.append(f"torn, or no uncompressed tar ({reason:.200}); fetch or write it again")
    problems += [f"{shard}: {problem}" for problem in found]
    for kind, count, names in json.loads(index.left.tobytes() or b"[]"):
        for name in names:
            left_out.add(kind, f"{shown(name)} in {shard.name:.80}", 0)
        left_out.add(kind, f"{shown(names[0])} in {shard.name:.80}", count)
    return index


def read_member(shard: Path, offset: int, size: int, head: int) -> bytes:
    """A member of a shard, which is opened each time: thousands of shards would be too many to keep open.

    Raises:
        OSError: the file cannot be read.
        ValueError: it ends before, or another member is at this place: its header has another check sum.
    """
    with open_regular(shard) as file:
        content = _read(file, offset - _BLOCK, size + _BLOCK)
    if zlib.crc32(content[:_BLOCK]) != head:
        raise ValueError("the shard was written anew since it was opened")
    return content[_BLOCK:]


def parse_captions(content: bytes, *, one_caption: bool = False) -> tuple[str, ...]:
    r"""The captions of a ``.txt`` member: its lines that have a word, or all of it as one.

    Raises:
        ValueError: they have a NUL or are not UTF-8.

    Example:
        >>> (
        ...     parse_captions(b"a red bird\n\n!\n a bird"),
        ...     parse_captions(b"a red\nbird\n", one_caption=True),
        ... )
        (('a red bird', 'a bird'), ('a red bird',))
    """
    text = content.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("a caption has a NUL character")
    lines = [text] if one_caption else text.splitlines()
    return tuple(" ".join(line.split()) for line in lines if tokenize(line))


def _kept(path: Path, stamp: str, length: int) -> ShardIndex | None:
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    return None  # this package compresses none, and a small file may unpack to any size
            with np.load(file, allow_pickle=False) as arrays:
                if str(arrays["stamp"]) == stamp:
                    index = ShardIndex(**{field.name: arrays[field.name] for field in fields(ShardIndex)})
                    return index if index.is_sound(length) else None
    except Exception:  # a damaged file makes numpy raise nearly anything; as a missing one, it is made anew
        return None
    return None


def _keep(path: Path, stamp: str, index: ShardIndex) -> None:
    # The disk may be full or only read from: the index serves this run all the same.
    with contextlib.suppress(OSError), written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, stamp=np.array(stamp), **vars(index))


def _scan(file: BinaryIO, class_field: str, problems: list[str]) -> ShardIndex:
    if file.read(6).startswith(_COMPRESSED):
        raise ValueError("it is compressed, so that no sample of it can be read alone; decompress it")
    left_out = LeftOut()
    rows, names, labels, words = [], [], [], set[str]()
    for sample in _samples(file, problems, left_out):
        picture, captions = sample.get("picture"), sample.get("captions")
        if picture is None and captions is None:
            for member in sample.values():  # they describe something else, the whole shard say
                left_out.add(_OTHERS, member.name)
            continue
        try:
            if picture is None or captions is None:
                ending = "picture" if picture is None else ".txt with its captions"
                raise ValueError(f"{shown(next(iter(sample.values())).name)}: no {ending} of the same name")
            texts = _parsed(file, captions, parse_captions)
            lines = _parsed(file, captions, lambda content: content.decode("utf-8-sig").splitlines())
            label = _label(file, sample, class_field)
        except ValueError as error:
            problems.append(str(error))
            continue
        if not texts:
            left_out.add(WITHOUT_CAPTION, picture.name)
            continue
        for line in lines:
            found = tokenize(line)
            words.update(found)
            if line.strip() and not found:
                left_out.add(WORDLESS, picture.name)
        labels.append(label)
        rows.append((picture.offset, picture.size, captions.offset, captions.size))
        names.append(picture.name)
    if not rows and not problems:
        problems.append("no captioned picture")
    heads = [[zlib.crc32(_read(file, offset - _BLOCK, _BLOCK)) for offset in row[::2]] for row in rows]
    return _index(rows, heads, names, labels, words, left_out)


def _samples(file: BinaryIO, problems: list[str], left_out: LeftOut) -> list[dict[str, _Member]]:
    """The members that belong together, by kind."""
    samples: dict[str, dict[str, _Member]] = {}
    short: dict[str, str] = {}  # names up to the first dot, of those that were taken up to the last
    for member, stem, up_to_first in _members(file, problems, left_out):
        sample = samples.setdefault(stem, {})
        if member.kind in sample:
            problems.append(f"{shown(member.name)}: a second {member.kind} of {shown(sample[member.kind].name)}")
        sample[member.kind] = member
        if up_to_first != stem:
            short[stem] = up_to_first
    for stem, up_to_first in short.items():
        if {"picture", "captions"} <= samples.get(up_to_first, {}).keys():
            for member in samples.pop(stem).values():  # a field of that sample that is not read, such as 0.seg.png
                left_out.add(_OTHERS, member.name)
    return list(samples.values())


class _Headers:
    """What tarfile reads headers from: a header that claims to be huge is an error before anything is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header claims to have {size} bytes")
        return self._read(size)


def _members(file: BinaryIO, problems: list[str], left_out: LeftOut) -> Iterator[tuple[_Member, str, str]]:
    """The members of the kinds that make samples, each with its sample's name and its name up to the first dot.

    It ends at the archive's end, or with ValueError where that is torn.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all; the stub lacks it
            if info.size < 0 or info.offset_data + info.size > length:
                raise ValueError(f"it ends within {shown(info.name)}")
            name = info.name.removeprefix("./")
            path = PurePosixPath(name)
            if info.isdir() or path.name.startswith("."):
                continue
            first, _, ending = path.name.partition(".")
            kind, stem = _KINDS.get(f".{ending}".lower()), first
            if kind is None:
                kind, stem = _KINDS.get(path.suffix.lower()), path.stem
            if kind is None:
                left_out.add(_OTHERS, name[:200])
                continue
            problem = name_problem(name)
            if problem is None and len(name.encode("utf-8", "surrogateescape")) > _MOST_NAME:
                problem = f"{shown(name)}: a name must have at most {_MOST_NAME} bytes"
            if problem is None and (not info.isreg() or info.issparse()):
                problem = f"{shown(name)}: it is no plain file but a link, a hole or a device"
            if problem is None and info.size > _MOST_BYTES[kind]:
                problem = (
                    f"{shown(name)}: {info.size} bytes are more than the {_MOST_BYTES[kind]} of a {kind} member"
                )
            if problem is None:
                member = _Member(kind, name, info.offset_data, info.size)
                yield member, str(path.with_name(stem)), str(path.with_name(first))
            else:
                problems.append(problem)
        # tarfile takes a damaged header, and the file's end, for the end of the archive.
        if _read(file, archive.offset, _BLOCK).strip(b"\0"):
            raise ValueError(f"at byte {archive.offset} is neither a member nor the end mark")


def _label(file: BinaryIO, sample: dict[str, _Member], class_field: str) -> str:
    """The class as JSON text; empty where nothing names it."""
    if "class" in sample:
        text = _parsed(file, sample["class"], lambda content: content.decode().strip())
        if len(text) > MAX_LABEL:
            raise ValueError(f"{shown(sample['class'].name)}: the class must be short, got {shown(text)}")
        return json.dumps(text)
    if "json" not in sample:
        return ""
    member = sample["json"]
    row = _parsed(file, member, json.loads)
    if not isinstance(row, dict):
        raise ValueError(f"{shown(member.name)}: it must hold a JSON object, got {shown(row)}")
    label = row.get(class_field)
    if isinstance(label, list | dict) or len(str(label)) > MAX_LABEL:
        raise ValueError(
            f"{shown(member.name)}: the class must be a string or number, and short, got {shown(label)}"
        )
    return "" if label is None else json.dumps(label)


def _parsed(file: BinaryIO, member: _Member, parse: Callable[[bytes], _T]) -> _T:
    try:
        return parse(_read(file, member.offset, member.size))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(member.name)}: {error!s:.200}") from error


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"the file ends before byte {offset + size}")
    return content


def _index(
    rows: list[tuple[int, int, int, int]],
    heads: list[list[int]],
    names: list[str],
    labels: list[str],
    words: set[str],
    left_out: LeftOut,
) -> ShardIndex:
    def strings(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
        return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=np.bytes_)

    def plain(text: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)

    return ShardIndex(
        np.array(rows, np.int64).reshape(-1, 4),
        np.array(heads, np.uint32).reshape(-1, 2),
        strings(names),
        strings(labels),
        plain("\n".join(sorted(words))),
        plain(json.dumps(left_out.kinds())),
    )

"""What a folder of captioned pictures says of itself: its pictures, captions, splits and classes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...vocabulary import tokenize
from ..pictures import SUFFIXES

_SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
_SHOWN = 20


class DatasetError(ValueError):
    """A dataset on disk has problems; the message lists 20 of them by file, and how many more there are.

    Attributes:
        problems: all of them, a line each.
    """

    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, problems: Sequence[str]) -> DatasetError:
        """The error for a folder's problems, at least one.

        Example:
            >>> print(DatasetError.of(Path("birds"), ["'a.png': there is no such file"]))
            birds has 1 problem: 'a.png': there is no such file
        """
        more = [f"(+{len(problems) - _SHOWN} more)"] if len(problems) > _SHOWN else []
        lines = [f"{root} has {len(problems)} problems:", *problems[:_SHOWN], *more]
        error = cls(f"{root} has 1 problem: {problems[0]}" if len(problems) == 1 else "\n  ".join(lines))
        error.problems = tuple(problems)
        return error


@dataclass
class Record:
    """One picture of a folder: its name relative to the root, captions, split, and class as JSON text."""

    file: str
    captions: list[str] = field(default_factory=list)
    split: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class _Row:
    where: str
    file: Any
    captions: Any
    split: Any
    label: Any


def read_listing(root: Path, class_field: str, test_fraction: float) -> tuple[list[Record], list[str]]:
    """The pictures a folder lists, each with its split, and all problems of the list itself.

    Of ``captions.jsonl``, ``metadata.jsonl``, ``metadata.csv`` the first that exists is read; without any,
    every picture file below the root has its captions in a ``.txt`` beside it.

    Args:
        root: the folder.
        class_field: name of the field that holds a picture's class.
        test_fraction: part of the pictures whose split is ``"test"`` where the list names no splits.

    Returns:
        The records in the list's order, and the problems as ``name: what is wrong``. A record may be among
        both. Captions without a word are left in.

    Raises:
        OSError: the folder or its list cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "bird.png").write_bytes(b"")
        ...     _ = Path(folder, "bird.txt").write_text("a bird\\na red bird\\n")
        ...     records, problems = read_listing(Path(folder), "class_id", 0.0)
        >>> records[0].file, records[0].captions, records[0].split, problems
        ('bird.png', ['a bird', 'a red bird'], 'train', [])
    """
    problems: list[str] = []
    records: dict[str, Record] = {}
    one_row_each = False
    if (path := root / "captions.jsonl").is_file():
        one_row_each = True
        rows = _json_rows(path, "file", "captions", class_field, problems)
    elif (path := root / "metadata.jsonl").is_file():
        rows = _json_rows(path, "file_name", "text", class_field, problems)
    elif (path := root / "metadata.csv").is_file():
        rows = _csv_rows(path, class_field, problems)
    else:
        rows = _text_rows(root, problems)
    for row in rows:
        problem = _add(records, row, root, one_row_each)
        if problem:
            problems.append(problem)
    _settle_splits(list(records.values()), test_fraction, problems)
    for record in records.values():
        if not any(tokenize(caption) for caption in record.captions):
            problems.append(f"{record.file!r}: no caption with a word (ASCII letters or digits)")
    return list(records.values()), problems


def _add(records: dict[str, Record], row: _Row, root: Path, one_row_each: bool) -> str | None:
    """Take a row into the records, or say what is wrong with it."""
    if not isinstance(row.file, str) or not row.file:
        return f"{row.where}: the file is a name, got {row.file!r}"
    name = repr(row.file)
    outside = _leaves(root, row.file)
    if outside:
        return f"{name}: {outside}"
    captions = [row.captions] if isinstance(row.captions, str) else row.captions
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return f"{name}: captions are strings, got {captions!r:.80}"
    if any("\0" in caption for caption in captions):
        return f"{name}: a caption has a NUL character"
    if not (row.split is None or (isinstance(row.split, str) and row.split in _SPLITS)):
        return f"{name}: the split is one of {', '.join(_SPLITS)}, got {row.split!r:.80}"
    if isinstance(row.label, (list, dict)):
        return f"{name}: the class is a string or number, got {row.label!r:.80}"
    split = None if row.split is None else _SPLITS[row.split]
    label = None if row.label is None else json.dumps(row.label)
    known = records.setdefault(row.file, Record(row.file, [], split, label))
    if known.captions and one_row_each:
        return f"{name}: listed twice, again in {row.where}"
    if (known.split, known.label) != (split, label):
        return f"{name}: {row.where} gives another split or class than the row before"
    known.captions += captions
    return None


def _leaves(root: Path, file: str) -> str | None:
    """Why a name does not stay below the root, symbolic links followed; None where it does."""
    try:
        if Path(file).is_absolute() or not (root / file).resolve().is_relative_to(root.resolve()):
            return "the path leads outside the folder; name pictures relative to it and below it"
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, NULs, lone surrogates
        return f"not a usable file name ({error})"
    return None


def _settle_splits(records: Sequence[Record], test_fraction: float, problems: list[str]) -> None:
    """Where no record names a split, a hash of the file's name decides, so that new files move no others.

    In a small folder that may leave a split empty; then the picture nearest to it goes there.
    """
    unnamed = [record for record in records if record.split is None]
    if len(unnamed) < len(records):
        problems += [f"{record.file!r}: no split, while other pictures have one" for record in unnamed]
        return
    unnamed.sort(key=_place)
    count = sum(_place(record) < test_fraction for record in unnamed)
    if len(unnamed) > 1 and 0 < test_fraction < 1:
        count = min(max(count, 1), len(unnamed) - 1)
    for n, record in enumerate(unnamed):
        record.split = "test" if n < count else "train"


def _place(record: Record) -> float:
    """A number in [0, 1] that depends on the file's name alone."""
    digest = hashlib.sha256(record.file.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _json_rows(path: Path, file: str, captions: str, class_field: str, problems: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(_text(path, problems).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{where}: not JSON ({error})")
            continue
        if not isinstance(row, dict) or file not in row or captions not in row:
            problems.append(f"{where}: a row is an object with {file!r} and {captions!r}, got {line:.80}")
            continue
        yield _Row(where, row[file], row[captions], row.get("split"), row.get(class_field))


def _csv_rows(path: Path, class_field: str, problems: list[str]) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(_text(path, problems), newline=""), strict=True)
    try:
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            problems.append(f"{path.name}: the columns include file_name and text, got {reader.fieldnames}")
            return
        for row in reader:
            where = f"{path.name} line {reader.line_num}"
            if None in row or None in row.values():
                problems.append(f"{where}: a row has one value for each column")
                continue
            yield _Row(
                where, row["file_name"], row["text"], row.get("split") or None, row.get(class_field) or None
            )
    except csv.Error as error:
        problems.append(f"{path.name} line {reader.line_num}: not CSV ({error})")


def _text_rows(root: Path, problems: list[str]) -> Iterator[_Row]:
    pictures = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        problems.append(
            "no captions.jsonl, metadata.jsonl or metadata.csv, and no picture; is this the right folder?"
        )
    for picture in pictures:
        file = picture.relative_to(root).as_posix()
        text = picture.with_suffix(".txt")
        if not text.is_file():
            problems.append(f"{file!r}: no {text.name} with its captions beside it")
            continue
        lines = [line for line in _text(text, problems).splitlines() if line.strip()]
        yield _Row(text.name, file, lines, None, None)


def _text(path: Path, problems: list[str]) -> str:
    """A UTF-8 file's text; other bytes are a problem, and then there is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{path.name!r}: not UTF-8 ({error})")
        return ""

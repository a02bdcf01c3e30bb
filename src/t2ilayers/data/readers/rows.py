"""Rows of a list of captioned pictures: ``captions.jsonl``, and Hugging Face's ``metadata`` in three formats."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._files import open_regular, read_regular, shown

MAX_BYTES = 2**30  # of a list
MAX_TEXT_BYTES = 2**20  # of a picture's .txt


@dataclass(frozen=True)
class Row:
    """What a list says of a picture, and which line says so: unchecked, but None where there is no value."""

    where: str
    file: Any
    captions: Any
    split: Any = None
    label: Any = None

    def texts(self) -> list[str] | None:
        """The captions that are not missing; None where any is something else than a string."""
        given = self.captions if isinstance(self.captions, list) else [self.captions]
        given = [caption for caption in given if _present(caption) is not None]
        return given if all(isinstance(caption, str) for caption in given) else None


def _present(value: Any) -> Any:
    """None for what tables write where there is no value."""
    return None if value == "" or (isinstance(value, float) and math.isnan(value)) else value


class _Json:
    """Rows of a file with a JSON object per line, which name file and captions by these keys."""

    def __init__(self, file: str, captions: str) -> None:
        self._keys = file, captions

    def __call__(self, path: Path, name: str, class_field: str, problems: list[str]) -> Iterator[Row]:
        file, captions = self._keys
        for number, line in enumerate(read_text(path, name, MAX_BYTES, problems).split("\n"), 1):
            if not line.strip():
                continue
            where = f"{name:.200} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.append(f"{where}: not JSON ({error!s:.200})")
                continue
            if not isinstance(row, dict) or file not in row or captions not in row:
                problems.append(f"{where}: a row must be an object with {file!r} and {captions!r}, got {line:.80}")
                continue
            yield _row(where, row, file, captions, class_field)


def _row(where: str, row: dict[str, Any], file: str, captions: str, class_field: str) -> Row:
    return Row(where, row[file], row[captions], _present(row.get("split")), _present(row.get(class_field)))


def _csv(path: Path, name: str, class_field: str, problems: list[str]) -> Iterator[Row]:
    text = read_text(path, name, MAX_BYTES, problems)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if not text or not _has_columns(name, reader.fieldnames or (), problems):
            return
        for row in reader:
            where = f"{name:.200} line {reader.line_num}"
            if None in row or None in row.values():
                problems.append(f"{where}: a row must have one value for each column")
                continue
            yield _row(where, row, "file_name", "text", class_field)
    except csv.Error as error:
        problems.append(f"{name:.200} line {reader.line_num}: not CSV ({error})")


def _parquet(path: Path, name: str, class_field: str, problems: list[str]) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow; install t2ilayers with its extra parquet") from error
    try:
        with open_regular(path) as file:
            table = parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            if not _has_columns(name, columns, problems):
                return
            wanted = {"file_name", "text", "split", class_field} & set(columns)
            number = 0
            for batch in table.iter_batches(columns=sorted(wanted), batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(f"{name:.200} row {number}", row, "file_name", "text", class_field)
    except Exception as error:  # a damaged file makes pyarrow raise nearly anything
        problems.append(f"{name:.200}: not Parquet ({type(error).__name__}: {error!s:.200})")


LISTS: dict[str, Callable[[Path, str, str, list[str]], Iterator[Row]]] = {
    "captions.jsonl": _Json("file", "captions"),
    "metadata.jsonl": _Json("file_name", "text"),
    "metadata.csv": _csv,
    "metadata.parquet": _parquet,
}
"""How a list is read, by its file's name; of several in one folder the first counts.

A reader takes the path, the name for messages, the field of the class, and a list that receives problems.
"""


def _has_columns(name: str, columns: Iterable[str], problems: list[str]) -> bool:
    if {"file_name", "text"} <= set(columns):
        return True
    problems.append(f"{name:.200}: the columns must include file_name and text, got {shown(list(columns), 200)}")
    return False


def read_text(path: Path, name: str, most: int, problems: list[str]) -> str:
    """A UTF-8 file's text; what is not one is a problem of that name, and then there is no text.

    Example:
        >>> problems = []
        >>> read_text(Path("nowhere.txt"), "nowhere.txt", 9, problems), problems
        ('', ["'nowhere.txt': cannot be read (No such file or directory)"])
    """
    try:
        return read_regular(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{shown(name)}: not UTF-8 ({error})")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        problems.append(f"{shown(name)}: cannot be read ({reason})")
    return ""

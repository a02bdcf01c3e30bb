"""What every reader returns: the pictures of one split with their captions and classes, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from ..._files import open_regular, shown, some
from ...vocabulary import END, Vocabulary
from ...words import Rule, Tokenizer
from ..pictures import Box

_SHOWN = 20
_MESSAGE = 1900  # characters
_LINE = 400
_NAMED = 5


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
        lines, length = list[str](), 0
        for problem in problems[:_SHOWN]:
            line = problem if len(problem) <= _LINE else f"{problem[: _LINE - 3]}..."
            length += len(line)
            if lines and length > _MESSAGE:
                break
            lines.append(line)
        where = shown(str(root), 300)[1:-1]
        if len(problems) == 1:
            error = cls(f"{where} has 1 problem: {lines[0]}")
        else:
            more = [f"(+{len(problems) - len(lines)} more)"] if len(problems) > len(lines) else []
            error = cls("\n  ".join([f"{where} has {len(problems)} problems:", *lines, *more]))
        error.problems = tuple(problems)
        return error


class Picture(Protocol):
    """A picture of a listing: its name, its captions, and its file, which nobody has opened yet."""

    @property
    def key(self) -> str:
        """The picture's name, different for each."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Its captions, at least one, each with a word."""

    @property
    def box(self) -> Box | None:
        """The box around what it shows, where that is known."""

    def open(self) -> BinaryIO:
        """The file's content."""

    def stamp(self) -> str:
        """What shows at little cost that picture or captions changed."""


@dataclass(frozen=True)
class FilePicture:
    """A picture in a file of its own, whose captions are known."""

    key: str
    path: Path
    captions: tuple[str, ...]
    box: Box | None = None

    def open(self) -> BinaryIO:
        return open_regular(self.path)

    def stamp(self) -> str:
        return f"{self.path.stat().st_size} {self.captions} {self.box}"


class LeftOut:
    """What a reader leaves out, by kind: how much, and the first names.

    Example:
        >>> left = LeftOut()
        >>> for name in ("a.md", "b.md"):
        ...     left.add("{count} files: {names}", repr(name))
        >>> left.lines()
        ["left out 2 files: 'a.md', 'b.md'"]
    """

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, list[str]]] = {}
        self._by_rule: set[str] = set()

    def add(self, kind: str, name: str, count: int = 1, *, by_rule: bool = False) -> None:
        """Note that something is left out.

        Args:
            kind: what, with the places ``{count}`` and ``{names}``.
            name: the file or the word.
            count: how much of it.
            by_rule: the published code leaves it out, too.
        """
        total, names = self._kinds.get(kind, (0, []))
        if len(names) < _NAMED and name not in names:
            names.append(name)
        self._kinds[kind] = total + count, names
        if by_rule:
            self._by_rule.add(kind)

    def kinds(self) -> list[tuple[str, int, list[str]]]:
        """Each kind, how much there is of it, and the first names."""
        return [(kind, count, names) for kind, (count, names) in self._kinds.items()]

    def lines(self, *, by_rule: bool = False) -> list[str]:
        """A line a kind, of those by the published rule or of all others."""
        return [
            "left out "
            + kind.format(count=count, names=some(names) + (", ..." if len(names) == _NAMED < count else ""))
            for kind, (count, names) in self._kinds.items()
            if (kind in self._by_rule) == by_rule
        ]


MAX_LABEL = 1000  # characters; every picture's class takes as much memory as the longest one's
WORDLESS = "{count} captions without a word, of {names}"
WITHOUT_CAPTION = "{count} pictures without a caption: {names}"
LETTERS = "the letters outside ASCII, which the vocabulary's rule does not know, of {count} captions: {names}"


@dataclass(frozen=True)
class Listing:
    """All that one split of a data set says of itself; no picture is decoded yet.

    Args:
        root: where it lies.
        pictures: those of the split.
        class_ids: a number for each.
        vocabulary: the words of all splits.
        problems: what is wrong, a line each; where there are any, the rest may be incomplete.
        notes: what is left out, a line per kind.
        by_rule: what is left out because the published code does so.
    """

    root: Path
    pictures: Sequence[Picture] = ()
    class_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary([END]))
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    by_rule: list[str] = field(default_factory=list)


def class_ids(labels: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """A number for each picture from its class as text: by alphabet, then one for each picture without a class.

    Example:
        >>> class_ids(np.array([b"wren", b"", b"crow", b"wren", b""])).tolist()
        [1, 3, 0, 1, 6]
    """
    known, ids = np.unique(labels[labels != b""], return_inverse=True)
    numbers = len(known) + np.arange(len(labels))
    numbers[labels != b""] = ids
    return numbers


def with_words(
    captions: Iterable[str], vocabulary: Vocabulary, where: str, left_out: LeftOut, *, by_rule: bool = False
) -> tuple[str, ...]:
    """The captions that have a word, each on one line; letters that the vocabulary's rule loses are noted.

    Example:
        >>> left = LeftOut()
        >>> (
        ...     with_words(
        ...         ["a\\nbird ", "", "!"], Vocabulary(["<end>"]), "'a.png'", left
        ...     ),
        ...     left.lines(),
        ... )
        (('a bird',), ["left out 2 captions without a word, of 'a.png'"])
    """
    kept = []
    for caption in captions:
        if vocabulary.tokenize(caption):
            kept.append(" ".join(caption.split()))
        else:
            left_out.add(WORDLESS, where, by_rule=by_rule)
        if lost := vocabulary.lost(caption):
            left_out.add(LETTERS, shown(lost[0]))
    return tuple(kept)


def nul_problem(captions: Iterable[str], where: str) -> list[str]:
    """The problem, if there is one, of captions with a NUL character.

    Example:
        >>> nul_problem(["a bird", "a\\0bird"], "'a.png'")
        ["'a.png': a caption has a NUL character"]
    """
    return [f"{where}: a caption has a NUL character"] if any("\0" in caption for caption in captions) else []


def vocabulary_of(captions: Iterable[str], tokenizer: Rule | Tokenizer = "words") -> Vocabulary:
    """The vocabulary of some captions; only ``<end>`` where no caption has a word.

    Example:
        >>> vocabulary_of(["a bird", "a crow"]).words, len(vocabulary_of([]))
        (('<end>', 'a', 'bird', 'crow'), 1)
    """
    split = Vocabulary([END], tokenizer=tokenizer).tokenize
    words = {word for caption in captions for word in split(caption)}
    return Vocabulary([END, *sorted(words)], tokenizer=tokenizer)


def unknown_words(captions: Iterable[str], vocabulary: Vocabulary, where: str) -> list[str]:
    """The problem, if there is one, of captions with words that a vocabulary lacks.

    Example:
        >>> unknown_words(["a red bird"], Vocabulary(["<end>", "a", "bird"]), "'a.png'")
        ["'a.png': words that the vocabulary lacks: 'red'"]
    """
    lacking = {word for caption in captions for word in vocabulary.tokenize(caption) if word not in vocabulary}
    named = some([shown(word, 40) for word in sorted(lacking)])
    return [f"{where}: words that the vocabulary lacks: {named}"] if lacking else []

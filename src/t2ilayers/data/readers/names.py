"""Names of files in a data set: which are safe, which links are followed, and what a name says of the split."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Literal

from ..._files import shown
from ..pictures import SUFFIXES

Split = Literal["train", "test"]

SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"), "test"),
}
"""The words for a split, those of Hugging Face's datasets; what is not for training is for testing."""

_SPLIT_WORD = re.compile(rf"(?<![^\W\d_])({'|'.join(SPLITS)})(?![^\W\d_])")
# Contents named by their hash, as DVC (behind two digits, which are a folder) and git-annex do.
_HASH = re.compile(r"([A-Z0-9]+-(s\d+)?--)?[0-9a-f]{30,128}(\.\w+)*")


def split_of(name: str) -> Split | None:
    """What a file's or folder's name says of the split; None where it has no word for it, or words for both.

    Example:
        >>> (
        ...     split_of("Train2014_000"),
        ...     split_of("my-val.tar"),
        ...     split_of("restrain"),
        ...     split_of("train-test"),
        ... )
        ('train', 'test', None, None)
    """
    found = {SPLITS[word] for word in _SPLIT_WORD.findall(name.lower())}
    return found.pop() if len(found) == 1 else None


def name_problem(name: object) -> str | None:
    """What is wrong with a picture's name that a file gave; None where it stays below any folder.

    Example:
        >>> name_problem("001.Albatross/one") is None, name_problem("../secret")
        (True, "'../secret': the name leads outside the folder; names are relative to it and below it")
    """
    if not isinstance(name, str) or "\0" in name or not Path(name).name:
        return f"a picture's name must be a file name, got {shown(name)}"
    if Path(name).anchor or ".." in Path(name).parts:
        return f"{shown(name)}: the name leads outside the folder; names are relative to it and below it"
    return None


def is_file(path: Path) -> bool:
    """``path.is_file()``, also of a name too long for any file.

    Example:
        >>> is_file(Path("a" * 5000))
        False
    """
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """``path.is_dir()``, also of a name too long for any folder.

    Example:
        >>> is_folder(Path("a" * 5000)), is_folder(Path("."))
        (False, True)
    """
    try:
        return path.is_dir()
    except OSError:
        return False


class Tree:
    """A folder and the links in it. Links to a file below the folder are followed, and these that lead out of it:

    - to a file of the link's own name, or one that is named by a hash of its content, as DVC and git-annex keep
      files; and from a snapshot of huggingface_hub to its ``blobs``;
    - of a picture to a picture;
    - of a picture's captions to the file of that kind beside the picture's own file.

    All others are refused: a data set made by a stranger could make captions of any file of its user.

    Args:
        root: the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "bird.txt").symlink_to("/etc/passwd")
        ...     Tree(Path(folder)).problem(Path(folder, "bird.txt"))
        "it leads out of the folder, to '/etc/passwd'; ..."
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inside = Path(os.path.realpath(root))
        self._folders: dict[Path, Path] = {}

    def problem(self, path: Path, picture: Path | None = None) -> str | None:
        """Why a file is not read, because of where links lead from it; None where it is.

        Args:
            path: the file, below the root by its name.
            picture: the picture whose captions it holds.
        """
        try:
            target = self._resolve(path)
            if target.is_relative_to(self._inside) or target.name == path.name or self._is_stored(target):
                return None
            if picture is None and {path.suffix.lower(), target.suffix.lower()} <= set(SUFFIXES):
                return None
            if picture is not None and target.with_suffix("") == self._resolve(picture).with_suffix(""):
                return None
        except (OSError, RuntimeError, ValueError) as error:  # loops of links, NULs, lone surrogates
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            return f"not a usable file name ({reason})"
        return (
            f"it leads out of the folder, to {shown(str(target))}; a link may do so to a file of its own name, to "
            "one named by a hash, or from picture to picture"
        )

    def _is_stored(self, target: Path) -> bool:
        store = target.parent
        in_snapshot = store.name == "blobs" and self._inside.is_relative_to(store.parent / "snapshots")
        return in_snapshot or _HASH.fullmatch(target.name) is not None

    def _resolve(self, path: Path) -> Path:
        if path.is_symlink():
            return Path(os.path.realpath(path, strict=True))
        if path.parent not in self._folders:
            self._folders[path.parent] = Path(os.path.realpath(path.parent))
        return self._folders[path.parent] / path.name

    def _is_walked(self, folder: Path) -> bool:
        """Whether a folder lies below the root, and no hidden one above it, so that it is walked anyway."""
        if not folder.is_relative_to(self._inside):
            return False
        return not any(part.startswith(".") for part in folder.relative_to(self._inside).parts)

    def walk(self, problems: list[str]) -> tuple[list[str], list[str]]:
        """The names of all files below the root, relative to it and in order, but for hidden ones.

        Linked folders are walked too, each folder once.

        Args:
            problems: receives a line for each folder that cannot be read.

        Returns:
            The files; and the linked folders that were left out, since they were walked already or hold the root.
        """
        files, left = [], []
        walked = {*self._inside.parents, self._inside}
        waiting = [PurePosixPath()]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except OSError as error:
                problems.append(f"{shown(str(folder))}: the folder cannot be read ({error.strerror})")
                continue
            for entry in entries:
                name = folder / entry.name
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    files.append(str(name))
                elif not entry.is_symlink():
                    waiting.append(name)
                elif self._is_walked(target := Path(os.path.realpath(entry.path))) or target in walked:
                    left.append(str(name))
                else:
                    walked.add(target)
                    waiting.append(name)
        return sorted(files), left

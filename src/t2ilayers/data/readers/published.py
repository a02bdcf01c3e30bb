"""What the published data sets share: pictures that are listed first and read as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...vocabulary import END, Vocabulary, tokenize
from ..dataset import CaptionedDataset
from ..pictures import Box, crop, read_short_side
from .listing import DatasetError


@dataclass(frozen=True)
class Picture:
    """A picture's name, its file, its captions, and the box around what it shows where that is known."""

    key: str
    path: Path
    captions: tuple[str, ...]
    box: Box | None = None


@dataclass(frozen=True)
class Listing:
    """All that one split of a data set says of itself, and what is wrong with it, pictures not yet decoded.

    ``class_ids`` has one number a picture. Where there are problems, the rest may be incomplete.
    """

    root: Path
    problems: list[str]
    pictures: list[Picture] = field(default_factory=list)
    class_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary([END]))


class PublishedDataset(CaptionedDataset):
    """The pictures of a listing, decoded each time.

    The short side is resized to ``int(S * 76 / 64)`` (bilinear, antialiased, as published) and a square of S
    is cut out: at random and mirrored half of the time with ``augment`` and an ``rng``, else the centre.

    Args:
        listing: what to read; its problems are raised.
        image_size, seed: as ``CaptionedDataset``.
        augment: crop and mirror at random.

    Raises:
        DatasetError: the listing's problems.
        ValueError: an argument outside its range.

    Example:
        >>> listing = Listing(Path("birds"), ["'a': there is no picture images/a.jpg"])
        >>> PublishedDataset(listing, image_size=64, seed=0, augment=False)
        Traceback (most recent call last):
            ...
        t2ilayers.data.readers.listing.DatasetError: birds has 1 problem: 'a': there is no picture images/a.jpg
    """

    def __init__(self, listing: Listing, *, image_size: int, seed: int, augment: bool) -> None:
        if listing.problems:
            raise DatasetError.of(listing.root, listing.problems)
        super().__init__(
            image_size=image_size, vocabulary=listing.vocabulary, seed=seed, class_ids=listing.class_ids
        )
        self.root = listing.root
        self.augment = augment
        self._pictures = listing.pictures

    def captions(self, index: int) -> tuple[str, ...]:
        self._check_index(index)
        return self._pictures[index].captions

    def key(self, index: int) -> str:
        self._check_index(index)
        return self._pictures[index].key

    def image(self, index: int, rng: np.random.Generator | None = None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1].

        Raises:
            DatasetError: the file is torn or too large; ``python -m t2ilayers.data.validate`` finds all such.
        """
        self._check_index(index)
        read = read_listed(self._pictures[index], int(self.image_size * 76 / 64))
        if isinstance(read, str):
            raise DatasetError.of(self.root, [read])
        return crop(read, self.image_size, rng if self.augment else None)


def read_listed(picture: Picture, size: int) -> npt.NDArray[np.uint8] | str:
    """``read_short_side`` of a listed picture, or what is wrong with its file.

    Example:
        >>> read_listed(Picture("a", Path("nowhere/a.jpg"), ("a bird",)), 64)
        "'a': nowhere/a.jpg cannot be read (ValueError: there is no such file)"
    """
    try:
        return read_short_side(picture.path, size, picture.box)
    except ImportError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        return f"{picture.key!r}: {picture.path} cannot be read ({type(error).__name__}: {error})"


def check_request(root: str | os.PathLike[str], split: str, captions_per_image: int) -> Path:
    """The root as a path, after a check of the arguments that every published data set has.

    Raises:
        NotADirectoryError: ``root`` is no folder.
        ValueError: ``split`` is neither ``"train"`` nor ``"test"``, or ``captions_per_image`` is below 1.

    Example:
        >>> check_request(".", "train", 10)
        PosixPath('.')
    """
    if split not in ("train", "test"):
        raise ValueError(f'split is "train" or "test", got {split!r}')
    if captions_per_image < 1:
        raise ValueError(f"captions_per_image is at least 1, got {captions_per_image}")
    if not Path(root).is_dir():
        raise NotADirectoryError(f"root is the folder of a published data set, got {os.fspath(root)!r}")
    return Path(root)


def name_problem(name: object) -> str | None:
    """What is wrong with a picture's name that a file gave; None where it stays below any folder.

    Links are followed wherever they lead: large data sets are kept elsewhere and linked.

    Example:
        >>> name_problem("001.Albatross/one") is None, name_problem("../secret")
        (True, "'../secret': the name leads outside the folder; names are relative to it and below it")
    """
    if not isinstance(name, str) or "\0" in name or not Path(name).name:
        return f"a picture's name is a file name, got {name!r:.80}"
    if Path(name).anchor or ".." in Path(name).parts:
        return f"{name!r}: the name leads outside the folder; names are relative to it and below it"
    return None


def find_picture(name: str, folders: Sequence[Path], problems: list[str]) -> Path:
    """The first file of that name in some folders; where there is none, that is a problem.

    Example:
        >>> problems = []
        >>> _ = find_picture("a.jpg", [Path("images"), Path("train2014")], problems)
        >>> problems
        ["'a.jpg': there is no such picture in images, train2014"]
    """
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    problems.append(f"{name!r}: there is no such picture in {', '.join(map(str, folders))}")
    return folders[0] / name


def choose_captions(key: str, captions: Sequence[str], count: int, problems: list[str]) -> tuple[str, ...]:
    """The first ``count`` captions with a word, each on one line; fewer are a problem, and so is a NUL.

    Example:
        >>> problems = []
        >>> choose_captions("a", ["a\\nbird ", "", "!", "a crow", "a tit"], 2, problems), problems
        (('a bird', 'a crow'), [])
    """
    chosen = tuple([" ".join(caption.split()) for caption in captions if tokenize(caption)][:count])
    if len(chosen) < count:
        problems.append(
            f"{key!r}: {len(chosen)} captions with a word, while captions_per_image is {count}; add captions or "
            "lower it"
        )
    if any("\0" in caption for caption in chosen):
        problems.append(f"{key!r}: a caption has a NUL character")
    return chosen


def vocabulary_of(captions: Iterable[tuple[str, ...]]) -> Vocabulary:
    """The vocabulary of all pictures' captions; only ``<end>`` where they are all missing.

    Example:
        >>> vocabulary_of([("a bird", "a crow"), ()]).words, len(vocabulary_of([]))
        (('<end>', 'a', 'bird', 'crow'), 1)
    """
    flat = [caption for row in captions for caption in row]
    return Vocabulary.build(flat) if flat else Vocabulary([END])


def unknown_words(pictures: Sequence[Picture], vocabulary: Vocabulary) -> list[str]:
    """A problem for each picture with words that the vocabulary lacks.

    Example:
        >>> unknown_words([Picture("a", Path("a.jpg"), ("a red bird",))], Vocabulary(["<end>", "a", "bird"]))
        ["'a': words that the vocabulary lacks: 'red'"]
    """
    problems = []
    for picture in pictures:
        words = {word for caption in picture.captions for word in tokenize(caption) if word not in vocabulary}
        if words:
            lacking = ", ".join(map(repr, sorted(words)))
            problems.append(f"{picture.key!r}: words that the vocabulary lacks: {lacking}")
    return problems

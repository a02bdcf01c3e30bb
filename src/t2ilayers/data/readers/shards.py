"""Captioned pictures in tar files, as WebDataset and img2dataset write them, read at any place in any order."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...vocabulary import Vocabulary
from ..dataset import CaptionedDataset, check_image_size, check_seed
from ..pictures import crop, read_picture
from .listing import DatasetError
from .shard_index import ShardIndex, parse_captions, read_member, shard_index

_SPLITS = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])")
_T = TypeVar("_T")


class CaptionShards(CaptionedDataset):
    """Pictures with captions in tar files. What is held in memory is where they lie: some 100 bytes a sample.

    The members of a shard that share a name up to the first dot are a sample: a picture (``NAME.jpg``,
    ``NAME.png``, ...), ``NAME.txt`` with a caption a line, and where there is one the class: the text of
    ``NAME.cls``, or else the field ``class_field`` of ``NAME.json``. Lines without a word and members with
    other endings are passed over.

    A shard is read through once, and what was found is kept beside it (``train-000.tar.index.npz``) where that
    can be written. From then on any sample is one seek away by its index, so that order, resuming and sharing
    among processes are those of every dataset; see ``BatchDataset``. Shards are uncompressed and on disks that
    seek, local or mounted.

    The central square of a picture is resized as ``CaptionFolder`` does. ``key`` is the shard's path and the
    picture's member.

    Args:
        pattern: a folder, whose ``.tar`` files are taken at any depth, or a path with braces such as
            ``data/train-{000..012}.tar`` and ``data/{train,val}/{0..9}.tar``. The name of a shard, or else
            that of its folder, tells the split by the word ``train``, ``test``, ``val``, ``valid`` or
            ``validation``. Where names do not, ``TRAIN::TEST`` is a pattern for each split.
        split: ``"train"`` or ``"test"``.
        image_size: side S of the pictures, at least 16.
        seed: of the randomness of ``dataset[index]``.
        class_field: field with a picture's class, a string or number; pictures without are a class each. Ids
            are the same in both splits.
        augment: crop and mirror at random. Mirrored pictures contradict captions that say left or right.
        vocabulary: None builds it from the captions of both splits.

    Raises:
        DatasetError: all that is wrong, by shard and member: shards that are missing, torn or no tar, members
            that are links, too large or named outside, pictures without captions and the reverse, captions
            without a word, with a NUL or not UTF-8, classes that cannot be read, words that ``vocabulary``
            lacks, an empty split. Pictures are decoded only when they are asked for.
        ValueError: an argument outside its range.
        ImportError: Pillow is not installed (extra ``train``).

    Source: the WebDataset format, github.com/webdataset/webdataset.

    Example:
        >>> import tarfile, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     _ = Path(folder, "red.txt").write_text("a red picture\\nplain red\\n")
        ...     for split in ("train", "test"):
        ...         with tarfile.open(f"{folder}/{split}-0.tar", "w") as shard:
        ...             for name in ("red.png", "red.txt"):
        ...                 shard.add(f"{folder}/{name}", name)
        ...     dataset = CaptionShards(folder, image_size=16)
        ...     picture, captions = dataset.image(0), dataset.captions(0)
        >>> dataset.key(0).removeprefix(folder), captions, picture.shape
        ('/train-0.tar/red.png', ('a red picture', 'plain red'), torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str],
        split: Literal["train", "test"] = "train",
        *,
        image_size: int = 64,
        seed: int = 0,
        class_field: str = "class_id",
        augment: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        if split not in ("train", "test"):
            raise ValueError(f'split is "train" or "test", got {split!r}')
        self.root = Path(pattern)
        self.augment = augment
        self._side = int(image_size * 76 / 64) if augment else image_size

        problems: list[str] = []
        shards = _shards(os.fspath(pattern), problems)
        indices = [shard_index(shard, class_field, problems) for shard, _ in shards]
        chosen = [n for n, (_, its_split) in enumerate(shards) if its_split == split]
        if not chosen and not problems:
            problems.append(f"no shard in split {split!r} of {len(shards)}")
        self._shards = [shards[n][0] for n in chosen]
        self._indices = [indices[n] for n in chosen]
        if vocabulary is not None:
            problems += _unknown_words(self._shards, self._indices, vocabulary)
        if problems:
            raise DatasetError.of(self.root, problems)

        class_ids = np.split(_class_ids(indices), np.cumsum([len(index.names) for index in indices])[:-1])
        self._ends = np.cumsum([len(index.names) for index in self._indices])
        if vocabulary is None:
            vocabulary = Vocabulary.build(word.decode() for index in indices for word in index.words)
        super().__init__(
            image_size=image_size,
            vocabulary=vocabulary,
            seed=seed,
            class_ids=np.concatenate([class_ids[n] for n in chosen]),
        )

    def captions(self, index: int) -> tuple[str, ...]:
        return self._read(index, 2, parse_captions)

    def key(self, index: int) -> str:
        shard, n = self._place(index)
        return f"{self._shards[shard]}/{self._indices[shard].names[n].decode('utf-8', 'surrogateescape')}"

    def image(self, index: int, rng: np.random.Generator | None = None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1]; without ``rng`` the central crop, not mirrored.

        Raises:
            DatasetError: the picture is torn or too large.
        """
        picture = self._read(index, 0, lambda content: read_picture(io.BytesIO(content), self._side))
        return crop(picture, self.image_size, rng if self.augment else None)

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the shard, and that of the sample in it."""
        self._check_index(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard])  # counted from the shard's end

    def _read(self, index: int, column: int, parse: Callable[[bytes], _T]) -> _T:
        """The parsed member at a column of the places."""
        shard, n = self._place(index)
        offset, size = map(int, self._indices[shard].places[n, column : column + 2])
        try:
            return parse(read_member(self._shards[shard], offset, size))
        except ImportError:
            raise
        except Exception as error:  # damaged pictures make Pillow raise nearly anything
            what = "captions" if column else "picture"
            problem = f"{self.key(index)!r}: its {what} cannot be read ({type(error).__name__}: {error})"
            raise DatasetError.of(self.root, [problem]) from error


def expand(pattern: str) -> list[str]:
    """All that a pattern with braces names, in order: ``{000..012}`` counts, ``{a,b}`` lists.

    Example:
        >>> expand("{train,val}-{08..10}.tar")[1:4]
        ['train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    before, brace, rest = pattern.partition("{")
    inside, closed, after = rest.partition("}")
    if not (brace and closed):
        return [pattern]
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    choices: Iterable[str] = inside.split(",")
    if counted:
        first, last = counted.groups()
        choices = (f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1))
    endings = expand(after)
    return [before + choice + ending for choice in choices for ending in endings]


def _shards(pattern: str, problems: list[str]) -> list[tuple[Path, str]]:
    """The shards that a pattern names, each with its split."""
    train, both, test = pattern.partition("::")
    if both:
        shards = [(path, split) for part, split in ((train, "train"), (test, "test")) for path in _paths(part)]
    else:
        shards = [(path, _split(path)) for path in _paths(pattern)]
    problems += [
        f"{path}: its name does not tell the split; give TRAIN::TEST, a pattern for each"
        for path, split in shards
        if not split
    ]
    counts = Counter(path for path, _ in shards)
    problems += [f"{path}: named {count} times" for path, count in counts.items() if count > 1]
    return shards


def _paths(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return sorted(Path(pattern).rglob("*.tar"))
    return [Path(name) for name in expand(pattern)]


def _split(shard: Path) -> str:
    """What the shard's name, or else its folder's, says of the split; nothing said is ``""``."""
    for name in (shard.stem, shard.absolute().parent.name):
        found = _SPLIT_WORD.search(name.lower())
        if found:
            return _SPLITS[found[1]]
    return ""


def _class_ids(indices: Sequence[ShardIndex]) -> npt.NDArray[np.int64]:
    """Labels in alphabetical order, then a class for each picture without one, over all shards."""
    labels = np.concatenate([index.labels for index in indices])
    known, ids = np.unique(labels, return_inverse=True)
    return np.where(labels == b"", len(known) + np.arange(len(labels)), ids)


def _unknown_words(shards: Sequence[Path], indices: Sequence[ShardIndex], vocabulary: Vocabulary) -> Iterator[str]:
    for shard, index in zip(shards, indices, strict=True):
        lacking = [repr(word.decode()) for word in index.words if word.decode() not in vocabulary]
        if lacking:
            more = f" (+{len(lacking) - 10} more)" if len(lacking) > 10 else ""
            yield f"{shard}: words that the vocabulary lacks: {', '.join(lacking[:10])}{more}"

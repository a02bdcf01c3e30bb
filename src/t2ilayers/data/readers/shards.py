"""Captioned pictures in tar files, as WebDataset and img2dataset write them, read at any place in any order."""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, product
from pathlib import Path
from typing import BinaryIO, Literal, overload

import numpy as np

from ..._files import shown
from ...vocabulary import Vocabulary
from ...words import Rule, Tokenizer
from ..dataset import check_image_size, check_seed
from ..listed import ListedDataset
from .listing import LETTERS, DatasetError, LeftOut, Listing, Picture, class_ids, unknown_words, vocabulary_of
from .names import Split, Tree, is_folder, split_of
from .shard_index import ShardIndex, parse_captions, read_member, shard_index

_MOST_SHARDS = 10**6
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class CaptionShards(ListedDataset):
    """Pictures with captions in tar files. What is held in memory is where they lie: some 100 bytes a sample.

    The members of a shard that share a name up to the first dot are a sample: a picture (``NAME.jpg``,
    ``NAME.png``, ...), ``NAME.txt`` with one caption per line, and where there is one the class: the text of
    ``NAME.cls``, or else the field ``class_field`` of ``NAME.json``. A picture or captions whose name has more
    dots, such as ``IMG_2019.05.01.jpg``, are taken by the name up to the last one, unless the shorter name is that
    of a whole sample. Lines without a word and hidden members are passed over.

    A shard is read through once, and what was found is kept beside it (``train-000.tar.index.npz``) where that
    can be written. From then on any sample is one seek away by its index, so that order, resuming and sharing
    among processes are those of every dataset; see ``BatchDataset``. Shards are uncompressed and on disks that
    seek, local or mounted.

    The central square of a picture is resized as ``CaptionFolder`` does. ``key`` is the shard's path and the
    picture's member.

    Args:
        pattern: a folder, whose ``.tar`` files are taken at any depth, or a path with braces such as
            ``data/train-{000..012}.tar`` and ``data/{train,val}/{0..9}.tar``. The name of a shard, or else
            that of its folder, tells the split by one of the words that ``CaptionFolder`` knows. Where names do
            not, ``TRAIN::TEST`` is a pattern for each split.
        split: ``"train"`` or ``"test"``.
        image_size: side S of the pictures, at least 16.
        seed: of the randomness of ``dataset[index]``.
        class_field: field with a picture's class, a string or number; pictures without are a class each. Ids
            are the same in both splits.
        augment: crop and mirror at random. Mirrored pictures contradict captions that say left or right.
        vocabulary: None builds it from the captions of both splits.
        tokenizer: how captions are split into words where ``vocabulary`` is None; see ``Vocabulary``. With a
            function of one's own all captions are read each time the dataset is opened.
        max_words: longest sequence of tokens.
        one_caption: a ``.txt`` is one caption, whatever lines it has.

    Raises:
        DatasetError: all that is wrong, by shard and member: shards that are missing, torn, compressed or no tar,
            members that are links, too large or named outside, a picture without ``.txt`` and the reverse,
            captions with a NUL or not UTF-8, classes that cannot be read, words that ``vocabulary`` lacks, an
            empty split. Pictures are decoded only when they are asked for.
        ValueError: an argument outside its range.
        ImportError: Pillow is not installed (extra ``train``).

    Warns:
        UserWarning: a line for each kind of thing that is left out, with the first names: pictures whose ``.txt``
            has no word, members that belong to no sample, other files in the folder.

    Source: the WebDataset format, github.com/webdataset/webdataset.

    Example:
        >>> import tarfile, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     _ = Path(folder, "red.txt").write_text("a red picture\\nplain red\\n")
        ...     for split in ("train", "test"):
        ...         Path(folder, split).mkdir()
        ...         with tarfile.open(f"{folder}/{split}/0.tar", "w") as shard:
        ...             for name in ("red.png", "red.txt"):
        ...                 shard.add(f"{folder}/{name}", name)
        ...     dataset = CaptionShards(f"{folder}/{{train,test}}/0.tar", image_size=16)
        ...     picture, captions = dataset.image(0), dataset.captions(0)
        >>> dataset.key(0).removeprefix(folder), captions, picture.shape
        ('/train/0.tar/red.png', ('a red picture', 'plain red'), torch.Size([3, 16, 16]))
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
        tokenizer: Rule | Tokenizer = "words",
        max_words: int = 18,
        one_caption: bool = False,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        listing = list_shards(
            pattern,
            split,
            class_field=class_field,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            one_caption=one_caption,
        )
        super().__init__(listing, image_size=image_size, seed=seed, augment=augment, max_words=max_words)


@dataclass(frozen=True)
class _Member:
    """A picture of a shard; its captions are read when they are asked for."""

    shard: Path
    index: ShardIndex
    number: int
    one_caption: bool
    box: None = None

    @property
    def key(self) -> str:
        return f"{self.shard}/{self.index.names[self.number].decode('utf-8', 'surrogateescape')}"

    @property
    def captions(self) -> tuple[str, ...]:
        try:
            return parse_captions(self._content(1), one_caption=self.one_caption)
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            problem = f"{shown(self.key, 200)}: its captions cannot be read ({reason:.300})"
            raise DatasetError.of(self.shard, [problem]) from error

    def open(self) -> BinaryIO:
        return io.BytesIO(self._content(0))

    def stamp(self) -> str:
        return str(self.index.places[self.number, 1::2].tolist())

    def _content(self, column: int) -> bytes:
        offset, size = map(int, self.index.places[self.number, 2 * column : 2 * column + 2])
        return read_member(self.shard, offset, size, int(self.index.heads[self.number, column]))


class _Members(Sequence[Picture]):
    """The pictures of some shards, made as they are asked for."""

    def __init__(self, shards: Sequence[tuple[Path, ShardIndex]], one_caption: bool) -> None:
        self._shards = shards
        self._one_caption = one_caption
        self._ends = list(accumulate(len(index.names) for _, index in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        place = bisect_right(self._ends, index)
        shard, its_index = self._shards[place]
        return _Member(shard, its_index, index - self._ends[place] + len(its_index.names), self._one_caption)


def list_shards(
    pattern: str | os.PathLike[str],
    split: str,
    *,
    class_field: str = "class_id",
    vocabulary: Vocabulary | None = None,
    tokenizer: Rule | Tokenizer = "words",
    one_caption: bool = False,
) -> Listing:
    """What the shards of a split say; arguments and errors as of ``CaptionShards``, problems returned.

    Example:
        >>> list_shards("nowhere/train.tar", "train").problems
        ['nowhere/train.tar: cannot be read (No such file or directory)']
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {shown(split)}')
    problems, left_out = list[str](), LeftOut()
    shards = _shards(os.fspath(pattern), problems, left_out)
    indices = [shard_index(shard, class_field, problems, left_out) for shard, _ in shards]
    chosen = [n for n, (_, its_split) in enumerate(shards) if its_split == split]
    if not chosen and not problems:
        problems.append(f"no shard in split {split!r} of {len(shards)}")
    if problems:
        return Listing(Path(pattern), problems=problems)

    pictures = _Members([(shards[n][0], indices[n]) for n in chosen], one_caption)
    if vocabulary is None and callable(tokenizer):
        everything = _Members(
            [(shard, index) for (shard, _), index in zip(shards, indices, strict=True)], one_caption
        )
        vocabulary = vocabulary_of((text for picture in everything for text in picture.captions), tokenizer)
    elif vocabulary is None:
        vocabulary = vocabulary_of(chain.from_iterable(index.vocabulary() for index in indices), tokenizer)
    elif not callable(vocabulary.tokenizer):
        for n in chosen:
            for word in indices[n].vocabulary():
                if vocabulary.lost(word):
                    left_out.add(LETTERS, shown(word))
            problems += unknown_words(indices[n].vocabulary(), vocabulary, str(shards[n][0]))
    ids = class_ids(np.concatenate([index.labels for index in indices]))
    parts = np.split(ids, np.cumsum([len(index.names) for index in indices])[:-1])
    return Listing(
        Path(pattern), pictures, np.concatenate([parts[n] for n in chosen]), vocabulary, problems, left_out.lines()
    )


def expand(pattern: str) -> list[str]:
    """All that a pattern with braces names, in order: ``{000..012}`` counts, ``{a,b}`` lists.

    Raises:
        ValueError: it names more than a million.

    Example:
        >>> expand("{train,val}-{08..10}.tar")[1:4]
        ['train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[Sequence[str]] = []
    count = 1
    for part in parts:
        counted = re.fullmatch(r"\{(\d{1,18})\.\.(\d{1,18})\}", part)
        if counted:
            first, last = counted.groups()
            size = max(int(last) - int(first) + 1, 0)
            numbers = range(int(first), int(first) + min(size, _MOST_SHARDS))
            choices.append([f"{n:0{len(first)}}" for n in numbers] if count * size <= _MOST_SHARDS else [])
        else:
            choices.append(part[1:-1].split(",") if part.startswith("{") and part.endswith("}") else [part])
            size = len(choices[-1])
        count *= size
        if count > _MOST_SHARDS:
            raise ValueError(f"a pattern must name at most {_MOST_SHARDS} shards, got {shown(pattern)}")
    return ["".join(chosen) for chosen in product(*choices)]


def _shards(pattern: str, problems: list[str], left_out: LeftOut) -> list[tuple[Path, Split]]:
    """The shards that a pattern names, each with its split."""
    train, both, test = pattern.partition("::")
    found: list[tuple[Path, Split | None]] = []
    try:
        if both:
            found += [(path, "train") for path in _paths(train, problems, left_out)]
            found += [(path, "test") for path in _paths(test, problems, left_out)]
        else:
            found += [(path, _split(path)) for path in _paths(pattern, problems, left_out)]
    except ValueError as error:
        problems.append(str(error))
    shards: list[tuple[Path, Split]] = []
    for path, split in found:
        if split:
            shards.append((path, split))
        else:
            problems.append(
                f"{path!s:.200}: its name does not tell the split; give TRAIN::TEST, a pattern for each"
            )
    counts = Counter(path for path, _ in found)
    problems += [f"{path!s:.200}: named {count} times" for path, count in counts.items() if count > 1]
    return shards


def _paths(pattern: str, problems: list[str], left_out: LeftOut) -> list[Path]:
    root = Path(pattern)
    if not is_folder(root):
        return [Path(name) for name in expand(pattern)]
    files, linked = Tree(root).walk(problems)
    for file in files:
        if not file.endswith((*_TARS, ".tar.index.npz")):
            left_out.add("{count} files that are no shards: {names}", shown(file))
    for folder in linked:
        left_out.add("{count} links to folders that are read already, or hold this one: {names}", shown(folder))
    shards = [root / file for file in files if file.endswith(_TARS)]
    if not shards:
        problems.append(f"{pattern} holds no .tar file")
    return shards


def _split(shard: Path) -> Split | None:
    """What the shard's name, or else its folder's, says of the split."""
    return split_of(shard.name.split(".tar")[0]) or split_of(shard.absolute().parent.name)

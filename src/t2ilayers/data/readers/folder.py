"""Captioned pictures from a folder of one's own."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...vocabulary import Vocabulary, tokenize
from ..dataset import CaptionedDataset, check_image_size, check_seed
from ..pictures import crop, read_picture
from .listing import DatasetError, Record, read_listing

_CACHE_BYTES = 512 * 2**20


class CaptionFolder(CaptionedDataset):
    """Pictures with captions below a folder, which is checked wholly before training starts.

    The folder has one of these, looked for in this order:

    - ``captions.jsonl``, a row a picture: ``{"file": "a.png", "captions": ["a bird", "a red bird"]}``, with a
      ``"split"`` and a class besides where one likes;
    - ``metadata.jsonl`` or ``metadata.csv`` as Hugging Face's ``imagefolder`` has them: ``file_name`` and
      ``text``, and several rows for a picture with several captions;
    - a ``.txt`` beside each picture, a caption a line.

    The central square of a picture is resized to S (bicubic, antialiased). With ``augment`` it is resized to
    ``int(S * 76 / 64)``, and ``rng`` picks a crop of S and whether it is mirrored. Decoded pictures are kept
    in memory where they take at most 512 MiB, and read each time otherwise.

    Args:
        root: the folder.
        split: ``"train"`` or ``"test"``; None takes both. The list's ``split`` decides (``val`` and
            ``validation`` count as test); where the list has none, a hash of the file's name does.
        image_size: side S of the pictures, at least 16.
        seed: of the randomness of ``dataset[index]``.
        class_field: field with a picture's class, a string or number; pictures without are a class each. Ids
            are the same in every split.
        test_fraction: of the pictures to be test pictures where the list has no splits, in [0, 1].
        augment: crop and mirror at random. Mirrored pictures contradict captions that say left or right.

    Attributes:
        vocabulary: words of the captions of every split.

    Raises:
        DatasetError: all that is wrong, by file: pictures of this split that do not decode wholly or are too
            large, pictures of any split that are missing or outside the folder, captions that are missing,
            without a word or with a NUL, rows that cannot be read, splits nobody knows, an empty split.
        ValueError: an argument outside its range.
        NotADirectoryError: ``root`` is no folder.
        ImportError: Pillow is not installed (extra ``train``).

    Warns:
        UserWarning: captions without a word, of pictures that have others, are left out.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     _ = Path(folder, "red.txt").write_text("a red picture\\nplain red\\n")
        ...     dataset = CaptionFolder(folder, split=None, image_size=16)
        >>> dataset.key(0), dataset.captions(0), dataset.image(0).shape
        ('red.png', ('a red picture', 'plain red'), torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        split: Literal["train", "test"] | None = "train",
        image_size: int = 64,
        seed: int = 0,
        class_field: str = "class_id",
        test_fraction: float = 0.1,
        augment: bool = False,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        if split not in ("train", "test", None):
            raise ValueError(f'split is "train", "test" or None, got {split!r}')
        if not 0.0 <= test_fraction <= 1.0:
            raise ValueError(f"test_fraction lies in [0, 1], got {test_fraction}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise NotADirectoryError(f"root is a folder of captioned pictures, got {os.fspath(root)!r}")
        self.augment = augment
        self._side = int(image_size * 76 / 64) if augment else image_size

        records, problems = read_listing(self.root, class_field, test_fraction)
        chosen = [n for n, record in enumerate(records) if split is None or record.split == split]
        if not chosen and not problems:
            problems.append(f"no picture in split {split!r} of {len(records)}")
        self._records = [records[n] for n in chosen]
        self._pictures = self._check_pictures(problems)
        taken = set(chosen)
        others = (record for n, record in enumerate(records) if n not in taken)
        problems += [
            f"{other.file!r}: there is no such file" for other in others if not (self.root / other.file).is_file()
        ]
        if problems:
            raise DatasetError.of(self.root, problems)

        _leave_out_wordless(records)
        super().__init__(
            image_size=image_size,
            vocabulary=Vocabulary.build(caption for record in records for caption in record.captions),
            seed=seed,
            class_ids=_class_ids(records)[chosen],
        )

    def captions(self, index: int) -> tuple[str, ...]:
        self._check_index(index)
        return tuple(self._records[index].captions)

    def key(self, index: int) -> str:
        self._check_index(index)
        return self._records[index].file

    def image(self, index: int, rng: np.random.Generator | None = None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1]; without ``rng`` the central crop, not mirrored.

        Raises:
            DatasetError: the file changed since it was checked and cannot be read any more.
        """
        self._check_index(index)
        if self._pictures is not None:
            picture = self._pictures[index]
        else:
            read = self._read(self._records[index])
            if isinstance(read, str):
                raise DatasetError.of(self.root, [read])
            picture = read
        return crop(picture, self.image_size, rng if self.augment else None)

    def _check_pictures(self, problems: list[str]) -> npt.NDArray[np.uint8] | None:
        """Decode every picture, note which do not, and keep them all if they are not too many."""
        shape = (len(self._records), self._side, self._side, 3)
        # One array rather than many, so that forked workers share it.
        kept = np.empty(shape, np.uint8) if int(np.prod(shape, dtype=np.int64)) <= _CACHE_BYTES else None
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            for n, picture in enumerate(pool.map(self._read, self._records)):
                if isinstance(picture, str):
                    problems.append(picture)
                elif kept is not None:
                    kept[n] = picture
        return kept

    def _read(self, record: Record) -> npt.NDArray[np.uint8] | str:
        """The decoded picture, or what is wrong with it."""
        try:
            return read_picture(self.root / record.file, self._side)
        except ImportError:
            raise
        except Exception as error:  # damaged files make Pillow raise nearly anything
            return f"{record.file!r}: cannot be read ({type(error).__name__}: {error})"


def _leave_out_wordless(records: list[Record]) -> None:
    count, first = 0, ""
    for record in records:
        kept = [caption for caption in record.captions if tokenize(caption)]
        if len(kept) < len(record.captions):
            first = first or record.file
            count += len(record.captions) - len(kept)
            record.captions = kept
    if count:
        warnings.warn(f"left out {count} captions without a word, the first of {first!r}", stacklevel=3)


def _class_ids(records: list[Record]) -> npt.NDArray[np.int64]:
    """Labels in alphabetical order, then a class for each picture without one."""
    labels = sorted({record.label for record in records if record.label is not None})
    ids = {label: n for n, label in enumerate(labels)}
    return np.array(
        [len(labels) + n if record.label is None else ids[record.label] for n, record in enumerate(records)]
    )

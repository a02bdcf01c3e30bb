"""The dataset of a listing: pictures that lie on disk, in files or in tar files, read by one rule."""

from __future__ import annotations

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .._files import shown
from .dataset import CaptionedDataset, spread
from .pictures import crop, read_picture, read_short_side, with_margin
from .readers.listing import DatasetError, Listing, Picture

_CACHE_BYTES = 512 * 2**20


class ListedDataset(CaptionedDataset):
    """The pictures of a listing, each decoded when it is asked for, or all of them at once.

    The central square of a picture is resized to S (bicubic, antialiased); with ``augment`` to
    ``int(S * 76 / 64)``, of which ``rng`` picks a crop of S and whether it is mirrored. ``as_published`` is the
    AttnGAN family's way: cut about the box where there is one, the short side resized to ``int(S * 76 / 64)``
    (bilinear, antialiased), then a square of S, the central one without ``augment``.

    Args:
        listing: what to read.
        image_size, seed, max_words: as ``CaptionedDataset``.
        augment: crop and mirror at random.
        as_published: see above.
        decode: decode all pictures now, and keep them in memory where they take at most 512 MiB.

    Raises:
        DatasetError: the listing's problems, and with ``decode`` the pictures that cannot be read.
        ValueError: an argument outside its range.

    Warns:
        UserWarning: the listing's notes on what was left out.

    Example:
        >>> from pathlib import Path
        >>> listing = Listing(
        ...     Path("birds"), problems=["'a': there is no picture images/a.jpg"]
        ... )
        >>> ListedDataset(listing, image_size=64)
        Traceback (most recent call last):
            ...
        t2ilayers.data.readers.listing.DatasetError: birds has 1 problem: 'a': there is no picture images/a.jpg
    """

    def __init__(
        self,
        listing: Listing,
        *,
        image_size: int,
        seed: int = 0,
        augment: bool = False,
        max_words: int = 18,
        as_published: bool = False,
        decode: bool = False,
    ) -> None:
        super().__init__(
            image_size=image_size,
            vocabulary=listing.vocabulary,
            seed=seed,
            class_ids=listing.class_ids,
            max_words=max_words,
        )
        self.root = listing.root
        self.augment = augment
        self.as_published = as_published
        self._listed = listing.pictures
        self._side = with_margin(image_size) if augment or as_published else image_size
        problems = list(listing.problems)
        self._kept = self._decode_all(problems) if decode else None
        if problems:
            raise DatasetError.of(self.root, problems)
        for note in listing.notes:
            warnings.warn(f"{self.root}: {note}", stacklevel=3)
        self._told_of = self.vocabulary

    def captions(self, index: int) -> tuple[str, ...]:
        self._check_index(index)
        return self._listed[index].captions

    def key(self, index: int) -> str:
        self._check_index(index)
        return self._listed[index].key

    def image(self, index: int, rng: np.random.Generator | None = None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1]; without ``rng`` the central crop, not mirrored.

        Raises:
            DatasetError: the file cannot be read; ``python -m t2ilayers.data.validate`` finds all such.
        """
        self._check_index(index)
        if self._kept is not None:
            picture = self._kept[index]
        else:
            read = self._read(self._listed[index])
            if isinstance(read, str):
                raise DatasetError.of(self.root, [read])
            picture = read
        return crop(picture, self.image_size, rng if self.augment else None)

    def digest(self) -> str:
        """SHA-256 of classes, all sizes, and the captions and files of at most 1,000 pictures."""
        digest = hashlib.sha256(self.class_ids.tobytes())
        for index in spread(len(self), 10**5):
            digest.update(self._listed[index].stamp().encode("utf-8", "surrogatepass"))
        for index in spread(len(self), 1000):
            picture = self._listed[index]
            digest.update(repr(picture.captions).encode("utf-8", "surrogatepass"))
            with picture.open() as file:
                digest.update(file.read())
        return digest.hexdigest()

    def _decode_all(self, problems: list[str]) -> npt.NDArray[np.uint8] | None:
        shape = (len(self._listed), self._side, self._side, 3)
        fits = not self.as_published and int(np.prod(shape, dtype=np.int64)) <= _CACHE_BYTES
        # One array rather than many, so that forked workers share it.
        kept = np.empty(shape, np.uint8) if fits else None
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            for n, picture in enumerate(pool.map(self._read, self._listed)):
                if isinstance(picture, str):
                    problems.append(picture)
                elif kept is not None:
                    kept[n] = picture
        return kept

    def _read(self, picture: Picture) -> npt.NDArray[np.uint8] | str:
        return read_listed(picture, self._side, as_published=self.as_published)


def read_listed(picture: Picture, size: int, *, as_published: bool) -> npt.NDArray[np.uint8] | str:
    """``read_short_side`` or ``read_picture`` of a listed picture, or what is wrong with its file.

    Example:
        >>> from pathlib import Path
        >>> from t2ilayers.data.readers.listing import FilePicture
        >>> read_listed(
        ...     FilePicture("a", Path("nowhere/a.jpg"), ("a bird",)),
        ...     64,
        ...     as_published=True,
        ... )
        "'a': its picture cannot be read (FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/a.jpg')"
    """
    try:
        with picture.open() as file:
            return read_short_side(file, size, picture.box) if as_published else read_picture(file, size)
    except ImportError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        reason = f"{type(error).__name__}: {error}"
        return f"{shown(picture.key, 200)}: its picture cannot be read ({reason:.300})"

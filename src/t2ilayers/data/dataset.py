"""What every captioned dataset has in common: its interface, and how a sample is made of it."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import NotRequired, TypedDict

from .._files import shown
from ..vocabulary import Vocabulary

MIN_IMAGE_SIZE = 16


class Sample(TypedDict):
    """One picture with one of its captions, as ``CaptionedDataset.sample`` returns it.

    ``image (3, S, S)`` float32 in [-1, 1]; ``caption``; ``tokens (max_words,)`` int64, padded with 0, of
    which the first ``length`` are the caption's; ``class_id``; ``key``, the picture's name; and
    ``mask (1, S, S)`` float32 in [0, 1] where the dataset knows the foreground.

    Example:
        >>> from t2ilayers.data import CaptionedShapes
        >>> sample: Sample = CaptionedShapes(4, image_size=32)[0]
        >>> sorted(sample)
        ['caption', 'class_id', 'image', 'key', 'length', 'mask', 'tokens']
    """

    image: Tensor
    caption: str
    tokens: Tensor
    length: int
    class_id: int
    key: str
    mask: NotRequired[Tensor]


class CaptionedDataset(Dataset[Sample], ABC):
    """Square pictures with several captions each. A subclass gives length, captions, keys and pictures.

    ``dataset[index]`` is ``sample(index, np.random.default_rng((seed, index)))``: the same sample each time.
    ``BatchDataset`` draws others in each epoch.

    Args:
        image_size: side S of the pictures, at least 16.
        vocabulary: words of the captions. The attribute may be set to that of a trained text encoder; words
            that it lacks are an error when they are met.
        seed: of the randomness of ``dataset[index]``, >= 0.
        class_ids: ``(len(dataset),)`` int64; pictures of one class are no negatives of each other.
        max_words: longest sequence of tokens, 18 as in the family, >= 1. Of a longer caption so many words are
            taken at random each time, in their order.

    Raises:
        ValueError: ``image_size``, ``seed`` or ``max_words`` is too small.

    Warns:
        UserWarning: once, where the vocabulary's rule takes letters from a caption's words.

    Example:
        >>> class Grey(CaptionedDataset):
        ...     def __init__(self):
        ...         vocabulary = Vocabulary.build(["a grey square"])
        ...         super().__init__(
        ...             image_size=16,
        ...             vocabulary=vocabulary,
        ...             seed=0,
        ...             class_ids=np.arange(3),
        ...         )
        ...
        ...     def captions(self, index):
        ...         return ("a grey square", "grey")
        ...
        ...     def key(self, index):
        ...         return f"grey-{index}"
        ...
        ...     def image(self, index, rng):
        ...         return torch.zeros(3, 16, 16)
        >>> sample = Grey()[2]
        >>> sample["key"], sample["class_id"], sample["tokens"].shape
        ('grey-2', 2, torch.Size([18]))
    """

    def __init__(
        self,
        *,
        image_size: int,
        vocabulary: Vocabulary,
        seed: int,
        class_ids: npt.NDArray[np.int64],
        max_words: int = 18,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {max_words}")
        self.max_words = max_words
        self._told_of: Vocabulary | None = None  # whose lost letters were told
        self.image_size = image_size
        self.vocabulary = vocabulary
        self.seed = seed
        self.class_ids = class_ids

    def __len__(self) -> int:
        return len(self.class_ids)

    @abstractmethod
    def captions(self, index: int) -> tuple[str, ...]:
        """All captions of a picture, at least one."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The picture's name, different for each."""

    @abstractmethod
    def image(self, index: int, rng: np.random.Generator | None) -> Tensor:
        """The picture ``(3, S, S)``, float32 in [-1, 1]; ``rng`` drives augmentation, None means none."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """The picture with one caption; ``rng`` picks the caption, and its words where it is too long.

        Raises:
            IndexError: ``index`` is outside ``[0, len(self))``.
            UnknownWordError: the vocabulary was replaced by one that lacks a word of the caption.
        """
        self._check_index(index)
        captions = self.captions(index)
        caption = captions[int(rng.integers(len(captions)))]
        if self._told_of is not self.vocabulary and (lost := self.vocabulary.lost(caption)):
            self._told_of = self.vocabulary
            warnings.warn(
                f"the vocabulary's words are ASCII; {shown(lost[0])} and others lose letters or are left out",
                stacklevel=2,
            )
        ids = self.vocabulary.encode(caption, max_words=self.max_words, rng=rng)
        tokens = torch.zeros(self.max_words, dtype=torch.int64, device="cpu")
        tokens[: len(ids)] = torch.tensor(ids, device="cpu")
        return {
            "image": self.image(index, rng),
            "caption": caption,
            "tokens": tokens,
            "length": len(ids),
            "class_id": int(self.class_ids[index]),
            "key": self.key(index),
        }

    def digest(self) -> str:
        """SHA-256 of classes, keys, captions and at most 32 pictures: whether a run still sees the same data.

        Example:
            >>> from t2ilayers.data import CaptionedShapes
            >>> one, same, other = (
            ...     CaptionedShapes(9, 16, seed=seed).digest() for seed in (0, 0, 1)
            ... )
            >>> one == same, one == other
            (True, False)
        """
        digest = hashlib.sha256(self.class_ids.tobytes())
        for index in range(len(self)):
            digest.update(repr((self.key(index), self.captions(index))).encode("utf-8", "surrogatepass"))
        for index in spread(len(self), 32):
            digest.update(self.image(index, None).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Sample:
        self._check_index(index)
        return self.sample(index, np.random.default_rng((self.seed, index)))

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"an index must lie in [0, {len(self)}), got {index}")


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` indices in ``[0, count)``, evenly spread.

    Example:
        >>> spread(3, 9), spread(100, 5)
        ([0, 1, 2], [0, 24, 49, 74, 99])
    """
    return [n * (count - 1) // max(most - 1, 1) for n in range(most)] if count > most else list(range(count))


def check_image_size(image_size: int) -> None:
    """Raise ValueError for a picture side below 16, the smallest the generator makes.

    >>> check_image_size(64)
    """
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, got {image_size}")


def check_seed(seed: int) -> None:
    """Raise ValueError for a negative seed, which numpy's generators do not take.

    >>> check_seed(0)
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")

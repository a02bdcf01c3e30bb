"""Batches by step number: what a run sees at a step depends on the seed and the step alone."""

from __future__ import annotations

from bisect import bisect_right
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset
from typing_extensions import NotRequired, TypedDict

from .._files import shown
from .dataset import CaptionedDataset, Sample, check_seed


class Batch(TypedDict):
    """N samples, as ``collate`` puts them together.

    ``image (N, 3, S, S)``, ``tokens (N, T)`` with T the longest of ``lengths (N,)``, ``class_ids (N,)``, all
    three int64, ``captions`` and ``keys`` lists of N strings, and ``mask (N, 1, S, S)`` where the samples
    have one.

    Example:
        >>> from t2ilayers.data import CaptionedShapes
        >>> batch: Batch = BatchDataset(CaptionedShapes(4, image_size=32), 2, seed=0)[0]
        >>> sorted(batch)
        ['captions', 'class_ids', 'image', 'keys', 'lengths', 'mask', 'tokens']
    """

    image: Tensor
    tokens: Tensor
    lengths: Tensor
    class_ids: Tensor
    captions: list[str]
    keys: list[str]
    mask: NotRequired[Tensor]


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into a batch; tokens are cut to the longest caption among them.

    Example:
        >>> from t2ilayers.data import CaptionedShapes
        >>> shapes = CaptionedShapes(4, image_size=32)
        >>> batch = collate([shapes[0], shapes[1]])
        >>> (
        ...     batch["image"].shape,
        ...     batch["tokens"].shape[1] == int(batch["lengths"].max()),
        ... )
        (torch.Size([2, 3, 32, 32]), True)
    """
    lengths = torch.tensor([sample["length"] for sample in samples], device="cpu")
    batch: Batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "tokens": torch.stack([sample["tokens"] for sample in samples])[:, : int(lengths.max())].contiguous(),
        "lengths": lengths,
        "class_ids": torch.tensor([sample["class_id"] for sample in samples], device="cpu"),
        "captions": [sample["caption"] for sample in samples],
        "keys": [sample["key"] for sample in samples],
    }
    if "mask" in samples[0]:
        batch["mask"] = torch.stack([sample["mask"] for sample in samples])
    return batch


class BatchDataset(Dataset[Batch]):
    """Endless batches indexed by step: ``batches[step]`` is the batch of that step, for any step >= 0.

    Samples come from one stream: the permutation of epoch 0, then that of epoch 1, and so on, where the order
    of epoch ``e`` is ``default_rng((seed, e)).permutation(len(dataset))``. Step ``s`` takes the positions
    ``[s * B, (s + 1) * B)`` of the stream, ``B = batch_size``; so no sample is left out, no batch is short, and a
    batch may reach into the next epoch. Rank ``r`` of ``W`` gets the positions from ``r * B // W`` up to
    ``(r + 1) * B // W`` of a batch: shares differ by one sample at most. The randomness of a sample (its
    caption, its augmentation) comes from the seed and its position.

    Therefore the whole batch of a step does not depend on how many ranks share it, and a run resumed at a step
    is exactly the run that was not interrupted, with any number of workers::

        DataLoader(
            batches, batch_size=None, sampler=range(start, stop), num_workers=k
        )

    Args:
        dataset: where the samples come from. It may be torch's ``Subset`` or ``ConcatDataset`` of such datasets,
            which must have one vocabulary, ``image_size`` and ``max_words``; class ids are taken as they are.
        batch_size: B, the samples of a batch over all ranks, >= ``world_size``.
        seed: of the order and of the samples' randomness, >= 0.
        rank: this process, in ``[0, world_size)``.
        world_size: W, the number of processes that share a batch.

    Raises:
        ValueError: a number outside its range, an empty dataset, or parts of a dataset that differ.
        TypeError: a dataset of another kind.
        IndexError: (on indexing) a negative step.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from t2ilayers.data import CaptionedShapes
        >>> batches = BatchDataset(CaptionedShapes(100, image_size=32), 9, seed=0)
        >>> loader = DataLoader(batches, batch_size=None, sampler=range(40, 42))
        >>> [batch["image"].shape[0] for batch in loader]
        [9, 9]
        >>> first, second = (
        ...     BatchDataset(batches.dataset, 9, seed=0, rank=r, world_size=2)
        ...     for r in (0, 1)
        ... )
        >>> (
        ...     len(first[40]["keys"]),
        ...     first[40]["keys"] + second[40]["keys"] == batches[40]["keys"],
        ... )
        (4, True)
    """

    def __init__(
        self,
        dataset: CaptionedDataset | Subset[Sample] | ConcatDataset[Sample],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_seed(seed)
        parts = _parts(dataset)
        for name in ("vocabulary", "image_size", "max_words"):
            if any(getattr(part, name) != getattr(parts[0], name) for part in parts):
                raise ValueError(f"all parts of a dataset must have the same {name}, got several")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got rank {rank} of {world_size}")
        if batch_size < world_size:
            raise ValueError(
                f"batch_size must be at least world_size = {world_size}, a sample each, got {batch_size}"
            )
        if len(dataset) == 0:
            raise ValueError("batches must come from at least one sample, got an empty dataset")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> Batch:
        if step < 0:
            raise IndexError(f"a step must be at least 0, got {step}")
        first, ranks = step * self.batch_size, (self.rank, self.rank + 1)
        start, stop = (first + rank * self.batch_size // self.world_size for rank in ranks)
        return collate([self._sample(position) for position in range(start, stop)])

    def _sample(self, position: int) -> Sample:
        epoch, offset = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
            self._epoch = epoch
        # The 1 keeps this stream apart from that of the epoch with the same number.
        rng = np.random.default_rng((self.seed, position, 1))
        return _draw(self.dataset, int(self._order[offset]), rng)


def _parts(dataset: Dataset[Sample]) -> list[CaptionedDataset]:
    """The datasets that one is made of."""
    if isinstance(dataset, Subset):
        return _parts(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for one in dataset.datasets for part in _parts(one)]
    if isinstance(dataset, CaptionedDataset):
        return [dataset]
    raise TypeError(
        f"dataset must be a CaptionedDataset, or torch's Subset or ConcatDataset of such, got {shown(dataset)}"
    )


def _draw(dataset: Dataset[Sample], index: int, rng: np.random.Generator) -> Sample:
    """The sample at an index, with the randomness of ``rng``, which torch's own classes do not hand on."""
    if isinstance(dataset, Subset):
        return _draw(dataset.dataset, int(dataset.indices[index]), rng)
    if isinstance(dataset, ConcatDataset):
        part = bisect_right(dataset.cumulative_sizes, index)
        before = dataset.cumulative_sizes[part - 1] if part else 0
        return _draw(dataset.datasets[part], index - before, rng)
    return cast(CaptionedDataset, dataset).sample(index, rng)

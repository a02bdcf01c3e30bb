"""Batches by step number: what a run sees at a step depends on the seed and the step alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import NotRequired, TypedDict

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
        >>> batch["image"].shape, batch["tokens"].shape[1] == int(batch["lengths"].max())
        (torch.Size([2, 3, 32, 32]), True)
    """
    lengths = torch.tensor([sample["length"] for sample in samples])
    batch: Batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "tokens": torch.stack([sample["tokens"] for sample in samples])[:, : int(lengths.max())].contiguous(),
        "lengths": lengths,
        "class_ids": torch.tensor([sample["class_id"] for sample in samples]),
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

        DataLoader(batches, batch_size=None, sampler=range(start, stop), num_workers=k)

    Args:
        dataset: where the samples come from.
        batch_size: B, the samples of a batch over all ranks, >= ``world_size``.
        seed: of the order and of the samples' randomness, >= 0.
        rank: this process, in ``[0, world_size)``.
        world_size: W, the number of processes that share a batch.

    Raises:
        ValueError: a number outside its range, or an empty dataset.
        IndexError: (on indexing) a negative step.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from t2ilayers.data import CaptionedShapes
        >>> batches = BatchDataset(CaptionedShapes(100, image_size=32), 9, seed=0)
        >>> loader = DataLoader(batches, batch_size=None, sampler=range(40, 42))
        >>> [batch["image"].shape[0] for batch in loader]
        [9, 9]
        >>> first, second = (BatchDataset(batches.dataset, 9, seed=0, rank=r, world_size=2) for r in (0, 1))
        >>> len(first[40]["keys"]), first[40]["keys"] + second[40]["keys"] == batches[40]["keys"]
        (4, True)
    """

    def __init__(
        self, dataset: CaptionedDataset, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        check_seed(seed)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank lies in [0, world_size), got rank {rank} of {world_size}")
        if batch_size < world_size:
            raise ValueError(f"batch_size is at least world_size = {world_size}, a sample each, got {batch_size}")
        if len(dataset) == 0:
            raise ValueError("batches come from at least one sample, got an empty dataset")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __getitem__(self, step: int) -> Batch:
        if step < 0:
            raise IndexError(f"a step is at least 0, got {step}")
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
        return self.dataset.sample(int(self._order[offset]), rng)

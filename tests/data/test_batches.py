"""Batches by step: exact resumption, any number of workers, any number of ranks."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from t2ilayers.data import BatchDataset, CaptionedDataset, CaptionedShapes
from t2ilayers.vocabulary import Vocabulary


class Noise(CaptionedDataset):
    """Pictures that use their rng, so that a wrong seed shows, and no masks."""

    def __init__(self, length: int) -> None:
        words = ["one", "one two", "one two three"]
        super().__init__(
            image_size=16, vocabulary=Vocabulary.build(words), seed=0, class_ids=np.arange(length) // 2
        )
        self.words = tuple(words)

    def captions(self, index):
        return self.words

    def key(self, index):
        return str(index)

    def image(self, index, rng):
        return torch.from_numpy(rng.random((3, 16, 16), dtype=np.float32))


def same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        equal = torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        assert equal, key


@pytest.fixture(scope="module")
def batches() -> BatchDataset:
    return BatchDataset(Noise(11), 4, seed=3)


def test_a_batch_is_collated(batches):
    batch = batches[0]
    assert batch["image"].shape == (4, 3, 16, 16)
    assert batch["tokens"].shape == (4, int(batch["lengths"].max()))
    assert batch["tokens"].dtype == batch["lengths"].dtype == batch["class_ids"].dtype == torch.int64
    assert batch["class_ids"].tolist() == [int(key) // 2 for key in batch["keys"]]
    for row, caption, length in zip(batch["tokens"].tolist(), batch["captions"], batch["lengths"], strict=True):
        assert batches.dataset.vocabulary.decode(row) == caption
        assert len(caption.split()) == length
    assert "mask" not in batch
    assert BatchDataset(CaptionedShapes(5, 16), 2, seed=0)[0]["mask"].shape == (2, 1, 16, 16)


def test_every_epoch_is_a_permutation_and_no_batch_is_short(batches):
    keys = [key for step in range(11) for key in batches[step]["keys"]]  # 44 = 4 epochs of 11
    epochs = [keys[n : n + 11] for n in range(0, 44, 11)]
    assert all(sorted(map(int, epoch)) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    expected = np.random.default_rng((3, 1)).permutation(11)
    assert epochs[1] == [str(n) for n in expected]


def test_a_step_does_not_depend_on_the_steps_before(batches):
    fresh = BatchDataset(Noise(11), 4, seed=3)
    for step in (1000, 2, 7, 2):
        same(fresh[step], batches[step])


def test_a_sample_is_drawn_anew_in_each_epoch(batches):
    seen = {}
    for step in range(11):
        batch = batches[step]
        for key, image in zip(batch["keys"], batch["image"], strict=True):
            seen.setdefault(key, []).append(image)
    for images in seen.values():
        assert not any(torch.equal(images[0], other) for other in images[1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_a_step_is_exact_with_any_number_of_workers(batches, workers):
    loader = DataLoader(batches, batch_size=None, sampler=range(5, 9), num_workers=workers)
    assert len(loader) == 4
    for step, batch in zip(range(5, 9), loader, strict=True):
        same(batch, batches[step])


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_the_same_batch_as_evenly_as_it_goes(world_size):
    whole = BatchDataset(Noise(11), 8, seed=3)
    ranks = [BatchDataset(Noise(11), 8, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 6):
        parts = [rank[step] for rank in ranks]
        assert {len(part["keys"]) for part in parts} <= {8 // world_size, -(-8 // world_size)}
        assert torch.equal(torch.cat([part["image"] for part in parts]), whole[step]["image"])
        for name in ("keys", "captions"):
            assert [item for part in parts for item in part[name]] == whole[step][name]


def test_seeds_differ_and_a_batch_may_be_larger_than_the_dataset(batches):
    other = BatchDataset(Noise(11), 4, seed=4)
    assert [other[n]["keys"] for n in range(3)] != [batches[n]["keys"] for n in range(3)]
    large = BatchDataset(Noise(3), 7, seed=0)[0]
    assert sorted(large["keys"][:3]) == sorted(large["keys"][3:6]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least world_size = 1"),
        ({"batch_size": 2, "world_size": 3}, "a sample each, got 2"),
        ({"batch_size": 2, "seed": -1}, "seed must be at least 0"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 2, "rank": -1}, "rank -1 of 1"),
        ({"batch_size": 2, "dataset": Noise(0)}, "empty dataset"),
    ],
)
def test_wrong_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        BatchDataset(**{"dataset": Noise(4), "seed": 0, **options})


def test_a_step_before_the_first_is_an_index_error(batches):
    with pytest.raises(IndexError, match="got -1"):
        batches[-1]


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3)])
def test_subsets_and_concatenations_give_the_samples_of_their_parts(seed):
    whole, other = Noise(11), Noise(4)
    chosen = [7, 1, 9, 4]
    keys = {
        Subset(whole, chosen): [str(n) for n in chosen],
        Subset(whole, np.array(chosen)): [str(n) for n in chosen],
        ConcatDataset([other, Subset(whole, chosen)]): [*map(str, range(4)), *map(str, chosen)],
        Subset(ConcatDataset([whole, other]), [0, 10, 11, 14]): ["0", "10", "0", "3"],
        random_split(whole, [11], torch.Generator().manual_seed(0))[0]: [str(n) for n in range(11)],
    }
    for dataset, expected in keys.items():
        batches = BatchDataset(dataset, len(expected), seed=seed)
        assert sorted(batches[0]["keys"]) == sorted(expected)
        order = np.random.default_rng((3, 0)).permutation(len(expected))
        assert batches[0]["keys"] == [key for n in order for key in [str(dataset[int(n)]["key"])]]
        # The sample's randomness is that of its position, as for a dataset that is whole.
        rng = np.random.default_rng((3, 0, 1))
        assert batches[0]["captions"][0] == whole.words[int(rng.integers(3))]


def test_parts_that_differ_are_refused():
    shapes, smaller, long = CaptionedShapes(5, 32), CaptionedShapes(5, 16), CaptionedShapes(5, 32)
    long.max_words = 20
    for parts, name in (
        ([shapes, smaller], "image_size"),
        ([shapes, long], "max_words"),
        ([shapes, Noise(3)], "voc"),
    ):
        with pytest.raises(ValueError, match=f"must have the same {name}"):
            BatchDataset(ConcatDataset(parts), 2, seed=0)
    for wrong in ([1, 2], Subset(torch.utils.data.TensorDataset(torch.zeros(3)), [0])):
        with pytest.raises(TypeError, match="dataset must be a CaptionedDataset, or torch's Subset"):
            BatchDataset(wrong, 2, seed=0)

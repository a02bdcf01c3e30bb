"""Several processes reach what one reaches on the same batches."""

import copy

import pytest
import torch
import torch.distributed as dist

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import CaptionedShapes, collate
from t2ilayers.layers import FusedSequential, SemanticAffineBN
from t2ilayers.training import EncoderStep, Processes, SSAGANStep, StepConfig, synchronize_statistics

from ranks import run_together

DATA = CaptionedShapes(64, image_size=32)
SHARES = ((4, 4), (1, 6), (3, 2))  # samples of each process, step by step
RUNS = {
    "joint": {"text_encoder": "joint", "penalty": "joint"},
    "frozen": {"text_encoder": "frozen", "penalty": "two-step"},
    "contrast": {
        "contrast_weight": 1.0,
        "contrast_queue": 10,
        "penalty_weight": 1e-3,
        "diff_augment": "color,translation,cutout",
    },
}


def batch(step, rank=None):
    """Samples of one process, or of all."""
    first = 10 * step + sum(SHARES[step][:rank] if rank is not None else ())
    count = sum(SHARES[step]) if rank is None else SHARES[step][rank]
    joined = collate([DATA[i] for i in range(first, first + count)])
    return joined | {"image": joined["image"].double()}


def train(processes, rank, changes):
    """Weights, average and losses of some steps. Plain gradient descent shows what Adam's division would hide, and
    float64 what rounding would: batch norms of a few pictures amplify it."""
    torch.set_default_dtype(torch.float64)
    try:
        return _train(processes, rank, changes)
    finally:
        torch.set_default_dtype(torch.float32)


def _train(processes, rank, changes):
    torch.manual_seed(0)
    config = SSAGANConfig(
        32,
        ngf=2,
        ndf=2,
        mask_channels=4,
        vocab_size=len(DATA.vocabulary),
        image_encoder="conv",
        projection="contrast_weight" in changes,
    )
    model = SSAGAN(config, DATA.vocabulary)
    with torch.no_grad():  # in a new model the residuals are off
        for block in (*model.generator.blocks, *model.discriminator.blocks):
            block.gamma.fill_(0.5)
    start = copy.deepcopy(model.state_dict())
    pretraining = EncoderStep(model.encoders, lr=1.0, processes=processes)
    training = SSAGANStep(model, StepConfig(**{"ema": 0.5, "penalty_weight": 50.0} | changes), processes=processes)
    pretraining.optimizer = torch.optim.SGD(pretraining.parameters, lr=0.1)
    training.encoder_step.optimizer = torch.optim.SGD(pretraining.parameters, lr=0.1)
    training.g_optimizer = torch.optim.SGD(model.generator.parameters(), lr=0.02)
    training.d_optimizer = torch.optim.SGD(model.discriminator.parameters(), lr=0.02)
    losses = []
    for step in range(len(SHARES)):
        torch.manual_seed(step)
        joined = processes.join(batch(step, rank))
        losses += [pretraining(joined), training(joined, step)]
    return {
        "start": start,
        "model": copy.deepcopy(model.state_dict()),
        "ema": training.ema.module.state_dict(),
        "losses": losses,
    }


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    processes = Processes(dist.group.WORLD)
    results = {name: train(processes, rank, changes) for name, changes in RUNS.items()}
    empty = batch(0, rank)
    if rank == 1:
        for name in ("image", "tokens", "lengths", "class_ids"):
            empty[name] = empty[name][:0]
    try:
        processes.join(empty)
    except ValueError as error:
        results["empty"] = str(error)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_together(one_of_two, folder, count=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_any_shares_equal_one(two, name):
    one = train(Processes(), None, RUNS[name])
    for rank in two:
        for part in ("model", "ema", "losses"):
            torch.testing.assert_close(rank[name][part], one[part], rtol=1e-8, atol=1e-9)
    moved = {key: (value - one["start"][key]).abs().max() for key, value in one["model"].items()}
    for part in ("generator", "discriminator", "text_encoder", "image_encoder"):
        assert max(distance for key, distance in moved.items() if key.startswith(part)) > 1e-3


def test_processes_stay_bit_identical(two):
    for name in RUNS:
        first, second = (rank[name]["model"] for rank in two)
        assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []


def test_a_process_without_a_sample_is_an_error_in_all_of_them(two):
    for rank in two:
        assert rank["empty"] == "every process needs a sample, got [4, 0] of them; take a larger batch"


def test_synchronizing_reaches_every_norm_of_the_generator():
    generator = SSAGAN(SSAGANConfig(32, ngf=2, ndf=2, mask_channels=4)).generator
    group = object()
    synchronize_statistics(generator, group)
    norms = [part for part in generator.modules() if isinstance(part, SemanticAffineBN | FusedSequential)]
    assert len(norms) == sum(key.endswith("running_mean") for key in generator.state_dict()) == 3 * 4 + 1
    assert all(norm.process_group is group for norm in norms)

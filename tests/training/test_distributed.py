"""Several processes reach what one reaches on the same batches."""

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import CaptionedShapes, collate
from t2ilayers.layers import FusedSequential, SemanticAffineBN
from t2ilayers.training import (
    EncoderStep,
    Processes,
    SSAGANStep,
    StepConfig,
    latest_checkpoint,
    load_checkpoint,
    synchronize_statistics,
)

from training_script import command, run_script

ROOT = Path(__file__).parents[2]
DATA = CaptionedShapes(64, image_size=32)
SHARES = ((4, 4), (1, 6), (3, 2))  # samples of each process, step by step
RUNS = {
    "joint": {"text_encoder": "joint", "penalty": "joint"},
    "frozen": {"text_encoder": "frozen", "penalty": "two-step"},
}


def batch(step, rank=None):
    """Samples of one process, or of all."""
    first = 10 * step + sum(SHARES[step][:rank] if rank is not None else ())
    count = sum(SHARES[step]) if rank is None else SHARES[step][rank]
    return collate([DATA[i] for i in range(first, first + count)])


def train(processes, rank, changes):
    """Weights, average and losses of some steps. Plain gradient descent shows what Adam's division would hide."""
    torch.manual_seed(0)
    config = SSAGANConfig(32, ngf=2, ndf=2, mask_channels=4, vocab_size=len(DATA.vocabulary), image_encoder="conv")
    model = SSAGAN(config, DATA.vocabulary)
    with torch.no_grad():  # in a new model the residuals are off
        for block in (*model.generator.blocks, *model.discriminator.blocks):
            block.gamma.fill_(0.5)
    start = copy.deepcopy(model.state_dict())
    pretraining = EncoderStep(model.encoders, lr=1.0, processes=processes)
    training = SSAGANStep(model, StepConfig(**changes, ema=0.5, penalty_weight=50.0), processes=processes)
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
    mp.spawn(one_of_two, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_any_shares_equal_one(two, name):
    one = train(Processes(), None, RUNS[name])
    for rank in two:
        for part in ("model", "ema", "losses"):
            torch.testing.assert_close(rank[name][part], one[part], rtol=1e-3, atol=2e-5)
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


def test_torchrun_writes_once_and_what_one_process_writes(tmp_path):
    # In bfloat16 two processes round a batch differently from one, by as much as it moves in a step.
    flags = ["--batch-size", "5", "--damsm-steps", "1", "--steps", "2", "--precision", "fp32"]
    result = run_script(tmp_path / "one", *flags)
    assert result.returncode == 0, result.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run([*launcher, *command(tmp_path / "two", *flags)[1:]], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, two = (load_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("one", "two"))
    for part in ("model", "ema"):
        torch.testing.assert_close(two[part], one[part], rtol=0, atol=2e-3)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["step"]) for row in rows] == [("damsm", 0), ("gan", 0), ("gan", 1)]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("training_config")


@pytest.mark.parametrize(("name", "words"), [("cub", 5450), ("coco", 27297)])
def test_a_published_configuration_makes_the_published_model(script, name, words):
    flags = ["--config", str(ROOT / "configs" / f"{name}.py"), "--data", "cub:elsewhere", "--penalty", "joint"]
    config = script.read_config(flags, None)
    config.check()
    assert (config.data, config.step.penalty, config.step.penalty_power) == ("cub:elsewhere", "joint", 6.0)
    assert (config.batch_size, config.step.lr_generator, config.step.lr_discriminator) == (24, 1e-4, 4e-4)
    with torch.device("meta"):
        model = SSAGAN(config.model(words))
    assert sum(p.numel() for p in model.generator.parameters()) == 29_494_273
    assert sum(p.numel() for p in model.discriminator.parameters()) == 80_379_526 - 2_099_200
    assert model.text_encoder.embedding.weight.shape == (words, 300)


def test_a_file_that_is_no_configuration_is_refused(script, tmp_path):
    (tmp_path / "mine.py").write_text("steps = 3\n")
    with pytest.raises(ValueError, match=r"mine\.py must define config = Config"):
        script.read_config(["--config", str(tmp_path / "mine.py")], None)

"""The step, the average and the allocator."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.encoders import TextFeatures
from t2ilayers.losses import mismatched_pairs
from t2ilayers.training import (
    EMA,
    SSAGANStep,
    StepConfig,
    fastest_precision,
    keep_large_blocks,
)

DATA = CaptionedShapes(64, image_size=32)
BATCH = BatchDataset(DATA, 8, seed=0)[0]


def make_step(**changes):
    torch.manual_seed(0)
    config = SSAGANConfig(32, ngf=2, ndf=2, mask_channels=4, vocab_size=len(DATA.vocabulary), image_encoder="conv")
    return SSAGANStep(SSAGAN(config, DATA.vocabulary), StepConfig(**changes))


def moved(module, before):
    return any(not torch.equal(before[key], value) for key, value in module.state_dict().items())


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_the_text_encoder_learns_in_joint_mode_only(mode):
    step = make_step(text_encoder=mode)
    parts = (
        step.model.text_encoder,
        step.model.image_encoder,
        step.model.generator,
        step.model.discriminator,
    )
    before = [snapshot(part) for part in parts]
    step(BATCH, 0)
    assert [moved(part, b) for part, b in zip(parts, before, strict=True)] == [mode == "joint"] * 2 + [True] * 2


def test_the_joint_penalty_is_part_of_the_one_step_and_the_two_step_penalty_its_own():
    """With plain gradient descent the joint form moves by the sum of both gradients at the same weights."""
    moves = {}
    for penalty in ("joint", "two-step"):
        step = make_step(penalty=penalty, text_encoder="frozen", penalty_weight=50.0)
        with torch.no_grad():  # a new discriminator's residuals are off
            for block in step.model.discriminator.blocks:
                block.gamma.fill_(0.5)
        step.d_optimizer = torch.optim.SGD(step.model.discriminator.parameters(), lr=1e-2)
        before = snapshot(step.model.discriminator)
        sentence = torch.randn(8, 256, generator=torch.Generator().manual_seed(1))
        losses = step._discriminator(BATCH, sentence, torch.zeros(8, 3, 32, 32), 0)
        moves[penalty] = torch.cat(
            [(v - before[k]).flatten() for k, v in step.model.discriminator.state_dict().items()]
        )
        assert losses["penalty/matching_aware"] > 0
    difference = (moves["joint"] - moves["two-step"]).norm() / moves["joint"].norm()
    assert 0 < difference < 0.1  # the same to first order in the rate, and not the same


def test_a_lazy_penalty_comes_every_so_often():
    step = make_step(penalty_every=3)
    assert ["penalty/matching_aware" in step(BATCH, i) for i in range(5)] == [True, False, False, True, False]


def test_generator_steps_leave_no_gradient_in_the_judges():
    step = make_step()
    step(BATCH, 0)
    assert all(p.requires_grad for p in step.model.discriminator.parameters())
    assert all(p.requires_grad for p in step.model.image_encoder.parameters())
    step.d_optimizer.zero_grad()
    step.encoder_step.optimizer.zero_grad()
    text = TextFeatures(torch.randn(8, 256, int(BATCH["lengths"].max())), torch.randn(8, 256))
    fake = step.model.generator(torch.randn(8, 100), text.sentence).images
    step._generator(BATCH, text, text.sentence, fake, fake)
    assert all(p.grad is None for p in step.model.discriminator.parameters())
    assert all(p.grad is None for p in step.model.image_encoder.parameters())


def test_a_batch_of_one_class_trains_without_mismatched_pairs():
    batch = BATCH | {"class_ids": torch.zeros(8, dtype=torch.int64)}
    assert len(mismatched_pairs(batch["class_ids"])[0]) == 0
    losses = make_step()(batch, 0)
    assert losses["discriminator/mismatched"] == 0
    assert all(torch.isfinite(value) for value in losses.values())


def test_bf16_keeps_parameters_and_penalty_in_float32():
    step = make_step(precision="bf16")
    losses = step(BATCH, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["penalty/matching_aware"].dtype == torch.float32
    assert {p.dtype for p in step.model.parameters()} == {torch.float32}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux about its CPU")
def test_a_cpu_is_taken_to_be_faster_in_bf16_where_linux_sees_its_matrix_unit():
    flags = re.search(r"^(?:flags|Features)\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split()
    assert fastest_precision(torch.device("cpu")) == ("bf16" if "amx_bf16" in flags else "fp32")


def test_ema_is_the_recursion_with_its_warm_up():
    module = torch.nn.BatchNorm1d(2)
    ema = EMA(module, decay=0.9)
    expected = {"weight": torch.ones(2), "running_mean": torch.zeros(2)}
    for step in range(120):
        with torch.no_grad():
            module.weight.fill_(float(step))
            module.running_mean.fill_(-float(step))
        ema.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {
            "weight": decay * expected["weight"] + (1 - decay) * step,
            "running_mean": decay * expected["running_mean"] - (1 - decay) * step,
        }
    for key, value in expected.items():
        torch.testing.assert_close(ema.module.state_dict()[key], value)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        EMA(module, decay=1.0)


@pytest.mark.parametrize(
    "setting",
    [{"penalty": "two_step"}, {"text_encoder": "fixed"}, {"precision": "fp16"}, {"penalty_power": 1.0},
     {"penalty_every": 0}, {"lr_generator": 0.0}, {"damsm_weight": -1.0}, {"ema": 1.0}],
    ids=str,
)  # fmt: skip
def test_a_setting_that_does_not_exist_is_refused_at_once(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
        StepConfig(**setting)


def test_continuing_takes_the_learning_rates_of_the_config():
    state = make_step().state_dict()
    step = make_step(lr_generator=3e-5, lr_discriminator=2e-5, lr_encoders=1e-5)
    step.load_state_dict(state)
    optimizers = (step.g_optimizer, step.d_optimizer, step.encoder_step.optimizer)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [3e-5, 2e-5, 1e-5]


def test_the_allocator_takes_the_advice_where_it_is_glibc():
    assert keep_large_blocks() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="advice to glibc")
def test_a_block_of_any_size_is_kept_once_it_was_touched():
    code = """
import resource
import torch
from t2ilayers.training import keep_large_blocks
keep_large_blocks()
def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(mib << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(321), faults(320))  # with room for alignment, should a neighbour be in use by then
"""
    first, second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert int(second) < 100 < int(first)

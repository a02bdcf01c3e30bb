"""On a CUDA device: agreement with the CPU, and the training step. Skipped where there is none."""

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.ops import masked_affine_norm
from t2ilayers.training import SSAGANStep, StepConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("stats", ["batch", "instance", "group"])
@pytest.mark.parametrize("upsample", [1, 2])
def test_the_op_agrees_with_the_cpu_in_float64(stats, upsample):
    random = torch.Generator().manual_seed(0)
    shapes = ((3, 8, 5, 6), (3, 8), (3, 8), (3, 1, 5 * upsample, 6 * upsample))
    tensors = [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes]
    results = []
    for device in ("cpu", "cuda"):
        own = [t.to(device).requires_grad_() for t in tensors]
        groups = 2 if stats == "group" else None
        y = masked_affine_norm(*own, stats=stats, groups=groups, upsample=upsample, activation="leaky_relu")
        grads = torch.autograd.grad(y.square().sum(), own)
        results.append([t.cpu() for t in (y, *grads)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_iteration_runs_on_the_device(precision):
    data = CaptionedShapes(64, image_size=32)
    config = SSAGANConfig(32, ngf=4, ndf=4, vocab_size=len(data.vocabulary), image_encoder="conv")
    step = SSAGANStep(SSAGAN(config, data.vocabulary).cuda(), StepConfig(precision=precision))
    batch = BatchDataset(data, 8, seed=0)[0]
    for name in ("image", "tokens", "class_ids"):
        batch[name] = batch[name].cuda()
    before = step.model.generator.fc.weight.clone()
    losses = step(batch, 0)
    assert all(value.is_cuda and torch.isfinite(value) for value in losses.values())
    assert not torch.equal(before, step.model.generator.fc.weight)

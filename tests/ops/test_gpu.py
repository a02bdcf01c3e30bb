"""On a CUDA device: agreement with the CPU, and the training step. Skipped where there is none."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from formula import TOLERANCE, norm, worst
from test_native_op import SHAPES, problem, run

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.ops import affine_chain, masked_affine_norm
from t2ilayers.training import SSAGANStep, StepConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("stats", ["batch", "instance", "group"])
@pytest.mark.parametrize("upsample", [1, 2])
def test_the_reference_agrees_with_the_cpu_in_float64(stats, upsample):
    random = torch.Generator().manual_seed(0)
    shapes = ((3, 8, 5, 6), (3, 8), (3, 8), (3, 1, 5 * upsample, 6 * upsample))
    tensors = [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes]
    results = []
    options = dict(stats=stats, groups=2 if stats == "group" else None, upsample=upsample, impl="reference")
    for device in ("cpu", "cuda"):
        own = [t.to(device).requires_grad_() for t in tensors]
        y = masked_affine_norm(*own, activation="leaky_relu", **options)
        grads = torch.autograd.grad(y.square().sum(), own)
        results.append([t.cpu() for t in (y, *grads)])
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda, cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 130, 40, 40), (24, 64, 128, 128)], ids=str)
def test_native_values_and_gradients_agree_with_float64(shape, last, dtype):
    """The truth is the reference on the device, which the test above holds against the CPU's."""
    for upsample in (1, 2):
        drawn, *inputs = (t.cuda() for t in problem(*shape, upsample=upsample, dtype=dtype, last=last))
        exact = [t.double() for t in inputs]
        for stats, slope in itertools.product(("batch", "instance", "group"), (0.0, 0.2, 1.0)):
            options = dict(stats=stats, groups=1 if stats == "group" else None, upsample=upsample)
            with torch.no_grad():  # where z is all but 0 rounding decides on its sign: no gradient there
                z = masked_affine_norm(*exact, impl="reference", **options)
            dy = drawn.masked_fill(z.abs() < 1e-5, 0)
            options |= dict(activation="leaky_relu", negative_slope=slope)
            truth = values_and_gradients(dy.double(), exact, impl="reference", **options)
            results = values_and_gradients(dy, inputs, impl="native", **options)
            errors = [float((r.double() - t).norm() / t.norm()) for r, t in zip(results, truth, strict=True)]
            assert max(errors) < TOLERANCE[dtype], (upsample, stats, slope, errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("form", ["masked", "own dtypes", "maps", "chain"])
@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (4, 130, 16, 16)], ids=str)
def test_every_form_agrees_with_float64(shape, form, last, dtype):
    pairs = 2, *shape[:2]
    for upsample, activation in itertools.product((1, 2), ("none", "relu", "leaky_relu", "silu")):
        dy, x, gamma, beta, mask = problem(*shape, upsample=upsample, dtype=dtype, last=last)
        inputs = [x, gamma, beta, mask]
        if form == "own dtypes":
            inputs[1:] = gamma.half(), beta.bfloat16(), mask.to(dtype)
        elif form == "maps":
            inputs[1:] = (torch.randn(dy.shape).to(dtype).contiguous(memory_format=layout(last)) for _ in range(2))
        elif form == "chain":
            inputs[1:] = torch.randn(pairs), torch.randn(pairs)
        calls = [dict(stats=s, scale=a) for s in ("batch", "none") for a in ("residual", "absolute")]
        for options in [{}] if form == "chain" else calls:
            options |= dict(activation=activation, upsample=upsample)
            function = chain if form == "chain" else masked_affine_norm
            dy_there, *there = (t.cuda() for t in (dy, *inputs))
            exact = [t.double() for t in there]
            truth = values_and_gradients(dy_there.double(), exact, function, impl="reference", **options)
            results = values_and_gradients(dy_there, there, function, impl="native", **options)
            errors = [float((r.double() - t).norm() / t.norm()) for r, t in zip(results, truth, strict=True)]
            assert max(errors) < max(TOLERANCE[dtype], TOLERANCE[there[1].dtype]), (options, errors)


def chain(x, gammas, betas, **options):
    return affine_chain(x, gammas.unbind(), betas.unbind(), **options)


def layout(last):
    return torch.channels_last if last else torch.contiguous_format


def values_and_gradients(dy, inputs, function=masked_affine_norm, **options):
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def test_running_statistics_are_those_of_the_reference():
    _, x, gamma, beta, mask = (t.cuda() for t in problem(4, 24, 9, 7, dtype=torch.float32))
    for upsample, dtype in itertools.product((1, 2), (torch.float32, torch.float64, torch.bfloat16)):
        pairs = []
        for impl in ("native", "reference"):
            running = torch.zeros(24, device="cuda", dtype=dtype), torch.ones(24, device="cuda", dtype=dtype)
            options = dict(running_mean=running[0], running_var=running[1], upsample=upsample, impl=impl)
            masked_affine_norm(x, gamma, beta, F.interpolate(mask, scale_factor=upsample), **options)
            pairs.append(running)
        for native, reference in zip(*pairs, strict=True):
            torch.testing.assert_close(native, reference)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("upsample", [1, 2])
def test_native_results_repeat_bit_by_bit_and_survive_a_large_mean(upsample, last):
    tensors = problem(8, 96, 32, 32, upsample=upsample, dtype=torch.float32, last=last, mean=1e4)
    options = dict(groups=0, slope=0.2, upsample=upsample)
    first, *others = (run(*(t.cuda() for t in tensors), **options) for _ in range(4))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert worst([t.cpu() for t in first], norm(*tensors, **options)) < 1e-4


def test_native_work_is_captured_in_a_cuda_graph_on_any_stream():
    dy, x, gamma, beta, mask = (t.cuda() for t in problem(4, 64, 32, 32, dtype=torch.bfloat16, last=True))
    inputs = [t.requires_grad_() for t in (x, gamma, beta, mask)]

    def both():
        y = masked_affine_norm(*inputs, activation="relu", impl="native")
        return y, *torch.autograd.grad(y, inputs, dy)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        both()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    with torch.no_grad():
        x.normal_()
    graph.replay()
    for a, b in zip(captured, both(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, torch says
def test_native_work_waits_for_no_result():
    _, x, gamma, beta, mask = (t.cuda() for t in problem(2, 8, 8, 8, dtype=torch.float32))
    masked_affine_norm(x, gamma, beta, mask, impl="native")
    torch.cuda.set_sync_debug_mode("error")
    try:
        x.requires_grad_()
        masked_affine_norm(x, gamma, beta, mask, impl="native").sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float64_is_left_to_the_reference():
    _, x, gamma, beta, mask = (t.cuda() for t in problem(2, 8, 8, 8))
    with pytest.raises(RuntimeError, match="take no float64"):
        masked_affine_norm(x, gamma, beta, mask, impl="native")


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


def test_the_scripts_train_measure_and_draw_on_the_device(tmp_path):
    """Their own lines mix what devices and processes give; a step alone does not show it."""
    pytest.importorskip("tyro")  # which the sources alone do not bring
    from t2ilayers.cli.main import main

    small = ["--data", "shapes", "--image-size", "32"]
    steps = ["--steps", "12", "--batch-size", "8"]  # more than the ten that a line of the log takes
    encoders, run = tmp_path / "encoders", tmp_path / "run"
    assert main(["pretrain", *small, *steps, "--measure-every", "5", "--out", str(encoders)]) == 0
    encoders /= "encoders"
    frozen = ["--text-encoder", "frozen", "--contrast-weight", "1", "--no-words"]
    for flags in (["--text-encoder", "joint"], frozen):
        out = run / flags[1]
        main_flags = [*small, *steps, "--ngf", "4", "--ndf", "4", "--encoders", str(encoders), *flags]
        assert main(["train", *main_flags, "--sample-every", "6", "--out", str(out)]) == 0
        results = out / "evaluation.json"
        measure = [str(out / "model"), "--data", "shapes", "--samples", "128", "--classifier-steps", "5"]
        assert main(["evaluate", *measure, "--out", str(results)]) == 0
        assert json.loads(results.read_text())["r_precision"]["generated"]["mean"] >= 0
        assert main(["generate", str(out / "model"), "a red star", "--out", str(out / "star.png")]) == 0

"""The step, the average, checkpoints and the training script as a user runs it."""

import json
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
    MetricsLog,
    NonFiniteLossError,
    SSAGANStep,
    StepConfig,
    fastest_precision,
    keep_large_blocks,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

from training_script import run_script

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
        assert losses["d_penalty"] > 0
    difference = (moves["joint"] - moves["two-step"]).norm() / moves["joint"].norm()
    assert 0 < difference < 0.1  # the same to first order in the rate, and not the same


def test_a_lazy_penalty_comes_every_so_often():
    step = make_step(penalty_every=3)
    assert ["d_penalty" in step(BATCH, i) for i in range(5)] == [True, False, False, True, False]


def test_generator_steps_leave_no_gradient_in_the_judges():
    step = make_step()
    step(BATCH, 0)
    assert all(p.requires_grad for p in step.model.discriminator.parameters())
    assert all(p.requires_grad for p in step.model.image_encoder.parameters())
    step.d_optimizer.zero_grad()
    step.encoder_step.optimizer.zero_grad()
    text = TextFeatures(torch.randn(8, 256, int(BATCH["lengths"].max())), torch.randn(8, 256))
    fake = step.model.generator(torch.randn(8, 100), text.sentence).images
    step._generator(BATCH, text, text.sentence, fake)
    assert all(p.grad is None for p in step.model.discriminator.parameters())
    assert all(p.grad is None for p in step.model.image_encoder.parameters())


def test_a_batch_of_one_class_trains_without_mismatched_pairs():
    batch = BATCH | {"class_ids": torch.zeros(8, dtype=torch.int64)}
    assert len(mismatched_pairs(batch["class_ids"])[0]) == 0
    losses = make_step()(batch, 0)
    assert losses["d_mismatched"] == 0
    assert all(torch.isfinite(value) for value in losses.values())


def test_bf16_keeps_parameters_and_penalty_in_float32():
    step = make_step(precision="bf16")
    losses = step(BATCH, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["d_penalty"].dtype == torch.float32
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


class Bar:
    def set_postfix(self, ordered_dict):
        self.shown = ordered_dict


def write_log(folder, phase, start, stop):
    log, bar = MetricsLog(folder, every=2), Bar()
    log.start(phase, start)
    for step in range(start, stop):
        log.add(phase, step, {"d_real": torch.tensor(float(step))}, bar)
    log.close()
    return bar


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_log_continues_where_the_checkpoint_was_and_survives_a_torn_line(tmp_path):
    write_log(tmp_path, "damsm", 0, 4)
    bar = write_log(tmp_path, "gan", 0, 8)
    assert bar.shown == {"d_real": "6.50"}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "gan", "ste')  # killed in writing
    write_log(tmp_path, "gan", 4, 6)
    found = [(row["phase"], row["step"], row["d_real"]) for row in rows(tmp_path)]
    assert found == [("damsm", 1, 0.5), ("damsm", 3, 2.5), ("gan", 1, 0.5), ("gan", 3, 2.5), ("gan", 5, 4.5)]


def test_a_damaged_line_within_the_log_is_named(tmp_path):
    write_log(tmp_path, "gan", 0, 4)
    (tmp_path / "metrics.jsonl").write_text("{]\n" + (tmp_path / "metrics.jsonl").read_text())
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 1 is no JSON"):
        write_log(tmp_path, "gan", 2, 4)


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path):
    log = MetricsLog(tmp_path, every=3)
    log.start("gan", 0)
    for step, value in enumerate((1.0, float("inf"))):
        log.add("gan", step, {"d_real": torch.tensor(0.0), "d_fake": torch.tensor(value)}, Bar())
    with pytest.raises(NonFiniteLossError, match="d_fake is inf at gan step 1"):
        log.flush("gan", Bar())
    log.close()
    assert rows(tmp_path) == []


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
print(faults(1281), faults(1280))  # with room for alignment, should a neighbour be in use by then
"""
    first, second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert int(second) < 100 < int(first)


def test_old_checkpoints_go_and_torn_ones_are_named(tmp_path):
    for step in (5, 40, 300):
        path = save_checkpoint(tmp_path, step, {})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step_00000040.pt", "step_00000300.pt"]
    assert save_checkpoint(tmp_path, 7, {}).exists()  # what was just written stays, whatever its number
    (tmp_path / "step_00000007.pt").unlink()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"step_00000300\.pt is no readable checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        latest_checkpoint(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    result = run_script(out)
    assert result.returncode == 0, result.stderr
    return out


def test_the_script_writes_what_it_says(whole_run):
    lines = rows(whole_run)
    steps = [("damsm", i) for i in range(3)] + [("gan", i) for i in range(6)]
    assert [(row["phase"], row["step"]) for row in lines] == steps
    assert {"d_real", "g_damsm", "words_i2t", "steps_per_second"} <= lines[-1].keys()
    samples = sorted(p.name for p in (whole_run / "samples").iterdir())
    assert samples == [f"{kind}_{step:08d}.png" for kind in ("masks", "step") for step in (4, 6)]
    assert (whole_run / "losses.png").stat().st_size > 1000
    assert list((whole_run / "tensorboard").iterdir())
    model = SSAGAN.from_pretrained(whole_run / "model")
    assert model.generate(["a red circle"], seed=0).images.shape == (1, 3, 32, 32)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    result = run_script(tmp_path, "--lr-discriminator", "1e20")
    assert result.returncode == 1
    assert re.search(r"[dg]_[a-z]+ is (nan|inf|-inf) at gan step \d; training stopped", result.stderr)
    state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    assert all(torch.isfinite(v).all() for v in state["model"].values() if v.is_floating_point())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "no/such/folder"), "no/such/folder"),
        (("--image-size", "48"), "image_size"),
        (("--resume",), "no checkpoint in"),
        (("--ema", "1.5"), "ema must be in [0, 1)"),
        (("--sample-every", "0"), "--sample-every must be at least 1, got 0"),
        (("--image-encoder", "inception"), "needs --image-encoder-weights or --encoders"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, flags, message):
    result = run_script(tmp_path, *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_new_run_does_not_write_over_another_ones_checkpoints(whole_run):
    result = run_script(whole_run)
    assert result.returncode == 2
    assert "holds another run's checkpoints" in result.stderr


@pytest.mark.parametrize(("flag", "value"), [("--ngf", "4"), ("--seed", "3"), ("--penalty-every", "2")])
def test_resuming_as_another_run_is_refused(whole_run, flag, value):
    result = run_script(whole_run, "--resume", flag, value)
    assert result.returncode == 2
    assert re.search(rf"was trained with {flag} \d, this run has {value}", result.stderr)


def test_the_run_is_described(whole_run):
    run = json.loads((whole_run / "run.json").read_text())
    assert run["flags"]["ngf"] == 2
    assert run["flags"]["text_encoder"] == "joint"
    assert run["flags"]["precision"] == fastest_precision()
    assert run["versions"]["torch"] == torch.__version__

"""The training script as a user runs it: what it writes and says, what it refuses, and several processes."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2ilayers import SSAGAN
from t2ilayers.cli._configs import read_pretrain_config, read_train_config
from t2ilayers.cli.train import open_model
from t2ilayers.data import CaptionedShapes
from t2ilayers.training import fastest_precision, latest_checkpoint, load_checkpoint

from scripts import command, flags, run, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    result = train(out)
    assert result.returncode == 0, result.stderr
    return out


def test_the_script_writes_what_it_says(whole_run):
    lines = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(6))
    assert {"discriminator/real", "generator/damsm", "encoders/words_i2t", "steps_per_second"} <= lines[-1].keys()
    samples = sorted(p.name for p in (whole_run / "samples").iterdir())
    assert samples == [f"{kind}_{step:08d}.png" for kind in ("masks", "step") for step in (4, 6)]
    assert (whole_run / "losses.png").stat().st_size > 1000
    events = EventAccumulator(str(whole_run / "tensorboard"))
    events.Reload()
    (said,) = events.Tensors("run/text_summary")
    (text,) = said.tensor_proto.string_val
    assert all(part in text.decode() for part in ("train --out", "--ngf 2", "device", "0 to 6, 4 pictures each"))
    model = SSAGAN.from_pretrained(whole_run / "model")
    assert model.generate(["a red circle"], seed=0).images.shape == (1, 3, 32, 32)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    assert train(tmp_path, "--steps", "2").returncode == 0
    result = train(tmp_path, "--resume", "--lr-discriminator", "1e20")
    assert result.returncode == 1
    assert re.search(r"t2ilayers train: \w+/\w+ is (nan|inf|-inf) at step \d", result.stderr)
    assert "resume with smaller learning rates" in result.stderr
    state = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"))
    assert all(torch.isfinite(v).all() for v in state["model"].values() if v.is_floating_point())
    assert state["step"] == 2


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (("--data", "no/such/folder"), "no/such/folder"),
        (("--image-size", "48"), "image_size"),
        (("--resume",), "no checkpoint in"),
        (("--ema", "1.5"), "ema must be in [0, 1)"),
        (("--sample-every", "0"), "--sample-every must be at least 1, got 0"),
        (("--residual-gate", "nan"), "--residual-gate must be at least 0 and finite, got nan"),
        (("--residual-gate", "-1"), "--residual-gate must be at least 0 and finite, got -1.0"),
        (("--image-encoder", "inception"), "needs --image-encoder-weights or --encoders"),
        (("--text-encoder", "frozen"), "--text-encoder frozen needs --encoders"),
        (("--encoders", "a", "--text-encoder-weights", "b"), "--encoders holds both encoders"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, mistake, message):
    result = train(tmp_path, *mistake)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("given", "gate"), [((), 0.0), (("--residual-gate", "1"), 1.0)])
@pytest.mark.parametrize("generator", ["ssa", "df"])
def test_residuals_start_where_was_said(tmp_path, given, gate, generator):
    config = read_train_config(["--out", str(tmp_path), "--steps", "1", "--generator", generator, *given], None)
    model = open_model(config, CaptionedShapes(8, image_size=64))
    gates = {
        key: value.item()
        for part in (model.generator, model.discriminator)
        for key, value in part.named_parameters()
        if key.endswith(".gamma")
    }
    assert gates
    assert set(gates.values()) == {gate}


@pytest.mark.parametrize("chosen", [False, True])
def test_the_discriminator_starts_whitened_where_that_was_said(chosen):
    config = read_train_config(["--image-size", "32", "--ndf", "8", *(["--whiten"] if chosen else [])], None)
    data = CaptionedShapes(64, image_size=32)
    torch.manual_seed(0)
    first = open_model(config, data).discriminator.from_image
    images = torch.stack([data.image(i) for i in range(len(data))])
    with torch.no_grad():
        answers = torch.nn.functional.conv2d(images, first.weight, first.bias).transpose(0, 1).flatten(1)
    variances = torch.cov(answers).diagonal()
    assert bool(variances.min() > 0.2 * variances.max() and answers.mean(1).abs().max() < 1e-3) == chosen


def test_a_new_run_does_not_write_over_another_ones_checkpoints(whole_run):
    result = train(whole_run)
    assert result.returncode == 2
    assert "holds another run's checkpoints" in result.stderr


@pytest.mark.parametrize(("flag", "value"), [("--ngf", "4"), ("--seed", "3"), ("--penalty-every", "2")])
def test_resuming_as_another_run_is_refused(whole_run, flag, value):
    result = train(whole_run, "--resume", flag, value)
    assert result.returncode == 2
    assert re.search(rf"was trained with {flag} \d, this run has {value}", result.stderr)


def test_the_run_is_described(whole_run):
    run = json.loads((whole_run / "run.json").read_text())
    assert run["flags"]["ngf"] == 2
    assert run["flags"]["text_encoder"] == "joint"
    assert run["flags"]["precision"] == fastest_precision()
    assert run["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("name", ["pretrain", "train"])
def test_the_demos_figures_are_of_what_make_demo_runs(name):
    recipe = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    (command,) = re.findall(rf"t2ilayers {name} (.*)", recipe.stdout.replace("\\\n", " "))
    record = "demo_seed0_run.json" if name == "train" else "demo_seed0_pretraining_run.json"
    measured = json.loads((ROOT / "benchmarks/results" / record).read_text())["flags"]
    runs = (read_train_config if name == "train" else read_pretrain_config)(shlex.split(command), None).flags()
    where = {"out", "encoders", "precision"}  # the machine's own
    assert {key: value for key, value in runs.items() if key not in where} == {
        key: value for key, value in measured.items() if key not in where
    }


def test_flags_override_the_short_experiment():
    arguments = ["--experiment", "short", "--image-size", "64", "--text-encoder", "joint"]
    config = read_train_config(arguments, None)
    config.check()
    assert (config.image_size, config.step.text_encoder, config.residual_gate) == (64, "joint", 1.0)


@pytest.mark.parametrize(("name", "words", "steps"), [("cub", 5450, 221_375), ("coco", 27297, 413_915)])
def test_a_published_experiment_has_the_published_model(name, words, steps):
    config = read_train_config(["--experiment", name, "--data", "cub:elsewhere", "--penalty", "joint"], None)
    config.check()
    assert (config.data, config.step.penalty, config.step.penalty_power) == ("cub:elsewhere", "joint", 6.0)
    assert (config.batch_size, config.step.lr_generator, config.step.lr_discriminator) == (24, 1e-4, 4e-4)
    assert (config.steps, config.step.precision, config.augment) == (steps, "fp32", True)
    assert (config.step.text_encoder, config.step.damsm_weight) == {
        "cub": ("joint", 0.1), "coco": ("frozen", 0.05)
    }[name]  # fmt: skip
    with torch.device("meta"):
        model = SSAGAN(config.model(words))
    assert sum(p.numel() for p in model.generator.parameters()) == 29_494_273
    assert sum(p.numel() for p in model.discriminator.parameters()) == 80_379_526 - 2_099_200
    assert model.text_encoder.embedding.weight.shape == (words, 300)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator trains for hours, not days")
@pytest.mark.parametrize(("script", "flag"), [("train", "--steps"), ("pretrain", "--epochs")])
def test_days_of_work_on_a_cpu_are_asked_for(script, flag, tmp_path):
    result = run(script, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert re.search(rf"t2ilayers {script}: {flag}.* must be given on a CPU", result.stderr)
    assert not (tmp_path / "out").exists()


def test_torchrun_writes_once_and_what_one_process_writes(tmp_path):
    # In bfloat16 two processes round a batch differently from one, by as much as it moves in a step.
    small = ["--batch-size", "5", "--steps", "2", "--precision", "fp32"]
    result = train(tmp_path / "one", *small)
    assert result.returncode == 0, result.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    whole = [*launcher, *command("train", *flags(tmp_path / "two", *small))[1:]]
    result = subprocess.run(whole, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, two = (load_checkpoint(latest_checkpoint(tmp_path / name / "checkpoints")) for name in ("one", "two"))
    for part in ("model", "ema"):
        torch.testing.assert_close(two[part], one[part], rtol=0, atol=2e-3)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.parametrize("generator", ["ssa-unmasked", "df", "rat"])
def test_another_generator_is_trained_saved_and_drawn_from(generator, tmp_path):
    result = train(tmp_path, "--generator", generator, "--steps", "2")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_00000002.png"]
    model = SSAGAN.from_pretrained(tmp_path / "model")
    assert model.config.generator == generator
    assert model.generate(["a red circle"], seed=0).masks == ()

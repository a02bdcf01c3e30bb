"""The scripts as a user runs them, on a model with random weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import CaptionedShapes

ROOT = Path(__file__).parents[1]


def save_model(folder, image_size, image_encoder):
    vocabulary = CaptionedShapes(1, 16).vocabulary
    torch.manual_seed(0)
    config = SSAGANConfig(
        image_size, ngf=2, ndf=2, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary),
        image_encoder=image_encoder,
    )  # fmt: skip
    SSAGAN(config, vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "small", 16, None)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, f"examples/{script}.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused(result, *parts):
    """Exit code 2 and one line on stderr that says all the parts."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(part in result.stderr for part in parts), result.stderr


def test_generate_a_picture_a_caption(model, tmp_path):
    captions = ["a red star", "a small blue ring"]
    result = run("generate", model, *captions, "--seed", 3, "--truncation", 0.7, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.name for path in paths] == ["00-a-red-star.png", "01-a-small-blue-ring.png"]
    images = SSAGAN.from_pretrained(model).generate(captions, seed=3, truncation=0.7).images
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            pixels = np.array(picture).astype(float)
        assert np.abs(pixels - (image.permute(1, 2, 0).numpy() + 1) * 127.5).max() <= 1


def test_generate_sheets(model, tmp_path):
    result = run("generate", model, "a red star", "a ring", "--grid", "--masks", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks.png", "sheet.png"]
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "masks.png") as masks:
        assert sheet.width == 12 + 2 * 140
        assert masks.width == 12 + 4 * 140  # the picture and the masks of 4, 8 and 16 px


def test_generate_refuses_in_one_line(model, tmp_path):
    refused(run("generate", tmp_path / "none", "a star"), "none holds no config.json")
    refused(run("generate", model, "a red stra"), "'stra' (near: 'star')")
    refused(run("generate", model), "captions must be at least one sentence")
    damaged = shutil.copytree(model, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(run("generate", damaged, "a star"), "damaged is not a complete model")


def test_evaluate_shapes(model, tmp_path):
    out = tmp_path / "results" / "r.json"
    result = run(
        "evaluate",
        model,
        "--data",
        "shapes",
        "--samples",
        70,
        "--classifier-steps",
        12,
        "--seed",
        5,
        "--out",
        out,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in out.parent.iterdir()] == ["r.json"]
    results = json.loads(out.read_text())
    assert results["samples"] == 70
    assert results["seed"] == 5
    assert "--classifier-steps 12" in results["command"]
    assert results["versions"]["torch"] == torch.__version__
    assert list(results["attributes"]) == ["colour", "shape", "size", "place", "background", "texture"]
    assert results["attributes"]["size"]["chance"] == 0.5
    assert results["attributes"]["size"]["real"] > results["attributes"]["shape"]["chance"]
    assert [stage["side"] for stage in results["masks"]["stages"]] == [4, 8, 16]
    assert results["r_precision"] == {"skipped": "the model has no image encoder"}
    assert f"{results['attributes']['place']['generated']:.3f}" in result.stdout
    assert "skipped, the model has no image encoder" in result.stdout


def folder_of_captions(folder, count):
    folder.mkdir()
    shapes = CaptionedShapes(count, 32)
    with (folder / "captions.jsonl").open("w") as rows:
        for i in range(count):
            pixels = ((shapes.image(i) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{i}.png")
            row = {"file": f"{i}.png", "captions": shapes.captions(i), "split": "test"}
            rows.write(json.dumps(row) + "\n")
    return folder


def test_evaluate_r_precision_of_a_folder(tmp_path):
    model = save_model(tmp_path / "model", 32, "conv")
    out = tmp_path / "r.json"
    enough = folder_of_captions(tmp_path / "enough", 130)
    result = run("evaluate", model, "--data", enough, "--out", out)
    assert result.returncode == 0, result.stderr
    results = json.loads(out.read_text())
    assert results["samples"] == 130
    assert "attributes" not in results
    score = results["r_precision"]
    assert score["chance"] == 0.01
    assert all(0 <= score[name]["mean"] <= 0.1 for name in ("generated", "real"))  # random weights
    result = run("evaluate", model, "--data", folder_of_captions(tmp_path / "few", 12))
    assert result.returncode == 0, result.stderr
    assert "R-precision: skipped, every picture needs candidates - 1 = 99" in result.stdout


def test_evaluate_refuses_in_one_line(model, tmp_path):
    refused(run("evaluate", tmp_path / "none", "--data", "shapes"), "none holds no config.json")
    refused(run("evaluate", model, "--data", tmp_path / "nowhere"), "nowhere")
    refused(run("evaluate", model, "--data", "shapes", "--samples", 0), "--samples must be at least 1, got 0")
    (tmp_path / "empty").mkdir()
    refused(run("evaluate", model, "--data", tmp_path / "empty"), "empty")

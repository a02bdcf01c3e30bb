"""Drawing and measuring as a user runs them, on a model with random weights."""

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.cli import evaluate as script
from t2ilayers.data import CaptionedShapes
from t2ilayers.metrics import InceptionV3

from scripts import refused, run


def save_model(folder, image_size, image_encoder, generator="ssa"):
    vocabulary = CaptionedShapes(1, 16).vocabulary
    torch.manual_seed(0)
    config = SSAGANConfig(
        image_size, ngf=2, ndf=2, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary),
        image_encoder=image_encoder, generator=generator,
    )  # fmt: skip
    SSAGAN(config, vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "small", 16, None)


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


def test_generate_several_pictures_per_caption_and_keeps_what_is_there(model, tmp_path):
    flags = ("a red star", "a ring", "--count", 3, "--out", tmp_path / "out")
    result = run("generate", model, *flags)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{i:02d}-{'a-red-star' if i < 3 else 'a-ring'}.png" for i in range(6)]
    pictures = {(tmp_path / "out" / name).read_bytes() for name in names}
    assert len(pictures) == 6
    refused(run("generate", model, *flags, "--seed", 1), "already has 00-a-red-star.png", "--overwrite")
    assert {path.read_bytes() for path in (tmp_path / "out").iterdir()} == pictures
    assert run("generate", model, *flags, "--seed", 1, "--overwrite").returncode == 0
    assert not {path.read_bytes() for path in (tmp_path / "out").iterdir()} & pictures


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
    refused(run("generate", model, "a star", "--count", 0), "--count must be at least 1, got 0")
    damaged = shutil.copytree(model, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(run("generate", damaged, "a star"), "damaged is not a complete model")


def test_a_model_that_diverged_is_drawn_and_measured_by_nobody(model, tmp_path):
    diverged = shutil.copytree(model, tmp_path / "diverged")
    weights = load_file(diverged / "model.safetensors")
    save_file(
        weights | {"generator.fc.bias": weights["generator.fc.bias"] * np.nan}, diverged / "model.safetensors"
    )
    said = ("diverged is not a complete model", "key generator.fc.bias must be finite")
    refused(run("generate", diverged, "a star", "--out", tmp_path / "out"), *said)
    refused(run("evaluate", diverged, "--data", "shapes", "--out", tmp_path / "r.json"), *said)
    assert [path.name for path in tmp_path.iterdir()] == ["diverged"]


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
    assert results["inception"] == {"skipped": "there are no --inception-weights"}
    assert "FID and inception score: skipped, there are no --inception-weights" in result.stdout
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


def test_a_model_without_masks_is_drawn_from_and_measured(tmp_path):
    model = save_model(tmp_path / "model", 16, None, "df")
    assert run("generate", model, "a red star", "--grid", "--out", tmp_path / "sheets").returncode == 0
    refused(
        run("generate", model, "a red star", "--masks", "--out", tmp_path / "sheets"), "--masks", "has no masks"
    )
    out = tmp_path / "r.json"
    result = run("evaluate", model, "--data", "shapes", "--samples", 70, "--classifier-steps", 2, "--out", out)
    assert result.returncode == 0, result.stderr
    assert json.loads(out.read_text()).keys() >= {"attributes", "inception"}
    assert "masks" not in json.loads(out.read_text())


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
    assert score["judge"] == str(model)
    other = save_model(tmp_path / "other", 32, "conv")
    result = run("evaluate", other, "--data", enough, "--judge", model, "--out", out)
    assert result.returncode == 0, result.stderr
    judged = json.loads(out.read_text())["r_precision"]
    assert judged["judge"] == str(model)
    assert judged["real"] == score["real"]  # the same pictures before the same judge
    result = run("evaluate", model, "--data", folder_of_captions(tmp_path / "few", 12))
    assert result.returncode == 0, result.stderr
    assert "R-precision: skipped, every picture needs candidates - 1 = 99" in result.stdout


PROTOCOLS = ["clean", "pytorch-fid", "df-legacy"]


def evaluate(*arguments):
    return run("evaluate", *arguments)


@pytest.mark.slow  # eigenvectors of 2048 features, eight times
def test_evaluate_by_three_protocols(model, tmp_path):
    out, folder = tmp_path / "r.json", folder_of_captions(tmp_path / "data", 3)
    references = [tmp_path / "references" / f"{name}.npz" for name in PROTOCOLS]
    result = evaluate(
        model, "--data", folder, "--samples", 5, "--seed", 4, "--truncation", 0.7,
        "--protocol", *PROTOCOLS, "--inception-weights", "random:2", "--save-reference", *references, "--out", out,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("random:2: THESE NUMBERS MEAN NOTHING") == 3
    results = json.loads(out.read_text())
    assert (results["seed"], results["truncation"], results["split"]) == (4, 0.7, "test")
    assert {"torch", "numpy", "pillow"} < set(results["versions"])
    found = results["inception"]
    numbers = sorted(found[name]["fid"] for name in PROTOCOLS)
    assert numbers[0] > 0
    assert all(high > 1.001 * low for low, high in pairwise(numbers)), numbers
    for name, reference in zip(PROTOCOLS, references, strict=True):
        entry = found[name]
        assert entry["weights"] == {"source": "random:2", "sha256": None, "random": True}
        assert entry["protocol"]["name"] == name
        # Five samples are a pass over the three pictures and a part of the next; each real one counts once.
        assert entry["samples"] == 5
        assert entry["reference"] == {"file": None, "samples": 3, "label": f"{name}, random:2"}
        assert entry["inception_score"]["real"] == {"skipped": "splits must be 1 to N = 3, got 10"}
        with np.load(reference) as saved:
            assert saved["mu"].shape == (2048,)
            assert saved["sigma"].shape == (2048, 2048)
    resizes = [found[name]["protocol"]["resize"] for name in PROTOCOLS]
    assert resizes == ["bicubic-antialias", "bilinear", "bilinear"]
    assert [found[name]["protocol"]["weights"] for name in PROTOCOLS] == ["tensorflow-2015"] * 2 + ["torchvision"]

    mismatched = ("--protocol", "clean", "--inception-weights", "random:2", "--reference", references[1])
    refused(evaluate(model, "--data", folder, *mismatched), "pytorch-fid, random:2", "'clean, random:2'")
    # The same weights from a file and the same statistics from another evaluator's: the same number.
    network = InceptionV3.random("tensorflow-2015", seed=2)
    weights, theirs = tmp_path / "weights.pth", tmp_path / "theirs.npz"
    torch.save({key.removeprefix("trunk."): value for key, value in network.state_dict().items()}, weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    with np.load(references[0]) as saved:
        np.savez(theirs, mu=saved["mu"], sigma=saved["sigma"])
    result = evaluate(
        model, "--data", folder, "--samples", 5, "--seed", 4, "--truncation", 0.7,
        "--protocol", "clean", "--inception-weights", weights, "--inception-sha256", sha256,
        "--reference", theirs, "--out", out,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "MEAN NOTHING" not in result.stdout
    entry = json.loads(out.read_text())["inception"]["clean"]
    assert entry["fid"] == pytest.approx(found["clean"]["fid"], rel=1e-4)
    assert entry["weights"] == {"source": str(weights), "sha256": sha256, "random": False}
    assert entry["reference"] == {"file": str(theirs), "samples": None, "label": ""}


def test_evaluate_refuses_protocols_without_their_weights(model, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    dry = ("--inception-weights", "random:0")

    def says(*arguments):
        result = evaluate(model, "--data", "shapes", *arguments)
        refused(result)
        return result.stderr

    assert "--protocol clean needs tensorflow-2015 weights" in says("--protocol", "clean")
    text = says("--inception-weights", tmp_path / "weights.pth")
    assert f"its SHA-256 is {hashlib.sha256(b'not weights').hexdigest()}" in text
    assert "is not the expected 00" in says(
        "--inception-weights", tmp_path / "weights.pth", "--inception-sha256", "00"
    )
    assert "one for each of 0 --inception-weights, got 1" in says("--inception-sha256", "00")
    assert "one file for each protocol (none), got 1" in says("--save-reference", "a.npz")
    assert "give one of them" in says(*dry, "--save-reference", "a.npz", "--reference", "b.npz")
    assert "names clean twice" in says(*dry, "--protocol", "clean", "clean")
    assert "has tensorflow-2015 weights twice" in says(*dry, "random:1")
    assert "--truncation must be > 0, got 0.0" in says("--truncation", 0)
    assert evaluate(model, "--data", "shapes", "--protocol", "fid").returncode == 2


@pytest.mark.parametrize("truncation", [None, 0.5])
def test_a_sample_depends_on_its_index_alone(model, monkeypatch, truncation):
    loaded = SSAGAN.from_pretrained(model)
    arguments = script.Arguments(model, "shapes", seed=3, truncation=truncation)

    def samples(count, batch_size):
        monkeypatch.setattr(script, "BATCH_SIZE", batch_size)
        pairs = list(script.generated_beside_real(loaded, CaptionedShapes(4, 16), count, arguments, ""))
        captions = [caption for _, real in pairs for caption in real["captions"]]
        keys = [key for _, real in pairs for key in real["keys"]]
        return torch.cat([output.images for output, _ in pairs]), captions, keys

    images, captions, keys = samples(9, 64)
    assert keys[:4] == keys[4:8]  # a pass
    assert len(set(keys[:4])) == 4
    assert captions[:4] != captions[4:8]
    fewer, fewer_captions, _ = samples(7, 2)
    assert fewer_captions == captions[:7]
    torch.testing.assert_close(fewer, images[:7], rtol=0, atol=1e-5)
    assert len(images.flatten(1).unique(dim=0)) == 9
    if truncation is not None:
        noise = torch.stack([script.noise(100, 3, index, truncation) for index in range(20)])
        assert 0.95 * truncation < noise.abs().max() <= truncation


def test_evaluate_refuses_in_one_line(model, tmp_path):
    refused(run("evaluate", tmp_path / "none", "--data", "shapes"), "none holds no config.json")
    refused(run("evaluate", model, "--data", tmp_path / "nowhere"), "nowhere")
    refused(run("evaluate", model, "--data", "shapes", "--out", tmp_path), "--out must be a file, got the folder")
    (tmp_path / "file").touch()
    refused(run("evaluate", model, "--data", "shapes", "--out", tmp_path / "file" / "r.json"), "file")
    refused(run("evaluate", model, "--data", "shapes", "--out", "/proc/r.json"), "/proc")
    refused(run("evaluate", model, "--data", "shapes", "--samples", 0), "--samples must be at least 1, got 0")
    (tmp_path / "empty").mkdir()
    refused(run("evaluate", model, "--data", tmp_path / "empty"), "empty")

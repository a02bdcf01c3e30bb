"""``t2ilayers evaluate --outside``: what it measures, and that a second run takes the judge of the first."""

import hashlib
import json

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import CaptionedShapes
from t2ilayers.metrics import OutsideJudge

from scripts import refused, run

WORDS = CaptionedShapes(2, 32).vocabulary


def words(captions):
    rows = torch.zeros(len(captions), len(WORDS))
    for row, caption in zip(rows, captions, strict=True):
        row[WORDS.encode(caption)] = 1
    return rows


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    """In place of those of the extra, which may be missing."""

    def small(device):
        return OutsideJudge(lambda x: [F.avg_pool2d(x, 4), F.avg_pool2d(x, 8)], words, image_size=32, name="small")

    monkeypatch.setattr(OutsideJudge, "pretrained", small)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    sizes = dict(image_size=32, ngf=2, ndf=2, mask_channels=4, vocab_size=len(WORDS))
    SSAGAN(SSAGANConfig(**sizes), WORDS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with (folder / "captions.jsonl").open("w") as rows:
        for split, count in (("train", 80), ("test", 130)):
            shapes = CaptionedShapes(count, 32, split=split)
            for i in range(count):
                pixels = ((shapes.image(i) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(folder / f"{split}{i}.png")
                row = {"file": f"{split}{i}.png", "captions": shapes.captions(i), "split": split}
                rows.write(json.dumps(row) + "\n")
    return folder


def test_every_measure_by_a_judge_that_is_kept(model, folder, tmp_path):
    kept, out = tmp_path / "new" / "judge.safetensors", tmp_path / "r.json"
    result = run("evaluate", model, "--data", folder, "--outside", kept, "--out", out)
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())["outside"]
    judge = found["judge"]
    assert judge["encoders"] == "small"
    assert judge["sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert judge["pairs"] == 80 * 5
    score = found["r_precision"]
    assert score["real"]["mean"] > 5 * score["chance"] > score["generated"]["mean"]  # weights are random
    assert found["conditional_frechet_distance"]["generated"] > 0
    assert found["kernel_distance"]["mean"] > 0
    assert 0 <= found["density_coverage"]["coverage"] < 1
    assert found["vendi"]["generated"] < found["vendi"]["real"]
    assert 0 < found["prompt_diversity"]["same_prompt"] <= found["prompt_diversity"]["any_prompt"]
    copying = found["data_copying"]
    assert copying["train_pictures"] == 80
    assert 0 <= copying["statistic"] <= 1
    assert f"{copying['statistic']:.3f}" in result.stdout

    before = kept.read_bytes()
    assert run("evaluate", model, "--data", folder, "--outside", kept, "--out", out).returncode == 0
    assert json.loads(out.read_text())["outside"] == found
    assert kept.read_bytes() == before


def test_a_small_split_leaves_out_what_it_cannot_say(model, folder, tmp_path):
    kept, out = tmp_path / "judge.safetensors", tmp_path / "r.json"
    result = run("evaluate", model, "--data", folder, "--samples", 20, "--outside", kept, "--out", out)
    assert result.returncode == 0, result.stderr
    found = json.loads(out.read_text())["outside"]
    assert "99 sentences" in found["r_precision"]["skipped"]
    assert "captions, got 20" in found["conditional_frechet_distance"]["skipped"]
    assert found["vendi"]["real"] > 1
    assert "R-precision" in result.stdout


def test_a_file_that_holds_no_judge(model, folder, tmp_path):
    (tmp_path / "judge.safetensors").write_bytes(b"none")
    refused(
        run("evaluate", model, "--data", folder, "--outside", tmp_path / "judge.safetensors"), "judge.safetensors"
    )

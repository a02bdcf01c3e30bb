"""The pre-training script: what it measures, what it leaves behind, and that it continues exactly."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers import SSAGAN
from t2ilayers.cli import pretrain as script
from t2ilayers.cli._configs import PretrainConfig
from t2ilayers.data import CaptionShards
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, ImageFeatures, LSTMTextEncoder, TextFeatures
from t2ilayers.interop import official
from t2ilayers.metrics import InceptionV3
from t2ilayers.training import load_checkpoint

from scripts import run


def write_shards(folder, **greys):
    """For each split, a plain picture for each grey value, with the caption "grey N" of its ten."""
    for split, values in greys.items():
        with tarfile.open(folder / f"{split}.tar", "w") as shard:
            for grey in values:
                picture = io.BytesIO()
                Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(picture, format="PNG")
                caption = f"grey {grey // 10 % 8}".encode()
                for name, content in ((f"{grey}.png", picture.getvalue()), (f"{grey}.txt", caption)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), train=range(0, 160, 10), test=range(5, 85, 10))


@pytest.fixture
def pretrain(shards):
    def pretrain(out, *flags, data=shards):
        return run("pretrain", "--data", f"shards:{data}", "--out", out, "--log-every", 1, *flags)

    return pretrain


SMALL = ("--image-size", "32", "--batch-size", "6", "--candidates", "4")


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_weights(module, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())


def test_a_run_leaves_metrics_and_encoders(pretrain, tmp_path):
    assert pretrain(tmp_path, *SMALL, "--epochs", "2", "--measure-every", "4").returncode == 0
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(6))  # 2 * 16 / 6, rounded up
    assert [row["step"] for row in rows if "retrieval/r_precision" in row] == [0, 4]
    results = json.loads((tmp_path / "run.json").read_text())
    assert results["held_out"]["pictures"] == 8
    assert all(0 <= results["held_out"][name] <= 1 for name in ("r_precision", "recall_i2t", "recall_t2i"))
    model = EncoderPair.from_pretrained(tmp_path / "encoders")
    assert model.vocabulary.words == ("<end>", *"01234567", "grey")
    assert same_weights(official.load_text_encoder(tmp_path / "encoders/text_encoder.pth"), model.text_encoder)
    last = torch.load(tmp_path / "checkpoints/step_00000006.pt", weights_only=True)["encoders"]
    assert all(torch.equal(value, last[key]) for key, value in model.state_dict().items())


def test_a_run_in_two_parts_is_the_run_in_one(pretrain, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert pretrain(whole, *SMALL, "--epochs", "3").returncode == 0
    assert pretrain(parts, *SMALL, "--epochs", "1").returncode == 0
    assert pretrain(parts, *SMALL, "--epochs", "3", "--resume", "--workers", "1").returncode == 0
    assert same_weights(*(EncoderPair.from_pretrained(out / "encoders") for out in (parts, whole)))
    assert [row["encoders/words_i2t"] for row in metrics(parts)] == [
        row["encoders/words_i2t"] for row in metrics(whole)
    ]


def test_inception_starts_from_a_file_and_keeps_its_trunk(pretrain, tmp_path, tmp_path_factory):
    network = InceptionV3.random("torchvision", seed=0)
    state = network.trunk.state_dict() | {f"fc.{key}": value for key, value in network.fc.state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state | {"AuxLogits.fc.bias": torch.zeros(1000)}, file)
    flags = ("--image-encoder", "inception", "--inception-weights", str(file), "--epochs", "1")
    flags += ("--batch-size", "2", "--candidates", "2", "--image-size", "64")
    data = write_shards(tmp_path, train=(0, 10), test=(20, 30))
    result = pretrain(tmp_path / "out", *flags, data=data)
    assert result.returncode == 2
    assert "give that hash with it" in result.stderr
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert pretrain(tmp_path / "out", *flags, "--inception-sha256", sha256, data=data).returncode == 0
    encoder = official.load_image_encoder(tmp_path / "out/encoders/image_encoder.pth")
    assert same_weights(encoder.trunk, network.trunk)
    saved = EncoderPair.from_pretrained(tmp_path / "out/encoders").image_encoder
    assert same_weights(saved, encoder)
    assert metrics(tmp_path / "out")[0]["encoders/sentence_i2t"] > 0


class GreyEncoder(ConvImageEncoder):
    """A unit vector for each ten of grey; those of the first two are exchanged."""

    def forward(self, images):
        greys = ((images[:, 0, 0, 0] + 1) * 127.5 / 10).floor().long()
        return ImageFeatures(regions=None, code=torch.eye(8)[torch.tensor([1, 0, *range(2, 8)])[greys % 8]])


class WordEncoder(LSTMTextEncoder):
    """A unit vector for each number that a caption ends on; the vocabulary's first words are these."""

    def forward(self, tokens, lengths):
        return TextFeatures(words=None, sentence=torch.eye(8)[tokens[:, 1] - 1])


def test_the_text_encoder_is_trained_from_where_was_said(pretrain, shards, tmp_path):
    flags = ("--steps", "3", "--freeze-text", "2", "--save-every", "1")
    assert pretrain(tmp_path, *SMALL, *flags).returncode == 0
    config = PretrainConfig(image_size=32)
    torch.manual_seed(config.seed)
    start = script.open_encoders(config, CaptionShards(shards, "train", image_size=32)).text_encoder.state_dict()
    moved = {}
    for step in (2, 3):
        state = load_checkpoint(tmp_path / f"checkpoints/step_{step:08d}.pt")
        name = "text_encoder.embedding.weight"
        moved[step] = not torch.equal(state["encoders"][name], start["embedding.weight"])
    assert moved == {2: False, 3: True}


@pytest.mark.parametrize(("chosen", "spread"), [(None, 0.2 / 12**0.5), (1.0, 1.0), (0.3, 0.3)])
def test_embeddings_start_as_wide_as_was_said(shards, chosen, spread):
    data = CaptionShards(shards, "train", image_size=32)
    pair = script.open_encoders(PretrainConfig(image_size=32, embedding_std=chosen), data)
    assert float(pair.text_encoder.embedding.weight.detach().std()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("chosen", [0.0, 0.25])
def test_as_many_embedded_values_are_dropped_as_was_said(shards, chosen):
    data = CaptionShards(shards, "train", image_size=32)
    text_encoder = script.open_encoders(PretrainConfig(image_size=32, text_dropout=chosen), data).text_encoder
    seen = []
    text_encoder.dropout.register_forward_hook(lambda _, __, output: seen.append(output))
    text_encoder.train()(torch.ones(50, 4, dtype=torch.long), torch.full((50,), 4))
    assert float((seen[0] == 0).float().mean()) == pytest.approx(chosen, abs=0.02)


def test_the_small_image_encoder_starts_whitened(shards):
    data = CaptionShards(shards, "train", image_size=32)
    pair = script.open_encoders(PretrainConfig(image_size=32), data)
    images = torch.stack([data.image(index) for index in range(len(data))])
    first = pair.image_encoder.stages[0]
    with torch.no_grad():
        answers = torch.nn.functional.conv2d(images, first.weight, first.bias, stride=2)
    assert float(answers.mean((0, 2, 3)).abs().max()) < 1e-3
    assert float(answers.var((0, 2, 3)).max()) < 1.01


def test_retrieval_counts_what_is_found(shards, tmp_path):
    """Six of eight pictures have the code of their own caption, and two have each other's."""
    pair = EncoderPair(WordEncoder(10), GreyEncoder(32))
    config = PretrainConfig(candidates=8, batch_size=3)
    held_out = CaptionShards(shards, "test", image_size=16)
    measured = script.retrieval(pair, held_out, config)
    assert measured == {"r_precision": 0.75, "candidates": 8, "recall_i2t": 0.75, "recall_t2i": 0.75}
    # By default a picture chooses among as many captions as there are, up to 100.
    assert script.retrieval(pair, held_out, PretrainConfig(batch_size=3)) == measured
    # Where two pictures have the same caption, either is found.
    twice = CaptionShards(write_shards(tmp_path, train=[0], test=range(5, 165, 10)), "test", image_size=16)
    measured = script.retrieval(pair, twice, config)
    assert (measured["recall_i2t"], measured["recall_t2i"]) == (0.75, 0.75)
    # One picture alone is told from nothing.
    (tmp_path / "alone").mkdir()
    alone = CaptionShards(write_shards(tmp_path / "alone", train=[0], test=[25]), "test", image_size=16)
    assert script.retrieval(pair, alone, PretrainConfig(batch_size=3)) == {"recall_i2t": 1.0, "recall_t2i": 1.0}


@pytest.mark.parametrize(
    ("classes", "captions", "others"),
    [
        ([1, 2, 3], "abc", 2),
        ([1, 1, 2], "abc", 1),
        ([1, 2, 3], "aab", 1),
        ([1, 1, 2, 3], "aabb", 2),
        ([1], "a", 0),
    ],
)
def test_a_picture_is_told_from_captions_of_other_classes_and_other_words(classes, captions, others):
    assert script.fewest_others(classes, [(word,) for word in captions]) == others


def test_the_rate_falls_as_published():
    rates = [script.learning_rate(PretrainConfig(), epoch) for epoch in (0, 1, 2, 113, 114, 115, 599)]
    assert rates == pytest.approx([2e-3, 1.96e-3, 1.9208e-3, 2.0396e-4, 2e-4, 2e-4, 2e-4], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "3", "--steps", "3"), "give one of them"),
        (("--epochs", "0"), "--epochs must be at least 1, got 0"),
        (("--steps", "2", "--lr", "1e-5"), "--lr must be at least 0.0002"),
        (("--steps", "2", "--image-size", "256"), "image_size must be 32, 64 or 128"),
        (("--steps", "2", "--embedding-std", "0"), "--embedding-std must be above 0, got 0.0"),
        (("--steps", "2", "--freeze-text", "2"), "--freeze-text must be less than all 2 steps"),
        (("--steps", "2", "--freeze-text", "-1"), "--freeze-text must be at least 0, got -1"),
        (("--steps", "2", "--text-dropout", "1"), "--text-dropout must be from 0 to below 1, got 1.0"),
        (("--steps", "2", "--image-width", "24"), "--image-width must be a positive multiple of 16, got 24"),
        (("--image-encoder", "inception"), "--inception-weights go together"),
        (("--image-encoder", "inception", "--inception-weights", "no.pth", "--steps", "2"), "no.pth"),
        (("--steps", "2", "--resume"), "no checkpoint in"),
        (("--steps", "2", "--candidates", "100"), "every picture needs candidates - 1 = 99 sentences"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(pretrain, tmp_path, flags, message):
    result = pretrain(tmp_path, *(flags or ("--steps", "2")))
    assert result.returncode == 2
    said = result.stderr.splitlines()[-1]
    assert said.startswith("t2ilayers pretrain: ")
    assert message in said


def test_another_run_is_neither_written_over_nor_continued(pretrain, tmp_path):
    assert pretrain(tmp_path, *SMALL, "--epochs", "1").returncode == 0
    result = pretrain(tmp_path, *SMALL, "--epochs", "1")
    assert result.returncode == 2
    assert "holds another run's checkpoints" in result.stderr
    result = pretrain(tmp_path, *SMALL, "--epochs", "1", "--resume", "--seed", "3")
    assert result.returncode == 2
    assert "was trained with --seed 0, this run has 3" in result.stderr


def test_a_diverging_run_stops_and_leaves_no_checkpoint(pretrain, tmp_path):
    result = pretrain(tmp_path, *SMALL, "--epochs", "9", "--lr", "1e30")
    assert result.returncode == 1
    assert "training stopped; there is no checkpoint yet" in result.stderr
    assert not (tmp_path / "encoders").exists()


def test_gan_training_starts_from_the_encoders_that_were_left(pretrain, tmp_path, shards):
    assert pretrain(tmp_path / "damsm", *SMALL, "--epochs", "1").returncode == 0

    def train(out, *flags):
        given = ["--data", f"shards:{shards}", "--encoders", tmp_path / "damsm" / "encoders", "--out", out]
        small = "--steps 1 --ngf 4 --ndf 4 --batch-size 4 --text-encoder frozen"
        return run("train", *given, *small.split(), *flags)

    assert train(tmp_path / "gan", "--image-size", "32").returncode == 0
    given = EncoderPair.from_pretrained(tmp_path / "damsm" / "encoders")
    trained = SSAGAN.from_pretrained(tmp_path / "gan" / "model")
    for name in ("text_encoder", "image_encoder"):
        for a, b in zip(getattr(given, name).parameters(), getattr(trained, name).parameters(), strict=True):
            assert torch.equal(a, b)
    result = train(tmp_path / "other", "--image-size", "64")
    assert result.returncode == 2
    assert "the encoders must be for pictures of 64 px, got 32 px" in result.stderr

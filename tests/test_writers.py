"""Whatever is written is written whole: a disk that fills leaves the old file, and nothing beside it."""

import signal

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, LSTMTextEncoder, Vocabulary
from t2ilayers.figures import save_image
from t2ilayers.metrics import GaussianStatistics
from t2ilayers.training import save_checkpoint

resource = pytest.importorskip("resource", reason="limits of POSIX")
Image = pytest.importorskip("PIL.Image")

VOCABULARY = Vocabulary.build(["a red circle", "a blue square", "and words enough to fill a sector of the disk"])


def write_model(folder):
    sizes = dict(image_size=16, ngf=2, ndf=2, mask_channels=4, vocab_size=len(VOCABULARY))
    SSAGAN(SSAGANConfig(**sizes), VOCABULARY).save_pretrained(folder)


def write_pair(folder):
    EncoderPair(LSTMTextEncoder(len(VOCABULARY)), ConvImageEncoder(32, width=16), VOCABULARY).save_pretrained(
        folder
    )


WRITERS = {
    "vocabulary": lambda folder: VOCABULARY.save(folder / "vocabulary.json"),
    "model": write_model,
    "pair": write_pair,
    "statistics": lambda folder: GaussianStatistics(torch.zeros(9), torch.eye(9)).save(folder / "reference.npz"),
    "picture": lambda folder: save_image(Image.effect_noise((64, 64), 50), folder / "sheet.png"),
    "checkpoint": lambda folder: save_checkpoint(folder, 7, {"weight": torch.rand(500)}),
}


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond a few bytes: what a full disk answers, at a place one can choose."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 100])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_nothing_else(writer, room, full_disk, tmp_path):
    torch.manual_seed(0)
    WRITERS[writer](tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    torch.manual_seed(1)
    full_disk(room)
    with pytest.raises(OSError, match="arge"):  # "File too large"
        WRITERS[writer](tmp_path)
    full_disk(resource.RLIM_INFINITY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("writer", ["model", "pair"])
def test_an_exception_while_writing_leaves_what_was_there(writer, tmp_path, monkeypatch):
    WRITERS[writer](tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(tensor):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.Tensor, "contiguous", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[writer](tmp_path)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

"""Models by name, and weights saved in half precision."""

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig, _pretrained
from t2ilayers.encoders import Vocabulary


@pytest.fixture
def model():
    vocabulary = Vocabulary.build(["a red star", "a small blue ring"])
    torch.manual_seed(0)
    config = SSAGANConfig(16, ngf=4, ndf=2, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary))
    model = SSAGAN(config, vocabulary)
    for weights in model.generator.parameters():  # some of which begin at 0, where neither text nor mask acts
        torch.nn.init.normal_(weights, std=0.2)
    return model.eval()


@pytest.fixture
def package(model, tmp_path, monkeypatch):
    """A stand-in for the folder of the package's models, with two of them."""
    monkeypatch.setattr(_pretrained, "PRETRAINED", tmp_path / "pretrained")
    for name in ("tiny16", "other"):
        model.save_pretrained(tmp_path / "pretrained" / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_name_finds_a_model_of_the_package_and_a_folder_of_that_name_goes_before_it(package, model):
    expected = model.generate(["a red ring"], seed=0).images
    assert torch.equal(SSAGAN.from_pretrained("tiny16").generate(["a red ring"], seed=0).images, expected)
    with torch.no_grad():
        model.generator.fc.bias += 1
    model.save_pretrained("tiny16")
    assert not torch.equal(SSAGAN.from_pretrained("tiny16").generate(["a red ring"], seed=0).images, expected)


@pytest.mark.parametrize("name", ["tiny61", "../pretrained/none", ""])
def test_another_name_is_refused_with_those_there_are(package, name):
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json.*models of the package are other, tiny16|holds no"
    ):
        SSAGAN.from_pretrained(name)


def test_half_precision_halves_the_file_and_hardly_changes_pictures(model, tmp_path):
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.65 * sizes[1]
    again = SSAGAN.from_pretrained(tmp_path / "half")
    assert {weights.dtype for weights in again.parameters()} == {torch.float32}
    pictures = [each.generate(["a red ring"], seed=0).images for each in (model, again)]
    assert 0 < (pictures[0] - pictures[1]).abs().max() < 5e-3


def test_weights_that_half_precision_cannot_hold_are_refused(model, tmp_path):
    with torch.no_grad():
        model.generator.fc.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"finite as torch\.float16, got generator\.fc\.weight"):
        model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()


def test_what_is_drawn_shows_itself(model):
    output = model.generate(["a red star", "a small blue ring"], seed=0)
    pictures = output.pictures()
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    assert pictures[0].getpixel((3, 5)) == tuple(((output.images[0, :, 5, 3] + 1) * 127.5).round().int().tolist())
    assert (
        output.sheet(masks=False).width < output.sheet().width
    )  # beside each picture the masks of 4, 8 and 16 px
    assert output._repr_png_()[:4] == b"\x89PNG"

"""ONNX files of a model against the model itself, in onnxruntime."""

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import Vocabulary

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")  # within torch

CAPTIONS = ["a red star", "a small blue ring", "ring"]


def small_model(generator="ssa"):
    vocabulary = Vocabulary.build(CAPTIONS)
    torch.manual_seed(0)
    config = SSAGANConfig(
        16, ngf=2, ndf=None, z_dim=8, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary),
        generator=generator,
    )  # fmt: skip
    model = SSAGAN(config, vocabulary)
    for weights in model.generator.parameters():  # some of which begin at 0, where neither text nor mask acts
        torch.nn.init.normal_(weights, std=0.2)
    return model.eval()


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def sentences(folder, model, captions):
    tokens, lengths = model.vocabulary.encode_batch(captions)
    inputs = {"tokens": tokens.numpy(), "lengths": lengths.int().numpy()}
    return [torch.from_numpy(array) for array in session(folder / "text_encoder.onnx").run(None, inputs)]


@pytest.mark.parametrize("half", [False, True])
def test_pictures_of_onnx_files_are_those_of_the_model(tmp_path, half):
    model = small_model()
    files = model.to_onnx(tmp_path / "onnx", half=half)
    assert [path.name for path in files] == ["generator.onnx", "text_encoder.onnx", "vocabulary.json"]
    assert Vocabulary.load(tmp_path / "onnx" / "vocabulary.json") == model.vocabulary
    tolerance = {"rtol": 0, "atol": 5e-3 if half else 1e-5}
    tokens, lengths = model.vocabulary.encode_batch(CAPTIONS)
    with torch.no_grad():
        expected = model.text_encoder(tokens, lengths)
    words, sentence = sentences(tmp_path / "onnx", model, CAPTIONS)
    torch.testing.assert_close(words, expected.words, **tolerance)
    torch.testing.assert_close(sentence, expected.sentence, **tolerance)

    generator, z = session(tmp_path / "onnx" / "generator.onnx"), torch.randn(3, 8)
    names, sides = ["mask_4", "mask_8", "mask_16"], [4, 8, 16]
    predicted = [-torch.ones(3, 1, side, side) for side in sides]
    painted = (torch.rand(3, 1, 8, 8) > 0.5).float()
    for masks, inputs in ((None, predicted), ([None, painted, None], [predicted[0], painted, predicted[2]])):
        drawn = model.generate(CAPTIONS, z=z, masks=masks)
        feed = {"z": z, "sentence": sentence} | dict(zip(names, inputs, strict=True))
        found = generator.run(None, {name: value.numpy() for name, value in feed.items()})
        for array, tensor in zip(found, (drawn.images, *drawn.masks), strict=True):
            torch.testing.assert_close(torch.from_numpy(array), tensor, **tolerance)


def test_a_generator_without_masks_is_written_without_them(tmp_path):
    model = small_model("df")
    model.to_onnx(tmp_path)
    z = torch.randn(1, 8)
    _, sentence = sentences(tmp_path, model, CAPTIONS[:1])
    (images,) = session(tmp_path / "generator.onnx").run(None, {"z": z.numpy(), "sentence": sentence.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(images), model.generate(CAPTIONS[:1], z=z).images, rtol=0, atol=1e-5
    )

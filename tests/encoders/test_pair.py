"""Text encoder, image encoder and vocabulary as one: saved, loaded alone or out of a model, and asked."""

import json

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, InceptionImageEncoder, LSTMTextEncoder, Vocabulary

VOCABULARY = Vocabulary.build(["a red circle", "a blue square"])


def make_pair(**changes):
    torch.manual_seed(0)
    text = LSTMTextEncoder(len(VOCABULARY), embed_dim=12, cond_dim=16)
    return EncoderPair(text, ConvImageEncoder(32, cond_dim=16, width=16), VOCABULARY, **changes).eval()


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_what_is_saved_is_what_is_loaded(tmp_path):
    pair = make_pair(max_words=2)
    pair.save_pretrained(tmp_path)
    again = EncoderPair.from_pretrained(tmp_path)
    assert not again.training
    assert again.state_dict().keys() == pair.state_dict().keys()
    assert same(again, pair)
    assert (again.vocabulary, again.max_words, again.image_size) == (VOCABULARY, 2, 32)
    captions, pictures = ["a red square", "a red"], torch.rand(2, 3, 32, 32)
    with pytest.warns(UserWarning, match="more than 2 words; left out: 'square'"):
        cut = again.sentences(captions[:1])
    whole = again.sentences(captions[1:])
    assert torch.equal(whole, cut)
    assert torch.equal(whole, pair.sentences(captions[1:]))
    assert torch.equal(again.images(pictures), pair.images(pictures))


def test_an_inception_pair_takes_pictures_of_any_size(tmp_path):
    pair = EncoderPair(LSTMTextEncoder(len(VOCABULARY), cond_dim=16), InceptionImageEncoder(16), VOCABULARY)
    pair.save_pretrained(tmp_path)
    again = EncoderPair.from_pretrained(tmp_path)
    assert again.image_size is None
    assert same(again, pair)
    assert not any(p.requires_grad for p in again.image_encoder.trunk.parameters())
    assert not again.train().image_encoder.trunk.training


def test_a_pair_is_read_out_of_a_models_folder(tmp_path):
    """As pre-training left encoders before there was a pair: a whole model, of the least width."""
    config = SSAGANConfig(32, ngf=1, ndf=1, mask_channels=1, vocab_size=len(VOCABULARY), image_encoder="conv")
    model = SSAGAN(config, VOCABULARY)
    model.save_pretrained(tmp_path)
    pair = EncoderPair.from_pretrained(tmp_path)
    assert same(pair.text_encoder, model.text_encoder)
    assert same(pair.image_encoder, model.image_encoder)
    assert same(pair, model.encoders)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"conv"', "null"))
    with pytest.raises(ValueError, match='image_encoder must be "inception" or "conv", got None'):
        EncoderPair.from_pretrained(tmp_path)


def test_a_pair_of_its_own_has_no_other_settings(tmp_path):
    make_pair().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"ngf": 8}))
    with pytest.raises(ValueError, match="unknown config keys ngf"):
        EncoderPair.from_pretrained(tmp_path)


def test_a_model_takes_the_encoders_that_fit_it(tmp_path):
    pair = make_pair(max_words=5)
    config = SSAGANConfig(32, ngf=2, ndf=2, mask_channels=4, cond_dim=16, vocab_size=len(VOCABULARY))
    model = SSAGAN(config, VOCABULARY)
    with pytest.raises(ValueError, match="needs an image encoder, got a model without one"):
        _ = model.encoders
    model.take_encoders(pair)
    assert model.encoders.text_encoder is pair.text_encoder
    model.save_pretrained(tmp_path)
    again = SSAGAN.from_pretrained(tmp_path)
    assert again.config.max_words == 5
    assert same(again.encoders, pair)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, "for pictures of 64 px, got 32 px"),
        ({"cond_dim": 32}, "cond_dim = 32 features, got 16"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(changes, message):
    config = dict(image_size=32, ngf=2, ndf=2, mask_channels=4, cond_dim=16, vocab_size=len(VOCABULARY)) | changes
    with pytest.raises(ValueError, match=message):
        SSAGAN(SSAGANConfig(**config), VOCABULARY).take_encoders(make_pair())
    with pytest.raises(ValueError, match="have the model's vocabulary"):
        SSAGAN(SSAGANConfig(**config), Vocabulary(["<end>", *"abcde"])).take_encoders(make_pair())


def test_parts_that_are_no_pair_are_refused():
    text = LSTMTextEncoder(len(VOCABULARY), cond_dim=16)
    with pytest.raises(ValueError, match="as many features, got 16 of the text and 256 of the image encoder"):
        EncoderPair(text, ConvImageEncoder(32))
    with pytest.raises(ValueError, match="a word for each of 6 embeddings, got 3"):
        EncoderPair(text, ConvImageEncoder(32, 16), Vocabulary(["<end>", "a", "b"]))
    with pytest.raises(ValueError, match="need a vocabulary, got none"):
        EncoderPair(text, ConvImageEncoder(32, 16)).sentences(["a"])
    with pytest.raises(ValueError, match="saved with its vocabulary"):
        EncoderPair(text, ConvImageEncoder(32, 16)).save_pretrained("nowhere")

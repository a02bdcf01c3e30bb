"""Hostile weights: every loader refuses them in a sentence that names file and key, before they cost memory."""

import hashlib
import json
import os
import resource
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2ilayers import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, InceptionImageEncoder, LSTMTextEncoder, Vocabulary
from t2ilayers.encoders.inception_weights import read_inception
from t2ilayers.interop import official

VOCABULARY = Vocabulary.build(["a red circle", "a blue square"])


def tiny_model():
    sizes = dict(image_size=32, ngf=2, ndf=2, mask_channels=4, vocab_size=len(VOCABULARY))
    return SSAGAN(SSAGANConfig(**sizes, image_encoder="conv", image_width=16), VOCABULARY)


def tiny_pair():
    return EncoderPair(LSTMTextEncoder(len(VOCABULARY)), ConvImageEncoder(32, width=16), VOCABULARY)


FOLDERS = {"SSAGAN": (SSAGAN, tiny_model), "EncoderPair": (EncoderPair, tiny_pair)}
PUBLISHED = {
    "load_generator": (lambda: SSAGenerator(32, ngf=2, mask_channels=4), "block1.c1.weight"),
    "load_discriminator": (lambda: MatchingAwareDiscriminator(32, ndf=2), "block1.conv_r.0.weight"),
    "load_text_encoder": (lambda: LSTMTextEncoder(9, 6, 10), "rnn.weight_ih_l0"),
}


def with_inf(value):
    return value.clone().index_fill_(0, torch.tensor([0]), torch.inf)


def quantized(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to leave these to torchao
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


KINDS = {
    "nan": (lambda value: value * torch.nan, "finite, got inf or nan"),
    "one inf": (with_inf, "finite, got inf or nan"),
    "beyond float32": (lambda value: value.double() + 1e300, "finite, got inf or nan"),
    "integers": (lambda value: value.long(), "of a floating dtype, got torch.int64"),
    "bool": (lambda value: value > 0, "of a floating dtype, got torch.bool"),
    "complex": (lambda value: value.to(torch.complex64), "of a floating dtype, got torch.complex64"),
    "sparse": (lambda value: value.to_sparse(), "a dense tensor, got torch.sparse_coo"),
    "quantized": (quantized, "plain numbers, got torch.qint8"),
    "meta": (lambda value: value.to("meta"), "plain numbers, got a tensor of the meta device"),
    "expanded": (lambda value: torch.zeros(1).expand(value.shape), "stored in full"),
}  # fmt: skip


def refusal(load, *arguments, error=ValueError):
    with pytest.raises(error) as caught:
        load(*arguments)
    text = str(caught.value)
    assert len(text) < 2000
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", PUBLISHED)
def test_weights_of_another_kind_are_refused_in_published_files(loader, kind, tmp_path):
    make, key = PUBLISHED[loader]
    change, rule = KINDS[kind]
    state = official.export(make())
    hostile = state | {key: change(state[key])}
    assert f"key {key} must be {rule}" in refusal(getattr(official, loader), hostile)
    if kind in ("sparse", "quantized"):  # torch's reader has rules of its own for these
        return
    path = tmp_path / "weights.pth"
    torch.save(hostile, path)
    text = refusal(getattr(official, loader), path)
    assert str(path) in text
    assert f"key {key} must be {rule}" in text


@pytest.mark.parametrize("kind", ["nan", "one inf", "beyond float32", "integers", "bool", "complex"])
@pytest.mark.parametrize("name", FOLDERS)
def test_weights_of_another_kind_are_refused_in_folders(name, kind, tmp_path):
    made_by, make = FOLDERS[name]
    change, rule = KINDS[kind]
    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    key = "text_encoder.rnn.weight_hh_l0"
    save_file(weights | {key: change(weights[key])}, tmp_path / "model.safetensors")
    text = refusal(made_by.from_pretrained, tmp_path)
    assert str(tmp_path) in text
    assert f"key {key} must be {rule}" in text


def test_variances_below_zero_and_fractions_of_a_batch_are_refused(tmp_path):
    state = official.export(SSAGenerator(16, ngf=2, mask_channels=4))
    key = "block0.affine0.batch_norm2d.running_var"
    text = refusal(official.load_generator, state | {key: state[key] - 2})
    assert f"key {key} must be variances, at least 0, got -1" in text
    counter = "conv_mask.1.num_batches_tracked"
    text = refusal(official.load_generator, state | {counter: torch.tensor(0.5)})
    assert f"key {counter} must be of integers, got torch.float32" in text


def test_a_model_that_was_saved_before_its_entries_had_their_names_still_loads(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for name, value in model.generator.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 2)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    former = {
        key.replace(".normalize.", "."): value for key, value in weights.items() if "normalize.num" not in key
    }
    assert former.keys() - weights.keys()
    save_file(former, path)
    again = SSAGAN.from_pretrained(tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    plain = tiny_model()
    plain.load_state_dict(former)
    key = "generator.blocks.0.norm1.normalize.running_var"
    assert torch.equal(plain.state_dict()[key], weights[key])


def test_half_precision_is_a_smaller_file_and_no_other_kind(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    save_file(halves, tmp_path / "model.safetensors")
    again = SSAGAN.from_pretrained(tmp_path)
    assert again.generator.fc.weight.dtype == torch.float32
    torch.testing.assert_close(again.generator.fc.weight, model.generator.fc.weight, rtol=1e-3, atol=1e-6)


def test_what_is_loaded_is_a_copy_that_can_be_trained(tmp_path):
    generator = SSAGenerator(16, ngf=2, mask_channels=4)
    state = official.export(generator)
    loaded = official.load_generator(state)
    before = state["fc.weight"].clone()
    with torch.no_grad():
        loaded.fc.weight.add_(1)
    assert torch.equal(state["fc.weight"], before)
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    tiny_model().save_pretrained(tmp_path)
    model = SSAGAN.from_pretrained(tmp_path)
    with torch.no_grad():
        model.generator.fc.weight.zero_()
    assert SSAGAN.from_pretrained(tmp_path).generator.fc.weight.abs().max() > 0


def test_inceptions_weights_are_checked_as_the_others():
    """Without a file: a hundred megabytes of it would only be hashed."""
    encoder = InceptionImageEncoder(cond_dim=2)
    state = official.export(encoder)
    hostile = state | {
        "Mixed_7c.branch_pool.conv.weight": state["Mixed_7c.branch_pool.conv.weight"] * torch.nan,
        "Mixed_5b.branch1x1.bn.running_var": state["Mixed_5b.branch1x1.bn.running_var"] - 3,
    }
    text = refusal(official.load_image_encoder, hostile)
    assert "key Mixed_7c.branch_pool.conv.weight must be finite" in text
    assert "key Mixed_5b.branch1x1.bn.running_var must be variances" in text


# What a file claims


@pytest.fixture
def no_memory_taken():
    """The process does not grow by what a file claims."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (200 << 10 if sys.platform == "linux" else 200 << 20)


CLAIMS = {
    "ngf": 20_000,
    "ndf": 20_000,
    "z_dim": 2**31 - 1,
    "cond_dim": 20_000,
    "embed_dim": 2**30,
    "mask_channels": 10**7,
    "hidden_dim": 10**7,
    "image_size": 2**30,
    "image_width": 16 * 10**6,
}


@pytest.mark.parametrize("name", CLAIMS)
def test_sizes_of_a_config_are_compared_with_the_file_first(name, tmp_path, no_memory_taken):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: CLAIMS[name]}))
    assert str(tmp_path) in refusal(SSAGAN.from_pretrained, tmp_path)


@pytest.mark.parametrize("value", [0, -4, 2**70, 1.5, float("nan"), "18", None, [18], {}, True], ids=str)
@pytest.mark.parametrize("field", ["max_words", "ngf", "vocab_size"])
def test_a_config_has_whole_positive_numbers(field, value, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    text = refusal(SSAGAN.from_pretrained, tmp_path)
    assert f"{field} must be a whole number from 1 to 2^31 - 1, got " in text
    if field != "ngf":
        assert f"{field} must be a whole number" in refusal(EncoderPair.from_pretrained, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "7", '{"ngf": 2', "[" * 100_000, "9" * 5000, '{"a' + "b" * 10**6 + '": 1}', "\0\xff"]
)
def test_a_config_that_is_none_is_a_sentence(text, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    for made_by in (SSAGAN, EncoderPair):
        assert str(tmp_path) in refusal(made_by.from_pretrained, tmp_path)


def test_a_small_file_of_large_tensors_costs_nothing(tmp_path, no_memory_taken):
    """Every key of a generator that takes some 50 GB, each of one number repeated."""
    with torch.device("meta"):
        large = SSAGenerator(256, ngf=2048, z_dim=100, mask_channels=4)
    state = {
        key: torch.zeros([1] * value.dim()).expand(value.shape) for key, value in official.export(large).items()
    }
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    assert path.stat().st_size < 1 << 20
    assert "stored in full" in refusal(official.load_generator, path)


def test_blocks_without_end_are_refused_at_once(no_memory_taken):
    state = official.export(SSAGenerator(16, ngf=2, mask_channels=4))
    hostile = state | {f"block{i}.c1.weight": torch.zeros(1) for i in range(2000)}
    assert "at most 10 blocks, got 2000" in refusal(official.load_generator, hostile)


def test_many_long_keys_make_a_short_message(tmp_path):
    strange = {f"{i}" + "x" * 1000: torch.zeros(1) for i in range(5000)}
    state = official.export(SSAGenerator(16, ngf=2, mask_channels=4))
    assert "(+4990 more)" in refusal(official.load_generator, state | strange)
    tiny_pair().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {f"text_encoder.{key}": value for key, value in strange.items()}, path)
    refusal(EncoderPair.from_pretrained, tmp_path)
    refusal(official.load_generator, dict.fromkeys(strange, 1))
    refusal(official.load_generator, {3: torch.zeros(1), "a": torch.zeros(1)})  # keys that cannot be sorted
    refusal(official.load_generator, ["x" * 10**6])


FILES = {
    "empty": b"",
    "text": b"This is not a checkpoint.\n" * 100,
    "letter e": b"e" * 1000,
    "zip of nothing": b"PK\x05\x06" + bytes(18),
    "noise": bytes(range(256)) * 64,
    "null": bytes(4096),
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_of_something_else_is_named(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(FILES[content])
    for load in (official.load_generator, official.load_text_encoder):
        assert str(path) in refusal(load, path)
    assert str(path) in refusal(lambda: read_inception(path, sha256=hashlib.sha256(FILES[content]).hexdigest()))
    tiny_pair().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(FILES[content])
    assert str(tmp_path) in refusal(EncoderPair.from_pretrained, tmp_path)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    torch.save(official.export(LSTMTextEncoder(9, 6, 10)), tmp_path / "weights.pth")
    tiny_pair().save_pretrained(tmp_path)
    for name, load in (
        ("weights.pth", lambda: official.load_text_encoder(tmp_path / "weights.pth")),
        ("model.safetensors", lambda: EncoderPair.from_pretrained(tmp_path)),
        ("config.json", lambda: EncoderPair.from_pretrained(tmp_path)),
    ):
        whole = (tmp_path / name).read_bytes()
        for share in (0.02, 0.5, 0.99):
            (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
            assert str(tmp_path) in refusal(load)
        (tmp_path / name).write_bytes(whole)
        load()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", "/dev/zero"):
        for load in (official.load_generator, official.load_image_encoder, read_inception):
            assert str(path) in refusal(load, path, error=OSError)
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / f"model of {name}"
        tiny_pair().save_pretrained(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert str(folder / name) in refusal(EncoderPair.from_pretrained, folder, error=OSError)

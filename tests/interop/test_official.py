"""Published checkpoints in and out: every key is accounted for."""

import pickle

import pytest
import torch

from t2ilayers.encoders import InceptionImageEncoder, LSTMTextEncoder
from t2ilayers.interop import official
from t2ilayers.models import MatchingAwareDiscriminator, SSAGenerator

from published import official_keys, weights

SMALL = {
    "load_generator": lambda: SSAGenerator(32, ngf=2, z_dim=12, cond_dim=10, mask_channels=7, hidden_dim=9),
    "load_discriminator": lambda: MatchingAwareDiscriminator(256, ndf=2, cond_dim=10),
    "load_text_encoder": lambda: LSTMTextEncoder(17, embed_dim=6, cond_dim=10),
    "load_image_encoder": lambda: InceptionImageEncoder(cond_dim=10),
}

SLOW = ("load_image_encoder", "module.")  # Inception takes seconds to make: once, and from a file, it is enough


@pytest.mark.parametrize(
    ("loader", "prefix"),
    [(loader, prefix) for loader in SMALL for prefix in ("", "module.") if (loader, prefix) != SLOW],
)
def test_sizes_are_inferred_and_weights_arrive(loader, prefix, tmp_path):
    model = SMALL[loader]().eval()
    state = {prefix + key: value for key, value in official.export(model).items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    for source in (path,) if loader == SLOW[0] else (state, path, str(path)):
        loaded = getattr(official, loader)(source)
        assert not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("loader", "kind"),
    [("load_text_encoder", "text_encoder"), ("load_image_encoder", "image_encoder")],
)
def test_published_encoders_load_by_their_own_keys(loader, kind):
    state = weights(official_keys()[kind])
    exported = official.export(getattr(official, loader)(state))
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[key], state[key]) for key in state)


def test_entries_that_nothing_uses_may_be_there_or_not():
    state = official.export(MatchingAwareDiscriminator(256, ndf=2))
    unused = [key for key in official_keys()["netD"] if key.startswith(("block4.conv_s", "block5.conv_s"))]
    assert len(unused) == 4
    with_them, without = dict(state), {key: value for key, value in state.items() if key not in unused}
    for key in unused:
        with_them[key] = torch.randn_like(state[key])
    for source in (with_them, without):
        assert official.load_discriminator(source).image_size == 256


@pytest.mark.parametrize("loader", SMALL)
def test_unknown_missing_and_misshapen_keys_are_named(loader):
    state = official.export(SMALL[loader]())
    load = getattr(official, loader)
    key = next(key for key in reversed(state) if state[key].dim() and "conv_s" not in key)
    with pytest.raises(ValueError, match="unknown key surprise"):
        load(state | {"surprise": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"missing key {key}"):
        load({k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=f"misshapen key {key}"):
        load(state | {key: torch.zeros(3, *state[key].shape)})


def test_another_kind_of_checkpoint_or_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be those of a published generator \("):
        official.load_generator(official.export(SMALL["load_text_encoder"]()))
    with pytest.raises(ValueError, match=r"a state dict of tensors, got a mapping with keys state_dict \(dict\)"):
        official.load_generator({"state_dict": {}})
    with pytest.raises(FileNotFoundError):
        official.load_generator(tmp_path / "nothing.pth")
    with pytest.raises(TypeError, match="got Linear"):
        official.export(torch.nn.Linear(2, 2))


def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name, save in (
        ("zip.pth", torch.save),
        ("raw.pth", lambda o, f: f.write_bytes(pickle.dumps(o, protocol=2))),
    ):
        save({"fc.weight": Hostile()}, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is no checkpoint of plain tensors"):
            official.load_generator(tmp_path / name)
    assert not (tmp_path / "ran").exists()

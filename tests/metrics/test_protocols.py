"""The ways of computing FID: resizing by its formula, the networks by their published keys and pooling."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from t2ilayers.encoders.inception import InceptionV3Trunk
from t2ilayers.encoders.inception_weights import KNOWN_WEIGHTS
from t2ilayers.metrics import PROTOCOLS, InceptionV3, PictureStatistics

from published import data, official_keys

AUXILIARY = {
    "AuxLogits.conv0.conv.weight": (128, 768, 1, 1),
    "AuxLogits.conv1.bn.running_var": (768,),
    "AuxLogits.fc.weight": (1000, 768),
}


@pytest.fixture(scope="module")
def networks():
    return {kind: InceptionV3.random(kind, seed=0) for kind in ("tensorflow-2015", "torchvision")}


def published_shapes(classes):
    shapes = {k: tuple(v) for k, v in official_keys()["image_encoder"].items() if not k.startswith("emb_")}
    return shapes | {"fc.weight": (classes, 2048), "fc.bias": (classes,)}


# Resizing


def cubic(x):
    """Keys' kernel with a = -1/2, which Pillow uses."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def triangle(x):
    return max(0.0, 1 - abs(x))


def resampling(side, kernel, radius, *, antialias):
    """The matrix ``(299, side)`` that resamples one axis between pixel centres."""
    step = side / 299
    width = max(step, 1.0) if antialias else 1.0
    matrix = np.zeros((299, side))
    for i in range(299):
        centre = (i + 0.5) * step - 0.5
        for j in range(math.floor(centre - radius * width), math.ceil(centre + radius * width) + 1):
            inside = min(max(j, 0), side - 1)
            if antialias and inside != j:
                continue  # Pillow leaves out what lies beyond the edge; bilinear repeats the edge
            matrix[i, inside] += kernel((j - centre) / width)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("height", [20, 299, 400])
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_pictures_are_prepared_by_the_formula(name, height):
    fifths = data("picture", (2, 3, height, 64), 0, 5 * 255).round()  # of a pixel value: no ties to round
    images = fifths / (5 * 127.5) - 1
    if name == "df-legacy":
        pixels = (images.double().numpy() + 1) / 2
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        expected = pixels * (std / 0.5)[:, None, None] + ((mean - 0.5) / 0.5)[:, None, None]
    else:
        eight_bits = np.floor((images.double().numpy() + 1) * 127.5 + 0.5)
        expected = (eight_bits - 128) / 128 if name == "clean" else 2 * (eight_bits / 255) - 1
    kernel, radius = (cubic, 2) if name == "clean" else (triangle, 1)
    rows, columns = (resampling(side, kernel, radius, antialias=name == "clean") for side in (height, 64))
    expected = rows @ expected @ columns.T
    prepared = PROTOCOLS[name].prepare(images)
    assert prepared.dtype == torch.float32
    np.testing.assert_allclose(prepared, expected, atol=3e-5)


def test_bicubic_overshoots_and_is_not_cut_off():
    images = torch.full((1, 3, 64, 64), -1.0)
    images[..., 32:] = 1.0
    prepared = PROTOCOLS["clean"].prepare(images)
    assert prepared.min() < -1.05
    assert prepared.max() > 1.05


def test_pictures_beyond_the_range_are_as_if_saved():
    images = torch.tensor([-1.5, 1.5]).repeat_interleave(3).reshape(2, 3, 1, 1).expand(2, 3, 32, 32)
    prepared = PROTOCOLS["pytorch-fid"].prepare(images)
    torch.testing.assert_close(prepared.mean((1, 2, 3)), torch.tensor([-1.0, 1.0]))
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(3, 8, 8\)"):
        PROTOCOLS["clean"].prepare(torch.zeros(3, 8, 8))


# Networks


@pytest.mark.parametrize(
    ("kind", "classes", "parameters"), [("tensorflow-2015", 1008, 23_850_960), ("torchvision", 1000, 23_834_568)]
)
def test_keys_and_sizes_are_the_published_ones(networks, kind, classes, parameters):
    network = networks[kind]
    ours = {key.removeprefix("trunk."): tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == published_shapes(classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def average_of_what_is_there(x):
    """3x3 average that divides by the number of pixels inside of the map."""
    total = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.ones(x.shape[1], 1, 3, 3), groups=x.shape[1])
    rows, columns = (torch.full((side,), 3.0) for side in x.shape[2:])
    rows[[0, -1]] -= 1
    columns[[0, -1]] -= 1
    return total / torch.outer(rows, columns)


def average_with_zeros(x):
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.full((x.shape[1], 1, 3, 3), 1 / 9), groups=x.shape[1])


def largest(x):
    return F.unfold(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3).unflatten(1, (-1, 9)).amax(2).reshape(x.shape)


@pytest.mark.parametrize(
    ("pooling", "average", "last"),
    [("tensorflow", average_of_what_is_there, largest), ("torchvision", average_with_zeros, average_with_zeros)],
)
def test_branches_pool_as_published(pooling, average, last):
    torch.manual_seed(0)
    trunk = InceptionV3Trunk(pooling).eval()
    stages = [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c")]
    given, pooled = {}, {}
    for name in stages:
        stage = trunk.get_submodule(name)
        stage.register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0].clone()}))
        stage.branch_pool.register_forward_pre_hook(lambda _, args, name=name: pooled.update({name: args[0]}))
    with torch.no_grad():
        trunk(torch.randn(1, 3, 171, 139))
    for name in stages:
        expected = (last if name == "Mixed_7c" else average)(given[name])
        torch.testing.assert_close(pooled[name], expected, msg=lambda text, name=name: f"{name}: {text}")


def test_random_networks_are_drawn_by_their_seed(networks):
    state = torch.get_rng_state()
    again, other = (InceptionV3.random("torchvision", seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.fc.weight, networks["torchvision"].fc.weight)
    assert not torch.equal(other.fc.weight, again.fc.weight)
    assert (again.source, again.sha256) == ("random:0", None)


def test_logits_with_and_without_bias(networks):
    network, features = networks["torchvision"], data("features", (2, 2048), 0, 1)
    weight, bias = network.fc.weight.double(), network.fc.bias.double()
    torch.testing.assert_close(
        network.logits(features).double(), features.double() @ weight.T + bias, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        network.logits(features, bias=False).double(), features.double() @ weight.T, rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="pooling must be one of torchvision, tensorflow"):
        InceptionV3Trunk("caffe")
    with pytest.raises(ValueError, match="kind must be one of tensorflow-2015, torchvision, got 'v4'"):
        InceptionV3("v4")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_from_a_file(networks, tmp_path):
    """As torchvision's first file: an auxiliary classifier, and no batch counters."""
    state = {
        key.removeprefix("trunk."): value
        for key, value in networks["torchvision"].state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    path = tmp_path / "weights.pth"
    torch.save(state | {key: torch.zeros(shape) for key, shape in AUXILIARY.items()}, path)
    network = InceptionV3.from_file(path, sha256=sha256(path).upper())
    assert (network.kind, network.source, network.sha256) == ("torchvision", str(path), sha256(path))
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in networks["torchvision"].state_dict().items())

    with pytest.raises(ValueError, match=f"SHA-256 {sha256(path)}, which is not the expected 00"):
        InceptionV3.from_file(path, sha256="00")
    with pytest.raises(ValueError, match=f"none of pt_inception-2015.*its SHA-256 is {sha256(path)}"):
        InceptionV3.from_file(path)


def test_known_files_are_named_by_their_hash():
    """PyTorch's hub puts the first eight digits of a file's hash into its name."""
    for digest, name in KNOWN_WEIGHTS.items():
        assert len(bytes.fromhex(digest)) == 32
        assert name.endswith(f"-{digest[:8]}.pth")


def test_every_key_is_accounted_for(tmp_path):
    path = tmp_path / "weights.pth"

    def refused(state):
        torch.save(state, path)
        with pytest.raises(ValueError, match=path.name) as refusal:
            InceptionV3.from_file(path, sha256=sha256(path))
        return str(refusal.value)

    one = torch.zeros(1)
    text = refused({"fc.weight": torch.zeros(1008, 2048), "Mixed_5b.branch1x1.bn.bias": one, "strange": one})
    assert "unknown key strange;" in text
    assert "misshapen key Mixed_5b.branch1x1.bn.bias: must be (64,), got (1,);" in text
    assert "missing key Conv2d_1a_3x3.conv.weight;" in text
    assert "num_batches_tracked" not in text
    # 94 convolutions with a weight and four of a norm, and fc.bias, less the one that is misshapen.
    assert text.endswith(f"(+{94 * 5 + 1 - 1 + 2 - 10} more)")
    assert "must be (1008, 2048) or (1000, 2048), got (10, 2048)" in refused({"fc.weight": torch.zeros(10, 2048)})
    assert "missing key fc.weight; it has strange" in refused({"strange": one})
    assert "must be a state dict of tensors, got list" in refused([one])
    assert "no checkpoint of plain tensors" in refused(sha256)  # a pickled function
    with pytest.raises(FileNotFoundError):
        InceptionV3.from_file(tmp_path / "none.pth")


# Statistics


def test_statistics_are_of_the_features_and_scores_of_the_logits(networks):
    protocol, network = replace(PROTOCOLS["clean"], splits=5), networks["tensorflow-2015"]
    pictures = data("pictures", (5, 3, 32, 32), -1, 1)
    statistics = PictureStatistics(protocol, network)
    for part in pictures.split(2):
        statistics.update(part)
    with torch.no_grad():
        features = network(protocol.prepare(pictures))
    np.testing.assert_allclose(statistics.gaussian().sigma, np.cov(features.numpy(), rowvar=False), atol=1e-5)
    assert statistics.inception_score() == pytest.approx((1.0, 0.0))  # splits of one picture
    with pytest.raises(ValueError, match="weights must be tensorflow-2015 for clean, got torchvision"):
        PictureStatistics(protocol, networks["torchvision"])

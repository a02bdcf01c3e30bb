import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from t2ilayers import MatchingAwareDiscriminator, SSAGenerator
from t2ilayers.layers import ConditionalBatchNorm2d, DownBlock, SelfAttention2d, SSAConv, set_gates
from t2ilayers.models import CLIPBlock, DFBlock, RATGenerator

GATED = (SSAConv, DownBlock, DFBlock, CLIPBlock, SelfAttention2d)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SSAConv(4, 4, 5, mask_channels=3),
        lambda: DownBlock(4, 6),
        lambda: DFBlock(4, 6, 5, gated=True),
        lambda: CLIPBlock(4, 4),
        lambda: SelfAttention2d(8),
        lambda: SSAGenerator(16, ngf=2, cond_dim=5),
        lambda: RATGenerator(16, ngf=2, cond_dim=5),
        lambda: MatchingAwareDiscriminator(16, ndf=2, cond_dim=5, projection=True),
    ],
)
def test_every_gate_is_set_and_nothing_else(make):
    module = make()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    set_gates(module, 0.5)
    after = module.state_dict()
    gates = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert gates == {key for key in after if key == "gamma" or key.endswith(".gamma")}
    assert len(gates) == sum(type(part) in GATED for part in module.modules()) > 0
    assert all(after[key].item() == 0.5 for key in gates)


def test_a_generator_sees_the_sentence_from_the_first_step_on():
    """At 0 nothing of the sentence reaches the picture, whatever the norms make of it."""
    torch.manual_seed(0)
    generator = SSAGenerator(16, ngf=2, cond_dim=5)
    for name, parameter in generator.named_parameters():
        if "norm" in name:  # affines start at the identity, too
            nn.init.normal_(parameter, std=0.3)
    z = torch.randn(1, 100).expand(2, -1)
    one, other = generator(z, torch.randn(2, 5)).images
    assert torch.equal(one, other)
    set_gates(generator, 1.0)
    one, other = generator(z, torch.randn(2, 5)).images
    assert not torch.allclose(one, other, atol=1e-3)


def test_scales_of_norms_are_no_gates():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.zeros(3))
            self.norm = ConditionalBatchNorm2d(4, 5)
            self.block = DownBlock(3, 3)

    module = Scaled()
    set_gates(module, 2.0)
    assert not module.gamma.any()
    assert module.block.gamma.item() == 2.0


def test_a_parametrized_gate_is_set_through_its_parametrization():
    class Exponential(nn.Module):
        def forward(self, x):
            return x.exp()

        def right_inverse(self, y):
            return y.log()

    block = DownBlock(3, 3)
    block.gamma.data.fill_(1.0)
    parametrize.register_parametrization(block, "gamma", Exponential())
    set_gates(block, 3.0)
    assert block.gamma.item() == pytest.approx(3.0)
    assert block.parametrizations.gamma.original.item() == pytest.approx(torch.tensor(3.0).log().item())


@pytest.mark.parametrize(
    ("module", "value", "message"),
    [
        (DownBlock(3, 3), float("nan"), "value must be finite, got nan"),
        (DownBlock(3, 3), float("inf"), "value must be finite, got inf"),
        (DFBlock(3, 3, 4), 1.0, "a learned scalar gamma, got DFBlock without"),
    ],
)
def test_gate_errors(module, value, message):
    with pytest.raises(ValueError, match=message):
        set_gates(module, value)

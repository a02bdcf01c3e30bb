"""GALIP against the figures of the published modules and training loop, around a CLIP of transformers."""

import sys

import pytest
import torch
from torch import nn

from golden_family import assert_entry, counts, data, family, gauss, given, weight, weights
from t2ilayers.interop import official
from t2ilayers.interop._registry import format_of
from t2ilayers.losses import gradient_penalty
from t2ilayers.models import (
    CLIPImageEncoder,
    DFBlock,
    DFGenerator,
    GALIPDiscriminator,
    GALIPGenerator,
    MatchingAwareDiscriminator,
)
from t2ilayers.training import CLIPSimilarity, MatchingAwareConfig, MatchingAwareStep

FIGURES, METADATA = family("galip")
CASES, STEP = METADATA["cases"], METADATA["step"]
# What the keys of a block do not tell.
UNTOLD = {"gblock.8": {"size": 8}, "gblock.16": {"size": 16}, "gblock.28": {"size": 28}, "netC": {"cond_dim": 48}}
BLOCKS = [case for case in CASES if case.startswith(("dfblk", "mblock", "gblock", "dblock", "netC"))]


def flat(result):
    """All numbers of a result, in the published order."""
    if isinstance(result, torch.Tensor):
        return result.flatten()
    return torch.cat([part.flatten() for part in result])


def check(case, call, modules=()):
    """``call`` of a case's inputs, its gradients by them, and those of the published parameters of modules."""
    facts = CASES[case]
    inputs = [given(rule) for rule in facts["inputs"]]
    y = flat(call(*inputs))
    assert_entry(y, FIGURES, f"{case}.y", limit=facts["limit"])
    if not y.requires_grad:
        return
    (y * data(f"openw:{case}", (y.numel(),), -1, 1)).sum().backward()
    for i, x in enumerate(x for x in inputs if x.requires_grad):
        assert_entry(x.grad, FIGURES, f"{case}.d{i}", limit=facts["limit"])
    if facts["params"]:
        assert_entry(norms(facts["params"], modules, gradient_norm), FIGURES, f"{case}.gradnorms")
    with torch.no_grad():
        assert_entry(flat(call(*inputs)), FIGURES, f"{case}.eval", limit=facts["limit"])


def gradient_norm(parameter, key):
    return torch.zeros(()).double() if parameter.grad is None else parameter.grad.norm()


def norms(published, modules, value, unused=lambda key: torch.zeros(()).double()):
    """A value of each published parameter, and of those that nothing uses, which ours do not have."""
    found = {}
    for module in modules:
        parameters = dict(module.named_parameters())
        for theirs, ours in format_of(module).keys(module).items():
            theirs = theirs.removeprefix("netD.").removeprefix("netC.")
            if ours in parameters:
                found[theirs] = value(parameters[ours], theirs)
    return torch.stack([found[key] if key in found else unused(key) for key in published])


@pytest.mark.parametrize("case", BLOCKS)
def test_a_block_has_the_figures_of_the_published_one(case):
    state = weights(CASES[case]["keys"])
    layer = official.load_layer(state, **UNTOLD.get(case, {})).double()
    check(case, layer, [layer])
    exported = official.export(layer)
    assert exported.keys() == state.keys()
    assert all(torch.equal(value, state[key]) or not value.any() for key, value in exported.items())


def discriminator():
    states = {network: weights(STEP["shapes"][network]) for network in ("netD", "netC")}
    return official.load_discriminator({"model": states}).double(), states


def test_the_trunk_of_the_discriminator_has_the_published_figures_and_keys():
    model, states = discriminator()
    check("netD", model.features, [model])
    exported = official.export(model)
    assert exported.keys() == {f"{network}.{key}" for network, state in states.items() for key in state}
    for loaded in (
        official.load_discriminator(exported),
        official.load_discriminator(states["netD"], head=states["netC"]),
    ):
        assert all(
            torch.equal(value, model.state_dict()[key]) for key, value in loaded.double().state_dict().items()
        )
    with pytest.raises(ValueError, match="give its state dict as head"):
        official.load_discriminator(states["netD"])


# From CLIP's own names to those of transformers.
TOWER = {
    "ln_pre": "pre_layrnorm", "ln_post": "post_layernorm", "ln_final": "final_layer_norm",
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn": "self_attn", "c_fc": "fc1", "c_proj": "fc2",
    "class_embedding": "embeddings.class_embedding", "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight", "conv1": "embeddings.patch_embedding",
    "transformer.resblocks": "encoder.layers",
}  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    """The CLIP of the figures in float64, made of random weights without a download."""
    transformers = pytest.importorskip("transformers")
    sizes = STEP["config"]
    text = {"hidden_size": sizes["text_width"], "intermediate_size": 4 * sizes["text_width"],
            "num_hidden_layers": 2, "num_attention_heads": sizes["text_heads"], "vocab_size": sizes["vocab"],
            "max_position_embeddings": sizes["context"], "hidden_act": "quick_gelu",
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    vision = {"hidden_size": sizes["width"], "intermediate_size": 4 * sizes["width"], "num_hidden_layers": 12,
              "num_attention_heads": sizes["width"] // 64, "image_size": 224, "patch_size": 32,
              "hidden_act": "quick_gelu"}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes["embed"])
    model = transformers.CLIPModel(config).double().eval()
    state = {}
    for key, shape in STEP["shapes"]["clip"].items():
        value, side = weight(key, shape), "vision_model." if key.startswith("visual.") else "text_model."
        name = key.removeprefix("visual.")
        if key == "logit_scale":
            state[key] = value
        elif key in ("text_projection", "visual.proj"):
            state["text_projection.weight" if key == "text_projection" else "visual_projection.weight"] = value.T
        elif "in_proj_" in key:
            path, leaf = name.replace("transformer.resblocks", "encoder.layers").split("attn.in_proj_")
            for part, third in zip("qkv", value.chunk(3), strict=True):
                state[f"{side}{path}self_attn.{part}_proj.{leaf}"] = third
        else:
            for theirs, ours in TOWER.items():
                name = name.replace(theirs, ours)
            state[side + name] = value
    model.load_state_dict(state)
    return model


def generator():
    pytest.importorskip("transformers")
    state = weights(STEP["shapes"]["netG"])
    return official.load_generator({"model": {"netG": state}}).double(), state


def test_the_generator_and_its_parts_have_the_published_figures_and_keys():
    model, state = generator()
    assert not any(p.requires_grad for p in model.adapter.mapper.parameters())
    exported = official.export(model)
    assert exported.keys() == state.keys()
    for key, value in exported.items():
        assert torch.equal(value, state[key]) or key == "mapping.CLIP_ViT.conv1.weight"
    check("netG", lambda z, cond: model(z, cond).images, [model])
    model.zero_grad()
    check("adapter", model.adapter, [model.adapter])
    check("mapper", model.adapter.mapper)
    part = {key.removeprefix("mapping."): value for key, value in exported.items() if key.startswith("mapping.")}
    assert official.export(official.load_layer(part)).keys() == part.keys()


@pytest.mark.parametrize("case", ["clip.image", "clip.image224"])
def test_pictures_are_seen_as_by_the_published_encoder(clip, case):
    encoder = CLIPImageEncoder(clip)
    check(case, encoder)


def test_sentences_of_transformers_are_the_published_ones(clip):
    def encode(tokens):
        output = clip.text_model(tokens)
        return clip.text_projection(output.pooler_output), output.last_hidden_state

    with torch.no_grad():
        check("clip.text", encode)


class GivenNoise(MatchingAwareStep):
    """The step with noise that the figures were made with."""

    def _noise(self, count, device):
        return self.noise


def test_a_training_iteration_is_that_of_the_published_loop(clip):
    n, embed = STEP["config"]["batch"], STEP["config"]["embed"]
    ours, _ = generator()
    judge, _ = discriminator()
    encoder = CLIPImageEncoder(clip)
    sentence, images = data("openstep.c", (n, embed), -1, 1), data("openstep.img", (n, 3, 256, 256), -1, 1)
    step = GivenNoise(
        ours, judge, lambda batch: batch["sentence"], MatchingAwareConfig(mismatched="wrapped", ema=0.0),
        encoder=lambda pictures: encoder(pictures).maps, text_image_loss=CLIPSimilarity(encoder),
    )  # fmt: skip
    step.noise = gauss("openstep.z", (n, 100))
    rule = weights(STEP["shapes"]["netD"])
    start = {id(p): p.detach().clone() for m in (ours, judge) for p in m.parameters()}
    seen = {}
    for player, optimizer, module in (("g", step.g_optimizer, ours), ("d", step.d_optimizer, judge)):
        published = STEP[f"{player}_params"]
        optimizer.register_step_pre_hook(
            lambda *_, player=player, module=module, published=published: seen.update(
                {player: norms(published, [module], gradient_norm)}
            )
        )

    with torch.no_grad():
        maps = encoder(images).maps
        logits = [judge(maps, sentence), judge(maps, sentence.roll(-1, 0))]
        drawn = encoder(ours(step.noise, sentence).images).maps
        logits.append(judge(drawn, sentence))
    assert_entry(torch.cat(logits), FIGURES, "step.logits")
    inputs = maps.requires_grad_(), sentence.clone().requires_grad_()
    gradients = torch.autograd.grad(judge(*inputs).sum(), inputs)
    squared = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)
    assert_entry(squared.sqrt(), FIGURES, "step.magp.sample_norms")
    penalty = gradient_penalty(judge(*inputs), inputs)

    batch = {"image": images, "sentence": sentence, "class_ids": torch.arange(n), "tokens": torch.ones(n, 1)}
    losses = step(batch, 0)
    torch.testing.assert_close(losses["penalty/matching_aware"], penalty.detach())
    judged = [losses[f"discriminator/{name}"] for name in ("real", "fake", "mismatched")]
    total = losses["generator/adversarial"] + 4 * losses["generator/clip"]
    found = [*judged, losses["penalty/matching_aware"], total, -losses["generator/clip"]]
    assert_entry(torch.stack(found), FIGURES, "step.losses")
    after = []
    for player, module, rate in (("g", ours, 1e-4), ("d", judge, 4e-4)):
        published = STEP[f"{player}_params"]
        assert_entry(seen[player], FIGURES, f"step.{player}.gradnorms")

        def move(p, key, rate=rate):
            along = data(f"openstep:{key}", p.shape, -1, 1)
            return ((p.detach() - start[id(p)]) / rate * along).sum() / p.numel() ** 0.5

        assert_entry(norms(published, [module], move), FIGURES, f"step.{player}.move", tolerance=1e-5)
        after.append(norms(published, [module], lambda p, key: p.detach().norm(), lambda key: rule[key].norm()))
    assert_entry(torch.cat(after), FIGURES, "step.paramnorms")
    frozen = list(ours.adapter.mapper.parameters())
    assert all(torch.equal(p, start[id(p)]) and p not in step.g_optimizer.state for p in frozen)


def test_as_many_parameters_as_published():
    transformers = pytest.importorskip("transformers")
    count = counts("galip")
    with torch.device("meta"):
        base = transformers.CLIPVisionConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, hidden_act="quick_gelu"
        )
        vision = transformers.CLIPVisionModel(base)
        model, judge = GALIPGenerator(vision), GALIPDiscriminator()
        exported = official.export(model)
        assert len(exported) == 525
        assert sum("CLIP_ViT." in key for key in exported) == 149
        assert sum(value.numel() for value in exported.values()) == count["netG"]
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count["netG_trainable"]
        assert sum(value.numel() for value in official.export(judge).values()) == count["netD"] + count["netC"]


def small_clip():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 1,
             "image_size": 24, "patch_size": 8, "hidden_act": "quick_gelu"}  # fmt: skip
    torch.manual_seed(0)
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**sizes))


def test_around_another_clip():
    clip = small_clip()
    model = GALIPGenerator(clip, ngf=2, z_dim=6, cond_dim=10, prompted=(1, 2))
    assert [block.size for block in model.blocks] == [4, 8, 16, 24]
    images = model(torch.randn(2, 6), torch.randn(2, 10)).images
    assert images.shape == (2, 3, 24, 24)
    seen = CLIPImageEncoder(clip, layers=(0, 2))(images)
    assert seen.maps.shape == (2, 2, 64, 3, 3)
    loaded = official.load_generator(official.export(model))
    assert (loaded.image_size, loaded.z_dim, loaded.cond_dim) == (24, 6, 10)
    assert loaded.adapter.mapper.prompted == (1, 2)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    for layers in ((), (2, 1), (1, 3), (-1, 0)):
        with pytest.raises(ValueError, match="in rising order and below 3"):
            CLIPImageEncoder(clip, layers=layers)


@pytest.mark.parametrize("damage", ["in_proj_weight", "positional_embedding", "fc_prompt.weight", "FBlocks.3"])
def test_a_damaged_generator_is_refused(damage):
    state = official.export(GALIPGenerator(small_clip(), ngf=2, z_dim=6, cond_dim=10, prompted=(1,)))
    for key in [key for key in state if damage in key]:
        if damage == "FBlocks.3":
            del state[key]
        else:
            state[key] = state[key][1:]
    with pytest.raises(ValueError, match=r"its shapes are|missing key|must have"):
        official.load_generator(state)


def test_without_transformers(monkeypatch):
    state = official.export(GALIPGenerator(small_clip(), ngf=2, prompted=(1,)))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 't2ilayers\[clip\]'"):
        official.load_generator(state)


def test_the_files_of_relatives_are_told_apart():
    df = official.export(DFGenerator(32, ngf=2, z_dim=12, cond_dim=10))
    assert isinstance(official.load_generator(df), DFGenerator)
    galip = official.export(GALIPDiscriminator(8, 8, 8, 4))
    for model in (MatchingAwareDiscriminator(32, ndf=2, max_width=8), MatchingAwareDiscriminator(32, ndf=2)):
        assert isinstance(official.load_discriminator(official.export(model)), MatchingAwareDiscriminator)
    assert isinstance(official.load_discriminator(galip), GALIPDiscriminator)


def test_pictures_in_place_of_maps_are_refused():
    with pytest.raises(ValueError, match="not from pictures"):
        GALIPDiscriminator(8, 8, 8, 4).features(torch.zeros(2, 3, 224, 224))


@pytest.mark.parametrize("hooked", [False, True])
def test_a_block_of_a_given_size_is_the_published_order_of_operations(hooked):
    """The affines and the shortcut before upsampling, where published code has them after it."""
    torch.manual_seed(0)
    block = DFBlock(6, 4, cond_dim=5, size=11).double()
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    if hooked:
        block.fuse1.register_forward_hook(lambda module, args, output: None)
    x, cond = torch.randn(2, 6, 5, 5).double(), torch.randn(2, 5).double()
    up = nn.functional.interpolate(x, (11, 11))
    residual = block.conv2(block.fuse2(block.conv1(block.fuse1(up, cond)), cond))
    torch.testing.assert_close(block(x, cond), block.shortcut(up) + residual)

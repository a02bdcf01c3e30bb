"""Every layer and model as its documentation writes it: children called, torch's functions between them."""

import torch
import torch.nn.functional as F

from t2ilayers import MatchingAwareDiscriminator, SSAConv, SSAGenerator
from t2ilayers.layers import (
    AttentionMatchingHead,
    ConditionalNorm2d,
    DFAffineBlock,
    DownBlock,
    FusedSequential,
    MaskPredictor,
    MatchingHead,
    PreActivationBlock,
    ProjectionHead,
    SelfAttention2d,
    SPADE2d,
)
from t2ilayers.models import (
    BigGANBlock,
    BridgeBlock,
    CLIPBlock,
    DFBlock,
    DFGenerator,
    ProjectionBlock,
    RATGenerator,
    SPADEBlock,
)

ACTIVATIONS = {
    "none": lambda z, slope: z,
    "relu": lambda z, slope: F.relu(z),
    "leaky_relu": F.leaky_relu,
    "silu": lambda z, slope: F.silu(z),
}


def up(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def affine(layer, xhat, gamma, beta, mask=1.0):
    scale = 1 + gamma * mask if layer.scale == "residual" else 1 - mask + gamma * mask
    return ACTIVATIONS[layer.activation](scale * xhat + beta * mask, layer.negative_slope)


def conditional(layer, x, cond, mask=1.0, upsample=1):
    x = up(x) if upsample == 2 else x
    gamma, beta = layer.gamma(cond)[:, :, None, None], layer.beta(cond)[:, :, None, None]
    return affine(layer, layer.normalize(x), gamma, beta, mask)


def spade(layer, x, labels):
    hidden = layer.shared(F.interpolate(labels, size=x.shape[2:], mode="nearest"))
    return affine(layer, layer.normalize(x), layer.gamma(hidden), layer.beta(hidden))


def df_affine(layer, x, cond):
    conds = [cond] * len(layer.gammas) if isinstance(cond, torch.Tensor) else cond
    for gamma, beta, e in zip(layer.gammas, layer.betas, conds, strict=True):
        x = gamma(e)[:, :, None, None] * x + beta(e)[:, :, None, None]
        x = ACTIVATIONS[layer.activation](x, layer.negative_slope)
    return x


def sequence(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def ssa_conv(block, x, cond):
    logits = sequence(block.mask_predictor.layers, x)
    if block.upsample:
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=True)
    mask = torch.sigmoid(logits)
    residual = block.conv1(conditional(block.norm1, x, cond, mask, upsample=2 if block.upsample else 1))
    residual = block.conv2(conditional(block.norm2, residual, cond, mask))
    shortcut = block.shortcut(x)
    return (up(shortcut) if block.upsample else shortcut) + block.gamma * residual


def down_block(block, x):
    return block.shortcut(F.avg_pool2d(x, 2)) + block.gamma * sequence(block.residual, x)


def matching_head(head, features, cond):
    joint = torch.cat([features, cond[:, :, None, None].expand(-1, -1, *features.shape[2:])], 1)
    return sequence(head.layers, joint).flatten()


def projection_head(head, features, cond):
    h = F.relu(features).sum((2, 3))
    return head.linear(h).flatten() + (head.embed(cond) * h).sum(1)


def attention(layer, x):
    query, key, value = layer.query(x), F.max_pool2d(layer.key(x), 2), F.max_pool2d(layer.value(x), 2)
    logits = torch.einsum("nchw,ncij->nhwij", query, key)
    weight = torch.softmax(logits.flatten(3), dim=3).view_as(logits)
    return x + layer.gamma * layer.out(torch.einsum("nhwij,ncij->nchw", weight, value))


def pre_activation(block, x):
    h = x if block.first else F.relu(x)
    residual = block.conv2(F.relu(block.conv1(h)))
    shortcut = block.shortcut(h if block.activated_shortcut else x)
    return F.avg_pool2d(residual + shortcut, 2) if block.downsample else residual + shortcut


def biggan_block(block, x, cond):
    h = block.conv1(up(conditional(block.norm1, x, cond)))
    return block.shortcut(up(x)) + block.conv2(conditional(block.norm2, h, cond))


def spade_block(block, x, labels):
    x = up(x)
    h = block.conv2(spade(block.norm2, block.conv1(spade(block.norm1, x, labels)), labels))
    return block.shortcut(spade(block.shortcut_norm, x, labels)) + h


def projection_block(block, x, *classes):
    def larger(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear") if block.upsample else x

    h = block.conv1(larger(block.norm1(x, *classes)))
    return block.shortcut(larger(x)) + block.conv2(block.norm2(h, *classes))


def attention_head(head, features, cond):
    everywhere = cond[:, :, None, None].expand(-1, -1, *features.shape[2:])
    weights = torch.sigmoid(sequence(head.attention, torch.cat([features, everywhere], 1)))
    places = F.softmax(weights.flatten(2), dim=2).view_as(weights)
    return matching_head(head.head, down_block(head.block, torch.cat([features, everywhere * places], 1)), cond)


def df_block(block, x, cond):
    first, second = (
        (cond, cond) if isinstance(cond, torch.Tensor) else (cond[: len(cond) // 2], cond[len(cond) // 2 :])
    )
    if block.size is not None:
        x = F.interpolate(x, (block.size, block.size), mode="nearest")
    elif block.upsample:
        x = up(x)
    residual = block.conv2(df_affine(block.fuse2, block.conv1(df_affine(block.fuse1, x, first)), second))
    return block.shortcut(x) + (residual if block.gamma is None else block.gamma * residual)


def bridge_block(block, x, cond):
    h = block.conv2(df_affine(block.fuse1, block.conv1(x), cond))
    return block.shortcut(x) + df_affine(block.fuse2, h, cond)


def clip_block(block, x, features):
    return block.shortcut(x) + block.gamma * sequence(block.residual, x) + block.beta * features


def df_generator(model, z, cond):
    x = model.fc(z).unflatten(1, (-1, 4, 4))
    for block in model.blocks:
        x = df_block(block, x, torch.cat([z, cond], 1) if model.version == "2022" else cond)
    return sequence(model.to_image, x)


def rat_generator(model, z, cond):
    x, cell = model.fc(z).unflatten(1, (-1, 4, 4)), model.condition
    h, c = cell.noise2h(z), cell.noise2c(z)
    for block in model.blocks:
        states = []
        for _ in range(4):
            i, f, g, o = (cond @ cell.W + h @ cell.U + cell.bias).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        x = df_block(block, x, states)
    return sequence(model.to_image, x)


def generator(model, z, cond):
    x = model.fc(z).unflatten(1, (-1, 4, 4))
    for block in model.blocks:
        x = ssa_conv(block, x, cond)
    return sequence(model.to_image, x)


def discriminator(model, images, cond):
    x = model.from_image(images)
    for block in model.blocks:
        x = down_block(block, x)
    return matching_head(model.head, x, cond)


FORMULAS = {
    ConditionalNorm2d: conditional,
    SPADE2d: spade,
    DFAffineBlock: df_affine,
    MaskPredictor: lambda predictor, x: sequence(predictor.layers, x),
    FusedSequential: sequence,
    SSAConv: ssa_conv,
    DownBlock: down_block,
    MatchingHead: matching_head,
    ProjectionHead: projection_head,
    SelfAttention2d: attention,
    PreActivationBlock: pre_activation,
    BigGANBlock: biggan_block,
    ProjectionBlock: projection_block,
    SPADEBlock: spade_block,
    AttentionMatchingHead: attention_head,
    DFBlock: df_block,
    BridgeBlock: bridge_block,
    CLIPBlock: clip_block,
    DFGenerator: df_generator,
    RATGenerator: rat_generator,
    SSAGenerator: generator,
    MatchingAwareDiscriminator: discriminator,
}


def written(module, *inputs):
    """What ``module`` must give for ``inputs``."""
    formula = next(formula for kind, formula in FORMULAS.items() if isinstance(module, kind))
    return formula(module, *inputs)

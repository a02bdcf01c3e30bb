"""SSA-GAN as plain PyTorch, the peer of benchmarks/model.py.

The arithmetic is the library's and the layout, names and order of operations those of the published code: every
block upsamples first and works at the high resolution, every norm has two MLPs of its own, the discriminator runs
once for each kind of pair, and DAMSM loops over the batch. Encoders and optimizers are torch's in both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilayers.losses import mismatched_pairs


class MLP(nn.Module):
    def __init__(self, cond_dim: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(cond_dim, 256)
        self.linear2 = nn.Linear(256, width)

    def forward(self, cond: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(cond)))


class Affine(nn.Module):
    def __init__(self, width: int, cond_dim: int) -> None:
        super().__init__()
        self.batch_norm2d = nn.BatchNorm2d(width, affine=False)
        self.fc_gamma = MLP(cond_dim, width)
        self.fc_beta = MLP(cond_dim, width)

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor) -> Tensor:
        xhat = self.batch_norm2d(x)
        weight = self.fc_gamma(cond)[:, :, None, None].expand(xhat.size()) * mask + 1
        bias = self.fc_beta(cond)[:, :, None, None].expand(xhat.size()) * mask
        return weight * xhat + bias


def mask_predictor(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, hidden, 3, 1, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 1, 1, 0)
    )


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int, hidden: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self.first = first
        self.c1 = nn.Conv2d(c_in, c_out, 3, 1, 1)
        self.c2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.affine0 = Affine(c_in, cond_dim)
        self.affine2 = Affine(c_out, cond_dim)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.c_sc = nn.Conv2d(c_in, c_out, 1, 1, 0) if c_in != c_out else None
        self.conv_mask = None if last else mask_predictor(c_out, hidden)

    def forward(self, x: Tensor, cond: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.first:
            x = F.interpolate(x, scale_factor=2)
            logits = F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=True)
        mask = torch.sigmoid(logits)
        h = self.c1(F.relu(self.affine0(x, cond, mask)))
        h = self.c2(F.relu(self.affine2(h, cond, mask)))
        y = (x if self.c_sc is None else self.c_sc(x)) + self.gamma * h
        return y, None if self.conv_mask is None else self.conv_mask(y)


class Generator(nn.Module):
    def __init__(
        self, image_size: int, ngf: int, z_dim: int = 100, cond_dim: int = 256, hidden: int = 100
    ) -> None:
        super().__init__()
        sides = [2**i for i in range(2, image_size.bit_length())]
        widths = [8 * ngf, *(ngf * min(8, image_size // side) for side in sides)]
        self.z_dim = z_dim
        self.fc = nn.Linear(z_dim, 8 * ngf * 16)
        self.conv_mask = mask_predictor(8 * ngf, hidden)
        for i in range(len(sides)):
            last = i == len(sides) - 1
            block = Block(widths[i], widths[i + 1], cond_dim, hidden, first=i == 0, last=last)
            self.add_module(f"block{i}", block)
        self.blocks = len(sides)
        self.conv_img = nn.Sequential(
            nn.BatchNorm2d(ngf), nn.LeakyReLU(0.2), nn.Conv2d(ngf, 3, 3, 1, 1), nn.Tanh()
        )

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        x = self.fc(z).view(len(z), -1, 4, 4)
        logits = self.conv_mask(x)
        for i in range(self.blocks):
            x, logits = self.get_submodule(f"block{i}")(x, cond, logits)
        return self.conv_img(x)


class DBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.learned = c_in != c_out
        self.conv_r = nn.Sequential(
            nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.LeakyReLU(0.2),
        )
        self.conv_s = nn.Conv2d(c_in, c_out, 1, 1, 0)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv_s(x) if self.learned else x
        return F.avg_pool2d(shortcut, 2) + self.gamma * self.conv_r(x)


class Discriminator(nn.Module):
    def __init__(self, image_size: int, ndf: int, cond_dim: int = 256) -> None:
        super().__init__()
        self.blocks = image_size.bit_length() - 3
        widths = [ndf * min(16, 2**i) for i in range(self.blocks + 1)]
        self.conv_img = nn.Conv2d(3, ndf, 3, 1, 1)
        for i in range(self.blocks):
            self.add_module(f"block{i}", DBlock(widths[i], widths[i + 1]))
        self.COND_DNET = nn.Module()
        self.COND_DNET.joint_conv = nn.Sequential(
            nn.Conv2d(widths[-1] + cond_dim, 2 * ndf, 3, 1, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 4, 1, 0, bias=False),
        )

    def features(self, images: Tensor) -> Tensor:
        x = self.conv_img(images)
        for i in range(self.blocks):
            x = self.get_submodule(f"block{i}")(x)
        return x

    def match(self, features: Tensor, cond: Tensor) -> Tensor:
        joint = torch.cat([features, cond[:, :, None, None].repeat(1, 1, 4, 4)], 1)
        return self.COND_DNET.joint_conv(joint).flatten()


def similarity(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return (a * b).sum(dim) / (a.norm(2, dim) * b.norm(2, dim)).clamp(min=1e-8)


def damsm(
    regions: Tensor, code: Tensor, words: Tensor, sentence: Tensor, lengths: Tensor, classes: Tensor
) -> Tensor:
    """AttnGAN's two losses, caption by caption."""
    n = len(code)
    same = (classes[:, None] == classes) & ~torch.eye(n, dtype=torch.bool, device=code.device)
    targets = torch.arange(n, device=code.device)
    context = regions.flatten(2)  # (N, D, R)
    columns = []
    for i in range(n):
        word = words[i, :, : int(lengths[i])].unsqueeze(0).repeat(n, 1, 1)  # (N, D, L)
        attention = torch.bmm(context.transpose(1, 2), word)  # (N, R, L)
        attention = F.softmax(5.0 * F.softmax(attention, dim=2).transpose(1, 2), dim=2)  # (N, L, R)
        weighted = torch.bmm(context, attention.transpose(1, 2))  # (N, D, L)
        columns.append((5.0 * similarity(word, weighted, 1)).exp().sum(1).log())
    total: Tensor = torch.zeros((), device=code.device)
    global_scores = similarity(code[:, None], sentence[None], 2)
    for scores in (10.0 * torch.stack(columns, 1), 10.0 * global_scores):
        scores = scores.masked_fill(same, float("-inf"))
        total = total + F.cross_entropy(scores, targets) + F.cross_entropy(scores.t(), targets)
    return total


class Iteration:
    """Discriminator, its penalty as a step of its own, generator with DAMSM: as the published script goes."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, text: nn.Module, image: nn.Module, precision: str
    ) -> None:
        self.generator, self.discriminator, self.text, self.image = generator, discriminator, text, image
        self.precision = precision
        self.g = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.0, 0.9))
        self.d = torch.optim.Adam(discriminator.parameters(), lr=4e-4, betas=(0.0, 0.9))
        encoders = [p for module in (text, image) for p in module.parameters() if p.requires_grad]
        self.e = torch.optim.Adam(encoders, lr=4e-5, betas=(0.0, 0.9))

    def autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def __call__(self, batch: dict[str, Tensor]) -> None:
        images, tokens, lengths, classes = (batch[k] for k in ("image", "tokens", "lengths", "class_ids"))
        for encoder in (self.text, self.image):
            encoder.train()
        with self.autocast(images):
            text, seen = self.text(tokens, lengths), self.image(images)
        loss = damsm(
            seen.regions.float(), seen.code.float(), text.words.float(), text.sentence.float(), lengths, classes
        )
        step(self.e, loss)
        for encoder in (self.text, self.image):
            encoder.eval()
        with torch.no_grad(), self.autocast(images):
            text = self.text(tokens, lengths)
        sentence, words = text.sentence.float(), text.words.float()
        with self.autocast(images):
            fake = self.generator(torch.randn(len(images), self.generator.z_dim, device=images.device), sentence)
        discriminator = self.discriminator
        wrong_image, wrong_caption = mismatched_pairs(classes, tokens)
        with self.autocast(images):
            features = discriminator.features(images)
            real = discriminator.match(features, sentence).float()
            mismatched = discriminator.match(features[wrong_image], sentence[wrong_caption]).float()
            drawn = discriminator.match(discriminator.features(fake.detach().to(images.dtype)), sentence).float()
        loss = F.relu(1 - real).mean() + (F.relu(1 + drawn).mean() + F.relu(1 + mismatched).mean()) / 2
        step(self.d, loss)
        pictures, cond = images.clone().requires_grad_(), sentence.clone().requires_grad_()
        score = discriminator.match(discriminator.features(pictures), cond)
        grads = torch.autograd.grad(score, (pictures, cond), torch.ones_like(score), create_graph=True)
        norm = torch.cat([grad.flatten(1) for grad in grads], 1).square().sum(1).sqrt()
        step(self.d, 2 * norm.pow(6).mean())
        with self.autocast(images):
            adversarial = -discriminator.match(discriminator.features(fake), sentence).float().mean()
            seen = self.image(fake)
        similar = damsm(seen.regions.float(), seen.code.float(), words, sentence, lengths, classes)
        step(self.g, adversarial + 0.1 * similar)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

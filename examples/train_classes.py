"""Train a projection GAN, as cGAN-PD is trained, on the 48 classes of CaptionedShapes: shapes and colours.

python examples/train_classes.py --steps 2000 --out runs/classes

Hinge losses, ``--critic`` steps of the discriminator to one of the generator, Adam (0, 0.9), and a generator
averaged over steps. Writes a picture of every class to ``classes.png``, the averaged weights to ``generator.pt``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from t2ilayers.data import COLOURS, SHAPES, BatchDataset, CaptionedShapes
from t2ilayers.figures import sample_sheet, save_image
from t2ilayers.losses import hinge_discriminator_loss, hinge_generator_loss
from t2ilayers.models import ProjectionDiscriminator, ProjectionGenerator
from t2ilayers.training import EMA

NAMES = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]  # of class_ids


def train(args: argparse.Namespace) -> ProjectionGenerator:
    """The averaged generator after ``args.steps`` steps."""
    torch.manual_seed(args.seed)
    shapes = CaptionedShapes(image_size=32, seed=args.seed, max_objects=1)
    batches = BatchDataset(shapes, args.batch_size, seed=args.seed)
    generator = ProjectionGenerator(32, args.width, z_dim=64, num_classes=len(NAMES)).to(args.device)
    discriminator = ProjectionDiscriminator(32, args.width, num_classes=len(NAMES)).to(args.device)
    average = EMA(generator, decay=0.999)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=args.lr, betas=(0.0, 0.9))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=args.lr, betas=(0.0, 0.9))

    for step in range(args.steps):
        for k in range(args.critic):
            batch = batches[step * args.critic + k]
            images, classes = batch["image"].to(args.device), batch["class_ids"].to(args.device)
            with torch.no_grad():
                fake = generator(torch.randn(len(classes), 64, device=args.device), classes).images
            # Real and generated pictures in one pass: the spectral norm then takes one step for both.
            real, drawn = discriminator(torch.cat([images, fake]), classes.repeat(2)).chunk(2)
            d_loss = hinge_discriminator_loss(real, drawn).total
            d_optimizer.zero_grad()
            torch.autograd.backward(d_loss)
            d_optimizer.step()

        fake = generator(torch.randn(len(classes), 64, device=args.device), classes).images
        g_loss = hinge_generator_loss(discriminator(fake, classes))
        g_optimizer.zero_grad()
        torch.autograd.backward(g_loss)
        g_optimizer.step()
        average.update(generator, step)
        if step % 100 == 0 or step == args.steps - 1:
            print(f"step {step}  discriminator {d_loss.item():.3f}  generator {g_loss.item():.3f}", flush=True)
    return average.module


def main(argv: list[str] | None = None) -> None:
    """Train, then draw every class once."""
    parser = argparse.ArgumentParser(
        description="Train a projection GAN on the classes of drawn shapes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=5000, help="of the generator")
    parser.add_argument("--critic", type=int, default=2, help="steps of the discriminator to one of the generator")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=64, help="of both networks; 256 and 128 are published")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/classes"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    generator = train(args)
    with torch.no_grad():
        classes = torch.arange(len(NAMES), device=args.device)
        images = generator(torch.randn(len(NAMES), 64, device=args.device), classes).images
    save_image(sample_sheet(images.cpu(), NAMES, columns=len(COLOURS), min_side=96), args.out / "classes.png")
    torch.save(generator.state_dict(), args.out / "generator.pt")
    print(f"wrote {args.out / 'classes.png'} and {args.out / 'generator.pt'}")


if __name__ == "__main__":
    main()

"""SSA-GAN on COCO 2014 as published (arXiv 2104.00567 and its code).

    python -m t2ilayers.data.validate coco:data/coco \\
        --text-encoder data/DAMSMencoders/coco/text_encoder100.pth
    python examples/train_ssagan.py --config configs/coco.py --data coco:data/coco

The encoders are frozen: 0.1, the weight of DAMSM with trained ones, is published for CUB. To train them
nevertheless: --text-encoder joint --damsm-weight 0.1.
"""

from pathlib import Path

from t2ilayers.training import StepConfig
from training_config import Config

config = Config(
    data="coco:data/coco",
    out=Path("runs/coco"),
    # The model: 29,494,273 parameters in the generator, 78,280,326 in the discriminator.
    image_size=256,
    ngf=64,
    ndf=64,
    mask_channels=100,
    # Published encoders, pre-trained for 100 epochs; so there is no pre-training here.
    image_encoder="inception",
    image_encoder_weights=Path("data/DAMSMencoders/coco/image_encoder100.pth"),
    text_encoder_weights=Path("data/DAMSMencoders/coco/text_encoder100.pth"),
    damsm_steps=0,
    # 120 epochs of the 82,783 training pictures. The batch is that of all processes together.
    batch_size=24,
    steps=120 * 82_783 // 24,
    augment=True,
    step=StepConfig(
        text_encoder="frozen",
        damsm_weight=0.05,
        # Adam with betas (0, 0.9).
        lr_generator=1e-4,
        lr_discriminator=4e-4,
        lr_encoders=4e-5,
        # 2 mean(||gradient||^6), a second step of the discriminator. --penalty joint adds it to the one loss.
        penalty="two-step",
        penalty_weight=2.0,
        penalty_power=6.0,
        # Not published: there the last weights of the generator are sampled from, which is --ema 0.
        ema=0.999,
        # As published, on every machine; --precision bf16 is faster where there are units for it.
        precision="fp32",
    ),
    workers=4,
    sample_every=2_000,
    save_every=2_000,
)

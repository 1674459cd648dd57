"""A tokenizer of the labelled world, small enough that everything else fits into half an hour on two cores.

The shipped one has 1024 tokens an image, which is long for a next-token model on a CPU, and an encoder that hardly
reads shapes. This one has 64, and an encoder that was pretrained on the world's labels. Its phases are the toolkit's.
"""

from __future__ import annotations

from vqrae.model.config import DecoderConfig, EncoderConfig, VQRAEConfig
from vqrae.model.quantizers.config import SimVQConfig
from vqrae.training.config import PretrainConfig, PretrainWeights, Recipe, Stage1Config, Stage2Config, Stage2Weights

IMAGE_SIZE, PATCH, WIDTH, DEPTH, HEADS = 32, 4, 192, 6, 3


def world_tokenizer() -> VQRAEConfig:
    """32 px on an 8×8 grid: 2048 codes, features 192 wide."""
    network = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "vision_use_head": False,
    }
    return VQRAEConfig(
        name="vqrae-world",
        image_size=IMAGE_SIZE,
        encoder=EncoderConfig(family="siglip_vision_model", network=network),
        quantizer=SimVQConfig(codebook_size=2048, code_width=256, init="features"),
        decoder=DecoderConfig(width=WIDTH, depth=DEPTH, heads=HEADS, mlp_width=4 * WIDTH, patch_size=PATCH),
    )


def world_recipe() -> Recipe:
    """Minutes of one core; every image is a scene."""
    return Recipe(
        model=world_tokenizer(),
        pretrain=PretrainConfig(
            steps=900,
            batch_size=32,
            learning_rate=1e-3,
            encoder_learning_rate=1e-3,
            end_factor=0.02,
            warmup=100,
            weights=PretrainWeights(pixel=10),
            save_every=100,
        ),
        stage1=Stage1Config(
            steps=500, batch_size=16, learning_rate=1e-3, end_factor=0.1, warmup=50, scene_fraction=1, save_every=100
        ),
        stage2=Stage2Config(
            steps=500,
            batch_size=16,
            learning_rate=6e-4,
            encoder_learning_rate=3e-4,
            end_factor=0.02,
            warmup=50,
            scene_fraction=1,
            refit_codebook=True,
            # Enough to hold the probe here; at 1 the encoder hardly moves, and the codes stay coarse.
            weights=Stage2Weights(distillation=0.2),
            save_every=100,
        ),
    )

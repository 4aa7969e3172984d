"""Fashion-MNIST 28x28, wrn16_1 -> wrn10_1: the pair on which methods are compared, in minutes of one core.

    python experiments/distill.py --config=configs/fashion_mnist_small.py --workdir=runs/fashion_mnist_small

Small batches and many steps, since the first minutes count; the batch of the images is SSD-KD's own, the others make as
many as the student sees. What it reaches, and in how long: experiments/results/README.md.
"""

from ml_collections import ConfigDict

from ssdkd_jax import presets, recipes


def get_config(method: str = "ssdkd") -> ConfigDict:
    """With one of `presets.PRESETS`; `python -m ssdkd_jax.config` tells every field's meaning."""
    config = recipes.fashion_mnist("wrn16_1", "wrn10_1")
    config.data.folder = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
    config.student.update(batch=32, update_bn=32)
    config.synthesis.update(batch=32, inner_steps=24, width=16, class_code=8.0, bn=15.0, bn_past=0.8, adv=0.0)
    config.schedule.update(rounds=38, warmup=2, distill_steps=32, evaluate_every=4)
    return presets.apply(config, method)

"""Fashion-MNIST 28x28, wrn16_1 -> wrn10_1: the pair on which methods are compared, in minutes of one core.

    python experiments/distill.py --config=configs/fashion_mnist_small.py --workdir=runs/fashion_mnist_small

Small batches and many of them, since the first minutes count; the batch of the images is SSD-KD's own.
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults
from ssdkd_jax import presets


def get_config(method: str = "ssdkd") -> ConfigDict:
    """With one of `presets.PRESETS`; see ssdkd_jax/config.py for the meaning of every field."""
    config = defaults.default()
    config.data.update(name="fashion_mnist", folder="/usr/share/datasets/fashion-mnist")
    config.teacher.update(model="wrn16_1", epochs=8, batch=128, lr=0.2, flip=True)
    config.student.update(model="wrn10_1", batch=64, temperature=20.0, lr=0.2, weight_decay=1e-4, regression=10.0)
    config.synthesis.update(batch=32, inner_steps=24, width=32, latent=256, class_code=2.0, adv=0.0, flip=True, shift=2)
    config.buffer.update(size=6000, half_life=24.0)
    config.views.update(count=0, mixup=0.5)
    config.sampler.name = "uniform"
    config.schedule.update(rounds=22, warmup=4, distill_steps=24, evaluate_every=3)
    config.yardstick_steps = 0
    return presets.apply(config, method)

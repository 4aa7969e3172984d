"""Fashion-MNIST 28x28, wrn16_1 -> wrn10_1: the pair on which methods are compared, in minutes of one core.

    python experiments/distill.py --config=configs/fashion_mnist_small.py --workdir=runs/fashion_mnist_small

Small batches and many of them, since the first minutes count; the batch of the images is SSD-KD's own. Measured over
seeds 0, 1 and 2 with 19 of the 22 rounds (one core of a four-core EPYC, Python 3.11, jax 0.10.2): a teacher of 93.35 %
gave students of 82.30, 82.97 and 81.85 %, in 234 to 255 s for the whole process; the teacher's training is not in them.
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults
from ssdkd_jax import presets


def get_config(method: str = "ssdkd") -> ConfigDict:
    """With one of `presets.PRESETS`; see ssdkd_jax/config.py for the meaning of every field."""
    config = defaults.fashion_mnist("wrn16_1", "wrn10_1")
    config.student.batch = 64
    config.synthesis.update(batch=32, inner_steps=24, adv=0.0)
    config.schedule.update(rounds=22, warmup=4, distill_steps=24, evaluate_every=3)
    return presets.apply(config, method)

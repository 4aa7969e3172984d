"""Fashion-MNIST 28x28, wrn16_2 -> wrn16_1, a buffer of 6,000 synthetic images."""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    config = defaults.default()
    config.data.name = "fashion_mnist"
    config.data.folder = "/usr/share/datasets/fashion-mnist"
    config.teacher.update(model="wrn16_2", epochs=8, lr=0.2, flip=True)
    config.student.model = "wrn16_1"
    config.synthesis.update(batch=200, inner_steps=5)
    config.buffer.size = 6000
    config.schedule.update(rounds=60, warmup=10, distill_steps=50)
    config.measure_unit = True
    return config

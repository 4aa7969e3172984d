"""Fashion-MNIST 28x28, wrn16_2 -> wrn16_1, its student solved for from the teacher after the first round.

    python experiments/distill.py --config=configs/fashion_mnist_quick.py --workdir=runs/fashion_mnist_quick

Measured over seeds 0 and 1 (two cores of a shared machine at 2.3 GHz, Python 3.11, jax 0.10.2, nothing cached): a
teacher of 92.75 % gave students of 91.57 and 91.62 % in 350 and 290 s, compilation and evaluation included (68 and 67 s
of it evaluation); the teacher's training is not.
"""

from ml_collections import ConfigDict

from ssdkd_jax import presets, recipes


def get_config(method: str = "ssdkd") -> ConfigDict:
    """With one of `presets.PRESETS`; `python -m ssdkd_jax.config` tells every field's meaning."""
    config = recipes.fashion_mnist("wrn16_2", "wrn16_1")
    config.data.folder = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
    config.student.update(start="teacher", start_images=128, start_procedural=384)
    config.student.update(lr=0.03, temperature=4.0, regression=0.0)  # what suits a student that is good already
    config.synthesis.inner_steps = 20
    config.modulation.difficulty = True
    config.schedule.update(rounds=8, warmup=0, distill_steps=40, evaluate_every=8)
    return presets.apply(config, method)

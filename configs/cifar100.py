"""CIFAR-100, wrn40_2 -> wrn16_1, a buffer of 5,000 synthetic images (10 % of the real set).

    python experiments/distill.py --config=configs/cifar100.py --workdir=runs/cifar100

Meant for a GPU or TPU; not yet run at full length, so it has no measured time or accuracy of ours.
Published for this pair by Fast-DFKD (Fang et al., AAAI 2022, README of its repository): 41.77 %.
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    """See ssdkd_jax/config.py for the meaning of every field."""
    return defaults.cifar("cifar100")

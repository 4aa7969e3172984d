"""CIFAR-10 and the five pairs of the paper, a buffer of 5,000 synthetic images (10 % of the real set).

    python experiments/distill.py --config=configs/cifar10.py:resnet34_resnet18 --workdir=runs/cifar10

Without a pair, wrn40_2_wrn16_1. Meant for a GPU or TPU; not yet run at full length, so there is no measured
time or accuracy of ours. Published student accuracy of Fast-DFKD, an earlier method that stores every image
it makes (Fang et al., AAAI 2022; README of its repository, 'Fast-2'), in percent:

    resnet34_resnet18   92.62
    vgg11_resnet18      84.67
    wrn40_2_wrn16_1     88.36
    wrn40_2_wrn40_1     89.56
    wrn40_2_wrn16_2     89.68
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config(pair: str = "wrn40_2_wrn16_1") -> ConfigDict:
    """TEACHER_STUDENT, one of `defaults.PAIRS`; see ssdkd_jax/config.py for the meaning of every field."""
    return defaults.cifar("cifar10", pair)

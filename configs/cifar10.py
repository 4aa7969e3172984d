"""CIFAR-10 and the five pairs of the paper, a buffer of 5,000 synthetic images (10 % of the real set).

    python experiments/distill.py --config=configs/cifar10.py:resnet34_resnet18 --workdir=runs/cifar10

Without a pair, wrn40_2_wrn16_1. Meant for a GPU or TPU; not yet run at full length, so there is no measured
time or accuracy of ours. Published percentages (Fang et al., AAAI 2022; README of the repository Fast-Datafree;
Fast-2 and Fast-10 are that paper's data-free students, from a bank of 56,320 images in the end):

    pair               teacher  student on real  Fast-2  Fast-10
    resnet34_resnet18    95.70            95.20   92.62    94.05
    vgg11_resnet18       92.25            95.20   84.67    90.53
    wrn40_2_wrn16_1      94.87            91.12   88.36    89.29
    wrn40_2_wrn40_1      94.87            93.94   89.56    92.51
    wrn40_2_wrn16_2      94.87            93.95   89.68    92.45
"""

from ml_collections import ConfigDict

from ssdkd_jax import recipes


def get_config(pair: str = "wrn40_2_wrn16_1") -> ConfigDict:
    """TEACHER_STUDENT, one of `recipes.PAIRS`; `python -m ssdkd_jax.config` tells every field's meaning."""
    return recipes.cifar("cifar10", pair)

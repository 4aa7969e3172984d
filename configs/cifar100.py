"""CIFAR-100 and the five pairs of the paper, a buffer of 5,000 synthetic images (10 % of the real set).

    python experiments/distill.py --config=configs/cifar100.py:resnet34_resnet18 --workdir=runs/cifar100

Without a pair, wrn40_2_wrn16_1. Meant for a GPU or TPU; not yet run at full length, so there is no measured
time or accuracy of ours. Published percentages (Fang et al., AAAI 2022; README of the repository Fast-Datafree;
Fast-2 and Fast-10 are that paper's data-free students, from a bank of 56,320 images in the end):

    pair               teacher  student on real  Fast-2  Fast-10
    resnet34_resnet18    78.05            77.10   69.76    74.34
    vgg11_resnet18       71.32            77.10   62.83    67.44
    wrn40_2_wrn16_1      75.83            65.31   41.77    54.02
    wrn40_2_wrn40_1      75.83            72.19   53.15    63.91
    wrn40_2_wrn16_2      75.83            73.56   57.08    65.12
"""

from ml_collections import ConfigDict

from ssdkd_jax import recipes


def get_config(pair: str = "wrn40_2_wrn16_1") -> ConfigDict:
    """TEACHER_STUDENT, one of `recipes.PAIRS`; `python -m ssdkd_jax.config` tells every field's meaning."""
    return recipes.cifar("cifar100", pair)

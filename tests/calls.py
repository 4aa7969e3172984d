"""The library's calls on the tiny networks: what tests of them share."""

import tiny

import ssdkd_jax

SMALL = {"image_shape": tiny.SHAPE, "mean": tiny.INPUTS.mean, "std": tiny.INPUTS.std}


def teacher(variables):
    """The tiny teacher, handed over."""
    return ssdkd_jax.Teacher.from_linen(tiny.Tiny(tiny.CLASSES), variables, **SMALL)


def flat(w, x):
    """A function that is a network: x W."""
    return x.reshape(x.shape[0], -1) @ w


def small(**fields):
    """The plain configuration of a run without data, judged after each round."""
    return tiny.make_config(**{**tiny.PLAIN, "schedule__evaluate_every": 1, "data__name": "none", **fields})


def distil(teacher, **options):
    """A tiny student of a teacher, by the small config or another."""
    return ssdkd_jax.distill(teacher, tiny.Tiny(tiny.CLASSES), options.pop("config", small()), **options)

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
    """What compiles fastest."""
    plain = {"student__attention": 0.0, "synthesis__bn_past": 0.0, "synthesis__flip": False, "synthesis__shift": 0}
    plain |= {"views__count": 0, "views__flip": False, "views__shift": 0, "sampler__name": "uniform"}
    plain |= {"schedule__evaluate_every": 1, "data__name": "none"}
    return tiny.make_config(**plain | fields)


def distil(teacher, **options):
    """A tiny student of a teacher, by the small config or another."""
    return ssdkd_jax.distill(teacher, tiny.Tiny(tiny.CLASSES), options.pop("config", small()), **options)

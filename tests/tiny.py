"""Networks, configurations and states small enough for a test."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssdkd_jax import build, config, models
from ssdkd_jax.engine import loop

SHAPE, CLASSES, BATCH, SLOTS = (8, 8, 1), 3, 16, 20
INPUTS = build.Inputs(SHAPE, CLASSES, (0.4,), (0.3,))
PLAIN = dict(  # what compiles fastest
    student__attention=0.0,
    synthesis__bn_past=0.0,
    synthesis__flip=False,
    synthesis__shift=0,
    views__count=0,
    views__flip=False,
    views__shift=0,
    sampler__name="uniform",
)


class Tiny(nn.Module):
    """A user's own classifier: one strided convolution with BatchNorm."""

    classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(6, (3, 3), strides=(2, 2))(images)
        x = nn.tanh(nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


def before_batch_norm(variables, images):
    """What Tiny's BatchNorm sees of images [B, ...], by its convolution alone: float64 [B, 4, 4, 6]."""
    conv, x = variables["params"]["Conv_0"], (images - INPUTS.mean[0]) / INPUTS.std[0]
    h = jax.lax.conv_general_dilated(x, conv["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return np.asarray(h + conv["bias"], np.float64)


class Linear(nn.Module):
    """A user's own classifier without BatchNorm: x W."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.classes, use_bias=False)(images.reshape(images.shape[0], -1))


class Dropping(nn.Module):
    """A user's own classifier with Dropout."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Conv(6, (3, 3), strides=(2, 2))(images))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


class Careless(nn.Module):
    """A user's own classifier whose Dropout does not ask whether it is trained."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dropout(0.5, deterministic=False)(images)
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


class Faulty(nn.Module):
    """A user's own classifier with a fault of its own."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        raise ValueError("a fault of the user's own model")


class Pixels(nn.Module):
    """A user's own segmenter: a 3x3 and a 1x1 convolution with BatchNorm between."""

    classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.tanh(nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x))
        return nn.Conv(self.classes, (1, 1))(x)


def config_fields(cfg, **fields):
    """`cfg` with dotted fields set, written a__b for a.b."""
    cfg.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return cfg


def config_defaults():
    """A configuration in which everything is tiny."""
    return config_fields(
        config.default(),
        teacher__model="tiny:Tiny",
        student__model="tiny:Tiny",
        student__batch=BATCH,
        student__lr=0.05,
        student__attention=10.0,
        synthesis__batch=BATCH,
        synthesis__inner_steps=2,
        synthesis__latent=6,
        synthesis__width=4,
        synthesis__bn_past=0.7,
        synthesis__oh=0.5,
        synthesis__adv=1.0,
        synthesis__flip=True,
        synthesis__shift=1,
        modulation__difficulty=True,
        buffer__size=SLOTS,
        sampler__name="policy_gradient",
        views__count=3,
        views__flip=True,
        views__shift=1,
        schedule__rounds=4,
        schedule__warmup=1,
        schedule__distill_steps=2,
        schedule__max_skipped=1,
    )


def make_config(**fields):
    """The tiny configuration with dotted fields set, written a__b for a.b."""
    return config_fields(config_defaults(), **fields)


def teacher_network(axis=None):
    """The tiny teacher."""
    return build.network("tiny:Tiny", INPUTS, axis)


def teacher_variables():
    """Its weights: random, with running statistics of random images and logits that are not flat."""
    network = teacher_network()
    variables = network.init(jax.random.key(7))
    images = jax.random.uniform(jax.random.key(8), (64, *SHAPE))
    train_step = jax.jit(network.train)
    for _ in range(3):
        _, variables = train_step(variables, images)
    dense = variables["params"]["Dense_0"]
    scaled = {**dense, "kernel": 4.0 * dense["kernel"]}
    return {**variables, "params": {**variables["params"], "Dense_0": scaled}}


def job(cfg, variables, axis="devices"):
    """The configuration's job with the tiny teacher."""
    return build.job(cfg, INPUTS, teacher_network(axis), variables, axis)


def first_state(a_job, seed=0):
    """The state before the first round, compiled as one program."""
    return loop.first(a_job.method, a_job.network, a_job.tx, seed)


def synthesize(a_job, state, variables):
    """The state after one synthesis of a job without a device axis."""
    method = a_job.method
    key = jax.random.key(state.round)
    work = jax.jit(method.synthesis.begin)(state.method, key)
    step = jax.jit(method.synthesis.step)
    for _ in range(method.synthesis.steps):
        work, _ = step(work, variables, state.student.variables)
    made, _ = jax.jit(method.synthesis.finish)(work, state.method, variables, state.student, key)
    return state.replace(method=made, round=state.round + 1)


def clock(stage):
    """A stopwatch that measures nothing."""
    return contextlib.nullcontext()


def use_devices(monkeypatch, count):
    """Let the package see the first `count` devices only."""
    first = jax.devices()[:count]
    monkeypatch.setattr(jax, "local_device_count", lambda *_, **__: count)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: first)


def softmax(x):
    """Numpy's own softmax over the last axis, float64."""
    e = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(t, s):
    """KL(softmax t || softmax s) over the last axis, float64."""
    p, q = softmax(t), softmax(s)
    return (p * np.log(p / q)).sum(-1)


def tree_equal(a, b):
    """Whether two trees hold the same bits."""
    same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


def bound(module, shape=SHAPE):
    """A module as a network whose input is not normalised."""
    return models.bind(module, shape)


def images(seed, batch=BATCH, shape=SHAPE):
    """Random images in [0, 1]."""
    return jnp.asarray(np.random.default_rng(seed).random((batch, *shape), np.float32))

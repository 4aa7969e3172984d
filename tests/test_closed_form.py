"""A student solved for in closed form: exact where it can be, each solve against numpy, any kind of network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssdkd_jax import closed_form, losses, models
from ssdkd_jax.closed_form import graph, joints, least_squares, matching
from ssdkd_jax.engine.trees import named_leaves
from ssdkd_jax.errors import InputError
from ssdkd_jax.sources import procedural
from ssdkd_jax.types import Network, Variables

SHAPE = (8, 8, 3)
FRESH = np.random.default_rng(0).uniform(size=(16, *SHAPE)).astype(np.float32)


def network(name: str, shape: tuple[int, int, int] = SHAPE, classes: int = 5) -> Network:
    return models.bind(models.by_name(name, classes), shape, (0.4,), (0.3,))


def lively(found: Network, seed: int = 0) -> Variables:
    """Its first variables, with BatchNorms that do something."""
    variables, key = found.init(jax.random.key(seed)), jax.random.key(seed + 1)

    def moved(path: str, x: jax.Array, k: jax.Array) -> jax.Array:
        if path.endswith((".var", ".scale")):
            return x * jax.random.uniform(k, x.shape, minval=0.5, maxval=1.5)
        return x + 0.1 * jax.random.normal(k, x.shape) if path.endswith((".mean", ".bias")) else x

    leaves = named_leaves(variables)
    made = [moved(path, x, jax.random.fold_in(key, i)) for i, (path, x) in enumerate(leaves.items())]
    return jax.tree.unflatten(jax.tree.structure(variables), made)


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> jax.Array:
    return procedural.source(count, shape)(jax.random.key(7))


def solved(teacher: Network, weights: Variables, student: Network, seed: int = 5, count: int = 320) -> Variables:
    return closed_form.solve(teacher, weights, student, student.init(jax.random.key(seed)), images(count))


class Plain(nn.Module):
    """Convolutions, a flattened map and two dense layers; no BatchNorm."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.max_pool(nn.relu(nn.Conv(self.width, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), padding="VALID")(x))
        return nn.Dense(5)(nn.relu(nn.Dense(2 * self.width)(x.reshape(len(x), -1))))


class Bottleneck(nn.Module):
    """A residual block of three convolutions behind a stem, with its activation after the sum."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(x))
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (1, 1))(x)))
        y = nn.Conv(8, (1, 1))(nn.relu(nn.Conv(4, (3, 3), kernel_dilation=2)(y)))
        return nn.Dense(5)(nn.relu(x + y).mean((1, 2)))


class Separable(nn.Module):
    """Filters of single channels behind BatchNorm and an activation, each with a 1x1 convolution that mixes them."""

    width: int
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm, act = partial(nn.BatchNorm, use_running_average=not train), self.activation
        x = act(norm()(nn.Conv(self.width, (3, 3))(x)))
        for strides in (1, 2):
            x = nn.Conv(self.width, (3, 3), strides, feature_group_count=self.width)(x)
            x = nn.Conv(self.width, (1, 1), use_bias=False)(act(norm()(x)))
            x = nn.max_pool(act(norm()(x)), (2, 2), (1, 1), "SAME")
        x = x + nn.Conv(self.width, (3, 3), use_bias=False, feature_group_count=self.width)(x)
        return nn.Dense(5)(x.mean((1, 2)))


def test_a_wide_residual_student_of_the_teachers_own_kind_has_its_logits_and_its_statistics():
    teacher = network("wrn10_1")
    weights = lively(teacher)
    found = solved(teacher, weights, teacher, count=512)
    np.testing.assert_allclose(teacher.apply(found, FRESH), teacher.apply(weights, FRESH), atol=1e-3)
    statistics = named_leaves(found["batch_stats"])
    for path, wanted in named_leaves(weights["batch_stats"]).items():
        np.testing.assert_allclose(statistics[path], wanted, rtol=0.02, atol=0.02, err_msg=path)


MODULES = {
    "plain": Plain(6),
    "bottleneck": Bottleneck(),
    "separable": Separable(6),
    "separable_swish": Separable(6, nn.silu),
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_a_student_of_the_teachers_own_kind_has_its_logits_on_other_images(module):
    teacher = models.bind(module, SHAPE)
    weights = lively(teacher)
    found = solved(teacher, weights, teacher)
    np.testing.assert_allclose(teacher.apply(found, FRESH), teacher.apply(weights, FRESH), atol=1e-3)


def in_pairs(narrow: Variables, wide: Variables) -> Variables:
    """The variables of a network of twice the width, each of whose channels stands there twice."""

    def doubled(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        x = narrow
        for key in path:
            x = x[key.key]
        for axis, (size, wanted) in enumerate(zip(x.shape, shape.shape, strict=True)):
            if size != wanted:
                x = jnp.repeat(x, 2, axis)
                halved = axis == x.ndim - 2  # what a layer takes in, it takes twice
                x = x / 2 if halved else x
        return x

    return jax.tree_util.tree_map_with_path(doubled, wide)


@pytest.mark.parametrize("module", [Plain, Separable, partial(Separable, activation=nn.silu)])
def test_half_the_width_is_enough_where_channels_come_in_equal_pairs(module):
    narrow, wide = (models.bind(module(width), SHAPE) for width in (6, 12))
    few = lively(narrow)
    weights = in_pairs(few, jax.eval_shape(wide.init, jax.random.key(0)))
    np.testing.assert_allclose(wide.apply(weights, FRESH), narrow.apply(few, FRESH), atol=1e-4)
    np.testing.assert_allclose(
        narrow.apply(solved(wide, weights, narrow), FRESH), wide.apply(weights, FRESH), atol=1e-3
    )


class Halves(nn.Module):
    """Filters of half of the channels, of groups, and two of each channel: what is not solved for."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(2 * self.width, (3, 3))(x)))
        x = nn.relu(nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x[..., : self.width]))
        x = nn.relu(nn.Conv(self.width, (3, 3), feature_group_count=2)(x))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), feature_group_count=self.width)(x))
        return nn.Dense(5)(nn.Dense(12)(x.mean((1, 2))))


def test_the_rest_is_solved_for_where_some_layers_are_of_a_kind_that_is_not():
    wide, narrow = (models.bind(Halves(width), SHAPE) for width in (8, 4))
    weights, before = lively(wide), narrow.init(jax.random.key(5))
    found = closed_form.solve(wide, weights, narrow, before, images(320))
    wanted = wide.apply(weights, FRESH)
    error, at_first = (np.square(narrow.apply(v, FRESH) - wanted).mean() / wanted.var() for v in (found, before))
    assert error < min(1, at_first)
    for name in ("Conv_2", "Conv_3"):
        np.testing.assert_array_equal(found["params"][name]["kernel"], before["params"][name]["kernel"])


def test_filters_of_single_channels_are_numpys_and_0_for_a_channel_that_never_changes():
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(4, 300, 9)).astype(np.float32) + 2
    seen[1] = 0.3
    wanted = (seen * rng.normal(size=(4, 1, 9))).sum(-1, keepdims=True).astype(np.float32) + 1
    found = least_squares.moments([(seen[:, :100], wanted[:, :100]), (seen[:, 100:], wanted[:, 100:])])
    for channel in range(4):
        one = found._replace(mean=found.mean[channel], square=found.square[channel])
        weights, offset = least_squares.solve(one, 1e-9)
        told = seen[channel] @ weights + offset
        np.testing.assert_allclose(told, wanted[channel], atol=2e-3)
        assert np.isfinite(weights).all() and (channel != 1 or np.abs(weights).max() < 1e-3)


def small(name: str) -> nn.Module:
    """A network of the zoo's families, with few channels."""
    return {
        "vgg": models.vgg.VGG(((8,), (12,), (16,), (16,), (16,)), 5),
        "resnet": Residual((8, 12)),
        "deep_resnet": Residual((16, 16, 24, 24)),
    }.get(name) or models.by_name(name, 5)


class Residual(nn.Module):
    """A residual network with its activations after the sums."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = models.layers.batch_norm(train, None)
        x = nn.relu(norm(name="bn1")(models.layers.Conv3x3(8, name="conv1")(x)))
        for index, width in enumerate(self.widths):
            x = models.resnet.Block(width, 1 + (width > 16), False, norm, name=f"block{index}")(x)
        return nn.Dense(5, name="linear")(x.mean((1, 2)))


PAIRS = [("wrn10_2", "wrn10_1"), ("deep_resnet", "resnet"), ("vgg", "resnet"), ("wrn10_2", "vgg")]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_another_width_depth_or_family_comes_nearer_than_a_random_start(names):
    teacher, student = (models.bind(small(name), SHAPE) for name in names)
    weights, before = lively(teacher), student.init(jax.random.key(5))
    made = images(300)
    found, fresh = closed_form.solve(teacher, weights, student, before, made[:200]), made[200:]
    wanted = teacher.apply(weights, fresh)

    def distance(variables: Variables) -> float:
        return float(jnp.square(student.apply(variables, fresh) - wanted).mean() / wanted.var())

    assert distance(found) < 0.5 < distance(before)


def test_the_same_arguments_give_the_same_bits():
    teacher, student = (models.bind(Plain(width), SHAPE) for width in (4, 3))
    first, second = (solved(teacher, lively(teacher), student, count=80) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("intercept", [True, False])
def test_a_solve_is_numpys(intercept):
    rng = np.random.default_rng(0)
    seen = (rng.normal(size=(500, 7)) + 3).astype(np.float32)
    wanted = (seen @ rng.normal(size=(7, 2)) + rng.normal(size=(500, 2)) + 2).astype(np.float32)
    known = least_squares.moments([(seen[:200], wanted[:200]), (seen[200:], wanted[200:])])
    weights, offset = least_squares.solve(known, 1e-9, intercept)
    columns = np.concatenate([seen, np.ones((500, int(intercept)))], 1)
    expected = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    np.testing.assert_allclose(np.vstack([weights, offset[None]])[: len(expected)], expected, atol=1e-4)
    left = np.square(wanted - seen @ weights - offset).mean(0) / wanted.var(0)
    assert least_squares.unexplained(known, weights, offset) == pytest.approx(left.mean(), rel=1e-3)


def test_held_back_rows_choose_the_ridge():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(30, 1)) / 5

    def rows(count: int) -> least_squares.Moments:
        seen = rng.normal(size=(count, 30))
        return least_squares.moments([(seen, seen @ signal + rng.normal(size=(count, 1)))])

    known, held = rows(40), rows(4000)
    errors = {r: least_squares.unexplained(held, *least_squares.solve(known, r)) for r in least_squares.RIDGES}
    best = min(errors, key=errors.get)
    assert best > min(least_squares.RIDGES)
    for got, expected in zip(
        least_squares.solve_held(known, held), least_squares.solve(known + held, best), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_channels_are_kept_from_which_the_others_are_told():
    a, b, c = np.random.default_rng(0).normal(size=(3, 1000))
    rows = np.stack([a, a + 1e-3 * b, 2 * b, 0 * a, 1.2 * c], 1)  # the first and second together have most
    assert least_squares.pick(rows, np.ones(5), 2).tolist() in ([0, 2], [1, 2])
    assert least_squares.pick(rows, np.array([1, 1, 1, 1, 9.0]), 1).tolist() == [4]
    assert len(set(least_squares.pick(rows, np.ones(5), 4))) == 4  # also of channels that tell nothing


def test_the_maps_of_a_wide_residual_network():
    found = network("wrn16_1")
    variables = jax.eval_shape(found.init, jax.random.key(0))
    traced = graph.trace(found.apply, variables, (2, *SHAPE))
    maps = joints.found_in(traced)
    assert [joint.trunk for joint in maps] == [True, *[False, True] * 6, True]
    layers = [tail.layer.leaf for joint in maps for tail in joint.tails]
    kernels = [path for path in named_leaves(variables) if path.endswith("kernel")]
    assert sorted(layers) == sorted(kernels) and len(layers) == len(set(layers))
    shortcuts = [joint for joint in maps if len(joint.tails) == 2]
    assert [len(joint.others) for joint in shortcuts] == [0, 0]
    assert maps[-1].norm.bias == ("params.fc.bias",) and maps[-1].value.shape == (2, 5)


@pytest.mark.parametrize(("ours", "theirs", "places"), [(2, 6, [2, 5]), (2, 1, [0, 0]), (3, 4, [1, 2, 3]), (1, 3, [2])])
def test_maps_are_spread_so_that_the_last_stands_for_the_last(ours, theirs, places):
    assert [matching.spread(rank, ours, theirs) for rank in range(ours)] == places


def farther(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """A loss by which the start does worse."""
    return -jnp.square(teacher_logits - student_logits).mean(-1)


def test_a_network_that_nothing_can_be_solved_for_starts_as_it_came(caplog):
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            return jnp.einsum("bhwd,hwdc->bc", x, self.param("w", nn.initializers.normal(), (*SHAPE, 5)))

    teacher, odd = models.bind(Plain(4), SHAPE), models.bind(Odd(), SHAPE)
    before = odd.init(jax.random.key(0))
    with pytest.raises(InputError, match="no convolution or dense layer"):
        closed_form.solve(teacher, lively(teacher), odd, before, images(16))
    assert closed_form.start(teacher, lively(teacher), odd, before, images(16), losses.kl_divergence) is before
    assert "starts as it came" in caplog.text


def test_a_start_that_does_worse_than_the_one_that_came_is_left_out(caplog):
    teacher = models.bind(Plain(4), SHAPE)
    weights, before = lively(teacher), teacher.init(jax.random.key(9))
    assert closed_form.start(teacher, weights, teacher, before, images(80), farther) is before
    assert "left out" in caplog.text
    caplog.set_level(logging.INFO)
    assert closed_form.start(teacher, weights, teacher, before, images(80), losses.kl_divergence) is not before
    assert "starts from its teacher" in caplog.text

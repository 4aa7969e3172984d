"""An NNX module as a network does what the module itself does, is trained and is given back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from flax.errors import InvalidRngError
from nnx_zoo import (
    CLASSES,
    SHAPE,
    WIDTH,
    Net,
    Plain,
    bound,
    close,
    in_mode,
    jitted,
    make,
    normalised,
    remat,
    statistics,
)

from ssdkd_jax import hints, losses, student, teacher
from ssdkd_jax.engine import optimization, parallel
from ssdkd_jax.errors import InputError
from ssdkd_jax.interop import nnx_module
from ssdkd_jax.models import conformance, observe
from ssdkd_jax.tasks import classification
from ssdkd_jax.types import Batch


@pytest.fixture(scope="module")
def net():
    module = make()
    return module, *bound(module)


def held(module):
    """Every value and the whole structure, modes included."""
    graph, state = nnx.split(module)
    values = {path: jax.tree.leaves(value) for path, value in nnx.to_flat_state(state)}
    plain = lambda x: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)  # noqa: E731
    return graph, {path: [plain(x) for x in leaves] for path, leaves in values.items()}


def of_blocks(variables):
    return {f"blocks/{i}/norm": variables["batch_stats"]["blocks"][str(i)]["norm"] for i in range(2)}


def test_eval_mode_is_that_of_the_module_itself(net):
    module, network, variables = net
    images = tiny.images(3, 5, SHAPE)
    logits = jax.jit(network.apply)(variables, images)
    close(logits, in_mode(module, train=False)(normalised(images)))
    assert logits.dtype == jnp.float32
    close(jax.vmap(lambda x: network.apply(variables, x))(images[:, None])[:, 0], logits)
    assert jax.eval_shape(network.apply, variables, images).shape == (5, CLASSES)


def test_variables_are_plain_collections_of_what_the_module_holds(net):
    module, network, variables = net
    assert set(variables) == {"params", "batch_stats", "constants"}
    assert observe.norm_paths(variables) == ["blocks/0/norm", "blocks/1/norm"]
    assert variables["constants"] == {"scale": 1.5}
    np.testing.assert_array_equal(variables["params"]["blocks"]["1"]["conv"]["kernel"], module.blocks[1].conv.kernel)
    assert tiny.tree_equal(network.init(jax.random.key(1)), variables)
    assert tiny.tree_equal(jax.jit(network.init)(jax.random.key(1)), variables)


@pytest.mark.parametrize("around", [lambda block, x: block(x), remat, jitted])
def test_train_mode_is_that_of_the_module_itself(around):
    module = make(around=around, rate=0.0)
    network, variables = bound(module)
    images, itself = tiny.images(3, 8, SHAPE), in_mode(module, train=True)
    expected = itself(normalised(images))
    logits, renewed = jax.jit(network.train)(variables, images)
    close(logits, expected)
    close(of_blocks(renewed), statistics(itself))
    assert tiny.tree_equal(renewed["params"], variables["params"])
    assert teacher.observe(network, variables, images).moments[1].mean.shape == (WIDTH,)


@pytest.mark.parametrize("own_stream", [True, False])
def test_dropout_draws_by_the_key_alone(own_stream):
    network, variables = bound(Plain(nnx.Dropout(0.5, rngs=nnx.Rngs(0) if own_stream else None)))
    images, train = tiny.images(0, 4, SHAPE), jax.jit(network.train)
    one, again, other = (train(variables, images, jax.random.key(k))[0] for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    for call in (network.train, train):
        with pytest.raises(InvalidRngError, match="layer 'layer/rngs' draws random numbers, but has no key"):
            call(variables, images)


def test_gradients_are_those_of_the_module_itself(net):
    module, network, variables = net
    images, labels = tiny.images(5, 6, SHAPE), jnp.arange(6) % CLASSES

    def loss(params):
        return losses.cross_entropy(network.apply({**variables, "params": params}, images), labels).mean()

    found = jax.jit(jax.grad(loss))(variables["params"])
    itself = lambda m: losses.cross_entropy(m(normalised(images)), labels).mean()  # noqa: E731
    own = nnx.jit(nnx.grad(itself))(in_mode(module, train=False))
    for path, gradient in nnx.to_flat_state(own):
        place = found
        for name in path:
            place = place[str(name)]
        np.testing.assert_allclose(place, gradient[...], rtol=1e-3, atol=1e-5)


@pytest.mark.eight_devices
def test_eight_devices_normalise_by_the_statistics_of_the_whole_batch():
    module = make(rate=0.0)
    (network, variables), (alone, _) = bound(module, axis=parallel.AXIS), bound(module)
    images = tiny.images(6, 16, SHAPE)
    split = jax.pmap(network.train, axis_name=parallel.AXIS, in_axes=(None, 0))
    logits, renewed = split(variables, images.reshape(8, 2, *SHAPE))
    expected, expected_renewed = jax.jit(alone.train)(variables, images)
    close(logits.reshape(16, CLASSES), expected, 1e-3, 1e-4)
    for device in (0, 7):
        close(jax.tree.map(lambda x, d=device: x[d], renewed["batch_stats"]), expected_renewed["batch_stats"], 1e-3)
    assert conformance.check(network, SHAPE, "split", variables) == []


def test_bfloat16_narrows_the_layers_and_answers_in_float32():
    module = make(rate=0.0)
    (network, variables), (wide, _) = bound(module, compute="bfloat16"), bound(module)
    images = tiny.images(7, 8, SHAPE)
    found = teacher.observe(network, variables, images)
    assert {x.dtype for x in (*found.norm_inputs, *found.dense_inputs)} == {jnp.dtype(jnp.bfloat16)}
    close(found.logits, wide.apply(variables, images), 0.1, 0.1)
    logits, renewed = jax.jit(network.train)(variables, images)
    assert {x.dtype for x in jax.tree.leaves((found.logits, logits, renewed))} == {jnp.dtype(jnp.float32)}


def test_the_users_own_object_stays_as_it_is_and_is_given_back_updated():
    module = make()
    graph, values = held(module)
    network, variables = bound(module)
    _, renewed = network.train(variables, tiny.images(0, 8, SHAPE), jax.random.key(0))
    moved = {**renewed, "params": jax.tree.map(lambda x: x + 0.1, renewed["params"])}
    given_back, images = nnx_module.updated(module, moved), tiny.images(1, 4, SHAPE)
    close(given_back(normalised(images)), network.apply(moved, images))
    assert type(given_back.blocks[0].norm) is nnx.BatchNorm and given_back.drop.deterministic
    again_graph, again = held(module)
    assert again_graph == graph and type(module.head) is nnx.Linear
    for path, leaves in values.items():
        for before, after in zip(leaves, again[path], strict=True):
            np.testing.assert_array_equal(before, after)
    assert not module.drop.deterministic


def test_a_student_learns_from_a_teacher_with_hints(net):
    _, teaching, weights = net
    learning, start = bound(Net(nnx.Rngs(5)), axis=None)
    task, tx = classification.make(CLASSES, 2.0), optax.sgd(0.05, 0.9)
    hint = hints.Settings(attention=10.0).make(teaching, learning, SHAPE, None)
    images = tiny.images(8, 16, SHAPE)
    logits, of_teacher = hint.observe(teaching.apply, weights, images)
    batch = Batch(images=images, teacher_logits=logits, weights=jnp.ones(16), slots=jnp.arange(16), hints=of_teacher)
    state = optimization.init(learning, tx, jax.random.key(0))
    assert tiny.tree_equal(state.variables, start)
    step = jax.jit(student.make_step(learning, task, hint, tx, None))
    found = []
    for number in range(12):
        state, _, metrics = step(state, batch, jax.random.key(number))
        found.append(float(metrics["distillation"]))
    assert np.mean(found[-3:]) < 0.7 * np.mean(found[:3])
    assert jax.tree.structure(state.variables) == jax.tree.structure(start)


class Tall(nnx.Module):
    def __call__(self, images):
        return images.sum()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bound(nn.Dense(3)), r"not a 'Dense'; a linen module goes to models.bind\.$"),
        (lambda: bound(Net), r"not the class Net; "),
        (lambda: bound(make(), compute="float16"), r"compute = 'float16' is not one of"),
        (lambda: nnx_module.network(make(), (6, 6, 5)), r"'Net' cannot be called on images \[1, 6, 6, 5\] .*; let"),
        (lambda: bound(nnx.bridge.ToNNX(tiny.Tiny(3), rngs=nnx.Rngs(0))), r"'ToNNX' cannot .* goes to models.bind as"),
        (lambda: bound(Tall()), r"'Tall' answers \[\] to images \[1, 6, 6, 2\]; let it return logits \[B, C\]\."),
        (lambda: nnx_module.updated(make(), {"params": {}}), r"'Net' keeps \[4\] at 'batch_stats/.*have nothing; give"),
        (lambda: nnx_module.updated({}, {}), r"not a 'dict'"),
    ],
)
def test_what_does_not_do_is_told_in_one_sentence(call, said):
    with pytest.raises(InputError, match=said) as raised:
        call()
    assert "\n" not in str(raised.value)

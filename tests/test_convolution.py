"""Convolutions with one filter a channel: as lax has them, with their gradients."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssdkd_jax.engine.convolution import convolve

LAYOUTS = [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC"), ("NHWC", "HWIO", "NCHW")]
WAYS = {
    "plain": {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))},
    "strided": {"window_strides": (2, 3), "padding": ((0, 1), (2, 1))},
    "same": {"window_strides": (2, 2), "padding": "SAME"},
    "same_lower": {"window_strides": (2, 1), "padding": "SAME_LOWER"},
    "dilated": {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
}


def arrays(layout, channels=6, filters=6, size=(3, 4)):
    rng = np.random.default_rng(0)
    sizes = {"N": 5, "C": channels, "H": 9, "W": 11}
    of_filters = {"O": filters, "I": 1, "H": size[0], "W": size[1]}
    x = rng.normal(size=[sizes[axis] for axis in layout[0]]).astype(np.float32)
    return x, rng.normal(size=[of_filters[axis] for axis in layout[1]]).astype(np.float32)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_one_filter_a_channel_gives_laxs_maps_and_gradients(layout, way):
    x, filters = arrays(layout)
    options = {**way, "dimension_numbers": layout, "feature_group_count": 6}

    def found(convolution, x, filters):
        maps = convolution(x, filters, **options)
        return jnp.sum(jnp.sin(maps) * jnp.arange(maps.size).reshape(maps.shape) / maps.size), maps

    (ours, maps), of_ours = jax.jit(jax.value_and_grad(lambda *a: found(convolve, *a), (0, 1), has_aux=True))(
        x, filters
    )
    (theirs, wanted), of_theirs = jax.value_and_grad(
        lambda *a: found(lax.conv_general_dilated, *a), (0, 1), has_aux=True
    )(x, filters)
    np.testing.assert_allclose(maps, wanted, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for gradient, expected in zip(of_ours, of_theirs, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-4)


OTHERS = {
    "two filters a channel": ({"filters": 12}, {}),
    "precision": ({}, {"precision": "highest"}),
    "type of the sum": ({}, {"preferred_element_type": jnp.float32}),
    "a filter beyond the image": ({"size": (10, 12)}, {"padding": "VALID"}),
    "cropped": ({}, {"padding": ((-1, 0), (0, 0))}),
    "many taps": ({"size": (7, 7)}, {}),
    "dilated images": ({}, {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
}


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_are_laxs_own(case):
    of_arrays, options = case
    x, kernel = arrays(LAYOUTS[0], **of_arrays)
    options = {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 6, **options}
    made = jax.make_jaxpr(lambda x, k: convolve(x, k, **options))(x, kernel)
    assert [eqn.primitive.name for eqn in made.eqns] == ["conv_general_dilated"]
    wanted = lax.conv_general_dilated(x, kernel, **options)
    np.testing.assert_allclose(convolve(x, kernel, **options), wanted, atol=1e-5)


def test_under_vmap_and_exported_for_any_number_of_images_it_is_the_same():
    x, kernel = arrays(LAYOUTS[1])

    def call(x, kernel):
        options = {"dimension_numbers": LAYOUTS[1], "feature_group_count": 6}
        return convolve(x, kernel, (1, 1), "SAME", **options)

    wanted = call(x, kernel)
    np.testing.assert_allclose(jax.vmap(lambda one: call(one[None], kernel)[0])(x), wanted, atol=1e-5)
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    program = jax.export.export(jax.jit(lambda x: call(x, kernel)), platforms=("cpu", "cuda"))(shape)
    np.testing.assert_allclose(program.call(x[:3]), wanted[:3], atol=1e-5)


def test_it_is_lowered_to_a_convolution_for_an_accelerator_and_to_products_for_a_cpu():
    x, kernel = arrays(LAYOUTS[0])
    traced = jax.jit(lambda x, k: convolve(x, k, (1, 1), "SAME", feature_group_count=6)).trace(x, kernel)
    on_gpu, on_cpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "cpu"))
    assert "stablehlo.convolution" in on_gpu and "stablehlo.convolution" not in on_cpu


def test_halves_are_summed_in_single_precision():
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in arrays(LAYOUTS[1]))
    with jax.numpy_dtype_promotion("strict"):
        made = convolve(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[1], feature_group_count=6)
    wanted = lax.conv_general_dilated(
        *(array.astype(jnp.float32) for array in (x, kernel)), (1, 1), "SAME", None, None, LAYOUTS[1], 6
    )
    assert made.dtype == jnp.bfloat16
    np.testing.assert_allclose(made.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-6)

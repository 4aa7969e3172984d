"""What tells one run, or one network, from another."""

import hashlib

import jax.numpy as jnp
import numpy as np
import tiny

from ssdkd_jax.run import identity


def test_the_digest_of_a_network_is_of_names_types_shapes_and_bytes():
    weights = {"b": jnp.ones((2, 3), jnp.bfloat16), "a": {"w": np.arange(6.0).reshape(2, 3).T, "n": np.int32(3)}}
    told = [("a.n", np.array([3], np.int32)), ("a.w", np.array([[0.0, 3], [1, 4], [2, 5]])), ("b", weights["b"])]
    expected = b"".join(f"{name} {x.dtype} {x.shape}".encode() + np.asarray(x).tobytes() for name, x in told)
    assert identity.digest(weights) == hashlib.sha256(expected).hexdigest()


def test_another_name_type_shape_or_bit_is_another_network(teacher_variables):
    known = {"w": np.zeros((2, 3), np.float32)}
    others = (
        {"v": known["w"]},
        {"w": known["w"].astype(np.int32)},
        {"w": known["w"].T},
        {"w": np.nextafter(known["w"], 1)},
    )
    assert len({identity.digest(one) for one in (known, *others)}) == 5
    assert identity.digest(teacher_variables) == identity.digest(tiny.teacher_variables())

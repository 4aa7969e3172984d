"""PyTorch's arithmetic in jax: activations, sums, products and reductions; see `torch_program` for how it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, nn

from ssdkd_jax.types import Array

Axes = int | Sequence[int] | None
ALIKE = {  # by the same name in jax
    jnp: "exp expm1 log log1p sqrt abs sign sin cos floor ceil round square reciprocal logical_not",
    nn: "relu selu sigmoid silu mish log_sigmoid",
    lax: "neg tanh rsqrt erf",
}
COMPARISONS = {
    "gt": "greater",
    "ge": "greater_equal",
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
}
PAIRS = {**COMPARISONS, **{name: name for name in ("maximum", "minimum", "logical_and", "logical_or")}}


def _elementwise(function: Callable[[Any], Array]) -> Callable[..., Array]:
    return lambda self: function(self)


def _binary(function: Callable[[Any, Any], Array]) -> Callable[..., Array]:
    return lambda self, other: function(self, other)


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda self, dim=None, keepdim=False: function(self, _axes(dim), keepdims=keepdim)


def _axes(dim: Axes) -> Any:
    return dim if dim is None or isinstance(dim, int) else tuple(dim) or None


def _bounded(x: Array, inside: Array, low: Any, high: Any) -> Array:
    """Cut to [low, high], with PyTorch's gradient: of 1 `inside`, else 0."""
    return jnp.where(inside, x, lax.stop_gradient(jnp.clip(x, low, high)))


def _clamp(self: Array, min: Any = None, max: Any = None) -> Array:
    if any(isinstance(bound, jax.Array) for bound in (min, max)):
        return jnp.clip(self, min, max)
    inside = (self >= (-jnp.inf if min is None else min)) & (self <= (jnp.inf if max is None else max))
    return _bounded(self, inside, min, max)


def _hardtanh(self: Array, min_val: float, max_val: float) -> Array:
    return _bounded(self, (self > min_val) & (self < max_val), min_val, max_val)


def _hardsigmoid(self: Array) -> Array:
    return _hardtanh(self + 3, 0, 6) / 6


def _elu(self: Array, alpha: float, scale: float, input_scale: float) -> Array:
    below = jnp.expm1(jnp.minimum(self, 0) * input_scale)
    return scale * jnp.where(self > 0, self, alpha * below)


def _softplus(self: Array, beta: float, threshold: float) -> Array:
    return jnp.where(self * beta > threshold, self, nn.softplus(self * beta) / beta)


def _prelu(self: Array, weight: Array) -> Array:
    slope = weight.reshape(-1, *(1,) * (self.ndim - 2)) if self.ndim > 1 and weight.ndim == 1 else weight
    return jnp.where(self > 0, self, slope * self)


def _glu(self: Array, dim: int) -> Array:
    value, gate = jnp.split(self, 2, dim)
    return value * nn.sigmoid(gate)


def _pow(self: Any, exponent: Any) -> Array:
    whole = isinstance(exponent, float) and exponent.is_integer()
    return jnp.power(self, int(exponent) if whole else exponent)


def _divide(self: Any, other: Any, rounding_mode: str | None = None) -> Array:
    if rounding_mode == "floor":
        return jnp.floor_divide(self, other)
    return jnp.trunc(self / other) if rounding_mode else self / other


def _norm(self: Array, ord: float, dim: Axes = None, keepdim: bool = False) -> Array:
    if ord != 2:
        return (jnp.abs(self) ** ord).sum(_axes(dim), keepdims=keepdim) ** (1 / ord)
    squares = (self * self).sum(_axes(dim), keepdims=keepdim)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)  # its gradient at 0 is 0


def _variance(
    self: Array, dim: Axes = None, unbiased: bool = True, correction: float | None = None, keepdim: bool = False
) -> Array:
    return self.var(_axes(dim), ddof=int(unbiased) if correction is None else correction, keepdims=keepdim)


def _deviation(self: Array, **arguments: Any) -> Array:
    return jnp.sqrt(_variance(self, **arguments))


def _extreme(function: Callable[..., Array]) -> Callable[..., Any]:
    """The largest or least value of all, or those along an axis as the first of two results."""

    def found(self: Array, dim: int | None = None, keepdim: bool = False) -> Any:
        return function(self) if dim is None else (function(self, dim, keepdims=keepdim),)

    return found


def _as(self: Array, dtype: Any) -> Array:
    return self if dtype is None else self.astype(dtype)


def _add(self: Any, other: Any, alpha: float = 1) -> Array:
    return self + (other if alpha == 1 else alpha * other)


def _baddbmm(self: Array, batch1: Array, batch2: Array, beta: float, alpha: float) -> Array:
    return beta * self + alpha * (batch1 @ batch2)


OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _elementwise(getattr(of, name)) for of, names in ALIKE.items() for name in names.split()},
    **{name: _binary(getattr(jnp, known)) for name, known in PAIRS.items()},
    **{name: _reduction(getattr(jnp, name)) for name in ("mean", "sum", "amax", "amin", "any", "all")},
    **{name: _elementwise(lambda x: x) for name in ("clone", "contiguous", "alias", "lift_fresh_copy")},
    **{name: _elementwise(lax.stop_gradient) for name in ("detach", "detach_")},
    "relu6": lambda self: _hardtanh(self, 0, 6),
    "leaky_relu": lambda self, negative_slope: nn.leaky_relu(self, negative_slope),
    "elu": _elu,
    "celu": lambda self, alpha: nn.celu(self, alpha),
    "gelu": lambda self, approximate: nn.gelu(self, approximate=approximate == "tanh"),
    "hardswish": lambda self: self * _hardsigmoid(self),
    "hardsigmoid": _hardsigmoid,
    "hardtanh": _hardtanh,
    "softplus": _softplus,
    "prelu": _prelu,
    "glu": _glu,
    "softmax": lambda self, dim, dtype: nn.softmax(_as(self, dtype), dim),
    "log_softmax": lambda self, dim, dtype: nn.log_softmax(_as(self, dtype), dim),
    "logsumexp": lambda self, dim, keepdim: nn.logsumexp(self, _axes(dim), keepdims=keepdim),
    "clamp": _clamp,
    "clamp_min": lambda self, min: _clamp(self, min),
    "clamp_max": lambda self, max: _clamp(self, None, max),
    "threshold": lambda self, threshold, value: jnp.where(self > threshold, self, value),
    "where": lambda condition, self, other: jnp.where(condition, self, other),
    "masked_fill": lambda self, mask, value: jnp.where(mask, value, self),
    "add": _add,
    "sub": lambda self, other, alpha: _add(self, -other, alpha),
    "rsub": lambda self, other, alpha: _add(other, -self, alpha),
    "mul": lambda self, other: self * other,
    "div": _divide,
    "pow": _pow,
    "matmul": lambda self, other: self @ other,
    "mm": lambda self, mat2: self @ mat2,
    "bmm": lambda self, mat2: self @ mat2,
    "addmm": lambda self, mat1, mat2, beta, alpha: _baddbmm(self, mat1, mat2, beta, alpha),
    "baddbmm": _baddbmm,
    "mv": lambda self, vec: self @ vec,
    "dot": lambda self, tensor: self @ tensor,
    "vdot": lambda self, other: self @ other,
    "cumsum": lambda self, dim: jnp.cumsum(self, dim),
    "einsum": lambda equation, tensors: jnp.einsum(equation, *tensors),
    "linalg_vector_norm": _norm,
    "norm": lambda self, p, dim, keepdim: _norm(self, 2 if p is None else p, dim, keepdim),
    "var": _variance,
    "std": functools.wraps(_variance)(_deviation),
    "max": _extreme(jnp.max),
    "min": _extreme(jnp.min),
    "zeros": lambda size, dtype: jnp.zeros(size, dtype or jnp.float32),
    "ones": lambda size, dtype: jnp.ones(size, dtype or jnp.float32),
    "zeros_like": lambda self: jnp.zeros_like(self),
    "ones_like": lambda self: jnp.ones_like(self),
    "new_zeros": lambda self, size, dtype: jnp.zeros(size, dtype or self.dtype),
    "new_ones": lambda self, size, dtype: jnp.ones(size, dtype or self.dtype),
    "new_full": lambda self, size, fill_value, dtype: jnp.full(size, fill_value, dtype or self.dtype),
    "full_like": lambda self, fill_value: jnp.full_like(self, fill_value),
    "full": lambda size, fill_value, dtype: jnp.full(size, fill_value, dtype),
    "arange": lambda end, dtype, start=0, step=1: jnp.arange(start, end, step, dtype),
    "to": _as,
    "_to_copy": _as,
}

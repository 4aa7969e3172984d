"""Which slots the student sees next: uniform, by priority, or by a learnt policy.

A sampler is a value: its `logits` give log pi up to a constant. Empty slots have pi = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssdkd_jax import replay_buffer, settings
from ssdkd_jax.engine import optimization
from ssdkd_jax.replay_buffer import Index
from ssdkd_jax.settings import setting
from ssdkd_jax.types import Array, Key


@settings.section("sampler")
class Name:
    """Which sampler, and how its weights are corrected."""

    name: str = setting("priority", "the rule", choices=("uniform", "priority", "policy_gradient"))
    beta: float = setting(0.4, "exponent of the importance weights at the start; 1 at the end", least=0, most=1)


@settings.section("sampler")
class Priority:
    """The priority rule, from which the policy starts too."""

    alpha: float = setting(0.3, "exponent of the priority", least=0)
    epsilon: float = setting(0.05, "nats added to every gap, so that no slot is forgotten", least=1e-6)


@settings.section("sampler")
class PolicySettings:
    """The learnt policy."""

    lr: float = setting(1e-3, "learning rate of the policy", above=0)
    entropy: float = setting(1e-2, "weight of the policy's entropy bonus", least=0)


class Sampler(NamedTuple):
    """A rule for drawing slots.

    Attributes:
        init: key -> state.
        logits: (state, index, student step) -> [N], log pi up to a constant, before masking.
        learn: (state, index before the draw, slots [B], gaps [B], which are measured [B], student step) -> state.
    """

    init: Callable[[Key], Any]
    logits: Callable[[Any, Index, Array], Array]
    learn: Callable[[Any, Index, Array, Array, Array, Array], Any]


def fixed(logits: Callable[[Index], Array]) -> Sampler:
    """A rule that learns nothing: index -> log pi [N] up to a constant."""
    return Sampler(lambda key: (), lambda state, index, step: logits(index), lambda state, *_: state)


def uniform() -> Sampler:
    """pi(i) = 1 / (filled slots)."""
    return fixed(lambda index: jnp.zeros_like(index.gap))


def priority_logits(index: Index, alpha: float, epsilon: float) -> Array:
    """alpha log(delta + eps), so that pi(i) = (delta_i + eps)^alpha / sum (Schaul et al. 2016, eq. 1)."""
    return alpha * jnp.log(index.gap + epsilon)


def priority(alpha: float, epsilon: float) -> Sampler:
    """Proportional prioritised replay (Schaul et al., ICLR 2016).

    Args:
        alpha: exponent; 0 is uniform.
        epsilon: in nats, keeps slots that the student has fitted in play.
    """
    return fixed(lambda index: priority_logits(index, alpha, epsilon))


def log_probabilities(logits: Array, occupied: Array) -> Array:
    """log pi [N]: normalised over the filled slots, -inf on the empty ones."""
    chex.assert_equal_shape((logits, occupied))
    return jax.nn.log_softmax(jnp.where(occupied, logits, -jnp.inf))


def draw(key: Key, log_pi: Array, batch: int) -> Array:
    """Slots int32 [B], each with marginal probability pi, by stratified sampling.

    The unit interval is cut into B equal parts and one point drawn from each (Schaul et al. 2016,
    appendix B.2.1): fewer repeats than independent draws. The order of the batch is random.
    """
    chex.assert_rank(log_pi, 1)
    key_level, key_order = jax.random.split(key)
    cumulative = jnp.cumsum(jnp.exp(log_pi))
    levels = (jnp.arange(batch, dtype=log_pi.dtype) + jax.random.uniform(key_level, (batch,), log_pi.dtype)) / batch
    slots = jnp.searchsorted(cumulative, levels * cumulative[-1], side="right", method="compare_all").astype(jnp.int32)
    last = log_pi.shape[0] - 1 - jnp.argmax(jnp.isfinite(log_pi)[::-1]).astype(jnp.int32)
    return jax.random.permutation(key_order, jnp.minimum(slots, last))


def importance_weights(log_pi: Array, slots: Array, beta: Array) -> Array:
    """w_i = (N pi(i))^-beta / E_pi[(N pi)^-beta], N the filled slots: [B], of mean 1 under pi.

    The exponent is that of Schaul et al. 2016 (section 3.4), the division is ours. They divide by the buffer's largest
    weight, max_j w_j, so that weights never exceed 1: then a single slot that is almost never drawn has a weight so
    large that all others, and with them every step, come near 0. Divided by their expectation, the weights leave the
    size of a step alone. At beta = 1 that is 1, and the weighted mean over a draw is the plain mean over the buffer.
    """
    chex.assert_rank((log_pi, slots), 1)
    occupied = jnp.isfinite(log_pi)
    log_w = -beta * (log_pi + jnp.log(occupied.sum().astype(log_pi.dtype)))
    expected = jnp.sum(jnp.where(occupied, jnp.exp(log_pi + log_w), 0.0))
    return jnp.exp(log_w[slots]) / expected


class Policy(nn.Module):
    """h_psi: a small perceptron over a slot's features, zero at the start, within +-bound.

    The bound keeps pi within a factor e^bound of the priority rule either way, and so the
    importance weights: without it the policy settles on a few slots and the student diverges.
    """

    hidden: int = 16
    bound: float = 1.0

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """[N, F] -> [N]."""
        x = nn.tanh(nn.Dense(self.hidden)(features))
        return self.bound * nn.tanh(nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(x)[:, 0])


def features(index: Index, classes: int, epsilon: float, step: Array) -> Array:
    """[N, 4]: log delta, conf_t, share of its class, log(1 + steps since last drawn); standardised, 0 where empty."""
    occupied = index.occupied
    filled = jnp.maximum(occupied.sum(), 1).astype(jnp.float32)
    label = jnp.where(occupied, index.label, classes)
    share = jnp.bincount(label, length=classes + 1)[label].astype(jnp.float32) / filled
    age = jnp.log1p((step - index.drawn).astype(jnp.float32))
    raw = jnp.stack([jnp.log(index.gap + epsilon), index.confidence, share, age], axis=1)
    raw = jnp.where(occupied[:, None], raw, 0.0)
    mean = raw.sum(0) / filled
    centred = jnp.where(occupied[:, None], raw - mean, 0.0)
    return centred / jnp.sqrt(jnp.square(centred).sum(0) / filled + 1e-6)


@chex.dataclass(frozen=True)
class PolicyState:
    """psi, its optimiser's state and the moving baseline [] of the reward."""

    params: Any
    opt_state: Any
    baseline: Array


def policy_gradient(
    classes: int, alpha: float, epsilon: float, lr: float, entropy: float, baseline_decay: float = 0.9
) -> Sampler:
    """pi = softmax(alpha log(delta + eps) + h_psi(features)), trained by REINFORCE (Williams 1992); ours.

    The reward of a draw is the drop of the slot's gap since it was last measured: free, since the distillation step
    computes the new gap anyway, and it pays for what the student learnt there. Rows that are not measured give none,
    and a batch of such rows teaches nothing.

    Args:
        alpha, epsilon: of the priority rule that the policy starts as.
        lr: Adam's, for psi.
        entropy: weight of the entropy bonus H(pi), in nats.
        baseline_decay: of the moving average of the reward.
    """
    policy, tx = Policy(), optax.adam(lr)

    def logits_of(params: Any, index: Index, step: Array) -> Array:
        return priority_logits(index, alpha, epsilon) + policy.apply(params, features(index, classes, epsilon, step))

    def init(key: Key) -> PolicyState:
        params = policy.init(key, jnp.zeros((1, 4), jnp.float32))
        return PolicyState(params=params, opt_state=tx.init(params), baseline=jnp.zeros((), jnp.float32))

    def learn(state: PolicyState, index: Index, slots: Array, gaps: Array, measured: Array, step: Array) -> PolicyState:
        share = measured.astype(gaps.dtype) / jnp.maximum(measured.sum(), 1).astype(gaps.dtype)
        reward = jnp.where(measured, index.gap[slots] - gaps, 0.0)
        advantage = reward - state.baseline
        spread = jnp.sqrt(share @ jnp.square(advantage - share @ advantage))
        credit = replay_buffer.sums_by_slot(slots, share * advantage / (spread + 1e-6), index.gap.shape[0])
        logits = partial(logits_of, index=index, step=step)
        grads = jax.grad(reinforce_loss)(state.params, logits, index.occupied, credit, entropy)
        params, opt_state = optimization.descend(tx, grads, state.opt_state, state.params)
        learnt = PolicyState(
            params=params,
            opt_state=opt_state,
            baseline=baseline_decay * state.baseline + (1 - baseline_decay) * (share @ reward),
        )
        return jax.tree.map(lambda new, old: jnp.where(measured.any(), new, old), learnt, state)

    return Sampler(init=init, logits=lambda s, index, step: logits_of(s.params, index, step), learn=learn)


def reinforce_loss(
    params: Any, logits_of: Callable[[Any], Array], occupied: Array, credit: Array, entropy: float
) -> Array:
    """-sum_i A_i log pi(i) - entropy H(pi), []; with A_i the advantages of a slot over all draws, REINFORCE's gradient.

    Args:
        logits_of: params -> [N].
        occupied: bool [N].
        credit: A, [N]; 0 for a slot that was not drawn.
    """
    log_pi = log_probabilities(logits_of(params), occupied)
    finite = jnp.where(occupied, log_pi, 0.0)
    bonus = -jnp.sum(jnp.where(occupied, jnp.exp(finite) * finite, 0.0))
    return -jnp.sum(credit * finite) - entropy * bonus


SAMPLERS: dict[str, tuple[Callable[..., Sampler], tuple[type, ...]]] = {  # (maker, what it takes after the classes)
    "uniform": (lambda classes: uniform(), ()),
    "priority": (lambda classes, rule: priority(rule.alpha, rule.epsilon), (Priority,)),
    "policy_gradient": (
        lambda classes, rule, policy: policy_gradient(classes, rule.alpha, rule.epsilon, policy.lr, policy.entropy),
        (Priority, PolicySettings),
    ),
}


def records() -> tuple[type, ...]:
    """The settings of all samplers."""
    return tuple(dict.fromkeys((Name, *(record for _, kinds in SAMPLERS.values() for record in kinds))))


class Settings(NamedTuple):
    """The sampler that a config asks for (`make`: classes -> Sampler), and where its beta starts."""

    make: Callable[[int], Sampler]
    beta: float

    @classmethod
    def from_config(cls, reader: settings.Reader) -> Settings:
        """As configured; ValueError for an unknown name."""
        name = reader(Name)
        maker, records = settings.chosen(SAMPLERS, "sampler.name", name.name)
        parts = [reader(record) for record in records]
        return cls(make=lambda classes: maker(classes, *parts), beta=name.beta)

"""Running means and deviations, to normalise what an agent sees and is paid.

They are pytrees and belong in the agent's state: so they are saved, resumed and
exported with it, and stay as they are wherever an agent only acts.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kitae.modules._checks import leading_axes
from kitae.modules.pytree import AgentPyTree

EPS = 1e-8
# Terms that are added one after the other; the sums of so many likewise.
CHUNK = 256


class RunningStatistics(AgentPyTree):
    """Count, mean and variance of all values so far; see `init_statistics`.

    Attributes:
        count: `[2]` uint32, how many: the number's low and its high 32 bits.
        offset: As one value; a number near the mean, the same from the first update on.
        mean: As one value; of the values less `offset`.
        variance: As one value, of the population. 1 before the first update.
    """

    count: jax.Array
    offset: Any
    mean: Any
    variance: Any


class RewardStatistics(AgentPyTree):
    """Statistics of discounted returns; see `init_reward_statistics`.

    Attributes:
        returns: `[n_envs]`, the discounted sum of each running episode's rewards.
        statistics: Of these sums, at each step.
    """

    returns: jax.Array
    statistics: RunningStatistics


def init_statistics(spec: Any) -> RunningStatistics:
    """Returns statistics of no value.

    Args:
        spec: Shape and dtype of one value, a pytree, as `observation_spec` gives it for
            observations. Leaves of other dtypes than floats are neither counted nor
            normalised.

    Examples:
        >>> statistics = init_statistics(jax.ShapeDtypeStruct((2,), jnp.float32))
        >>> values = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> statistics = update_statistics(statistics, values)
        >>> normalise(statistics, values).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """

    def like(fill: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, fill, _float_of(leaf.dtype)), spec
        )

    return RunningStatistics(jnp.zeros(2, jnp.uint32), like(0), like(0), like(1))


def update_statistics(
    statistics: RunningStatistics, values: Any, valid: jax.Array | None = None
) -> RunningStatistics:
    """Takes in values, each once.

    Batches are merged as by Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979. With `f` the share that the batch
    has in all values and `d` the difference of the means, the mean grows by `f d`, the
    variance by `f (variance of the batch - variance + (1 - f) d²)`. All is computed of
    the values less an offset near their mean: so a mean of a million, beside a
    deviation of 1, costs no digits.

    Under `jax.jit`, values that are split over devices are merged over them.

    Args:
        statistics: So far.
        values: A pytree as `spec` was, of leaves `[..., *shape]`: any leading axes, the
            same for all.
        valid: `[...]` bool, which of them count. Default: all.

    Raises:
        ValueError: A leaf has another shape.
    """
    leaves, tree = jax.tree.flatten(values)
    means = tree.flatten_up_to(statistics.mean)
    batch_shape = leading_axes("values", leaves[0].shape, means[0].shape)
    weights = jnp.ones(batch_shape, bool) if valid is None else valid
    if weights.shape != batch_shape:
        raise ValueError(
            f"valid must have the shape {list(batch_shape)} of the values' leading "
            f"axes, got {list(weights.shape)}"
        )
    count, n_new = statistics.count, jnp.count_nonzero(weights).astype(jnp.uint32)
    low = count[0] + n_new
    high = count[1] + (low < n_new).astype(jnp.uint32)
    total = high.astype(jnp.float32) * 2.0**32 + low.astype(jnp.float32)
    share = n_new.astype(jnp.float32) / jnp.maximum(total, 1.0)
    is_first = (count == 0).all()

    def updated(value: jax.Array, offset: Any, mean: Any, variance: Any) -> Any:
        leading_axes("values", value.shape, mean.shape)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return offset, mean, variance
        value = value.reshape(-1, *mean.shape).astype(mean.dtype)
        mask = weights.reshape(-1, *[1] * mean.ndim)
        n = jnp.maximum(n_new, 1).astype(mean.dtype)
        first = _sum(jnp.where(mask, value, 0)) / n
        offset = jnp.where(is_first, first, offset)
        shifted = jnp.where(mask, value - offset[None], 0)
        batch_mean = _sum(shifted) / n
        spread = jnp.where(mask, shifted - batch_mean[None], 0)
        batch_variance = _sum(spread * spread) / n
        f, d = share.astype(mean.dtype), batch_mean - mean
        grown = batch_variance - variance + (1 - f) * d * d
        return offset, mean + f * d, variance + f * grown

    columns = zip(
        leaves,
        tree.flatten_up_to(statistics.offset),
        means,
        tree.flatten_up_to(statistics.variance),
        strict=True,
    )
    parts = zip(*(updated(*column) for column in columns), strict=True)
    return RunningStatistics(
        jnp.stack([low, high]), *(jax.tree.unflatten(tree, part) for part in parts)
    )


def normalise(
    statistics: RunningStatistics, values: Any, clip: float | None = 10.0
) -> Any:
    """Returns `(value - mean) / sqrt(variance + 1e-8)`, clipped.

    Before the first update, values stay as they are, but for the clipping.

    Args:
        statistics: Of such values.
        values: A pytree of leaves `[..., *shape]`. Leaves of other dtypes than
            floats stay as they are.
        clip: The largest absolute value. None: any.

    Returns:
        As `values`.
    """

    def of(value: jax.Array, offset: Any, mean: Any, variance: Any) -> jax.Array:
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        axes = tuple(range(value.ndim - mean.ndim))
        offset, mean, scale = (
            jnp.expand_dims(part, axes)
            for part in (offset, mean, jax.lax.rsqrt(variance + EPS))
        )
        scaled = (value.astype(mean.dtype) - offset - mean) * scale
        scaled = scaled.astype(value.dtype)
        return scaled if clip is None else jnp.clip(scaled, -clip, clip)

    return jax.tree.map(
        of, values, statistics.offset, statistics.mean, statistics.variance
    )


def init_reward_statistics(n_envs: int) -> RewardStatistics:
    """Returns statistics of no reward.

    Args:
        n_envs: Parallel environments, of each agent if there are several.

    Examples:
        >>> statistics = init_reward_statistics(1)
        >>> rewards, ends = jnp.array([[4.0], [0.0]]), jnp.zeros((2, 1), bool)
        >>> statistics = update_reward_statistics(statistics, rewards, ends, gamma=0.5)
        >>> scale_rewards(statistics, rewards).tolist()  # of 4 and 2, deviation 1
        [[4.0], [0.0]]
    """
    spec = jax.ShapeDtypeStruct((), jnp.float32)
    return RewardStatistics(jnp.zeros(n_envs, jnp.float32), init_statistics(spec))


def update_reward_statistics(
    statistics: RewardStatistics, rewards: jax.Array, ends: jax.Array, gamma: float
) -> RewardStatistics:
    """Takes in the rewards of a rollout, in order of time.

    Of each environment, `G_t = gamma G_{t-1} + r_t` is counted at each step, and begins
    at 0 with each episode: "VecNormalize" of OpenAI Baselines, and no. 26 of Huang et
    al., "The 37 Implementation Details of Proximal Policy Optimization", 2022.

    Args:
        statistics: So far.
        rewards: `[T, n_envs]`.
        ends: `[T, n_envs]` bool, the last step of an episode, terminated or truncated.
        gamma: The discount.
    """

    def step(
        returns: jax.Array, reward_and_end: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        reward, end = reward_and_end
        returns = gamma * returns + reward
        return jnp.where(end, 0.0, returns), returns

    last, returns = jax.lax.scan(step, statistics.returns, (rewards, ends))
    return RewardStatistics(last, update_statistics(statistics.statistics, returns))


def scale_rewards(
    statistics: RewardStatistics, rewards: jax.Array, clip: float | None = 10.0
) -> jax.Array:
    """Returns rewards divided by the deviation of discounted returns, clipped.

    Their mean is not subtracted: an agent that is paid for each step would else be paid
    for ending soon.

    Args:
        statistics: Of the discounted returns.
        rewards: `[...]`.
        clip: The largest absolute value. None: any.
    """
    scaled = rewards * jax.lax.rsqrt(statistics.statistics.variance + EPS)
    return scaled if clip is None else jnp.clip(scaled, -clip, clip)


def _sum(x: jax.Array) -> jax.Array:
    """Sums over the first axis, in three steps: a long sum would lose digits."""
    for _ in range(2):
        n = x.shape[0]
        if n <= CHUNK:
            break
        padding = [(0, -n % CHUNK), *[(0, 0)] * (x.ndim - 1)]
        x = jnp.pad(x, padding).reshape(CHUNK, -1, *x.shape[1:]).sum(axis=0)
    return x.sum(axis=0)


def _float_of(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32

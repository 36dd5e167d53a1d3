"""Environments so small that what an agent must learn of them is known exactly.

When an agent learns nothing on a real environment, the first of these that it fails on
shows where to look. Each adds one difficulty to those before it (after Jones 2021,
"Debugging RL, Without the Agonizing Pain", section "Probe environments").

Numbers below are those of the best policy, for a discount γ.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete

from kitae.envs.functional import JaxVectorEnv


class ProbeState(NamedTuple):
    """Where an episode is.

    Attributes:
        cue: int32 scalar, 0 or 1, drawn when the episode begins.
        time: int32 scalar, the steps taken.
    """

    cue: jax.Array
    time: jax.Array


class Probe(FuncEnv):
    """What the probes have in common: one number to see, two actions, a short life.

    A subclass says what is seen (`seen`) and paid (`paid`).

    Attributes:
        n_steps: After which an episode terminates. None: never.
    """

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    n_steps: int | None = 1

    def seen(self, state: ProbeState) -> Any:
        """Returns the number that is seen."""
        return 1.0

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns the reward for an action in `state`."""
        return 1.0

    def initial(self, rng: Any, params: Any = None) -> ProbeState:
        """Starts an episode; tosses a coin for the cue."""
        return ProbeState(jax.random.randint(rng, (), 0, 2, jnp.int32), jnp.int32(0))

    def transition(
        self, state: ProbeState, action: Any, rng: Any, params: Any = None
    ) -> ProbeState:
        """Takes one step."""
        return state._replace(time=state.time + 1)

    def observation(self, state: ProbeState, rng: Any, params: Any = None) -> jax.Array:
        """Returns what is seen, float32 `[1]`."""
        return jnp.asarray(self.seen(state), jnp.float32).reshape(1)

    def reward(
        self,
        state: ProbeState,
        action: Any,
        next_state: ProbeState,
        rng: Any,
        params: Any = None,
    ) -> jax.Array:
        """Returns what is paid, a float32 scalar."""
        return jnp.asarray(self.paid(state, action, rng), jnp.float32)

    def terminal(self, state: ProbeState, rng: Any, params: Any = None) -> jax.Array:
        """Returns whether the episode is over."""
        return jnp.asarray(self.n_steps is not None and state.time >= self.n_steps)


class ValueProbe(Probe):
    """One step, reward 1: Q(1, ·) = 1.

    Fails with: the loss, its gradient, the optimizer, or a bootstrap at the end.
    """


class ObservationProbe(Probe):
    """One step, the reward is what is seen, −1 or 1: Q(s, ·) = s.

    Fails with: an input that does not reach the network, or rows mixed up.
    """

    def seen(self, state: ProbeState) -> Any:
        """Returns the cue, as −1 or 1."""
        return _sign(state.cue)

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns what is seen."""
        return _sign(state.cue)


class DiscountProbe(Probe):
    """Two steps, at −1 and at 0, reward 1 for the second: Q(−1, ·) = γ, Q(0, ·) = 1.

    Fails with: the bootstrap, the target network, n-step sums, the discount.
    """

    n_steps = 2

    def seen(self, state: ProbeState) -> Any:
        """Returns −1, then 0; 1 when it is over, a state of no value."""
        return state.time - 1

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns 1 for the second step."""
        return state.time == 1


class ActionProbe(Probe):
    """One step, reward −1 for action 0 and 1 for action 1: Q(1, ·) = (−1, 1).

    Fails with: the wrong action's value learned, no exploration, no greedy choice.
    """

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns the action, as −1 or 1."""
        return _sign(action)


class PolicyProbe(Probe):
    """One step, reward 1 for the action that is shown and −1 for the other.

    At −1 action 0 is right, at 1 action 1: Q(−1, ·) = (1, −1), Q(1, ·) = (−1, 1).

    Fails with: observations and actions of different rows or times put together.
    """

    def seen(self, state: ProbeState) -> Any:
        """Returns the cue, as −1 or 1."""
        return _sign(state.cue)

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns 1 if the action is the cue, else −1."""
        return _sign(action == state.cue)


class DistributionProbe(Probe):
    """One step; action 0 pays 0, 1, 2 or 3, all as likely, and action 1 pays 1.

    Q(1, ·) = (1.5, 1). The returns of action 0 have the variance 1.25 and at the
    fractions 1/8, 3/8, 5/8, 7/8 the quantiles 0, 1, 2, 3; those of action 1 are 1.

    Fails with: projections on atoms, the quantile loss, signs and axes in it.
    """

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns a number drawn from 0 to 3, or 1."""
        return jnp.where(action == 0, jax.random.randint(key, (), 0, 4, jnp.int32), 1)


class MemoryProbe(Probe):
    """Two steps; what the first one shows, −1 or 1, must be known at the second one.

    The second shows 0. The first action pays nothing, the second 1 if it is 0 after −1
    or 1 after 1, else −1. With a memory Q(±1, ·) = γ, and then 1 for the right action
    and −1 for the other. Without one the mean return of any policy is 0.

    Fails with: a recurrent state that is reset, stored or burnt in wrongly.
    """

    n_steps = 2

    def seen(self, state: ProbeState) -> Any:
        """Returns the cue, as −1 or 1, at first; then 0."""
        return jnp.where(state.time == 0, _sign(state.cue), 0)

    def paid(self, state: ProbeState, action: jax.Array, key: jax.Array) -> Any:
        """Returns 0, then 1 if the action is the cue, else −1."""
        return jnp.where(state.time == 0, 0, _sign(action == state.cue))


class TimeLimitProbe(Probe):
    """Reward 1 for ever, cut off after ten steps: Q(1, ·) = 1 / (1 − γ).

    Fails with: a truncation that is taken for an end, which gives 1 / (1 − 0.9 γ).
    """

    n_steps = None

    def truncated(self, state: ProbeState, rng: Any, params: Any = None) -> jax.Array:
        """Returns whether ten steps are over."""
        return state.time >= 10


PROBES: dict[str, type[Probe]] = {
    "value": ValueProbe,
    "observation": ObservationProbe,
    "discount": DiscountProbe,
    "action": ActionProbe,
    "policy": PolicyProbe,
    "distribution": DistributionProbe,
    "memory": MemoryProbe,
    "time_limit": TimeLimitProbe,
}


def make_probe(name: str, n_envs: int) -> JaxVectorEnv:
    """Makes `n_envs` copies of a probe.

    An agent trains on it in one compiled program; wrapped, as by
    `gymnasium.vector.VectorWrapper(env)`, it is stepped by the loop of the host.

    Args:
        name: One of `PROBES`, in order of difficulty: `"value"`, `"observation"`,
            `"discount"`, `"action"`, `"policy"`, `"distribution"`, `"memory"`,
            `"time_limit"`.
        n_envs: Parallel environments, from 1 to 2**20.

    Returns:
        A vector with float32 observations `[1]` in [−1, 1] and two actions.

    Raises:
        ValueError: There is no such probe, or `n_envs` is out of range.

    Example:
        >>> import jax
        >>> env = make_probe("action", 3)
        >>> state = env.initial(jax.random.key(0))
        >>> actions = jax.numpy.array([0, 1, 1])
        >>> env.transition(state, actions, jax.random.key(1))[1].reward
        Array([-1.,  1.,  1.], dtype=float32)
    """
    if name not in PROBES:
        raise ValueError(f"name must be one of {list(PROBES)}, got {name!r}")
    return JaxVectorEnv(PROBES[name](), n_envs)


def _sign(bit: Any) -> jax.Array:
    return 2 * jnp.asarray(bit, jnp.int32) - 1

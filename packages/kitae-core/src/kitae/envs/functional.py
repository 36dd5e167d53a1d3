"""Environments that are JAX functions, many at once, as one Gymnasium vector."""

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.functional_jax_env import FunctionalJaxVectorEnv
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from kitae.config import check_flag, check_int, check_n_envs
from kitae.envs.checks import map_space
from kitae.envs.masks import masked_space, with_mask


class EnvState(NamedTuple):
    """Where every environment is.

    Attributes:
        inner: The states of the `FuncEnv`, each leaf `[n_envs, ...]`.
        observation: What to act on, `[n_envs, ...]`.
        length: `[n_envs]` int32, steps taken in the running episode.
    """

    inner: Any
    observation: Any
    length: jax.Array


class EnvStep(NamedTuple):
    """What one step gave; every array `[n_envs, ...]`.

    Attributes:
        next_observation: The true successor, at an episode's end the final
            observation.
        reward: float32.
        terminated: bool, the episode ended here.
        truncated: bool, the episode was cut off here (and did not end).
    """

    next_observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class JaxVectorEnv(VectorEnv):
    """Many copies of a `gymnasium.experimental.functional.FuncEnv`, stepped together.

    `initial` and `transition` are pure functions: an agent trains on them in one
    compiled program. `reset` and `step` make the same environment an ordinary
    `gymnasium.vector.VectorEnv` that resets in the step that ends an episode
    (`AutoresetMode.SAME_STEP`).

    A `FuncEnv` may have a method `action_mask(state, rng)`, which gives the mask of
    allowed actions, `[n]` of 0 and 1 or bool; `action_mask=True` puts it into the
    observations, as `kitae.envs.masks.masked_space` says.

    A `FuncEnv` knows the end of a task (`terminal`), not time limits: these come from
    `max_episode_steps`, or from a method `truncated(state, rng) -> bool` where the
    environment has one.

    Args:
        func_env: The environment. Its functions are called with typed JAX keys.
        n_envs: Parallel environments, from 1 to 2**20.
        max_episode_steps: Environment steps after which an episode is truncated, at
            least 1. None: never.
        lazy_reset: Whether initial states are made only in steps in which an episode
            ended. By default they are made ahead for all steps, which is faster
            unless making one costs much more than a step.
        action_mask: Whether observations have the mask of allowed actions.

    Raises:
        ValueError: An argument is out of range, an observation does not have the
            shape that `func_env.observation_space` says, or `func_env` has no masks
            for its actions.
        TypeError: `func_env` is not a `FuncEnv`.

    Example:
        >>> import jax
        >>> from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
        >>> env = JaxVectorEnv(CartPoleFunctional(), n_envs=3, max_episode_steps=500)
        >>> state = env.initial(jax.random.key(0))
        >>> actions = jax.numpy.zeros(3, int)
        >>> state, step = env.transition(state, actions, jax.random.key(1))
        >>> step.reward
        Array([1., 1., 1.], dtype=float32)
    """

    def __init__(
        self,
        func_env: FuncEnv,
        n_envs: int,
        max_episode_steps: int | None = None,
        *,
        lazy_reset: bool = False,
        action_mask: bool = False,
    ) -> None:
        if not isinstance(func_env, FuncEnv):
            raise TypeError(
                "func_env must be a gymnasium.experimental.functional.FuncEnv, got "
                f"{type(func_env).__name__}"
            )
        check_n_envs(n_envs)
        if max_episode_steps is not None:
            check_int("max_episode_steps", max_episode_steps, 1)
        check_flag("action_mask", action_mask)
        self.func_env = func_env
        self.num_envs = n_envs
        self.max_episode_steps = max_episode_steps
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "jax": True}
        self.single_observation_space = func_env.observation_space
        self.single_action_space = func_env.action_space
        if action_mask:
            self.single_observation_space = _with_masks(func_env)
        self.observation_space = batch_space(self.single_observation_space, n_envs)
        self.action_space = batch_space(func_env.action_space, n_envs)
        self._lazy_reset = lazy_reset
        self._action_mask = action_mask
        self._initial = jax.jit(self.initial)
        self._transition = jax.jit(self.transition)
        self._state: Any = None
        self._key, self._steps = jax.random.key(0), 0
        jax.eval_shape(self.initial, self._key)

    # --- As pure functions ------------------------------------------------------------

    def initial(self, key: jax.Array) -> EnvState:
        """Starts every environment.

        Args:
            key: From which each environment gets keys of its own.
        """
        inner_key, observation_key = jax.random.split(key)
        inner = self._each("initial", self._keys(inner_key))
        observation = self._observe(inner, observation_key)
        return EnvState(inner, observation, jnp.zeros(self.num_envs, jnp.int32))

    def transition(
        self, state: EnvState, actions: jax.Array, key: jax.Array
    ) -> tuple[EnvState, EnvStep]:
        """Takes one step in each environment; those whose episode ends start anew.

        Args:
            state: Where they are.
            actions: `[n_envs, ...]`, as the action space has them.
            key: From which each environment gets keys of its own.

        Returns:
            Where they are now, and what the step gave.
        """
        step_key, observation_key, reset_key = jax.random.split(key, 3)
        keys = self._keys(step_key)
        inner = self._each("transition", state.inner, actions, keys)
        reward = self._each("reward", state.inner, actions, inner, keys)
        terminated = self._flags("terminal", inner, keys)
        length = state.length + 1
        truncated = jnp.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            truncated = length >= self.max_episode_steps
        if hasattr(self.func_env, "truncated"):
            truncated |= self._flags("truncated", inner, keys)
        ended = terminated | truncated
        observation = self._observe(inner, observation_key)
        moved = EnvState(inner, observation, length)

        def renew() -> EnvState:
            fresh = self.initial(reset_key)
            return jax.tree.map(
                lambda new, old: where_env(ended, new, old), fresh, moved
            )

        if self._lazy_reset:
            after = jax.lax.cond(jnp.any(ended), renew, lambda: moved)
        else:
            after = renew()
        reward = jnp.reshape(jnp.asarray(reward, jnp.float32), self.num_envs)
        return after, EnvStep(observation, reward, terminated, truncated & ~terminated)

    # --- As a Gymnasium vector environment --------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts every environment anew; without a seed, from where the keys are."""
        super().reset(seed=seed)
        if seed is not None:
            self._key = jax.random.key(seed)
        elif self._steps:
            self._key = jax.random.fold_in(self._key, RESTART)
        self._steps = 0
        self._state = self._initial(jax.random.fold_in(self._key, START))
        return self.to_host(self._state.observation), {}

    def step(
        self, actions: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step in each environment."""
        if self._state is None:
            raise ValueError("call reset before the first step")
        key = jax.random.fold_in(self._key, self._steps)
        self._steps += 1
        self._state, step = self._transition(self._state, actions, key)
        terminated, truncated = np.array(step.terminated), np.array(step.truncated)
        ended, infos = terminated | truncated, {}
        if ended.any():
            final = self.to_host(step.next_observation)
            rows = np.empty(self.num_envs, object)
            for env in np.flatnonzero(ended):
                rows[env] = jax.tree.map(lambda leaf, env=env: leaf[env], final)
            infos = {"final_obs": rows, "_final_obs": ended}
        observation = self.to_host(self._state.observation)
        return observation, np.array(step.reward), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing to close."""

    # --- What differs between environments --------------------------------------------

    def _each(self, name: str, *args: Any) -> Any:
        function = getattr(self.func_env, name)
        # Gymnasium's vector environment replaces the methods of its FuncEnv that it
        # knows by vmapped ones, as attributes of the instance.
        vectorized = name in vars(self.func_env)
        return function(*args) if vectorized else jax.vmap(function)(*args)

    def _keys(self, key: jax.Array) -> jax.Array:
        return jax.random.split(key, self.num_envs)

    def _flags(self, name: str, inner: Any, keys: jax.Array) -> jax.Array:
        flags = jnp.asarray(self._each(name, inner, keys))
        return jnp.reshape(flags, self.num_envs).astype(bool)

    def to_host(self, observation: Any) -> Any:
        """Returns observations `[n, ...]` as numpy arrays with the space's dtypes."""
        return map_space(
            lambda part, space, _: np.array(part, space.dtype),
            observation,
            self.single_observation_space,
        )

    def _observe(self, inner: Any, key: jax.Array) -> Any:
        raw = self._each("observation", inner, self._keys(key))
        if self._action_mask:
            keys = self._keys(jax.random.fold_in(key, MASK))
            raw = with_mask(raw, self._each("action_mask", inner, keys))
        return map_space(self._fitted, raw, self.single_observation_space)

    def _fitted(self, raw: Any, space: gym.Space, name: str) -> jax.Array:
        array = jnp.asarray(raw)
        wanted = (self.num_envs, *(space.shape or ()))
        if array.shape != wanted:
            raise ValueError(
                f"{name} must have shape {list(wanted)} as {space} says, got "
                f"{list(array.shape)} from the {self.num_envs} environments"
            )
        return array.astype(jax.dtypes.canonicalize_dtype(space.dtype))


# The keys of a seed: numbers below 2**31 are steps, these are the rest.
START, RESTART = 2**32 - 1, 2**32 - 2

# Of the key for observations, that for their masks.
MASK = 2**32 - 3


def as_jax_env(env: Any, n_envs: int) -> JaxVectorEnv | None:
    """Returns the environments as one `JaxVectorEnv`, if they are JAX functions.

    Args:
        env: What a user passed to `train`: a `JaxVectorEnv`, Gymnasium's own
            `FunctionalJaxVectorEnv`, or a single `FuncEnv`, of which there will be
            `n_envs`.
        n_envs: Parallel environments, for a `FuncEnv`.

    Example:
        >>> import gymnasium as gym
        >>> as_jax_env(gym.make_vec("phys2d/CartPole-v1", 2), 2).max_episode_steps
        500
        >>> as_jax_env(gym.make("CartPole-v1"), 1) is None
        True
    """
    if isinstance(env, JaxVectorEnv):
        return env
    if isinstance(env, FunctionalJaxVectorEnv):
        return JaxVectorEnv(env.func_env, env.num_envs, env.time_limit or None)
    if isinstance(env, FuncEnv):
        return JaxVectorEnv(env, n_envs)
    return None


def _with_masks(func_env: FuncEnv) -> gym.Space:
    if not hasattr(func_env, "action_mask"):
        raise ValueError(
            "action_mask=True needs a method action_mask(state, rng), which "
            f"{type(func_env).__name__} does not have"
        )
    return masked_space(func_env.observation_space, func_env.action_space)


def where_env(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Takes `new` in the environments that `mask` `[n_envs]` marks, `old` elsewhere."""
    return jnp.where(mask.reshape(-1, *[1] * (old.ndim - 1)), new, old)

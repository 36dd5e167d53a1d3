"""Environments that are JAX functions, as part of a program."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.seeding import Stream, env_seed
from kitae.base.algorithm.state import MAX_STEP, TrainingState, device_step
from kitae.base.common.pytrees import firm
from kitae.base.training.devices import Devices
from kitae.base.training.programs import (
    Carry,
    Limits,
    Outcome,
    Programs,
    pure_functions,
)
from kitae.base.xla import compiling
from kitae.config.schedule import steps_logged
from kitae.envs.checks import box_bounds, from_start, map_space
from kitae.envs.functional import START, EnvState, JaxVectorEnv

MAX_BYTES = 2**26
MAX_LENGTH = 4_096
QUICK_AHEAD_BYTES = 2**14

TERMINATED, TRUNCATED, BAD_ACTION, BAD_OBSERVATION, OUTSIDE = 1, 2, 4, 8, 16


class Constants(NamedTuple):
    """What stays the same through a training. Checkpoints have these names.

    Attributes:
        interact_key: Key data.
        learn_key: Key data.
        env_key: Key data.
        first_iteration: uint32, at which the environments were reset.
        first_step: int32, the environment steps taken until then.
    """

    interact_key: Any
    learn_key: Any
    env_key: Any
    first_iteration: Any
    first_step: Any


# Which of them differ from seed to seed.
SEEDED: Any = Constants(0, 0, 0, None, None)


def training_constants(training: TrainingState, seed: int) -> Constants:
    """Returns the constants of a training that begins with a reset.

    Args:
        training: Where it begins.
        seed: The config's.
    """
    counters, keys = training.counters, training.keys
    words = env_seed(seed, Stream.TRAIN_ENV, counters.step).generate_state(1)
    return Constants(
        interact_key=keys.interact,
        learn_key=keys.learn,
        env_key=jax.random.key_data(jax.random.key(int(words[0]))),
        first_iteration=np.uint32(counters.iteration % 2**32),
        first_step=device_step(counters.step),
    )


class JaxPrograms(Programs):
    """The programs that train one agent in environments that are JAX functions.

    Args:
        algorithm: Of the agent.
        env: The environments.
        n_seeds: See `Programs`.
        devices: See `Programs`.

    Attributes:
        env: The environments.
        begin: `(state, constants) -> (env_state, acted)` resets them and chooses the
            first actions.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: JaxVectorEnv,
        n_seeds: int | None = None,
        devices: Devices | None = None,
    ) -> None:
        storage = algorithm.make_storage(1 if devices is None else devices.n)
        if devices is not None:
            storage = devices.storage(storage)
        steps = min(steps_logged(algorithm.config), MAX_LENGTH)
        environments = JaxEnvironments(env)
        super().__init__(
            algorithm,
            pure_functions(algorithm, storage),
            environments,
            Limits(steps, MAX_BYTES, QUICK_AHEAD_BYTES),
            n_seeds=n_seeds,
            seeded=SEEDED,
            devices=devices,
        )

        def begin(state: Any, constants: Constants) -> Any:
            key = jax.random.wrap_key_data(constants.env_key)
            start = jax.tree.map(firm, env.initial(jax.random.fold_in(key, START)))
            iteration = constants.first_iteration
            acted = algorithm.explore(
                state,
                constants.interact_key,
                iteration,
                environments.n_steps(constants, start, iteration),
                start.observation,
                *algorithm.nothing_remembered(env.num_envs),
            )
            return start, acted

        self.env = env
        self.begin = jax.jit(
            self.over_seeds(begin, (0, SEEDED)),
            compiler_options=compiling.quickly_compiled(),
        )


class JaxEnvironments:
    """Steps environments that are JAX functions; see `TracedEnvironments`."""

    def __init__(self, env: JaxVectorEnv) -> None:
        self._env = env

    def send(self, carry: Carry) -> Any:
        """Does nothing: the environments wait for nobody."""
        return None

    def step(
        self,
        constants: Constants,
        carry: Carry,
        sent: Any,
        iteration: jax.Array,
        state: Any,
    ) -> Outcome:
        """Takes one step, and looks at what it gave."""
        env, actions = self._env, carry.acted.env_actions
        env_key = jax.random.wrap_key_data(constants.env_key)
        step_key = jax.random.fold_in(env_key, iteration - constants.first_iteration)
        env_state, step = env.transition(
            carry.env, from_start(actions, env.single_action_space), step_key
        )
        env_state = jax.tree.map(firm, env_state)
        seen = carry.env.observation, step.next_observation
        finite = are_finite(*seen, step.reward)
        outside = are_outside(seen, env.single_observation_space)
        bad_action = is_bad(actions, env.single_action_space)
        return Outcome(
            env_state,
            step,
            first=step.terminated | step.truncated,
            valid=finite & ~outside,
            record=pack(step, bad_action, ~finite, outside),
        )

    def n_steps(
        self, constants: Constants, env: EnvState, iteration: jax.Array
    ) -> jax.Array:
        """Counts from the reset on."""
        steps = (iteration - constants.first_iteration).astype(jnp.int32)
        taken = steps * self._env.num_envs
        room = MAX_STEP - constants.first_step
        return jnp.where(taken > room, MAX_STEP, constants.first_step + taken)


def pack(
    step: Any, bad_action: jax.Array, bad_row: jax.Array, outside: jax.Array
) -> jax.Array:
    """Packs what the host wants to know of a step: float32 `[2, n_envs]`.

    One array, since each one more costs as much as a small matrix product.
    """
    flags = (
        TERMINATED * step.terminated
        + TRUNCATED * step.truncated
        + BAD_ACTION * bad_action
        + BAD_OBSERVATION * bad_row
        + OUTSIDE * outside
    )
    return jnp.stack([step.reward, flags.astype(jnp.float32)])


def are_finite(*trees: Any) -> jax.Array:
    """Returns bool `[n_envs]`: whether all floats of an environment are finite."""
    leaves = jax.tree.leaves(trees)
    finite = jnp.ones(leaves[0].shape[0], bool)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1)
    return finite


def are_outside(observations: Sequence[Any], space: gym.Space) -> jax.Array:
    """Returns bool `[n_envs]`: whether an index in an observation is out of range."""
    n_envs = jax.tree.leaves(observations)[0].shape[0]
    found = [jnp.zeros(n_envs, bool)]

    def look(part: jax.Array, space: gym.Space, _: str) -> None:
        if isinstance(space, Discrete | MultiDiscrete):
            index = part - np.asarray(space.start, part.dtype)
            n = space.n if isinstance(space, Discrete) else space.nvec
            n = np.minimum(n, np.iinfo(part.dtype).max).astype(part.dtype)
            found.append(_any((index < 0) | (index >= n)))
        elif isinstance(space, MultiBinary):
            found.append(_any((part != 0) & (part != 1)))

    for observation in observations:
        map_space(look, observation, space)
    return functools.reduce(jnp.logical_or, found)


def is_bad(actions: jax.Array, space: Any) -> jax.Array:
    """Returns bool `[n_envs]`: whether the space does not allow the action."""
    if isinstance(space, Discrete):
        return (actions < 0) | (actions >= space.n)
    if isinstance(space, MultiDiscrete):
        return _any((actions < 0) | (actions >= jnp.asarray(space.nvec)))
    if isinstance(space, Box):
        low, high = box_bounds(space, actions.dtype)
        inside = (actions >= low) & (actions <= high) & jnp.isfinite(actions)
        return _any(~inside)
    if isinstance(space, MultiBinary):
        return _any((actions != 0) & (actions != 1))
    return jnp.zeros(actions.shape[0], bool)


def _any(flags: jax.Array) -> jax.Array:
    """Returns bool `[n_envs]`: whether any flag of an environment is true."""
    return flags.reshape(flags.shape[0], -1).any(axis=1)

"""Playing whole episodes in environments that are JAX functions, in one program."""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.seeding import Stream, env_seed, stream_key
from kitae.base.algorithm.state import TrainingState, device_step
from kitae.base.algorithm.tracing import explained
from kitae.base.common.pytrees import firm, n_bytes
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.training.jax_driver import CHUNK_SECONDS, check_records
from kitae.base.training.jax_environments import (
    MAX_BYTES,
    MAX_LENGTH,
    Constants,
    JaxEnvironments,
)
from kitae.base.training.programs import Carry
from kitae.base.xla import compiling, hoisting, loops
from kitae.envs.functional import START, JaxVectorEnv

# Steps of the first call, by which those of the others are timed.
FIRST = 64


class Fixed(NamedTuple):
    """What stays the same until the environments are reset.

    Attributes:
        state: The train state, which is not given up.
        key: Key data, to act with.
        step: int32, the agent's environment steps.
        env: See `Constants`; the training's keys are not among them.
        limit: int32, environment steps after which an episode is cut off.
    """

    state: Any
    key: Any
    step: Any
    env: Constants
    limit: Any


class Playing(NamedTuple):
    """What one step passes to the next.

    Attributes:
        env: Where the environments are.
        hidden_state: What the agent remembers; None: nothing.
        first: `[n_envs]` bool, where an episode begins; None likewise.
        left: `[n_envs]` int32, episodes that each is still to play.
        waits: `[n_envs]` bool, whose episode was cut off.
    """

    env: Any
    hidden_state: Any
    first: Any
    left: jax.Array
    waits: jax.Array

    @property
    def plays(self) -> jax.Array:
        """`[n_envs]` bool, whose episode counts."""
        return (self.left > 0) & ~self.waits


def any_plays(playing: Playing) -> jax.Array:
    """Whether there is one more step to take."""
    return jnp.any(playing.plays)


class JaxEvaluation:
    """The program that plays episodes in some environments.

    Args:
        algorithm: Of the agent.
        env: The environments.
    """

    def __init__(self, algorithm: Algorithm, env: JaxVectorEnv) -> None:
        self._algorithm = algorithm
        self._env = env
        self._environments = JaxEnvironments(env)
        self._begin = jax.jit(
            self._initial, compiler_options=compiling.quickly_compiled()
        )
        self._loop: loops.Loop | None = None

    def __call__(
        self,
        training: TrainingState,
        n_episodes: int,
        seed: int,
        max_episode_steps: int | None,
    ) -> np.ndarray:
        """Returns the returns of `n_episodes`; see `evaluation.evaluate`."""
        n_envs = self._env.num_envs
        left = np.full(n_envs, n_episodes // n_envs, np.int32)
        left[: n_episodes % n_envs] += 1
        returns: list[list[float]] = [[] for _ in range(n_envs)]
        iteration = n_resets = 0
        while left.any():
            words = env_seed(seed, Stream.EVALUATE_ENV, n_resets).generate_state(1)
            n_resets += 1
            nothing = np.zeros(2, np.uint32)
            fixed = Fixed(
                training.state,
                jax.random.key_data(stream_key(seed, Stream.EVALUATE)),
                device_step(training.counters.step),
                Constants(
                    nothing,
                    nothing,
                    jax.random.key_data(jax.random.key(int(words[0]))),
                    np.uint32(iteration),
                    np.int32(0),
                ),
                np.int32(max_episode_steps or np.iinfo(np.int32).max),
            )
            statistics, n = self._played(fixed, left, iteration)
            iteration += n
            for index, value in zip(statistics.envs, statistics.returns, strict=True):
                returns[index].append(value)
                left[index] -= 1
        return np.array([value for mine in returns for value in mine])

    def _played(
        self, fixed: Fixed, left: np.ndarray, iteration: int
    ) -> tuple[EpisodeStatistics, int]:
        """Plays until each environment has played its share or waits.

        Returns:
            The statistics of the episodes that count, and the steps that were taken.
        """
        n_envs = self._env.num_envs
        statistics = EpisodeStatistics(n_envs)
        carry = self._begin(fixed.env.env_key, left)
        loop = self._made(fixed, carry)
        taken, n, pace = 0, min(FIRST, loop.length), 0.0
        while np.asarray(carry.plays).any():
            start = time.perf_counter()
            carry, (records, counts) = loop(fixed, carry, iteration + taken, n)
            records, counts = np.asarray(records)[:n], np.asarray(counts)[:n]
            pace = (time.perf_counter() - start) / n if taken else 0.0
            steps = n_envs * (taken + np.arange(1, n + 1))
            check_records(records, steps)
            statistics.record_many(records[:, 0], counts, steps)
            taken += n
            if pace:  # the first call compiles
                n = max(1, min(loop.length, int(CHUNK_SECONDS / pace)))
        return statistics, taken

    def _made(self, fixed: Fixed, carry: Playing) -> loops.Loop:
        """Traces the program, if it was not made before."""
        if self._loop is not None:
            return self._loop
        whole = loops.Span(jnp.int32(0), jnp.int32(1))
        with explained(f"{self._algorithm.name}.select_action"):
            parts = hoisting.split(
                self._step, (fixed, whole), carry, jnp.uint32(0), MAX_BYTES
            )
        group_bytes = parts.bytes_ahead + n_bytes(parts.y)
        length = loops.n_groups(1, MAX_LENGTH, group_bytes, MAX_BYTES)
        self._loop = loops.Loop(
            jax.jit(partial(hoisting.ahead, parts)),
            jax.jit(
                partial(loops.loop, parts, length, going=any_plays), donate_argnums=1
            ),
            1,
            length,
        )
        return self._loop

    def _initial(self, env_key: Any, left: Any) -> Playing:
        """Resets the environments."""
        key = jax.random.wrap_key_data(env_key)
        env = jax.tree.map(firm, self._env.initial(jax.random.fold_in(key, START)))
        remembered = self._algorithm.nothing_remembered(self._env.num_envs)
        hidden_state, first = jax.tree.map(firm, remembered)
        waits = jnp.zeros(self._env.num_envs, bool)
        return Playing(env, hidden_state, first, jnp.asarray(left), waits)

    def _step(
        self, given: tuple[Fixed, loops.Span], carry: Playing, number: jax.Array
    ) -> tuple[Playing, Any]:
        """Acts, and takes one step."""
        fixed, _ = given
        env, hidden_state, first, left, waits = carry
        acted = self._algorithm.select_action(
            fixed.state,
            fixed.key,
            number,
            fixed.step,
            env.observation,
            hidden_state,
            first,
        )
        at = Carry(fixed.state, None, env, acted, None)
        outcome = self._environments.step(fixed.env, at, None, number, fixed.state)
        ended, plays = outcome.first, carry.plays
        cut = plays & ~ended & (outcome.env.length >= fixed.limit)
        counts = plays & (ended | cut)
        after = Playing(
            outcome.env,
            acted.next_hidden_state,
            None if first is None else ended,
            left - counts,
            waits | cut,
        )
        return after, (outcome.record, counts)

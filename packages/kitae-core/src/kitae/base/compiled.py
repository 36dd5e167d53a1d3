"""The loop that trains on environments which are JAX functions, as one program."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from kitae.base import bulk
from kitae.base.host import MAX_STEP, check_n_envs, check_spaces, device_step
from kitae.base.interrupts import held_back
from kitae.base.pytrees import firm, owned
from kitae.base.report import Report
from kitae.base.seeding import Stream, env_seed
from kitae.base.statistics import EpisodeStatistics, History
from kitae.base.tracing import explained
from kitae.config.schedule import crossed
from kitae.envs.functional import START, EnvState, JaxVectorEnv

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent

MAX_BYTES = 2**26
MAX_LENGTH = 4_096
CHUNK_SECONDS = 0.5

TERMINATED, TRUNCATED, BAD_ACTION, BAD_OBSERVATION = 1, 2, 4, 8


class Constants(NamedTuple):
    """What stays the same through a training.

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


class Carry(NamedTuple):
    """What one iteration passes to the next.

    Attributes:
        state: The agent's.
        memory: What it learns from.
        env: Where the environments are.
        actions: What comes next, `[n_envs, ...]`: chosen already.
        log_probs: Of these actions.
        pending: Rows of the last step and which of them count; `add` takes them in
            before the next update. None for an agent that adds them at once.
    """

    state: Any
    memory: Any
    env: EnvState
    actions: jax.Array
    log_probs: jax.Array
    pending: Any


class Programs:
    """The compiled programs that train one agent on one environment.

    An iteration is what it is on the host: act, learn from all the rows so far, step
    the environments. It is cut at another place: the action comes last, from the
    parameters just learned, and the next iteration's step takes it. So nothing reads
    parameters that are then overwritten, and nothing need be copied.

    Args:
        agent: Whose functions are compiled. It must hold its memory.
        env: The environments.
    """

    def __init__(self, agent: "BaseAgent", env: JaxVectorEnv) -> None:
        self._agent = agent
        self.env = env
        self._add = agent._storage().add
        self._learn = agent._pure_learn()
        self._loops: dict[tuple[int, bool], Loop] = {}
        self.begin = jax.jit(self._begin)

    def loop(self, size: int, update: bool, carry: Carry, constants: Constants) -> Any:
        """Returns the program that runs groups of iterations, made at the first call.

        Args:
            size: Iterations in a group, at least 1.
            update: Whether each group has one update.
            carry: For its shapes.
            constants: For their shapes.
        """
        if (size, update) not in self._loops:
            name = type(self._agent).__name__
            with explained(f"{name}'s explore, process_experience or update_step"):
                body = partial(self._group, size, update)
                parts = bulk.split(body, constants, carry, jnp.uint32(0))
            self._loops[size, update] = Loop(parts, size, self._agent)
        return self._loops[size, update]

    def _begin(self, state: Any, constants: Constants) -> Any:
        """Resets the environments and chooses the first actions."""
        key = jax.random.wrap_key_data(constants.env_key)
        env = jax.tree.map(firm, self.env.initial(jax.random.fold_in(key, START)))
        return env, *self._act(state, constants, constants.first_iteration, env)

    def _act(
        self, state: Any, constants: Constants, iteration: jax.Array, env: EnvState
    ) -> tuple[jax.Array, jax.Array]:
        steps = (iteration - constants.first_iteration).astype(jnp.int32)
        taken = steps * self.env.num_envs
        room = MAX_STEP - constants.first_step
        step = jnp.where(taken > room, MAX_STEP, constants.first_step + taken)
        return self._agent._act.pure(
            state, constants.interact_key, iteration, step, env.observation
        )

    def _group(
        self,
        size: int,
        update: bool,
        constants: Constants,
        carry: Carry,
        first: jax.Array,
    ) -> tuple[Carry, tuple[jax.Array, dict[str, jax.Array]]]:
        """Runs `size` iterations with one update: first, or last where it must wait."""
        at = 0 if self._agent.learns_while_env_steps else size - 1
        outcomes, info = [], {}
        spans = [(0, at, False), (at, at + 1, update), (at + 1, size, False)]
        for start, end, learns in spans:
            if start == end:
                continue
            body = partial(self._iterate, learns)
            numbers = first + jnp.arange(start, end, dtype=jnp.uint32)
            if end - start == 1:
                carry, (outcome, new) = body(constants, carry, numbers[0])
                outcome = outcome[None]
            else:
                parts = bulk.split(body, constants, carry, numbers[0])
                values, n = bulk.ahead(parts, constants, numbers), end - start
                carry, (outcome, new) = bulk.loop(
                    parts, n, constants, carry, numbers, values, jnp.int32(n)
                )
            outcomes.append(outcome)
            info |= new if learns else {}
        return carry, (jnp.concatenate(outcomes), info)

    def _iterate(
        self, learns: bool, constants: Constants, carry: Carry, iteration: jax.Array
    ) -> tuple[Carry, tuple[jax.Array, dict[str, jax.Array]]]:
        agent, env = self._agent, self.env
        state, memory, info = carry.state, carry.memory, {}
        at_once = not agent.learns_while_env_steps
        if not at_once:
            memory = self._add(memory, *carry.pending)
            if learns:
                state, memory, info = self._learn(
                    state, memory, constants.learn_key, iteration
                )
        env_key = jax.random.wrap_key_data(constants.env_key)
        step_key = jax.random.fold_in(env_key, iteration - constants.first_iteration)
        env_state, step = env.transition(
            carry.env, env_actions(carry.actions, env.single_action_space), step_key
        )
        env_state = jax.tree.map(firm, env_state)
        rows = agent._rows(
            carry.env.observation,
            carry.actions,
            step.reward,
            step.terminated,
            step.next_observation,
            carry.log_probs,
            step.truncated,
        )
        pending = None
        if at_once:
            memory = self._add(memory, rows)
            if learns:
                state, memory, info = self._learn(
                    state, memory, constants.learn_key, iteration + 1
                )
        else:
            pending = (rows, jnp.ones(env.num_envs, bool))
        actions, log_probs = self._act(state, constants, iteration + 1, env_state)
        after = Carry(state, memory, env_state, actions, log_probs, pending)
        bad_action = is_bad(carry.actions, env.single_action_space)
        return after, (pack(step, bad_action), info)


class Loop:
    """A program of many groups of iterations, with a count that is a value.

    Args:
        parts: One group.
        size: Iterations in it.
        agent: For its frequencies.
    """

    def __init__(self, parts: bulk.Split, size: int, agent: "BaseAgent") -> None:
        self.size = size
        told = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts.y))
        fits = MAX_BYTES // max(parts.bytes_ahead + told, 1)
        stride = size * agent.config.env_cfg.n_envs
        logged = -(-agent.config.train_cfg.log_frequency // stride)
        self.length = max(1, min(fits, logged, MAX_LENGTH // size))
        self._ahead = jax.jit(
            partial(bulk.ahead, parts), compiler_options=quickly_compiled()
        )
        self._loop = jax.jit(partial(bulk.loop, parts, self.length), donate_argnums=1)

    def __call__(
        self, constants: Constants, carry: Carry, first: int, n: int
    ) -> tuple[Carry, Any]:
        """Runs `n` groups, of which the first begins with iteration `first`."""
        groups = np.arange(self.length, dtype=np.uint32)
        numbers = np.uint32(first % 2**32) + np.uint32(self.size) * groups
        values = self._ahead(constants, numbers)
        return self._loop(constants, carry, numbers, values, np.int32(n))


def quickly_compiled() -> dict[str, Any]:
    """Compiler options for a program that is run seldom.

    At its usual level XLA's CPU backend takes several seconds to optimise a few calls
    of the random generator, which then cost a thousandth of a training's time.
    """
    on_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 1} if on_cpu else {}


def pack(step: Any, bad_action: jax.Array) -> jax.Array:
    """Packs what the host wants to know of a step: float32 `[2, n_envs]`.

    One array, since each one more costs as much as a small matrix product.
    """
    finite = jnp.ones_like(bad_action)
    for leaf in jax.tree.leaves(step.next_observation):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1)
    flags = (
        TERMINATED * step.terminated
        + TRUNCATED * step.truncated
        + BAD_ACTION * bad_action
        + BAD_OBSERVATION * ~finite
    )
    return jnp.stack([step.reward, flags.astype(jnp.float32)])


def is_bad(actions: jax.Array, space: Any) -> jax.Array:
    """Returns bool `[n_envs]`: whether the space does not allow the action."""
    if isinstance(space, Discrete):
        return (actions < 0) | (actions >= space.n)
    if isinstance(space, MultiDiscrete):
        bad = (actions < 0) | (actions >= jnp.asarray(space.nvec))
    elif isinstance(space, Box):
        bad = ~jnp.isfinite(actions)
    else:
        bad = jnp.zeros(actions.shape, bool)
    return bad.reshape(bad.shape[0], -1).any(axis=1)


def env_actions(actions: jax.Array, space: Any) -> jax.Array:
    """Returns `actions` with the first number that the space has."""
    if isinstance(space, Discrete | MultiDiscrete):
        return actions + jnp.asarray(space.start, actions.dtype)
    return actions


def train_compiled(agent: "BaseAgent", programs: Programs, n_env_steps: int) -> History:
    """Trains until the agent has taken `n_env_steps` environment steps in all.

    Chunks of iterations are one program each; between them the host shows progress,
    writes metrics and saves.

    Args:
        agent: Trained in place.
        programs: For the environments, which are reset first.
        n_env_steps: Where to stop.

    Returns:
        What happened in this call.

    Raises:
        TypeError: A function of the agent cannot be traced; the line is named.
        KeyboardInterrupt: Ctrl-C was pressed; the chunk was finished first.
    """
    env = programs.env
    check_spaces(agent, env)
    check_n_envs(agent, env.num_envs)
    n_envs = env.num_envs
    step = device_step(agent.step)
    observation = jax.eval_shape(env.initial, jax.random.key(0)).observation
    agent._act.check_traceable(
        agent.state, agent.interact_key, np.uint32(0), step, observation
    )
    first_step, first_updates = agent.step, agent.updates
    statistics = EpisodeStatistics(n_envs)
    save_frequency = agent.config.train_cfg.save_frequency
    log_frequency = agent.config.train_cfg.log_frequency
    agent._begin()
    constants = owned(training_constants(agent))
    env_state, actions, log_probs = programs.begin(agent.state, constants)
    saved_at, pace = -1, 0.0
    with Report(agent, statistics, n_env_steps) as report, held_back() as interrupt:
        while agent.step < n_env_steps:
            left = -(-(n_env_steps - agent.step) // n_envs)
            size, n_groups, update = agent._next_iterations(left)
            pending = agent._pending or agent._no_rows
            if not agent.learns_while_env_steps:
                pending = None
            carry = Carry(
                agent.state, agent.memory, env_state, actions, log_probs, pending
            )
            loop = programs.loop(size, update, carry, constants)
            stop = next_stop(agent.step, n_env_steps, log_frequency, save_frequency)
            n = min(n_groups, loop.length, -(-(stop - agent.step) // (n_envs * size)))
            if pace:
                n = max(1, min(n, int(CHUNK_SECONDS / (pace * size))))
            start = time.perf_counter()
            carry, (outcomes, infos) = loop(constants, carry, agent.iteration, n)
            agent.state, agent.memory, agent._pending = carry[0], carry[1], carry[5]
            env_state, actions, log_probs = carry[2:5]
            told = np.asarray(outcomes)[:n].reshape(n * size, 2, n_envs)
            pace = (time.perf_counter() - start) / (n * size)
            before = agent.step
            agent._passed(n * size, n if update else 0)
            steps = before + n_envs * np.arange(1, n * size + 1)
            check_outcomes(told, steps)
            statistics.record_many(told[:, 0], told[:, 1] % BAD_ACTION > 0, steps)
            if update:
                report.after_updates({k: np.asarray(v)[:n] for k, v in infos.items()})
            report.after_step(before, agent.step)
            if save_frequency > 0 and crossed(before, agent.step, save_frequency):
                report.check_finite()
                agent.save()
                saved_at = agent.step
            interrupt.raise_if_pressed()
    report.check_finite()
    if saved_at != agent.step:
        agent.save()
    return statistics.history(agent.step - first_step, agent.updates - first_updates)


def training_constants(agent: "BaseAgent") -> Constants:
    """Returns what the programs of one training need to know."""
    seed = env_seed(agent.config.seed, Stream.TRAIN_ENV, agent.step)
    return Constants(
        interact_key=agent.interact_key,
        learn_key=agent.learn_key,
        env_key=jax.random.key_data(jax.random.key(int(seed.generate_state(1)[0]))),
        first_iteration=np.uint32(agent.iteration),
        first_step=device_step(agent.step),
    )


def next_stop(step: int, until: int, *periods: int) -> int:
    """Returns the next environment step at which the host has something to do."""
    multiples = [(step // period + 1) * period for period in periods if period > 0]
    return min([until, *multiples])


def check_outcomes(told: np.ndarray, steps: np.ndarray) -> None:
    """Refuses what an environment must not give, and an agent not choose.

    Raises:
        ValueError: The environment and the step are named.
    """
    reward, flags = told[:, 0], told[:, 1].astype(np.int64)
    for wrong, message in (
        (
            flags & BAD_ACTION > 0,
            "action is outside its space, often since Q-values are not finite",
        ),
        (~np.isfinite(reward), "reward is not finite"),
        (flags & BAD_OBSERVATION > 0, "observation is not finite"),
    ):
        if wrong.any():
            time_index, env = np.argwhere(wrong)[0]
            raise ValueError(
                f"environment {env}, at environment step {steps[time_index]}: its "
                f"{message}"
            )

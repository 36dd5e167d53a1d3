"""What an agent and environments that are JAX functions are compiled to."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from kitae.base.algorithm.seeding import Stream, env_seed
from kitae.base.algorithm.tracing import Acted, explained, pure_learn
from kitae.base.common.pytrees import firm, n_bytes
from kitae.base.training.devices import Devices
from kitae.base.training.host import MAX_STEP, device_step
from kitae.base.xla import compiling, hoisting, loops, packing
from kitae.config.schedule import steps_logged
from kitae.envs.checks import box_bounds, from_start, map_space
from kitae.envs.functional import START, EnvState, JaxVectorEnv

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

MAX_BYTES = 2**26
MAX_LENGTH = 4_096
SELDOM_BYTES = 2**14

TERMINATED, TRUNCATED, BAD_ACTION, BAD_OBSERVATION, OUTSIDE = 1, 2, 4, 8, 16


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


# Which of them differ from seed to seed.
SEEDED: Any = Constants(0, 0, 0, None, None)


class Carry(NamedTuple):
    """What one iteration passes to the next.

    Attributes:
        state: The agent's.
        memory: What it learns from.
        env: Where the environments are.
        acted: What comes next: chosen already.
        pending: Rows of the last step and which of them count; `add` takes them in
            before the next update. None for an agent that adds them at once.
    """

    state: Any
    memory: Any
    env: EnvState
    acted: Acted
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
        n_seeds: Trainings side by side in one program, each leaf of a carry with an
            axis more in front. None: one, without that axis.
        devices: Over which the environments, the replay and the batches are split.
    """

    def __init__(
        self,
        agent: "BaseAgent",
        env: JaxVectorEnv,
        n_seeds: int | None = None,
        devices: Devices | None = None,
    ) -> None:
        self._agent = agent
        self.env = env
        self.n_seeds = n_seeds
        self.devices = devices
        storage = agent._storage(1 if devices is None else devices.n)
        if devices is not None:
            storage = devices.storage(storage)
        self._add = storage.add
        self._learn = pure_learn(agent, storage)
        # Put together, what is split over devices would have to be gathered.
        self._small = packing.SMALL if devices is None else 0
        self._loops: dict[tuple[int, bool], loops.Loop] = {}
        self.begin = jax.jit(
            self._over_seeds(self._begin, (0, SEEDED)),
            compiler_options=compiling.quickly_compiled(),
        )

    def make(
        self, phases: Iterable[tuple[int, bool]], carry: Carry, constants: Constants
    ) -> None:
        """Makes the programs of a training, and has XLA compile them side by side.

        Args:
            phases: Of each, the iterations in a group, at least 1, and whether each
                group has one update.
            carry: What they start from.
            constants: What they are told.
        """
        # What learns takes longest to compile, and so is begun with.
        first = sorted(phases, key=lambda phase: not phase[1])
        made = self._new(first, carry, constants)
        if self.devices is None:
            compiling.compile_all(made, constants, carry)
        else:  # each is compiled where it is called, by all processes alike
            list(made)

    def _new(
        self, phases: Iterable[tuple[int, bool]], carry: Carry, constants: Constants
    ) -> Iterator[loops.Loop]:
        """Traces the programs that were not made before; see `make`."""
        for size, update in phases:
            if self.knows(size, update):
                continue
            name = type(self._agent).__name__
            with explained(f"{name}'s explore, process_experience or update_step"):
                parts = hoisting.split(
                    partial(self._group, size, update),
                    self._of_one_seed(constants, SEEDED),
                    self._of_one_seed(carry, 0),
                    jnp.uint32(0),
                    MAX_BYTES // (self.n_seeds or 1),
                )
            self._loops[size, update] = self._made(parts, size, update)
            yield self._loops[size, update]

    def loop(self, size: int, update: bool) -> loops.Loop:
        """Returns the program that runs groups of iterations; see `make`."""
        return self._loops[size, update]

    def knows(self, size: int, update: bool) -> bool:
        """Whether this program was made before."""
        return (size, update) in self._loops

    def _made(self, parts: hoisting.Split, size: int, update: bool) -> loops.Loop:
        bytes_per_group = (parts.bytes_ahead + n_bytes(parts.y)) * (self.n_seeds or 1)
        steps = min(steps_logged(self._agent.config), MAX_LENGTH)
        length = loops.n_groups(size, steps, bytes_per_group, MAX_BYTES)
        ahead = self._over_seeds(partial(hoisting.ahead, parts), (SEEDED, None))
        loop = self._over_seeds(
            partial(loops.loop, parts, length, self._small), (SEEDED, 0, None, 0, None)
        )
        everywhere = None if self.devices is None else self.devices.everywhere
        seldom = parts.bytes_ahead < SELDOM_BYTES
        warms_up = self._agent.learns_while_env_steps and not update
        return loops.Loop(
            jax.jit(
                ahead,
                compiler_options=compiling.quickly_compiled() if seldom else {},
                out_shardings=everywhere,
            ),
            jax.jit(
                loop,
                donate_argnums=1,
                compiler_options=compiling.quickly_compiled() if warms_up else {},
            ),
            size,
            length,
        )

    def _over_seeds(self, function: Callable[..., Any], in_axes: Any) -> Any:
        return function if self.n_seeds is None else jax.vmap(function, in_axes=in_axes)

    def _of_one_seed(self, tree: Any, axes: Any) -> Any:
        if self.n_seeds is None:
            return tree
        return jax.tree.map(
            lambda axis, part: part if axis is None else _first(part),
            axes,
            tree,
            is_leaf=lambda axis: axis is None,
        )

    def _begin(self, state: Any, constants: Constants) -> Any:
        """Resets the environments and chooses the first actions."""
        key = jax.random.wrap_key_data(constants.env_key)
        env = jax.tree.map(firm, self.env.initial(jax.random.fold_in(key, START)))
        remembered = self._agent._nothing_remembered(self.env.num_envs)
        iteration = constants.first_iteration
        return env, self._act(state, constants, iteration, env, *remembered)

    def _act(
        self,
        state: Any,
        constants: Constants,
        iteration: jax.Array,
        env: EnvState,
        hidden_state: Any,
        first: Any,
    ) -> Acted:
        steps = (iteration - constants.first_iteration).astype(jnp.int32)
        taken = steps * self.env.num_envs
        room = MAX_STEP - constants.first_step
        step = jnp.where(taken > room, MAX_STEP, constants.first_step + taken)
        return self._agent._host.act.pure(
            state,
            constants.interact_key,
            iteration,
            step,
            env.observation,
            hidden_state,
            first,
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
                parts = hoisting.split(body, constants, carry, numbers[0])
                values, n = hoisting.ahead(parts, constants, numbers), end - start
                carry, (outcome, new) = loops.loop(
                    parts,
                    n,
                    self._small,
                    constants,
                    carry,
                    numbers,
                    values,
                    jnp.int32(n),
                )
            outcomes.append(outcome)
            info |= new if learns else {}
        return carry, (jnp.concatenate(outcomes), info)

    def _iterate(
        self, learns: bool, constants: Constants, carry: Carry, iteration: jax.Array
    ) -> tuple[Carry, tuple[jax.Array, dict[str, jax.Array]]]:
        agent, env = self._agent, self.env
        state, memory, info, acted = carry.state, carry.memory, {}, carry.acted
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
            carry.env, from_start(acted.actions, env.single_action_space), step_key
        )
        env_state = jax.tree.map(firm, env_state)
        rows = agent._rows(carry.env.observation, acted, step)
        seen = carry.env.observation, step.next_observation
        finite = are_finite(*seen, step.reward)
        outside = are_outside(seen, env.single_observation_space)
        pending = None
        if at_once:
            memory = self._add(memory, rows)
            if learns:
                state, memory, info = self._learn(
                    state, memory, constants.learn_key, iteration + 1
                )
        else:
            # The host learns of bad rows, and stops; they are never stored.
            pending = (rows, finite & ~outside)
        remembered, first = acted.next_hidden_state, step.terminated | step.truncated
        acting = self._act(
            state, constants, iteration + 1, env_state, remembered, first
        )
        after = Carry(state, memory, env_state, acting, pending)
        if self.devices is not None:
            after = self.devices.constrained(after)
        bad_action = is_bad(acted.actions, env.single_action_space)
        return after, (pack(step, bad_action, ~finite, outside), info)


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


def training_constants(agent: "BaseAgent") -> Constants:
    """Returns what the programs of one training need to know."""
    seed = env_seed(agent.config.seed, Stream.TRAIN_ENV, agent.step)
    return Constants(
        interact_key=agent.interact_key,
        learn_key=agent.learn_key,
        env_key=jax.random.key_data(jax.random.key(int(seed.generate_state(1)[0]))),
        first_iteration=np.uint32(agent.iteration % 2**32),
        first_step=device_step(agent.step),
    )


def _first(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree
    )

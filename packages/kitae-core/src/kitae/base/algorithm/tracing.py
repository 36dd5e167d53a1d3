"""Turning an agent's methods into pure functions."""

import copy
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from kitae.base.algorithm.multi_agent import Names, by_name, joined
from kitae.base.common.pytrees import firm, same_leaves
from kitae.base.xla.stepping import HoistedFunction
from kitae.envs.functional import where_env
from kitae.types import Info, State

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)
NOT_THE_USERS = (Path(jax.__file__).parent, Path(__file__).parents[1])


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Tells which line of a user's code cannot be part of a compiled program, and why.

    Args:
        what: Whose code the body traces, such as `"DQN.explore"`.

    Raises:
        TypeError: In place of JAX's error.
    """
    try:
        yield
    except UNTRACEABLE as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if _is_the_users(frame.filename)]
        where = ""
        if theirs:
            frame = theirs[-1]
            where = f" at {frame.filename}, line {frame.lineno}: `{frame.line}`"
        raise TypeError(
            f"{what} cannot be compiled{where}: {str(error).splitlines()[0]} Use "
            "jax.numpy in place of numpy, and jnp.where or jax.lax.cond in place of "
            "`if` on a value"
        ) from error


def _is_the_users(filename: str) -> bool:
    return not any(Path(filename).is_relative_to(folder) for folder in NOT_THE_USERS)


class Acted(NamedTuple):
    """What acting once gave.

    Attributes:
        actions: `[n_envs, ...]`.
        log_probs: Of these actions.
        hidden_state: What the agent remembered when it chose them; None if it does not.
        next_hidden_state: What it remembers now.
    """

    actions: Any
    log_probs: Any
    hidden_state: Any
    next_hidden_state: Any


class ActFn:
    """`act(state, key_data, iteration, step, observation, hidden_state, first)`.

    A method such as `explore` reads `self.state`, `self.step`, `self.hidden_state` and,
    through `interact_keys`, `self.key`; it may assign to `self.hidden_state`, which is
    the initial one again where `first` says that an episode begins. It is called on a
    shallow copy of the agent that holds the arguments in their place: the agent itself
    is neither read nor written.
    Where there are several agents, what it is given and what it returns is by their
    names, and so is `self.hidden_state`; outside, it is rows: see
    `kitae.base.algorithm.multi_agent`.
    The key of an iteration is folded from one key and the iteration's number, so no
    key is passed from one to the next. It is traced at the first call, once a
    subclass has set its own attributes.

    A method that cannot be traced (it converts an array to numpy, or branches on a
    value) is called as it stands at every step, on such a copy too, after one warning
    that names it: what else it assigns to `self` is lost in either case.

    Args:
        agent: Whose method.
        name: The method: `"explore"` or `"select_action"`.
        add: What `and_add` calls too.

    Attributes:
        traceable: Whether it is compiled; known once it or `shapes` was called.
        jitted: `jitted(*args, names=names)`, as part of a program that is being
            traced, traced once.
    """

    def __init__(
        self, agent: "BaseAgent", name: str, add: Callable[..., Any] = lambda: None
    ) -> None:
        self._agent = agent
        self._name = name
        self._add = add
        self.jitted = jax.jit(self.pure, static_argnames="names")
        # By the number of rows: their shapes do not differ otherwise.
        self._drawn: dict[tuple[int, Names | None], HoistedFunction] = {}
        self.traceable = True

    def __call__(
        self,
        state: Any,
        key_data: jax.Array,
        iteration: int,
        step: Any,
        observation: Any,
        hidden_state: Any,
        first: Any,
    ) -> Acted:
        """Acts once."""
        rest = state, step, observation, hidden_state, first
        if self.traceable:
            try:
                return self._drawn_of(observation)(key_data, iteration, *rest)
            except UNTRACEABLE as error:
                self._give_up(error)
        names = self._agent._agent_names
        return self.pure(state, key_data, np.uint32(iteration), *rest[1:], names=names)

    def and_add(
        self,
        added: Sequence[Any],
        state: Any,
        key_data: jax.Array,
        iteration: int,
        step: Any,
        observation: Any,
        *remembered: Any,
    ) -> tuple[Any, Acted]:
        """Acts once and calls `add(*added)`, in one program; only where `traceable`.

        The first of `added`, the memory, is given up.

        Returns:
            The new memory, and what acting gave.
        """
        rest = state, step, observation, *remembered
        return self._drawn_of(observation).both(added, key_data, iteration, *rest)

    def _drawn_of(self, observation: Any) -> HoistedFunction:
        names = self._agent._agent_names
        n_rows = jax.tree.leaves(observation)[0].shape[0]
        drawn = self._drawn.get((n_rows, names))
        if drawn is None:
            drawn = self._drawn[n_rows, names] = HoistedFunction(
                self._of_number(names), beside=self._add, donate_beside=(0,)
            )
        return drawn

    def _of_number(self, names: Names | None) -> Callable[..., Acted]:
        def act(key_data: Any, iteration: Any, state: Any, *rest: Any) -> Acted:
            return self.jitted(state, key_data, iteration, *rest, names=names)

        return act

    def shapes(self, *args: Any) -> Any:
        """Returns what a call would, as shapes and dtypes."""
        names = self._agent._agent_names
        if self.traceable:
            try:
                return self.jitted.eval_shape(*args, names=names)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self.pure(*args, names=names)

    def check_traceable(self, *args: Any) -> None:
        """Traces once.

        Raises:
            TypeError: It cannot be traced; the line is named, with the reason.
        """
        with explained(f"{type(self._agent).__name__}.{self._name}"):
            self.jitted.eval_shape(*args, names=None)  # the trace is kept

    def pure(
        self,
        state: Any,
        key_data: jax.Array,
        iteration: Any,
        step: Any,
        observation: Any,
        hidden_state: Any = None,
        first: Any = None,
        names: Names | None = None,
    ) -> Acted:
        """Acts once, as part of a program that is being traced.

        Of several agents `names` has the names, in the order of their rows.
        """
        twin = copy.copy(self._agent)
        key = jax.random.wrap_key_data(key_data)
        twin.state, twin.step = state, step
        twin.key = jax.random.fold_in(key, iteration)
        if hidden_state is not None:
            initial = twin.initial_hidden_state(first.shape[0])
            hidden_state = jax.tree.map(
                lambda new, old: where_env(first, new, old), initial, hidden_state
            )
        if names is None:
            twin.hidden_state = hidden_state
            actions, log_probs = getattr(twin, self._name)(observation)
            acted = Acted(actions, log_probs, hidden_state, twin.hidden_state)
        else:
            twin.hidden_state = by_name(hidden_state, names)
            told = getattr(twin, self._name)(by_name(observation, names))
            actions, log_probs = (joined(part, names) for part in told)
            remembered = joined(twin.hidden_state, names)
            acted = Acted(actions, log_probs, hidden_state, remembered)
        return jax.tree.map(firm, acted)

    def _give_up(self, error: Exception) -> None:
        self.traceable = False
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"{type(self._agent).__name__}.{self._name} cannot be compiled and is "
            f"called as it is at every step, which is slower: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )


def pure_learn(
    agent: "BaseAgent", storage: Any
) -> Callable[..., tuple[State, Any, Info]]:
    """Returns an agent's `learn(state, memory, key_data, iteration)`, to be traced."""
    learn = agent._compose_learn(storage)

    def checked(
        state: State, memory: Any, key_data: jax.Array, iteration: jax.Array
    ) -> tuple[State, Any, Info]:
        # A user's functions may assign to the state they are given: keep another.
        before = jax.tree.map(lambda leaf: leaf, state)
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), iteration)
        state, memory, info = learn(state, memory, key)
        return same_leaves(state, before, "update_step"), memory, info

    return checked

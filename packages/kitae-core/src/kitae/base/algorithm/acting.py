"""A method that acts, such as `explore`, as a pure function."""

import copy
from typing import Any, NamedTuple, Protocol

import jax

from kitae.base.algorithm.multi_agent import Names, by_name, joined
from kitae.base.common.pytrees import firm
from kitae.envs.functional import where_env


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


class ActFn(Protocol):
    """Acts once: a pure function.

    The key of an iteration is folded from one key and the iteration's number, so no key
    is passed from one iteration to the next.
    """

    def __call__(
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
        """Acts once.

        Args:
            state: The train state.
            key_data: Of the stream to act with.
            iteration: uint32, vector steps so far.
            step: int32, environment steps so far.
            observation: `[n_rows, ...]`.
            hidden_state: What is remembered; None for an agent that remembers nothing.
            first: `[n_rows]` bool, where an episode begins; None likewise.
            names: Of several agents, in the order of their rows; None for one agent.
        """
        ...


def act_function(agent: Any, method: str) -> ActFn:
    """Makes a pure function of a method of an agent.

    A method such as `explore` reads `self.state`, `self.step`, `self.hidden_state` and,
    through `interact_keys`, `self.key`; it may assign to `self.hidden_state`, which is
    the initial one again where `first` says that an episode begins. It is called on a
    shallow copy of the agent that holds the arguments in their place. The agent itself
    is neither read nor written, and what else the method assigns to `self` is lost.

    Where there are several agents, the method sees dicts by their names. Outside, there
    are rows: see `kitae.base.algorithm.multi_agent`.

    Args:
        agent: The agent. Its attributes are read when the function is traced.
        method: `"explore"` or `"select_action"`.
    """

    def act(
        state: Any,
        key_data: jax.Array,
        iteration: Any,
        step: Any,
        observation: Any,
        hidden_state: Any = None,
        first: Any = None,
        names: Names | None = None,
    ) -> Acted:
        twin = copy.copy(agent)
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
            actions, log_probs = getattr(twin, method)(observation)
            acted = Acted(actions, log_probs, hidden_state, twin.hidden_state)
        else:
            twin.hidden_state = by_name(hidden_state, names)
            parts = getattr(twin, method)(by_name(observation, names))
            actions, log_probs = (joined(part, names) for part in parts)
            remembered = joined(twin.hidden_state, names)
            acted = Acted(actions, log_probs, hidden_state, remembered)
        return jax.tree.map(firm, acted)

    return act

"""A method that acts, such as `explore`, as a pure function."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kitae.base.algorithm.multi_agent import Names, by_name, joined
from kitae.base.common.pytrees import firm
from kitae.buffer import Experience
from kitae.envs.functional import where_env


class Acted(NamedTuple):
    """What acting once gave.

    Attributes:
        actions: `[n_rows, ...]`, as they are stored.
        log_probs: Of these actions.
        hidden_state: What the agent remembered when it chose them; None if it does not.
        next_hidden_state: What it remembers now.
        extras: What else is stored of it: a pytree of `[n_rows, ...]`, or None.
        sent: What the environments are sent; None: the actions themselves.
    """

    actions: Any
    log_probs: Any
    hidden_state: Any
    next_hidden_state: Any
    extras: Any = None
    sent: Any = None

    @property
    def env_actions(self) -> Any:
        """What the environments are sent: `[n_rows, *action_shape]`."""
        return self.actions if self.sent is None else self.sent


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

    What it chose is passed through `agent.env_action`, for the environments. What it
    returns beside actions and log-probabilities is kept if `agent.experience_type`
    stores it.

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
            parts = _parts(getattr(twin, method)(observation), method)
            remembered = twin.hidden_state
        else:
            twin.hidden_state = by_name(hidden_state, names)
            parts = _parts(getattr(twin, method)(by_name(observation, names)), method)
            parts = [joined(part, names) for part in parts]
            remembered = joined(twin.hidden_state, names)
        actions, log_probs, *extras = parts
        acted = Acted(
            actions,
            log_probs,
            hidden_state,
            remembered,
            _stored_extras(extras, agent.experience_type, actions, method),
            _sent(twin, actions),
        )
        return jax.tree.map(firm, acted)

    return act


def _parts(returned: Any, method: str) -> Sequence[Any]:
    """Returns the two or three parts of what a method that acts returned.

    Raises:
        TypeError: They are other than that.
    """
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        n = len(returned) if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(
            f"{method} must return (actions, log_probs) or (actions, log_probs, "
            f"extras), got {n if isinstance(n, str) else f'{n} values'}"
        )
    return returned


def _stored_extras(
    extras: Sequence[Any], experience_type: Any, actions: Any, method: str
) -> Any:
    """Returns what is to be stored beside the actions, checked; None: nothing.

    Raises:
        TypeError: `explore` returns none where they are stored, or any where they are
            not, or a leaf that has not a row for each action.
    """
    if method != "explore":
        return None
    is_stored = "extras" in experience_type._fields
    if not extras:
        if is_stored and experience_type is not Experience:
            raise TypeError(
                "explore must return (actions, log_probs, extras), since "
                f"{experience_type.__name__} stores extras; got no extras"
            )
        return None
    if not is_stored:
        raise TypeError(
            f"explore returns extras, which {experience_type.__name__} has no field for"
        )
    n_rows = actions.shape[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(extras[0]):
        if jnp.shape(leaf)[:1] != (n_rows,):
            raise TypeError(
                f"extras{jax.tree_util.keystr(path)} of explore must have the shape "
                f"[{n_rows}, ...], got {list(jnp.shape(leaf))}"
            )
    return extras[0]


def _sent(agent: Any, actions: Any) -> Any:
    """Returns what `env_action` makes of actions; None where it changes nothing.

    Raises:
        TypeError: It returns another shape than the action space has.
    """
    sent = agent.env_action(actions)
    if sent is actions:
        return None
    expected = (actions.shape[0], *(agent.config.env_cfg.action_space.shape or ()))
    if jnp.shape(sent) != expected:
        raise TypeError(
            f"env_action must return actions of shape {list(expected)}, as "
            f"{agent.config.env_cfg.action_space} says, got {list(jnp.shape(sent))}"
        )
    return sent

"""One transition, or a batch of them."""

from typing import Any, NamedTuple

import jax


class Experience(NamedTuple):
    """A transition `(s, a, r, done, s', log π(a|s))`, with any leading batch axes.

    `done` is termination only: the value of `next_observation` is zero there.
    Where an episode was merely cut off (a time limit), `truncated` is set, `done`
    is not, and the value of `next_observation` still counts. `next_observation` is
    always the true successor, at an episode's end the final observation: it is
    never the first observation of the next episode.

    Attributes:
        observation: `[..., *observation_shape]`, the dtype of the space.
        action: `[..., *action_shape]`; an index from 0 for a discrete space,
            whatever the space's own `start`.
        reward: `[...]` float32.
        done: `[...]` bool, the episode terminated here.
        next_observation: As `observation`.
        log_prob: `[...]` float32, of `action` under the policy that chose it.
        truncated: `[...]` bool, the episode was cut off here. Default: nowhere.
        hidden_state: What a recurrent agent remembered when it chose `action`, a
            pytree of `[..., *shape]`. Default: None, nothing.
        extras: What else acting computed, such as values or logits: a pytree of
            `[..., *shape]`. Default: None, nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> step = Experience(jnp.zeros(4), 1, 1.0, False, jnp.ones(4), 0.0)
        >>> step.truncated
        False
    """

    observation: Any
    action: Any
    reward: jax.Array
    done: jax.Array
    next_observation: Any
    log_prob: jax.Array
    truncated: jax.Array | bool = False
    hidden_state: Any = None
    extras: Any = None

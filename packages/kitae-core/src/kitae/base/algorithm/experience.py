"""What is stored of a vector step: a row of each environment."""

from typing import Any

import jax

from kitae.base.algorithm.acting import Acted
from kitae.buffer import Experience


def checked_experience_type(experience_type: Any) -> Any:
    """Returns a NamedTuple class whose fields are some of `Experience`'s.

    Raises:
        TypeError: It is none, or has others.
    """
    fields = getattr(experience_type, "_fields", None)
    if fields is None:
        raise TypeError(
            f"experience_type must be a NamedTuple class, got {experience_type!r}"
        )
    unknown = [name for name in fields if name not in Experience._fields]
    if unknown:
        raise TypeError(
            f"experience_type asks for {unknown}, but only {list(Experience._fields)} "
            "are known"
        )
    return experience_type


def rows_of(experience_type: Any, observation: Any, acted: Acted, step: Any) -> Any:
    """Builds rows of a vector step.

    Args:
        experience_type: What of it is wanted; see `checked_experience_type`.
        observation: What was acted on.
        acted: What was chosen.
        step: An `EnvStep` or a `HostStep`.

    Returns:
        An `experience_type` of leaves `[n_rows, ...]`.
    """
    known = Experience(
        observation=observation,
        action=acted.actions,
        reward=step.reward,
        done=step.terminated,
        next_observation=step.next_observation,
        log_prob=acted.log_probs,
        truncated=step.truncated,
        hidden_state=acted.hidden_state,
        extras=acted.extras,
    )
    names = experience_type._fields
    return experience_type(**{name: getattr(known, name) for name in names})


def row_spec(rows: Any) -> Any:
    """Returns the shapes and dtypes of one of these rows."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows
    )


def row_kind(rows: Any) -> dict[str, str]:
    """Returns the dtype and shape of each part of a row, in order."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(row_spec(rows))
    }

"""Errors of a user's code that cannot be compiled."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)
NOT_THE_USERS = (Path(jax.__file__).parent, Path(__file__).parents[1])


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Names the line of a user's code that cannot be compiled, and why.

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

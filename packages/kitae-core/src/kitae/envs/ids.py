"""Which environments there are, by the ids that `make_vec_env` takes."""

from contextlib import suppress

import gymnasium as gym

from kitae.envs import gymnax, jumanji
from kitae.envs.adapter import family
from kitae.envs.atari import register_atari


def env_ids(backend: str = "gymnasium") -> list[str]:
    """Returns the ids of a backend's environments; of several versions the newest.

    Atari's games are among Gymnasium's where ale-py is installed.

    Args:
        backend: "gymnasium", "gymnax" or "jumanji".

    Returns:
        In alphabetical order. Some may need packages that are not installed.

    Raises:
        ValueError: The backend is unknown.
        ImportError: Its package is missing.

    Example:
        >>> "CartPole-v1" in env_ids(), "CartPole-v0" in env_ids()
        (True, False)
    """
    if backend == "gymnasium":
        return _gymnasium()
    if backend == "gymnax":
        return sorted(family("gymnax", gymnax.SINCE).registered_envs)
    if backend == "jumanji":
        package = family("jumanji", jumanji.SINCE)
        return sorted(package.registered_environments())
    raise ValueError(
        f"backend must be one of gymnasium, gymnax and jumanji, got {backend!r}"
    )


def _gymnasium() -> list[str]:
    with suppress(ImportError):  # Atari's games are then not to be had
        register_atari()
    newest = {}
    for spec in sorted(gym.registry.values(), key=lambda spec: spec.version or 0):
        newest[spec.namespace, spec.name] = spec.id
    return sorted(newest.values())

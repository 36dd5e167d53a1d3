"""Environments: making them, and stepping any of them the same way."""

from importlib import import_module  # noqa: TID251 (of our own names)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kitae.envs.host import HostEnv, HostStep
    from kitae.envs.make import as_vector_env, make_vec_env
    from kitae.envs.masks import ActionMask
    from kitae.envs.probes import make_probe

__all__ = [
    "ActionMask",
    "HostEnv",
    "HostStep",
    "as_vector_env",
    "make_probe",
    "make_vec_env",
]

_MODULES = {
    "ActionMask": "masks",
    "HostEnv": "host",
    "HostStep": "host",
    "as_vector_env": "make",
    "make_probe": "probes",
    "make_vec_env": "make",
}


def __getattr__(name: str) -> Any:
    # Each environment's process imports this package, for kitae.envs.workers. The rest
    # needs JAX, which would cost it 130 MB and more than a second.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

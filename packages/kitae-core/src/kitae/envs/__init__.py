"""Environments: making them, and stepping any of them the same way."""

from kitae.envs.host import HostEnv, HostStep
from kitae.envs.make import as_vector_env, make_vec_env
from kitae.envs.masks import ActionMask

__all__ = [
    "ActionMask",
    "HostEnv",
    "HostStep",
    "as_vector_env",
    "make_vec_env",
]

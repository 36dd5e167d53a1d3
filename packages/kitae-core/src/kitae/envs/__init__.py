"""Environments: making them, and stepping any of them the same way."""

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

"""Environments: making them, and stepping any of them the same way."""

from kitae.envs.host import HostEnv, HostStep
from kitae.envs.make import as_vector_env, make_vec_env

__all__ = ["HostEnv", "HostStep", "as_vector_env", "make_vec_env"]

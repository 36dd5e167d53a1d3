"""Which driver trains an agent in which environments."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.multi_agent import Names
from kitae.base.algorithm.state import EnvSnapshot, TrainingState
from kitae.base.common.pytrees import owned
from kitae.base.recording.statistics import History
from kitae.base.training.devices import Devices
from kitae.base.training.driver import Driver
from kitae.base.training.evaluation import evaluate
from kitae.base.training.functions import CompiledFunctions, act_arguments
from kitae.base.training.host_driver import HostDriver, HostPrograms
from kitae.base.training.host_environments import (
    HostEnvironments,
    agent_names,
    check_spaces,
    host_env,
)
from kitae.base.training.jax_driver import JaxDriver, check_fits
from kitae.base.training.jax_environments import JaxPrograms
from kitae.base.training.jax_evaluation import JaxEvaluation
from kitae.base.training.seeds import Trainee, batch_of_seeds, train_seeds
from kitae.base.training.step_by_step import StepByStep
from kitae.envs.functional import JaxVectorEnv, as_jax_env
from kitae.envs.observations import empty_observations


def n_threads() -> int:
    """Returns how many threads XLA computes with on this CPU."""
    asked = os.environ.get("PJRT_NPROC", "")
    if asked.isdecimal():
        return int(asked)
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Drivers:
    """Makes drivers, and keeps the programs that they have in common.

    Args:
        functions: Of the agent, compiled.

    Attributes:
        functions: The same.
    """

    def __init__(self, functions: CompiledFunctions) -> None:
        self.functions = functions
        self._config = functions.algorithm.config
        self._host_programs: dict[Names | None, HostPrograms] = {}
        # Those of the newest environments: older ones are not kept alive.
        self._jax_programs: tuple[Any, Any, JaxPrograms] | None = None
        self._jax_evaluation: tuple[Any, JaxEvaluation] | None = None

    def make(
        self,
        env: Any,
        training: TrainingState,
        seed: int,
        devices: Sequence[Any] | None = None,
        snapshot: Callable[[Any], EnvSnapshot] | None = None,
    ) -> Driver:
        """Makes a driver; it resets the environments, or puts them where they were.

        Args:
            env: As for `BaseAgent.train`.
            training: Where the training begins; its arrays are given up.
            seed: Of the training.
            devices: Over which JAX environments are split.
            snapshot: Where a training that is resumed left JAX environments.

        Raises:
            TypeError: `devices` are for JAX environments, or a function of the agent
                cannot be traced.
            ValueError: The environments do not fit the config.
            MemoryError: The memory would not fit.
        """
        # Programs write into the arrays: nobody else may hold them.
        training = training._replace(state=owned(training.state))
        programs = self._programs_for(env, devices)
        if programs is not None:
            check_fits(self.functions, self._config, programs.env, training)
            return JaxDriver(self.functions, programs, training, seed, snapshot)
        if devices is not None:
            raise TypeError(
                "devices are for environments that are JAX functions, got "
                f"{type(env).__name__}"
            )
        training = training._replace(environments=None)
        vector = host_env(self._config, env)
        environments = HostEnvironments(
            self.functions.algorithm, vector, seed, training.counters
        )
        if self._can_run_programs(training):
            programs = self._programs_of(training.names)
            return HostDriver(self.functions, programs, environments, training)
        return StepByStep(self.functions, environments, training)

    def begun(self, env: JaxVectorEnv, training: TrainingState) -> TrainingState:
        """Returns a state for JAX environments that are about to be reset.

        Raises:
            TypeError: A function of the agent cannot be traced; the line is named.
            ValueError: The environments do not fit the config.
            MemoryError: The memory would not fit.
        """
        training = training._replace(state=owned(training.state))
        training = self.functions.restarted(training)
        check_fits(self.functions, self._config, env, training)
        return training

    def train_seeds(
        self,
        env: JaxVectorEnv,
        states: Sequence[TrainingState],
        trainees: Sequence[Trainee],
        until: int,
    ) -> list[History]:
        """Trains several seeds; see `kitae.base.training.seeds.train_seeds`."""
        size = batch_of_seeds(states[0].state, len(states))
        programs = JaxPrograms(self.functions.algorithm, env, n_seeds=size)
        return train_seeds(self.functions, programs, states, trainees, until)

    def evaluate(
        self,
        env: Any,
        training: TrainingState,
        n_episodes: int,
        seed: int,
        max_episode_steps: int | None = None,
    ) -> np.ndarray:
        """Returns the returns of `n_episodes`; see `BaseAgent.evaluate`.

        Raises:
            ValueError: The environment does not fit the config.
        """
        config, functions = self._config, self.functions
        known = self._jax_evaluation
        if known is not None and known[0] is env:
            return known[1](training, n_episodes, seed, max_episode_steps)
        jax_env = as_jax_env(env, config.env_cfg.n_envs)
        if jax_env is None or not self._can_select(jax_env, training):
            return evaluate(
                functions, training, jax_env or env, n_episodes, seed, max_episode_steps
            )
        program = JaxEvaluation(functions.algorithm, jax_env)
        self._jax_evaluation = env, program
        return program(training, n_episodes, seed, max_episode_steps)

    def _can_select(self, env: JaxVectorEnv, training: TrainingState) -> bool:
        """Whether `select_action` can be part of a program; warns if it cannot.

        Raises:
            ValueError: The environment does not fit the config.
        """
        agent_names(self._config, env)
        check_spaces(self._config, env)
        n_envs, select = env.num_envs, self.functions.select
        observation = empty_observations(env.single_observation_space, n_envs)
        remembered = self.functions.algorithm.nothing_remembered(n_envs)
        select.shapes(*act_arguments(training, observation, *remembered))
        return select.traceable

    def _programs_for(
        self, env: Any, devices: Sequence[Any] | None
    ) -> JaxPrograms | None:
        """Returns the programs for JAX environments, those of the last ones again."""
        wanted, known = None if devices is None else tuple(devices), self._jax_programs
        if known is not None and known[0] is env and known[1] == wanted:
            return known[2]
        n_envs = self._config.env_cfg.n_envs
        jax_env = as_jax_env(env, n_envs)
        if jax_env is None:
            return None
        split = None
        if devices is not None:
            split = Devices(devices, n_envs, self._config.update_cfg.batch_size)
        programs = JaxPrograms(self.functions.algorithm, jax_env, devices=split)
        self._jax_programs = env, wanted, programs
        return programs

    def _programs_of(self, names: Names | None) -> HostPrograms:
        if names not in self._host_programs:
            self._host_programs[names] = HostPrograms(self.functions, names)
        return self._host_programs[names]

    def _can_run_programs(self, training: TrainingState) -> bool:
        """Whether many vector steps on the host can be one program, and are faster."""
        if jax.default_backend() != "cpu" or jax.process_count() > 1:
            return False
        # A program holds a thread of XLA's while it waits for the environments. If that
        # is the only one, environments that use JAX would wait for it for ever.
        if n_threads() < 2:
            return False
        # Acting for the rows' shapes shows whether it can be compiled.
        self.functions.empty_rows(training)
        return self.functions.algorithm.schedule.overlaps and (
            self.functions.act.traceable
        )

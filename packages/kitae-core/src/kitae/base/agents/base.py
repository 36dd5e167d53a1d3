"""What every agent is given once its four functions are written."""

import copy
import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.agents.interfaces import AlgoType, IAgent
from kitae.base.algorithm.acting import act_function
from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.experience import checked_experience_type, row_kind
from kitae.base.algorithm.multi_agent import by_name, over_agents
from kitae.base.algorithm.schedule import Schedule
from kitae.base.algorithm.seeding import Stream, stream_key
from kitae.base.algorithm.state import (
    TrainingState,
    initial_training_state,
)
from kitae.base.common.pytrees import firm
from kitae.base.export.policy import export
from kitae.base.recording import saving
from kitae.base.recording.recorder import recording
from kitae.base.recording.statistics import History
from kitae.base.recording.subject import Subject
from kitae.base.recording.trackers import Callback, Tracker, checked_trackers
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import locked, new_run_dir, only_begun, runs_root
from kitae.base.training.drivers import Drivers
from kitae.base.training.functions import CompiledFunctions
from kitae.base.training.host_environments import agent_names
from kitae.base.training.loop import Loop
from kitae.base.training.seeds import SeedRun, Trainee
from kitae.buffer import Experience
from kitae.config import AlgoConfig, check_int
from kitae.config.config import MAX_SEED
from kitae.config.run_name import checked_run_name
from kitae.config.serial import check_readable, config_from_json
from kitae.envs.functional import JaxVectorEnv, as_jax_env
from kitae.envs.pettingzoo import PettingZooEnvs
from kitae.envs.videos import videos_into
from kitae.types import ExploreFn, Info, Observation, State


class BaseAgent(IAgent):
    """An agent from a config and four factories.

    The constructor builds the train state and the three functions, and writes
    nothing. What they are is read in `state`, `explore_fn`, `process_experience_fn`
    and `update_step_fn`; how far training went, in `step` (environment steps) and
    `updates` (gradient updates). During training the arrays in `state` are replaced
    at every update and their memory is used again: copy what you keep.

    Args:
        run_name: The run's directory under `runs/`, made by `train`.
        config: Everything else.
        train_state_factory: `(key, config, *, preprocess_fn, tabulate) -> state`.
        explore_factory: `(config) -> explore_fn(state, key, observations, **kwargs)`,
            which returns actions and log-probabilities, environments first. It is
            written for one agent; where there are several, `self.explore_fn` takes
            keys and observations by their names, and returns the others so.
        process_experience_factory: `(config) -> fn(state, key, experience)`, which
            returns a tuple of arrays.
        update_step_factory: `(config) -> fn(state, key, processed)`, which returns the
            new state and a dict of scalars.
        preprocess_fn: Applied to observations before the network; passed on to
            `train_state_factory`.
        tabulate: Whether to print the networks; passed on to `train_state_factory`.
        experience_type: A NamedTuple of the fields of `kitae.buffer.Experience` that
            are to be stored.

    Raises:
        ValueError: The config can never update, or `run_name` is no name.
        TypeError: `config` is no AlgoConfig, its `algo_params` are not of the agent's
            `params_type` or could not be read back from a run's files, or
            `experience_type` asks for a field that is not known.
    """

    algo_type: ClassVar[AlgoType]
    # The class of `config.algo_params`, which `load` reads; an agent may say its own.
    params_type: ClassVar[type | None] = None

    def __init__(
        self,
        run_name: str,
        config: AlgoConfig,
        train_state_factory: Callable[..., State],
        explore_factory: Callable[[AlgoConfig], ExploreFn],
        process_experience_factory: Callable[[AlgoConfig], Callable],
        update_step_factory: Callable[[AlgoConfig], Callable],
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
        experience_type: type = Experience,
    ) -> None:
        if not isinstance(config, AlgoConfig):
            raise TypeError(f"config must be an AlgoConfig, got {config!r}")
        params_type = type(self).params_type
        if params_type and not isinstance(config.algo_params, params_type):
            raise TypeError(
                f"algo_params must be a {params_type.__name__}, got "
                f"{config.algo_params!r}"
            )
        check_readable(config)
        self.check_config(config)
        self.run_name = checked_run_name(run_name)
        # Absolute: an environment may change the working directory.
        self._runs_root = runs_root()
        self.config = config
        self.experience_type = checked_experience_type(experience_type)

        def make_state(key: jax.Array, tabulate: bool = False) -> State:
            return train_state_factory(
                key, config, preprocess_fn=preprocess_fn, tabulate=tabulate
            )

        self._make_state = make_state
        state = make_state(stream_key(config.seed, Stream.INIT), tabulate)
        self.training_state = initial_training_state(config, state)
        self.explore_fn = explore_factory(config)
        if config.env_cfg.n_agents > 1:
            self.explore_fn = over_agents(self.explore_fn)
        self.process_experience_fn = process_experience_factory(config)
        self.update_step_fn = update_step_factory(config)
        self._start()

    def __copy__(self) -> Self:
        """Returns an agent that shares all that this one holds."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses to be pickled or deeply copied.

        Raises:
            TypeError: Always: an agent holds compiled programs and functions.
        """
        name = type(self).__name__
        raise TypeError(
            f"a {name} holds compiled programs and functions, so it can be neither "
            "pickled nor deeply copied: call agent.save(), and "
            f"{name}.load(agent.run_dir) where another one is needed"
        )

    def _start(self) -> None:
        """Begins with nothing remembered."""
        config = self.config
        # The key that `interact_keys` draws from.
        self.key = stream_key(config.seed, Stream.INTERACT)
        # What `explore` and `select_action` remember from one step to the next.
        self.hidden_state = self.initial_hidden_state(config.env_cfg.n_rows)
        if self.training_state.names is not None:
            self.hidden_state = by_name(self.hidden_state, self.training_state.names)
        # A checkpoint of which not all is read yet.
        self._unread: checkpoint.Saved | None = None
        # The loop of the call of `train` that is being made.
        self._loop: Loop | None = None
        self.run_dir: Path | None = None

    # --- The newest state -----------------------------------------------------------

    @property
    def state(self) -> Any:
        """The train state, as `train_state_factory` built it."""
        return self.training_state.state

    @state.setter
    def state(self, state: Any) -> None:
        self.training_state = self.training_state._replace(state=state)

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.training_state.counters.step

    @step.setter
    def step(self, step: int) -> None:
        counters = self.training_state.counters._replace(step=step)
        self.training_state = self.training_state._replace(counters=counters)

    @property
    def iteration(self) -> int:
        """Vector steps so far."""
        return self.training_state.counters.iteration

    @property
    def updates(self) -> int:
        """Gradient updates so far."""
        return self.training_state.counters.updates

    @property
    def memory(self) -> Any:
        """What the agent learns from; None until a training begins."""
        return self.training_state.memory

    def _commit(self, training: TrainingState) -> None:
        """Holds the newest state: the one place where a training changes the agent."""
        self.training_state = training

    # --- What a subclass is made of -------------------------------------------------

    @abstractmethod
    def check_config(self, config: AlgoConfig) -> None:
        """Refuses a config that can never update; called by the constructor.

        Raises:
            ValueError: It cannot; the fields are named.
        """

    @abstractmethod
    def make_schedule(self) -> Schedule:
        """Returns when the agent learns."""

    @abstractmethod
    def make_storage(self, shares: int = 1) -> Any:
        """Returns the pure functions of the memory, `init` and `add` among them.

        Args:
            shares: Devices that the memory is split over.
        """

    @abstractmethod
    def compose_learn(self, storage: Any) -> Callable[..., tuple[State, Any, Info]]:
        """Returns `learn(state, memory, key) -> (state, memory, info)`, pure.

        Args:
            storage: See `make_storage`.
        """

    @abstractmethod
    def restart_memory(self, memory: Any) -> Any:
        """Returns the memory for environments that are about to be reset."""

    def interact_keys(self, observation: Observation) -> Any:
        """Returns a fresh key to act with, or one by agent's name for several agents.

        Args:
            observation: What is acted on; for several agents a dict by their names.
        """
        if self.config.env_cfg.n_agents == 1:
            self.key, key = jax.random.split(self.key)
            return key
        self.key, *keys = jax.random.split(self.key, len(observation) + 1)
        return dict(zip(observation, keys, strict=True))

    def initial_hidden_state(self, n_envs: int) -> Any:
        """Returns what an agent remembers when an episode begins; None: nothing.

        An agent with a memory of its own, such as a recurrent network's, overrides it,
        reads `self.hidden_state` in `explore` and `select_action` and assigns the new
        one. What it read is stored as `Experience.hidden_state`, if `experience_type`
        asks for it. Where there are several agents, both are dicts by their names.

        Args:
            n_envs: The size of the first axis of each leaf.
        """
        return None

    def env_action(self, actions: jax.Array) -> jax.Array:
        """Returns what the environments are sent for actions; default: the same.

        An agent whose actions are not those of the space overrides it: it clips,
        rescales or squashes them, say. What is stored, with its log-probability, stays
        what `explore` returned. It is part of training, `evaluate` and exports; who
        steps environments alone calls it on what `select_action` returns.

        Args:
            actions: `[n_rows, ...]`, as `explore` or `select_action` returns them; of
                several agents the rows of all.

        Returns:
            `[n_rows, *action_shape]`; of a discrete space, indices from 0.

        Example:
            >>> class Clipped(BaseAgent):
            ...     def env_action(self, actions):
            ...         space = self.config.env_cfg.action_space
            ...         return jnp.clip(actions, space.low, space.high)
        """
        return actions

    def own_metrics(self) -> dict[str, float]:
        """Returns numbers of the agent's own, for the metrics beside those of updates.

        An agent that follows a schedule, say, overrides it; the names are always the
        same.
        """
        return {}

    @cached_property
    def _drivers(self) -> Drivers:
        """Made once a subclass has set its own attributes."""
        algorithm = Algorithm(
            name=type(self).__name__,
            config=self.config,
            experience_type=self.experience_type,
            explore=act_function(self, "explore"),
            select_action=act_function(self, "select_action"),
            make_storage=self.make_storage,
            compose_learn=self.compose_learn,
            restart=self.restart_memory,
            schedule=self.make_schedule(),
            initial_hidden_state=self.initial_hidden_state,
        )
        return Drivers(CompiledFunctions(algorithm))

    @property
    def functions(self) -> CompiledFunctions:
        """The agent's functions, compiled."""
        return self._drivers.functions

    # --- What a user calls ----------------------------------------------------------

    def train(
        self,
        env: VectorEnv | gym.Env | PettingZooEnvs,
        n_env_steps: int,
        *,
        eval_env: VectorEnv | gym.Env | PettingZooEnvs | None = None,
        devices: Sequence[Any] | None = None,
        trackers: Iterable[Tracker | Callback] = (),
    ) -> History:
        """Trains for `n_env_steps` environment steps more.

        Makes `runs/<run_name>/` at the first call (or, where that exists,
        `runs/<run_name>-2/` and so on) with the config, metrics and checkpoints; its
        path is then `self.run_dir`. `runs/` is in the directory in which the agent was
        made. The environment is reset first and left open. A second call continues
        where the first one ended.

        If the training ends with an error, what was trained is saved first if it is
        sound. A note on the error says where.

        Args:
            env: A `gymnasium.vector.VectorEnv` of `n_envs` environments, or, where
                that is 1, a `gymnasium.Env`. For several agents, what
                `kitae.envs.pettingzoo.make_pettingzoo` makes.
            n_env_steps: Environment steps (transitions), summed over the parallel
                environments, at least 1. The last vector step is taken whole, so up
                to `n_envs - 1` more.
            eval_env: In which the agent is evaluated while it trains, where
                `train_cfg.eval_frequency` asks for it: any number of environments,
                other ones than `env`. Default: JAX environments are those of `env`,
                which it leaves as they are.
            devices: For environments that are JAX functions: over which to split the
                environments, the replay and the batches. With `jax.distributed`, the
                devices of all processes, each of which makes this call. Default: one.
            trackers: Get each row of the metrics: instances of `kitae.base.Tracker`, or
                functions of `(env_step, metrics)`. One that raises
                `kitae.base.StopTraining` ends the training in order. Of several
                processes, those of the first.

        Returns:
            What happened in this call.

        Raises:
            ValueError: The environment does not fit the config, or gives what its
                spaces do not allow.
            FloatingPointError: An update gave a value that is not finite.
            RuntimeError: Another process trains in this run's directory, or an
                environment's process died or hangs.
            MemoryError: The replay does not fit.
            KeyboardInterrupt: Ctrl-C was pressed; what was trained is saved.
            SystemExit: SIGTERM or SIGHUP came; what was trained is saved.
        """
        check_int("n_env_steps", n_env_steps, 1)
        trackers = checked_trackers(trackers)
        until = self.step + n_env_steps
        return self._train_until(env, until, eval_env, devices, trackers)

    def train_seeds(
        self, env: Any, n_env_steps: int, seeds: Iterable[int]
    ) -> list[SeedRun]:
        """Trains new agents of this config, one for each seed, in one program.

        Each result is what `train` would give alone with that seed, up to the order in
        which floats are added. This agent itself is not trained. Each seed has a run
        of its own, `runs/<run_name>-seed<seed>/`, with config and metrics; checkpoints
        are left to you: `result.agent.save()`.

        Args:
            env: Environments that are JAX functions, as for `train`.
            n_env_steps: Environment steps of each seed, at least 1.
            seeds: Different ones, each in `[0, 2**32 - 1]`.

        Returns:
            For each seed, in order, `(seed, agent, history)`.

        Raises:
            ValueError: A seed is out of range or there twice, or the config asks for
                evaluations while it trains.
            TypeError: The environments are no JAX functions.

        Example:
            >>> runs = agent.train_seeds(env, 10_000, seeds=range(16))  # doctest: +SKIP
            >>> runs[3].agent.evaluate(env, 100).mean()  # doctest: +SKIP
        """
        check_int("n_env_steps", n_env_steps, 1)
        seeds = list(seeds)
        for seed in seeds:
            check_int("seeds", seed, 0, MAX_SEED)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different ones, at least one, got {seeds}")
        if self.config.train_cfg.eval_frequency != -1:
            raise ValueError(
                "train_seeds does not evaluate while it trains: eval_frequency must be "
                f"-1, got {self.config.train_cfg.eval_frequency}"
            )
        jax_env = as_jax_env(env, self.config.env_cfg.n_envs)
        if jax_env is None:
            raise TypeError(
                "train_seeds needs environments that are JAX functions, such as "
                f'make_vec_env("phys2d/CartPole-v1", n_envs); got {type(env).__name__}'
            )
        # One that has trained may have rows, which are its own.
        return self._anew(self.state)._train_seeds(jax_env, n_env_steps, seeds)  # noqa: SLF001, the same class

    def resume(
        self,
        env: VectorEnv | gym.Env | PettingZooEnvs,
        n_env_steps: int,
        *,
        step: int | None = None,
        eval_env: VectorEnv | gym.Env | PettingZooEnvs | None = None,
        devices: Sequence[Any] | None = None,
        trackers: Iterable[Tracker | Callback] = (),
    ) -> History:
        """Goes on from a checkpoint of the run, as if it had never been interrupted.

        The run is the agent's own, if it has trained, else `runs/<run_name>/`: where
        `train` had to take another name, such as `<run_name>-2`, an agent of that name
        resumes it. Everything is restored: parameters, optimizer, replay, keys and
        counters, and JAX environments; rows of the metrics that came after the
        checkpoint are dropped. Other environments are reset, since Gymnasium has no
        way to save one; with `train_cfg.reset_on_save` that makes no difference.

        A config that is not the checkpoint's is reported field by field, as a warning.
        A run that ended before its first checkpoint begins anew.

        Args:
            env: As for `train`.
            n_env_steps: Environment steps in all, those of the checkpoint included.
            step: Of the checkpoint. Default: the newest. Later ones are left: a warning
                names them, and they are removed when this training has written one.
            eval_env: As for `train`.
            devices: As for `train`.
            trackers: As for `train`.

        Returns:
            What happened in this call; nothing, if the checkpoint is that far.

        Raises:
            FileNotFoundError: The run has no such checkpoint.
            ValueError: The checkpoint is damaged, or another algorithm's, or holds
                other shapes or dtypes than this agent, which then stays as it is.
        """
        check_int("n_env_steps", n_env_steps, 1)
        trackers = checked_trackers(trackers)
        self._know(env)
        run_dir = self.run_dir or self._runs_root / self.run_name
        saved = None
        if self.step or step is not None or not only_begun(run_dir):
            # Another training would remove what is read. Of several processes of this
            # one, the first has the lock.
            with locked(run_dir) if jax.process_index() == 0 else nullcontext():
                saved = self._restored(run_dir, step)
        self.run_dir = run_dir
        return self._train_until(env, n_env_steps, eval_env, devices, trackers, saved)

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        *,
        params_type: type | None = None,
        step: int | Literal["last", "best"] = "last",
        **kwargs: Any,
    ) -> Self:
        """Makes an agent from a run's files: to evaluate it, or to go on.

        The files hold values only. What is code is the caller's: the class this is
        called on, its parameters' class, and a `preprocess_fn` if it had one. The
        replay is read only once `train` or `resume` needs it.

        Args:
            run_dir: A run's directory, such as `"runs/first"`.
            params_type: The class of `config.algo_params`. Default: the agent's own
                `params_type`, which shipped agents have.
            step: Of which checkpoint: its step, the newest, or the best one, as
                `train_cfg.keep_best` has it.
            **kwargs: For the agent's constructor, after `run_name` and `config`.

        Raises:
            FileNotFoundError: The run has no such checkpoint.
            ValueError: A file is damaged, which is named; or the checkpoint is another
                agent's.
            TypeError: The class of the parameters is not known.

        Example:
            >>> agent = DQN.load("runs/first")  # doctest: +SKIP
            >>> agent.evaluate(env, n_episodes=100).mean()  # doctest: +SKIP
        """
        run_dir = Path(run_dir).absolute()
        params_type = params_type or cls.params_type
        if params_type is None:
            raise TypeError(
                f"{cls.__name__}.load needs params_type, the dataclass of its "
                "config.algo_params"
            )
        saved = saving.chosen(run_dir, step)
        saving.check_same_algorithm(cls.__name__, saved)
        try:
            config = config_from_json(json.dumps(saved.facts["config"]), params_type)
        except ValueError as error:
            raise ValueError(f"{saved.path / checkpoint.MANIFEST}: {error}") from None
        agent = cls(run_dir.name, config, **kwargs)
        agent.run_dir = run_dir
        agent.state = saved.tree(saving.STATE, agent.state)
        agent._commit(saving.with_facts(agent.training_state, saved.facts))
        agent._unread = saved
        return agent

    def evaluate(
        self,
        env: VectorEnv | gym.Env | PettingZooEnvs,
        n_episodes: int,
        *,
        seed: int | None = None,
        max_episode_steps: int | None = None,
    ) -> np.ndarray:
        """Plays whole episodes with `select_action`, and learns nothing.

        Each environment plays its share, so short episodes are not favoured. Training
        afterwards continues exactly as it would have without.

        Args:
            env: As for `train`; any number of environments.
            n_episodes: At least 1.
            seed: Of the episodes, in `[0, 2**32 - 1]`. Default: drawn from the
                config's seed, apart from what training uses, and the same at each call.
            max_episode_steps: Environment steps after which an episode is cut off, at
                least 1; its return is then that of these steps. None: never. A policy
                may never end an episode of an environment without a limit.

        Returns:
            `[n_episodes]` float64, the undiscounted returns; of several agents the
            mean.

        Raises:
            ValueError: The environment does not fit the config.
        """
        check_int("n_episodes", n_episodes, 1)
        if seed is not None:
            check_int("seed", seed, 0, MAX_SEED)
        if max_episode_steps is not None:
            check_int("max_episode_steps", max_episode_steps, 1)
        self._know(env)
        seed = self.config.seed if seed is None else seed
        return self._drivers.evaluate(
            env, self.training_state, n_episodes, seed, max_episode_steps
        )

    def export(self, folder: str | Path) -> Path:
        """Writes `select_action` and its parameters, to be used without Kitae.

        `folder` then holds `select_action.bin`, for any number of observations on CPU,
        CUDA and TPU, `parameters.safetensors`, and `README.md`, which tells how they
        are loaded with jax, numpy and safetensors alone. Needs
        `pip install "kitae-core[export]"`.

        Args:
            folder: A new or an empty one. It is there when it is complete.

        Returns:
            The folder. Of several processes that train one agent, the first one writes
            it.

        Raises:
            FileExistsError: `folder` is a file, or not empty.
            TypeError: `select_action` cannot be compiled, or depends on how many
                observations there are.
            ImportError: The extra is not installed.
        """
        algorithm = self.functions.algorithm
        return export(algorithm, self.training_state, Path(folder))

    def save(self) -> Path:
        """Writes a checkpoint of everything to the run's directory.

        A tracker may call it during a training.

        Returns:
            The checkpoint's directory, `<run_dir>/checkpoints/<step>`. Of several
            processes that train one agent, the first one writes it.

        Raises:
            FloatingPointError: The agent's state is not finite.
            OSError: It could not be written; an older one of this step still is there.
            RuntimeError: Another process trains in this directory, or another thread
                trains this agent.
        """
        if self._loop is not None:
            self._loop.save()
            return checkpoint.path_of(self._own_run_dir(), self.step)
        self._settle()
        parts = saving.parts_of(self.training_state)
        if jax.process_index() != 0:
            return self._runs_root / self.run_name
        arrays, run_dir = saving.host_parts(parts, copy=False), self._own_run_dir()
        with locked(run_dir):
            return checkpoint.write(run_dir, self.step, arrays, self._facts())

    def restore(self, run_dir: str | Path, step: int | None = None) -> None:
        """Takes over everything that a checkpoint of `run_dir` holds.

        Args:
            run_dir: A run's directory; this agent goes on writing to its own.
            step: Of the checkpoint. Default: the newest.

        Raises:
            FileNotFoundError: The run has no such checkpoint.
            ValueError: The checkpoint is damaged, or another algorithm's, or holds
                other shapes or dtypes than this agent, which then stays as it is.
        """
        self._restored(Path(run_dir), step)

    # --- One call of `train` --------------------------------------------------------

    def _train_until(
        self,
        env: Any,
        n_env_steps: int,
        eval_env: Any,
        devices: Sequence[Any] | None,
        trackers: list[Tracker],
        saved: checkpoint.Saved | None = None,
    ) -> History:
        self._warn_of_annealing(n_env_steps)
        self._know(env)
        evaluate = self._evaluation_in(env, eval_env)
        snapshot = None
        if saved is not None and saving.ENVIRONMENTS in saved:
            snapshot = partial(saved.tree, saving.ENVIRONMENTS)
        self._read_memory()
        driver = self._drivers.make(
            env, self.training_state, self.config.seed, devices, snapshot
        )
        before = self.training_state.counters
        self._commit(driver.training)
        with (
            recording(
                self._subject(trackers),
                driver.statistics,
                self.training_state,
                n_env_steps,
                is_saved=saved is not None,
            ) as recorder,
            self._looping(
                Loop(driver, recorder, self._commit, n_env_steps, evaluate)
            ) as loop,
        ):
            if jax.process_index() == 0:
                videos_into(self._own_run_dir() / "videos", env)
            loop.run()
        n_steps, n_updates = self.step - before.step, self.updates - before.updates
        return driver.statistics.history(n_steps, n_updates)

    def _evaluation_in(
        self, env: Any, eval_env: Any
    ) -> Callable[[TrainingState], np.ndarray] | None:
        """Returns how a state is evaluated in a training; None: it is not.

        Raises:
            ValueError: `eval_env` is missing, or for nothing, or the training's own.
        """
        train_cfg, seed = self.config.train_cfg, self.config.seed
        if train_cfg.eval_frequency == -1:
            if eval_env is not None:
                raise ValueError(
                    "eval_env is for a training with evaluations, but "
                    "train_cfg.eval_frequency is -1: never"
                )
            return None
        if as_jax_env(env, self.config.env_cfg.n_envs) is not None:
            eval_env = env if eval_env is None else eval_env
        elif eval_env is None or eval_env is env:
            raise ValueError(
                "eval_env must be environments of their own, since "
                f"train_cfg.eval_frequency is {train_cfg.eval_frequency}, got "
                f"{'none' if eval_env is None else 'those of the training'}"
            )
        agent_names(self.config, eval_env)
        n_episodes = train_cfg.n_eval_episodes

        def evaluate(training: TrainingState) -> np.ndarray:
            return self._drivers.evaluate(eval_env, training, n_episodes, seed)

        return evaluate

    @contextmanager
    def _looping(self, loop: Loop) -> Iterator[Loop]:
        """Has `save` ask the loop within: it knows when the state is whole."""
        self._loop = loop
        try:
            yield loop
        finally:
            self._loop = None

    def _warn_of_annealing(self, n_env_steps: int) -> None:
        train_cfg = self.config.train_cfg
        if (
            self.config.update_cfg.learning_rate_annealing
            and n_env_steps > train_cfg.n_env_steps
        ):
            warnings.warn(
                f"training goes on to {n_env_steps} environment steps, but "
                "learning_rate_annealing ends at train_cfg.n_env_steps = "
                f"{train_cfg.n_env_steps}: the rate stays at its end from there on",
                RuntimeWarning,
                stacklevel=4,
            )

    def _know(self, env: Any) -> None:
        """Takes over the agents' names of an environment, if it has as many.

        Raises:
            ValueError: It has another number of agents than the config.
        """
        names = agent_names(self.config, env)
        self._commit(self.training_state._replace(names=names))

    def _subject(self, trackers: Iterable[Tracker] = ()) -> Subject:
        """Returns what a recording knows of this agent."""
        functions, training = self.functions, self.training_state
        return Subject(
            agent=type(self).__name__,
            run_name=self.run_name,
            config=self.config,
            run_dir=self._own_run_dir,
            own_metrics=self.own_metrics,
            trackers=list(trackers),
            row=self._row(),
            info_names=tuple(functions.info_shapes(training)),
        )

    def _own_run_dir(self) -> Path:
        if self.run_dir is None:
            self.run_dir = new_run_dir(self._runs_root, self.run_name, self.config)
        return self.run_dir

    def _anew(self, state: Any, **changes: Any) -> Self:
        """Returns an agent with the same functions that has taken no step.

        Args:
            state: Its train state.
            **changes: Other attributes.
        """
        new = copy.copy(self)
        vars(new).update(changes)
        new.training_state = initial_training_state(new.config, state)
        new._start()  # noqa: SLF001, the same class
        return new

    def _train_seeds(
        self, env: JaxVectorEnv, n_env_steps: int, seeds: Sequence[int]
    ) -> list[SeedRun]:
        """Trains agents like this one, which has taken no step."""
        self._commit(self._drivers.begun(env, self.training_state))
        agents = self._with_seeds(seeds)
        trainees = [
            Trainee(agent._subject(), agent._commit)  # noqa: SLF001, the same class
            for agent in agents
        ]
        states = [agent.training_state for agent in agents]
        histories = self._drivers.train_seeds(env, states, trainees, n_env_steps)
        return [SeedRun(*run) for run in zip(seeds, agents, histories, strict=True)]

    def _with_seeds(self, seeds: Sequence[int]) -> list[Self]:
        """Returns new agents of this one's config, one for each seed.

        They share its compiled functions, and begin with its empty memory.
        """

        def leaves(key: jax.Array) -> list[jax.Array]:
            return [firm(leaf) for leaf in jax.tree.leaves(self._make_state(key))]

        keys = jnp.stack([stream_key(seed, Stream.INIT) for seed in seeds])
        columns = jax.jit(jax.vmap(leaves))(keys)
        structure, agents = jax.tree.structure(self.state), []
        for i, seed in enumerate(seeds):
            mine = [column[i] for column in columns]
            new = self._anew(
                jax.tree.unflatten(structure, mine),
                config=replace(self.config, seed=seed),
                run_name=f"{self.run_name}-seed{seed}",
            )
            new._commit(new.training_state._replace(memory=self.memory))  # noqa: SLF001, the same class
            agents.append(new)
        return agents

    # --- Checkpoints ----------------------------------------------------------------

    def _row(self) -> dict[str, str]:
        """Returns dtype and shape of each part of a row of the memory."""
        return row_kind(self.functions.empty_rows(self.training_state)[0])

    def _facts(self) -> dict[str, Any]:
        name = type(self).__name__
        return saving.facts_of(self.training_state, name, self.config, self._row())

    def _settle(self) -> None:
        """Brings the memory up to date, and makes it if there is none."""
        self._read_memory()
        functions, training = self.functions, self.training_state
        self._commit(functions.settled(functions.prepared(training)))

    def _read_memory(self) -> None:
        """Reads the rest of the checkpoint that the agent was loaded from."""
        if self._unread is not None and self.memory is None:
            self._restore(self._unread)

    def _restore(self, saved: checkpoint.Saved) -> None:
        functions, training = self.functions, self.training_state
        memory = functions.memory_init(training).eval_shape()
        expected = saving.Expected(
            type(self).__name__, self.config, self._row(), memory
        )
        self._commit(saving.restored(saved, expected, training))
        self._unread = None

    def _restored(self, run_dir: Path, step: int | None) -> checkpoint.Saved:
        saved = checkpoint.read(run_dir, step)
        name = type(self).__name__
        changes = saving.config_changes_of(name, self.config, saved)
        self._restore(saved)
        if changes:
            warnings.warn(
                f"{self.run_name} continues with another config than it had:\n  "
                + "\n  ".join(changes),
                RuntimeWarning,
                stacklevel=3,
            )
        return saved

"""What every agent is given once its four functions are written."""

import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.agents.interfaces import AlgoType, IAgent
from kitae.base.algorithm.experience import checked_experience_type, row_spec, rows_of
from kitae.base.algorithm.multi_agent import by_name, default_names, over_agents
from kitae.base.algorithm.seeding import Stream, stream_key
from kitae.base.algorithm.tracing import Acted
from kitae.base.common.memory import available_bytes, readable
from kitae.base.common.pytrees import n_bytes, owned
from kitae.base.export.policy import export
from kitae.base.recording import saving
from kitae.base.recording.run import Run
from kitae.base.recording.statistics import History
from kitae.base.recording.trackers import Callback, Tracker, checked_trackers
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import locked, new_run_dir, only_begun, runs_root
from kitae.base.training.compiled import train_compiled
from kitae.base.training.devices import Devices
from kitae.base.training.evaluation import evaluate
from kitae.base.training.host import device_step, meet, train_on_host
from kitae.base.training.host_programs import HostPrograms
from kitae.base.training.programs import Programs
from kitae.base.training.seeds import SeedRun, train_seeds
from kitae.buffer import Experience
from kitae.config import AlgoConfig, check_int
from kitae.config.config import MAX_SEED
from kitae.config.run_name import checked_run_name
from kitae.config.schedule import held_rows
from kitae.config.serial import check_readable, config_from_json
from kitae.envs import HostStep
from kitae.envs.functional import as_jax_env
from kitae.envs.observations import empty_observations
from kitae.envs.pettingzoo import PettingZooEnvs
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
    learns_while_env_steps: ClassVar[bool]
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
        self._check_config(config)
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
        self.state = make_state(stream_key(config.seed, Stream.INIT), tabulate)
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
        """Begins with no step taken and nothing remembered."""
        config = self.config
        # The key that `interact_keys` draws from.
        self.key = stream_key(config.seed, Stream.INTERACT)
        # Training's own never change: what an iteration draws, its number tells. They
        # are held as plain numbers: typed keys take a slower way into a program.
        self.interact_key = jax.random.key_data(self.key)
        self.learn_key = jax.random.key_data(stream_key(config.seed, Stream.LEARN))
        # Of several agents, in the order of their rows: until there is an environment
        # whose they are, any.
        n_agents = config.env_cfg.n_agents
        self._agent_names = default_names(n_agents) if n_agents > 1 else None
        # What `explore` and `select_action` remember from one step to the next.
        self.hidden_state = self.initial_hidden_state(config.env_cfg.n_rows)
        if self._agent_names is not None:
            self.hidden_state = by_name(self.hidden_state, self._agent_names)
        self.memory: Any = None
        self._pending: tuple[Any, np.ndarray] | None = None
        self._compiled_for: tuple[Any, Programs] | None = None
        # Where JAX environments are, and a checkpoint of which not all is read yet.
        self._world: saving.World | None = None
        self._unread: checkpoint.Saved | None = None
        self._trackers: list[Tracker] = []
        self._told: dict[str, Any] = {"seconds": 0.0, "info": {}, "score": None}
        # The call of `train` that is being made.
        self._run: Run | None = None
        self.step = 0
        self.iteration = 0
        self.updates = 0
        self.rows = np.zeros(config.env_cfg.n_rows, np.int64)
        self.run_dir: Path | None = None

    # --- What a subclass is made of -------------------------------------------------

    @abstractmethod
    def _check_config(self, config: AlgoConfig) -> None:
        """Refuses a config that can never update."""

    @abstractmethod
    def _storage(self, shares: int = 1) -> Any:
        """Returns the pure functions of the memory, `init` and `add` among them.

        Args:
            shares: Of how many it is one, where environments are split over devices.
        """

    @abstractmethod
    def _compose_learn(self, storage: Any) -> Callable[..., tuple[State, Any, Info]]:
        """Returns `learn(state, memory, key) -> (state, memory, info)`, pure."""

    @abstractmethod
    def _update_due(self) -> bool:
        """Whether to learn now."""

    @abstractmethod
    def _next_iterations(
        self, step: int, iteration: int, left: int
    ) -> tuple[int, int, bool]:
        """Plans iterations in which every step is a transition.

        Args:
            step: Environment steps taken so far.
            iteration: Iterations so far.
            left: Iterations until the training ends, at least 1.

        Returns:
            How many iterations make a group, how many groups come next, at least 1,
            and whether each of them has an update.
        """

    @abstractmethod
    def _updates_each_time(self) -> int:
        """Gradient updates in one `learn`."""

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

    def own_metrics(self) -> dict[str, float]:
        """Returns numbers of the agent's own, for the metrics beside those of updates.

        An agent that follows a schedule, say, overrides it; the names are always the
        same.
        """
        return {}

    @cached_property
    def _host(self) -> HostPrograms:
        """Made once a subclass has set its own attributes."""
        return HostPrograms(self)

    # --- What a user calls ----------------------------------------------------------

    def train(
        self,
        env: VectorEnv | gym.Env | PettingZooEnvs,
        n_env_steps: int,
        *,
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
        return self._train_until(env, self.step + n_env_steps, devices, trackers)

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
            ValueError: A seed is out of range or there twice.
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
        jax_env = as_jax_env(env, self.config.env_cfg.n_envs)
        if jax_env is None:
            raise TypeError(
                "train_seeds needs environments that are JAX functions, such as "
                f'make_vec_env("phys2d/CartPole-v1", n_envs); got {type(env).__name__}'
            )
        return train_seeds(self, jax_env, n_env_steps, seeds)

    def resume(
        self,
        env: VectorEnv | gym.Env | PettingZooEnvs,
        n_env_steps: int,
        *,
        step: int | None = None,
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

        A config that is not the checkpoint's is told field by field, as a warning. A
        run that ended before its first checkpoint begins anew.

        Args:
            env: As for `train`.
            n_env_steps: Environment steps in all, those of the checkpoint included.
            step: Of the checkpoint. Default: the newest. Later ones are left: a warning
                names them, and they are removed when this training has written one.
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
        meet(self, env)
        run_dir = self.run_dir or self._runs_root / self.run_name
        saved = None
        if self.step or step is not None or not only_begun(run_dir):
            # Another training would remove what is read. Of several processes of this
            # one, the first has the lock.
            with locked(run_dir) if jax.process_index() == 0 else nullcontext():
                saved = self._restored(run_dir, step)
        self.run_dir = run_dir
        return self._train_until(env, n_env_steps, devices, trackers, saved)

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
            step: Of which checkpoint: its step, the newest, or the one with the best
                mean return in training.
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
        saving.check_same_algorithm(cls, saved)
        try:
            config = config_from_json(json.dumps(saved.facts["config"]), params_type)
        except ValueError as error:
            raise ValueError(f"{saved.path / checkpoint.MANIFEST}: {error}") from None
        agent = cls(run_dir.name, config, **kwargs)
        agent.run_dir = run_dir
        agent.state = saved.tree(saving.STATE, agent.state)
        saving.take_over_facts(agent, saved.facts)
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
        return evaluate(self, env, n_episodes, seed, max_episode_steps)

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
        return export(self, Path(folder))

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
        if self._run is not None:
            self._run.save()
            return checkpoint.path_of(self._own_run_dir(), self.step)
        parts = saving.parts_of(self)
        if jax.process_index() != 0:
            return self._runs_root / self.run_name
        arrays = saving.host_parts(parts, copy=False)
        run_dir = self._own_run_dir()
        with locked(run_dir):
            return checkpoint.write(run_dir, self.step, arrays, saving.facts_of(self))

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

    # --- What the loops call --------------------------------------------------------

    def _acted(
        self, observation: Observation, hidden_state: Any, first: Any, *, add: bool
    ) -> Acted:
        """Acts in training.

        Args:
            observation: What is acted on.
            hidden_state: What is remembered, or None.
            first: Where episodes begin, or None.
            add: Whether the rows of the last step are added, in the same program.
        """
        act = self._host.act
        args = (
            self.state,
            self.interact_key,
            self.iteration % 2**32,
            device_step(self.step),
            observation,
            hidden_state,
            first,
        )
        if not add or self._pending is None or not act.traceable:
            return act(*args)
        rows, self._pending = self._pending, None
        self.memory, acted = act.and_add((self.memory, *rows), *args)
        return acted

    def _take_in(self, update: bool) -> Info | None:
        """Adds the rows of the last step, and learns if there is an update due.

        Both are one program, sent off before the environments step: what the host
        does next, it does while the device works.
        """
        rows, self._pending = self._pending, None
        if update:
            self.state, self.memory, info = self._host.learn(
                self.learn_key,
                self.iteration % 2**32,
                self.state,
                self.memory,
                *(rows or self._no_rows),
            )
            self._updated()
            return info
        if rows is not None:
            self.memory = self._host.add(self.memory, *rows)
        return None

    def _taken(self, valid: np.ndarray, n_steps: int) -> None:
        """Counts a vector step.

        Args:
            valid: `[n_rows]` bool, which rows there were.
            n_steps: Environment steps.
        """
        self.iteration += 1
        self.step += n_steps

    def _updated(self) -> None:
        """Counts an update."""
        self.updates += self._updates_each_time()
        self.rows[:] = 0

    def _restored(self, run_dir: Path, step: int | None) -> checkpoint.Saved:
        saved = checkpoint.read(run_dir, step)
        changes = saving.config_changes_of(self, saved)
        saving.take_over(self, saved)
        if changes:
            warnings.warn(
                f"{self.run_name} goes on with another config than it had:\n  "
                + "\n  ".join(changes),
                RuntimeWarning,
                stacklevel=3,
            )
        return saved

    def _train_until(
        self,
        env: Any,
        n_env_steps: int,
        devices: Sequence[Any] | None,
        trackers: list[Tracker],
        saved: checkpoint.Saved | None = None,
    ) -> History:
        self._trackers = trackers
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
                stacklevel=3,
            )
        programs = self._programs(env, devices)
        if programs is not None:
            return train_compiled(self, programs, n_env_steps, saved)
        if devices is not None:
            raise TypeError(
                "devices are for environments that are JAX functions, got "
                f"{type(env).__name__}"
            )
        self._world = None
        return train_on_host(self, env, n_env_steps, saved)

    def _programs(self, env: Any, devices: Sequence[Any] | None) -> Programs | None:
        """Returns the programs for JAX environments, those of the last ones again."""
        used = (env, None if devices is None else tuple(devices))
        known = self._compiled_for
        if known is None or known[0][0] is not env or known[0][1] != used[1]:
            n_envs = self.config.env_cfg.n_envs
            jax_env = as_jax_env(env, n_envs)
            if jax_env is None:
                return None
            split = None
            if devices is not None:
                split = Devices(devices, n_envs, self.config.update_cfg.batch_size)
            known = self._compiled_for = (
                used,
                Programs(self, jax_env, devices=split),
            )
        return known[1]

    def _passed(self, iterations: int, updates: int) -> None:
        """Counts iterations in which every step was a transition, and their updates."""
        self.iteration += iterations
        self.step += iterations * self.config.env_cfg.n_envs
        self.updates += updates * self._updates_each_time()

    def _own_run_dir(self) -> Path:
        if self.run_dir is None:
            self.run_dir = new_run_dir(self._runs_root, self.run_name, self.config)
        return self.run_dir

    def _prepare(self) -> None:
        """Owns the state's arrays, and makes the memory if there is none.

        Its shapes are those of what the spaces and `explore` give.

        Raises:
            MemoryError: It would not fit.
        """
        self.state = owned(self.state)
        if self.memory is not None:
            return
        if self._unread is not None:
            saving.take_over(self, self._unread)
            return
        init = self._memory_init()
        wanted, available = n_bytes(init.eval_shape()), available_bytes()
        if wanted > available:
            raise MemoryError(
                f"{held_rows(self.config)[1]} transitions take {readable(wanted)}, but "
                f"{readable(available)} of memory are available"
            )
        self.memory = init()

    def _memory_spec(self) -> Any:
        """Returns the shapes and dtypes of the memory."""
        return self._memory_init().eval_shape()

    def _memory_init(self) -> Any:
        """Returns `init() -> memory`, compiled."""
        return jax.jit(partial(self._storage().init, row_spec(self._no_rows[0])))

    @cached_property
    def _no_rows(self) -> Any:
        """Rows that do not count, of zeros, and that none of them does."""
        env_cfg = self.config.env_cfg
        space, n_rows = env_cfg.observation_space, env_cfg.n_rows
        observation = empty_observations(space, n_rows)
        acted = self._host.act.shapes(
            self.state,
            self.interact_key,
            np.uint32(0),
            device_step(self.step),
            observation,
            *self._nothing_remembered(n_rows),
        )
        flags, floats = np.zeros(n_rows, bool), np.zeros(n_rows, np.float32)
        step = HostStep(observation, observation, floats, flags, flags, ~flags)
        rows = self._rows(observation, acted, step)
        nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), rows)
        return nothing, flags

    def _begin(self) -> None:
        """Makes ready for a training: the environments are about to be reset."""
        self._prepare()

    def _nothing_remembered(self, n_envs: int) -> tuple[Any, Any]:
        """Returns the hidden state at the start, and that all environments are there.

        Both are None for an agent without one.
        """
        hidden_state = self.initial_hidden_state(n_envs)
        return hidden_state, None if hidden_state is None else np.ones(n_envs, bool)

    def _rows(self, observation: Any, acted: Acted, step: Any) -> Any:
        """Builds the rows to store of a vector step, an `EnvStep` or a `HostStep`."""
        return rows_of(self.experience_type, observation, acted, step)

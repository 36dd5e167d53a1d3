"""The settings of a training: the fields of flags and files, and their defaults."""

import dataclasses
import importlib
import inspect
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import gymnasium as gym
import tomli_w
import tyro
from gymnasium.vector import VectorEnv

import kitae.config as cfg
from kitae.algos.presets import AGENTS, preset
from kitae.base import BaseAgent
from kitae.base.rundir.directory import CONFIG, shown
from kitae.base.rundir.files import read_file
from kitae.base.rundir.output import visible
from kitae.config.serial import MAX_JSON_BYTES, check_depth, config_from_json, plain
from kitae.config.typed import read_dataclass, read_value, short
from kitae.envs.functional import as_jax_env
from kitae.envs.make import make_vec_env
from kitae.runs import read_run

SETTINGS = "train.toml"
MAX_SETTINGS_BYTES = 100_000
MAX_DOTS = 1_000  # in a line
FIRST_TASK = "CartPole-v1"
N_EVAL_EPISODES = 100

Agent = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT")]
RunDir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]

P = TypeVar("P")
Plain = bool | int | float | str

# Arguments of what makes environments, which are not the environment's.
NOT_ENV_KWARGS = {
    parameter.name
    for make in (make_vec_env, gym.make_vec, gym.make)
    for parameter in inspect.signature(make).parameters.values()
    if parameter.kind is not parameter.VAR_KEYWORD
} - {"max_episode_steps"}


def _env_kwargs(words: list[str]) -> dict[str, Plain]:
    """Reads names and values that follow one another on the command line."""
    if len(words) % 2:
        raise ValueError(f"names and values in turn are needed, got {' '.join(words)}")
    return dict(zip(words[::2], map(_plain_value, words[1::2]), strict=True))


def _plain_value(word: str) -> Plain:
    if word in ("True", "False"):
        return word == "True"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return word


# One option whatever a file says: tyro would make an option of each name that is there.
ENV_KWARGS = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="[NAME VALUE ...]",
    instance_from_str=_env_kwargs,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [
        str(word) for pair in value.items() for word in pair
    ],
)


@dataclass(frozen=True)
class Training(Generic[P]):
    """What to train on, and how.

    Attributes:
        algo: The algorithm's own parameters.
        update: How it learns.
        train: How long, and what is written.
        env_id: An environment, as the registry of `backend` knows it; with
            `module:` in front, which is then imported. No file may name a module.
        n_envs: Parallel environments, from 1 to 2**20.
        backend: Whose environment it is; `gymnax` and `jumanji` need extras of
            kitae-core.
        vectorization_mode: How Gymnasium's environments are stepped: in their own
            vectorised form, one after the other, or in a process each. Default: their
            own form if there is one, else one after the other.
        action_mask: Whether masks of allowed actions become a part of observations.
        env_kwargs: Passed to the environment, such as `max_episode_steps 200`; not
            the arguments of `make_vec_env` or of Gymnasium's `make`.
        seed: In [0, 2**32 - 1]; the same seed gives the same run.
        run_name: The run's directory under runs/. Default: agent, environment and seed.
        capture_video: Whether to film every hundredth episode while training.
    """

    algo: P
    update: cfg.UpdateConfig
    train: cfg.TrainConfig
    env_id: str = FIRST_TASK
    n_envs: int = 8
    backend: Literal["gymnasium", "gymnax", "jumanji"] = "gymnasium"
    vectorization_mode: Literal["vector_entry_point", "sync", "async"] | None = None
    action_mask: bool = False
    env_kwargs: Annotated[dict[str, Plain], ENV_KWARGS] = field(default_factory=dict)
    seed: int = 0
    run_name: str | None = None
    capture_video: bool = False

    def __post_init__(self) -> None:
        cfg.check_n_envs(self.n_envs)
        for name in self.env_kwargs:
            if name in NOT_ENV_KWARGS:
                raise ValueError(
                    "env_kwargs must be arguments of the environment, but "
                    f"{name!r} is one of what makes environments"
                )


def find_agent(name: str) -> type[BaseAgent]:
    """Returns a shipped agent's class, or that of `module:Class`, which is imported.

    Only what the user typed comes here, never what a file says.

    Raises:
        ValueError: There is no such agent, or it does not say what its parameters are.
    """
    if name in AGENTS:
        return AGENTS[name]
    module, _, class_name = name.partition(":")
    if not class_name:
        raise ValueError(
            f"agent must be one of {', '.join(AGENTS)}, or your own as module:Class, "
            f"got {name!r}"
        )
    try:
        with _modules_here():
            found = getattr(importlib.import_module(module), class_name)  # noqa: TID251, typed by the user
    except (ImportError, AttributeError) as error:
        raise ValueError(f"agent {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseAgent)):
        raise ValueError(f"agent {name!r} is not a subclass of kitae.base.BaseAgent")
    if found.params_type is None:
        raise ValueError(
            f"agent {name!r} must say of which dataclass its config.algo_params are: "
            "in its class, `params_type = ...`"
        )
    return found


@contextmanager
def _modules_here() -> Iterator[None]:
    """Finds modules in the working directory too, as `python -m` does."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def defaults(agent: str, agent_type: type[BaseAgent], env_id: str) -> Training:
    """Returns the settings that an agent starts from on a task."""
    if agent in AGENTS:
        start = preset(agent, env_id)
        train_cfg = replace(start.train_cfg, n_eval_episodes=N_EVAL_EPISODES)
        return Training(
            start.algo_params, start.update_cfg, train_cfg, env_id, start.n_envs
        )
    params_type: Any = agent_type.params_type
    try:
        algo = params_type()
    except TypeError as error:
        raise ValueError(
            f"each field of {params_type.__name__} needs a default, to be trained by "
            f"this command: {error}"
        ) from None
    return Training(
        algo,
        cfg.UpdateConfig(),
        cfg.TrainConfig(n_env_steps=500_000, n_eval_episodes=N_EVAL_EPISODES),
        env_id,
    )


def read_settings(
    path: Path, agent: str, agent_type: type[BaseAgent], env_id: str | None = None
) -> Training:
    """Reads a file of settings; a field that it does not set has its default.

    Args:
        path: A TOML file with the fields of `Training`, those of `algo`, `update` and
            `train` in tables; `agent` may be there, and "none" stands for none.
        agent: As the user named it.
        agent_type: Its class.
        env_id: The environment, as the user typed it. Default: the file's.

    Raises:
        ValueError: The file is not TOML, is another agent's, names a module to import,
            or has a field that is unknown, of another type or out of its range; the
            field is named.
        FileNotFoundError: There is no such file.
    """
    try:
        table = _toml(read_file(path, MAX_SETTINGS_BYTES))
    except ValueError as error:
        raise ValueError(f"{path} is not a TOML file of settings: {error}") from None
    _refuse_control_characters(path, table)
    if table.pop("agent", agent) != agent:
        raise ValueError(f"{path} has the settings of another agent than {agent!r}")
    if "n_eval_episodes" in table and isinstance(table.get("train", {}), dict):
        # Where older files have it, which knew no evaluation but the last.
        episodes = table.pop("n_eval_episodes")
        table["train"] = {"n_eval_episodes": episodes, **table.get("train", {})}
    if env_id is not None:
        table["env_id"] = env_id
    else:
        _refuse_module(path, "env_id", table.get("env_id"))
    base = defaults(agent, agent_type, str(table.get("env_id", FIRST_TASK)))
    try:
        return changed(base, _without_none(table))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _toml(content: bytes) -> dict[str, Any]:
    # For each dot in a key, tomllib looks at all the parts before it.
    if any(line.count(b".") > MAX_DOTS for line in content.splitlines()):
        raise ValueError(f"a line has more than {MAX_DOTS} dots")
    try:
        table = tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_depth(table)
    return table


def _refuse_control_characters(path: Path, value: Any) -> None:
    """Refuses text that a terminal would obey: `--help` shows what a file says.

    Raises:
        ValueError: There is such text.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for part in value:
            _refuse_control_characters(path, part)
    elif visible(value) != str(value):
        raise ValueError(f"{path} must not have control characters, got {short(value)}")


def _refuse_module(path: Path, field: str, env_id: Any) -> None:
    """Refuses an environment's id by which a file would have a module imported.

    Raises:
        ValueError: It is one; the message says how the user can ask for it.
    """
    if isinstance(env_id, str) and ":" in env_id:
        raise ValueError(
            f"{path}: {field} {env_id!r} names a module to import, which only you may "
            f"do: if you trust it, add --env-id {shlex.quote(env_id)}"
        )


def changed(training: Training, changes: dict[str, Any]) -> Training:
    """Returns settings with some fields of other values.

    Args:
        training: The settings.
        changes: The fields and plain values; those of a part in a dict under its name.

    Raises:
        ValueError: A field is unknown, of another type or out of its range; it is
            named.
    """

    def params(value: Any, name: str) -> Any:
        return read_dataclass(type(training.algo), value, name)

    def kwargs(value: Any, name: str) -> Any:
        return read_value(dict[str, Plain], value, name)

    readers = {"algo": params, "env_kwargs": kwargs}
    return read_dataclass(Training, _merged(plain(training), changes), "", readers)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    parts = {
        name: _merged(base[name], value)
        if isinstance(value, dict) and isinstance(base.get(name), dict)
        else value
        for name, value in changes.items()
    }
    return {**base, **parts}


def _without_none(value: Any) -> Any:
    """TOML has no word for None: it is written as "none"."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items()}
    return None if value == "none" else value


def settings_toml(agent: str, training: Training) -> str:
    """Writes all settings as a file that `--config` reads."""

    def with_none(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: with_none(part) for name, part in value.items()}
        return "none" if value is None else value

    values = with_none(plain(training))
    tables = {name: values.pop(name) for name in ("algo", "update", "train")}
    return tomli_w.dumps({"agent": agent, **values, **tables})


def named_in(arguments: Sequence[str], flag: str) -> str | None:
    """Returns what stands behind a flag, before all of it is parsed.

    Example:
        >>> named_in(["train", "dqn", "--env-id", "Acrobot-v1"], "--env-id")
        'Acrobot-v1'
    """
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            return value
        return arguments[i + 1] if i + 1 < len(arguments) else None
    return None


def started_from(
    arguments: Sequence[str], commands: Sequence[str]
) -> tuple[type[BaseAgent], Training]:
    """Returns the class of the agent that is named, and its settings before the flags.

    Args:
        arguments: Of the command line.
        commands: Those whose arguments they may be; for others it is an example.

    Raises:
        ValueError: There is no such agent, or the file of `--config` is wrong.
    """
    agent, env_id, path = "dqn", None, None
    if arguments[:1] and arguments[0] in commands:
        if len(arguments) > 1 and not arguments[1].startswith("-"):
            agent = arguments[1]
        env_id = named_in(arguments, "--env-id")
        path = named_in(arguments, "--config")
    agent_type = find_agent(agent)
    if path is not None:
        start = read_settings(Path(path), agent, agent_type, env_id)
        return agent_type, start
    return agent_type, defaults(agent, agent_type, env_id or FIRST_TASK)


def with_options_of(
    agent_type: type[BaseAgent], function: Callable[..., None]
) -> Callable[..., None]:
    """Returns a command whose `training` has the fields of an agent's parameters."""
    params: Any = agent_type.params_type
    annotation = Annotated[Training[params], tyro.conf.arg(name="")]
    function.__annotations__["training"] = annotation
    return function


def make_env(training: Training, run_name: str | None = None) -> VectorEnv:
    """Makes the environments; videos are made if there is a run to make them for."""
    capture_video = training.capture_video and run_name is not None
    if capture_video:
        no_screen_or_sound()
    env_kwargs: dict[str, Any] = training.env_kwargs
    with _modules_here() if ":" in training.env_id else nullcontext():
        return make_vec_env(
            training.env_id,
            training.n_envs,
            backend=training.backend,
            capture_video=capture_video,
            run_name=run_name,
            vectorization_mode=training.vectorization_mode,
            action_mask=training.action_mask,
            **env_kwargs,
        )


def eval_env_of(training: Training, env: VectorEnv) -> VectorEnv | None:
    """Makes environments to evaluate in while an agent trains in `env`, if need be."""
    is_jax = as_jax_env(env, training.n_envs) is not None
    evaluates = training.train.eval_frequency != -1
    return make_env(training) if evaluates and not is_jax else None


def no_screen_or_sound() -> None:
    """Has pygame, which draws environments, open no window and no audio device."""
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")


def algo_config(training: Training, env: VectorEnv) -> cfg.AlgoConfig:
    """Returns the config for these settings."""
    return cfg.AlgoConfig(
        seed=training.seed,
        algo_params=training.algo,
        update_cfg=training.update,
        train_cfg=training.train,
        env_cfg=cfg.EnvConfig(
            task_name=training.env_id,
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            n_envs=training.n_envs,
        ),
    )


def default_run_name(agent: str, training: Training) -> str:
    """Names a run by agent, environment and seed."""
    task = re.sub(r"[^A-Za-z0-9.]+", "-", training.env_id)
    return f"{agent.rpartition(':')[2]}-{task}-{training.seed}"


def said_again(agent: str, training: Training) -> str:
    """Returns the options by which the user names again what is imported."""
    options = []
    if agent not in AGENTS:
        options += ["--agent", agent]
    if ":" in training.env_id:
        options += ["--env-id", training.env_id]
    return "".join(f" {shlex.quote(option)}" for option in options)


def check_run(run_dir: Path) -> None:
    """Refuses what is not a run's directory.

    Raises:
        FileNotFoundError: It is not; the message says what is there.
    """
    what = "a file" if run_dir.exists() else "not there"
    if run_dir.is_dir():
        what = f"a folder without {CONFIG}"
    if not (run_dir / CONFIG).is_file():
        raise FileNotFoundError(f"there is no run in {shown(run_dir)}: it is {what}")


def settings_of(
    run_dir: Path, agent: str | None, env_id: str | None = None
) -> tuple[str, Any, Training]:
    """Returns a run's agent, its class and its settings.

    Args:
        run_dir: A run of this command, or of Python, whose task is then the name of
            one of Gymnasium's environments.
        agent: As the user names it; needed for an agent of one's own.
        env_id: As the user names it; needed where it names a module to import.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: A file is damaged, or `agent` or `env_id` is needed.
    """
    check_run(run_dir)
    path, config = run_dir / SETTINGS, run_dir / CONFIG
    agent = agent or _shipped_agent(run_dir)
    agent_type = find_agent(agent)
    assert agent_type.params_type is not None  # which find_agent asks for
    try:
        content = read_file(config, MAX_JSON_BYTES)
        written = config_from_json(content, agent_type.params_type)
    except ValueError as error:
        raise ValueError(f"{config} is damaged: {error}") from None
    if os.path.lexists(path):
        start = read_settings(path, agent, agent_type, env_id)
    else:
        if env_id is None:
            env_id = written.env_cfg.task_name
            _refuse_module(config, "env_cfg.task_name", env_id)
        start = defaults(agent, agent_type, env_id)
    # The config is what counts: a training in Python may have changed it.
    return (
        agent,
        agent_type,
        dataclasses.replace(
            start,
            algo=written.algo_params,
            update=written.update_cfg,
            train=written.train_cfg,
            n_envs=written.env_cfg.n_envs,
            seed=written.seed,
        ),
    )


def _shipped_agent(run_dir: Path) -> str:
    """Returns whose run it is, of the shipped agents: no file makes us import others.

    Raises:
        ValueError: It is the run of another, or that is not known.
    """
    try:
        name = read_run(run_dir).algorithm
    except (OSError, ValueError):
        name = ""
    for agent, agent_type in AGENTS.items():
        if agent_type.__name__ == name:
            return agent
    raise ValueError(
        f"{run_dir} does not say which shipped agent trained there (it says {name!r}): "
        "name it by --agent, your own as module:Class"
    )

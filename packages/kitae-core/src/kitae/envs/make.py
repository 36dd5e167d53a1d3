"""Making vector environments by the names that registries know."""

import importlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from kitae.config import check_flag, check_n_envs
from kitae.config.run_name import checked_run_name
from kitae.envs.adapter import family
from kitae.envs.atari import is_atari, make_atari, register_atari
from kitae.envs.functional import JaxVectorEnv, as_jax_env
from kitae.envs.guards import Guard, checked_workers, workers_start
from kitae.envs.gymnax import make_gymnax
from kitae.envs.jumanji import make_jumanji
from kitae.envs.masks import ActionMask
from kitae.envs.videos import RunVideo
from kitae.envs.workers import CheckedEnv, checked_worker

VIDEO_EVERY = 100
Wrappers = Sequence[Callable[[gym.Env], gym.Env]]

MAKERS = {"gymnax": make_gymnax, "jumanji": make_jumanji}


def make_vec_env(
    env_id: str,
    n_envs: int,
    *,
    backend: str = "gymnasium",
    capture_video: bool = False,
    run_name: str | None = None,
    vectorization_mode: str | None = None,
    action_mask: bool = False,
    wrappers: Wrappers = (),
    **env_kwargs: Any,
) -> VectorEnv:
    """Makes `n_envs` copies of a registered environment, stepped together.

    In `"sync"` and `"async"` mode an observation that has another shape or dtype than
    the space says is refused (a `ValueError` of the `reset` or `step`), where
    Gymnasium's vectors would cast it. In `"async"` mode, an environment whose process
    dies, raises or does not answer for `env_cfg.worker_timeout` seconds ends the
    training with an error that names it, and is closed with all the others.

    Args:
        env_id: As the registry of `backend` knows it; `"ALE/<game>-v5"` for Atari's
            games, as `kitae.envs.atari.make_atari` makes them. These need
            `pip install "kitae-core[atari]"`. For Gymnasium's registry also
            `"module:<id>"`: the module is imported first, and registers the
            environment. Never pass such an id that was read from a file.
        n_envs: Parallel environments, from 1 to 2**20.
        backend: Whose environment it is: `"gymnasium"`, `"gymnax"` or `"jumanji"`. The
            last two need `pip install "kitae-core[gymnax]"` or
            `"kitae-core[jumanji]"`, give a `kitae.envs.functional.JaxVectorEnv`, and
            take neither `capture_video` nor `vectorization_mode` nor `wrappers`.
        capture_video: Whether to film every hundredth episode of the first
            environment, into `runs/<run_name>/videos/`; the environments are then
            stepped one after the other. Needs `pip install "kitae-core[video]"`.
        run_name: Whose directory the videos go to; needed with `capture_video` only.
            While an agent trains, they go to the directory of that agent's run, such as
            `runs/<run_name>-2/videos/` where the name is taken.
        vectorization_mode: `"vector_entry_point"` for the environment's own
            vectorised form, `"sync"` for one process, `"async"` for one process per
            environment (in a script, under `if __name__ == "__main__":`). Default: its
            own form if it has one, else `"sync"`.
        action_mask: Whether the masks of allowed actions become a part of the
            observations, as in `kitae.envs.masks.ActionMask`; from
            `infos["action_mask"]`, for environments that are JAX functions from their
            method `action_mask`, for Jumanji's from their observations.
        wrappers: Functions that take a single environment and return it wrapped, such
            as `gymnasium.wrappers.FlattenObservation`; each is applied to each of the
            `n_envs` environments, the first one first. They need `"sync"` or `"async"`
            mode, or `capture_video`, which then shows what they leave.
        **env_kwargs: Passed to the environment, such as `max_episode_steps`; for
            another backend see `kitae.envs.gymnax.make_gymnax` and
            `kitae.envs.jumanji.make_jumanji`.

    Returns:
        A `gymnasium.vector.VectorEnv`; the caller closes it.

    Raises:
        ValueError: `n_envs` is out of range, `capture_video` lacks a `run_name` or
            has another mode than `"sync"`, the mode or the backend is unknown, the
            backend cannot do what is asked, there are `wrappers` but no single
            environments, or the environment is known to have no masks; if only its
            steps show that, the first `reset` raises.
        RuntimeError: An environment cannot be made in its process, or raises
            SystemExit.
        ImportError: The backend's package is missing or too old.
        gymnasium.error.Error: The environment is not registered.

    Example:
        >>> env = make_vec_env("CartPole-v1", 4)
        >>> env.num_envs, env.single_action_space
        (4, Discrete(2))
        >>> env.close()
    """
    check_n_envs(n_envs)
    check_flag("action_mask", action_mask)
    if not (isinstance(wrappers, list | tuple) and all(map(callable, wrappers))):
        raise ValueError(
            "wrappers must be a list of functions that take an environment and return "
            f"it wrapped, got {wrappers!r}"
        )
    if backend != "gymnasium":
        maker = _maker(
            backend, capture_video, vectorization_mode, action_mask, wrappers
        )
        return maker(env_id, n_envs, **env_kwargs)
    with Guard()("while it was made"):
        env = _gymnasium(
            _registered(env_id),
            n_envs,
            capture_video,
            run_name,
            vectorization_mode,
            wrappers,
            env_kwargs,
        )
    jax_env = as_jax_env(env, n_envs)
    if jax_env is None:
        return ActionMask(env) if action_mask else env
    if not action_mask:
        return jax_env
    limit = jax_env.max_episode_steps
    return JaxVectorEnv(jax_env.func_env, n_envs, limit, action_mask=True)


def _gymnasium(
    env_id: str,
    n_envs: int,
    capture_video: bool,
    run_name: str | None,
    vectorization_mode: str | None,
    wrappers: Wrappers,
    env_kwargs: dict[str, Any],
) -> VectorEnv:
    if is_atari(env_id):
        register_atari()
    if capture_video:
        if run_name is None:
            raise ValueError(
                "capture_video needs run_name, whose directory the videos go to"
            )
        if vectorization_mode not in (None, "sync"):
            raise ValueError(
                "capture_video films one environment of vectorization_mode='sync', "
                f"got {vectorization_mode!r}"
            )
        if is_atari(env_id) and vectorization_mode is None:
            raise ValueError(
                "capture_video steps Atari's games one by one, which then show raw "
                "frames: ask for these by vectorization_mode='sync'"
            )
        run_name = checked_run_name(run_name)
        import_moviepy()
        folder = Path("runs", run_name, "videos")
        return _filmed(env_id, n_envs, folder, wrappers, env_kwargs)
    mode = _mode(env_id, vectorization_mode)
    if wrappers and mode == "vector_entry_point":
        raise ValueError(
            f"wrappers are for single environments, but {env_id} is made in its own "
            "vectorised form: ask for single ones by vectorization_mode='sync' or "
            "'async'"
        )
    if mode == "vector_entry_point" and is_atari(env_id):
        return make_atari(env_id, n_envs, **env_kwargs)
    vector_kwargs: dict[str, Any] = {}
    all_wrappers: list[Any] = list(wrappers)
    if mode != "vector_entry_point":
        # A step that is a transition everywhere wastes none, and keeps counts exact.
        vector_kwargs["autoreset_mode"] = AutoresetMode.SAME_STEP
    if mode == "sync":
        numbers = count()
        all_wrappers.append(lambda env: CheckedEnv(env, next(numbers)))
    if mode == "async":
        # JAX has threads, and a forked process would hold their locks for ever.
        vector_kwargs |= {"context": "forkserver", "worker": checked_worker}
    with workers_start() if mode == "async" else nullcontext():
        env = gym.make_vec(
            env_id,
            num_envs=n_envs,
            vectorization_mode=mode,
            vector_kwargs=vector_kwargs,
            wrappers=all_wrappers,
            **env_kwargs,
        )
    if mode == "async":
        checked_workers(env)
    return env


def _maker(
    backend: str,
    capture_video: bool,
    vectorization_mode: str | None,
    action_mask: bool,
    wrappers: Wrappers,
) -> Callable[..., VectorEnv]:
    if backend not in MAKERS:
        backends = ("gymnasium", *MAKERS)
        raise ValueError(f"backend must be one of {backends}, got {backend!r}")
    if capture_video:
        raise ValueError(f"capture_video needs backend='gymnasium', got {backend!r}")
    if vectorization_mode is not None:
        raise ValueError(
            f"vectorization_mode={vectorization_mode!r} needs backend='gymnasium', got "
            f"{backend!r}, whose environments are stepped together"
        )
    if wrappers:
        raise ValueError(
            f"wrappers are for Gymnasium's single environments, got backend {backend!r}"
        )
    if not action_mask:
        return MAKERS[backend]
    if backend != "jumanji":
        raise ValueError(f"action_mask: environments of {backend!r} have no masks")
    return partial(make_jumanji, action_mask=True)


def _registered(env_id: str) -> str:
    """Imports the module of `"module:<id>"`, and returns the id that it registered."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)  # noqa: TID251 (named by the caller)
        except ImportError as error:
            raise ImportError(f"env_id {env_id!r}: {error}") from error
    return name


def _mode(env_id: str, asked: str | None) -> str:
    if asked is not None:
        modes = ("vector_entry_point", "sync", "async")
        if asked not in modes:
            raise ValueError(
                f"vectorization_mode must be one of {modes}, got {asked!r}"
            )
        return asked
    has_own = gym.spec(env_id).vector_entry_point is not None
    return "vector_entry_point" if has_own else "sync"


def import_moviepy() -> Any:
    """Imports what writes films.

    Raises:
        ImportError: It is not there; the message says how to install it.
    """
    return family("moviepy", (2, 0), extra="video")


def _filmed(
    env_id: str,
    n_envs: int,
    folder: Path,
    wrappers: Wrappers,
    env_kwargs: dict[str, Any],
) -> VectorEnv:
    def other(**changed: Any) -> gym.Env:
        env = gym.make(env_id, **{**env_kwargs, **changed})
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    def first() -> gym.Env:
        env = other(render_mode="rgb_array")
        return RunVideo(env, folder, lambda n: n % VIDEO_EVERY == 0)

    makers: list[Callable[[], gym.Env]] = [first] + [other] * (n_envs - 1)
    checked = [
        lambda make=make, index=index: CheckedEnv(make(), index)
        for index, make in enumerate(makers)
    ]
    return SyncVectorEnv(checked, autoreset_mode=AutoresetMode.SAME_STEP)


class _Lent(SyncVectorEnv):
    """A vector of environments that somebody else closes.

    Gymnasium's vectors close their members when they are garbage-collected.
    """

    def close_extras(self, **kwargs: Any) -> None:
        pass


def as_vector_env(env: VectorEnv | gym.Env) -> VectorEnv:
    """Takes a vector environment as it is, and a single one as a vector of one.

    Args:
        env: What a user passed to `train` or `evaluate`. It stays the user's to
            close. A single one's observations must be as its space says.

    Raises:
        TypeError: `env` is neither.

    Example:
        >>> import gymnasium as gym
        >>> as_vector_env(gym.make("CartPole-v1")).num_envs
        1
    """
    if isinstance(env, VectorEnv):
        return env
    if isinstance(env, gym.Env):
        one = CheckedEnv(env, index=0)
        return _Lent([lambda: one], autoreset_mode=AutoresetMode.SAME_STEP)
    raise TypeError(
        "env must be a gymnasium.vector.VectorEnv or a gymnasium.Env, got "
        f"{type(env).__name__}: see kitae.envs.make.make_vec_env, and for an "
        "environment of PettingZoo kitae.envs.pettingzoo.make_pettingzoo"
    )

"""`kitae eval`: whole episodes of a trained agent's best actions, filmed if asked."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.vector import VectorEnv, VectorWrapper

from kitae.algos.cli.settings import (
    RunDir,
    Training,
    make_env,
    no_screen_or_sound,
    settings_of,
)
from kitae.algos.cli.terminal import say
from kitae.base import BaseAgent
from kitae.base.rundir.directory import shown
from kitae.base.rundir.files import check_folder, remove_any, write_file
from kitae.config import check_int
from kitae.envs.make import as_vector_env, import_moviepy
from kitae.envs.masks import ActionMask
from kitae.runs import interval, read_evaluations

FRAME_SIZE = 336  # pixels, at least, of filmed observations
FRAMES_PER_SECOND = 15


def evaluate(
    run_dir: RunDir,
    n_episodes: int = 100,
    step: Annotated[str, tyro.conf.arg(metavar="last|best|INT")] = "last",
    seed: int | None = None,
    video: bool = False,
    n_videos: int = 3,
    agent: str | None = None,
    env_id: str | None = None,
) -> None:
    """Plays greedy episodes; prints and keeps their mean return with its 95 % interval.

    Args:
        run_dir: The run's directory, such as runs/dqn-CartPole-v1-0.
        n_episodes: Whole episodes, at least 1; their returns are added to
            <run_dir>/evaluation.json.
        step: Of which checkpoint: its environment step, the newest, or the one with
            the best mean return while training.
        seed: Of the episodes. Default: the same at each call.
        video: Whether to film some more episodes, into <run_dir>/videos.
        n_videos: How many, at least 1.
        agent: Needed for an agent of your own: module:Class.
        env_id: Needed where the environment's id names a module: module:Env-v0.
    """
    check_int("n_videos", n_videos, 1)
    if video:
        import_moviepy()
    run_dir = run_dir.absolute()  # an environment may change where we are
    _, agent_type, training = settings_of(run_dir, agent, env_id)
    learner = agent_type.load(run_dir, step=_step(step))
    env = make_env(training)
    play(learner, env, n_episodes, seed)
    env.close()
    if video:
        folder = run_dir / "videos" / f"evaluation-{learner.step}"
        with _filmed(training, folder, n_videos) as filmed:
            returns = learner.evaluate(filmed, n_videos, seed=seed)
        values = ", ".join(f"{value:g}" for value in returns)
        say(f"Filmed {n_videos} episodes of returns {values} in {shown(folder)}")


def _step(text: str) -> int | Literal["last", "best"]:
    if text in ("last", "best"):
        return text
    if not text.isdigit():
        raise ValueError(
            f"step must be last, best or an environment step, got {text!r}"
        )
    return int(text)


def play(
    learner: BaseAgent, env: VectorEnv, n_episodes: int, seed: int | None = None
) -> None:
    """Evaluates an agent, prints the result and adds it to its run's evaluations."""
    returns = learner.evaluate(env, n_episodes, seed=seed)
    mean, low, high = interval(returns)
    say(
        f"Greedy evaluation over {len(returns)} episodes at {learner.step:,} "
        f"environment steps: mean return {mean:.1f} (95 % interval {low:.1f} to "
        f"{high:.1f}), standard deviation {np.std(returns):.1f}"
    )
    run_dir = learner.run_dir
    if run_dir is None:
        return
    known = [dataclasses.asdict(one) for one in read_evaluations(run_dir)]
    new = {
        "env_steps": learner.step,
        "episodes": len(returns),
        "returns": returns.tolist(),
        "mean": mean,
        "low": low,
        "high": high,
        "seed": learner.config.seed if seed is None else seed,
    }
    text = json.dumps([*known, new], indent=1, allow_nan=False)
    write_file(run_dir / "evaluation.json", text + "\n")


@contextmanager
def _filmed(training: Training, folder: Path, n: int) -> Iterator[VectorEnv]:
    """Makes one environment that films its first `n` episodes.

    It films what the environment renders. Where observations are images, it films them
    instead: the environment that renders may be another than the agent was trained on,
    as with Atari's.
    """
    if training.backend != "gymnasium":
        raise ValueError(
            f"--video needs backend gymnasium, got {training.backend}: its "
            "environments do not render themselves"
        )
    check_folder(folder.parent)
    remove_any(check_folder(folder))
    single = dataclasses.replace(training, n_envs=1, vectorization_mode=None)
    seen = make_env(single)
    try:
        if len(seen.single_observation_space.shape or ()) == 3:
            yield FilmedObservations(seen, folder, n)
            return
        rendered = _rendered(training, folder, n)
        try:
            yield ActionMask(rendered) if training.action_mask else rendered
        finally:
            rendered.envs[0].close()
    finally:
        seen.close()


def _rendered(training: Training, folder: Path, n: int) -> Any:
    no_screen_or_sound()
    env_kwargs: dict[str, Any] = {**training.env_kwargs, "render_mode": "rgb_array"}
    env = gym.make(training.env_id, **env_kwargs)
    return as_vector_env(
        gym.wrappers.RecordVideo(
            env, str(folder), episode_trigger=lambda i: i < n, disable_logger=True
        )
    )


class FilmedObservations(VectorWrapper):
    """Films what the first environment shows: a file for each of `n` episodes.

    Args:
        env: Of observations `[stack, height, width]`, the newest last, or `[height,
            width, 1 or 3]`, uint8.
        folder: Where the files go.
        n: Episodes that are filmed.

    Raises:
        ImportError: `pip install "kitae-core[video]"` is needed.
    """

    def __init__(self, env: VectorEnv, folder: Path, n: int) -> None:
        super().__init__(env)
        self._clip: Any = import_moviepy().ImageSequenceClip
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._n, self._episode = folder, n, 0
        self._frames: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, infos = self.env.reset(**kwargs)
        self._frames = [picture(observation[0])]
        return observation, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes a frame; an episode that ended is written."""
        result = self.env.step(actions)
        if self._episode < self._n and (result[2][0] or result[3][0]):
            path = self._folder / f"episode-{self._episode}.mp4"
            clip = self._clip(self._frames, fps=FRAMES_PER_SECOND)
            clip.write_videofile(str(path), logger=None)
            self._frames, self._episode = [], self._episode + 1
        self._frames.append(picture(result[0][0]))
        return result


def picture(observation: np.ndarray) -> np.ndarray:
    """Returns the newest frame of an observation, in colours and large enough to see.

    Args:
        observation: uint8 `[stack, height, width]`, or `[height, width, 1 or 3]`.

    Returns:
        uint8 `[size, size, 3]`, with even sizes, as videos want them.

    Example:
        >>> picture(np.zeros((4, 84, 84), np.uint8)).shape
        (336, 336, 3)
    """
    if observation.shape[-1] not in (1, 3):
        observation = observation[-1][..., None]
    times = max(2, -(-FRAME_SIZE // max(observation.shape[:2])))
    times += times % 2
    large = observation.repeat(times, axis=0).repeat(times, axis=1)
    return np.broadcast_to(large, (*large.shape[:2], 3)).copy()

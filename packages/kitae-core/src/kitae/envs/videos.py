"""Videos of environments, in the directory of the run that they are trained for."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv


class RunVideo(gym.wrappers.RecordVideo):
    """Records videos into a folder that is made with the first of them.

    A run's directory is known once its training begins (a name that is taken gets a
    number), and environments are made before.

    Args:
        env: Draws itself as an array.
        folder: Where the videos go, unless `videos_into` says otherwise.
        trigger: Of the number of an episode, from 0: whether it is recorded.
    """

    def __init__(
        self, env: gym.Env, folder: Path, trigger: Callable[[int], bool]
    ) -> None:
        with warnings.catch_warnings():
            # Gymnasium makes the folder here, and warns of one that is there already.
            warnings.filterwarnings("ignore", ".*Overwriting existing videos")
            super().__init__(env, os.curdir, trigger)
        self.video_folder = os.path.abspath(folder)

    def stop_recording(self) -> None:
        """Writes the video."""
        os.makedirs(self.video_folder, exist_ok=True)
        super().stop_recording()


def videos_into(folder: Path, env: Any) -> None:
    """Says where environments that `make_vec_env` made put their videos from now on.

    Args:
        folder: It is made with the first video.
        env: Any environment; one that records nothing stays as it is.
    """
    if not isinstance(env, VectorEnv):
        return
    for member in getattr(env.unwrapped, "envs", ()):
        while isinstance(member, gym.Wrapper):
            if isinstance(member, RunVideo):
                member.video_folder = os.path.abspath(folder)
            member = member.env

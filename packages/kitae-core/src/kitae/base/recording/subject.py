"""What a recording knows of the agent that trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kitae.base.recording.trackers import Tracker
from kitae.config import AlgoConfig


@dataclass(frozen=True)
class Subject:
    """What a recording knows of the agent that trains.

    Attributes:
        agent: The name of its class.
        run_name: Of the run.
        config: Of the agent.
        run_dir: Returns the run's directory, which it makes if there is none.
        own_metrics: See `BaseAgent.own_metrics`; reads the newest state.
        trackers: Get each row of the metrics.
        row: Dtype and shape of each part of a row of the memory.
        info_names: Of the metrics of an update.
    """

    agent: str
    run_name: str
    config: AlgoConfig
    run_dir: Callable[[], Path]
    own_metrics: Callable[[], dict[str, float]]
    trackers: list[Tracker]
    row: dict[str, str]
    info_names: tuple[str, ...]

"""Run directories written by hand, so that what they hold is known."""

import json
from pathlib import Path

import pytest

CONFIG = {
    "seed": 0,
    "algo_params": {"gamma": 0.99, "hidden_sizes": [120, 84]},
    "update_cfg": {"learning_rate": 0.001},
    "train_cfg": {"n_env_steps": 100},
    "env_cfg": {"task_name": "Count-v1", "n_envs": 2},
}


def changed(config, **changes):
    """A config with fields changed by their names, in whichever part they are."""
    config = json.loads(json.dumps(config))
    for name, value in changes.items():
        parts = [part for part in config.values() if isinstance(part, dict)]
        (owner,) = [part for part in [config, *parts] if name in part]
        owner[name] = value
    return config


@pytest.fixture
def write_run():
    """Writes a run's directory; `episodes` are `(env_step, return, length)`."""

    def write(
        name="run", *, episodes=(), metrics=(), columns=(), agent="DQN", **changes
    ):
        run_dir = Path("runs", name)
        run_dir.mkdir(parents=True)
        config = changed(CONFIG, **changes)
        (run_dir / "config.json").write_text(json.dumps(config))
        header = ["env_step", "seconds", *columns]
        rows = [header, *metrics]
        lines = [",".join(map(str, row)) for row in rows]
        (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
        lines = ["env_step,env,return,length"]
        lines += [f"{at},0,{value},{length}" for at, value, length in episodes]
        (run_dir / "episodes.csv").write_text("\n".join(lines) + "\n")
        if agent is not None:
            entries = [{"env_step": 0, "agent": agent}]
            (run_dir / "system.json").write_text(json.dumps(entries))
        return run_dir

    return write

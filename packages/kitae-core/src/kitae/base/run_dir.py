"""The directory of a run, and what is written into it first."""

from pathlib import Path

from kitae.config import AlgoConfig
from kitae.config.serial import config_to_json


def runs_root() -> Path:
    """Where runs are kept: `runs/` in the working directory."""
    return Path("runs")


def new_run_dir(run_name: str, config: AlgoConfig) -> Path:
    """Makes the run's directory, a new one: `<run_name>`, else `<run_name>-2`, ...

    Args:
        run_name: Checked before.
        config: Written into it as `config.json`.

    Returns:
        The directory.
    """
    wanted = runs_root() / run_name
    content, run_dir, copy = config_to_json(config), wanted, 1
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            # Who makes this file has the directory: of two runs at the same moment one.
            # The directory itself may be there before, for the videos of environments.
            with (run_dir / "config.json").open("x", encoding="utf-8") as file:
                file.write(content)
            return run_dir
        except FileExistsError:
            copy += 1
            run_dir = wanted.with_name(f"{wanted.name}-{copy}")

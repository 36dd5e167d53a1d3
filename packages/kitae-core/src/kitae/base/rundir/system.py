"""What a training ran on, kept in its run's directory."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from kitae.base.rundir.files import read_file, write_file
from kitae.config.serial import MAX_JSON_BYTES, strict_json

SYSTEM = "system.json"
PACKAGES = (
    "kitae-algos",
    "kitae-buffers",
    "kitae-core",
    "kitae-modules",
    "kitae-timesteps",
    "jax",
    "jaxlib",
    "gymnasium",
    "numpy",
)
GIT_SECONDS = 5.0


def write_system(run_dir: Path, agent: str, env_step: int) -> None:
    """Adds an entry to the run's `system.json`, unless the last one says the same.

    The file is a list, oldest first: a run that goes on elsewhere has several entries.
    No part of one names a user, a host or a path.

    Args:
        run_dir: The run's directory, locked by the caller.
        agent: The class of the agent that trains.
        env_step: Environment steps at which it begins.
    """
    path = run_dir / SYSTEM
    entries = _entries(path)
    here = {"env_step": env_step, "agent": agent, **_process()}
    if entries and {**entries[-1], "env_step": env_step} == here:
        return
    write_file(path, json.dumps([*entries, here], indent=2) + "\n")


def _entries(path: Path) -> list[dict[str, Any]]:
    """Returns those that are there; of a damaged file none, as nothing hangs on it."""
    try:
        entries = strict_json(read_file(path, MAX_JSON_BYTES))
    except (OSError, ValueError):
        return []
    whole = isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
    return entries if whole else []


@cache
def _process() -> dict[str, Any]:
    """Describes what stays while a process lives; the code it runs does too."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "backend": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of the working directory; None: none, or files differ."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return commit if changed == "" else None


def _git(*arguments: str) -> str | None:
    # A repository may name a program of its own that looks for changed files.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_SECONDS
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

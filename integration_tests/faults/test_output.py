"""Output that cannot be written, or shown, ends no training."""

import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest

TRAIN = (
    *("kitae", "train", "dqn", "--n-env-steps", "600", "--n-envs", "4"),
    *("--batch-size", "64", "--start-step", "-1", "--n-eval-episodes", "2"),
)
LOST = "kitae: standard output can no longer be written"


def saved_steps(run_name):
    """The checkpoints of a run that has its evaluation too: it went to its end."""
    folder = Path("runs", run_name)
    assert (folder / "evaluation.json").is_file()
    return [int(path.name) for path in (folder / "checkpoints").iterdir()]


def metrics_end(run_name):
    rows = Path("runs", run_name, "metrics.csv").read_text("utf-8").splitlines()
    return int(rows[-1].split(",")[0])


@pytest.mark.parametrize(
    "redirected, why",
    [
        ("| head -1", "(Broken pipe)"),
        ("> /dev/full", "(No space left on device)"),
    ],
)
def test_a_training_ends_well_though_nobody_reads_it(redirected, why):
    if redirected.endswith("/dev/full") and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f"{shlex.join([*TRAIN, '--run-name', 'unread'])} {redirected}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ('agent = "dqn"\n' if "head" in redirected else "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{LOST} {why}")
    assert saved_steps("unread") == [metrics_end("unread")]
    assert metrics_end("unread") >= 600


def test_a_training_ends_well_where_stderr_goes_away_too():
    command = f"{shlex.join([*TRAIN, '--run-name', 'mute'])} 2>&1 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], stdout=subprocess.PIPE, timeout=120
    )
    assert done.returncode == 0
    assert saved_steps("mute") == [metrics_end("mute")]


def on_terminal(command, **environ):
    """Runs a command on a terminal; returns its exit status and what it wrote."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environ},
    )
    os.close(its)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(120), written


def test_a_terminal_of_the_c_locale_and_a_name_like_markup():
    status, written = on_terminal(
        [*TRAIN, "--run-name", "lr[/0.1][red]"],
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        PYTHONUTF8="0",
    )
    assert status == 0, written
    assert written.isascii()
    shown = re.sub("\x1b\\[[0-9;]*m", "", written.decode("ascii"))  # without colours
    assert "lr[/0.1][red]  -----" in shown
    assert "steps/s" in shown
    # The cursor is shown again.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert saved_steps("lr[/0.1][red]") == [metrics_end("lr[/0.1][red]")]

import json
import re
import signal
import subprocess
import sys

import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from kitae.algos import cli


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kitae", *arguments])
    cli.main()


SHORT = ("--n-env-steps", "600", "--n-eval-episodes", "3", "--n-envs", "4")


def test_train_trains_evaluates_and_says_where_it_is(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "train", "dqn", *SHORT, "--batch-size", "64", "--gamma", "0.9")
    out = capsys.readouterr().out
    assert "Training dqn on CartPole-v1: 4 environments, 600 environment steps" in out
    assert "Greedy evaluation over 3 episodes: mean return" in out
    config = json.loads((tmp_path / "runs/dqn-CartPole-v1-0/config.json").read_text())
    assert config["algo_params"]["gamma"] == 0.9
    assert config["update_cfg"]["batch_size"] == 64
    assert config["env_cfg"]["n_envs"] == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--env-id", "CartPool-v1"), "CartPool"),
        (("--env-id", "Pendulum-v1"), "DQN needs discrete actions"),
        (("--batch-size", "0"), "batch_size must be an int of at least 1, got 0"),
        (("--gamma", "2"), "gamma must be a finite number in [0.0, 1.0], got 2.0"),
        (("--n-env-steps", "10"), "ends before the first update"),
        (("--run-name", "../out"), "must not have a part '..'"),
    ],
)
def test_what_the_user_got_wrong_is_told_in_one_line(
    monkeypatch, capsys, arguments, message
):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "train", "dqn", *SHORT, *arguments)
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_is_resumed(monkeypatch, capsys):
    run(monkeypatch, "train", "dqn", *SHORT, "--batch-size", "64")
    with pytest.warns(RuntimeWarning, match=r"n_env_steps: 600 -> 900"):
        run(
            monkeypatch,
            *("train", "dqn", *SHORT, "--batch-size", "64"),
            *("--n-env-steps", "900", "--resume"),
        )
    # Its environments spend steps on resets, so the first part took up to 3 more.
    out = capsys.readouterr().out
    assert re.search(r"Trained for (29[7-9]|30\d) environment steps", out)
    with pytest.raises(SystemExit):
        run(monkeypatch, "train", "dqn", *SHORT, "--run-name", "never", "--resume")
    assert "there is no run in runs/never" in capsys.readouterr().err


def test_an_interrupted_run_is_told_how_to_go_on(monkeypatch, capsys):
    def pressed(self, actions):
        signal.raise_signal(signal.SIGINT)
        return step(self, actions)

    step = CartPoleVectorEnv.step
    monkeypatch.setattr(CartPoleVectorEnv, "step", pressed)
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "train", "dqn", *SHORT, "--batch-size", "64")
    assert exit_.value.code == 130
    out = " ".join(capsys.readouterr().out.split())
    assert "Stopped and saved at 4 environment steps" in out
    assert "--run-name dqn-CartPole-v1-0 --resume" in out


def test_an_unknown_agent_is_refused_with_those_there_are(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, "train", "sarsa")
    assert exit_.value.code == 2
    assert "dqn" in capsys.readouterr().err


def test_agents_are_listed(monkeypatch, capsys):
    run(monkeypatch, "agents")
    assert capsys.readouterr().out.startswith("dqn  ")


def test_the_command_is_installed():
    help_text = subprocess.run(
        ["kitae", "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--learning-rate" in help_text
    assert "Environment steps" in help_text

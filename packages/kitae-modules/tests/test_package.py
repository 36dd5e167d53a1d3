import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kitae.modules


@pytest.fixture(autouse=True)
def strict_promotion():
    """A user who runs the examples has jax's defaults."""


MODULES = [
    f"kitae.modules.{module.name}"
    for module in pkgutil.iter_modules(kitae.modules.__path__)
]

ABSENT = [
    *("kitae.timesteps", "kitae.buffer", "kitae.types", "kitae.config"),
    *("kitae.envs", "kitae.base", "kitae.runs", "kitae.algos"),
    *("distrax", "tensorflow_probability", "tensorflow", "torch", "orbax"),
]


def test_public_names():
    assert sorted(kitae.modules.__all__) == [
        "AgentPyTree",
        "ContinuousQValue",
        "CosineEmbedding",
        "DictEncoder",
        "DiscreteActions",
        "DiscreteEncoder",
        "DiscreteQValue",
        "ImageEncoder",
        "ImpalaCNN",
        "ImplicitQuantileQValue",
        "MLP",
        "MultiDiscreteEncoder",
        "NatureCNN",
        "NoisyDense",
        "PreprocessedEncoder",
        "QHead",
        "RecurrentQValue",
        "RewardStatistics",
        "RunningStatistics",
        "TrainState",
        "TupleEncoder",
        "VectorEncoder",
        "action_mask",
        "discrete_actions",
        "encoder_factory",
        "epsilon_greedy",
        "greedy",
        "init_params",
        "init_reward_statistics",
        "init_statistics",
        "iqn_factory",
        "make_optimizer",
        "masked",
        "normalise",
        "observation_spec",
        "qvalue_factory",
        "recurrent_qvalue_factory",
        "scale_rewards",
        "spectral_normalize",
        "split_encoder",
        "update_reward_statistics",
        "update_statistics",
    ]
    assert all(hasattr(kitae.modules, name) for name in kitae.modules.__all__)


def test_the_tutorials_imports():
    from kitae.modules.modules import init_params
    from kitae.modules.pytree import AgentPyTree, TrainState
    from kitae.modules.qvalue import qvalue_factory

    assert {init_params, AgentPyTree, TrainState, qvalue_factory} <= {
        getattr(kitae.modules, name) for name in kitae.modules.__all__
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_readme_runs_without_siblings_or_anything_heavy():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    examples = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    imports = "\n".join(f"import {name}" for name in MODULES)
    check = f"import sys\nprint([m for m in {ABSENT} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{examples}\n{imports}\n{check}"],
        capture_output=True,
        text=True,
    )
    assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr

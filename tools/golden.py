"""Shows that a change of the structure changes nothing that is computed.

    tools/hatch run golden:record    before the change
    tools/hatch run golden:check     after it, on the same machine

Both run the same small trainings, each in its own process: every driver, replay and
kind of agent, several seeds, eight devices, resumed runs. Recorded are hashes of all
that a checkpoint holds (state, memory, keys, environments, counters), of the columns of
the CSV files that hold no time, of the returns of an evaluation, and of the text of
every program that JAX compiles, without locations and names.

`check` fails where a value differs, or where more programs are compiled. Programs whose
text differs are listed and their texts are written side by side: a difference is for
you to explain. Hashes of values are true for one machine and one version of JAX, so
they are not part of the repository; `.golden/` has them.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STORE = ROOT / ".golden"
TIMES = ("seconds", "steps_per_second")
SMALL = {"hidden_sizes": (8,)}
ATOMS = {**SMALL, "n_atoms": 11, "v_min": 0.0, "v_max": 50.0}
TAUS = {**SMALL, "n_taus": 4, "n_target_taus": 4, "n_cosines": 8}
HOST, COMPILED = "CartPole-v1", "phys2d/CartPole-v1"


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        agent: The class in `kitae.algos`; with `params`, its parameters.
        env_id: Of the environments.
        n_envs: Environments side by side.
        calls: What is called, in order: `train`, `resume`, `seeds`, `devices`,
            `evaluate`.
        update: Changes to the `UpdateConfig`.
        train: Changes to the `TrainConfig`.
        env: Further arguments of `make_vec_env`, or what makes the environments.
    """

    agent: str
    env_id: str
    n_envs: int = 4
    params: dict[str, Any] = field(default_factory=dict)
    calls: tuple[str, ...] = ("train", "resume", "evaluate")
    update: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)


ROLLOUT = {"max_buffer_size": 16, "batch_size": 16, "n_epochs": 2}
R2D2 = {"hidden_size": 8, "head_sizes": (8,), "sequence_length": 8, "burn_in": 2}
R2D2 |= {"start_step": 64}
RAINBOW = {**ATOMS, "n_steps": 3, "skip_steps": 2}


def _cases() -> dict[str, Case]:
    cases = {}
    for driver, env_id in (("host", HOST), ("compiled", COMPILED)):
        for name, agent, params, update in (
            ("dqn", "DQN", {**SMALL, "skip_steps": 4}, {}),
            ("dqn-each-step", "DQN", {**SMALL, "double_q": True}, {"n_epochs": 2}),
            ("rainbow", "Rainbow", RAINBOW, {}),
            ("btr", "BTR", TAUS, {}),
            ("r2d2", "R2D2", R2D2, {"batch_size": 8}),
            ("pqn", "PQN", SMALL, ROLLOUT),
        ):
            cases[f"{driver}-{name}"] = Case(agent, env_id, 4, params, update=update)
        cases[f"{driver}-saving"] = Case(
            "Rainbow",
            env_id,
            params=RAINBOW,
            train={"save_frequency": 120, "log_frequency": 50, "keep_last": -1},
        )
        cases[f"{driver}-reset-on-save"] = Case(
            "DQN",
            env_id,
            params=SMALL,
            train={"save_frequency": 120, "reset_on_save": True},
        )
        cases[f"{driver}-one-env"] = Case("DQN", env_id, 1, SMALL)
    frames = {"frame_stack": 2, "hidden_sizes": (8,)}
    cases["host-frames"] = Case("DQN", "images", 2, frames)
    cases["compiled-frames"] = Case("DQN", "phys2d-images", 2, frames)
    for mode in ("NEXT_STEP", "DISABLED"):
        cases[f"host-{mode.lower()}"] = Case(
            "DQN", HOST, params=SMALL, env={"autoreset": mode}
        )
    cases["host-agents"] = Case("DQN", "pettingzoo", 2, SMALL)
    cases["host-agents-pqn"] = Case("PQN", "pettingzoo", 2, SMALL, update=ROLLOUT)
    cases["host-not-traced"] = Case("NotTraced", HOST, params=SMALL)
    cases["seeds-dqn"] = Case("DQN", COMPILED, params=SMALL, calls=("seeds",))
    cases["seeds-pqn"] = Case(
        "PQN", COMPILED, params=SMALL, update=ROLLOUT, calls=("seeds",)
    )
    split = ("devices", "resume-devices")
    cases["devices-dqn"] = Case("DQN", COMPILED, 8, SMALL, split)
    cases["devices-rainbow"] = Case("Rainbow", COMPILED, 8, RAINBOW, split)
    return cases


CASES = _cases()
N_ENV_STEPS = 400


def main() -> None:
    """Records or checks, or runs one case in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "check", "one"))
    parser.add_argument("names", nargs="*", metavar="case", help="default: all")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        parser.error(f"no such case: {unknown}; there are {', '.join(CASES)}")
    if args.action == "one":
        print(json.dumps(_outcome(CASES[args.names[0]])))
        return
    names = args.names or list(CASES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(names, pool.map(_in_a_process, names), strict=True))
    if args.action == "record":
        _record(results)
        return
    sys.exit(not _check(results))


def _in_a_process(name: str) -> dict[str, Any]:
    """Runs a case where nothing else was compiled; returns its hashes and texts."""
    with tempfile.TemporaryDirectory() as folder:
        flags = "--xla_backend_optimization_level=0"
        if name.startswith("devices"):
            flags += " --xla_force_host_platform_device_count=8"
        texts = Path(folder) / "texts"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "JAX_DUMP_IR_TO": str(texts),
            "JAX_DUMP_IR_MODES": "stablehlo",
        }
        done = subprocess.run(
            [sys.executable, __file__, "one", name],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"{name} failed:\n{done.stderr}")
        programs = [_plain(path.read_text()) for path in sorted(texts.glob("*.mlir"))]
    print(f"{name}: {len(programs)} programs", flush=True)
    return {"values": json.loads(done.stdout.splitlines()[-1]), "programs": programs}


def _plain(text: str) -> str:
    """Returns a program's text without locations, names and addresses."""
    text = re.sub(r"^#loc.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" ?loc\([^()]*(\([^()]*\)[^()]*)*\)", "", text)
    text = re.sub(r"module @\S+", "module", text)
    text = re.sub(r'result_info = "[^"]*"', "", text)
    # Of a callback: where it is in memory.
    text = re.sub(r'(descriptor|backend_config|api) = "?\d+"?', r"\1 = 0", text)
    return re.sub(r"\{index = \d+ : ui64\}", "{index}", text)


# --- What a case computes -----------------------------------------------------------


def _outcome(case: Case) -> dict[str, str]:
    """Trains as the case says, and returns hashes by what they are of."""
    import jax

    make_agent, make_env = _makers(case)
    env, found = make_env(), {}
    agent = make_agent(env)
    for call in case.calls:
        if call == "train":
            agent.train(env, N_ENV_STEPS)
        elif call == "devices":
            agent.train(env, N_ENV_STEPS, devices=jax.devices())
        elif call == "seeds":
            for run in agent.train_seeds(env, N_ENV_STEPS, seeds=range(3)):
                run.agent.save()
                found |= _of_run(f"seed{run.seed}", run.agent)
            continue
        elif call.startswith("resume"):
            agent = make_agent(env)
            devices = jax.devices() if call.endswith("devices") else None
            agent.resume(env, N_ENV_STEPS + 150, devices=devices)
        else:
            found["evaluate"] = _hash(agent.evaluate(env, 5, max_episode_steps=50))
            agent.save()
        found |= _of_run(call, agent)
    return found


def _of_run(call: str, agent: Any) -> dict[str, str]:
    """Returns hashes of what a run's directory holds."""
    import numpy as np

    found = {}
    for name in ("metrics.csv", "episodes.csv"):
        with (agent.run_dir / name).open(newline="") as file:
            for column, *values in zip(*csv.reader(file), strict=True):
                if column not in TIMES:
                    found[f"{call} {name} {column}"] = _hash(values)
    for folder in sorted((agent.run_dir / "checkpoints").iterdir()):
        manifest = json.loads((folder / "manifest.json").read_text())
        facts = {k: v for k, v in manifest["facts"].items() if k not in TIMES}
        found[f"{call} {folder.name} facts"] = _hash(facts)
        for part, described in manifest["parts"].items():
            with np.load(folder / f"{part}.npz", allow_pickle=False) as arrays:
                for i, leaf in enumerate(described["leaves"]):
                    path = f"{call} {folder.name} {part}{leaf['path']}"
                    found[path] = _hash(arrays[str(i)])
    return found


def _hash(value: Any) -> str:
    if hasattr(value, "tobytes"):
        value = f"{value.dtype}{value.shape}".encode() + value.tobytes()
    else:
        value = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def _makers(case: Case) -> tuple[Callable[..., Any], Callable[[], Any]]:
    import kitae.config as cfg
    from kitae import algos

    def make_agent(env: Any) -> Any:
        agent_type = _not_traced() if case.agent == "NotTraced" else None
        agent_type = agent_type or getattr(algos, case.agent)
        update = {"max_buffer_size": 60, "batch_size": 16} | case.update
        config = cfg.AlgoConfig(
            seed=5,
            algo_params=agent_type.params_type(**case.params),
            update_cfg=cfg.UpdateConfig(learning_rate=1e-3, **update),
            train_cfg=cfg.TrainConfig(
                N_ENV_STEPS, show_progress=False, **{"log_frequency": 100} | case.train
            ),
            env_cfg=cfg.EnvConfig(
                case.env_id,
                env.single_observation_space,
                env.single_action_space,
                case.n_envs,
                n_agents=getattr(env, "n_agents", 1),
            ),
        )
        return agent_type("golden", config)

    return make_agent, lambda: _make_env(case)


def _not_traced() -> Any:
    """A class whose `explore` reads values, so that it cannot be compiled."""
    import numpy as np

    from kitae.algos import DQN

    class NotTraced(DQN):
        def explore(self, observation: Any) -> Any:
            actions, log_probs = super().explore(observation)
            return np.asarray(actions), log_probs

    return NotTraced


def _make_env(case: Case) -> Any:
    import gymnasium as gym
    import numpy as np
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    from kitae.envs.make import make_vec_env

    if case.env_id == "pettingzoo":
        from mpe2 import simple_spread_v3

        from kitae.envs.pettingzoo import make_pettingzoo

        return make_pettingzoo(
            lambda: simple_spread_v3.parallel_env(max_cycles=15), case.n_envs
        )
    if case.env_id == "images":

        class Images(gym.Env):
            """Frames of noise, of which the newest two are seen."""

            observation_space = gym.spaces.Box(0, 255, (2, 36, 36), np.uint8)
            action_space = gym.spaces.Discrete(3)

            def reset(self, *, seed: Any = None, options: Any = None) -> Any:
                super().reset(seed=seed)
                self.t, frame = 0, self._frame()
                self.seen = np.stack([frame, frame])
                return self.seen, {}

            def step(self, action: Any) -> Any:
                self.t += 1
                self.seen = np.stack([self.seen[1], self._frame()])
                reward = float(action == self.seen[1, 0, 0] % 3)
                return self.seen, reward, self.t == 9, self.t == 7, {}

            def _frame(self) -> np.ndarray:
                return self.np_random.integers(0, 256, (36, 36), np.uint8)

        return SyncVectorEnv([Images] * case.n_envs)
    if case.env_id == "phys2d-images":
        return _jax_images(case.n_envs)
    if "autoreset" in case.env:
        mode = AutoresetMode[case.env["autoreset"]]
        make = [lambda: gym.make(case.env_id)] * case.n_envs
        return SyncVectorEnv(make, autoreset_mode=mode)
    return make_vec_env(case.env_id, case.n_envs)


def _jax_images(n_envs: int) -> Any:
    """As `Images`, of JAX functions."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from gymnasium.experimental.functional import FuncEnv
    from gymnasium.spaces import Box, Discrete

    from kitae.envs.functional import JaxVectorEnv

    def frame(key: Any) -> Any:
        return jax.random.randint(key, (36, 36), 0, 256).astype(jnp.uint8)

    class Images(FuncEnv):
        observation_space = Box(0, 255, (2, 36, 36), np.uint8)
        action_space = Discrete(3)

        def initial(self, rng: Any, params: Any = None) -> Any:
            new = frame(rng)
            return jnp.stack([new, new]), jnp.int32(0)

        def transition(self, state: Any, action: Any, rng: Any, params: Any = None):
            seen, t = state
            return jnp.stack([seen[1], frame(rng)]), t + 1

        def observation(self, state: Any, rng: Any, params: Any = None) -> Any:
            return state[0]

        def reward(self, state: Any, action: Any, after: Any, rng: Any, params=None):
            return (action == after[0][1, 0, 0] % 3).astype(jnp.float32)

        def terminal(self, state: Any, rng: Any, params: Any = None) -> Any:
            return state[1] >= 9

    return JaxVectorEnv(Images(), n_envs)


# --- What is stored, and compared ---------------------------------------------------


def _record(results: dict[str, Any]) -> None:
    (STORE / "texts").mkdir(parents=True, exist_ok=True)
    (STORE / ".gitignore").write_text("*\n")
    for name, result in results.items():
        for text in result["programs"]:
            path = STORE / "texts" / f"{_hash(text)}.gz"
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        hashes = sorted(map(_hash, result["programs"]))
        body = {"values": result["values"], "programs": hashes}
        (STORE / f"{name}.json").write_text(json.dumps(body, indent=1))
    print(f"recorded {len(results)} trainings in {STORE.relative_to(ROOT)}/")


def _check(results: dict[str, Any]) -> bool:
    n_wrong = n_other = n_values = 0
    for name, result in results.items():
        path = STORE / f"{name}.json"
        if not path.exists():
            sys.exit(f"{name} was not recorded: tools/hatch run golden:record")
        recorded = json.loads(path.read_text())
        wrong = list(_differences(recorded["values"], result["values"]))
        n_values += len(result["values"])
        before, after = len(recorded["programs"]), len(result["programs"])
        if after > before:
            wrong.append(f"{after} programs are compiled, {before} were")
        for line in wrong:
            print(f"{name}: {line}")
        n_wrong += len(wrong)
        n_other += _list_programs(name, recorded["programs"], result["programs"])
    print(
        f"{len(results)} trainings, {n_values} values: {n_wrong} differ. "
        f"{n_other} programs do other operations"
        + (f": see {STORE.relative_to(ROOT)}/differences" if n_other else "")
    )
    return not n_wrong


def _differences(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            what = "differs" if key in before and key in after else "is in one only"
            yield f"{key} {what}"


def _list_programs(name: str, before: list[str], programs: list[str]) -> int:
    """Writes the programs that only one side has; returns how many do other things.

    Two programs of the same operations in another order are listed, but not counted.
    """
    after = {_hash(text): text for text in programs}
    gone = {digest: _stored(digest) for digest in set(before) - set(after)}
    new = {digest: after[digest] for digest in set(after) - set(before)}
    known = {_operations(text) for text in gone.values()}
    n_other = 0
    for side, texts in (("before", gone), ("after", new)):
        for digest, text in sorted(texts.items(), key=lambda item: item[1].count("\n")):
            n_lines = text.count("\n")
            folder = STORE / "differences" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{side}-{n_lines:05}-{digest}.mlir").write_text(text)
            note = ""
            if side == "after":
                same = _operations(text) in known
                note = ": in another order" if same else ""
                n_other += not same
            print(f"{name}: {side}: a program of {n_lines} lines ({digest}){note}")
    return n_other


def _stored(digest: str) -> str:
    packed = (STORE / "texts" / f"{digest}.gz").read_bytes()
    return gzip.decompress(packed).decode()


def _operations(text: str) -> str:
    """Returns a hash of a program's operations with their types, whatever the order."""
    # What a function or a loop carries: the order of its types is part of no operation.
    lines = re.sub(r"%[\w#:]+|@\w+", "", text).splitlines()
    carried = "func.func", "call", "stablehlo.while", "stablehlo.return", "return"
    plain = sorted(
        "".join(sorted(line)) if any(word in line for word in carried) else line
        for line in map(str.strip, lines)
    )
    return _hash(plain)


if __name__ == "__main__":
    main()

"""Files of a run that are damaged at random or by intent: only Kitae's own errors.

Of each kind 300 cases are tried; `hatch run fuzz` tries 2,000. A process of its own
tries them, since in one that has run other tests memory moves for other reasons.
"""

import copy
import io
import json
import os
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitae.algos import DQN, DQNParams
from kitae.algos.cli.settings import defaults, read_settings, settings_toml
from kitae.base.recording import saving
from kitae.base.rundir import checkpoint
from kitae.config.run_name import checked_run_name
from kitae.config.serial import config_from_json
from kitae.runs import read_run

pytestmark = pytest.mark.fuzz

ALLOWED_BYTES = 100_000_000
RUN = Path("runs/run")
LIKE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.zeros(2, np.uint32)}

fuzzed = settings(
    max_examples=max(300, settings().max_examples),
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def status(name):
    """Returns a number of bytes that the kernel counts of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True, scope="module")
def _hypothesis_is_ready():
    """The first time in a clone, Hypothesis reads all sources for their constants."""

    @given(st.text(), st.integers(), st.floats(), st.binary())
    def draw(text, number, fraction, content):
        pass

    draw()


@pytest.fixture(autouse=True)
def _within_memory():
    """The peak of a test may be 100 MB above where it began."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
    except OSError:
        yield
        return
    yield
    assert status("VmHWM") - before < ALLOWED_BYTES


@pytest.fixture(autouse=True)
def whole():
    """A whole run; returns its checkpoint's files by their names."""
    RUN.mkdir(parents=True)
    (RUN / "config.json").write_text(json.dumps(CONFIG))
    parts = {"state": checkpoint.host_arrays(LIKE, copy=True)}
    folder = checkpoint.write(RUN, 10, parts, FACTS)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


BOX = {"type": "Box", "low": -1.0, "high": [1.0, 2.0], "shape": [2], "dtype": "float32"}
CONFIG = {
    "seed": 0,
    "algo_params": {"gamma": 0.99, "hidden_sizes": [4, 4]},
    "update_cfg": {"learning_rate": 0.1, "batch_size": 8},
    "train_cfg": {"n_env_steps": 100},
    "env_cfg": {
        "task_name": "CartPole-v1",
        "observation_space": BOX,
        "action_space": {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"},
        "n_envs": 1,
    },
}
FACTS = {
    "agent": "DQN",
    "config": CONFIG,
    "step": 10,
    "iteration": 5,
    "updates": 3,
    "rows": [1, 2],
    "row": {".action": "int32[]"},
    "seconds": 1.5,
    "info": {"loss": 0.5},
    "score": 2.0,
}

ODD = st.sampled_from(
    [None, True, -5, 2**63, 10**300, 1e30, -1e300, "", "abc", "../x", "\0", [], {}]
) | st.sampled_from(["O", "float99", "float32", [2**40] * 3, {"step": -1}, "1e400"])
PLAIN = st.recursive(
    ODD | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.text(max_size=8), parts, max_size=3)
    ),
    max_leaves=6,
)


def places(value, at=()):
    """Returns the paths of all that is in a plain value."""
    if isinstance(value, dict):
        parts = value.items()
    else:
        parts = enumerate(value) if isinstance(value, list) else ()
    return [at] + [path for key, part in parts for path in places(part, (*at, key))]


@st.composite
def mutated(draw, value):
    """Draws a plain value of which some parts are others, missing, or there besides."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *owners, last = draw(st.sampled_from(places(value)[1:] or [("x",)]))
        owner = value
        for key in owners:
            owner = owner[key]
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "replace":
            owner[last] = copy.deepcopy(draw(PLAIN))
        elif what == "remove":
            del owner[last]
        elif isinstance(owner, dict):
            owner[draw(st.text(max_size=8))] = copy.deepcopy(draw(PLAIN))
        if not value:
            break
    return value


@st.composite
def damaged(draw, content):
    """Draws bytes that differ from others in some places."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        end = at + draw(st.sampled_from([0, 1, 2, 4, 30]))
        content[at:end] = draw(st.binary(max_size=8))
    return bytes(content)


def refused_or_read(read, *names):
    """Calls it: an error is one of ours, not long, and names one of these."""
    try:
        return read()
    except (ValueError, OSError) as error:
        said = str(error)
        assert any(name in said for name in names), said
        assert len(said) < 3_000
        return None


def use_checkpoint():
    refused_or_read(
        lambda: checkpoint.read(RUN).tree("state", LIKE), "runs/run/checkpoints"
    )
    refused_or_read(lambda: saving.chosen(RUN, "best"), "runs/run/checkpoints")
    read_run(RUN)


def sealed(body):
    """As a manifest is written whose own hash is right."""
    plain = json.dumps(body, indent=1) + "\n"
    digest = sha256(plain.encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1) + "\n").encode()


def body_of(whole):
    body = json.loads(whole["manifest.json"])
    del body["sha256"]
    return body


def put(name, content):
    (RUN / "checkpoints/10" / name).write_bytes(content)


def put_archive(whole, content):
    body = body_of(whole)
    body["parts"]["state"]["sha256"] = sha256(content).hexdigest()
    put("manifest.json", sealed(body))
    put("state.npz", content)


@fuzzed
@given(st.data())
def test_manifests(whole, data):
    body = data.draw(mutated(body_of(whole)))
    put("manifest.json", sealed(body))
    use_checkpoint()


@fuzzed
@given(st.data())
def test_archives(whole, data):
    put_archive(whole, data.draw(damaged(whole["state.npz"])))
    use_checkpoint()


MEMBERS = st.tuples(
    st.sampled_from(["0.npy", "1.npy", "2.npy", "../0.npy", "a"]),
    st.binary(max_size=200)
    | st.sampled_from([np.float32(1.0), LIKE["w"], LIKE["n"]]).map(
        lambda array: npy(np.asarray(array))
    ),
)


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


@fuzzed
@given(st.data())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_members(whole, data):
    file = io.BytesIO()
    kind = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in data.draw(st.lists(MEMBERS, max_size=3)):
            archive.writestr(name, content)
    put_archive(whole, file.getvalue())
    use_checkpoint()


TOML = settings_toml("dqn", defaults("dqn", DQN, "CartPole-v1"))
VALUES = ["1", "-1", "1e400", "nan", "'x'", "[]", "{}", "2024-13-01", "1979-05-27", '"']


@st.composite
def settings_files(draw):
    lines = TOML.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].partition("=")[0]
        value = draw(st.sampled_from(VALUES) | st.text(max_size=10))
        lines[at] = draw(st.sampled_from([f"{key}={value}", value, "[algo]", "a.b=1"]))
    return "\n".join(lines).encode("utf-8", "replace")


@fuzzed
@given(settings_files() | damaged(TOML.encode()) | st.binary(max_size=100))
def test_settings(content):
    path = RUN / "train.toml"
    path.write_bytes(content)
    refused_or_read(lambda: read_settings(path, "dqn", DQN), "runs/run/train.toml")


PARTS = [part for part in CONFIG.values() if isinstance(part, dict)]
FIELDS = ["config", "JSON", *CONFIG, *(name for part in PARTS for name in part)]


@fuzzed
@given(
    mutated(CONFIG).map(json.dumps).map(str.encode)
    | damaged(json.dumps(CONFIG).encode())
    | PLAIN.map(json.dumps).map(str.encode)
)
def test_configs(content):
    (RUN / "config.json").write_bytes(content)
    refused_or_read(lambda: config_from_json(content, DQNParams), *FIELDS)
    run = read_run(RUN)
    assert (run.state == "damaged") == ("runs/run/config.json" in run.problem)


@fuzzed
@given(st.text(max_size=60) | st.text("ab/.\\: \0é", max_size=300))
def test_run_names(name):
    accepted = refused_or_read(lambda: checked_run_name(name), "run_name")
    if accepted is not None:
        folder = Path("runs", accepted)
        assert folder.resolve().is_relative_to(Path("runs").resolve())


JSON_BOMBS = {
    "deep objects": b'{"a":' * 300 + b"1" + b"}" * 300,
    "many lists": b"[" + b"[]," * 1_300_000 + b"[]]",
    "many objects": b"[" + b'{"":0},' * 500_000 + b"0]",
    "large": b'"' + b"a" * 5_000_000 + b'"',
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_json_that_takes_much_memory_is_refused(whole, name):
    bomb = JSON_BOMBS[name]
    for path in ("config.json", "system.json"):
        (RUN / path).write_bytes(bomb)
    body = b'{\n "format": 1,\n "facts": ' + bomb + b',\n "parts": {}\n}\n'
    digest = sha256(body).hexdigest().encode()
    put("manifest.json", body[:-3] + b',\n "sha256": "' + digest + b'"\n}\n')
    use_checkpoint()
    assert read_run(RUN).state == "damaged"
    refused_or_read(lambda: config_from_json(bomb, DQNParams), "config")


def test_an_archive_that_unpacks_to_much_is_refused(whole):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", npy(LIKE["n"]))
        with archive.open("1.npy", "w", force_zip64=True) as member:
            member.write(npy(LIKE["w"])[:128])
            for _ in range(30):  # 300 MB, of which a thousandth is on the disk
                member.write(bytes(10**7))
    put_archive(whole, file.getvalue())
    with pytest.raises(ValueError, match=r"state\.npz is damaged"):
        checkpoint.read(RUN).tree("state", LIKE)


def test_a_file_as_large_as_a_disk_is_refused(whole):
    names = ["config.json", "system.json", "metrics.csv", "checkpoints/10/state.npz"]
    for name in (*names, "checkpoints/10/manifest.json", "train.toml"):
        (RUN / name).touch()
        os.truncate(RUN / name, 2**40)  # all of it a hole
    run = read_run(RUN)
    assert run.problem.count("is too large") == 3
    use_checkpoint()
    with pytest.raises(ValueError, match=r"train\.toml is too large"):
        read_settings(RUN / "train.toml", "dqn", DQN)


TOML_BOMBS = {
    "deep": b"a = " + b"[" * 40_000 + b"]" * 40_000,
    "a long key": b".".join([b"a"] * 40_000) + b" = 1",
    "a deep key": b".".join([b"a"] * 900) + b" = 1",
    "deep tables": b"[" + b".".join([b"a"] * 900) + b"]",
    "a long number": b"seed = " + b"1" * 5_000,
    "large": b"#" * 30_000_000,
}


@pytest.mark.parametrize("name", TOML_BOMBS)
def test_settings_that_take_long_or_much_are_refused(name):
    path = RUN / "train.toml"
    path.write_bytes(TOML_BOMBS[name])
    with pytest.raises(ValueError, match=r"runs/run/train\.toml") as caught:
        read_settings(path, "dqn", DQN)
    assert len(str(caught.value)) < 1_000


TABLE_BOMBS = {
    "large numbers": b"env_step,seconds\n1,2\n" + b"1e308,1e308\n" * 10,
    "a negative step": b"env_step,seconds\n-1,2\n",
}


@pytest.mark.parametrize("name", TABLE_BOMBS)
def test_tables_of_pathological_values_are_damage(name):
    (RUN / "metrics.csv").write_bytes(TABLE_BOMBS[name])
    run = read_run(RUN)
    assert run.state == "damaged"
    assert "runs/run/metrics.csv is damaged" in run.problem

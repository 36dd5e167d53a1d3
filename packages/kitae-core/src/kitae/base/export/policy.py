"""A trained policy as a folder that acts without Kitae.

- `select_action.bin`: `select_action` as `jax.export` serialises it, for any number of
  observations, on CPU, CUDA and TPU. It holds array operations and nothing else.
- `parameters.safetensors`: the leaves of the train state that `select_action` depends
  on, and no others, by their tree paths, such as `qvalue.params.params.Dense_0.kernel`.
  `"kitae"` in its metadata is JSON: `format`, `agent`, `task_name`,
  `observation_space`, `action_space`, `env_steps`, `hidden_state`, `kitae_core`, `jax`.
- `README.md`: how to call it, with an example that runs.

The function takes `(parameters, key_data, observations)` and returns the actions, as
the environment counts them. That of an agent with a hidden state also takes
`hidden_state, first` and returns `(actions, hidden_state)`; the hidden state is the
tuple of its leaves. Everything is made of dicts, tuples and arrays, since whoever
loads it knows no other containers.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.state import TrainingState, device_step
from kitae.base.algorithm.tracing import explained
from kitae.base.common.pytrees import addressable, firm
from kitae.base.rundir.files import write_file
from kitae.config.spaces import space_to_json
from kitae.envs.checks import from_start
from kitae.envs.observations import empty_observations

VERSION = 1
PLATFORMS = ("cpu", "cuda", "tpu")
README = """\
# {agent} on {task_name}, after {env_steps} environment steps

A policy exported by kitae-core {kitae_core}, for use without it. What it needs comes by
`pip install jax safetensors flatbuffers`:

```python
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file  # needs jax alone

policy = export.deserialize(Path("select_action.bin").read_bytes())
select_action = jax.jit(policy.call)
parameters = load_file("parameters.safetensors")

key_data = np.zeros({key_shape}, "uint32")
observations = {observations}
{call}
print(np.asarray(actions).tolist())
```

- `key_data`: for a policy that draws random numbers, another one at each step, such as
  `jax.random.key_data(jax.random.key(step))`. Others take no notice of it.
- `observations`: as the environment gives them, any number of them, at least 1.
{remembering}\
- `actions`: one for each observation, as the environment counts them. One below the
  lowest says that the network gave values that are not finite.

The spaces are in the metadata of `parameters.safetensors`, as JSON under `"kitae"`.
`select_action.bin` was made with jax {jax}; JAX promises that its versions of the six
months after that one load it.
"""
CALL = "actions = select_action(parameters, key_data, observations)"
RECURRENT_CALL = """\
hidden_state = {hidden_state}
first = np.ones(4, bool)
actions, hidden_state = select_action(
    parameters, key_data, observations, hidden_state, first
)"""
REMEMBERING = """\
- `hidden_state`: what the last call returned.
- `first`: true for an observation that begins an episode; what is in `hidden_state`
  for it is of no matter.
"""


def export(algorithm: Algorithm, training: TrainingState, folder: Path) -> Path:
    """Writes the folder; see `BaseAgent.export`."""
    safetensors = _import_safetensors()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"folder must be new or empty, got {folder}")
    training = training._replace(state=addressable(training.state))
    if jax.process_index() != 0:
        return folder
    inputs = _inputs(algorithm, training)
    header = _header(algorithm, training, inputs)
    parameters, exported = _exported(algorithm, training, inputs)
    described = {"kitae": json.dumps(header, allow_nan=False)}
    files = {
        "parameters.safetensors": safetensors.save(parameters, described),
        "select_action.bin": exported.serialize(),
        "README.md": _readme(header, inputs).encode(),
    }
    _write(folder, files)
    return folder


def _import_safetensors() -> Any:
    try:
        import flatbuffers  # noqa: F401, which serialising needs
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            'export needs safetensors and flatbuffers: pip install "kitae-core[export]"'
        ) from None
    return safetensors.numpy


def _inputs(algorithm: Algorithm, training: TrainingState) -> tuple[Any, ...]:
    """Returns what the function takes after the parameters, for one environment."""
    space = algorithm.config.env_cfg.observation_space
    inputs = [training.keys.interact, empty_observations(space, 1)]
    hidden_state, first = algorithm.nothing_remembered(1)
    if first is not None:
        inputs += [tuple(jax.tree.leaves(hidden_state)), first]
    return tuple(jax.tree.map(firm, inputs))


def _exported(
    algorithm: Algorithm, training: TrainingState, inputs: tuple[Any, ...]
) -> tuple[dict[str, np.ndarray], jax.export.Exported]:
    """Returns the parameters by name, and the function of them."""
    state = jax.device_get(jax.tree.map(firm, training.state))
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    known = {}
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in known:
            raise ValueError(f"two leaves of the state would both be named {name!r}")
        known[name] = leaf
    function = jax.jit(_pure(algorithm, training, known, tree))
    what = f"{algorithm.name}.select_action"
    with _without_source_files():
        with explained(what):
            once = jax.export.export(function)(*_specs(known, inputs, 2))
        # The arguments as JAX flattens them: a dict by its sorted keys.
        names = dict(enumerate(sorted(known)))
        used = [names[i] for i in once.module_kept_var_idx if i in names]
        parameters = {name: np.array(known[name], order="C") for name in used}
        (n,) = jax.export.symbolic_shape("n")
        try:
            exported = jax.export.export(function, platforms=PLATFORMS)(
                *_specs(parameters, inputs, n)
            )
        except Exception as error:
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            raise TypeError(
                f"{what} can be compiled, but not for any number of observations on "
                f"{', '.join(PLATFORMS)}: {reason}"
            ) from error
    return parameters, exported


def _pure(
    algorithm: Algorithm, training: TrainingState, known: dict[str, Any], tree: Any
) -> Callable[..., Any]:
    """Returns `select_action` as a function of some leaves of the state, by name."""
    hidden_tree = jax.tree.structure(algorithm.initial_hidden_state(1))

    def select_action(
        parameters: dict[str, Any],
        key_data: jax.Array,
        observations: Any,
        hidden_state: tuple[Any, ...] = (),
        first: Any = None,
    ) -> Any:
        leaves = known | parameters  # in the order of `known`
        acted = algorithm.select_action(
            jax.tree.unflatten(tree, leaves.values()),
            key_data,
            np.uint32(0),
            device_step(training.counters.step),
            observations,
            jax.tree.unflatten(hidden_tree, hidden_state),
            first,
            training.names and training.names[:1],
        )
        actions = from_start(acted.env_actions, algorithm.config.env_cfg.action_space)
        if first is None:
            return actions
        return actions, tuple(jax.tree.leaves(acted.next_hidden_state))

    return select_action


def _specs(parameters: dict[str, Any], inputs: tuple[Any, ...], n: Any) -> list[Any]:
    """Returns the shapes and dtypes of the arguments for `n` observations."""

    def spec(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    def rows(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype)

    key_data, *batched = inputs
    return [*jax.tree.map(spec, (parameters, key_data)), *jax.tree.map(rows, batched)]


@contextmanager
def _without_source_files() -> Iterator[None]:
    """Keeps the paths of source files out of what is exported."""
    name = "jax_hlo_source_file_canonicalization_regex"  # what matches is cut out
    regex = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, regex)


def _header(
    algorithm: Algorithm, training: TrainingState, inputs: tuple[Any, ...]
) -> dict[str, Any]:
    env_cfg = algorithm.config.env_cfg
    _, _, *remembered = inputs
    return {
        "format": VERSION,
        "agent": algorithm.name,
        "task_name": env_cfg.task_name,
        "observation_space": space_to_json(env_cfg.observation_space),
        "action_space": space_to_json(env_cfg.action_space),
        "env_steps": training.counters.step,
        "hidden_state": [
            {"shape": list(leaf.shape[1:]), "dtype": str(leaf.dtype)}
            for leaf in (remembered[0] if remembered else ())
        ],
        "kitae_core": metadata.version("kitae-core"),
        "jax": jax.__version__,
    }


class _Code(str):
    """Python code, shown as it is in the repr of a dict or a tuple."""

    __repr__ = str.__str__


def _readme(header: dict[str, Any], inputs: tuple[Any, ...]) -> str:
    def zeros(leaf: Any) -> _Code:
        return _Code(f'np.zeros({(4, *leaf.shape[1:])}, "{leaf.dtype}")')

    key_data, observations, *remembered = inputs
    call = CALL
    if remembered:
        hidden_state = jax.tree.map(zeros, remembered[0])
        call = RECURRENT_CALL.format(hidden_state=hidden_state)
    return README.format(
        **header,
        key_shape=key_data.shape,
        observations=jax.tree.map(zeros, observations),
        call=call,
        remembering=REMEMBERING if remembered else "",
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes all files or none."""
    temporary = folder.with_name(f".{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        for name, content in files.items():
            write_file(temporary / name, content)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

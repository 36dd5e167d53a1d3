import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Optional

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import event, given, settings
from hypothesis import strategies as st

import kitae.config as cfg
from kitae.config.serial import (
    config_changes,
    config_from_json,
    config_to_json,
    strict_json,
)


@dataclass(frozen=True)
class Layer:
    units: int = 64
    bias: bool = True


@dataclass(frozen=True)
class Params:
    """One field of each kind that can be read back."""

    gamma: float = 0.99
    n_steps: int = 3
    dueling: bool = False
    name: str = "mine"
    nothing: None = None
    loss: Literal["huber", "squared", 2] = "huber"
    frame_stack: int | None = None
    scale: Optional[float] = 1.5  # noqa: UP045 (is read as well)
    rate: Annotated[float, "tyro's"] = 0.5
    decay: float | Literal["auto"] = "auto"
    hidden_sizes: tuple[int, ...] = (120, 84)
    span: tuple[float, str] = (0.5, "s")
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    weights: dict[str, float] = field(default_factory=lambda: {"x y": 1, "z": 0.5})
    torso: Layer = Layer()
    heads: tuple[Layer, ...] | None = (Layer(8, False), Layer())
    skip_steps: int = 1
    n_weights: int = field(init=False, default=0)

    def __post_init__(self):
        cfg.check_number("gamma", self.gamma, 0.0, 1.0)
        if self.n_steps == 13:
            raise TypeError("an unlucky number")
        if self.n_steps == 14:
            raise KeyError("n")
        object.__setattr__(self, "n_weights", len(self.weights))


SPACE = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (3, 4, 4), np.uint8),
        "pose": spaces.Box(np.array([-1, -np.inf], np.float32), np.inf, (2,)),
        "keys": spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])]),
    }
)
CONFIG = cfg.AlgoConfig(
    seed=3,
    algo_params=Params(),
    update_cfg=cfg.UpdateConfig(max_grad_norm=10),
    train_cfg=cfg.TrainConfig(n_env_steps=1000),
    env_cfg=cfg.EnvConfig("Mine", SPACE, spaces.Discrete(2, start=-1), n_envs=3),
)
WRITTEN = json.loads(config_to_json(CONFIG))


def changed(path, value):
    """The config in JSON, with another value at a path of dots."""
    root = copy.deepcopy(WRITTEN)
    *parents, last = path.split(".")
    part = root
    for key in parents:
        part = part[key]
    part[last] = value
    return json.dumps(root)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Expecting value"),
        ("{'a': 1}", "Expecting property name"),
        ("[1] 2", "Extra data"),
        ("\ufeff[]", "BOM"),
        (b"\xff", "can't decode byte 0xff"),
        ("[1]".encode("utf-16"), "can't decode byte"),
        ("[1]".encode("utf-16-be"), "Expecting value"),
        ('[{"a": 1, "b": 2, "a": 1}]', "the key 'a' is there twice"),
        ('{"a": 1, "\\u0061": 2}', "the key 'a' is there twice"),
        ("[NaN]", "'NaN' is not finite"),
        ("[-Infinity]", "'-Infinity' is not finite"),
        ("[1e999]", "'1e999' is not finite"),
        ("9" * 5000, "4300 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_only_strict_json_is_read(text, message):
    with pytest.raises(ValueError, match=f"not strict JSON: .*{message}"):
        strict_json(text)


def test_strict_json_is_read():
    text = '{"a": [1, -2.5e3, true, null, "é\\ud83d\\ude00"], "b": {}}'
    read = {"a": [1, -2500.0, True, None, "é😀"], "b": {}}
    assert strict_json(text) == strict_json(text.encode()) == read


def test_a_config_survives_the_way_through_json():
    assert config_from_json(config_to_json(CONFIG), Params) == CONFIG
    assert config_from_json(config_to_json(CONFIG).encode(), Params) == CONFIG


def test_values_have_the_types_of_their_annotations():
    read = config_from_json(config_to_json(CONFIG), Params)
    assert type(read.algo_params.hidden_sizes) is tuple
    assert type(read.algo_params.names) is list
    assert type(read.algo_params.heads[1]) is Layer
    assert type(read.algo_params.weights["x y"]) is int  # as it was
    assert type(read.update_cfg.max_grad_norm) is int
    assert type(read.update_cfg.learning_rate) is float


def test_what_is_not_written_has_its_default():
    written = copy.deepcopy(WRITTEN)
    del written["update_cfg"]["batch_size"], written["algo_params"]["weights"]
    read = config_from_json(json.dumps(written), Params)
    assert read == CONFIG


def test_infinite_parameters_are_read_from_their_names():
    read = config_from_json(changed("algo_params.scale", "-inf"), Params)
    assert read.algo_params.scale == -math.inf
    read = config_from_json(changed("algo_params.weights", {"x": "nan"}), Params)
    assert math.isnan(read.algo_params.weights["x"])


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("sed", 1, r"sed is not a field of AlgoConfig: did you mean seed\?"),
        ("a b", 1, r"the config\['a b'\] is not a field of AlgoConfig: it has seed,"),
        (
            "update_cfg.batchsize",
            1,
            r"update_cfg.batchsize is not a .* did you mean batch_size\?",
        ),
        (
            "update_cfg",
            [1],
            r"update_cfg must be an object with the fields of UpdateConfig, got \[1\]",
        ),
        ("train_cfg", {}, "train_cfg.n_env_steps of TrainConfig is missing"),
        ("seed", True, "seed must be an int, got True"),
        ("seed", -1, r"seed must be an int in \[0, 4294967295\], got -1"),
        ("update_cfg.batch_size", 0, "update_cfg.batch_size must be an int of at leas"),
        ("update_cfg.batch_size", "8", "update_cfg.batch_size must be an int, got '8'"),
        ("update_cfg.batch_size", 8.0, "update_cfg.batch_size must be an int, got 8.0"),
        ("update_cfg.batch_size", True, "update_cfg.batch_size must be an int, got Tr"),
        ("update_cfg.batch_size", None, "update_cfg.batch_size must be an int, got No"),
        ("update_cfg.shared_encoder", 1, "update_cfg.shared_encoder must be True or F"),
        ("update_cfg.learning_rate", "0.1", "update_cfg.learning_rate must be a numb"),
        ("update_cfg.learning_rate", "inf", "update_cfg.learning_rate must be a finit"),
        ("update_cfg.learning_rate", 10**400, "update_cfg.learning_rate must be a num"),
        ("update_cfg.learning_rate", False, "update_cfg.learning_rate must be a numb"),
        ("update_cfg.max_grad_norm", [1.0], "max_grad_norm must be a number or None,"),
        ("env_cfg.task_name", 1, "env_cfg.task_name must be a string, got 1"),
        ("env_cfg.task_name", "", "env_cfg.task_name must be a name, got ''"),
        ("env_cfg.action_space", {}, "env_cfg.action_space must be an object with a t"),
        ("env_cfg.action_space.n", 0, "env_cfg.action_space.n must be an int in"),
        (
            "env_cfg.observation_space.spaces.pose.low",
            [0.0],
            "env_cfg.observation_space.spaces.pose.low must be a list of length 2",
        ),
        (
            "algo_params",
            None,
            "algo_params must be an object with the fields of Params",
        ),
        ("algo_params.gamma", 1.5, r"algo_params.gamma must be a finite number in \[0"),
        (
            "algo_params.skip_steps",
            0,
            "algo_params.skip_steps must be an int of at lea",
        ),
        ("algo_params.n_steps", 13, "algo_params: an unlucky number"),
        ("algo_params.n_steps", 14, r"algo_params: KeyError\('n'\)"),
        ("algo_params.name", 1, "algo_params.name must be a string, got 1"),
        ("algo_params.nothing", 0, "algo_params.nothing must be None, got 0"),
        ("algo_params.loss", "hubber", "loss must be 'huber' or 'squared' or 2, got '"),
        ("algo_params.loss", 2.0, "loss must be 'huber' or 'squared' or 2, got 2.0"),
        ("algo_params.frame_stack", "4", "frame_stack must be an int or None, got '4'"),
        ("algo_params.scale", "1", "scale must be a number or None, got '1'"),
        ("algo_params.decay", "aut", "decay must be a number or 'auto', got 'aut'"),
        ("algo_params.hidden_sizes", 64, r"must be a list \(tuple\[int, ...\]\), got"),
        ("algo_params.hidden_sizes", {"0": 1}, "algo_params.hidden_sizes must be a li"),
        (
            "algo_params.hidden_sizes",
            [64, "64"],
            r"hidden_sizes\[1\] must be an int, g",
        ),
        (
            "algo_params.span",
            [0.5],
            r"span must be a list \(tuple\[float, str\]\), got",
        ),
        (
            "algo_params.span",
            [0.5, 1],
            r"algo_params.span\[1\] must be a string, got 1",
        ),
        (
            "algo_params.names",
            [None],
            r"algo_params.names\[0\] must be a string, got No",
        ),
        (
            "algo_params.weights",
            [1],
            r"weights must be an object \(dict\[str, float\]\)",
        ),
        (
            "algo_params.weights",
            {"x y": ""},
            r"algo_params.weights\['x y'\] must be a ",
        ),
        (
            "algo_params.torso",
            64,
            "algo_params.torso must be an object with the fields",
        ),
        (
            "algo_params.torso.units",
            True,
            "algo_params.torso.units must be an int, got",
        ),
        ("algo_params.torso.unit", 1, r"algo_params.torso.unit is .* did you mean uni"),
        (
            "algo_params.heads",
            [{"bias": 1}],
            r"algo_params.heads\[0\].bias must be Tru",
        ),
        ("algo_params.n_weights", 2, "algo_params.n_weights is not a field of Params"),
    ],
)
def test_what_is_no_config_is_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message) as error:
        config_from_json(changed(path, value), Params)
    assert str(error.value).startswith((path.split(".")[0], "the config"))


def test_text_that_is_no_config_is_refused():
    with pytest.raises(ValueError, match="the config is not strict JSON: Expecting"):
        config_from_json("", Params)
    with pytest.raises(ValueError, match=r"the config must be an object .* got None"):
        config_from_json("null", Params)
    with pytest.raises(ValueError, match="the config is not strict JSON: the key 'see"):
        config_from_json('{"seed": 1, ' + config_to_json(CONFIG)[1:], Params)
    with pytest.raises(TypeError, match="params_type must be a dataclass, got <class"):
        config_from_json(config_to_json(CONFIG), dict)


def test_long_values_are_cut_in_errors():
    text = changed("update_cfg.batch_size", [["x" * 100] * 100] * 100)
    with pytest.raises(ValueError, match="batch_size must be an int, got") as error:
        config_from_json(text, Params)
    assert len(str(error.value)) < 5000


def odd_params(annotation, value):
    @dataclass
    class Odd:
        field: annotation = None

    return Odd, replace(CONFIG, algo_params=Odd(value))


@pytest.mark.parametrize(
    "annotation, value",
    [
        (Callable, abs),
        (Callable[[float], float], abs),
        (Callable | None, abs),
        (Any, 1),
        (object, 1),
        (type, int),
        (np.ndarray, np.zeros(2)),
        (tuple, (1, 2)),
        (list, [1, 2]),
        (dict, {"a": 1}),
        (dict[int, float], {1: 0.5}),
        (set[int], {1}),
        (str | Callable, "relu"),
    ],
    ids=str,
)
def test_what_json_does_not_tell_is_refused(annotation, value):
    odd_type, config = odd_params(annotation, value)
    with pytest.raises(ValueError, match=r"^algo_params.field cannot be read from J"):
        config_from_json(config_to_json(config), odd_type)


@pytest.mark.parametrize(
    "annotation, value",
    [
        (float | str, math.inf),
        (tuple[int, ...] | list[int], [1, 2]),
        (Layer | dict[str, int | bool], Layer()),
    ],
    ids=str,
)
def test_what_two_parts_of_a_union_read_differently_is_refused(annotation, value):
    odd_type, config = odd_params(annotation, value)
    with pytest.raises(ValueError, match=r"^algo_params.field may .* not show which"):
        config_from_json(config_to_json(config), odd_type)


@pytest.mark.parametrize(
    "annotation, value",
    [
        (Callable | None, None),
        (int | float, 1),
        (int | float, 1.5),
        (float | str, "x"),
        (tuple[int, ...] | list[str], ["a"]),
        (Layer | dict[str, str], {"units": "m"}),
        (tuple[()], ()),
    ],
    ids=str,
)
def test_what_only_one_part_of_a_union_reads_is_read(annotation, value):
    odd_type, config = odd_params(annotation, value)
    assert config_from_json(config_to_json(config), odd_type) == config


def test_changes_are_listed_in_the_order_of_the_fields():
    assert config_changes(CONFIG, CONFIG) == []
    new = replace(
        CONFIG,
        seed=4,
        algo_params=Params(hidden_sizes=(64,), torso=Layer(units=8), loss="squared"),
        update_cfg=cfg.UpdateConfig(learning_rate=0.001),
        env_cfg=replace(CONFIG.env_cfg, action_space=spaces.Discrete(4, start=-1)),
    )
    assert config_changes(CONFIG, new) == [
        "seed: 3 -> 4",
        "algo_params.loss: 'huber' -> 'squared'",
        "algo_params.hidden_sizes: [120, 84] -> [64]",
        "algo_params.torso.units: 64 -> 8",
        "update_cfg.learning_rate: 0.0003 -> 0.001",
        "update_cfg.max_grad_norm: 10 -> None",
        "env_cfg.action_space.n: 2 -> 4",
    ]


def test_changes_show_what_is_on_one_side_only():
    new = replace(CONFIG.env_cfg, action_space=spaces.MultiBinary(2))
    new = replace(CONFIG, env_cfg=new)
    assert config_changes(CONFIG, new) == [
        "env_cfg.action_space.type: 'Discrete' -> 'MultiBinary'",
        "env_cfg.action_space.start: -1 -> nothing",
        "env_cfg.action_space.dtype: 'int64' -> nothing",
    ]
    assert config_changes(new, CONFIG)[1:] == [
        "env_cfg.action_space.start: nothing -> -1",
        "env_cfg.action_space.dtype: nothing -> 'int64'",
    ]


def test_changes_show_another_order_of_a_dict_space():
    parts = [("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))]
    old, new = [
        replace(CONFIG, env_cfg=replace(CONFIG.env_cfg, observation_space=space))
        for space in (spaces.Dict(parts), spaces.Dict(parts[::-1]))
    ]
    assert config_changes(old, new) == [
        "env_cfg.observation_space.spaces: ['b', 'a'] -> ['a', 'b']"
    ]


def test_changes_to_what_was_only_written_are_listed():
    _, with_abs = odd_params(Callable, abs)
    _, with_max = odd_params(Callable, max)
    old = strict_json(config_to_json(with_abs))
    assert config_changes(old, with_abs) == []
    assert config_changes(old, with_max) == ["algo_params.field: 'abs' -> 'max'"]
    assert config_changes([1], with_abs)[0].startswith("the config: [1] -> {'seed': 3,")


def test_long_values_are_cut_in_changes():
    old = replace(CONFIG, algo_params=Params(hidden_sizes=(64,) * 1000))
    [change] = config_changes(old, CONFIG)
    assert re.search(r"sizes: \[64, 64, .*, 6?4?\.\.\. -> \[120, 84\]$", change)
    assert len(change) < 160


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2**31, 2**63, 10**400, -1, "inf", "-inf", "nan", "Box"])
    | st.floats()
    | st.text(max_size=5),
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts)
    ),
    max_leaves=6,
)


TWEAKS = {bool: st.booleans(), int: st.integers(0, 99), float: st.floats(0, 1)}
KINDS = ["tweak", "replace", "remove", "add", "rename", "nest", "copy"]


def paths(value, path=()):
    """The paths of all that is in a value, the value itself first."""
    yield path
    parts = enumerate(value) if isinstance(value, list) else ()
    parts = value.items() if isinstance(value, dict) else parts
    for key, part in parts:
        yield from paths(part, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mutate(draw, root):
    """Changes one thing in `root`; returns the field of it that holds the thing."""
    path = draw(st.sampled_from([*paths(root)][1:]))
    parent, key = at(root, path[:-1]), path[-1]
    kind = draw(st.sampled_from(KINDS))
    event(kind)
    match kind:
        case "tweak" if type(parent[key]) in TWEAKS:
            parent[key] = draw(TWEAKS[type(parent[key])])
        case "remove":
            del parent[key]
        case "add" if isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = draw(JSON)
        case "rename" if isinstance(parent, dict):
            parent[draw(st.sampled_from([key + "s", key[1:]]))] = parent.pop(key)
        case "nest":
            as_list = draw(st.booleans())
            for _ in range(draw(st.sampled_from([1, 2, 50, 300]))):
                parent[key] = [parent[key]] if as_list else {str(key): parent[key]}
        case "copy":
            other = draw(st.sampled_from([*paths(root)]))
            parent[key] = copy.deepcopy(at(root, other))
        case _:
            parent[key] = draw(JSON)
    return path[0]


def built_or_refused(text, fields=tuple(WRITTEN)):
    """Makes of a text a config as good as any, or a ValueError that names a field."""
    try:
        config = config_from_json(text, Params)
    except ValueError as error:
        event("refused")
        refusal = str(error)
    else:
        event("built")
        written = config_to_json(config)
        assert config_to_json(config_from_json(written, Params)) == written
        return
    if not refusal.startswith("the config"):  # then it is strict JSON
        fields = {*fields, *(strict_json(text).keys() - WRITTEN.keys())}
        assert re.match("|".join(rf"{re.escape(key)}(\W|$)" for key in fields), refusal)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_a_config_with_one_change_is_built_or_refused_by_name(data):
    root = copy.deepcopy(WRITTEN)
    field = mutate(data.draw, root)
    built_or_refused(json.dumps(root), [field])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_config_with_many_changes_is_built_or_refused_by_name(data):
    root = copy.deepcopy(WRITTEN)
    for _ in range(data.draw(st.integers(2, 5))):
        mutate(data.draw, root)
    built_or_refused(json.dumps(root))


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries(dict.fromkeys(WRITTEN, JSON)))
def test_any_json_is_built_or_refused_by_name(value):
    built_or_refused(json.dumps(value))


@settings(max_examples=200, deadline=None)
@given(st.binary(), st.integers(0, 10_000), st.integers(0, 30))
def test_any_bytes_are_built_or_refused_by_name(inserted, start, n_removed):
    built_or_refused(inserted)
    text = config_to_json(CONFIG).encode()
    start %= len(text)
    built_or_refused(text[:start] + inserted + text[start + n_removed :])


positive = st.floats(0, exclude_min=True, allow_infinity=False)
counts = st.integers(1, 10**12)
layers = st.builds(Layer, units=st.integers(), bias=st.booleans())
configs = st.builds(
    cfg.AlgoConfig,
    seed=st.integers(0, 2**32 - 1),
    algo_params=st.builds(
        Params,
        gamma=st.floats(0, 1) | st.integers(0, 1),
        name=st.text(),
        loss=st.sampled_from(["huber", "squared", 2]),
        frame_stack=st.none() | st.integers(),
        scale=st.none() | st.floats(allow_nan=False),
        decay=st.just("auto") | st.floats(allow_nan=False),
        hidden_sizes=st.lists(st.integers()).map(tuple),
        weights=st.dictionaries(st.text(), st.floats(allow_nan=False)),
        heads=st.none() | st.lists(layers).map(tuple),
    ),
    update_cfg=st.builds(
        cfg.UpdateConfig,
        learning_rate=positive,
        learning_rate_annealing=st.booleans(),
        max_grad_norm=st.none() | positive | counts,
        batch_size=st.integers(1, 2**31 - 1),
    ),
    train_cfg=st.builds(
        cfg.TrainConfig, n_env_steps=counts, save_frequency=st.just(-1) | counts
    ),
    env_cfg=st.builds(
        cfg.EnvConfig,
        task_name=st.text(min_size=1),
        observation_space=st.just(SPACE),
        action_space=st.builds(spaces.Discrete, counts),
        n_envs=st.integers(1, 2**20),
    ),
)


@settings(deadline=None)
@given(configs)
def test_any_config_survives_the_way_through_json(config):
    assert config_from_json(config_to_json(config), Params) == config

"""Manifests and archives with hashes that are right, and with all else that is not."""

import io
import json
import struct
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from kitae.base.rundir import checkpoint

RUN = Path("run")
LIKE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.zeros(2, np.uint32)}
FACTS = {
    "agent": "DQN",
    "config": {"seed": 0},
    "step": 10,
    "iteration": 5,
    "updates": 3,
    "rows": [1, 2],
    "row": {".action": "int32[]"},
    "seconds": 1.5,
    "info": {"loss": 0.5},
    "score": None,
}


@pytest.fixture
def path():
    """A whole checkpoint's folder."""
    RUN.mkdir()
    parts = {"state": checkpoint.host_arrays(LIKE, copy=True)}
    return checkpoint.write(RUN, 10, parts, FACTS)


def body_of(path):
    body = json.loads((path / "manifest.json").read_bytes())
    del body["sha256"]
    return body


def reseal(path, body):
    plain = json.dumps(body, indent=1) + "\n"
    whole = {**body, "sha256": sha256(plain.encode()).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(whole, indent=1) + "\n")


def set_archive(path, content):
    """Puts an archive there, and its hash into the manifest."""
    (path / "state.npz").write_bytes(content)
    body = body_of(path)
    body["parts"]["state"]["sha256"] = sha256(content).hexdigest()
    reseal(path, body)


def refused(name="state"):
    with pytest.raises(
        ValueError, match=rf"{name}.* is damaged or missing: "
    ) as caught:
        checkpoint.read(RUN).tree("state", LIKE)
    assert len(str(caught.value)) < 600


def test_what_was_written_is_read(path):
    tree = checkpoint.read(RUN).tree("state", LIKE)
    for name, array in LIKE.items():
        np.testing.assert_array_equal(tree[name], array)
        assert tree[name].flags.writeable


DEEP = json.loads("[" * 300 + "]" * 300)


@pytest.mark.parametrize(
    "place, value",
    [
        (("facts",), None),
        (("facts", "step"), "abc"),
        (("facts", "step"), -5),
        (("facts", "step"), 1e30),
        (("facts", "step"), True),
        (("facts", "step"), 11),
        (("facts", "iteration"), 2**70),
        (("facts", "updates"), None),
        (("facts", "rows"), {"0": 1}),
        (("facts", "rows"), [1, "2"]),
        (("facts", "rows"), [-1, 2]),
        (("facts", "row"), [1]),
        (("facts", "row"), {".action": 3}),
        (("facts", "seconds"), "long"),
        (("facts", "seconds"), -1.0),
        (("facts", "info"), {"loss": "low"}),
        (("facts", "info"), None),
        (("facts", "score"), "best"),
        (("facts", "agent"), ["DQN"]),
        (("facts", "config"), "none"),
        (("facts", "config"), {"seed": DEEP}),
        (("parts",), []),
        (("parts", "../../evil"), {"sha256": "0" * 64, "leaves": []}),
        (("parts", "state"), None),
        (("parts", "state", "sha256"), 5),
        (("parts", "state", "leaves"), None),
        (("parts", "state", "leaves", 0), 7),
        (("parts", "state", "leaves", 0, "path"), ["['n']"]),
        (("parts", "state", "leaves", 0, "path"), "['w']"),
        (("parts", "state", "leaves", 0, "dtype"), "O"),
        (("parts", "state", "leaves", 0, "dtype"), "float99"),
        (("parts", "state", "leaves", 0, "shape"), [2, "3"]),
        (("parts", "state", "leaves", 0, "shape"), [2**40, 2**40]),
        (("parts", "state", "leaves", 0, "shape"), [1] * 65),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_refused_though_the_hash_is_right(path, place, value):
    body = body_of(path)
    owner = body
    for name in place[:-1]:
        owner = owner[name]
    owner[place[-1]] = value
    reseal(path, body)
    refused("manifest.json")


@pytest.mark.parametrize("name", FACTS)
def test_each_fact_must_be_there(path, name):
    body = body_of(path)
    del body["facts"][name]
    reseal(path, body)
    refused("manifest.json")


def test_a_fact_of_a_later_version_is_left_alone(path):
    body = body_of(path)
    body["facts"]["later"] = [1]
    reseal(path, body)
    assert checkpoint.read(RUN).step == 10


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def archive(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as zipped:
        for name, content in members:
            zipped.writestr(name, content)
    return file.getvalue()


WHOLE = [(f"{i}.npy", npy(array)) for i, array in enumerate((LIKE["n"], LIKE["w"]))]


def header(text):
    text = text.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


CENTRAL = b"PK\x01\x02"


def encrypted():
    content = bytearray(archive(WHOLE))
    content[content.index(CENTRAL) + 8] |= 1
    return bytes(content)


def of_method(method):
    content = bytearray(archive(WHOLE))
    content[content.index(CENTRAL) + 10] = method
    return bytes(content)


ARCHIVES = {
    "packed": lambda: archive(WHOLE, compression=zipfile.ZIP_DEFLATED),
    "packed by another method": lambda: of_method(99),
    "encrypted": encrypted,
    "a member more": lambda: archive([*WHOLE, ("2.npy", b"x")]),
    "an array that is there twice": lambda: archive([*WHOLE, ("2.npy", WHOLE[1][1])]),
    "larger than it says": lambda: archive([WHOLE[0], ("1.npy", WHOLE[1][1] * 9)]),
    "no header": lambda: archive([("0.npy", b"x" * 136), WHOLE[1]]),
    "half a header": lambda: archive([("0.npy", header("{'descr': (")), WHOLE[1]]),
    "a header that is not closed": lambda: archive(
        [("0.npy", header("{'descr': '<u4', 'x': (((" + "(" * 80)), WHOLE[1]]
    ),
    "a header of version 3": lambda: archive(
        [("0.npy", npy(LIKE["n"], (3, 0))), WHOLE[1]]
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_cannot_be_is_refused_though_its_hash_is_right(path, name):
    set_archive(path, ARCHIVES[name]())
    refused()


def test_an_archive_without_flaws_is_read_whoever_wrote_it(path):
    set_archive(path, archive(WHOLE))
    tree = checkpoint.read(RUN).tree("state", LIKE)
    np.testing.assert_array_equal(tree["w"], LIKE["w"])


def test_what_unpacks_to_much_more_is_refused_before_it_is_read(path, monkeypatch):
    bomb = archive(
        [WHOLE[0], ("1.npy", bytes(10**8))], compression=zipfile.ZIP_DEFLATED
    )
    set_archive(path, bomb)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # no member is looked into
    refused()

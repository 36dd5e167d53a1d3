"""Which checkpoints are kept, and which count."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kitae.base.recording import saving
from kitae.base.rundir import checkpoint

RUN = Path("run")
STATE = {".w": np.arange(100, dtype=np.float32)}


def write(step, score=None):
    facts = {
        "agent": "DQN",
        "config": {},
        "step": step,
        "iteration": step,
        "updates": 0,
        "rows": [0],
        "row": {},
        "seconds": 1.0,
        "info": {},
        "score": score,
    }
    RUN.mkdir(exist_ok=True)
    return checkpoint.write(RUN, step, {"state": STATE}, facts)


def damage(step, name="state.npz"):
    path = RUN / "checkpoints" / str(step) / name
    path.write_bytes(path.read_bytes()[:-20])


def save(step, score=None, keep_last=1, keep_best=False):
    """Writes a checkpoint as a training does, and rotates; returns what is left."""
    path = write(step, score)
    facts = json.loads((path / "manifest.json").read_bytes())["facts"]
    with saving.Saver(RUN, keep_last, keep_best) as saver:
        saver._write(step, {"state": STATE}, facts)
    return checkpoint.steps(RUN)


@pytest.mark.parametrize("name", ["state.npz", "manifest.json"])
def test_what_was_just_written_is_kept_and_a_damaged_newer_one_displaces_nothing(name):
    for step in (1_000, 3_000):
        write(step)
    damage(3_000, name)
    assert 2_000 in save(2_000)
    assert checkpoint.read_whole(RUN, 2_000)


def test_what_is_just_written_is_kept_beside_newer_ones():
    for step in (2_000, 5_000, 6_000, 7_000):
        write(step, score=float(step == 2_000))
    assert 3_000 in save(3_000, keep_last=3, keep_best=True)


def test_a_damaged_checkpoint_takes_no_place_and_goes_with_the_old_ones():
    for step in (100, 200, 300):
        write(step)
    damage(300)
    assert save(400, keep_last=2) == [200, 300, 400]
    assert save(500, keep_last=2) == [400, 500]


def test_a_damaged_checkpoint_is_nobodys_best():
    write(100, score=1.0)
    write(200, score=9.0)
    damage(200)
    write(300, score=0.0)
    assert saving.chosen(RUN, "best").step == 100
    assert save(400, score=0.0, keep_best=True) == [100, 400]


def test_only_real_folders_with_the_plain_name_of_a_step_count():
    write(100)
    folder = RUN / "checkpoints"
    (folder / "99999").write_bytes(b"stray")
    shutil.copytree(folder / "100", folder / "00700")
    shutil.copytree(folder / "100", folder / "٨٠٠")
    shutil.copytree(folder / "100", "elsewhere")
    (folder / "800").symlink_to(Path("elsewhere").absolute())
    (folder / ".900.old").symlink_to(Path("elsewhere").absolute())
    assert checkpoint.steps(RUN) == [100]
    assert save(200) == [200]
    checkpoint.clean(RUN)
    assert len(list(Path("elsewhere").iterdir())) == 2
    assert {path.name for path in folder.iterdir()} == {
        *("99999", "00700", "٨٠٠", "800", ".900.old", "200")
    }


def test_a_checkpoint_of_another_step_than_its_folder_says_is_damaged():
    write(100)
    (RUN / "checkpoints/100").rename(RUN / "checkpoints/700")
    with pytest.raises(ValueError, match=r"700/manifest\.json is damaged .* step 100"):
        checkpoint.read(RUN)


def test_the_one_before_is_offered_only_if_it_is_whole():
    for step in (100, 200, 300):
        write(step)
    damage(200)
    damage(300, "manifest.json")
    with pytest.raises(ValueError, match=r"300.* the checkpoint before it is step=100"):
        checkpoint.read(RUN)


def test_a_checkpoint_of_step_0_can_be_the_best():
    write(0, score=5.0)
    write(100, score=1.0)
    assert saving.chosen(RUN, "best").step == 0


def test_a_manifest_that_could_not_be_read_again_is_not_written():
    RUN.mkdir()
    with pytest.raises(ValueError, match="manifest is too large: it has 100,00"):
        checkpoint.write(RUN, 100, {"state": STATE}, {"note": [[]] * 100_000})
    assert checkpoint.steps(RUN) == []
    assert list((RUN / "checkpoints").iterdir()) == []

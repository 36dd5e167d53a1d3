"""What releases promise: names, floors, tags, and projects that use one component.

Each test plants its fault in a clone of this repository, as it is in this tree. Those
that make environments and train in them are marked `release`.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
TIMESTEPS = "packages/kitae-timesteps"
BUFFERS = "packages/kitae-buffers"
CORE = "packages/kitae-core"
INIT = f"{TIMESTEPS}/src/kitae/timesteps/__init__.py"
TD = f"{TIMESTEPS}/src/kitae/timesteps/td.py"


class Clone:
    """A clone of this repository that a test may break and release."""

    def __init__(self, path):
        self.path = path

    def git(self, *arguments, cwd=None):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t.t", *arguments]
        done = subprocess.run(
            command, cwd=cwd or self.path, capture_output=True, text=True, check=True
        )
        return done.stdout

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "planted")

    def tag(self, *names):
        for name in names:
            self.git("tag", name)

    def replace(self, name, old, new):
        path = self.path / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def set_version(self, package, version):
        path = self.path / package / "pyproject.toml"
        text = path.read_text(encoding="utf-8")
        changed = re.sub('(?m)^version = ".*"$', f'version = "{version}"', text)
        path.write_text(changed, encoding="utf-8")

    def write(self, name, text):
        (self.path / name).write_text(text, encoding="utf-8")

    def run(self, tool, *arguments, **environ):
        author = {f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")}
        mail = {f"GIT_{who}_EMAIL": "t@t.t" for who in ("AUTHOR", "COMMITTER")}
        cache = {"KITAE_TEST_CACHE": str(ROOT / ".pytest_cache" / "jax")}
        done = subprocess.run(
            [sys.executable, f"tools/{tool}.py", *arguments],
            cwd=self.path,
            env={**os.environ, **author, **mail, **cache, **environ},
            capture_output=True,
            text=True,
            timeout=1500,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path):
    made = Clone(tmp_path / "clone")
    made.git("clone", "--quiet", "--no-tags", str(ROOT), str(made.path), cwd=tmp_path)
    listed = made.git(
        "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT
    )
    for name in listed.rstrip("\0").split("\0"):
        (made.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made.path / name)
    made.commit()
    return made


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield importlib.import_module


# The public names


def test_a_package_without_a_release_is_named(clone):
    code, printed = clone.run("api")
    assert code == 0
    names = [path.name for path in sorted((ROOT / "packages").iterdir())]
    lines = [f"{name}: no release yet, nothing to compare with" for name in names]
    assert printed.splitlines() == lines


@pytest.mark.parametrize(
    "name, old, new",
    [
        (INIT, '    "compute_td_targets",\n', ""),
        (TD, "def compute_td_targets(\n", "def compute_td_targets(\n    clip,\n"),
        (TD, "def compute_td_targets(", "def compute_td_target("),
    ],
)
def test_a_public_name_is_kept_until_a_version_may_break(clone, name, old, new):
    clone.tag("kitae-timesteps-v0.1.0")
    assert "kitae-timesteps: 0.1.0 keeps all that 0.1.0 promised" in clone.run("api")[1]
    clone.replace(name, old, new)
    for version in ("0.1.0", "0.1.7"):
        clone.set_version(TIMESTEPS, version)
        code, printed = clone.run("api")
        assert code == 1, printed
        assert f"kitae-timesteps: {version} must not break what 0.1.0" in printed
        assert "compute_td_targets: " in printed
    clone.set_version(TIMESTEPS, "0.2.0")
    code, printed = clone.run("api")
    assert code == 0, printed
    assert "kitae-timesteps: 0.2.0 may break what 0.1.0 promised" in printed


def test_a_new_name_and_a_new_option_break_nothing(clone):
    clone.tag("kitae-timesteps-v0.1.0")
    clone.replace(INIT, '    "VTrace",\n', '    "VTrace",\n    "new",\n')
    clone.write(INIT, (clone.path / INIT).read_text() + "\n\ndef new(): ...\n")
    assert clone.run("api")[0] == 0


@pytest.mark.parametrize(
    "old, new, breaks",
    [
        ("0.1.0", "0.1.9", False),
        ("0.1.9", "0.2.0", True),
        ("0.9.0", "1.0.0", True),
        ("1.0.0", "1.9.0", False),
        ("1.9.0", "2.0.0", True),
    ],
)
def test_which_versions_may_break(tool, old, new, breaks):
    from packaging.version import Version

    assert tool("api").is_breaking(Version(old), Version(new)) is breaks


# Releases


@pytest.mark.parametrize(
    "last, types, version",
    [
        ("0.1.0", {"breaking", "fixed"}, "0.2.0"),
        ("0.1.0", {"added"}, "0.1.1"),
        ("0.1.0", {"changed", "fixed"}, "0.1.1"),
        ("1.2.3", {"breaking"}, "2.0.0"),
        ("1.2.3", {"added", "fixed"}, "1.3.0"),
        ("1.2.3", {"fixed"}, "1.2.4"),
        ("1.2.3", set(), "1.2.4"),
    ],
)
def test_the_fragments_give_the_version(tool, last, types, version):
    from packaging.version import Version

    assert str(tool("release").bumped(Version(last), types)) == version


ALL = ("timesteps", "buffers", "modules", "core", "algos")


def released(clone):
    """Tags what the clone is, less what is to be released, as a release of all."""
    for fragment in clone.path.glob("packages/*/changes/*.md"):
        fragment.unlink()
    clone.commit()
    clone.tag(*(f"kitae-{name}-v0.1.0" for name in ALL))


def test_a_dry_run_shows_the_release_and_does_nothing(clone):
    released(clone)
    clone.write(f"{BUFFERS}/changes/+a.breaking.md", "`add` takes rows first.\n")
    clone.commit()
    code, printed = clone.run("release", "--dry-run")
    assert code == 0
    assert printed.splitlines() == [
        "kitae-buffers 0.1.0 -> kitae-buffers-v0.2.0",
        "  breaking: `add` takes rows first.",
        "kitae-core 0.1.0 -> kitae-core-v0.1.1",
        "  kitae-buffers>=0.2.0,<1",
        "kitae-algos 0.1.0 -> kitae-algos-v0.1.1",
        "  kitae-buffers>=0.2.0,<1",
        "release: 3 packages would be released",
    ]
    assert clone.git("status", "--porcelain") == ""
    assert len(clone.git("tag").split()) == 5


def test_nothing_is_released_twice(clone):
    released(clone)
    assert clone.run("release") == (0, "release: 0 packages would be released\n")


def test_a_fragment_of_no_known_type_is_refused(clone):
    clone.write(f"{BUFFERS}/changes/12.feature.md", "New.\n")
    code, printed = clone.run("release", "--dry-run")
    assert code == 1
    assert "12.feature.md is not named <issue>.<type>.md" in printed


def test_a_release_that_breaks_its_promise_leaves_nothing_behind(clone):
    released(clone)
    clone.replace(INIT, '    "compute_td_targets",\n', "")
    clone.write(f"{TIMESTEPS}/changes/+a.fixed.md", "A name less.\n")
    clone.commit()
    code, printed = clone.run("release")
    assert code == 1
    assert "kitae-timesteps: 0.1.1 must not break what 0.1.0 promised" in printed
    assert clone.git("status", "--porcelain") == ""
    assert len(clone.git("tag").split()) == 5
    assert "planted" in clone.git("log", "-1", "--format=%s")


def test_changes_that_are_not_committed_are_never_released(clone):
    clone.write(f"{BUFFERS}/changes/+a.added.md", "New.\n")
    code, printed = clone.run("release")
    assert code == 1
    assert printed.endswith("there are changes that are not committed\n")


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_two_packages_are_released_and_what_was_built_is_installed(clone, tmp_path):
    released(clone)
    clone.write(f"{BUFFERS}/changes/7.breaking.md", "`add` takes rows first.\n")
    clone.commit()
    code, printed = clone.run("release", "kitae-buffers", "kitae-core")
    assert code == 0, printed
    log = "Release kitae-buffers 0.2.0, kitae-core 0.1.1, kitae-algos 0.1.1"
    assert clone.git("log", "-1", "--format=%s").strip() == log
    tags = ["kitae-buffers-v0.2.0", "kitae-core-v0.1.1", "kitae-algos-v0.1.1"]
    assert set(clone.git("tag", "--points-at", "HEAD").split()) == set(tags)
    assert re.findall("git push origin (kitae.*)", printed) == tags
    assert clone.git("status", "--porcelain") == ""
    changelog = (clone.path / BUFFERS / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"## 0\.2\.0 \(\d{4}-.*\)\n\n### Breaking\n\n- `add`", changelog)
    changelog = (clone.path / CORE / "CHANGELOG.md").read_text("utf-8")
    assert "- Requires `kitae-buffers>=0.2.0,<1`." in changelog
    pin = clone.path / "integration_tests/outside/replay/pyproject.toml"
    assert '"kitae-buffers==0.2.0"' in pin.read_text("utf-8")

    uv = [sys.executable, "-m", "uv"]
    venv = tmp_path / "venv"
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, venv], check=True)
    python = next(venv.glob("[bS]*/python*"))
    wheels = [
        *clone.path.glob("dist/kitae_buffers-*.whl"),
        *clone.path.glob("dist/kitae_core-*.whl"),
    ]
    assert [wheel.name.split("-")[1] for wheel in wheels] == ["0.2.0", "0.1.1"]
    install = [*uv, "pip", "install", "-q", "--python", python, *wheels]
    subprocess.run(install, check=True, cwd=tmp_path)
    code = "import kitae.base, kitae.buffer; from importlib import metadata as m;"
    code += "print(m.version('kitae-core'), m.version('kitae-buffers'))"
    shown = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["0.1.1", "0.2.0"]


# Released versions with this tree


def test_no_release_to_try_is_a_failure(clone):
    code, printed = clone.run("compat")
    assert (code, printed) == (
        1,
        "compat: there is no release to try: no tag kitae-*-v*\n",
    )


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_each_verdict_on_a_release_with_this_tree(clone):
    clone.set_version(BUFFERS, "0.0.9")
    clone.commit()
    clone.tag("kitae-buffers-v0.0.9")
    clone.set_version(BUFFERS, "0.1.0")
    clone.replace(INIT, "    compute_double_q_targets,\n", "")
    clone.replace(INIT, '    "compute_double_q_targets",\n', "")
    clone.commit()
    clone.tag("kitae-timesteps-v0.1.0")
    clone.git("checkout", "--quiet", "HEAD~2", "--", ".")
    clone.set_version(TIMESTEPS, "0.1.1")
    clone.commit()
    clone.tag("kitae-timesteps-v0.1.1")
    code, printed = clone.run("compat")
    assert code == 1
    assert "kitae-buffers 0.0.9 with HEAD: REFUSED\n" in printed
    assert "kitae-timesteps 0.1.0 with HEAD: BROKEN: " in printed
    assert "cannot import name 'compute_double_q_targets'" in printed
    assert "kitae-timesteps 0.1.1 with HEAD: OK: 2 passed" in printed
    assert "compat: 3 releases tried, 1 broken" in printed


# Floors


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_a_floor_that_is_too_low_is_found(clone):
    clone.replace(f"{TIMESTEPS}/pyproject.toml", "jax>=0.7", "jax>=0.4.30")
    code, printed = clone.run("lowest", "--only", "kitae-timesteps", "-x")
    assert code == 1
    assert "kitae-timesteps: fails on jax 0.4.30" in printed
    assert "lowest: RED: kitae-timesteps" in printed


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_a_siblings_floor_that_is_too_low_is_found(clone):
    clone.tag("kitae-buffers-v0.1.0")
    clone.set_version(BUFFERS, "0.2.0")
    name = f"{BUFFERS}/src/kitae/buffer/__init__.py"
    clone.write(name, (clone.path / name).read_text() + "\nNEW = 1\n")
    name = f"{CORE}/src/kitae/base/__init__.py"
    text = (clone.path / name).read_text()
    clone.write(name, f"{text}\nfrom kitae.buffer import NEW as NEW\n")
    clone.commit()
    code, printed = clone.run("lowest", "--only", "kitae-core", "-x")
    assert code == 1
    assert "kitae-buffers 0.1.0" in printed
    assert "cannot import name 'NEW'" in printed


# One component elsewhere


@pytest.mark.release
@pytest.mark.timeout(1800)
def test_projects_elsewhere_have_one_component_and_what_it_declares(clone):
    code, printed = clone.run("outside")
    assert code == 0, printed
    assert printed.splitlines()[-1].startswith("outside: 3 projects run")
    for project, component in {
        "networks": "kitae-modules",
        "replay": "kitae-buffers",
        "targets": "kitae-timesteps",
    }.items():
        assert f"{project}: pins {component}==0.1.0 and runs on " in printed


@pytest.mark.parametrize(
    "found, message",
    [
        ({"kitae-timesteps", "jax"}, None),
        ({"jax"}, r"comes with \[\] of ours"),
        ({"kitae-timesteps", "kitae-core"}, "comes with .*'kitae-core'.* of ours"),
        ({"kitae-timesteps", "flax", "gymnasium"}, "brings flax, gymnasium"),
        ({"kitae-timesteps", "distrax"}, "brings distrax"),
    ],
)
def test_what_a_component_brings_is_held_to_what_it_declares(tool, found, message):
    outside = tool("outside")
    group = [p for p in outside.read_packages(ROOT) if p.name == "kitae-timesteps"]
    if message is None:
        outside.check_installed("kitae-timesteps", found, group)
    else:
        with pytest.raises(outside.Refused, match=message):
            outside.check_installed("kitae-timesteps", found, group)


# Backends


@pytest.mark.parametrize("backend, required", [("cuda12", "0"), ("tpu", "1")])
def test_a_backend_without_a_device_is_one_line(clone, backend, required):
    platform = {"cuda12": "cuda,cpu", "tpu": "tpu,cpu"}[backend]
    environ = {"JAX_PLATFORMS": platform, "KITAE_REQUIRE_BACKEND": required}
    code, printed = clone.run("integration", backend, "--co", **environ)
    if printed == f"integration on {backend}\n":
        pytest.skip(f"there is a device for {backend}")
    word = {"0": "skipped, no device here", "1": "REQUIRED, BUT MISSING"}[required]
    assert code == int(required)
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"integration on {backend}: {word}: ")


def test_eight_devices_are_not_one(clone):
    environ = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "KITAE_REQUIRE_BACKEND": "1"}
    code, printed = clone.run("integration", "cpu8", **environ)
    text = "REQUIRED, BUT MISSING: JAX finds 1 of cpu, not 8 of cpu"
    assert (code, printed) == (1, f"integration on cpu8: {text}\n")


# Pythons

PLACES = ("PATH", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR")


@pytest.mark.parametrize("required", ["0", "1"])
def test_a_python_that_is_not_here_is_one_line(clone, tmp_path, required):
    environ = dict.fromkeys(PLACES, str(tmp_path / "nothing"))
    code, printed = clone.run(
        "pythons", "3.13", KITAE_REQUIRE_PYTHON=required, **environ
    )
    word = {"0": "skipped, not", "1": "REQUIRED, BUT NOT"}[required]
    assert (code, printed) == (
        int(required),
        f"Python 3.13: {word} on this machine\n",
    )


def test_a_python_of_pyenv_is_found_behind_one_that_does_not_start(
    tool, monkeypatch, tmp_path
):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in PLACES:
        monkeypatch.setenv(name, str(tmp_path / name))
    program = tmp_path / "PYENV_ROOT" / "versions" / f"{version}.0" / "bin"
    program.mkdir(parents=True)
    program /= f"python{version}"
    program.symlink_to(Path(sys.executable).resolve())
    shim = tmp_path / "PATH" / program.name
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert Path(tool("pythons").find_python(version)).samefile(program)


# The workflow


def test_the_workflow_runs_the_commands_that_are_here():
    envs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["envs"]
    text = "".join(p.read_text() for p in ROOT.glob(".github/workflows/*.yml"))
    commands = re.findall(r"tools/hatch run (.+)", text)
    assert "integration.${{ matrix.backend }}:test" in commands
    assert "pythons.py${{ matrix.version }}:test" in commands
    for command in commands:
        chosen = re.sub(r"\$\{\{.*?\}\}", "*", command).split(" ")[0]
        env, _, script = chosen.rpartition(":")
        assert script in envs[env.partition(".")[0] or "default"]["scripts"]
    for variable, env in (("backend", "integration"), ("version", "pythons")):
        lists = re.findall(rf"^ *{variable}: \[(.*)\]", text, re.M)
        assert [entry.replace('"', "").split(", ") for entry in lists] == [
            envs[env]["matrix"][0][variable]
        ]

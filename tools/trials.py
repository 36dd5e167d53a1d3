"""What is tried outside this tree: commands, environments, tests, releases."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

from check_namespace import ROOT, Package, normalized, read_packages
from packaging.requirements import Requirement
from packaging.version import Version

UV = (sys.executable, "-m", "uv")
# One for all environments of a run: byte code is kept by where a file lies.
BYTE_CODE = "pyc"
# What an installed package is tried by: what takes long proves nothing more of it.
TRIED = ("-m", "not slow and not learning and not release")


class Refused(Exception):
    """A package is not fit to be published; the message says why."""


def run(*command: str | Path, cwd: Path, **environ: str | Path) -> str:
    """Runs a command and returns what it printed; Refused unless it exits with 0."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env = {**kept, **{name: str(value) for name, value in environ.items()}}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(str(part) for part in command[1:5])
        tail = (done.stdout + done.stderr).strip().splitlines()[-60:]
        raise Refused("\n".join([f"`{shown} …` exits with {done.returncode}", *tail]))
    return done.stdout


def named(packages: Iterable[Package], name: str) -> Package:
    """The package of a name, among some that have it."""
    return next(package for package in packages if package.name == name)


def stem(package: Package) -> str:
    """How the package's name begins its files, such as `kitae_core`."""
    return package.name.replace("-", "_")


def build_wheel(package: Package, folder: Path) -> Path:
    """Builds a package's wheel into a folder of its own and returns it."""
    out = folder / package.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(*UV, "build", "-q", "--wheel", "--out-dir", out, package.path, cwd=out)
    return next(out.glob("*.whl"))


def new_environment(folder: Path, python: str = sys.executable) -> Path:
    """Makes an empty virtual environment in a folder and returns its Python."""
    venv = folder / "venv"
    run(*UV, "venv", "-q", "--clear", "--python", python, venv, cwd=folder)
    return venv / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def install(python: Path, *arguments: str | Path, cwd: Path) -> None:
    """Installs into an environment; further arguments are those of `uv pip install`."""
    # Without the refresh, uv may take one of ours of the same version from its cache.
    fresh = [f"--refresh-package={package.name}" for package in read_packages(ROOT)]
    run(*UV, "pip", "install", "-q", "--python", python, *fresh, *arguments, cwd=cwd)


def installed(python: Path, cwd: Path) -> dict[str, str]:
    """The distributions of an environment, normalized, and their versions."""
    listed = run(*UV, "pip", "list", "--format=json", "--python", python, cwd=cwd)
    return {normalized(entry["name"]): entry["version"] for entry in json.loads(listed)}


def read_requirements(lines: Iterable[str]) -> list[Requirement]:
    """Requirements, less those whose marker is for another Python or system."""
    read = map(Requirement, lines)
    return [one for one in read if one.marker is None or one.marker.evaluate()]


def needed_by_tests(name: str) -> list[Requirement]:
    """What a package's tests need: the dependency group of its name."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = []
    for entry in pyproject["dependency-groups"][name]:
        if isinstance(entry, str):
            found += read_requirements([entry])
        else:
            found += needed_by_tests(entry["include-group"])
    return found


def declared(package: Package, extras: Collection[str] = ()) -> list[Requirement]:
    """What a package requires, and with some of its extras."""
    project = package.pyproject["project"]
    lines = list(project.get("dependencies", []))
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return read_requirements(lines)


def install_tests(python: Path, name: str, cwd: Path) -> None:
    """Installs what a package's tests need, and changes nothing that is there."""
    there = cwd / "installed.txt"
    pinned = [f"{name}=={version}" for name, version in installed(python, cwd).items()]
    there.write_text("\n".join(pinned), encoding="utf-8")
    ours = {package.name: package for package in read_packages(ROOT)}
    needed = []
    for requirement in needed_by_tests(name):
        if package := ours.get(requirement.name):
            needed += declared(package, requirement.extras)
        else:
            needed.append(requirement)
    others = [
        str(requirement) for requirement in needed if requirement.name not in ours
    ]
    install(python, "-c", there, *others, cwd=cwd)


def run_tests(python: Path, package: Package, cwd: Path, *arguments: str) -> str:
    """Runs a package's tests in an environment, where no source of ours is in reach.

    Args:
        python: the environment's Python.
        package: the package, whose tests are copied.
        cwd: a folder outside the tree.
        *arguments: further ones of pytest; another `-m` takes the place of the one
            that leaves out slow tests.

    Returns:
        pytest's last line.

    Raises:
        Refused: a test fails.
    """
    tree = cwd / "tests"
    shutil.rmtree(tree, ignore_errors=True)
    copied = tree / "packages" / package.name
    skipped = shutil.ignore_patterns("__pycache__", "src")
    shutil.copytree(package.path, copied, ignore=skipped)
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tree)
    cache = ROOT / ".pytest_cache" / "jax"
    pytest = (python, "-m", "pytest", "-q", "-n", "logical", "--dist", "worksteal")
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    printed = run(
        *pytest,
        copied / "tests",
        *TRIED,
        *arguments,
        cwd=tree,
        PYTHONPYCACHEPREFIX=cwd / BYTE_CODE,
        PATH=path,
        KITAE_TEST_CACHE=os.environ.get("KITAE_TEST_CACHE", cache),
    )
    return printed.strip().splitlines()[-1].strip("= ")


def releases(name: str) -> dict[Version, str]:
    """The released versions of a package, the lowest first, and their git tags."""
    prefix = f"{name}-v"
    tags = run("git", "tag", "--list", f"{prefix}*", cwd=ROOT).split()
    return {v: f"{prefix}{v}" for v in sorted(Version(t[len(prefix) :]) for t in tags)}


def tree_at(tag: str, folder: Path) -> Path:
    """Unpacks what the repository was at a tag into a folder, and returns its root."""
    tree = folder / tag
    if not tree.exists():
        archive = folder / f"{tag}.tar"
        run("git", "archive", "--output", archive, tag, cwd=ROOT)
        with tarfile.open(archive) as packed:
            packed.extractall(tree, filter="data")
    return tree

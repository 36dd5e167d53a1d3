"""Runs all tests on one version of Python, with the newest of everything else.

    tools/hatch run pythons:test [pytest's arguments]        # every version
    tools/hatch run pythons.py3.13:test [pytest's arguments] # one

Interpreters are looked for on the PATH and where uv and pyenv keep theirs. A version
that is not on this machine is skipped by one line, unless `KITAE_REQUIRE_PYTHON=1`
says that this is a failure. The environment is made anew at each call, so that what it
has is the newest. With `KITAE_JAX=nightly`, JAX is that of last night.
"""

import os
import subprocess
import sys
from pathlib import Path

from check_namespace import ROOT, read_packages
from trials import UV, Refused, install, installed, new_environment, run

# Where JAX publishes what its main branch is each night.
NIGHTLY = "https://us-python.pkg.dev/ml-oss-artifacts-published/jax/simple/"
# Named at the start of a run: what most differences between two runs come from.
SHOWN = ("jax", "jaxlib", "flax", "numpy", "gymnasium")


def find_python(version: str) -> str:
    """The path of an interpreter of a version such as `3.13`, or an empty string."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # What pyenv puts on the PATH only starts the version that is chosen.
    folders = sorted(pyenv.glob(f"versions/{version}.*/bin"))
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    find = (*UV, "python", "find", "--system", "--no-python-downloads", version)
    try:
        return run(*find, cwd=ROOT, PATH=path).strip()
    except Refused:
        return ""


def make_environment(version: str, interpreter: str) -> Path:
    """Makes an environment with the five packages as they lie here; its Python.

    Raises:
        Refused: What the tests need cannot be installed on this version.
    """
    folder = ROOT / ".hatch" / "pythons" / version
    folder.mkdir(parents=True, exist_ok=True)
    python = new_environment(folder, interpreter)
    ours = [part for package in read_packages(ROOT) for part in ("-e", package.path)]
    install(python, *ours, "--group", "suite", cwd=ROOT)
    if os.environ.get("KITAE_JAX") == "nightly":
        newer = ("--upgrade-package=jax", "--upgrade-package=jaxlib")
        newer += ("--prerelease=allow", "--index", NIGHTLY)
        install(python, *newer, "jax", "jaxlib", cwd=ROOT)
    return python


def run_suite(python: Path, *arguments: str) -> int:
    """Runs the tests in an environment; further arguments are pytest's."""
    pytest = (python, "-m", "pytest", "-n", "logical", "--dist", "worksteal")
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    environ = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}
    environ.pop("PYTHONPATH", None)
    return subprocess.run((*pytest, *arguments), cwd=ROOT, env=environ).returncode


def main() -> int:
    """Runs the tests on the version that is named first."""
    version, *arguments = sys.argv[1:]
    if not (interpreter := find_python(version)):
        required = os.environ.get("KITAE_REQUIRE_PYTHON") == "1"
        word = "REQUIRED, BUT NOT" if required else "skipped, not"
        print(f"Python {version}: {word} on this machine", flush=True)
        return int(required)
    try:
        python = make_environment(version, interpreter)
        there = installed(python, ROOT)
    except Refused as error:
        print(f"Python {version}: {error}", file=sys.stderr, flush=True)
        return 1
    shown = ", ".join(f"{name} {there[name]}" for name in SHOWN)
    print(f"Python {version}: {interpreter}, {shown}", flush=True)
    return run_suite(python, *arguments)


if __name__ == "__main__":
    sys.exit(main())

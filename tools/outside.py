"""Runs the projects of integration_tests/outside, each as its users would have it.

    tools/hatch run dist:outside

Each is a pyproject, which pins one component, and a script. It is copied out of this
tree into an environment of its own, with the wheels of this tree to install from, and
prints what is installed. Of ours that must be the component and its declared siblings;
and a component that is light must have stayed so.
"""

import argparse
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from check_namespace import ROOT, Package, read_packages
from packaging.requirements import Requirement
from trials import (
    BYTE_CODE,
    Refused,
    build_wheel,
    install,
    named,
    new_environment,
    run,
)
from wheels import check_ours, check_same, needed

PROJECTS = ROOT / "integration_tests" / "outside"
# What a component must never bring.
FORBIDDEN = {"kitae-timesteps": {"flax", "gymnasium", "distrax"}}
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def check_installed(name: str, found: set[str], group: list[Package]) -> None:
    """Refuses what is installed for a component where it is too much or too little.

    Args:
        name: the component.
        found: the distributions of the environment.
        group: the component and the siblings that it declares.

    Raises:
        Refused: another distribution of ours, one less, or one that is too heavy.
    """
    check_ours(name, found, group)
    if heavy := found & FORBIDDEN.get(name, set()):
        raise Refused(f"{name} brings {', '.join(sorted(heavy))}")


def try_project(
    project: Path, packages: list[Package], wheels: dict[str, Path], folder: Path
) -> str:
    """Installs a project's requirements, runs it and checks what it depends on.

    Args:
        project: its folder.
        packages: all of the workspace.
        wheels: their wheels, by the package's name.
        folder: a folder outside the tree.

    Returns:
        The one component that it pins, and all that it depends on, in words.

    Raises:
        Refused: it pins not one of ours, or cannot be installed, or fails, or depends
            on what it should not.
    """
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    lines = map(Requirement, tomllib.loads(text)["project"]["dependencies"])
    ours = [line for line in lines if line.name in wheels]
    if [s.operator for line in ours for s in line.specifier] != ["=="]:
        raise Refused(f"it requires {list(map(str, ours))}, not one of ours, pinned")
    name = ours[0].name
    group = needed(named(packages, name), packages)
    copied = shutil.copytree(project, folder / project.name, dirs_exist_ok=True)
    python = new_environment(folder)
    links = [part for p in group for part in ("--find-links", wheels[p.name].parent)]
    install(python, *links, "-r", copied / "pyproject.toml", cwd=copied)
    cache = {"PYTHONPYCACHEPREFIX": folder / BYTE_CODE}
    printed = run(python, "-P", "main.py", cwd=copied, **cache).splitlines()[-1]
    check_installed(name, set(printed.lower().split()), group)
    site = Path(run(python, "-c", SITE, cwd=copied).strip())
    for package in group:
        check_same(site, wheels[package.name])
    return f"{ours[0]} and runs on {printed}"


def main() -> int:
    """Runs the projects from the command line."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    packages = read_packages(ROOT)
    start, current = time.perf_counter(), "outside"
    projects = sorted(path.parent for path in PROJECTS.glob("*/pyproject.toml"))
    try:
        with tempfile.TemporaryDirectory(prefix="kitae-outside-") as name:
            folder = Path(name)
            wheels = {p.name: build_wheel(p, folder / "wheels") for p in packages}
            for project in projects:
                current = project.name
                done = try_project(project, packages, wheels, folder)
                print(f"{current}: pins {done}", flush=True)
    except Refused as error:
        print(f"{current}: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    print(f"outside: {len(projects)} projects run, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

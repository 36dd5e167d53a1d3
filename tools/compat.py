"""Tries each released version of one component with this tree's version of the rest.

    tools/hatch run dist:compat [--only kitae-core]

For each tag `kitae-X-vN`: a new environment outside the tree is asked for that wheel
beside the wheels of this tree. REFUSED: they declare that they do not go together.
OK: they are installed, every module of them is imported, and two agents train alike by
both drivers. BROKEN: they are accepted together, and that fails. The run fails where
one is broken, and where there is no release to try.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from check_namespace import ROOT, Package, read_packages
from trials import (
    BYTE_CODE,
    Refused,
    build_wheel,
    install,
    install_tests,
    named,
    new_environment,
    releases,
    run,
    run_tests,
    tree_at,
)
from wheels import inspect, modules_of

# Prioritised n-step replay, distributions and noise; and an agent on policy.
QUICK = ("-k", "test_both_drivers and (rainbow or pqn)", "-m", "slow")
IMPORTS = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]"
UNSOLVABLE = "No solution found"


def attempt(packages: list[Package], wheels: dict[str, Path], folder: Path) -> str:
    """Installs wheels together and runs what is quick to tell.

    Args:
        packages: the packages, each as it was when its wheel was built.
        wheels: their wheels, by the package's name.
        folder: a folder outside the tree.

    Returns:
        The verdict and its reason, in words.
    """
    python = new_environment(folder)
    try:
        install(python, *wheels.values(), cwd=folder)
    except Refused as error:
        if UNSOLVABLE not in str(error):
            raise
        return "REFUSED"
    modules = [m for p in packages for m in modules_of(inspect(p, wheels[p.name]))]
    cache = {"PYTHONPYCACHEPREFIX": folder / BYTE_CODE}
    agents = named(packages, "kitae-algos")
    try:
        run(python, "-I", "-c", IMPORTS, *modules, cwd=folder, **cache)
        install_tests(python, agents.name, folder)
        return f"OK: {run_tests(python, agents, folder, *QUICK)}"
    except Refused as error:
        return f"BROKEN: {error}"


def main() -> int:
    """Runs the check from the command line."""
    packages = read_packages(ROOT)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[p.name for p in packages])
    only = parser.parse_args().only
    start, verdicts = time.perf_counter(), []
    tags = [
        (package, version, tag)
        for package in packages
        for version, tag in releases(package.name).items()
        if only in (None, package.name)
    ]
    if not tags:
        print("compat: there is no release to try: no tag kitae-*-v*")
        return 1
    with tempfile.TemporaryDirectory(prefix="kitae-compat-") as name:
        folder = Path(name)
        head = {p.name: build_wheel(p, folder / "HEAD") for p in packages}
        for package, version, tag in tags:
            old = named(read_packages(tree_at(tag, folder)), package.name)
            group = [old if other is package else other for other in packages]
            wheels = {**head, old.name: build_wheel(old, folder / "old")}
            verdict = attempt(group, wheels, folder)
            print(f"{package.name} {version} with HEAD: {verdict}", flush=True)
            verdicts.append(verdict)
    broken = sum(verdict.startswith("BROKEN") for verdict in verdicts)
    seconds = time.perf_counter() - start
    print(f"compat: {len(verdicts)} releases tried, {broken} broken, {seconds:.0f} s")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

"""Tests each package on the lowest versions of everything that it declares.

    tools/hatch run lowest:test [--only kitae-core] [pytest's arguments]

For each package: a new environment outside the tree gets its wheel, the lowest
versions that it and its siblings allow of what is not ours, and of each sibling the
lowest release that is allowed, or this tree's where there is none. Then its tests run
there, less the slow ones: with `-m "not learning"` these too. All packages are tried,
and one line each says on what they pass.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

from check_namespace import ROOT, Package, normalized, read_packages
from packaging.specifiers import SpecifierSet
from trials import (
    Refused,
    build_wheel,
    declared,
    install,
    install_tests,
    installed,
    named,
    needed_by_tests,
    new_environment,
    releases,
    run_tests,
    tree_at,
)
from wheels import needed


def lowest(name: str, group: list[Package], folder: Path) -> tuple[Package, str]:
    """A sibling in the lowest release that all of `group` allow, and what that is."""
    allowed = SpecifierSet()
    for requirement in itertools.chain(*map(declared, group)):
        if requirement.name == name:
            allowed &= requirement.specifier
    for version, tag in releases(name).items():
        if version in allowed:
            return named(read_packages(tree_at(tag, folder)), name), str(version)
    return named(group, name), "of HEAD, no release yet"


def check(package: Package, packages: list[Package], folder: Path, *args: str) -> str:
    """Runs a package's tests on its floors.

    Args:
        package: the package to try.
        packages: all of the workspace.
        folder: a folder outside the tree.
        *args: further arguments of pytest.

    Returns:
        On what it passes, in words.

    Raises:
        Refused: the floors cannot be installed together, or a test fails on them.
    """
    group = needed(package, packages)
    names = [other.name for other in group if other is not package]
    chosen = {name: lowest(name, group, folder) for name in names}
    chosen[package.name] = package, "HEAD"
    extras: dict[str, set[str]] = {}
    for r in (*needed_by_tests(package.name), *itertools.chain(*map(declared, group))):
        extras.setdefault(r.name, set()).update(r.extras)
    required = [
        r for n, (p, _) in chosen.items() for r in declared(p, extras.get(n, ()))
    ]
    others = [requirement for requirement in required if requirement.name not in chosen]
    wheels = {name: build_wheel(p, folder) for name, (p, _) in chosen.items()}
    python = new_environment(folder)
    # What a wheel requires would not be direct.
    direct = (*wheels.values(), *map(str, others))
    install(python, "--resolution", "lowest-direct", *direct, cwd=folder)
    there = installed(python, folder)
    theirs = dict.fromkeys(normalized(requirement.name) for requirement in others)
    shown = [f"{name} {there[name]}" for name in theirs]
    shown += [f"{name} {chosen[name][1]}" for name in names]
    text = ", ".join(shown)
    try:
        install_tests(python, package.name, folder)
        last = run_tests(python, package, folder, *args)
    except Refused as error:
        raise Refused(f"fails on {text}\n{error}") from error
    return f"passes on {text}: {last}"


def main() -> int:
    """Runs the check from the command line."""
    packages = read_packages(ROOT)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[p.name for p in packages])
    options, arguments = parser.parse_known_args()
    start, red = time.perf_counter(), []
    chosen = [p for p in packages if options.only in (None, p.name)]
    with tempfile.TemporaryDirectory(prefix="kitae-lowest-") as folder:
        for package in chosen:
            try:
                done = check(package, packages, Path(folder), *arguments)
                print(f"{package.name}: {done}", flush=True)
            except Refused as error:
                print(f"{package.name}: {error}", file=sys.stderr, flush=True)
                red.append(package.name)
    seconds = time.perf_counter() - start
    verdict = f"RED: {', '.join(red)}" if red else f"{len(chosen)} pass on their floors"
    print(f"lowest: {verdict}, {seconds:.0f} s")
    return int(bool(red))


if __name__ == "__main__":
    sys.exit(main())

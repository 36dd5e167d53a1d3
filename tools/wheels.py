"""Builds each package and proves that its wheel works alone, outside this tree.

    tools/hatch run dist:wheels [--only kitae-core] [--no-tests]

For each package: its sdist, and its wheel built from that sdist, go into `dist/`; the
wheel is opened and compared with the package's folder and pyproject; then a new
virtual environment outside the tree gets that wheel, with nothing of ours in reach
but the other wheels, imports every module of it, and runs the package's own tests,
less the slow ones. The first failure ends the run.
"""

import argparse
import email
import email.message
import json
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection
from pathlib import Path

from check_namespace import NAMESPACE, ROOT, Package, read_packages, siblings, sources
from packaging.requirements import Requirement
from trials import (
    BYTE_CODE,
    UV,
    Refused,
    install,
    install_tests,
    new_environment,
    run,
    run_tests,
    stem,
)

# Runs in the new environment. `-I` keeps PYTHONPATH and the current folder out of it.
PROBE = """
import importlib, json, sys, sysconfig
from importlib import metadata

name, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
for entry_point in metadata.distribution(name).entry_points:
    entry_point.load()
found = [distribution.metadata["Name"] for distribution in metadata.distributions()]
print(json.dumps([sysconfig.get_path("purelib"), found]))
"""

# What the page of a package on an index shows.
COMPLETE = (
    "description",
    "readme",
    "license",
    "license-files",
    "requires-python",
    "authors",
    "keywords",
    "classifiers",
)


def needed(package: Package, packages: list[Package]) -> list[Package]:
    """The part of `packages` that is installed with one of them, itself included."""
    names = {package.name}
    while True:
        group = [other for other in packages if other.name in names]
        wider = names.union(*(siblings(other, packages) for other in group))
        if wider == names:
            return group
        names = wider


def build(package: Package, dist: Path) -> Path:
    """Builds a package's sdist and, from that, its wheel; returns the wheel."""
    # What is left of an earlier build could be installed in place of this one.
    for old in dist.glob(f"{stem(package)}-*"):
        old.unlink()
    run(*UV, "build", "--quiet", "--out-dir", dist, package.path, cwd=package.path)
    built = sorted(dist.glob(f"{stem(package)}-*"), key=lambda path: path.suffix)
    if [path.suffix for path in built] != [".gz", ".whl"]:
        raise Refused(f"its build leaves {built}, not one sdist and one wheel")
    check_sdist(package, built[0])
    return built[1]


def check_sdist(package: Package, sdist: Path) -> None:
    """Refuses an sdist without the package's texts, its sources or its tests."""
    texts = ["pyproject.toml", "README.md", "CHANGELOG.md"]
    texts += package.pyproject["project"]["license-files"]
    expected = [package.path / name for name in texts]
    expected += [*sources(package.path / "src"), *sources(package.path / "tests")]
    root = f"{stem(package)}-{package.pyproject['project']['version']}"
    with tarfile.open(sdist) as archive:
        found = set(archive.getnames())
    shown = [path.relative_to(package.path).as_posix() for path in expected]
    if missing := [name for name in shown if f"{root}/{name}" not in found]:
        raise Refused(f"its sdist lacks {', '.join(missing)}")


def check_files(package: Package, found: set[str]) -> None:
    """Refuses a wheel whose files, less its metadata, are not the package's own."""
    src = package.path / "src"
    folders = [package.namespace / name for name in package.owned]
    paths = [path for folder in folders for path in sources(folder)]
    expected = {path.relative_to(src).as_posix() for path in paths}
    expected |= {f"{NAMESPACE}/{name}/py.typed" for name in package.owned}
    if foreign := sorted(found - expected):
        raise Refused(f"its wheel ships what is not its own: {', '.join(foreign)}")
    if missing := sorted(expected - found):
        raise Refused(f"its wheel lacks {', '.join(missing)}")


def expected_requirements(project: dict) -> set[Requirement]:
    """What a wheel's metadata must require, the extras included."""
    lines = list(project.get("dependencies", []))
    for extra, required in project.get("optional-dependencies", {}).items():
        for line in required:
            name, _, marker = line.partition(";")
            both = f"({marker}) and " if marker else ""
            lines.append(f"{name}; {both}extra == '{extra}'")
    return {Requirement(line) for line in lines}


def check_metadata(package: Package, metadata: email.message.Message) -> None:
    """Refuses a wheel's METADATA where it says something else than the pyproject."""
    project = package.pyproject["project"]
    readme = (package.path / project["readme"]).read_text(encoding="utf-8")
    required = {Requirement(line) for line in metadata.get_all("Requires-Dist") or []}
    if missing := [field for field in COMPLETE if not project.get(field)]:
        raise Refused(f"its pyproject has no {', '.join(missing)}")
    pairs = {
        "name": (metadata["Name"], package.name),
        "version": (metadata["Version"], project["version"]),
        "description": (metadata["Summary"], project["description"]),
        "requires-python": (metadata["Requires-Python"], project["requires-python"]),
        "classifiers": (metadata.get_all("Classifier"), project["classifiers"]),
        "license": (metadata["License-Expression"], project["license"]),
        "license-files": (metadata.get_all("License-File"), project["license-files"]),
        "readme": (str(metadata.get_payload()).strip(), readme.strip()),
    }
    for field, (found, expected) in pairs.items():
        if found != expected:
            raise Refused(f"its wheel's {field} is {found!r}, not {expected!r}")
    if wrong := required ^ expected_requirements(project):
        shown = ", ".join(sorted(str(requirement) for requirement in wrong))
        raise Refused(f"its wheel and its pyproject do not both require {shown}")


def inspect(package: Package, wheel: Path) -> list[str]:
    """Opens a wheel and compares it with the package that it was built from.

    Args:
        package: the package.
        wheel: its wheel.

    Returns:
        The files that it installs, less its metadata.

    Raises:
        Refused: a file too many or too few, or metadata that is not the pyproject's.
    """
    project = package.pyproject["project"]
    info = f"{stem(package)}-{project['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        files = [name for name in names if not name.startswith(f"{info}/")]
        check_files(package, set(files))
        licenses = {n: f"{info}/licenses/{n}" for n in project["license-files"]}
        for name in (f"{info}/METADATA", *licenses.values()):
            if name not in names:
                raise Refused(f"its wheel lacks {name}")
        metadata = email.message_from_string(
            archive.read(f"{info}/METADATA").decode("utf-8")
        )
        check_metadata(package, metadata)
        for name, stored in licenses.items():
            if archive.read(stored) != (package.path / name).read_bytes():
                raise Refused(f"its wheel's {stored} is not the package's {name}")
    return files


def check_disjoint(files: dict[str, list[str]]) -> None:
    """Refuses two wheels, given as what each package's installs, that share a file."""
    owner: dict[str, str] = {}
    for name, shipped in files.items():
        for file in shipped:
            if owner.setdefault(file, name) != name:
                raise Refused(f"{owner[file]} and {name} both ship {file}")


def modules_of(files: list[str]) -> list[str]:
    """The modules among a wheel's files, less the `__main__` that would run."""
    names = [file[:-3].replace("/", ".") for file in files if file.endswith(".py")]
    return sorted(n.removesuffix(".__init__") for n in names if "__main__" not in n)


def check_same(site: Path, wheel: Path) -> None:
    """Refuses an installation whose modules are not those of the wheel just built."""
    with zipfile.ZipFile(wheel) as archive:
        for file in archive.namelist():
            there, text = site / file, archive.read(file)
            same = there.is_file() and there.read_bytes() == text
            if file.startswith(f"{NAMESPACE}/") and not same:
                raise Refused(f"{file} was not installed from {wheel.name}")


def check_ours(name: str, found: Collection[str], group: list[Package]) -> None:
    """Refuses an environment that holds other packages of ours than a group."""
    ours = {other for other in found if other.startswith(NAMESPACE)}
    if ours != (wanted := {package.name for package in group}):
        raise Refused(f"{name} comes with {sorted(ours)} of ours, not {sorted(wanted)}")


def check_alone(
    package: Package,
    group: list[Package],
    wheels: dict[str, Path],
    folder: Path,
    tests: bool,
) -> str:
    """Installs a package's wheel in a new environment, imports and tests all of it.

    Args:
        package: the package to try.
        group: it and the siblings that it needs: what must be installed of ours.
        wheels: the wheels just built, by the package's name.
        folder: a folder outside the tree; a second package that is tried in the same
            one is spared the compiling of jax to byte code.
        tests: whether the package's tests are run there.

    Returns:
        What was done, in words.
    """
    wheel, python = wheels[package.name], new_environment(folder)
    install(python, "--find-links", wheel.parent, wheel, cwd=folder)
    modules = modules_of(inspect(package, wheel))
    options = ("-I", "-W", "error::ImportWarning")
    cache = ("-X", f"pycache_prefix={folder / BYTE_CODE}")
    probe = ("-c", PROBE, package.name, *modules)
    printed = run(python, *options, *cache, *probe, cwd=folder)
    site, found = json.loads(printed.splitlines()[-1])
    check_ours(package.name, found, group)
    for other in group:
        check_same(Path(site), wheels[other.name])
    beside = {other.name for other in group} - {package.name}
    shown = ", ".join(sorted(beside)) or "none"
    done = f"{len(modules)} modules imported; siblings installed: {shown}"
    if not tests:
        return done
    install_tests(python, package.name, folder)
    return f"{done}; {run_tests(python, package, folder)}"


def main() -> int:
    """Runs the build, the inspection and the installations from the command line."""
    packages = {package.name: package for package in read_packages(ROOT)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=packages, help="try this package alone")
    parser.add_argument("--no-tests", action="store_true", help="import it only")
    options = parser.parse_args()
    only = options.only
    everything = list(packages.values())
    chosen = [package for package in everything if only in (None, package.name)]
    groups = {package.name: needed(package, everything) for package in chosen}
    start, current = time.perf_counter(), ""
    wheels: dict[str, Path] = {}
    files: dict[str, list[str]] = {}
    try:
        for current in dict.fromkeys(p.name for g in groups.values() for p in g):
            wheels[current] = build(packages[current], ROOT / "dist")
            files[current] = inspect(packages[current], wheels[current])
        check_disjoint(files)
        with tempfile.TemporaryDirectory(prefix="kitae-wheels-") as folder:
            for current, group in groups.items():
                done = check_alone(
                    packages[current], group, wheels, Path(folder), not options.no_tests
                )
                print(f"{current}: {done}", flush=True)
    except Refused as error:
        print(f"{current}: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    print(f"wheels: {len(wheels)} built, {len(groups)} work alone, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Five packages, one namespace: what they own, ship, import and cost to import.

Building the wheels and trying each one outside this tree is a command of its own:
`tools/hatch run dist:wheels`.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
BIN = str(Path(sys.executable).parent)

# Where faults are planted in the copy of the packages.
CORE = "packages/kitae-core"
MODULES = "packages/kitae-modules"
TIMESTEPS = "packages/kitae-timesteps"
PLANTED = f"{CORE}/src/kitae/base/planted.py"


@pytest.fixture
def tree(tmp_path):
    """A copy of the packages that a test may break."""
    skipped = shutil.ignore_patterns("__pycache__", "tests")
    shutil.copytree(ROOT / "packages", tmp_path / "packages", ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def python(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# What check_namespace finds


def check_namespace(*arguments):
    # Without site-packages: the check must run before anything is installed.
    done = python("-I", "-S", TOOLS / "check_namespace.py", *arguments)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_the_packages_share_the_namespace():
    closing = "kitae: 5 packages own 9 names, none hides another"
    assert check_namespace() == (0, [closing])


SUBPACKAGE = {"__init__.py": "", "py.typed": ""}
HIDES = "hides what the other packages own: remove it"
OUTSIDE = "lies outside the folders of src/kitae"


@pytest.mark.parametrize(
    "files, findings",
    [
        (
            {f"{CORE}/src/kitae/__init__.py": ""},
            [f"{CORE}/src/kitae/__init__.py: {HIDES}"],
        ),
        (
            {f"{TIMESTEPS}/src/kitae/__init__.pyi": ""},
            [f"{TIMESTEPS}/src/kitae/__init__.pyi: {HIDES}"],
        ),
        (
            {f"{CORE}/src/kitae/loose.py": ""},
            [f"{CORE}/src/kitae/loose.py: {OUTSIDE}"],
        ),
        (
            {f"{CORE}/src/other/deep/loose.py": ""},
            [f"{CORE}/src/other/deep/loose.py: {OUTSIDE}"],
        ),
        (
            {f"{MODULES}/src/kitae/extra/{name}": "" for name in SUBPACKAGE},
            [f"{MODULES}/src/kitae/extra: is not in the wheel's only-include"],
        ),
        (
            {f"{MODULES}/src/kitae/types/{name}": "" for name in SUBPACKAGE},
            [
                f"{MODULES}/src/kitae/types: is owned by kitae-core too",
                f"{MODULES}/src/kitae/types: is not in the wheel's only-include",
            ],
        ),
        (
            {PLANTED: "import kitae.nothing\n"},
            [f"{PLANTED}: line 1: no package owns kitae.nothing"],
        ),
        (
            {PLANTED: "x = 1\ny = = 2\n"},
            [f"{PLANTED}: cannot be read: invalid syntax, line 2"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_file_that_breaks_the_namespace_is_found(tree, files, findings):
    write(tree, files)
    assert check_namespace(tree) == (1, findings)


@pytest.mark.parametrize(
    "statement, line",
    [
        ("import kitae.timesteps", 1),
        ("import os, kitae.timesteps.td as td", 1),
        ("from kitae.timesteps.td import anything", 1),
        ("from kitae import config, timesteps", 1),
        ("from .. import timesteps", 1),
        ("from ..timesteps import anything", 1),
        ("def late():\n    import kitae.timesteps", 2),
        ("if TYPE_CHECKING:\n    import kitae.timesteps", 2),
    ],
)
def test_an_undeclared_sibling_import_is_found(tree, statement, line):
    write(tree, {PLANTED: f"{statement}\n"})
    text = "imports kitae.timesteps, but kitae-timesteps is not declared"
    assert check_namespace(tree) == (1, [f"{PLANTED}: line {line}: {text}"])


@pytest.mark.parametrize(
    "statement",
    [
        "from . import host",
        "from .. import config, types",
        "from ..buffer import Experience",
        "import kitae",
        "import timesteps.kitae.modules",
        "'''>>> import kitae.timesteps'''",
    ],
)
def test_own_and_declared_imports_are_no_finding(tree, statement):
    write(tree, {PLANTED: f"{statement}\n"})
    assert check_namespace(tree)[0] == 0


def test_a_declared_sibling_that_is_never_imported_is_found(tree):
    pyproject = tree / TIMESTEPS / "pyproject.toml"
    replace(pyproject, '"jax>=0.7",', '"jax>=0.7", "Kitae_Modules>=0.1,<1",')
    text = "declares kitae-modules, never imported"
    assert check_namespace(tree) == (1, [f"{TIMESTEPS}/pyproject.toml: {text}"])


def test_a_folder_that_the_wheel_names_and_nobody_wrote_is_found(tree):
    pyproject = tree / TIMESTEPS / "pyproject.toml"
    replace(pyproject, '["src/kitae/', '["src/kitae/gone", "src/kitae/')
    text = "only-include names src/kitae/gone: none such"
    assert check_namespace(tree) == (1, [f"{TIMESTEPS}/pyproject.toml: {text}"])


@pytest.mark.parametrize("name", ["py.typed", "__init__.py"])
def test_a_subpackage_without_what_each_needs_is_found(tree, name):
    (tree / CORE / "src/kitae/types" / name).unlink()
    finding = f"{CORE}/src/kitae/types/{name}: is missing"
    assert check_namespace(tree) == (1, [finding])


def test_byte_code_left_of_a_removed_subpackage_is_no_finding(tree):
    write(tree, {f"{CORE}/src/kitae/gone/__pycache__/gone.cpython-311.pyc": ""})
    assert check_namespace(tree)[0] == 0


def test_a_root_without_packages_does_not_pass(tmp_path):
    finding = f"packages: no packages under {tmp_path}"
    assert check_namespace(tmp_path) == (1, [finding])


# What the layers allow

LINTED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
N_CONTRACTS = len(LINTED["importlinter"]["contracts"])


def lint_imports(root):
    program = shutil.which("lint-imports", path=BIN)
    if program is None:
        pytest.skip("import-linter is not installed")
    sources = sorted(str(path) for path in root.glob("packages/*/src"))
    return subprocess.run(
        [program, "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sources)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_layers_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {N_CONTRACTS} kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    "importer, target, broken",
    [
        ("kitae-core/src/kitae/base", "kitae.algos", 2),
        ("kitae-core/src/kitae/base", "kitae.runs", 1),
        ("kitae-core/src/kitae/config", "kitae.envs", 1),
        ("kitae-core/src/kitae/types", "kitae.timesteps", 1),
        ("kitae-modules/src/kitae/modules", "kitae.buffer", 1),
        ("kitae-timesteps/src/kitae/timesteps", "kitae.config", 1),
        ("kitae-buffers/src/kitae/buffer", "kitae.types", 2),
        ("kitae-core/src/kitae/base/rundir", "kitae.base.agents", 1),
        ("kitae-core/src/kitae/base/training", "kitae.base.agents", 1),
        ("kitae-core/src/kitae/runs", "kitae.base.training", 1),
        ("kitae-algos/src/kitae/algos/cli", "kitae.base.recording", 1),
    ],
)
def test_an_upward_import_breaks_a_layer(tree, importer, target, broken):
    write(tree, {f"packages/{importer}/planted.py": f"import {target}\n"})
    done = lint_imports(tree)
    assert done.returncode == 1
    assert f"Contracts: {N_CONTRACTS - broken} kept, {broken} broken." in done.stdout
    module = importer.split("/src/")[1].replace("/", ".")
    assert f"{module}.planted -> {target}" in done.stdout


# What a wheel may ship

PYPROJECT = """
[project]
name = "kitae-left"
version = "0.3.0"
description = "λ on the left."
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = ">=3.11"
authors = [{ name = "The authors" }]
keywords = ["left"]
classifiers = ["Typing :: Typed"]
dependencies = ["kitae-right>=0.1,<1", "jax>=0.7"]
[project.optional-dependencies]
video = ["moviepy>=2", "uvloop; os_name == 'nt' or os_name == 'os2'"]
"""
METADATA = """Metadata-Version: 2.4
Name: kitae-left
Version: 0.3.0
Summary: λ on the left.
Requires-Python: >=3.11
Classifier: Typing :: Typed
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Dist: jax>=0.7
Requires-Dist: kitae-right<1,>=0.1
Provides-Extra: video
Requires-Dist: moviepy>=2; extra == 'video'
Requires-Dist: uvloop; (os_name == 'nt' or os_name == 'os2') and extra == 'video'

# λ
"""
INFO = "kitae_left-0.3.0.dist-info"
SHIPPED = {
    "kitae/left/__init__.py": "",
    "kitae/left/py.typed": "",
    "kitae/left/deep/part.py": "x = 1",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/WHEEL": "",
    f"{INFO}/RECORD": "",
    f"{INFO}/licenses/LICENSE": "Do as you like.",
}


@pytest.fixture(scope="module")
def wheels():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield importlib.import_module("wheels")


@pytest.fixture
def left(wheels, tmp_path):
    folder = tmp_path / "packages" / "kitae-left"
    owned = {f"src/{name}": text for name, text in SHIPPED.items() if INFO not in name}
    texts = {"pyproject.toml": PYPROJECT, "README.md": "# λ\n", **owned}
    write(folder, {**texts, "LICENSE": "Do as you like."})
    return wheels.read_packages(tmp_path)[0]


def wheel(folder, files):
    path = folder / "kitae_left-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_wheel_that_is_the_package_passes(wheels, left, tmp_path):
    files = wheels.inspect(left, wheel(tmp_path, SHIPPED))
    assert files == [
        "kitae/left/__init__.py",
        "kitae/left/py.typed",
        "kitae/left/deep/part.py",
    ]
    assert wheels.modules_of(files) == ["kitae.left", "kitae.left.deep.part"]


@pytest.mark.parametrize(
    "name",
    ["kitae/right/part.py", "kitae/__init__.py", "left/__init__.py", "tests/test_a.py"],
)
def test_a_wheel_with_a_file_that_is_not_its_own_is_refused(
    wheels, left, tmp_path, name
):
    with pytest.raises(wheels.Refused, match=f"ships what is not its own: {name}$"):
        wheels.inspect(left, wheel(tmp_path, {**SHIPPED, name: ""}))


@pytest.mark.parametrize("name", [n for n in SHIPPED if "RECORD" not in n][:4])
def test_a_wheel_that_lacks_a_file_is_refused(wheels, left, tmp_path, name):
    files = {other: text for other, text in SHIPPED.items() if other != name}
    with pytest.raises(wheels.Refused, match=f"its wheel lacks {name}$"):
        wheels.inspect(left, wheel(tmp_path, files))


def test_a_wheel_without_the_licence_or_with_another_is_refused(wheels, left, tmp_path):
    name = f"{INFO}/licenses/LICENSE"
    files = {other: text for other, text in SHIPPED.items() if other != name}
    with pytest.raises(wheels.Refused, match=f"its wheel lacks {name}$"):
        wheels.inspect(left, wheel(tmp_path, files))
    with pytest.raises(wheels.Refused, match=f"{name} is not the package's LICENSE"):
        wheels.inspect(left, wheel(tmp_path, {**files, name: "Do not."}))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Version: 0.3.0", "Version: 0.2.0", "version is '0.2.0', not '0.3.0'"),
        ("Name: kitae-left", "Name: kitae-right", "name is 'kitae-right'"),
        ("Summary: λ", "Summary: μ", "description is 'μ on the left.'"),
        ("Requires-Python: >=3.11\n", "", "requires-python is None"),
        ("Typing :: Typed", "Topic :: None", r"classifiers is \['Topic :: None'\]"),
        ("License-Expression: Apache-2.0\n", "", "license is None"),
        ("License-File: LICENSE\n", "", "license-files is None"),
        ("# λ", "", "readme is '', not '# λ'"),
        ("kitae-right<1,>=0.1", "kitae-right>=0.1", "both require kitae-right<1,>=0.1"),
        ("Requires-Dist: jax>=0.7\n", "", "both require jax>=0.7$"),
        ("; extra == 'video'", "", "both require moviepy>=2"),
        ("Provides-Extra: video", "Requires-Dist: chex", "both require chex$"),
    ],
)
def test_a_wheel_with_other_metadata_is_refused(
    wheels, left, tmp_path, old, new, message
):
    changed = METADATA.replace(old, new, 1)
    assert changed != METADATA
    files = {**SHIPPED, f"{INFO}/METADATA": changed}
    with pytest.raises(wheels.Refused, match=message):
        wheels.inspect(left, wheel(tmp_path, files))


@pytest.mark.parametrize("field", ["description", "keywords", "authors"])
def test_a_package_without_what_its_page_shows_is_refused(
    wheels, left, tmp_path, field
):
    left.pyproject["project"].pop(field)
    with pytest.raises(wheels.Refused, match=f"its pyproject has no {field}$"):
        wheels.inspect(left, wheel(tmp_path, SHIPPED))


SDIST = ["pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "tests/test_left.py"]
SDIST += [f"src/{name}" for name in SHIPPED if INFO not in name]


def sdist(folder, left, names):
    path = folder / "kitae_left-0.3.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.add(left.path / name, f"kitae_left-0.3.0/{name}")
    return path


@pytest.mark.parametrize("lacking", [None, *SDIST])
def test_an_sdist_has_the_texts_the_sources_and_the_tests(
    wheels, left, tmp_path, lacking
):
    write(left.path, {"CHANGELOG.md": "", "tests/test_left.py": ""})
    built = sdist(tmp_path, left, [name for name in SDIST if name != lacking])
    if lacking is None:
        wheels.check_sdist(left, built)
    else:
        with pytest.raises(wheels.Refused, match=f"its sdist lacks {lacking}$"):
            wheels.check_sdist(left, built)


def test_two_wheels_that_share_a_file_are_refused(wheels):
    files = {"kitae-left": ["kitae/a.py"], "kitae-right": ["kitae/b.py"]}
    wheels.check_disjoint(files)
    files["kitae-right"].append("kitae/a.py")
    with pytest.raises(wheels.Refused, match="kitae-left and kitae-right both ship"):
        wheels.check_disjoint(files)


@pytest.mark.parametrize("installed", [None, "x = 2"])
def test_an_installation_from_elsewhere_is_refused(wheels, tmp_path, installed):
    built = wheel(tmp_path, SHIPPED)
    site = tmp_path / "site"
    write(site, {name: text for name, text in SHIPPED.items() if INFO not in name})
    wheels.check_same(site, built)
    part = "kitae/left/deep/part.py"
    (site / part).unlink()
    if installed is not None:
        write(site, {part: installed})
    with pytest.raises(wheels.Refused, match=f"{part} was not installed from"):
        wheels.check_same(site, built)


def test_what_is_installed_together_follows_the_declared_siblings(wheels):
    packages = wheels.read_packages(ROOT)
    together = {
        package.name: [other.name for other in wheels.needed(package, packages)]
        for package in packages
    }
    assert together == {
        "kitae-algos": [package.name for package in packages],
        "kitae-buffers": ["kitae-buffers"],
        "kitae-core": ["kitae-buffers", "kitae-core"],
        "kitae-modules": ["kitae-modules"],
        "kitae-timesteps": ["kitae-timesteps"],
    }


def test_the_pythons_that_packages_name_are_tested(wheels):
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tested = root["tool"]["hatch"]["envs"]["pythons"]["matrix"][0]["version"]
    for package in wheels.read_packages(ROOT):
        project = package.pyproject["project"]
        named = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
        # The last ones that are tested may not be named yet.
        assert len(named) >= 2, package.name
        assert named == tested[: len(named)], package.name
        assert project["requires-python"] == f">={tested[0]}"


# What an import costs


def test_importing_the_targets_costs_little_more_than_jax():
    code = (
        "import time, jax; start = time.perf_counter(); import kitae.timesteps;"
        "print(time.perf_counter() - start)"
    )
    # Other work on the machine can only make it slower: one of three is enough.
    assert any(float(python("-c", code).stdout) <= 0.1 for _ in range(3))


def test_importing_agents_and_runs_loads_nothing_that_they_may_not_need():
    code = "import json, sys, kitae.runs; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(python("-c", code).stdout)}
    assert {"kitae", "jax"} <= loaded
    heavy = {"distrax", "tensorflow_probability", "flax", "orbax", "tensorboardX"}
    heavy |= {"matplotlib", "jinja2"}
    assert loaded & heavy == set()

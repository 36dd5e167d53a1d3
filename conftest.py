"""What every test of this repository runs with."""

import contextlib
import gc
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

# What a test computes takes a moment, what XLA would optimise of it most of a minute.
# Set before JAX is imported, and for the processes that tests start.
os.environ.setdefault(
    "XLA_FLAGS",
    # A test is one core's work: to divide a program among threads is in vain.
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        if Version(version("jaxlib")).release < (0, 11, 1)
        else ""  # no later one knows that flag, and one that is unknown ends a process
    ),
)

# A process that a test starts would compile JAX's and our modules again: two seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault(
    "PYTHONPYCACHEPREFIX", str(Path(__file__).parent / ".pytest_cache" / "pyc")
)

import jax
import pytest

# Most of a small test's time is XLA compiling what another test, or the last run of
# the suite, has compiled before.
CACHE = os.environ.get(
    "KITAE_TEST_CACHE", Path(__file__).parent / ".pytest_cache" / "jax"
)
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
jax.config.update(
    "jax_compilation_cache_dir",
    # One for each process that runs tests, so that none reads what another writes.
    str(Path(CACHE) / WORKER),
)
# One of XLA's own would make the path part of what a program is found by.
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
# Which line of Python an operation came from takes a tenth of the time to write down.
jax.config.update("jax_traceback_in_locations_limit", 0)
jax.config.update("jax_include_full_tracebacks_in_locations", False)

# In a shell's background, or under nohup, these are ignored, also by the processes that
# tests start: and what is ignored stays ignored.
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        is_ctrl_c = name == "SIGINT"
        signal.signal(
            number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL
        )


@pytest.fixture(scope="session", autouse=True)
def _processes_share_what_they_compiled(tmp_path_factory):
    """One cache for all processes that a worker's tests start, anew in each run.

    A process that is killed may leave half an entry, of which later ones would warn.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "compiled"
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
        yield


@pytest.fixture
def tricks_on(monkeypatch):
    """For a test of a speed trick, where the suite runs with `KITAE_XLA=off`."""
    monkeypatch.delenv("KITAE_XLA", raising=False)


# Seconds between two looks at what the other workers have compiled.
LOOK_EVERY = 5.0
looked_at, taken = 0.0, set()


@pytest.fixture(autouse=True)
def _what_others_compiled_is_not_compiled_again():
    """Links their files, which never change, once they are surely whole."""
    global looked_at
    yield
    now = time.time()
    if now - looked_at < LOOK_EVERY:
        return
    looked_at, mine = now, Path(CACHE) / WORKER
    mine.mkdir(parents=True, exist_ok=True)
    others = [folder for folder in Path(CACHE).glob("gw*") if folder.name.isalnum()]
    for folder in others:
        for entry in os.scandir(folder) if folder != mine else ():
            if entry.name in taken or now - entry.stat().st_mtime < LOOK_EVERY:
                continue
            taken.add(entry.name)
            # It may be here already, or the disk may have no links.
            with contextlib.suppress(OSError):
                os.link(entry.path, mine / entry.name)


# JAX keeps all that it has compiled: over the suite several GB in each process.
KEPT_BYTES = 600_000_000
resident_at_first = 0


def resident():
    """The bytes that this process has in memory; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def _compiled_programs_are_dropped():
    """Between tests, and not after each: the next ones use many of them."""
    global resident_at_first
    resident_at_first = resident_at_first or resident()
    yield
    if resident() - resident_at_first > KEPT_BYTES:
        jax.clear_caches()
        gc.collect()
        resident_at_first = resident()

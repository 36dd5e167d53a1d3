"""Runs the integration tests on one backend, or says that it has no device here.

    tools/hatch run integration:test

The environment of each backend sets what makes JAX use it. Without a device the run is
skipped by one line, unless `KITAE_REQUIRE_BACKEND=1` says that this is a failure. The
packages for `cuda12` and `tpu` are only installed with `KITAE_ACCEL` set to that.
"""

import os
import subprocess
import sys

from check_namespace import ROOT

# What JAX calls each backend's platform, and how many devices are the least.
BACKENDS = {
    "cpu": ("cpu", 1),
    "cpu8": ("cpu", 8),
    "cuda12": ("gpu", 1),
    "tpu": ("tpu", 1),
}
# What crosses packages. Every agent from end to end is tested where the agents are.
TUTORIAL = "integration_tests/test_tutorial.py"
FAMILY = "packages/kitae-algos/tests/test_family.py"
RESUMING = "integration_tests/test_resume.py"
# Forces eight devices in processes of its own, whatever there are here.
SHARDING = "integration_tests/test_devices.py"
TESTS_OF = {
    # What more devices can change: not what an agent is told, nor how a process ends.
    "cpu8": (
        TUTORIAL,
        SHARDING,
        f"{FAMILY}::test_both_drivers_and_seeds_side_by_side_give_the_same_run",
        f"{RESUMING}::test_half_and_half_in_two_processes_is_the_whole[dqn-compiled]",
    ),
}
# In a process of its own: pytest must find JAX untouched, and the device free.
PROBE = "import jax; print(jax.default_backend(), jax.device_count())"


def missing(backend: str) -> str:
    """Why the backend cannot be used here, or an empty string."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["JAX does not start"])[-1]
    platform, count = done.stdout.split()[-2:]
    wanted, least = BACKENDS[backend]
    if platform == wanted and int(count) >= least:
        return ""
    return f"JAX finds {count} of {platform}, not {least} of {wanted}"


def main() -> int:
    """Runs the tests; further arguments are pytest's."""
    backend, *arguments = sys.argv[1:]
    if reason := missing(backend):
        required = os.environ.get("KITAE_REQUIRE_BACKEND") == "1"
        word = "REQUIRED, BUT MISSING" if required else "skipped, no device here"
        print(f"integration on {backend}: {word}: {reason}", flush=True)
        return int(required)
    print(f"integration on {backend}", flush=True)
    # An accelerator is not shared between processes.
    workers = ("-n", "logical", "--dist", "worksteal") if "cpu" in backend else ()
    tests = TESTS_OF.get(backend, (TUTORIAL, FAMILY, RESUMING))
    command = (sys.executable, "-m", "pytest", *workers, *tests, *arguments)
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

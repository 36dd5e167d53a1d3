"""The cases of test_fuzz.py, in a process that has run no other test."""

import subprocess
import sys


def test_damaged_files_give_our_own_errors_and_take_little_memory(root):
    path = root / "integration_tests" / "test_fuzz.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "fuzz", str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout

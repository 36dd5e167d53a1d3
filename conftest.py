"""What every test of this repository runs with."""

from pathlib import Path

import jax

# Most of a small test's time is XLA compiling what another test, or the last run of
# the suite, has compiled before.
jax.config.update(
    "jax_compilation_cache_dir", str(Path(__file__).parent / ".pytest_cache" / "jax")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

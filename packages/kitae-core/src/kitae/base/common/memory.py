"""How much memory there is, before it is asked for."""

from pathlib import Path

import jax
import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Returns the bytes that new arrays may take where JAX puts them."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return host_bytes()


def host_bytes() -> int:
    """Returns the bytes available on the host, within a container's limit."""
    available = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = (CGROUP / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such limit
        return available
    # What files are cached in is given back when it is needed.
    cached = int(stat[stat.index("inactive_file") + 1])
    return min(available, limit - used + cached)


def readable(n_bytes: float) -> str:
    """Writes a number of bytes for people.

    Example:
        >>> readable(7_056_000_000)
        '7.1 GB'
    """
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1_000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1_000
    return f"{n_bytes:,.1f} GB"

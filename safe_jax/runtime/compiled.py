"""The cache of compiled programs: what one process compiled, the next reads from the disk."""

import os
import pathlib

import jax


def keep_in(folder: pathlib.Path) -> None:
    """Keeps compiled programs in a folder, unless the environment names another.

    Several processes may share it. Where it cannot be written to, JAX warns and goes on.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs take long as well: tracing aside, a tenth of a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

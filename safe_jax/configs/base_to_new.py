"""The eleven data sets of the benchmark, tuned on half of their classes and evaluated on both.

    safe-jax run --config base_to_new --config.data_root=DATA

CoCoOp's protocol (arXiv 2203.05557), 16 shots, seeds 1 to 3: rows and tables have the accuracy on
the base classes, on the new ones, and the harmonic mean of the two. The methods are those that have
an answer for new classes; docs/protocols.md has what was measured, and why no published figure
stands beside it. One data set: --config.dataset=caltech101.
"""

from ml_collections import ConfigDict

from safe_jax.configs import benchmark


def get_config() -> ConfigDict:
    config = benchmark.get_config()
    config.protocol = "base_to_new"
    config.methods = ("zero_shot", "safe", "clip_adapter", "prolip")
    return config

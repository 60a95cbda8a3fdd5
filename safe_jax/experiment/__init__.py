"""One run of a config, top to bottom: subsets, methods on each subset, rows of results.
`run.run` does it; `knobs.py` declares every knob; `results.py` declares a row and loads no JAX, so
that a report can read it.
"""

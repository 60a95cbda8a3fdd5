"""One run of a config, top to bottom: subsets, methods, rows of results.
Gives `run.run`; `results.py` holds what a row is and loads no JAX.
"""

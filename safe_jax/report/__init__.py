"""What a run found: a table for the terminal, and a page that stands by itself.

python -m safe_jax.report DIR [DIR ...] [--output FILE]

The page is made of the files in the directories alone: no model, no data set, no network.
"""

from safe_jax.report.page import write
from safe_jax.report.summary import table, tables

__all__ = ["table", "tables", "write"]

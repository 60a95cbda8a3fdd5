"""`python -m safe_jax COMMAND`, the same as `safe-jax COMMAND`."""

import sys

from safe_jax import commands

if __name__ == "__main__":
    sys.exit(commands.main())

"""The program `edged`, also as `python -m edged`: prepares the process, then runs the command."""

import gc
import os
import sys


def main() -> int:
    """Run the command that the arguments name; the exit code as `edged.cli.main`."""
    # numpy's BLAS starts a thread for every core when it is imported. edged multiplies no
    # matrices: the threads would only spin a while at every start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What modules make stays: looking through it for garbage takes a tenth of a start. The daemon
    # switches the collector on when it begins to serve, what is short-lived does without.
    gc.disable()
    from edged.cli import main as command  # noqa: PLC0415 - after the environment is set

    return command()


if __name__ == "__main__":
    sys.exit(main())

"""The processes that a launcher has started together. Importing this file does not import MindSpore."""

import os


def num_processes() -> int:
    """Number of processes that msrun or Open MPI's mpirun has started together; 1 without them."""
    return int(os.environ.get("MS_WORKER_NUM") or os.environ.get("OMPI_COMM_WORLD_SIZE") or 1)

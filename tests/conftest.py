"""Shared by all tests."""

import os

# Before numpy is loaded: several test processes with several threads each only get in each other's way.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

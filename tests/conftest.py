"""One thread a process: tests run in parallel, and several processes' thread pools on the same cores stall."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

"""The command ``t2ilayers``: one file per subcommand, each of which is imported when it is asked for.

Threads on a CPU are told how to wait before anything here loads torch, which reads it once.
"""

from ._openmp import settle

settle()

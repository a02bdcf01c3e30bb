"""Processes that compute together, as torchrun starts them."""

import multiprocessing

import torch.multiprocessing as mp

# Torch is loaded once, by a server that the processes are forked from, instead of for seconds by each of them.
multiprocessing.set_forkserver_preload(["torch.distributed", "t2ilayers.models", "t2ilayers.training"])


def run_together(function, *arguments, count):
    """``function(rank, *arguments)`` in each of ``count`` processes; raises what one of them raised."""
    mp.start_processes(function, arguments, nprocs=count, start_method="forkserver")

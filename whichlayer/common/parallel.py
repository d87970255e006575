"""Tasks worked on side by side, in processes that have one thread each.

Products of small matrices gain next to nothing from a second thread, and threads of one Python
process wait for each other's turn; processes do not. They are forked, so they take nothing to
begin, and what a task works with need not be sent.
"""

import ctypes
import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from whichlayer.common import cli

# they wait while processes are forked, until these have handlers of their own
STOPS = (signal.SIGINT, signal.SIGTERM)
# processes at a time, whatever the machine: each takes memory
MOST = 16
# Linux's prctl: which signal this process gets when the one that forked it has ended
PR_SET_PDEATHSIG = 1
# in such a process: what it does with a task, which cannot be sent
WORK = {}


def is_possible():
    """Whether this system forks processes that have used numpy and torch, and there are processors
    for several. Others than Linux do, but some of their libraries do not bear it.
    """
    return sys.platform == "linux" and torch.get_num_threads() > 1


def each(work, tasks):
    """Yield work(task) for each of a list of tasks, in the order in which they end; as many at a
    time as there are threads, MOST at most.

    What work gives is numpy arrays, dataclasses and the like; what it raises is raised here.
    Whatever ends this, no process stays behind.
    """
    if not tasks:
        return
    at_once = min(torch.get_num_threads(), MOST, len(tasks))
    pool = ProcessPoolExecutor(at_once, multiprocessing.get_context("fork"), begin, (work,))
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        # the first one forks the processes; no list of what has come is kept
        outcomes = as_completed([pool.submit(work_on, task) for task in tasks])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
    processes = multiprocessing.active_children()
    try:
        for outcome in outcomes:
            yield outcome.result()
    except BrokenProcessPool:
        raise MemoryError("a process was ended from outside") from None
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)


def begin(work):
    """Make a process ready that was forked to work on tasks."""
    # Ctrl-C reaches all of a terminal's processes: the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    # nor does it outlive the first one, whose locks it has inherited
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    cli.STATE["quiet"] = True
    torch.set_num_threads(1)
    WORK["on"] = work


def work_on(task):
    """What a process does with a task."""
    return WORK["on"](task)

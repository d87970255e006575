"""Tasks worked on side by side, each in a process of its own that has one thread.

Products of small matrices gain next to nothing from a second thread, and threads of one Python
process wait for each other's turn; processes do not. They are forked, so a task takes nothing to
begin, and only what it gives is sent back.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys

import torch

from whichlayer.common import cli

# they wait while a process is forked, until it has handlers of its own
STOPS = (signal.SIGINT, signal.SIGTERM)
# open files of a process are fewer than this
FILES = 4096
# processes at a time, whatever the machine: each takes memory
MOST = 16


def is_possible():
    """Whether this system forks processes that have used numpy and torch, and there are processors
    for several. Others than Linux do, but some of their libraries do not bear it.
    """
    return sys.platform == "linux" and torch.get_num_threads() > 1


def each(work, tasks):
    """Yield work(task) for each task, in the order in which they end; as many at a time as there
    are threads, MOST at most.

    What work gives is numpy arrays, dataclasses and the like; what it raises is raised here.
    Whatever ends this, no process stays behind.
    """
    at_once = min(torch.get_num_threads(), MOST)
    waiting = collections.deque(tasks)
    running = {}  # see start
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running |= start(work, waiting.popleft())
            for pipe in multiprocessing.connection.wait(list(running)):
                yield receive(pipe, running.pop(pipe))
    finally:
        for process in running.values():
            process.kill()
            process.join()


def start(work, task):
    """Fork a process for a task: {our end of a pipe, which gives what work gives: the process}."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(work, task, theirs), daemon=True)
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        theirs.close()
    return {ours: process}


def child(work, task, pipe):
    """What a process does: send what work(task) gives or raises."""
    # Ctrl-C reaches all of a terminal's processes: the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    # nor may locks and pipes stay open here when the first one is gone
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, FILES)
    cli.STATE["quiet"] = True
    torch.set_num_threads(1)
    try:
        outcome = work(task)
    except Exception as error:
        outcome = error
    # nobody is there to read it
    with contextlib.suppress(BrokenPipeError):
        pipe.send(outcome)


def receive(pipe, process):
    """What a process gave; what it raised is raised."""
    try:
        outcome = pipe.recv()
    except EOFError:
        process.join()
        ended = f"a process was ended from outside, with code {process.exitcode}"
        raise MemoryError(ended) from None
    pipe.close()
    process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome

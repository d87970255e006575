"""Windows of titles that processes share and record, so that a killed job goes on.

torchrun says how many processes there are. Each takes its share of the windows that are left and
records a window in its own done-*.log once all of it is on the disk; so the logs of all processes,
also of those of an earlier call, say what is done.
"""

import contextlib
import datetime
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor

from whichlayer.common import cli, disk

# titles worked on, written and recorded together
WINDOW = 4096
# of all processes, and which of them this is
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def meeting():
    """Have all processes meet, if there are several, and part at the end; all but the first are
    quiet.
    """
    if RANK > 0:
        cli.STATE["quiet"] = True
    # who dies is noticed at once; who is slow, or lays out huge files, is waited for
    together("init_process_group", "gloo", timeout=datetime.timedelta(days=30))
    try:
        yield
    finally:
        together("destroy_process_group")


def wait():
    """Wait until all processes are here."""
    together("barrier")


def from_first(value):
    """What the first process gives, in all of them."""
    shared = [value]
    together("broadcast_object_list", shared, src=0)
    return shared[0]


def together(name, *args, **options):
    """Call a function of torch.distributed, which needs all processes, if there are several; where
    another has ended, end this one, too.
    """
    if WORLD == 1:
        return
    # takes a second, which one process alone need not wait
    import torch.distributed as dist

    try:
        getattr(dist, name)(*args, **options)
    except (ValueError, RuntimeError):
        raise cli.Problem(
            f"of {WORLD} processes, some are not there; if one has ended, its message says why; torchrun starts all"
        ) from None


# --- records --------------------------------------------------------------------------------------


def log_of(folder):
    """The open log of this process in the folder of a job."""
    return open(folder / f"done-{RANK:05d}.log", "a")


def record(log, window, *values):
    """Record that a window is on the disk, with what is to be known of it: words without spaces."""
    # a full stop ends a record that was not torn by a crash
    log.write(f"\n{' '.join(map(str, (window, *values)))}.")
    disk.flush(log)


def recorded(folder):
    """What all processes have recorded, {number of the window: its values, list of str}."""
    found = {}
    for log in folder.glob("done-*.log"):
        text = log.read_text(errors="replace")
        for line in re.findall(r"^(\d+(?: \w+)*)\.", text, re.MULTILINE):
            window, *values = line.split()
            found[int(window)] = values
    return found


# --- sharing and making ready ----------------------------------------------------------------------


def batches_of(items, size):
    """Yield (number, list of at most `size` items) for an iterable."""
    left = iter(items)
    # an empty one ends them
    yield from enumerate(iter(lambda: list(itertools.islice(left, size)), []))


def own(items, done):
    """Yield (number, list of items) of the windows that this process is to work on.

    items: all; done: the numbers of those that were recorded before. They are shared by their
    number, as a process that starts late may find others recorded already.
    """
    for number, window in batches_of(items, WINDOW):
        if number % WORLD == RANK and number not in done:
            yield number, window


def ahead(prepare, windows):
    """Yield (key, prepare(titles)) for each (key, titles) in windows.

    A window waits until the next one is there and can be prepared beside it.
    """
    with ThreadPoolExecutor(1) as thread:
        begun = ((key, thread.submit(prepare, titles)) for key, titles in windows)
        for (key, prepared), _ in itertools.pairwise(itertools.chain(begun, [None])):
            yield key, prepared.result()

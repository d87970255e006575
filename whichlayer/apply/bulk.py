"""predict.py --csv --out: windows of titles that processes share; a killed one goes on.

While it is under way, the hidden folder .OUT.unfinished beside OUT holds `job`, a digest of all
that decides what is written, and a part of OUT for each window; done-*.log says which parts are
whole. In the end, the first process joins them: OUT is what one call that was never killed writes.
"""

import contextlib
import os
import shutil
from typing import NamedTuple

import numpy as np

from whichlayer.apply import output
from whichlayer.apply.classifier import load, predict
from whichlayer.common import cli, disk, windows
from whichlayer.common.windows import WINDOW
from whichlayer.reading import tables

FORMAT = 2


class Outcome(NamedTuple):
    """What was predicted."""

    titles: int = 0
    cut: int = 0  # longer than the encoder reads
    blank: int = 0  # without text
    unsure: int = 0  # less likely than --at-least


def outcome_of(window, least):
    """The Outcome of a classifier.Window."""
    blank = np.count_nonzero(np.isnan(window.sure))
    unsure = np.count_nonzero(window.sure < least)
    return Outcome(len(window.titles), window.cut, blank, unsure)


def summed(outcomes):
    """The Outcome of several together."""
    return Outcome(*map(sum, zip(*outcomes, strict=True)))


def predict_file(args, chosen):
    """Write args.csv with the predictions of chosen.Chosen runs to args.out: an Outcome, or None in all
    processes but the first.
    """
    table = tables.open_table(args.csv, [args.text_column or "title"])
    style = output.style_of(args, table, chosen.runs[0].classes)
    work = disk.beside(args.out)
    with windows.meeting(), contextlib.ExitStack() as stack:
        if windows.RANK == 0:
            stack.enter_context(disk.locked(work, "a prediction"))
            prepare(job_of(args, chosen.runs), work, args.out)
        try:
            classifier = load(chosen, args.model, args.device, args.dtype)
            windows.wait()
            predict_windows(classifier, table, style, work)
        except cli.Problem:
            # what is wrong will be put right, and then it is another job
            if windows.WORLD == 1 and not total(work).titles:
                shutil.rmtree(work)
            raise
        windows.wait()
        if windows.RANK > 0:
            return None
        outcome = total(work)
        join(args.out, style, work)
    return outcome


# --- what is under way ----------------------------------------------------------------------------


def job_of(args, own):
    """A digest of all that decides what is written."""
    runs = [disk.sha256(run.folder / "config.json") for run in own]
    options = (args.text_column, args.top, args.at_least, args.dtype, args.device)
    return disk.digest([FORMAT, WINDOW, disk.sha256(args.csv), runs, options])


def prepare(job, work, out):
    """Make the folder ready for a job, new or unfinished; another one's is a Problem."""
    path = work / "job"
    if not path.exists():
        # what is left of a job that was finished
        for file in [*work.glob("part-*"), *work.glob("done-*.log")]:
            file.unlink()
        with disk.atomic(path, "w") as file:
            file.write(job)
    elif path.read_text() != job:
        there = "a prediction with another input, run or option is unfinished"
        remedy = f"finish it with the command that began it, or delete {work}"
        raise cli.Problem(f"--out {out}: {there}; {remedy}")
    elif total(work).titles:
        cli.say(f"going on after {cli.count(total(work).titles, 'title')}")


def total(work):
    """The Outcome of all windows that are recorded."""
    return summed(map(int, counts) for *counts, _ in windows.recorded(work).values())


def part_of(work, window):
    """The path of the part of a window."""
    return work / f"part-{window:08d}"


def predict_windows(classifier, table, style, work):
    """Predict this process's share of the windows that are left, writing and recording each."""
    done = windows.recorded(work).keys()

    left = ((own, [row[table.places[0]] for row in own[1]]) for own in windows.own(table.rows, done))
    bar = cli.progress(None, " titles", desc="predict", initial=total(work).titles)
    with bar, windows.log_of(work) as log:
        for (number, rows), window in predict(classifier, left):
            part = part_of(work, number)
            with disk.atomic(part) as file:
                file.write(output.csv_rows(rows, window, style))
            windows.record(log, number, *outcome_of(window, style.least), disk.sha256(part))
            # with what other processes have done
            bar.update(total(work).titles - bar.n)


def join(out, style, work):
    """Make the file of all parts, and delete them; one that is gone or changed is a Problem."""
    recorded = windows.recorded(work)
    with disk.atomic(out) as file:
        file.write(style.header)
        for window in range(len(recorded)):
            checksum = recorded.get(window, [None])[-1]
            part = disk.checked(part_of(work, window), checksum, f"delete {work} and predict again")
            file.write(part.read_bytes())
    # first, so that what is left of the rest is known to be of no use
    os.unlink(work / "job")
    shutil.rmtree(work)

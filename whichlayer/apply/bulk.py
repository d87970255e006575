"""predict.py --csv --out: windows of titles that processes share; a killed one goes on.

While it is under way, the hidden folder .OUT.unfinished beside OUT holds job.json, which says what
is predicted and how, and a part of OUT for each window; done-*.log says which parts are whole. In
the end, the first process joins them: OUT is what one call that was never killed writes.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from whichlayer.apply import output
from whichlayer.apply.classifier import Item, batches_of, load, predict
from whichlayer.common import cli, disk, windows
from whichlayer.reading import tables

FORMAT = 1


@dataclass
class Job:
    """The content of job.json: all that decides what is written."""

    format: int
    input: str  # sha256 of the file of titles
    runs: list[str]  # digest of what each run holds
    text_column: str
    top: int | None  # as the options of these names
    at_least: float | None
    dtype: str | None
    device: str
    window: int
    source: str | None = None  # where the file of titles is, absolute; None in earlier versions


@dataclass
class Outcome:
    """What was predicted."""

    titles: int = 0
    cut: int = 0  # longer than the encoder reads
    blank: int = 0  # without text
    unsure: int = 0  # less likely than --at-least

    def add(self, window, least):
        """Count the titles of a classifier.Window."""
        self.titles += len(window.items)
        self.cut += window.cut
        self.blank += int((~window.has_text).sum())
        self.unsure += int((window.sure < least).sum())


def predict_file(args, own):
    """Write args.csv with the predictions of some runs to args.out: an Outcome, or None in all
    processes but the first.
    """
    table = tables.open_table(args.csv, [args.text_column or "title"])
    form = output.choose_format(args, own[0].classes, table.form)
    check_header(args, table, form)
    work = workplace(args.out)
    with windows.meeting(), contextlib.ExitStack() as stack:
        if windows.RANK == 0:
            stack.enter_context(disk.locked(work, "a prediction"))
            prepare(job_of(args, own), work, args)
        try:
            classifier = load([run.folder for run in own], args.model, args.device, args.dtype)
            windows.wait()
            predict_windows(classifier, table, args, form, work)
        except cli.Problem:
            # what is wrong will be put right, and then it is another job
            if windows.WORLD == 1 and not total(work).titles:
                shutil.rmtree(work)
            raise
        except KeyboardInterrupt:
            safe = f"stopped after {total(work).titles:,} titles"
            raise KeyboardInterrupt(f"{safe}; the same command goes on from there") from None
        windows.wait()
        if windows.RANK > 0:
            return None
        outcome = total(work)
        join(table.header, args, form, work)
    # some are made while rows are read
    for note in table.notes:
        cli.say(f"{args.csv}: {note}")
    return outcome


def workplace(out):
    """The folder of an unfinished prediction, beside the file that it is to become."""
    out = Path(out).resolve()
    return out.with_name(f".{out.name}.unfinished")


def check_header(args, table, form):
    """Refuse a table that has a column of predictions already."""
    taken = sorted(set(table.header) & set(form.columns))
    if taken:
        wrong = f"rename its column {cli.quote(taken[0])}; predictions would add one of that name"
        raise cli.Problem(f"{args.csv}: {wrong}")


# --- what is under way ----------------------------------------------------------------------------


def job_of(args, own):
    """The Job that the options ask for."""
    return Job(
        format=FORMAT,
        input=disk.sha256(args.csv),
        runs=[disk.digest(run.config.contents) for run in own],
        text_column=args.text_column or "title",
        top=args.top,
        at_least=args.at_least,
        dtype=args.dtype,
        device=args.device,
        window=args.window,
        source=str(Path(args.csv).resolve()),
    )


def prepare(job, work, args):
    """Make the folder ready for a job, new or unfinished; another one's is a Problem, but for that
    of an earlier state of the same file, which nobody can finish any more.
    """
    path = work / "job.json"
    if not path.exists():
        begin(job, work)
        return
    there = disk.read_json(path, Job, "an unfinished prediction", FORMAT)
    differ = [name for name, value in vars(job).items() if getattr(there, name) != value]
    # it may have been moved, or may be another one
    is_elsewhere = "source" in differ
    if is_elsewhere:
        differ.remove("source")
    if differ == ["input"] and not is_elsewhere:
        done = cli.count(total(work).titles, "title")
        changed = f"{args.csv} has changed since {done} of it were predicted"
        cli.say(f"{changed}: all of it is predicted anew")
        begin(job, work)
        return
    if differ:
        # the names of options, but for the file
        names = [f"--{name.replace('_', '-')}" for name in differ]
        shown = ", ".join(names).replace("--input", args.csv).replace("--runs", "--run")
        remedy = f"finish it with the command that began it, or delete {work}"
        there = f"a prediction of it with another {shown} is unfinished"
        raise cli.Problem(f"--out {args.out}: {there}; {remedy}")
    done = total(work).titles
    if done:
        cli.say(f"going on after {cli.count(done, 'title')}")


def begin(job, work):
    """Make the folder that of a new job; what stands there is of no use."""
    # first, so that what is left of the rest is not taken for a part of this job
    (work / "job.json").unlink(missing_ok=True)
    for file in [*work.glob("part-*"), *work.glob("done-*.log")]:
        file.unlink()
    disk.write_json(work / "job.json", job)


def total(work):
    """The Outcome of all windows that are recorded."""
    outcome = Outcome()
    for titles, cut, blank, unsure, _ in windows.recorded(work).values():
        outcome.titles += int(titles)
        outcome.cut += int(cut)
        outcome.blank += int(blank)
        outcome.unsure += int(unsure)
    return outcome


def part_of(work, window):
    """The path of the part of a window."""
    return work / f"part-{window:08d}"


def predict_windows(classifier, table, args, form, work):
    """Predict this process's share of the windows that are left, writing and recording each."""
    place = table.places[0]
    items = (Item(cells[place], cells) for _, cells in table.rows)
    done = windows.recorded(work).keys()
    mine = own_batches(items, args.window, done)
    bar = cli.progress(None, " titles", desc="predict", initial=total(work).titles)
    with bar, windows.log_of(work) as log:
        for number, window in predict(classifier, mine):
            part = part_of(work, number)
            with disk.atomic(part, "w", **output.encoding_of(form.table)) as file:
                output.write(file, window, form)
            counted = Outcome()
            counted.add(window, form.least)
            windows.record(log, number, *vars(counted).values(), disk.sha256(part))
            # with what other processes have done
            bar.update(total(work).titles - bar.n)


def own_batches(items, size, done):
    """Yield (number, items) of each window that this process is to predict. done: their numbers."""
    left = 0
    for number, batch in batches_of(items, size):
        if number not in done:
            if left % windows.WORLD == windows.RANK:
                yield number, batch
            left += 1


def join(header, args, form, work):
    """Make the file of all parts, and delete them; one that is gone or changed is a Problem."""
    recorded = windows.recorded(work)
    with disk.atomic(args.out, "w", **output.encoding_of(form.table)) as file:
        output.write_header(file, header, form)
        file.flush()
        for window in range(len(recorded)):
            part = part_of(work, window)
            checksum = recorded.get(window, [None])[-1]
            if not part.exists() or disk.sha256(part) != checksum:
                remedy = f"delete {work} and predict again"
                raise cli.Problem(f"{part}: gone or changed since it was written; {remedy}")
            with open(part, "rb") as written:
                shutil.copyfileobj(written, file.buffer)
    # first, so that what is left of the rest is known to be of no use
    os.unlink(work / "job.json")
    shutil.rmtree(work)

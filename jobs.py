"""The folder of an extraction while it is under way: what is to be done, and what has been.

Layer files get their final names at once. They are features as soon as manifest.json, which is
written last, names them; until then job.json says whose they are. Each process records in a
done-*.log which windows it has written.
"""

import errno
import math
import os
import re
import shutil
from dataclasses import dataclass, replace

import numpy as np

import cli
import disk
import store

# in the order of deletion: without the job, the rest would look like a stranger's
RECORDS = ("done-*.log", "job.json")
# the titles, until there is a job
CHECKED = ".titles.csv.checked.tmp"
# what a killed process would have renamed
UNNAMED = (".titles.csv.*.tmp", ".job.json.*.tmp", ".manifest.json.*.tmp")


@dataclass(kw_only=True)
class Job(store.Manifest):
    """The content of job.json: the manifest that is to be, `files` as an earlier extraction left
    it.
    """

    names: list[str]  # of the layer files to make
    left: list[int] | None = None  # windows that are not written yet; job.json leaves it out

    @property
    def windows(self):
        return math.ceil(self.data.rows / self.settings.window)


@dataclass
class Recorded:
    """What all processes have written of the present job."""

    windows: set[int]  # their numbers
    titles: int  # in those windows
    cut: int  # of those titles
    tokens: int = 0  # in titles whose tokens were counted
    counted: int = 0  # such titles

    @property
    def mean_tokens(self):
        """Of a title; None where nothing was counted."""
        return self.tokens / self.counted if self.counted else None


def clear(out, *patterns):
    """Delete the files that have these names, in this order."""
    for pattern in patterns:
        for path in out.glob(pattern):
            path.unlink()


def recorded(out):
    """Recorded by all processes. A record that was torn by a crash has no full stop."""
    found = Recorded(windows=set(), titles=0, cut=0)
    for log in out.glob("done-*.log"):
        text = log.read_text(errors="replace")
        records = re.findall(r"^(\d+) (\d+) (\d+) ?(\d*)\.", text, re.MULTILINE)
        for window, titles, cut, tokens in records:
            found.windows.add(int(window))
            found.titles += int(titles)
            found.cut += int(cut)
            # earlier versions did not count them
            if tokens:
                found.tokens += int(tokens)
                found.counted += int(titles)
    return found


def refuse_strangers(out):
    """Raise a Problem where `out` holds somebody's other files, which ours could replace."""
    leftovers = {path.name for pattern in UNNAMED for path in out.glob(pattern)}
    names = {path.name for path in out.iterdir()} - leftovers - {".lock"}
    if names and not names & {"manifest.json", "job.json"}:
        raise cli.Problem(f"--out {out}: this folder holds other files ({min(names)}); name a new or empty one")


def refuse_mixture(there, wanted, out, state):
    """Raise a Problem that names the settings in which two manifests or jobs differ.

    state: what `out` does with the one that is there.
    """
    old = store.identity(there)
    new = store.identity(wanted)
    differ = [key for key in new if old[key] != new[key]]
    if not differ:
        return
    # these are compared by checksum and shown by name
    for settings, manifest in ((old, there), (new, wanted)):
        settings.update({"encoder weights": manifest.encoder.name, "titles": manifest.data.name})
    shown = ", another ".join(f"{key} ({old[key]}, now {new[key]})" for key in differ)
    raise cli.Problem(f"{out}: {state} with another {shown}; use another --out, or delete that folder")


def flush(file):
    """Have what was written to a file on the disk before anything else is done."""
    file.flush()
    os.fsync(file.fileno())


def prepare(job, out):
    """What is left of the Job that somebody asks for, or None where all of it is there already.

    Afterwards the folder holds files for all of it. Features that are there are added to, and an
    unfinished job of the same kind goes on. Whatever else is there is a Problem.
    """
    # what is asked for and not there yet
    finished = (out / "manifest.json").exists()
    if finished:
        job = beside_features(job, out)
    unfinished = None
    if (out / "job.json").exists():
        unfinished = disk.read_json(out / "job.json", Job, "an unfinished extraction", store.FORMAT)
        # it was killed with nothing left to do
        if job.files.keys() >= set(unfinished.names):
            clear(out, *RECORDS)
            unfinished = None
    if not job.names:
        return None

    # a new job, or one that goes on
    if unfinished is None:
        check_room(job, out)
        disk.write_json(out / "job.json", job)
    else:
        refuse_mixture(unfinished, job, out, "holds an unfinished extraction")
        if unfinished.names != job.names:
            other = f"holds an unfinished extraction of {' '.join(unfinished.names)}"
            raise cli.Problem(f"{out}: {other}; finish it with the command that began it, or use another --out")

    # its files, and the windows that are not in them
    if not all((out / name).exists() for name in job.names):
        # where a layer is gone, all windows have to be computed again
        clear(out, "done-*.log")
    done = recorded(out).windows
    if not done:
        lay_out(job, out, finished)
    if not finished:
        os.replace(out / CHECKED, out / "titles.csv")
    return replace(job, left=sorted(set(range(job.windows)) - done))


def beside_features(job, out):
    """The Job without what the features in `out` hold; features of another kind are a Problem."""
    there = store.open_features(out)
    old = there.manifest
    refuse_mixture(old, job, out, "holds features")
    # a Problem where they have changed
    there.titles_file()
    for name in job.names:
        if name in old.files:
            there.read(*store.column_of(name), check=False)
    missing = [name for name in job.names if name not in old.files]
    # runs are bound to what is there, also where titles or weights go by another name today
    return replace(job, encoder=old.encoder, data=old.data, files=old.files, names=missing, cost=old.cost)


def check_room(job, out):
    """Refuse to begin where a file is in the way, or the disk has too little room; say how much."""
    for path in [*(out / name for name in job.names), *out.glob("done-*.log")]:
        if path.exists():
            raise cli.Problem(f"{path}: in the way, and the manifest does not name it; move it elsewhere")
    numbers = job.data.rows * job.encoder.hidden * len(job.names)
    needed = numbers * np.dtype(job.settings.store).itemsize / 1e9
    free = shutil.disk_usage(out).free / 1e9
    if needed > free:
        short = f"the features need {needed:.2f} GB, the disk has {free:.2f} GB free"
        raise cli.Problem(f"{out}: {short}; use --store float16, fewer layers or another --out")
    what = f"{cli.count(len(job.names), 'layer file')} of {cli.count(job.data.rows, 'title')}"
    verb = "needs" if len(job.names) == 1 else "need"
    cli.say(f"{what} {verb} {max(needed, 0.01):,.2f} GB; the disk has {free:,.2f} GB free")


def lay_out(job, out, finished):
    """Make the job's files in full size; where the disk is full, delete all that we have made."""
    try:
        shape = (job.data.rows, job.encoder.hidden)
        for name in job.names:
            np.lib.format.open_memmap(out / name, "w+", job.settings.store, shape)
            reserve(out / name)
    except OSError:
        titles = [] if finished else ["titles.csv"]
        clear(out, *job.names, *titles, *RECORDS)
        raise


def reserve(path):
    """Take a file's room on the disk: one that fills up later cannot hurt us then."""
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except AttributeError:  # not every system can
            pass
        except OSError as error:  # nor every disk
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


def finish(job, out, cost, started, **machine):
    """Write the manifest, which makes the files of a complete job features; returns it.

    cost: a store.Cost or None; started, machine: see disk.provenance. Safe to repeat after a crash.
    """
    paths = [out / name for name in job.names]
    new = {path.name: store.FileInfo(path.stat().st_size, disk.sha256(path)) for path in paths}
    files = dict(sorted((job.files | new).items()))
    made = disk.provenance(started, **machine)
    cut = recorded(out).cut
    manifest = store.Manifest(job.format, job.encoder, job.data, job.settings, files, cut, cost, **made)
    disk.write_json(out / "manifest.json", manifest)
    clear(out, *RECORDS)
    return manifest

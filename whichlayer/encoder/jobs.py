"""The folder of an extraction while it is under way: what is to be done, and what has been.

Layer files get their final names at once. They are features as soon as manifest.json, which is
written last, names them; until then job.json says whose they are. Each process records in a
done-*.log which windows it has written.

Where the titles have changed, all of that is done in the sub-folder .new, beside the features that
are there, and take_place lets the new ones take their place. What a title's features are is decided
by its text, the encoder and the settings: rows whose text was there are copied, only others are
encoded. In half precision the last digits also depend on which titles share a batch; so the rows
that are encoded anew may differ in those from what an extraction of all titles gives.
"""

import errno
import functools
import math
import os
import shutil
from dataclasses import dataclass, replace

import numpy as np

from whichlayer.common import cli, disk, windows
from whichlayer.encoder import changes, store

# in the order of deletion: without the job, the rest would look like a stranger's
RECORDS = ("done-*.log", "job.json")
# the titles, until there is a job
CHECKED = ".titles.csv.checked.tmp"
# what a killed process would have renamed
UNNAMED = (".titles.csv.*.tmp", ".job.json.*.tmp", ".manifest.json.*.tmp")
# of changed titles: for each row, the row of the earlier features that is copied, or -1
SOURCES = "sources.npy"


@dataclass(kw_only=True)
class Job(store.Manifest):
    """The content of job.json: the manifest that is to be, `files` as an earlier extraction left
    it.
    """

    names: list[str]  # of the layer files to make
    left: list[int] | None = None  # windows that are not written yet; job.json leaves it out
    source: disk.Source | None = None  # the file of titles
    follows: str | None = None  # where titles have changed: sha256 of the earlier titles.csv

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
    unknown: int = 0  # of those tokens, in place of what the vocabulary lacks

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
    """Recorded by all processes."""
    found = Recorded(windows=set(), titles=0, cut=0)
    for window, values in windows.recorded(out).items():
        titles, cut, *tokens = map(int, values)
        found.windows.add(window)
        found.titles += titles
        found.cut += cut
        # earlier versions did not count them
        if tokens:
            found.tokens += tokens[0]
            found.counted += titles
            found.unknown += sum(tokens[1:])
    return found


def refuse_strangers(out):
    """Raise a Problem where `out` holds somebody's other files, which ours could replace."""
    leftovers = {path.name for pattern in UNNAMED for path in out.glob(pattern)}
    names = {path.name for path in out.glob("*")} - leftovers - {".lock"}
    if names and not names & {"manifest.json", "job.json"}:
        raise cli.Problem(f"--out {out}: this folder holds other files ({min(names)}); name a new or empty one")


def refuse_mixture(there, wanted, out, state):
    """Raise a Problem that names the settings in which two manifests or jobs differ.

    state: what `out` does with the one that is there.
    """
    old = store.identity(there)
    new = store.identity(wanted)
    # a setting that has not been used is in neither
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not differ:
        return
    # these are compared by checksum and shown by name
    for settings, manifest in ((old, there), (new, wanted)):
        settings.update({"encoder weights": manifest.encoder.name, "titles": manifest.data.name})
    pairs = [difference(key, old.get(key, "none"), new.get(key, "none")) for key in differ]
    raise cli.Problem(f"{out}: {state} with {', '.join(pairs)}; use another --out, or delete that folder")


def difference(key, old, new):
    """In what a setting differs, in words."""
    if key != "titles":
        return f"another {key} ({old}, now {new})"
    # too little of them is left for those of now to be a later state
    shown = f"{old} as it was before" if old == new else f"{old}, now {new}"
    return f"other titles ({shown})"


def workplace(job, out):
    """The folder in which a job is made."""
    return out / store.NEW if job.follows else out


def prepare(job, out):
    """What is left of the Job that somebody asks for, or None where all of it is there already.

    Afterwards its workplace holds files for all of it. Features that are there are added to, or
    follow titles that have changed, and an unfinished job of the same kind goes on. Whatever else
    is there is a Problem.
    """
    # what is asked for and not there yet
    there = None
    if (out / "manifest.json").exists():
        there = settled(out)
        are_same = there.manifest.data.titles == job.data.titles
        job = beside_features(job, there) if are_same else follow(job, there)
    work = workplace(job, out)
    unfinished = find_unfinished(job, work)
    if there and not job.names and not job.follows:
        note_source(job, there)
        return None

    # a new job, or one that goes on
    if unfinished is None:
        check_room(job, work)
        disk.write_json(work / "job.json", job)
    else:
        refuse_mixture(unfinished, job, out, "holds an unfinished extraction")
        if unfinished.names != job.names:
            other = f"holds an unfinished extraction of {' '.join(unfinished.names)}"
            raise cli.Problem(f"{out}: {other}; finish it with the command that began it, or use another --out")

    # its files, and the windows that are not in them
    if not all((work / name).exists() for name in job.names):
        # where a layer is gone, all windows have to be computed again
        clear(work, "done-*.log")
    done = recorded(work).windows
    has_titles = there and not job.follows
    if not done:
        lay_out(job, work, has_titles)
    if not has_titles:
        os.replace(out / CHECKED, work / "titles.csv")
    left = sorted(set(range(job.windows)) - done) if job.names else []
    return replace(job, left=left)


def find_unfinished(job, work):
    """The Job that is under way in a folder and has something left to do, or None."""
    if not (work / "job.json").exists():
        return None
    unfinished = read_job(work)
    # it was killed with nothing left to do
    if job.files.keys() >= set(unfinished.names):
        clear(work, *RECORDS)
        return None
    return unfinished


def read_job(work):
    """The Job that is under way in a folder."""
    return disk.read_json(work / "job.json", Job, "an unfinished extraction", store.FORMAT)


def beside_features(job, there):
    """The Job without what is there, as Features; those of another kind are a Problem."""
    old = there.manifest
    refuse_mixture(old, job, there.folder, "holds features")
    # a Problem where they have changed
    there.titles_file()
    for name in job.names:
        if name in old.files:
            there.read(*store.column_of(name), check=False)
    # of titles that have been taken back
    discard(there.folder / store.NEW)
    missing = [name for name in job.names if name not in old.files]
    # runs are bound to what is there, also where titles or weights go by another name today
    return replace(job, encoder=old.encoder, data=old.data, files=old.files, names=missing, cost=old.cost)


def note_source(job, there):
    """Have the manifest name the file that the titles stand in today."""
    made = there.manifest.made
    if made and made.source != job.source:
        manifest = replace(there.manifest, made=replace(made, source=job.source))
        disk.write_json(there.folder / "manifest.json", manifest)


# --- titles that have changed ---------------------------------------------------------------------


def follow(job, there):
    """The Job that makes the features of changed titles, from the Features that are there.

    Says what has changed. Another set of titles, or features of another kind, are a Problem.
    """
    old = there.manifest
    out = there.folder
    refuse_mixture(old, replace(job, data=old.data), out, "holds features")
    found = changes.compare(there.titles_file(), out / CHECKED)
    if not found.is_later_state:
        refuse_mixture(old, job, out, "holds features")
    cli.say(f"{found}")
    drop_outdated(job, there)
    job = replace(job, encoder=old.encoder, follows=old.data.titles)

    # all layers that are there follow; where only labels have changed, they stay as they are
    added = [name for name in job.names if name not in old.files]
    # damage that is copied would never be found again
    check = functools.partial(there.read, check=not found.same_rows)
    disk.each(check, *zip(*map(store.column_of, old.files), strict=True))
    (out / store.NEW).mkdir(exist_ok=True)
    if found.same_rows and not added:
        return replace(job, names=[], files=old.files, truncated=old.truncated, cost=old.cost)

    # for layers that are not there yet, all titles have to be encoded: that gives the others, too
    if added:
        cli.say(f"all are encoded, as {' '.join(added)} {'is' if len(added) == 1 else 'are'} new")
        found.sources[:] = -1
    np.save(out / store.NEW / SOURCES, found.sources)
    return replace(job, names=sorted({*old.files, *job.names}))


def drop_outdated(job, there):
    """Delete what was begun, beside the Features that are there, for other titles than a Job's."""
    out = there.folder
    new = out / store.NEW
    dropped = []
    # layers that were being added to the earlier titles
    if (out / "job.json").exists():
        dropped += [name for name in read_job(out).names if name not in there.manifest.files]
        clear(out, *dropped, *RECORDS)
    # features that were to follow another state of the titles, or whose deletion was interrupted
    begun = read_job(new) if (new / "job.json").exists() else None
    if begun is None:
        discard(new)
    elif begun.data.titles != job.data.titles or begun.follows != there.manifest.data.titles:
        dropped += begun.names
        discard(new)
    if dropped:
        cli.say(f"dropped: an unfinished extraction of {' '.join(dropped)} for other titles")


def discard(new):
    """Delete the sub-folder of features that were never finished, or have taken their place."""
    if new.exists():
        shutil.rmtree(new)


def sources(job, work):
    """For each title of a job, the earlier row that is copied, or -1: (titles,) int64."""
    if job.follows and job.names:
        return np.load(work / SOURCES)
    return np.full(job.data.rows, -1)


def take_place(manifest, out):
    """Let the features in the sub-folder, which are complete, take the place of those in `out`.

    Several files cannot be renamed at once, so this is what makes it right at every moment. Until
    the manifest is written, the features are those in `out`, all of them. From then on they are the
    new ones: it says that files are being swapped, and until it is written once more without
    saying so, each file is the one in the sub-folder where there is one, else the one in `out`.
    Moving a file from there to here changes nothing for who looks for it in this order. Readers do
    (store.Features.path); and the next extract.py goes on here, before anything else.
    """
    disk.write_json(out / "manifest.json", replace(manifest, swapping=True))
    settled(out)


def settled(out):
    """The Features in `out`, once files that were being swapped are in their places."""
    there = store.open_features(out)
    if there.manifest.swapping:
        for name in (*there.manifest.files, "titles.csv"):
            if (out / store.NEW / name).exists():
                os.replace(out / store.NEW / name, out / name)
        there.manifest.swapping = None
        disk.write_json(out / "manifest.json", there.manifest)
        discard(out / store.NEW)
    return there


# --- room on the disk, and the end ----------------------------------------------------------------


def check_room(job, out):
    """Refuse to begin where a file is in the way, or the disk has too little room; say how much."""
    for path in [*(out / name for name in job.names), *out.glob("done-*.log")]:
        if path.exists():
            raise cli.Problem(f"{path}: in the way, and the manifest does not name it; move it elsewhere")
    if not job.names:
        return
    numbers = job.data.rows * job.encoder.hidden * len(job.names)
    needed = numbers * np.dtype(job.settings.store).itemsize / 1e9
    free = shutil.disk_usage(out).free / 1e9
    if needed > free:
        short = f"the features need {needed:.2f} GB, the disk has {free:.2f} GB free"
        remedy = "use --store float16, fewer layers or another --out"
        if job.follows:
            short = f"beside those of the earlier titles, {short}"
            remedy = "make room, or use another --out"
        raise cli.Problem(f"{out}: {short}; {remedy}")
    what = f"{cli.count(len(job.names), 'layer file')} of {cli.count(job.data.rows, 'title')}"
    verb = "needs" if len(job.names) == 1 else "need"
    cli.say(f"{what} {verb} {max(needed, 0.01):,.2f} GB; the disk has {free:,.2f} GB free")


def lay_out(job, out, has_titles):
    """Make the job's files in full size; where the disk is full, delete all that we have made.

    has_titles: whether the titles in `out` are not the job's alone.
    """
    try:
        shape = (job.data.rows, job.encoder.hidden)
        for name in job.names:
            np.lib.format.open_memmap(out / name, "w+", job.settings.store, shape)
            reserve(out / name)
    except OSError:
        titles = [] if has_titles else ["titles.csv"]
        clear(out, *job.names, *titles, *RECORDS)
        if job.follows:
            discard(out)
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
    work = workplace(job, out)
    paths = [work / name for name in job.names]
    sums = disk.each(disk.sha256, paths)
    new = {path.name: store.FileInfo(path.stat().st_size, total) for path, total in zip(paths, sums, strict=True)}
    files = dict(sorted((job.files | new).items()))
    made = disk.provenance(started, **machine)
    made["made"].source = job.source
    cut = recorded(work).cut if job.names else job.truncated
    manifest = store.Manifest(job.format, job.encoder, job.data, job.settings, files, cut, cost, **made)
    if job.follows:
        take_place(manifest, out)
    else:
        disk.write_json(out / "manifest.json", manifest)
        clear(out, *RECORDS)
    return manifest

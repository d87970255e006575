"""The making of features: whatever is asked for is made beside the old ones, and takes their place.

New layers, other titles, other labels and a job that was killed are one case. What a title's
features are is decided by its text, the encoder and the settings. So layer files of the same texts
stay (they are linked), rows whose text was there are copied, and only others are encoded, window by
window. While that is under way, this lies in the hidden folder .NAME.unfinished beside features:

new/          the folder that features will be; once it has its manifest.json, it is whole
job.json      which of its layer files are to be written; there as soon as all is laid out
sources.npy   for each title, the row of the earlier features that is copied, or -1
done-*.log    which windows are on the disk, see windows.py
old/          the earlier features, when new ones have taken their place

Readers see the earlier features until two renames let the new ones take their place, and find
those beside features if a crash comes between (store.place_of). In half precision the last digits
also depend on which titles share a batch; so rows that are encoded anew may differ in those from
what an extraction of all titles gives.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, replace

import numpy as np

from whichlayer.common import cli, disk, windows
from whichlayer.encoder import store

# titles are another set, not a later state, where fewer than this share of either is in both
LEAST_KEPT = 0.1


@dataclass(kw_only=True)
class Job(store.Features):
    """What is to be done: the content of job.json. Its `files` are those that are linked."""

    names: list[str]  # of the layer files that are written
    source: str  # the path of the file of titles
    follows: str | None = None  # sha256 of the earlier titles.csv, if there are earlier features


@contextlib.contextmanager
def held(out):
    """Hold a folder of features for this process alone, and give the one in which they are made.

    Where somebody's other files are in `out` it is a Problem. In the end, what is made is deleted
    unless the same command can go on with it.
    """
    is_foreign = any(out.glob("*")) and not (out / "manifest.json").exists()
    if is_foreign or disk.is_fixed(out):
        raise cli.Problem(f"--out {out}: other files or a disk are there, or you are; name a new folder")
    work = disk.beside(out)
    with disk.locked(work, "an extraction"):
        try:
            settle(out, work)
            yield work
        finally:
            (work / "titles.csv").unlink(missing_ok=True)
            if not (work / "job.json").exists():
                shutil.rmtree(work)


def settle(out, work):
    """Let new features that are whole take their place, and delete what no job needs any more."""
    place = out.resolve()
    new = work / "new"
    old = work / "old"
    if (new / "manifest.json").exists():
        if place.exists():
            os.rename(place, old)
        os.rename(new, place)
    # somebody's own files beside the features stay, unless they are called like one of these
    for path in old.glob("*"):
        if not (place / path.name).exists():
            os.rename(path, place / path.name)
    if not new.exists():
        (work / "job.json").unlink(missing_ok=True)
    if not (work / "job.json").exists():
        # all but the lock
        for path in work.glob("[!.]*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


# --- what is to be done ---------------------------------------------------------------------------


def prepare(job, out, work):
    """The Job that makes what somebody asks for, or None where all of it is there already.

    Afterwards all of its files are laid out. An unfinished one of the same kind goes on; features
    or a job of another kind are a Problem. The titles lie in work/titles.csv.
    """
    sources = np.full(job.data.rows, -1)
    if (out / "manifest.json").exists():
        old = store.open_features(out)
        sources = find_sources(old, job, work / "titles.csv")
        if old.data.sha256 == job.data.sha256 and old.data.titles != job.data.titles:
            cli.say(f"{job.data.name} is as before, but not --text-column, --label-column or --group-column")
        job = beyond(old, job, sources)
        if not job.names and (old.data, old.made.titles) == (job.data, job.source):
            return None
    if (work / "job.json").exists():
        there = disk.read_json(work / "job.json", Job, "an unfinished extraction", store.FORMAT)
        remedy = f"finish it with the command that began it, or delete {work}"
        refuse_other(identity(there), identity(job), f"{out}: an unfinished extraction is there", remedy)
        cli.say(f"going on after {counted(work).titles:,} of {job.data.rows:,} titles")
        return there
    lay_out(job, sources, out, work)
    return job


def identity(job):
    """What makes two jobs one, under names that users know."""
    return store.identity(job) | {"layers": job.names, "earlier titles": job.follows}


def refuse_other(old, new, what, remedy):
    """Raise a Problem that names the settings in which two identities differ."""
    # one that has not been used is in neither
    differ = [key for key in old | new if old.get(key) != new.get(key)]
    if differ:
        raise cli.Problem(f"{what}, with another {cli.listing(differ)}; {remedy}")


def find_sources(old, job, titles):
    """For each title, the row of earlier Features that has its text, or -1: (titles,) int64.

    titles: the file. Features of another kind, or of a wholly other set of titles, are a Problem.
    """
    what = f"{old.folder}: features are there"
    remedy = "use another --out, or delete that folder"
    now = replace(job, data=old.data)
    refuse_other(store.identity(old), store.identity(now), what, remedy)
    earlier = digests(old.titles_file())
    later = digests(titles)
    if earlier == later:
        return np.arange(len(later))
    # of copies, the last one stands for all
    rows = {text: row for row, text in enumerate(earlier)}
    sources = np.array([rows.get(text, -1) for text in later])
    if np.count_nonzero(sources >= 0) < LEAST_KEPT * min(len(earlier), len(later)):
        raise cli.Problem(f"{what}, of other titles ({old.data.name}, now {job.data.name}); {remedy}")
    return sources


def digests(path):
    """128 bits for each title of a file: all texts would not fit into memory.

    That two of a billion titles share them is less likely than that the memory errs.
    """
    return [hashlib.blake2b(title.encode(), digest_size=16).digest() for title, *_ in store.titles_in(path)]


def beyond(old, job, sources):
    """A Job with all layers of earlier Features, and without what stays of them."""
    is_same = np.array_equal(sources, np.arange(old.data.rows))
    # damage that is copied would never be found again
    disk.each(lambda name: old.read(*store.column_of(name)), old.files)
    kept = old.files if is_same else {}
    # new layers need all titles, and that gives the others, too
    if set(job.names) - old.files.keys():
        sources[:] = -1
    return replace(
        job,
        # runs are bound to what is there, also where titles or weights go by another name today
        encoder=replace(old.encoder, checked=job.encoder.checked),
        data=replace(old.data, sha256=job.data.sha256) if old.data.titles == job.data.titles else job.data,
        files=kept,
        truncated=old.truncated,
        cost=old.cost,
        names=sorted({*job.names, *old.files} - kept.keys()),
        follows=old.data.titles,
    )


def lay_out(job, sources, out, work):
    """Make the folder that is to be: what stays is linked, the rest laid out in full size."""
    new = work / "new"
    new.mkdir()
    for name in job.files:
        try:
            os.link(out / name, new / name)
        except OSError:  # not every disk can
            shutil.copyfile(out / name, new / name)
    for name in job.names:
        np.lib.format.open_memmap(new / name, "w+", job.settings.store, (job.data.rows, job.encoder.hidden))
    os.replace(work / "titles.csv", new / "titles.csv")
    np.save(work / "sources.npy", sources)
    disk.write_json(work / "job.json", job)
    if job.follows and job.names:
        added = np.count_nonzero(sources < 0)
        cli.say(f"{cli.count(len(sources), 'title')}: {len(sources) - added:,} kept, {added:,} to encode")


# --- doing it -------------------------------------------------------------------------------------


@dataclass
class Counted:
    """Sums over the windows that all processes have recorded of a job."""

    titles: int = 0
    cut: int = 0  # of those titles
    tokens: int = 0  # of those titles


def counted(work):
    """Counted of the job in a folder."""
    rows = [map(int, values) for values in windows.recorded(work).values()]
    return Counted(*map(sum, zip(*rows, strict=True)))


def write(job, work, window, rows, encoded, earlier, name):
    """Write the features of a window to their rows in the file of a layer.

    rows: (titles,) int, for each title the row of the earlier layer that is copied, or -1; encoded:
    {(pooling, layer): (titles where it is -1, hidden)}; earlier: the Features, if there are any.
    """
    column = store.column_of(name)
    is_new = rows < 0
    block = np.empty((len(rows), job.encoder.hidden), job.settings.store)
    block[is_new] = encoded[column]
    if not is_new.all():
        block[~is_new] = store.take(earlier.read(*column), rows[~is_new])
    if not np.isfinite(block).all():
        raise cli.Problem(f"{name}: features that are not finite numbers; use --dtype float32 --store float32")
    with open(work / "new" / name, "r+b") as file:
        # the rows end the file; writing, unlike mapping, takes no memory and reports a full disk
        file.seek((window * windows.WINDOW - job.data.rows) * block[0].nbytes, os.SEEK_END)
        file.write(block)
        disk.flush(file)


def finish(job, out, work, cost, started, **machine):
    """Write the manifest of a job that is complete, and let its features take their place.

    cost: a store.Cost or None; started, machine: see disk.provenance. Returns the store.Features.
    """
    paths = [work / "new" / name for name in job.names]
    sums = disk.each(disk.sha256, paths)
    new = {path.name: store.FileInfo(path.stat().st_size, total) for path, total in zip(paths, sums, strict=True)}
    files = dict(sorted((job.files | new).items()))
    if new:
        job = replace(job, truncated=counted(work).cut, cost=cost)
    made = disk.provenance(started, titles=job.source, **machine)
    decided = (job.format, job.encoder, job.data, job.settings)
    features = store.Features(*decided, files, job.truncated, job.cost, **made)
    # what a killed process leaves of it must not be among the features
    disk.write_json(work / "manifest.json", features)
    os.replace(work / "manifest.json", work / "new" / "manifest.json")
    settle(out, work)
    return features

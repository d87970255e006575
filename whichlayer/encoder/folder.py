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
import errno
import functools
import hashlib
import itertools
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk, windows
from whichlayer.encoder import store

# titles are another set, not a later state, where fewer than this share of either is in both
LEAST_KEPT = 0.1


@dataclass
class Job:
    """What is to be done: the content of job.json."""

    format: int
    manifest: store.Manifest  # that is to be; its files are those that are linked
    names: list[str]  # of the layer files that are written, in order
    source: disk.Source  # the file of titles
    follows: str | None = None  # sha256 of the earlier titles.csv, if there are earlier features

    @property
    def identity(self):
        """What makes two jobs one, under names that users know."""
        made = {"layers": self.names, "earlier titles": self.follows}
        return store.identity(self.manifest) | made

    @property
    def windows(self):
        """How many there are."""
        return math.ceil(self.manifest.data.rows / self.manifest.settings.window) if self.names else 0


@contextlib.contextmanager
def held(out):
    """Hold a folder of features for this process alone, and give the one in which they are made.

    Where somebody's other files are in `out` it is a Problem. In the end, what is made is deleted
    unless the same command can go on with it.
    """
    if out.is_file() or (any(out.glob("*")) and not (out / "manifest.json").exists()):
        raise cli.Problem(f"--out {out}: something else is there; name a new or an empty folder")
    if os.path.ismount(out) or Path.cwd().is_relative_to(out.resolve()):
        wrong = "another folder cannot take the place of a disk, or of where you are"
        raise cli.Problem(f"--out {out}: {wrong}; name a folder in it")
    work = store.beside(out)
    with disk.locked(work, "an extraction"):
        try:
            settle(out.resolve(), work)
            yield work
        finally:
            if not (work / "job.json").exists():
                shutil.rmtree(work)


def settle(place, work):
    """Let new features that are whole take their place, and delete what no job needs any more."""
    new = work / "new"
    old = work / "old"
    if (new / "manifest.json").exists():
        if place.exists():
            os.rename(place, old)
        os.rename(new, place)
    # somebody's own files beside the features stay
    for path in old.glob("*"):
        if not (place / path.name).exists():
            os.rename(path, place / path.name)
    if not new.exists():
        (work / "job.json").unlink(missing_ok=True)
    if not (work / "job.json").exists():
        for path in work.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()


# --- what is to be done ---------------------------------------------------------------------------


def prepare(job, out, work):
    """The Job that makes what somebody asks for, or None where all of it is there already.

    Afterwards all of its files are laid out. An unfinished one of the same kind goes on; features
    or a job of another kind are a Problem. The titles lie in work/titles.csv.
    """
    sources = np.full(job.manifest.data.rows, -1)
    if (out / "manifest.json").exists():
        old = store.open_features(out)
        sources = find_sources(old, job.manifest, work / "titles.csv")
        job = beyond(old, job, sources)
        is_known = (old.manifest.data, old.manifest.made.source) == (job.manifest.data, job.source)
        if is_known and not job.names:
            return None
    if (work / "job.json").exists():
        there = disk.read_json(work / "job.json", Job, "an unfinished extraction", store.FORMAT)
        remedy = f"finish it with the command that began it, or delete {work}"
        refuse_other(there.identity, job.identity, f"{out}: an unfinished extraction there", remedy)
        return there
    lay_out(job, sources, out, work)
    return job


def find_sources(old, wanted, titles):
    """For each title, the row of earlier Features that has its text, or -1: (titles,) int64.

    wanted: a store.Manifest; titles: their file. Features of another kind, or of a wholly other set
    of titles, are a Problem.
    """
    there = old.manifest
    what = f"{old.folder}: the features there"
    remedy = "use another --out, or delete that folder"
    now = store.identity(replace(wanted, data=there.data))
    refuse_other(store.identity(there), now, what, remedy)
    earlier = digests(old.titles_file())
    later = digests(titles)
    if np.array_equal(earlier, later):
        return np.arange(len(later))
    texts, first = np.unique(earlier, return_index=True)
    places = np.searchsorted(texts, later).clip(max=len(texts) - 1)
    sources = np.where(texts[places] == later, first[places], -1)
    kept = np.count_nonzero(sources >= 0)
    if kept < LEAST_KEPT * min(len(earlier), len(later)):
        raise cli.Problem(f"{what}: of other titles ({there.data.name}, now {wanted.data.name}); {remedy}")
    cli.say(f"{cli.count(len(later), 'title')}: {kept:,} kept, {len(later) - kept:,} new")
    return sources


def digests(path):
    """The 128-bit digests of all titles in a file: (titles,) S16.

    They stand for the texts, which would not fit into memory: that two of a billion share one is
    less likely than that the memory errs.
    """
    found = bytearray()
    for title, _ in store.titles_in(path):
        found += hashlib.blake2b(title.encode(), digest_size=16).digest()
    return np.frombuffer(found, "S16")


def refuse_other(old, new, what, remedy):
    """Raise a Problem that names the settings in which two identities differ."""
    # one that has not been used is in neither
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differ:
        raise cli.Problem(f"{what}: with another {cli.listing(differ)}; {remedy}")


def beyond(old, job, sources):
    """A Job with all layers of earlier Features, and without what stays of them."""
    there = old.manifest
    wanted = job.manifest
    is_same = np.array_equal(sources, np.arange(there.data.rows))
    # damage that is copied would never be found again
    disk.each(lambda name: old.read(*store.column_of(name), check=not is_same), there.files)
    kept = there.files if is_same else {}
    asked = set(job.names)
    added = asked - there.files.keys()
    for name in added:
        if (old.folder / name).exists():
            raise cli.Problem(f"{old.folder / name}: in the way, and no file of these features; move it elsewhere")
    if added:
        # new layers need all titles, and that gives the others, too
        sources[:] = -1
    # runs are bound to what is there, also where titles or weights go by another name today
    manifest = replace(
        there,
        encoder=replace(there.encoder, checked=wanted.encoder.checked),
        data=there.data if there.data.titles == wanted.data.titles else wanted.data,
        files=kept,
    )
    names = (asked | there.files.keys()) - kept.keys()
    return replace(job, manifest=manifest, names=sorted(names), follows=there.data.titles)


def lay_out(job, sources, out, work):
    """Make the folder that is to be: what stays is linked, the rest laid out in full size."""
    new = work / "new"
    new.mkdir()
    for name in job.manifest.files:
        try:
            os.link(out / name, new / name)
        except OSError:  # not every disk can
            shutil.copyfile(out / name, new / name)
    for name in job.names:
        shape = (job.manifest.data.rows, job.manifest.encoder.hidden)
        np.lib.format.open_memmap(new / name, "w+", job.manifest.settings.store, shape)
        reserve(new / name)
    os.replace(work / "titles.csv", new / "titles.csv")
    np.save(work / "sources.npy", sources)
    disk.write_json(work / "job.json", job)


def reserve(path):
    """Take a file's room on the disk, where that can be done: it cannot fill up later then."""
    with open(path, "r+b") as file, contextlib.suppress(AttributeError):
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


# --- doing it -------------------------------------------------------------------------------------


@dataclass
class Counted:
    """Sums over the windows that all processes have recorded of a job."""

    titles: int = 0
    cut: int = 0  # of those titles
    tokens: int = 0  # of those titles
    unknown: int = 0  # of those tokens, in place of what the vocabulary lacks


def counted(work):
    """Counted of the job in a folder."""
    rows = [[int(value) for value in values] for values in windows.recorded(work).values()]
    return Counted(*map(sum, zip(*rows, strict=True)))


def windows_left(job, work):
    """The numbers of the windows that are not on the disk yet."""
    return sorted(set(range(job.windows)) - windows.recorded(work).keys())


def sources_by_window(job, work):
    """For each window, which earlier rows its titles are copied from, or -1: a list of (titles,) int."""
    size = job.manifest.settings.window
    sources = np.load(work / "sources.npy")
    return np.split(sources, range(size, len(sources), size))


def own_windows(job, left, work):
    """Yield (number, titles) for each of the windows that this process is to compute."""
    mine = set(left[windows.RANK :: windows.WORLD])
    titles = (title for title, _ in store.titles_in(work / "new" / "titles.csv"))
    for window in range(job.windows):
        block = list(itertools.islice(titles, job.manifest.settings.window))
        if window in mine:
            yield window, block


def earlier_layers(job, out):
    """What rows are copied from: {name: (earlier titles, hidden)}."""
    if not job.follows:
        return {}
    old = store.open_features(out)
    # every byte was compared by the process that prepared the job
    return {name: old.read(*store.column_of(name), check=False) for name in old.manifest.files}


def write(job, window, rows, work, name, encoded, earlier):
    """Write the features of a window to their rows in the file of their layer.

    rows: (titles,) int, for each title the row of `earlier` that is copied, or -1; encoded:
    (titles where it is -1, hidden).
    """
    settings = job.manifest.settings
    is_new = rows < 0
    block = np.empty((len(rows), job.manifest.encoder.hidden), settings.store)
    block[is_new] = encoded
    if not is_new.all():
        block[~is_new] = store.take(earlier, rows[~is_new])
    if not np.isfinite(block).all():
        remedy = "use --dtype float32 --store float32, or another layer or encoder"
        raise cli.Problem(f"{name}: features that are not finite numbers; {remedy}")
    with open(work / "new" / name, "r+b") as file:
        # the rows end the file; writing, unlike mapping, takes no memory and reports a full disk
        file.seek((window * settings.window - job.manifest.data.rows) * block[0].nbytes, os.SEEK_END)
        file.write(block)
        windows.flush(file)


def finish(job, out, work, cost, started, **machine):
    """Write the manifest of a job that is complete, and let its features take their place.

    cost: a store.Cost or None; started, machine: see disk.provenance. Returns the manifest.
    """
    files = dict(job.manifest.files)
    paths = [work / "new" / name for name in job.names]
    for path, total in zip(paths, disk.each(disk.sha256, paths), strict=True):
        files[path.name] = store.FileInfo(path.stat().st_size, total)
    made = disk.provenance(started, **machine)
    made["made"].source = job.source
    manifest = replace(job.manifest, files=dict(sorted(files.items())), **made)
    if job.names:
        manifest = replace(manifest, truncated=counted(work).cut, cost=cost)
    # what a killed process leaves of it must not be among the features
    disk.write_json(work / "manifest.json", manifest)
    os.replace(work / "manifest.json", work / "new" / "manifest.json")
    settle(out.resolve(), work)
    return manifest

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
    """The content of job.json."""

    format: int
    manifest: store.Manifest  # that is to be; its files are those that are linked
    names: list[str]  # of the layer files that are written
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

    Somebody's other files in `out`, which would be lost, are a Problem. In the end, what is made is
    deleted unless the same command can go on with it.
    """
    place = out.resolve()
    names = {path.name for path in out.glob("*")} - {".lock"}
    if out.is_file() or (names and "manifest.json" not in names):
        there = f"{min(names)} is there" if names else "a file has this name"
        raise cli.Problem(f"--out {out}: {there}; name a new or an empty folder")
    if os.path.ismount(place) or Path.cwd().is_relative_to(place):
        wrong = "a disk or the folder that you are in cannot be replaced by another folder"
        raise cli.Problem(f"--out {out}: {wrong}; name one in it")
    work = store.beside(out)
    with disk.locked(work, "an extraction"):
        try:
            settle(place, work)
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
    if old.exists():
        # somebody's own files beside the features stay
        for path in old.iterdir():
            if path.name != ".lock" and not (place / path.name).exists():
                os.rename(path, place / path.name)
    if not new.exists():
        (work / "job.json").unlink(missing_ok=True)
    if not (work / "job.json").exists():
        for path in work.iterdir():
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
    old = None
    if (out / "manifest.json").exists():
        old = store.open_features(out)
        sources = compare(old, job.manifest, work / "titles.csv")
        job = beyond(old, job, sources)
    if old and not job.names and old.manifest.data.titles == job.manifest.data.titles:
        note_source(old, job.source)
        return None
    if (work / "job.json").exists():
        there = disk.read_json(work / "job.json", Job, "an unfinished extraction", store.FORMAT)
        remedy = f"finish it with the command that began it, or delete {work}"
        refuse_other(there.identity, job.identity, f"{out}: an unfinished extraction there", remedy)
        return there
    if old and not job.manifest.files:
        added = set(job.names) - old.manifest.files.keys()
        # layers that are not there yet need all titles, and that gives the others, too
        sources[:] = -1 if added else sources
        kept = np.count_nonzero(sources >= 0)
        cli.say(f"{cli.count(len(sources), 'title')}: {kept:,} kept, {len(sources) - kept:,} to encode")
    lay_out(job, sources, out, work)
    return job


def compare(old, wanted, titles):
    """For each title, the row of earlier Features that has its text, or -1: (titles,) int64.

    wanted: a store.Manifest. Features of another kind, or of a wholly other set of titles, are a
    Problem.
    """
    there = old.manifest
    remedy = "use another --out, or delete that folder"
    now = store.identity(replace(wanted, data=there.data))
    refuse_other(store.identity(there), now, f"{old.folder}: the features there", remedy)
    earlier = old.titles_file()
    if there.data.titles == wanted.data.titles:
        return np.arange(there.data.rows)
    sources = find_sources(digests(earlier), digests(titles))
    kept = np.count_nonzero(sources >= 0)
    if kept < LEAST_KEPT * min(there.data.rows, wanted.data.rows):
        wrong = f"the features there are of other titles ({there.data.name}, now {wanted.data.name})"
        raise cli.Problem(f"{old.folder}: {wrong}; {remedy}")
    return sources


def refuse_other(old, new, what, remedy):
    """Raise a Problem that names the settings in which two identities differ."""
    # one that has not been used is in neither
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differ:
        raise cli.Problem(f"{what}: another {cli.listing(differ)}; {remedy}")


def digests(path):
    """The 128-bit digests of all titles in a file: (titles,) S16.

    They stand for the texts, which would not fit into memory: that two of a billion share one is
    less likely than that the memory errs.
    """
    found = bytearray()
    for title, _ in store.titles_in(path):
        found += hashlib.blake2b(title.encode(), digest_size=16).digest()
    return np.frombuffer(found, "S16")


def find_sources(old, new):
    """For each of (new,) texts, the first of (old,) ones that equals it, or -1: (new,) int64."""
    if np.array_equal(old, new):
        return np.arange(len(new))
    texts, first = np.unique(old, return_index=True)
    places = np.searchsorted(texts, new).clip(max=len(texts) - 1)
    return np.where(texts[places] == new, first[places], -1)


def beyond(old, job, sources):
    """A Job without what earlier Features hold, and with all of their layers."""
    there = old.manifest
    wanted = job.manifest
    is_same = np.array_equal(sources, np.arange(there.data.rows))
    # damage that is copied would never be found again
    check = functools.partial(old.read, check=not is_same)
    disk.each(check, *zip(*map(store.column_of, there.files), strict=True))
    kept = there.files if is_same else {}
    names = sorted({*there.files, *job.names} - kept.keys())
    for name in names:
        if name not in there.files and (old.folder / name).exists():
            raise cli.Problem(f"{old.folder / name}: in the way, and no file of these features; move it elsewhere")
    # runs are bound to what is there, also where titles or weights go by another name today
    manifest = replace(
        wanted,
        encoder=replace(there.encoder, checked=wanted.encoder.checked),
        data=there.data if there.data.titles == wanted.data.titles else wanted.data,
        files=kept,
        truncated=there.truncated,
        cost=there.cost,
    )
    return replace(job, manifest=manifest, names=names, follows=there.data.titles)


def note_source(old, source):
    """Have the manifest name the file that the titles stand in today."""
    made = old.manifest.made
    if made and made.source != source:
        manifest = replace(old.manifest, made=replace(made, source=source))
        disk.write_json(old.folder / "manifest.json", manifest)


def lay_out(job, sources, out, work):
    """Make the folder that is to be: what stays is linked, the rest laid out in full size."""
    say_room(job, out, work)
    new = work / "new"
    new.mkdir()
    for name in job.manifest.files:
        link(out / name, new / name)
    for name in job.names:
        shape = (job.manifest.data.rows, job.manifest.encoder.hidden)
        np.lib.format.open_memmap(new / name, "w+", job.manifest.settings.store, shape)
        reserve(new / name)
    os.replace(work / "titles.csv", new / "titles.csv")
    np.save(work / "sources.npy", sources)
    disk.write_json(work / "job.json", job)


def say_room(job, out, work):
    """Say how much room the layer files need; too little is a Problem."""
    manifest = job.manifest
    numbers = manifest.data.rows * manifest.encoder.hidden * len(job.names)
    needed = numbers * np.dtype(manifest.settings.store).itemsize / 1e9
    free = shutil.disk_usage(work).free / 1e9
    files = f"{cli.count(len(job.names), 'layer file')} of {cli.count(manifest.data.rows, 'title')}"
    room = f"{files}: {max(needed, 0.01):,.2f} GB; the disk has {free:,.2f} GB free"
    if needed > free:
        raise cli.Problem(f"{out}: {room}; use --store float16, fewer layers or another --out")
    if job.names:
        cli.say(room)


def link(old, new):
    """Have a file stand in a second folder, too."""
    try:
        os.link(old, new)
    except OSError:  # not every disk can
        shutil.copyfile(old, new)


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


def own_windows(job, left, work):
    """Yield (number, titles) for each of the windows that this process is to compute."""
    mine = set(left[windows.RANK :: windows.WORLD])
    titles = (title for title, _ in store.titles_in(work / "new" / "titles.csv"))
    for window in range(job.windows):
        block = list(itertools.islice(titles, job.manifest.settings.window))
        if window in mine:
            yield window, block


def earlier_layers(job, out):
    """What rows are copied from: {name: (earlier titles, hidden), or None for a new layer}."""
    if not job.follows:
        return dict.fromkeys(job.names)
    old = store.open_features(out)
    earlier = {}
    for name in job.names:
        # every byte was compared by the process that prepared the job
        is_there = name in old.manifest.files
        earlier[name] = old.read(*store.column_of(name), check=False) if is_there else None
    return earlier


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
    first = window * settings.window
    if not np.isfinite(block).all():
        where = f"{name}, titles {first + 1:,} to {first + len(rows):,}"
        remedy = "use --dtype float32 --store float32, or another layer or encoder"
        raise cli.Problem(f"{where}: features that are not finite; {remedy}")
    with open(work / "new" / name, "r+b") as file:
        # the rows end the file; writing, unlike mapping, takes no memory and reports a full disk
        file.seek((first - job.manifest.data.rows) * block[0].nbytes, os.SEEK_END)
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

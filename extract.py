"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    torchrun --nproc-per-node 2 extract.py --layers all

Layers are numbered from 1, the first, or from -1, the last; 0 is the embedding output. Titles pass through in windows:
tokenised, copies computed once, sorted by length, batched by tokens. A window is the unit that is written, recorded and
shared among processes, so an interrupted run goes on after its last window.
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add, dtypes = parser.add_argument, ("auto", "float32", "bfloat16", "float16")
    what = "titles: the report's data set (downloaded once), the sample of this project, or a CSV file"
    add("--data", default="youtube", metavar="youtube|sample|FILE", help=what)
    add("--text-column", default="title", help="column of the titles")
    add("--label-column", default="category", help="column of the categories")
    what = "encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs"
    add("--model", default="bert-base-uncased", metavar="NAME", help=what)
    add("--layers", nargs="+", default=["all"], metavar="N", help="all, or numbers such as 12 11 or -1 -2")
    add("--pooling", nargs="+", choices=cli.POOLINGS, default=["cls"], help="[CLS], the mean over all tokens, or both")
    what = "longer titles are cut, and counted"
    add("--max-length", type=cli.number(int, 3), default=128, metavar="TOKENS", help=what)
    what = "arithmetic of the encoder; auto is bfloat16 where the machine multiplies it fast, else float32"
    add("--dtype", choices=dtypes, default="auto", help=what)
    add("--store", choices=("float32", "float16"), default="float32", help="numbers on disk")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    what = "titles that are computed, written and recorded together"
    add("--window", type=cli.number(int, 1, 1 << 20), default=4096, metavar="TITLES", help=what)
    add("--out", default="features", metavar="FOLDER", help="where the features go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)  # before the slow imports, so that --help is answered at once

import contextlib
import datetime
import errno
import itertools
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import data
import store
from encoder import embed, load_encoder, windows_ahead

# Layer files get their final names at once. They are features as soon as manifest.json, which is written last, names
# them. Until then job.json says whose they are, and each process records in a done-*.log which windows it has written.
RECORDS = ("done-*.log", "job.json")  # in the order of deletion: without the job, the rest would look like a stranger's
UNNAMED = (".titles.csv.*.tmp", ".job.json.*.tmp", ".manifest.json.*.tmp")  # what a killed process would have renamed


def clear(out, *patterns):
    """Delete the files that have these names."""
    for path in itertools.chain(*map(out.glob, patterns)):
        path.unlink()


def refuse_strangers(out):
    """Raise a Problem where `out` is somebody's folder of other things, in which our files could replace theirs."""
    leftovers = {path.name for pattern in UNNAMED for path in out.glob(pattern)}
    names = sorted({path.name for path in out.iterdir()} - leftovers - {".lock"})
    if names and not {"manifest.json", "job.json"} & {*names}:
        raise cli.Problem(f"--out {out}: this folder holds other files ({names[0]}); name a new or empty one")


def refuse_mixture(there, wanted, out, state):
    """Raise a Problem that names the settings in which the features that are there differ from those wanted."""
    old, new = store.identity(there), store.identity(wanted)
    differ = [key for key in new if old.get(key) != new[key]]
    for settings, manifest in ((old, there), (new, wanted)):  # compared by checksum, shown by name
        settings |= {"encoder weights": manifest["encoder"]["name"], "titles": manifest["data"]["name"]}
    if differ:
        shown = ", another ".join(f"{key} ({old.get(key)}, now {new[key]})" for key in differ)
        raise cli.Problem(f"{out}: {state} with another {shown}; use another --out, or delete that folder")


def prepare(args, path, titles, counts, encoder, out):
    """What is left to do, as a job: a manifest without what `finish` adds, `names` of files to make, windows `left`.

    path: the user's file; titles: the path of what data.copy_titles wrote; counts: what it returned. Returns None where
    everything asked for is there already. An unfinished job of the same kind goes on.
    """
    layers = store.resolve_layers(args.layers, encoder.info["layers"], encoder.name, args.pooling)
    name = args.data if args.data in ("youtube", "sample") else cli.one_line(path.name)
    columns = {"text_column": args.text_column, "label_column": args.label_column}
    chosen = {"max_length": args.max_length, "dtype": str(encoder.dtype).removeprefix("torch."), "store": args.store}
    job = {
        "format": store.FORMAT,
        "encoder": encoder.info,
        "data": {"name": name, "sha256": store.sha256(path), **columns, **counts},
        "settings": {**chosen, "window": args.window, "device": encoder.device.type},
        "files": {},
        "names": [store.feature_file(pooling, layer) for pooling in sorted(set(args.pooling)) for layer in layers],
    }
    finished, begun = (out / "manifest.json").exists(), (out / "job.json").exists()
    if finished:
        there = store.open_features(out)
        refuse_mixture(there.manifest, job, out, "holds features")
        there.titles_file()
        # runs are bound to these, also where the same titles or weights go by another name today
        job |= {key: there.manifest[key] for key in ("encoder", "data", "files")}
        for name in job["files"].keys() & job["names"]:
            there.read(*store.column_of(name), check=False)
        job["names"] = [name for name in job["names"] if name not in job["files"]]
    if begun:
        old = store.read_json(out / "job.json", "an unfinished extraction")
        if job["files"].keys() >= {*old["names"]}:  # it was killed when it had nothing left to do
            clear(out, *RECORDS)
            begun = False
    if not job["names"]:
        return None
    paths = [out / name for name in job["names"]]
    if begun:
        refuse_mixture(old, job, out, "holds an unfinished extraction")
        if old["names"] != job["names"]:
            what = f"holds an unfinished extraction of {' '.join(old['names'])}"
            raise cli.Problem(f"{out}: {what}; finish it with the command that began it, or use another --out")
    else:
        for taken in filter(Path.exists, [*paths, *out.glob("done-*.log")]):
            raise cli.Problem(f"{taken}: in the way, and the manifest does not name it; move it elsewhere")
        needed = np.dtype(args.store).itemsize * encoder.info["hidden"] * counts["rows"] * len(paths) / 1e9
        if needed > (free := shutil.disk_usage(out).free / 1e9):
            hint = "use --store float16, fewer layers or another --out"
            raise cli.Problem(f"{out}: the features need {needed:.2f} GB, the disk has {free:.2f} GB free; {hint}")
        store.write_json(out / "job.json", job)
    if not all(map(Path.exists, paths)):
        clear(out, "done-*.log")  # where a layer is gone, all windows have to be computed again
    done = set(recorded(out)[:, 0].tolist())
    try:
        for path in () if done else paths:
            np.lib.format.open_memmap(path, "w+", args.store, (counts["rows"], encoder.info["hidden"]))
            with open(path, "r+b") as file:
                reserve(file.fileno(), path.stat().st_size)
    except OSError:
        clear(out, *job["names"], *(() if finished else ("titles.csv",)), *RECORDS)
        raise
    if not finished:
        os.replace(titles, out / "titles.csv")
    return {**job, "left": sorted({*range(-(-counts["rows"] // args.window))} - done)}


def reserve(file, size):
    """Take a file's room on the disk: one that fills up later cannot hurt us then. Not every system and disk can."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def recorded(out):
    """What all processes have written: (n, 3) int64 of window, titles, titles cut. A torn record has no full stop."""
    lines = "".join(log.read_text(errors="replace") for log in out.glob("done-*.log"))
    return np.array(re.findall(r"^(\d+) (\d+) (\d+)\.", lines, re.MULTILINE), np.int64).reshape(-1, 3)


def extract_windows(job, encoder, out, rank, world):
    """Compute this process's share of the windows that are not recorded yet, writing and recording each."""
    size, rows, dtype = job["settings"]["window"], job["data"]["rows"], np.dtype(job["settings"]["store"])
    columns = [store.column_of(name) for name in job["names"]]
    poolings, layers = (sorted(set(values)) for values in zip(*columns, strict=True))
    mine = set(job["left"][rank::world])
    titles = (title for title, _ in store.titles_in(out / "titles.csv"))
    windows = enumerate(iter(lambda: list(itertools.islice(titles, size)), []))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(out / name, "r+b")) for name in job["names"]]
        log = stack.enter_context(open(out / f"done-{rank:05d}.log", "a"))
        bar = stack.enter_context(cli.progress(rows, " titles", desc="extract", initial=recorded(out)[:, 1].sum()))
        for window, tokenised in windows_ahead(encoder, (item for item in windows if item[0] in mine)):
            values = embed(encoder, tokenised, layers, poolings, bar.update)
            for (pooling, layer), file in zip(columns, files, strict=True):
                block = np.ascontiguousarray(values[pooling, layer], dtype)
                if not np.isfinite(block).all():
                    where = f"layer {layer}, {pooling}, titles {window * size + 1:,} to {window * size + len(block):,}"
                    raise cli.Problem(f"{where}: features that are not finite; use --dtype float32 --store float32")
                # rows are the end of the file; written, not mapped: no memory is taken, and a full disk is an error
                file.seek((window * size - rows) * block[0].nbytes, os.SEEK_END)
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            log.write(f"\n{window} {len(block)} {tokenised[2]}.")
            log.flush()
            os.fsync(log.fileno())
            if not bar.disable:
                bar.update(recorded(out)[:, 1].sum() - bar.n)


def finish(job, out, started, **machine):
    """Write the manifest, which makes the files of a complete job features; safe to repeat after a crash."""
    for name in job["names"]:
        job["files"][name] = {"bytes": (out / name).stat().st_size, "sha256": store.sha256(out / name)}
    manifest = {key: job[key] for key in ("format", "encoder", "data", "settings")}
    manifest |= {"truncated": int(recorded(out)[:, 2].sum()), "files": dict(sorted(job["files"].items()))}
    store.write_json(out / "manifest.json", manifest | store.provenance(started, **machine))
    clear(out, *RECORDS)
    return manifest["truncated"]


def together(call, *args, **options):
    """Do what needs all processes: where another has ended, this one ends as well, without a traceback."""
    if dist.is_initialized():
        try:
            call(*args, **options)
        except RuntimeError:
            raise cli.Problem("another process has ended; its message says why") from None


def main(args):
    started, out = time.time(), Path(args.out)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cli.STATE["quiet"] |= rank > 0
    following = f"Next: {cli.command('train.py', features=(args.out, 'features'))}"
    with contextlib.ExitStack() as stack:
        if world > 1:
            # a process that dies is noticed at once; one that is slow, or lays out huge files, is waited for
            dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
            stack.callback(dist.destroy_process_group)
        if rank == 0:  # what is wrong with the titles should not cost the loading, or the download, of an encoder
            stack.enter_context(store.locked(out, "an extraction"))
            refuse_strangers(out)
            clear(out, *UNNAMED)
            path, titles = data.find_titles(args.data), out / ".titles.csv.checked.tmp"
            stack.callback(clear, out, titles.name)
            with open(titles, "wb") as file:
                counts = data.copy_titles(path, args.text_column, args.label_column, file)
                file.flush()
                os.fsync(file.fileno())
            notes = counts.pop("notes")
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling)
        shared = [prepare(args, path, titles, counts, encoder, out) if rank == 0 else None]
        together(dist.broadcast_object_list, shared, src=0)
        job = shared[0]
        if job is None:
            cli.say(f"{out} holds all of that already. {following}")
            return
        rows = job["data"]["rows"]
        if done := recorded(out)[:, 1].sum():
            cli.say(f"going on after {done:,} of {rows:,} titles")
        try:
            extract_windows(job, encoder, out, rank, world)
            together(dist.barrier)
            if rank > 0:
                return
            # float32 where the processor has no instructions for what the weights are rounded to
            numbers = str(encoder.model.dtype).removeprefix("torch.")
            cut = finish(job, out, started, threads=torch.get_num_threads(), processes=world, arithmetic=numbers)
        except KeyboardInterrupt:
            safe = f"stopped after {recorded(out)[:, 1].sum():,} of {rows:,} titles"
            raise KeyboardInterrupt(f"{safe}; the same command goes on from there") from None
        made = f"{cli.count(len(job['names']), 'layer file')} from {encoder.name} in {job['settings']['dtype']}"
        taken = f"{time.time() - started:.1f} s{f' on {world} processes' if world > 1 else ''}"
        if cut:
            notes.append(f"{cli.count(cut, 'title')} cut at {args.max_length} tokens; --max-length keeps more")
        for note in notes:
            cli.say(note)
        cli.say(f"{out}: {rows:,} titles of {job['data']['name']}, {made}, {taken}. {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

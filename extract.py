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
    tokens = cli.number(int, 3)
    add("--max-length", type=tokens, default=128, metavar="TOKENS", help="longer titles are cut, and counted")
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
import tempfile
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


def refuse_strangers(out):
    """Raise a Problem where `out` is somebody's folder of other things, in which our files could replace theirs.

    Files that a killed process of ours was about to rename are deleted: the lock says that we are alone here.
    """
    leftovers = [path for name in ("titles.csv", "job.json", "manifest.json") for path in out.glob(f".{name}.*.tmp")]
    strangers = sorted(path.name for path in {*out.iterdir()} - {out / ".lock", *leftovers})
    if strangers and not {"manifest.json", "job.json"} & {*strangers}:
        example = cli.one_line(strangers[0])
        raise cli.Problem(f"--out {out}: this folder holds other files ({example}); name a new or empty one")
    for leftover in leftovers:
        leftover.unlink()


def refuse_mixture(there, wanted, out, state):
    """Raise a Problem that names the settings in which the features that are there differ from those wanted."""

    def shown(manifest):
        names = {"encoder weights": manifest["encoder"]["name"], "titles": manifest["data"]["name"]}
        return store.identity(manifest) | names | {"tokenizer": manifest["encoder"]["tokenizer"][:12]}

    old, new = store.identity(there), store.identity(wanted)
    differ = [f"{key} ({shown(there).get(key)}, now {shown(wanted)[key]})" for key in new if old.get(key) != new[key]]
    if differ:
        what = f"{state} with another {', another '.join(differ)}"
        raise cli.Problem(f"{out}: {what}; use another --out, or delete that folder")


def prepare(args, path, titles, counts, encoder, out):
    """What is left to do, as a job: a manifest without what `finish` adds, `names` of files to make, windows `left`.

    path: the user's file; titles: an open file with what data.copy_titles wrote; counts: what it returned. Returns None
    where everything asked for is there already. An unfinished job of the same kind goes on.
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
    old = store.read_json(out / "job.json", "an unfinished extraction") if begun else {"names": []}
    if finished:
        there = store.open_features(out)
        refuse_mixture(there.manifest, job, out, "holds features")
        there.titles_file()
        # runs are bound to these, also where the same titles or weights go by another name today
        job |= {key: there.manifest[key] for key in ("encoder", "data", "files")}
        for name in job["files"].keys() & job["names"]:
            there.read(*store.column_of(name), check=False)
        job["names"] = [name for name in job["names"] if name not in job["files"]]
        if begun and job["files"].keys() >= {*old["names"]}:  # it was killed when it had nothing left to do
            clear(out, *RECORDS)
            begun = False
        if not job["names"]:
            return None
    paths = [out / name for name in job["names"]]
    if begun:
        refuse_mixture(old, job, out, "holds an unfinished extraction")
        if old["names"] != job["names"]:
            rest = "these files, job.json and done-*.log there" if finished else "that folder"
            hint = f"finish it with the command that began it, or delete {rest}"
            raise cli.Problem(f"{out}: holds an unfinished extraction of {' '.join(old['names'])}; {hint}")
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
    with contextlib.ExitStack() as undo:
        if not done:
            undo.callback(clear, out, *job["names"], *["titles.csv"][finished:], *RECORDS)
        if not finished:
            with store.atomic(out / "titles.csv") as file:
                titles.seek(0)
                shutil.copyfileobj(titles, file)
        for path in paths if not done else ():
            lay_out(path, (counts["rows"], encoder.info["hidden"]), args.store)
        undo.pop_all()
    return {**job, "left": sorted({*range(-(-counts["rows"] // args.window))} - done)}


def lay_out(path, shape, dtype):
    """Make an .npy file of full size, its room on the disk taken: a disk that fills up later cannot hurt us then."""
    np.lib.format.open_memmap(path, "w+", dtype, shape)
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except (AttributeError, OSError) as error:  # not every system and disk can reserve room
            if getattr(error, "errno", errno.EOPNOTSUPP) not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


RECORDS = ("done-*.log", "job.json")  # in the order of deletion: without the job, the rest would look like a stranger's


def clear(out, *patterns):
    """Delete the files that have these names."""
    for path in itertools.chain(*map(out.glob, patterns)):
        path.unlink()


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
        before = recorded(out)[:, 1].sum()
        bar = stack.enter_context(cli.progress(rows, " titles", desc="extract", initial=before))
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
    return manifest


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
            path = data.find_titles(args.data)
            titles = stack.enter_context(tempfile.TemporaryFile(dir=out, prefix=".titles.csv.", suffix=".tmp"))
            counts = data.copy_titles(path, args.text_column, args.label_column, titles)
            titles.flush()
            notes = counts.pop("notes", [])
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling)
        shared = [prepare(args, path, titles, counts, encoder, out) if rank == 0 else None]
        together(dist.broadcast_object_list, shared, src=0)
        job = shared[0]
        if job is None:
            cli.say(f"{out} holds all of that already. {following}")
            return
        source, done = job["data"], recorded(out)[:, 1].sum()
        if rank == 0 and done:
            cli.say(f"going on after {done:,} of {source['rows']:,} titles")
        try:
            extract_windows(job, encoder, out, rank, world)
            together(dist.barrier)
            if rank > 0:
                return
            # float32 where the processor has no instructions for what the weights are rounded to
            numbers = str(encoder.model.dtype).removeprefix("torch.")
            manifest = finish(job, out, started, threads=torch.get_num_threads(), processes=world, arithmetic=numbers)
        except KeyboardInterrupt:
            safe = f"stopped after {recorded(out)[:, 1].sum():,} of {source['rows']:,} titles"
            raise KeyboardInterrupt(f"{safe}; the same command goes on from there") from None
        made = f"{cli.count(len(job['names']), 'layer file')} from {encoder.name} in {job['settings']['dtype']}"
        taken = f"{time.time() - started:.1f} s{f' on {world} processes' if world > 1 else ''}"
        cli.say(f"{out}: {source['rows']:,} titles of {source['name']}, {made}, {taken}. {following}")
        if cut := manifest["truncated"]:
            state = f"{cli.count(cut, 'title')} {'is' if cut == 1 else 'are'} longer than {args.max_length} tokens"
            notes.append(f"{state} and cut there; --max-length keeps more")
        for note in notes:
            cli.say(note)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    torchrun --nproc-per-node 2 extract.py --layers all

Titles pass through in windows: tokenised, copies computed once, sorted by length, batched by tokens. A window is the
unit that is written, recorded and shared among processes, so an interrupted run goes on after its last window.
"""

import argparse

import cli

DEFAULT_MODEL = "bert-base-uncased"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data",
        default="youtube",
        metavar="youtube|sample|FILE",
        help="titles: the report's data set (downloaded once), the sample of this project, or a CSV file (default: youtube)",
    )
    add("--text-column", default="title", help="column of the titles (default: title)")
    add("--label-column", default="category", help="column of the categories (default: category)")
    add(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs "
        f"(default: {DEFAULT_MODEL})",
    )
    add(
        "--layers",
        nargs="+",
        default=["all"],
        metavar="N",
        help="all, or layers from 1 (first) upwards, or -1 (last), -2 …; 0 is the embedding output (default: all)",
    )
    add(
        "--pooling",
        nargs="+",
        choices=cli.POOLINGS,
        default=["cls"],
        help="the [CLS] embedding, the mean over all tokens, or both (default: cls)",
    )
    add(
        "--max-length",
        type=cli.number(int, 3),
        default=128,
        metavar="TOKENS",
        help="longer titles are cut, and counted (default: 128)",
    )
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="arithmetic of the encoder; auto is bfloat16 where the machine multiplies it fast, else float32 (default: auto)",
    )
    add("--store", choices=("float32", "float16"), default="float32", help="numbers on disk (default: float32)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute (default: auto)")
    add(
        "--window",
        type=cli.number(int, 1, 1 << 20),
        default=4096,
        metavar="TITLES",
        help="titles that are computed, written and recorded together (default: 4096)",
    )
    add("--out", default="features", metavar="FOLDER", help="where the features go (default: features)")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(
        parse_arguments
    )  # before the slow imports, so that --help and wrong options are answered at once

import contextlib
import datetime
import errno
import itertools
import os
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import data
import store
from encoder import embed, load_encoder, windows_ahead

# --- a whole extraction -------------------------------------------------------------------------------------------


def prepare(args, path, encoder, out):
    """Check the titles and the folder and lay out `out`/partial: what is wanted, the titles, and files of full size.

    Returns the job, or None where everything asked for is there already. An unfinished job of the same kind goes on.
    """
    partial, fresh = out / "partial", out / "titles.new"
    layers = store.resolve_layers(args.layers, encoder.info["layers"], encoder.name, args.pooling)
    with store.atomic(fresh, "wb") as file:
        titles = data.copy_titles(path, args.text_column, args.label_column, file)
    try:
        manifest = {
            "format": store.FORMAT,
            "encoder": encoder.info,
            "data": {
                "name": cli.one_line(path.name) if args.data not in ("youtube", "sample") else args.data,
                "sha256": store.sha256(path),
                "text_column": args.text_column,
                "label_column": args.label_column,
                **titles,
            },
            "settings": {
                "max_length": args.max_length,
                "dtype": str(encoder.dtype).removeprefix("torch."),
                "store": args.store,
                "window": args.window,
                "device": encoder.device.type,
            },
        }
        names = [store.feature_file(pooling, layer) for pooling in sorted(args.pooling) for layer in layers]
        kept = {}
        if (out / "manifest.json").exists():
            there = store.open_features(out)
            refuse_mixture(there.manifest, manifest, out, "holds features")
            kept = there.manifest["files"]
            # runs are bound to these, also where the same titles or weights go by another name today
            manifest.update(encoder=there.manifest["encoder"], data=there.manifest["data"])
            for pooling, layer in itertools.product(args.pooling, layers):
                if store.feature_file(pooling, layer) in kept:
                    there.read(pooling, layer, check=False)
            names = [name for name in names if name not in kept]
            if not names:
                shutil.rmtree(partial, ignore_errors=True)
                return None
        job = {**manifest, "names": names}

        def with_rest(job):
            done = recorded(partial)
            return {**job, "kept": kept, "left": [w for w in range(-(-titles["rows"] // args.window)) if w not in done]}

        if (partial / "job.json").exists():
            old = store.read_json(partial / "job.json", "an unfinished extraction")
            if not kept.keys() >= set(old["names"]):  # else it only had its own folder left to delete
                refuse_mixture(old, manifest, partial, "holds an unfinished extraction")
                if old["names"] != names:
                    raise cli.Problem(
                        f"{partial}: holds an unfinished extraction of {' '.join(old['names'])}; finish "
                        "it with the command that began it, or delete that folder"
                    )
                rest = with_rest(old)
                lost = [name for name in ("titles.csv", *names) if rest["left"] and not (partial / name).exists()]
                if lost:
                    raise cli.Problem(f"{partial / lost[0]}: gone; delete {partial} to begin again")
                return rest
        row = np.dtype(args.store).itemsize * encoder.info["hidden"]
        needed, free = row * titles["rows"] * len(names), shutil.disk_usage(out).free
        if needed > free:
            raise cli.Problem(
                f"{out}: the features need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
                "use --store float16, fewer layers or another --out"
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        os.replace(fresh, partial / "titles.csv")
        for name in names:
            with open(partial / name, "wb") as file:
                np.lib.format.write_array_header_1_0(
                    file,
                    {
                        "descr": np.lib.format.dtype_to_descr(np.dtype(args.store)),
                        "fortran_order": False,
                        "shape": (titles["rows"], encoder.info["hidden"]),
                    },
                )
                end = file.tell() + row * titles["rows"]
                file.flush()
                try:
                    os.posix_fallocate(file.fileno(), 0, end)  # a disk that fills up later cannot hurt us then
                except (AttributeError, OSError) as error:
                    if getattr(error, "errno", errno.EOPNOTSUPP) not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise
                    file.truncate(end)  # not every system and disk can reserve space
        store.write_json(partial / "job.json", job)
        return with_rest(job)
    except BaseException:
        if not (partial / "job.json").exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        fresh.unlink(missing_ok=True)


def refuse_strangers(out):
    """Raise a Problem where `out` is somebody's folder of other things, in which our files could replace theirs."""
    if (out / "manifest.json").exists() or (out / "partial" / "job.json").exists():
        return
    ours = (".lock", "partial", "titles.new")
    strangers = sorted(p.name for p in out.iterdir() if p.name not in ours and not p.name.startswith(".titles.new."))
    if strangers:
        raise cli.Problem(
            f"--out {out}: this folder holds other files ({cli.one_line(strangers[0])}); name a new or empty one"
        )


def refuse_mixture(there, wanted, folder, state):
    """Raise a Problem that names the settings in which the features that are there differ from those wanted."""
    old, new = store.identity(there), store.identity(wanted)
    names = {"encoder weights": there["encoder"]["name"], "titles": there["data"]["name"]}
    differ = [
        f"{key} ({names.get(key, str(old[key])[:12])}, now "
        f"{ {'encoder weights': wanted['encoder']['name'], 'titles': wanted['data']['name']}.get(key, str(new[key])[:12]) })"
        for key in new
        if old.get(key) != new[key]
    ]
    if differ:
        raise cli.Problem(
            f"{folder}: {state} with another {', another '.join(differ)}; use another --out, or delete that folder"
        )


def recorded(partial):
    """{window: titles cut} of all windows that any process has recorded as written. A torn last line does not count."""
    done = {}
    for log in partial.glob("done-*.log"):
        try:
            for line in log.read_text().split("\n")[:-1]:
                window, cut = map(int, line.split())
                done[window] = cut
        except ValueError:
            raise cli.Problem(f"{log}: damaged; delete {partial} to begin again") from None
    return done


def titles_done(job, partial):
    """How many titles are recorded as written."""
    size, rows = job["settings"]["window"], job["data"]["rows"]
    return sum(min(size, rows - window * size) for window in recorded(partial))


def extract_windows(job, encoder, partial, rank, world, quiet):
    """Compute this process's share of the windows that are not recorded yet, writing and recording each."""
    size, rows = job["settings"]["window"], job["data"]["rows"]
    keys = [name.removesuffix(".npy").split("-") for name in job["names"]]
    keys = {(pooling, int(layer)): name for (pooling, layer), name in zip(keys, job["names"])}
    poolings = tuple(dict.fromkeys(pooling for pooling, _ in keys))
    layers = sorted({layer for _, layer in keys})
    mine = set(job["left"][rank::world])
    kept_as = np.dtype(job["settings"]["store"])

    def windows():
        titles = (title for title, _ in store.titles_in(partial / "titles.csv"))
        for window in range(max(mine, default=-1) + 1):
            titles_here = list(itertools.islice(titles, size))
            if window in mine:
                yield window, titles_here

    with contextlib.ExitStack() as stack:
        files = {key: stack.enter_context(open(partial / name, "r+b")) for key, name in keys.items()}
        heads = {
            key: os.fstat(f.fileno()).st_size - rows * encoder.info["hidden"] * kept_as.itemsize
            for key, f in files.items()
        }
        log = stack.enter_context(open(partial / f"done-{rank:05d}.log", "a+"))
        log.seek(0)
        log.truncate(log.read().rfind("\n") + 1)  # a line that was torn by a crash was not recorded
        bar = stack.enter_context(cli.progress(rows, " titles", quiet or rank > 0, desc="extract"))
        bar.update(titles_done(job, partial))
        for window, tokenised in windows_ahead(encoder, windows()):
            values = embed(encoder, tokenised, layers, poolings, bar.update)
            for key, file in files.items():
                block = np.ascontiguousarray(values[key], dtype=kept_as)
                if not np.isfinite(block).all():
                    raise cli.Problem(
                        f"layer {key[1]}: the {key[0]} features of titles {window * size + 1:,} to "
                        f"{window * size + len(block):,} are not finite; use --dtype float32 --store float32"
                    )
                file.seek(heads[key] + window * size * block[0].nbytes)
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            log.write(f"{window} {tokenised[2]}\n")
            log.flush()
            os.fsync(log.fileno())
            if not bar.disable:
                bar.update(titles_done(job, partial) - bar.n)


def finish(job, out, world, started):
    """Give the files of a complete job their final names and write the manifest; safe to repeat after a crash."""
    partial = out / "partial"
    cut = sum(recorded(partial).values())
    for name in [*job["names"], "titles.csv"]:
        if (partial / name).exists():
            os.replace(partial / name, out / name)
    files = dict(job["kept"])
    for name in job["names"]:
        files[name] = {"bytes": (out / name).stat().st_size, "sha256": store.sha256(out / name)}
    import transformers

    manifest = {key: job[key] for key in ("format", "encoder", "data", "settings")}
    manifest["truncated"] = cut
    manifest["files"] = dict(sorted(files.items()))
    manifest["software"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }
    manifest["machine"] = {"processor": platform.machine(), "threads": torch.get_num_threads(), "processes": world}
    manifest["made"] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.time() - started, 2),
        "command": cli.one_line(shlex.join(["python", *sys.argv])),
    }
    store.write_json(out / "manifest.json", manifest)
    shutil.rmtree(partial)
    return manifest


@contextlib.contextmanager
def company():
    """Around what needs all processes: where another has ended, this one ends as well, without a traceback."""
    try:
        yield
    except RuntimeError:
        raise cli.Problem("another process has ended; its message says why") from None


def main(args):
    started, out = time.time(), Path(args.out)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if out.exists() and not out.is_dir():
        raise cli.Problem(f"--out {out}: this is a file; name a folder")
    if len(set(args.pooling)) < len(args.pooling):
        raise cli.Problem(f"--pooling {' '.join(args.pooling)}: named twice")
    next_option = cli.unless_default("--features", args.out, "features")
    with contextlib.ExitStack() as stack:
        if world > 1:
            # a process that dies is noticed at once; one that is slow, or lays out huge files, is waited for
            dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
            stack.callback(dist.destroy_process_group)
        if rank == 0:
            stack.enter_context(store.locked(out, "an extraction"))
            refuse_strangers(out)
            for leftover in [*out.glob(".titles.new.*.tmp"), *out.glob(".manifest.json.*.tmp")]:
                leftover.unlink()  # of a process that was killed: we are alone here
            path = data.find_titles(args.data, args.quiet)  # a wrong name should not cost the loading of an encoder
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling)
        shared = [prepare(args, path, encoder, out) if rank == 0 else None]
        if world > 1:
            with company():
                dist.broadcast_object_list(shared, src=0)
        job = shared[0]
        if job is None:
            cli.say(f"{out} holds all of that already. Next: python train.py{next_option}", args.quiet or rank > 0)
            return
        rows, partial = job["data"]["rows"], out / "partial"
        if rank == 0 and recorded(partial):
            cli.say(f"going on after {titles_done(job, partial):,} of {rows:,} titles", args.quiet)
        try:
            if job["left"]:
                extract_windows(job, encoder, partial, rank, world, args.quiet)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped after {titles_done(job, partial):,} of {rows:,} titles; the same command goes on from there"
            ) from None
        if world > 1:
            with company():
                dist.barrier()
        if rank == 0:
            manifest = finish(job, out, world, started)
            seconds = time.time() - started
            where = f" on {world} processes" if world > 1 else ""
            cli.say(
                f"{out}: {rows:,} titles of {job['data']['name']}, {len(job['names'])} "
                f"layer file{'s' * (len(job['names']) > 1)} from {encoder.name} in {manifest['settings']['dtype']}, "
                f"{seconds:.1f} s{where}. Next: python train.py{next_option}",
                args.quiet,
            )
            if manifest["truncated"]:
                cut = f"{manifest['truncated']:,} title{'s are' if manifest['truncated'] > 1 else ' is'}"
                cli.say(
                    f"{cut} longer than {args.max_length} tokens and cut there; --max-length keeps more", args.quiet
                )


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    python extract.py --data titles.csv --label-column topic --pooling cls mean
    python extract.py --data titles.csv --model ../my-encoder --pooling mean --out features-mine
    torchrun --nproc-per-node 2 extract.py --layers all

Layers are numbered from 1, the first, or from -1, the last; 0 is the embedding output. Titles pass
through in windows: tokenised, copies computed once, sorted by length, batched by tokens. A window
is written, recorded and computed by one process; an interrupted run goes on after its last one.
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add(
        "--data",
        default="youtube",
        metavar="youtube|sample|FILE",
        help="titles: the report's data set (downloaded once), the sample here, or a CSV, TSV or JSON Lines file",
    )
    add("--text-column", default="title", help="column of the titles")
    add("--label-column", default="category", help="column of the categories")
    add(
        "--model",
        default="bert-base-uncased",
        metavar="NAME",
        help="encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs",
    )
    add("--layers", nargs="+", default=["all"], metavar="N", help="all, or numbers such as 12 11 or -1 -2")
    add("--pooling", nargs="+", choices=cli.POOLINGS, default=["cls"], help="[CLS], the mean over all tokens, or both")
    at_least_3 = cli.number(int, 3)
    add("--max-length", type=at_least_3, default=128, metavar="TOKENS", help="longer titles are cut, and counted")
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="arithmetic of the encoder; auto is bfloat16 where the machine multiplies it fast, else float32",
    )
    add("--store", choices=("float32", "float16"), default="float32", help="numbers on disk")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    size = cli.number(int, 1, 1 << 20)
    add("--window", type=size, default=4096, metavar="TITLES", help="titles computed, written and recorded together")
    add("--out", default="features", metavar="FOLDER", help="where the features go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import datetime
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import data
import disk
import jobs
import store
from embedding import embed, windows_ahead
from encoder import cost, load_encoder

# torchrun says how many processes there are, and which of them this is
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


def check_titles(args, out):
    """The path of the user's file, and data.Checked of the copy of it that is made for the job."""
    jobs.refuse_strangers(out)
    jobs.clear(out, *jobs.UNNAMED)
    path = data.find_titles(args.data)
    with open(out / jobs.CHECKED, "wb") as file:
        titles = data.copy_titles(path, args.text_column, args.label_column, file)
        jobs.flush(file)
    return path, titles


def plan(args, path, titles, encoder):
    """The jobs.Job that the options ask for, whatever is there. path, titles: of check_titles."""
    layers = store.resolve_layers(args.layers, encoder.info.layers, encoder.name, args.pooling)
    columns = itertools.product(sorted(set(args.pooling)), layers)
    names = [store.feature_file(pooling, layer) for pooling, layer in columns]
    name = args.data if args.data in ("youtube", "sample") else cli.one_line(path.name)
    checksum = disk.sha256(path)
    headers = (args.text_column, args.label_column)
    source = store.TitlesInfo(name, checksum, titles.titles, titles.rows, *headers, titles.classes)
    dtype = str(encoder.dtype).removeprefix("torch.")
    settings = store.Settings(args.max_length, dtype, args.store, args.window, encoder.device.type)
    return jobs.Job(format=store.FORMAT, encoder=encoder.info, data=source, settings=settings, files={}, names=names)


def own_windows(job, out):
    """Yield (number, titles) for each window that this process is to compute."""
    mine = set(job.left[RANK::WORLD])
    titles = (title for title, _ in store.titles_in(out / "titles.csv"))
    for window in range(job.windows):
        block = list(itertools.islice(titles, job.settings.window))
        if window in mine:
            yield window, block


def extract_windows(job, encoder, out):
    """Compute this process's share of the windows that are left, writing and recording each."""
    columns = [store.column_of(name) for name in job.names]
    poolings = sorted({pooling for pooling, _ in columns})
    layers = sorted({layer for _, layer in columns})
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(out / name, "r+b")) for name in job.names]
        log = stack.enter_context(open(out / f"done-{RANK:05d}.log", "a"))
        done = jobs.recorded(out).titles
        bar = cli.progress(job.data.rows, " titles", desc="extract", initial=done)
        stack.enter_context(bar)
        first = True
        begun = time.time()
        for window, tokenised in windows_ahead(encoder, own_windows(job, out)):
            features = embed(encoder, tokenised, layers, poolings, bar.update)
            for column, file in zip(columns, files, strict=True):
                write_window(job, window, column, features[column], file)
            # only now is all of it on the disk
            log.write(f"\n{window} {len(tokenised.place)} {tokenised.cut} {tokenised.tokens}.")
            jobs.flush(log)
            if first:
                say_how_long(job, done, time.time() - begun)
                first = False
            if not bar.disable:
                # with what other processes have done
                bar.update(jobs.recorded(out).titles - bar.n)


def say_how_long(job, done, seconds):
    """Say how long all that is left will take, where one window took so many seconds of this
    process.

    done: titles that were there before.
    """
    # windows are of one size, but for the last one
    whole = seconds * len(job.left[RANK::WORLD])
    if whole <= 60:
        return
    duration = cli.count(round(whole / 60), "minute")
    if whole >= 7200:
        duration = f"{whole / 3600:,.0f} hours"
    left = cli.count(job.data.rows - done, "title")
    cli.say(f"{left} will take about {duration}")


def write_window(job, window, column, values, file):
    """Write features, (titles, hidden) float32, to their rows in the file of their layer."""
    first = window * job.settings.window
    block = np.ascontiguousarray(values, job.settings.store)
    if not np.isfinite(block).all():
        pooling, layer = column
        where = f"layer {layer}, {pooling}, titles {first + 1:,} to {first + len(block):,}"
        remedy = "use --dtype float32 --store float32"
        raise cli.Problem(f"{where}: features that are not finite; {remedy}")
    # the rows end the file; writing, unlike mapping, takes no memory and reports a full disk
    file.seek((first - job.data.rows) * block[0].nbytes, os.SEEK_END)
    file.write(block)
    jobs.flush(file)


def compute(job, encoder, out, started):
    """Do this process's share of a job; the manifest, or None in all processes but the first."""
    done = jobs.recorded(out).titles
    if done:
        cli.say(f"going on after {done:,} of {job.data.rows:,} titles")
    try:
        extract_windows(job, encoder, out)
        together(dist.barrier)
        if RANK > 0:
            return None
        # float32 where the processor has no instructions for what the weights are rounded to
        arithmetic = str(encoder.model.dtype).removeprefix("torch.")
        threads = torch.get_num_threads()
        expense = job.cost or cost(encoder, jobs.recorded(out).mean_tokens)
        return jobs.finish(job, out, expense, started, threads=threads, processes=WORLD, arithmetic=arithmetic)
    except KeyboardInterrupt:
        safe = f"stopped after {jobs.recorded(out).titles:,} of {job.data.rows:,} titles"
        raise KeyboardInterrupt(f"{safe}; the same command goes on from there") from None


def together(call, *args, **options):
    """Do what needs all processes; where another has ended, end this one, too, with no traceback."""
    if dist.is_initialized():
        try:
            call(*args, **options)
        except RuntimeError:
            raise cli.Problem("another process has ended; its message says why") from None


def main(args):
    started = time.time()
    out = Path(args.out)
    # the report's titles are for the report's head, others for all that is worth comparing
    survey = [] if args.data == "youtube" else ["--survey"]
    following = f"Next: {cli.command('train.py', *survey, features=(args.out, 'features'))}"
    if RANK > 0:
        cli.STATE["quiet"] = True
    with contextlib.ExitStack() as stack:
        if WORLD > 1:
            # who dies is noticed at once; who is slow, or lays out huge files, is waited for
            try:
                dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
            except (ValueError, RuntimeError) as error:
                raise cli.Problem(f"WORLD_SIZE is {WORLD}, but processes do not meet ({error}); use torchrun") from None
            stack.callback(dist.destroy_process_group)

        # check: wrong titles should not cost the loading, or the download, of an encoder
        if RANK == 0:
            stack.enter_context(disk.locked(out, "an extraction"))
            stack.callback(jobs.clear, out, jobs.CHECKED)
            path, titles = check_titles(args, out)

        # load
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling)
        shared = [None]
        if RANK == 0:
            shared = [jobs.prepare(plan(args, path, titles, encoder), out)]
        together(dist.broadcast_object_list, shared, src=0)
        job = shared[0]
        if job is None:
            cli.say(f"{out} holds all of that already. {following}")
            return

        # embed and write
        left = job.data.rows - jobs.recorded(out).titles
        begun = time.time()
        manifest = compute(job, encoder, out, started)
        seconds = time.time() - begun
        if manifest is None:
            return

    # say what was done
    for note in titles.notes:
        cli.say(note)
    if manifest.truncated:
        cut = cli.count(manifest.truncated, "title")
        cli.say(f"{cut} cut at {args.max_length} tokens; --max-length keeps more")
    made = f"{cli.count(len(job.names), 'layer file')} from {encoder.name} in {job.settings.dtype}"
    taken = f"{time.time() - started:.1f} s"
    if WORLD > 1:
        taken += f" on {WORLD} processes"
    if left:
        taken += f", {left / seconds:,.{int(left < 10 * seconds)}f} titles a second once loaded"
    cli.say(f"{out}: {job.data.rows:,} titles of {job.data.name}, {made}, {taken}. {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    python extract.py --data titles.csv --label-column topic --pooling cls mean
    python extract.py --data titles.csv --model ../my-encoder --pooling mean --out features-mine
    torchrun --nproc-per-node 2 -- extract.py --layers all

Layers are numbered from 1, the first, or from -1, the last; 0 is the embedding output. Titles pass
through in windows: tokenised, copies computed once, sorted by length, batched by tokens. A window
is written, recorded and computed by one process; an interrupted run goes on after its last one.
Where titles or labels of the file have changed, the same command encodes what is new and keeps the
rest.
"""

from whichlayer.common import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add(
        "--data",
        type=cli.place,
        default="youtube",
        metavar="youtube|sample|FILE",
        help="titles: the report's data set (downloaded once), the sample here, or a CSV, TSV, JSON or Parquet file",
    )
    add("--text-column", default="title", help="column of the titles")
    add("--label-column", default="category", help="column of the categories")
    add(
        "--model",
        type=cli.place,
        default="bert-base-uncased",
        metavar="NAME",
        help="encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs",
    )
    add("--layers", nargs="+", default=["all"], metavar="N", help="all, or numbers such as 12 11 or -1 -2")
    add("--pooling", nargs="+", choices=cli.POOLINGS, default=["cls"], help="[CLS], the mean over all tokens, or both")
    at_least_3 = cli.number(int, 3)
    add("--max-length", type=at_least_3, default=128, metavar="TOKENS", help="longer titles are cut, and counted")
    add(
        "--prefix",
        default="",
        metavar="TEXT",
        help='put before every title, as some encoders want: "query: " for E5; part of its tokens',
    )
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
    add("--out", type=cli.place, default="features", metavar="FOLDER", help="where the features go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import functools
import gc
import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import data
from whichlayer.common import disk, windows
from whichlayer.encoder import jobs, store
from whichlayer.encoder.embedding import embed, tokenise
from whichlayer.encoder.encoder import cost, load_encoder
from whichlayer.heads.options import Options

# tokens a word from which on a language is foreign to an encoder; characters a word, on average, above
# which spaces do not part words; share of tokens that stand for nothing that the encoder knows
FOREIGN = 2.5
LONGEST_WORD = 15
UNKNOWN = 0.05
# for titles of such a language
OTHER = "look for an encoder of their language, or a multilingual one"


def check_titles(args, out):
    """The path of the user's file, and data.Checked of the copy of it that is made for the job."""
    if data.fault(args.prefix):
        raise cli.Problem(f"--prefix: holds {data.fault(args.prefix)}; give it in UTF-8")
    jobs.clear(out, *jobs.UNNAMED)
    path = data.find_titles(args.data)
    with open(out / jobs.CHECKED, "wb") as file:
        titles = data.copy_titles(path, args.text_column, args.label_column, file)
        windows.flush(file)
    rare = data.rare_categories(titles.classes, Options.folds)
    if rare:
        cli.say(rare)
    return path, titles


def plan(args, path, titles, encoder):
    """The jobs.Job that the options ask for, whatever is there. path, titles: of check_titles."""
    layers = store.resolve_layers(args.layers, encoder.info.layers, encoder.name, args.pooling)
    columns = itertools.product(sorted(set(args.pooling)), layers)
    names = [store.feature_file(pooling, layer) for pooling, layer in columns]
    name = args.data if args.data in ("youtube", "sample") else cli.one_line(path.name)
    source = disk.source(path)
    info = store.TitlesInfo(
        name=name,
        sha256=source.sha256,
        titles=titles.titles,
        rows=titles.rows,
        text_column=args.text_column,
        label_column=args.label_column,
        classes=titles.classes,
    )
    dtype = str(encoder.dtype).removeprefix("torch.")
    computed = (args.window, encoder.device.type)
    settings = store.Settings(args.max_length, dtype, args.store, *computed, args.prefix or None)
    made_by = (store.FORMAT, encoder.info, info, settings)
    return jobs.Job(*made_by, files={}, names=names, source=source)


def own_windows(job, work):
    """Yield (number, titles) for each window that this process is to compute."""
    mine = set(job.left[windows.RANK :: windows.WORLD])
    titles = (title for title, _ in store.titles_in(work / "titles.csv"))
    for window in range(job.windows):
        block = list(itertools.islice(titles, job.settings.window))
        if window in mine:
            yield window, block


def extract_windows(job, encoder, out):
    """Compute this process's share of the windows that are left, writing and recording each."""
    work = jobs.workplace(job, out)
    columns = [store.column_of(name) for name in job.names]
    poolings = sorted({pooling for pooling, _ in columns})
    layers = sorted({layer for _, layer in columns})
    sources = jobs.sources(job, work)
    earlier = earlier_features(job, columns, out)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(work / name, "r+b")) for name in job.names]
        log = stack.enter_context(windows.log_of(work))
        done = jobs.recorded(work).titles
        bar = cli.progress(job.data.rows, " titles", desc="extract", initial=done)
        stack.enter_context(bar)
        is_said = False
        begun = time.time()
        read = functools.partial(tokenise, encoder)
        for window, tokenised in windows.ahead(read, own_windows(job, work)):
            # encode what is new, copy what is not
            first = window * job.settings.window
            rows = sources[first : first + len(tokenised.place)]
            new = np.flatnonzero(rows < 0)
            encoded = embed(encoder, only(tokenised, new), layers, poolings, bar.update)
            write = functools.partial(write_window, job, window, rows)
            disk.each(write, columns, map(encoded.get, columns), map(earlier.get, columns), files)
            # only now is all of it on the disk
            counted = (tokenised.cut, tokenised.tokens, tokenised.unknown)
            windows.record(log, window, len(rows), *counted)
            if len(new) and not is_said:
                say_how_long(job, sources, time.time() - begun)
                is_said = True
            if not is_said:
                begun = time.time()
            if not bar.disable:
                # with what other processes have done
                bar.update(jobs.recorded(work).titles - bar.n)


def earlier_features(job, columns, out):
    """What rows are copied from: {column: (earlier titles, hidden) or None}."""
    found = dict.fromkeys(columns)
    if job.follows:
        there = store.open_features(out)
        for pooling, layer in columns:
            if layer in there.layers(pooling):
                # every byte was compared by the process that prepared the job
                found[pooling, layer] = there.read(pooling, layer, check=False)
    return found


def only(tokenised, rows):
    """Tokenised of some rows, (n,) int, of a window."""
    if len(rows) == len(tokenised.place):
        return tokenised
    numbers, place = np.unique(tokenised.place[rows], return_inverse=True)
    return replace(tokenised, ids=[tokenised.ids[number] for number in numbers], place=place)


def merge(encoded, rows, earlier):
    """The features of a window, (titles, hidden): rows of `earlier`, or encoded where they are -1.

    rows: (titles,) int.
    """
    is_kept = rows >= 0
    if not is_kept.any():
        return encoded
    if is_kept.all():
        return store.take(earlier, rows)
    values = np.empty((len(rows), encoded.shape[1]), earlier.dtype)
    values[is_kept] = store.take(earlier, rows[is_kept])
    values[~is_kept] = encoded
    return values


def left_to_encode(job, sources):
    """How many titles are to be encoded in each window that is left: (windows,) int."""
    starts = np.arange(0, job.data.rows, job.settings.window)
    return np.add.reduceat(sources < 0, starts, dtype=np.int64)[job.left]


def say_how_long(job, sources, seconds):
    """Say how long all that is left will take, where one window took so many seconds of this
    process.
    """
    left = left_to_encode(job, sources)
    # windows are of one size, but for the last one; copying takes no time
    whole = seconds * np.count_nonzero(left[windows.RANK :: windows.WORLD])
    if whole <= 60:
        return
    duration = cli.count(round(whole / 60), "minute")
    if whole >= 7200:
        duration = f"{whole / 3600:,.0f} hours"
    cli.say(f"{cli.count(left.sum(), 'title')} will take about {duration}")


def say_if_foreign(encoder, titles, tokens):
    """Say so where an encoder cuts words into many tokens, as it does with a language that it does
    not know. titles: data.Checked; tokens: the mean length of a title.
    """
    # some scripts have no spaces between words
    if titles.characters > LONGEST_WORD * titles.words:
        return
    special = encoder.tokenizer.num_special_tokens_to_add()
    prefix = len(encoder.tokenizer.tokenize(encoder.prefix))
    a_word = (tokens - special - prefix) * titles.rows / titles.words
    if a_word >= FOREIGN:
        cli.say(f"{a_word:.1f} tokens a word, where a language that an encoder knows takes 1 to 2: {OTHER}")


def say_if_unknown(encoder, found):
    """Say so where an encoder's vocabulary lacks much of the titles. found: jobs.Recorded of all."""
    if found.unknown > UNKNOWN * found.tokens:
        share = f"{found.unknown / found.tokens:.0%} of all tokens"
        cli.say(f"{share} are {encoder.tokenizer.unk_token}, for what the encoder's vocabulary lacks: {OTHER}")


def write_window(job, window, rows, column, encoded, earlier, file):
    """Write the features of a window to their rows in the file of their layer.

    rows, encoded, earlier: as of merge.
    """
    first = window * job.settings.window
    block = np.ascontiguousarray(merge(encoded, rows, earlier), job.settings.store)
    if not np.isfinite(block).all():
        pooling, layer = column
        where = f"layer {layer}, {pooling}, titles {first + 1:,} to {first + len(block):,}"
        remedy = "use --dtype float32 --store float32"
        if (job.settings.dtype, job.settings.store) == ("float32", "float32"):
            remedy = "they are beyond float32, too: choose another layer or encoder"
        raise cli.Problem(f"{where}: features that are not finite; {remedy}")
    # the rows end the file; writing, unlike mapping, takes no memory and reports a full disk
    file.seek((first - job.data.rows) * block[0].nbytes, os.SEEK_END)
    file.write(block)
    windows.flush(file)


def compute(job, encoder, out, started):
    """Do this process's share of a job; the manifest, or None in all processes but the first."""
    work = jobs.workplace(job, out)
    done = jobs.recorded(work).titles
    if done:
        cli.say(f"going on after {done:,} of {job.data.rows:,} titles")
    try:
        # none, where only labels have changed
        if job.names:
            extract_windows(job, encoder, out)
        windows.wait()
        if windows.RANK > 0:
            return None
        # float32 where the processor has no instructions for what the weights are rounded to
        arithmetic = str(encoder.model.dtype).removeprefix("torch.")
        threads = torch.get_num_threads()
        machine = {"threads": threads, "processes": windows.WORLD, "arithmetic": arithmetic}
        found = jobs.recorded(work)
        say_if_unknown(encoder, found)
        expense = job.cost or cost(encoder, found.mean_tokens)
        return jobs.finish(job, out, expense, started, **machine)
    except KeyboardInterrupt:
        safe = f"stopped after {jobs.recorded(work).titles:,} of {job.data.rows:,} titles"
        raise KeyboardInterrupt(f"{safe}; the same command goes on from there") from None


def main(args):
    started = time.time()
    out = Path(args.out)
    # the report's titles are for the report's head, others for all that is worth comparing
    survey = [] if args.data == "youtube" else ["--survey"]
    following = f"Next: {cli.command('train.py', *survey, features=(args.out, 'features'))}"
    with windows.meeting(), contextlib.ExitStack() as stack:
        # check: wrong titles should not cost the loading, or the download, of an encoder
        if windows.RANK == 0:
            # nothing is left in a folder that is not ours
            jobs.refuse_strangers(out)
            stack.enter_context(disk.locked(out, "an extraction"))
            stack.callback(jobs.clear, out, jobs.CHECKED)
            path, titles = check_titles(args, out)

        # load
        kind = (args.device, args.dtype, args.max_length, args.pooling, args.prefix)
        encoder = load_encoder(args.model, *kind)
        # all of it stays: nor is garbage to be looked for in it later
        gc.freeze()
        job = None
        if windows.RANK == 0:
            job = jobs.prepare(plan(args, path, titles, encoder), out)
        job = windows.from_first(job)
        if job is None:
            cli.say(f"{out} holds all of that already. {following}")
            return

        # embed and write
        to_encode = left_to_encode(job, jobs.sources(job, jobs.workplace(job, out))).sum()
        begun = time.time()
        manifest = compute(job, encoder, out, started)
        seconds = time.time() - begun
        if manifest is None:
            return

    # say what was done
    for note in titles.notes:
        cli.say(note)
    if manifest.cost:
        say_if_foreign(encoder, titles, manifest.cost.tokens)
    if manifest.truncated:
        cut = cli.count(manifest.truncated, "title")
        cli.say(f"{cut} cut at {args.max_length} tokens; --max-length keeps more")
    made = f"{cli.count(len(job.names), 'layer file')} from {encoder.name} in {job.settings.dtype}"
    if not job.names:
        made = "new labels beside the same features"
    taken = f"{time.time() - started:.1f} s"
    if windows.WORLD > 1:
        taken += f" on {windows.WORLD} processes"
    if to_encode:
        digits = int(to_encode < 10 * seconds)
        taken += f", {to_encode / seconds:,.{digits}f} titles a second once loaded"
    cli.say(f"{out}: {job.data.rows:,} titles of {job.data.name}, {made}, {taken}. {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

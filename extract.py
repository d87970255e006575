"""Run a frozen encoder once over a file of titles and keep the pooled hidden states of its layers.

    python extract.py --layers all
    python extract.py --data titles.csv --label-column topic --pooling mean
    python extract.py --data titles.csv --model ../my-encoder --pooling mean --out features-mine
    torchrun --nproc-per-node 2 -- extract.py --layers all

Layers are numbered from 1, the first, or from -1, the last; 0 is the embedding output. Titles pass
through in windows: tokenised, copies computed once, sorted by length, batched by tokens. A window
is written, recorded and computed by one process; an interrupted run goes on after its last one.
Where titles or labels of the file have changed, the same command encodes what is new and keeps the
rest.
"""

from whichlayer.common import cli
from whichlayer.encoder.poolings import POOLINGS


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
    groups = "a column, such as channel or author: titles with the same value in it are kept in one fold, as copies are"
    add("--group-column", metavar="NAME", help=groups)
    add(
        "--model",
        type=cli.place,
        default="bert-base-uncased",
        metavar="NAME",
        help="encoder: a name on the model hub, name@revision, a folder, or minilm, the encoder that pip installs",
    )
    add("--layers", nargs="+", default=["all"], metavar="N", help="all, or numbers such as 12 11 or -1 -2")
    add("--pooling", nargs="+", choices=POOLINGS, help="how states of tokens become one (default: all there are)")
    add(
        "--max-length",
        type=cli.number(int, 3),
        default=128,
        metavar="TOKENS",
        help="longer titles are cut, and counted",
    )
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
    add("--out", type=cli.place, default="features", metavar="FOLDER", help="where the features go")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import functools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import data
from whichlayer.common import disk, windows
from whichlayer.encoder import folder, store
from whichlayer.encoder.embedding import embed, tokenise
from whichlayer.encoder.encoder import cost, load_encoder
from whichlayer.heads.options import Options
from whichlayer.reading import tables

# --- what is to be done ---------------------------------------------------------------------------


def check_titles(args, work):
    """The path of the user's file, and data.Checked of the copy that is made of it in `work`."""
    fault = tables.fault(args.prefix)
    if fault:
        raise cli.Problem(f"--prefix: holds {fault}")
    path = data.find_titles(args.data)
    with open(work / "titles.csv", "wb") as file:
        titles = data.copy_titles(path, args.text_column, args.label_column, file, args.group_column)
        disk.flush(file)
    rare = data.rare_categories(titles.classes, Options.folds)
    if rare:
        cli.say(rare)
    return path, titles


def job_of(args, path, titles, encoder):
    """The folder.Job that the options ask for, whatever is there. path, titles: of check_titles."""
    info = store.TitlesInfo(
        name=args.data if args.data in ("youtube", "sample") else cli.one_line(path.name),
        sha256=disk.sha256(path),
        titles=titles.titles,
        rows=titles.rows,
    )
    settings = store.Settings(
        max_length=args.max_length,
        dtype=str(encoder.dtype).removeprefix("torch."),
        store=args.store,
        device=encoder.device.type,
        prefix=args.prefix or None,
    )
    poolings = args.pooling or encoder.poolings
    layers = store.resolve_layers(args.layers, encoder.info, poolings)
    names = {store.feature_file(pooling, layer) for pooling in poolings for layer in layers}
    return folder.Job(
        format=store.FORMAT,
        encoder=encoder.info,
        data=info,
        settings=settings,
        files={},
        names=sorted(names),
        source=str(path.resolve()),
    )


# --- doing it -------------------------------------------------------------------------------------


def encode_windows(job, encoder, out, work):
    """Encode this process's share of the windows that are left, writing and recording each."""
    poolings, layers = map(set, zip(*map(store.column_of, job.names), strict=True))
    earlier = store.open_features(out) if job.follows else None
    sources = np.load(work / "sources.npy")
    titles = (row[0] for row in store.titles_in(work / "new" / "titles.csv"))
    read = functools.partial(tokenise, encoder)
    bar = cli.progress(job.data.rows, " titles", "extract", initial=folder.counted(work).titles)
    with bar, windows.log_of(work) as log:
        for window, tokenised in windows.ahead(read, windows.own(titles, windows.recorded(work))):
            # encode what is new, copy what is not
            first = window * windows.WINDOW
            rows = sources[first : first + len(tokenised.place)]
            new = only(tokenised, np.flatnonzero(rows < 0))
            encoded = embed(encoder, new, layers, poolings, bar.update)
            write = functools.partial(folder.write, job, work, window, rows, encoded, earlier)
            disk.each(write, job.names)
            # only now is all of it on the disk
            windows.record(log, window, len(rows), tokenised.cut, tokenised.tokens)
            # with what other processes have done
            bar.update(folder.counted(work).titles - bar.n)


def only(tokenised, rows):
    """Tokenised of some rows, (n,) int, of a window."""
    kept, place = np.unique(tokenised.place[rows], return_inverse=True)
    return replace(tokenised, ids=[tokenised.ids[number] for number in kept], place=place)


def make(job, encoder, out, started):
    """Do this process's share of a job; the store.Features, or None in all processes but the first."""
    work = disk.beside(out)
    # none, where only labels have changed
    if job.names:
        encode_windows(job, encoder, out, work)
    windows.wait()
    if windows.RANK > 0:
        return None
    return folder.finish(
        job,
        out,
        work,
        cost(encoder, folder.counted(work).tokens / job.data.rows),
        started,
        threads=torch.get_num_threads(),
        processes=windows.WORLD,
        # float32 where the processor has no instructions for what the weights are rounded to
        arithmetic=str(encoder.model.dtype).removeprefix("torch."),
    )


def main(args):
    started = time.time()
    out = Path(args.out)
    features = None
    with windows.meeting(), contextlib.ExitStack() as stack:
        # check: wrong titles should not cost the loading, or the download, of an encoder
        if windows.RANK == 0:
            work = stack.enter_context(folder.held(out))
            path, titles = check_titles(args, work)

        # load
        encoder = load_encoder(args.model, args.device, args.dtype, args.max_length, args.pooling or (), args.prefix)

        # make
        job = None
        if windows.RANK == 0:
            job = folder.prepare(job_of(args, path, titles, encoder), out, work)
        job = windows.from_first(job)
        if job:
            features = make(job, encoder, out, started)

    # say
    made = f"{out} holds all of that already"
    if features:
        for note in titles.notes:
            cli.say(note)
        if features.truncated:
            cut = cli.count(features.truncated, "title")
            cli.say(f"{cut} cut at {args.max_length} tokens; --max-length keeps more")
        written = f"{cli.count(len(job.names), 'layer file')} from {encoder.name} in {job.settings.dtype}"
        made = f"{out}: {job.data.rows:,} titles of {job.data.name}, {written}, {cli.took()}"
    # the report's titles are for the report's head first, others for all that is worth comparing
    survey = cli.command("train.py", "--survey", features=(args.out, "features"))
    report = cli.command("train.py", features=(args.out, "features"))
    following = f"{report}, then {survey}" if args.data == "youtube" else survey
    cli.say(f"{made}. Next: {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

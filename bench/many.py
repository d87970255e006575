"""Many titles, for `python -m bench`: every step, and what it would take for a million."""

import itertools
from pathlib import Path

from bench.measuring import make_encoder, print_table, read_titles, run, write_titles
from whichlayer.common import cli

MILLION = 1_000_000
# titles: what the larger size takes more than the smaller one is what each title takes
SIZES = (5_000, 20_000)
ENCODERS = ("minilm", "random")

# --- titles and encoders --------------------------------------------------------------------------


def distinct_titles(name, size):
    """So many distinct titles of --data with their categories, two lists; where there are too few,
    the same ones with a number behind.
    """
    titles, categories = read_titles(name)
    found = {}
    for number in itertools.count():
        for title, category in zip(titles, categories, strict=True):
            found.setdefault(f"{title} {number}" if number else title, category)
        if len(found) >= size:
            return list(found)[:size], list(found.values())[:size]


def encoders_of(args, temporary):
    """Yield (what --model takes, how it is called, a new folder) for each encoder."""
    for number, name in enumerate(args.model or ENCODERS):
        folder = temporary / str(number)
        folder.mkdir()
        if name == "random":
            yield make_encoder(folder / "base"), "bert-base's shape", folder
        else:
            yield name, "MiniLM" if name == "minilm" else Path(name).name, folder


# --- every step -----------------------------------------------------------------------------------


def run_steps(folder, encoder):
    """{step: Took} of the steps with the titles in a folder."""
    titles = folder / "titles.csv"
    features = folder / "features"
    results = folder / "results"
    fit = ("--features", features, "--results", results, "--layers", "-1", "--pooling", "cls")
    steps = {
        "extract.py": ("--data", titles, "--model", encoder, "--pooling", "cls", "--out", features),
        "train.py --head linear": (*fit, "--repeats", 1, "--head", "linear"),
        "predict.py --csv": ("--csv", titles, "--out", folder / "out.csv", "--run"),
    }
    measured = {}
    for step, options in steps.items():
        # the run is there once it is trained
        trained = results.glob("[!.]*") if "predict" in step else ()
        took = run(step.split()[0], *options, *trained)
        measured[step] = took
        cli.say(f"{folder.name} {step} {took.seconds:.1f} s, {took.peak:,.0f} MB")
    return measured


def bench_real(args, temporary):
    small, large = SIZES
    titles, categories = distinct_titles(args.data, large)
    for model, called, folder in encoders_of(args, temporary):
        measured = []
        for size in SIZES:
            place = folder / f"{size:,}"
            place.mkdir()
            write_titles(place / "titles.csv", titles[:size], categories[:size])
            measured.append(run_steps(place, model))

        # disk: the features of all layers, and what was predicted
        written = {"extract.py": place / "features", "predict.py --csv": place / "out.csv"}
        rows = []
        for step, took in measured[1].items():
            before = measured[0][step]
            seconds = for_a_million(before.seconds, took.seconds)
            # what is written window by window is never in memory as a whole
            peak = took.peak
            space = "–"
            if step in written:
                space = f"{size_on_disk(written[step]) * MILLION / large / 1e9:,.1f}"
            else:
                peak = for_a_million(before.peak, took.peak)
            measured_here = (f"{took.seconds:.1f}", f"{took.peak:,.0f}")
            rows.append((step, *measured_here, f"{seconds / 60:,.0f}", f"{peak / 1e3:,.1f}", space))
        what = f":{called}, all layers, [CLS]; {large:,} distinct titles"
        million = ("a million: minutes", "GB of memory", "GB on disk")
        print_table((what, "seconds", "peak memory, MB", *million), rows)
        how = f"each title more takes what it takes from {small:,} to {large:,}"
        memory = "but extraction and prediction, which go window by window, no more memory"
        print(f"For a million it is computed, not measured: {how}, {memory}.\n", flush=True)


def for_a_million(small_took, large_took):
    """What a million titles take, where what the two SIZES take lies on a line."""
    small, large = SIZES
    each = max(0.0, (large_took - small_took) / (large - small))
    return large_took + each * (MILLION - large)


def size_on_disk(path):
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())

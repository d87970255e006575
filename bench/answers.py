"""Whole scripts from titles to the answer, for `python -m bench`: one title, and the comparison."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import data
import predict
from bench import usual
from bench.measuring import ROOT, make_encoder, print_table, read_titles, run, take_turns, write_titles
from whichlayer.common import cli
from whichlayer.encoder.loading import find_model

# titles that are predicted one by one
SINGLES = 100
# seconds before each of them: threads that still wait for work, spinning, would slow down the next contender
REST = 0.02
USUAL = "sentence-transformers and scikit-learn"


# --- one title ------------------------------------------------------------------------------------


def bench_predict(args, temporary):
    # the same layer and pooling for both: MiniLM's last one, the mean
    features = ("--features", temporary / "features")
    results = temporary / "results"
    source = ("--data", data.find_titles(args.data), "--model", "minilm", "--pooling", "mean")
    run("extract.py", *source, "--out", features[1])
    run("train.py", *features, "--results", results, "--head", "linear", "--layers", -1, "--repeats", 1)
    (trained,) = results.glob("[!.]*")
    titles, categories = read_titles(args.data)
    classifier = temporary / "classifier.npz"
    model = find_model("minilm")[0]
    theirs = usual.fit_classifier(model, titles, categories, classifier)

    # from the shell: to the first answer, with the title as an argument or in a pipe
    script = [sys.executable, ROOT / "predict.py", "--quiet", "--run", trained]
    other = [sys.executable, "-c", usual.PREDICT, model, classifier]
    shells = {
        "this project, predict.py TITLE": partial(first_answer, [*script, titles[0]]),
        "this project, predict.py in a pipe": partial(first_answer, script, titles[0]),
    }
    if theirs is not None:
        shells[USUAL] = partial(first_answer, other, titles[0])
    starts = take_turns(shells, args.runs)

    # one title after the other, by all in turn: in a pipe, and from Python
    ours = predict.load(trained)
    with contextlib.ExitStack() as stack:
        asks = {
            "this project, predict.py in a pipe": stack.enter_context(piped(script)),
            "this project, from Python": lambda title: predict.table(ours, [title]),
        }
        if theirs is not None:
            asks[USUAL] = stack.enter_context(piped(other))
            asks[f"{USUAL}, from Python"] = theirs
        single = in_turns(asks, titles[:SINGLES])

    rows = []
    for name in {**starts, **single}:
        start = f"{starts[name].seconds:.2f}" if name in starts else "–"
        each = f"{1000 * single[name]:.1f}" if name in single else "–"
        rows.append((name, start, each))
    each = f"ms for a title more, median of {SINGLES}"
    print_table((":MiniLM, a linear head", "seconds to the first answer", each), rows)


def first_answer(command, *typed):
    """Start a process, type titles, and wait for its first line, which is returned."""
    with opened(command) as process:
        # without anything typed, it has its title already
        answer = answer_of(process, "".join(f"{title}\n" for title in typed))
        process.kill()
    return answer


@contextlib.contextmanager
def piped(command):
    """Start a process, and give the function that hands it a title and waits for its answer."""
    with opened(command) as process:
        yield lambda title: answer_of(process, f"{title}\n")
        process.stdin.close()


def opened(command):
    """A process that is typed to, and answers."""
    return subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def answer_of(process, typed):
    """The line that a process answers with; none is a Problem."""
    process.stdin.write(typed)
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise cli.Problem("a process gave no answer; its message stands above")
    return answer


def in_turns(asks, titles):
    """{name: median seconds of ask(title)} for {name: ask}, after a first one each."""
    seconds = {name: [] for name in asks}
    for ask in asks.values():
        ask("the first one")
    for title in titles:
        for name, ask in asks.items():
            time.sleep(REST)
            started = time.perf_counter()
            ask(title)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


# --- the comparison -------------------------------------------------------------------------------


def our_stages(path, model, folder):
    """{stage: seconds} of a survey of all layers and both poolings by this project, in a new folder."""
    features = ("--features", folder / "features")
    results = ("--results", folder / "runs")
    commands = {
        "features": ("extract.py", "--data", path, "--model", model, "--pooling", "cls", "mean", "--out", features[1]),
        "probes": ("train.py", *features, *results, "--survey", "--repeats", 1),
        "table with intervals": ("evaluate.py", *results),
    }
    return {stage: run(*command).seconds for stage, command in commands.items()}


def usual_stages(titles, labels, model, folder):
    """(features, {stage: seconds}) of the same sets of layers and folds by transformers and scikit-learn.

    folder: what our_stages left. features: seconds for the features; the stages are the ways to go
    on from there. With C chosen, wide sets would take many minutes.
    """
    configs = sorted(folder.glob("runs/*/config.json"))
    sets = [json.loads(path.read_text(encoding="utf-8"))["columns"] for path in configs]
    folds = np.load(configs[0].parent / "folds.npy")
    started = time.perf_counter()
    features = usual.extract(*usual.load(model), titles)
    extracting = time.perf_counter() - started
    alone = [columns for columns in sets if len(columns) == 1]
    chosen = f"probes of the {len(alone)} single layers alone, C chosen among {len(usual.GRID)}"
    took = {}
    for way, some, is_chosen in (("probes with C = 1", sets, False), (chosen, alone, True)):
        started = time.perf_counter()
        for columns in some:
            x = np.hstack([features[pooling, layer] for pooling, layer in columns])
            usual.train_probes(x, labels, folds, is_chosen)
        took[way] = time.perf_counter() - started
        cli.say(f"{way}: {took[way]:.1f} s")
    return extracting, took


def bench_answer(args, temporary):
    titles, categories = read_titles(args.data)
    path = temporary / "titles.csv"
    write_titles(path, titles, categories)
    labels = np.unique(categories, return_inverse=True)[1]
    usual.warm_up()
    for name in args.model or ["minilm"]:
        model = make_encoder(temporary / "base") if name == "random" else find_model(name)[0]
        folder = temporary / Path(name).name
        folder.mkdir()
        ours = our_stages(path, model, folder)
        extracting, theirs = usual_stages(titles, labels, model, folder)

        # each stage, and the sums
        total = sum(ours.values())
        rows = [(stage, f"{seconds:.1f}", "") for stage, seconds in ours.items()]
        rows.append(("**all, this project**", f"{total:.1f}", "1.0"))
        rows.append(("usual: features", f"{extracting:.1f}", ""))
        for stage, seconds in theirs.items():
            both = extracting + seconds
            rows.append((f"usual: {stage}", f"{seconds:.1f}", ""))
            rows.append(("**all, with those**", f"{both:.1f}", f"{both / total:.1f}"))
        sets = len(list(folder.glob("runs/*/config.json")))
        size = f"{len(labels):,} titles, survey of {sets} sets of layers"
        print_table((f":{folder.name}, {size}", "seconds", "times as long"), rows)
    usual_way = "transformers in batches of 32, then scikit-learn's cross_val_predict"
    chosen = f"this project chooses C among {len(usual.GRID)} for each fold of every set"
    print(f"Usual: {usual_way}; {chosen}. Its start-up is left out, and it has no intervals.\n")

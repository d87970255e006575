"""Whole scripts from titles to the answer, for `python -m bench`: one title, and the comparison."""

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
from bench.measuring import make_encoder, print_table, read_titles, run, take_turns
from whichlayer.common import cli
from whichlayer.encoder import store
from whichlayer.encoder.loading import find_model
from whichlayer.heads import plan, probe, splits

# titles that are predicted one by one
SINGLES = 50
USUAL = "sentence-transformers and scikit-learn"


# --- one title ------------------------------------------------------------------------------------


def bench_predict(args, temporary):
    # the same layer and pooling for both: MiniLM's last one, the mean
    features = temporary / "features"
    results = temporary / "results"
    run(
        "extract.py", "--data", data.find_titles(args.data), "--model", "minilm", "--pooling", "mean", "--out", features
    )
    run("train.py", "--features", features, "--results", results, "--head", "linear", "--layers", -1, "--repeats", 1)
    titles, categories = read_titles(args.data)
    classifier = temporary / "classifier.npz"
    model = find_model("minilm")[0]
    theirs = usual.fit_classifier(model, titles, categories, classifier)

    # from the shell: to the first answer, with the title as an argument or in a pipe
    script = [sys.executable, data.HERE / "predict.py", "--quiet", "--run", results]
    other = [sys.executable, "-c", usual.PREDICT, model, classifier]
    shells = {
        "this project, predict.py TITLE": partial(first_answer, [*script, titles[0]]),
        "this project, predict.py in a pipe": partial(first_answer, script, titles[0]),
    }
    if theirs is not None:
        shells[USUAL] = partial(first_answer, other, titles[0])
    starts = take_turns(shells, args.runs)

    # one after the other: in a pipe, and from Python
    some = titles[:SINGLES]
    single = {"this project, predict.py in a pipe": in_a_pipe(script, some)}
    ours = predict.load(results)
    single["this project, from Python"] = one_by_one(partial(predict_one, ours), some)
    if theirs is not None:
        single[USUAL] = in_a_pipe(other, some)
        single[f"{USUAL}, from Python"] = one_by_one(theirs, some)

    rows = []
    for name in {**starts, **single}:
        start = f"{starts[name].seconds:.2f}" if name in starts else "–"
        each = f"{1000 * single[name]:.1f}" if name in single else "–"
        rows.append((name, start, each))
    each = f"ms for a title more, median of {SINGLES}"
    print_table((":MiniLM, a linear head", "seconds to the first answer", each), rows)


def predict_one(classifier, title):
    """What this project says of one title."""
    return predict.table(classifier, [title])


def first_answer(command, *typed):
    """Start a process, type titles, and wait for its first line, which is returned."""
    given = "".join(f"{title}\n" for title in typed)
    with subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(given)
        # without anything typed, it has its title already
        process.stdin.flush()
        answer = process.stdout.readline()
        process.kill()
    if not answer:
        raise cli.Problem("a process gave no answer; its message stands above")
    return answer


def in_a_pipe(command, titles):
    """Median seconds from a title to its answer in a process that is there already."""
    process = subprocess.Popen(list(map(str, command)), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(title):
        process.stdin.write(f"{title}\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise cli.Problem("a process gave no answer; its message stands above")

    with process:
        median = one_by_one(ask, titles)
        process.stdin.close()
    return median


def one_by_one(ask, titles):
    """Median seconds of ask(title), after a first one."""
    ask("the first one")
    seconds = []
    for title in titles:
        started = time.perf_counter()
        ask(title)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# --- the comparison -------------------------------------------------------------------------------


def our_stages(path, model, folder):
    """{stage: seconds} of a survey of all layers and both poolings by this project."""
    source = ("--data", path, "--model", model)
    results = folder / "runs"
    survey = ("--features", folder, "--results", results, "--survey", "--repeats", 1)
    commands = {
        "features": ("extract.py", *source, "--pooling", *cli.POOLINGS, "--out", folder),
        "probes": ("train.py", *survey),
        "table with intervals": ("evaluate.py", "--results", results),
    }
    return {stage: run(*command).seconds for stage, command in commands.items()}


def usual_stages(titles, labels, model, sets):
    """(features, {stage: seconds}) of the same by transformers and scikit-learn.

    sets: lists of (pooling, layer) that stand side by side. features: seconds for the features; the
    stages are the ways to go on from there. With C chosen, wide sets would take many minutes.
    """
    groups = np.arange(len(labels))
    folds = splits.make_folds(labels, groups, 5, 0)[None]
    draws = splits.draw_titles(labels, groups, folds, 0)
    started = time.perf_counter()
    features = usual.extract(*usual.load(model), titles)
    extracting = time.perf_counter() - started
    alone = [columns for columns in sets if len(columns) == 1]
    chosen = f"probes of the {len(alone)} single layers alone, C chosen among {len(probe.GRID)}"
    choose = partial(usual.choose_probes, draws=draws, penalties=probe.GRID, few=probe.FEW)
    ways = {"probes with C = 1": (sets, usual.train_probes), chosen: (alone, choose)}
    took = {}
    for way, (some, train) in ways.items():
        started = time.perf_counter()
        for columns in some:
            x = np.hstack([features[column] for column in columns])
            train(x, labels, folds)
        took[way] = time.perf_counter() - started
        cli.say(f"{way}: {took[way]:.1f} s")
    return extracting, took


def bench_answer(args, temporary):
    titles, categories = read_titles(args.data)
    labels = np.unique(categories, return_inverse=True)[1]
    usual.warm_up()
    for name in args.model or ["minilm"]:
        model = make_encoder(temporary / "base") if name == "random" else find_model(name)[0]
        short = Path(name).name
        ours = our_stages(data.find_titles(args.data), model, temporary / f"features-{short}")
        sets = plan.survey_sets(store.open_features(temporary / f"features-{short}"))
        extracting, theirs = usual_stages(titles, labels, model, sets)

        # each stage, and the sums
        total = sum(ours.values())
        rows = [(stage, f"{seconds:.1f}", "") for stage, seconds in ours.items()]
        rows.append(("**all, this project**", f"{total:.1f}", "1.0"))
        rows.append(("usual: features", f"{extracting:.1f}", ""))
        for stage, seconds in theirs.items():
            both = extracting + seconds
            rows.append((f"usual: {stage}", f"{seconds:.1f}", ""))
            rows.append(("**all, with those**", f"{both:.1f}", f"{both / total:.1f}"))
        size = f"{len(labels):,} titles, survey of {len(sets)} sets of layers"
        print_table((f":{short}, {size}", "seconds", "times as long"), rows)
    usual_way = "transformers in batches of 32, then scikit-learn's cross_val_predict"
    chosen = f"this project chooses C among {len(probe.GRID)} for each fold of every set"
    print(f"Usual: {usual_way}; {chosen}. Its start-up is left out, and it has no intervals.\n")

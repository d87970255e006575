"""Print what has been trained as a markdown table: macro-F1 with its uncertainty, compared row by row, and what it costs.

python evaluate.py
python evaluate.py --baselines --plot layers.png --suspects suspects.csv
"""

import argparse

import cli


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--results", default="results", metavar="FOLDER", help="where train.py put the runs (default: results)")
    add(
        "--features",
        metavar="FOLDER",
        help="the runs' features, for --suspects, --baselines and --verify "
        "(default: the folder that each run was trained from)",
    )
    add(
        "--plot",
        metavar="FILE",
        help="draw macro-F1 by layer and the best row's confusion matrix to a .png or .svg file",
    )
    add("--suspects", metavar="FILE.csv", help="list the titles whose own label is least likely, out of fold")
    add(
        "--baselines",
        action="store_true",
        help="add the majority class and TF-IDF with logistic regression on the same folds; kept for later calls",
    )
    add(
        "--verify",
        action="store_true",
        help="compute every stored figure again from the heads and the features, and fail where one differs",
    )
    add("--quiet", action="store_true", help="print nothing but the table and errors")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(
        parse_arguments
    )  # before the slow imports, so that --help and wrong options are answered at once

import time
from pathlib import Path

import numpy as np
import pandas as pd

import data
import metrics
import store

# Macro-F1 of the last epoch in the report, for bert-base-uncased, by the layers' distance from the top
REPORT = {(0,): 0.9565, (1,): 0.9032, (2,): 0.9034, (3,): 0.9023, (0, 1): 0.9546, (0, 1, 2, 3): 0.9114}
REPORT_MODELS = ("bert-base-uncased", "google-bert/bert-base-uncased")
BASELINES = {"majority": "majority class", "tfidf": "TF-IDF of words and word pairs, logistic regression"}


# --- reading the runs ---------------------------------------------------------------------------------------------


def read_runs(results, quiet):
    """All runs below a folder, as dictionaries of their configuration and arrays; leftovers are mentioned, not read."""
    if not results.is_dir():
        raise cli.Problem(f"{results}: there is no such folder; train something first: python train.py")
    runs = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            cli.say(f"{folder}: a training that was stopped, or still runs; ignored", quiet)
        elif (folder / "config.json").exists():
            config, probabilities, labels, folds, groups = store.open_run(
                folder, "probabilities", "labels", "folds", "groups"
            )
            runs.append(
                {
                    "folder": folder,
                    "config": config,
                    "probabilities": probabilities,
                    "labels": labels,
                    "folds": folds,
                    "groups": groups,
                    "predictions": probabilities.argmax(1),
                }
            )
    return runs


def protocol(config):
    """What two runs must share to stand in one table, besides the encoder: the titles and how they were split."""
    return config["data"]["titles"], *(config["options"][key] for key in ("folds", "split", "seed"))


def make_tables(runs):
    """Runs by encoder and protocol: a list of (trained runs, baselines) in a fixed order."""
    tables = {}
    for run in runs:
        if "baseline" not in run["config"]:
            tables.setdefault((run["config"]["encoder"]["weights"], *protocol(run["config"])), []).append(run)
    baselines = [run for run in runs if "baseline" in run["config"]]
    return [
        (sorted(trained, key=row_order), [b for b in baselines if protocol(b["config"]) == key[1:]])
        for key, trained in sorted(tables.items(), key=lambda item: item[1][0]["folder"].name)
    ]


def layers_of(run):
    """The layers of a run, top first."""
    return list(dict.fromkeys(layer for _, layer in run["config"]["columns"]))


def row_order(run):
    """The report's rows come first, in its order; then one kind of head after the other."""
    label = head_label(run["config"])
    return label != "report's head", label.count(","), label, len(layers_of(run)), [-n for n in layers_of(run)]


def head_label(config):
    """How a run differs from the report's head, in a few words."""
    options, poolings = config["options"], sorted({pooling for pooling, _ in config["columns"]})
    parts = [] if poolings == ["cls"] else ["mean pooling" if poolings == ["mean"] else "[CLS] and mean pooling"]
    words = {"standardize": "standardised", "reduction": "no reduction", "fusion": f"fusion {options['fusion']}"}
    for key, default in cli.HEAD.items():
        if (
            options[key] == default
            or key in ("folds", "split", "seed")
            or key == "fusion"
            and len(config["columns"]) == 1
        ):
            continue
        parts.append(words.get(key) or f"{key.replace('_', ' ')} {options[key]}")
    return ", ".join(parts) or "report's head"


def row_label(run):
    """A row in words, for sentences."""
    layers = layers_of(run)
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} ({head_label(run['config'])})"


def report_figure(run):
    """The report's macro-F1 for the layers at the same distance from the top, or None where it has no such row."""
    config = run["config"]
    if config["data"]["sha256"] != data.YOUTUBE_SHA256 or head_label(config) != "report's head":
        return None
    return REPORT.get(tuple(config["encoder"]["layers"] - layer for layer in layers_of(run)))


# --- the table ----------------------------------------------------------------------------------------------------


def compare(trained, baselines):
    """Bootstrap all rows of a table together. Adds interval, difference to the best row and its interval to each run.

    Returns the best trained row. A row is distinguishable from the best where the 95% interval of the paired
    difference leaves out zero.
    """
    rows = trained + baselines
    scores = metrics.bootstrap_macro_f1(
        trained[0]["labels"],
        np.stack([run["predictions"] for run in rows]),
        len(trained[0]["config"]["classes"]),
        trained[0]["groups"],
    )
    best = max(trained, key=lambda run: run["config"]["results"]["macro_f1"])
    top = scores[rows.index(best)]
    for run, score in zip(rows, scores):
        run["interval"] = metrics.interval(score)
        run["difference"] = run["config"]["results"]["macro_f1"] - best["config"]["results"]["macro_f1"]
        run["difference_interval"] = metrics.interval(score - top)
        low, high = run["difference_interval"]
        run["tied"] = low <= 0 <= high
    return best


def depth_share(run):
    """The share of the encoder's layers that must run for a row; nothing of it for a baseline."""
    return max(layers_of(run)) / run["config"]["encoder"]["layers"] if "columns" in run["config"] else 0.0


def table_rows(trained, baselines, best):
    """The table as a pandas DataFrame of text, a row for each run."""
    reported = any(report_figure(run) is not None for run in trained)
    rows = []
    for run in trained + baselines:
        config = run["config"]
        result, is_baseline = config["results"], "baseline" in config
        label = head_label(config) if not is_baseline else BASELINES[config["baseline"]]
        if not is_baseline and (fault := store.collapse(config)):
            label += "; " + ", try ".join(fault)
        row = {
            "Layers": "none" if is_baseline else ", ".join(map(str, layers_of(run))),
            "Head": label,
            "F1-macro, last epoch": f"{result['macro_f1']:.4f}",
            "95% interval": "{:.4f} to {:.4f}".format(*run["interval"]),
            "Folds": f"{result['fold_mean']:.4f} ± {result['fold_deviation']:.4f}",
            "Against the best": "**best**" if run is best else f"{'≈ ' if run['tied'] else ''}{run['difference']:+.4f}",
            "Depth": f"{depth_share(run):.0%}",
        }
        if reported:
            figure = None if is_baseline else report_figure(run)
            row[report_heading(trained)] = f"{figure:.4f}" if figure else ""
        rows.append(row)
    return pd.DataFrame(rows)


def report_heading(trained):
    """The heading of the report's column: it names the report's encoder where these rows are of another."""
    same = trained[0]["config"]["encoder"]["name"] in REPORT_MODELS
    return "The report" if same else "The report, with bert-base-uncased"


def markdown(frame):
    """A pandas DataFrame of text as a markdown table."""
    lines = [list(frame.columns), [":---:"] * len(frame.columns), *frame.values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_table(trained, baselines):
    """Print one table with its heading, its notes and, last, the recommendation."""
    best = compare(trained, baselines)
    config = trained[0]["config"]
    options, titles = config["options"], config["data"]
    name = (
        Path(config["encoder"]["name"]).name if Path(config["encoder"]["name"]).is_dir() else config["encoder"]["name"]
    )
    dtypes = sorted({f"{run['config']['settings']['dtype']}" for run in trained})
    print(f"## {cli.escape_markdown(name)} on {cli.escape_markdown(titles['name'])}\n")
    print(
        f"{titles['rows']:,} titles in {len(config['classes'])} categories, {options['folds']} {options['split']} folds, seed "
        f"{options['seed']}; the encoder has {config['encoder']['layers']} layers, computed in {' and '.join(dtypes)}.\n"
    )
    print(markdown(table_rows(trained, baselines, best)) + "\n")
    if any(report_figure(run) for run in trained) and report_heading(trained) != "The report":
        print(
            "The report's figures are those of another encoder, bert-base-uncased, for the layers at the same distance "
            "from the top, on a split of its own.\n"
        )
    print(
        "F1-macro is over all out-of-fold predictions, with a 95% bootstrap interval; ≈ marks rows that these titles "
        "cannot tell from the best (paired bootstrap). Both speak of the choice of titles, not of seeds: another --seed "
        "draws other folds and first weights. Depth is the share of the encoder that has to run.\n"
    )
    print(baseline_sentence(best, baselines) + "\n")
    print(recommendation(trained, best) + "\n", flush=True)
    return best


def baseline_sentence(best, baselines):
    """Whether the best row beats the words alone, with the interval of the difference."""
    rivals = [run for run in baselines if run["config"]["baseline"] == "tfidf"]
    if not rivals:
        return "How far do plain words get? `--baselines` adds TF-IDF on the same folds."
    run, (low, high) = rivals[0], -rivals[0]["difference_interval"][::-1]
    verdict = (
        "the encoder earns its place"
        if low > 0
        else "plain words do better"
        if high < 0
        else "the encoder has not shown that it is needed"
    )
    return (
        f"TF-IDF with logistic regression reaches {run['config']['results']['macro_f1']:.4f}; the best row differs from it by "
        f"{-run['difference']:+.4f} (95% interval {low:+.4f} to {high:+.4f}): {verdict}."
    )


def recommendation(trained, best):
    """The cheapest row that cannot be told from the best, and what it saves and loses, in words."""
    tied = [run for run in trained if run["tied"]]
    choice = min(tied, key=lambda r: (depth_share(r), len(r["config"]["columns"]), -r["config"]["results"]["macro_f1"]))
    score = f"macro-F1 {choice['config']['results']['macro_f1']:.4f}"
    if choice is best:
        return f"**Recommended: {row_label(best)}**, {score}: the best row, and no cheaper one comes as close."
    low, high = -choice["difference_interval"][::-1]
    depth, whole = depth_share(choice), depth_share(best)
    saving = (
        f"runs {depth:.0%} of the encoder instead of {whole:.0%}"
        if depth < whole
        else "runs as much of the encoder with fewer features"
    )
    return (
        f"**Recommended: {row_label(choice)}**, {score}: the cheapest row that cannot be told from the best, {row_label(best)}. "
        f"It {saving} and loses {-choice['difference']:.4f} macro-F1 (95% interval {low:+.4f} to {high:+.4f})."
    )


# --- what else people look at -------------------------------------------------------------------------------------


def baseline_probabilities(kind, titles, labels, folds, classes):
    """Out-of-fold class probabilities of a baseline, (titles, classes) float32."""
    if kind == "tfidf":
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError:
            raise cli.Problem(
                "--baselines: TF-IDF needs scikit-learn; install it with: pip install scikit-learn"
            ) from None
    out = np.zeros((len(labels), classes), dtype=np.float32)
    for fold in range(folds.max() + 1):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if kind == "majority":
            out[test] = np.bincount(labels[train], minlength=classes) / len(train)
            continue
        words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(C=30, max_iter=1000),
        )
        out[test] = words.fit([titles[i] for i in train], labels[train]).predict_proba([titles[i] for i in test])
    return out


def add_baselines(trained, results, folder, quiet):
    """Compute the baselines for the folds of a table and keep each as a run of its own."""
    run, config = trained[0], trained[0]["config"]
    titles, _ = store.features_of(config, folder).titles()
    options = {key: config["options"][key] for key in ("folds", "split", "seed")}
    shared = "-".join(map(str, options.values()))
    for kind in BASELINES:
        name = f"{store.slug(config['data']['name'])}-{config['data']['titles'][:8]}-baseline-{kind}-{shared}"
        if (results / name).exists():
            continue
        started = time.time()
        probabilities = baseline_probabilities(kind, titles, run["labels"], run["folds"], len(config["classes"]))
        content = {
            "format": store.FORMAT,
            "baseline": kind,
            "classes": config["classes"],
            "options": options,
            "data": config["data"],
            "results": metrics.score(run["labels"], probabilities.argmax(1), run["folds"], len(config["classes"])),
            "made": {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "features": config["made"]["features"],
                "seconds": round(time.time() - started, 2),
            },
        }
        store.write_run(
            results / name,
            content,
            {"probabilities": probabilities, **{k: run[k] for k in ("labels", "folds", "groups")}},
        )
        cli.say(f"{BASELINES[kind]}: macro-F1 {content['results']['macro_f1']:.4f}", quiet)


def write_suspects(path, trained, folder):
    """Write the titles that the heads contradict, the least likely labels first; returns how many."""
    sound = [run for run in trained if not run["config"]["results"]["collapsed"]] or trained
    classes, labels = sound[0]["config"]["classes"], sound[0]["labels"]
    mean = np.mean([run["probabilities"] for run in sound], axis=0)
    own, predicted = mean[np.arange(len(labels)), labels], mean.argmax(1)
    titles, _ = store.features_of(sound[0]["config"], folder).titles()
    order = [i for i in np.lexsort((np.arange(len(own)), own)) if predicted[i] != labels[i]]
    frame = pd.DataFrame(
        {
            "row": [i + 1 for i in order],
            "title": [cli.escape_cell(titles[i]) for i in order],
            "label": [cli.escape_cell(classes[labels[i]]) for i in order],
            "predicted": [cli.escape_cell(classes[predicted[i]]) for i in order],
            "probability_of_label": own[order].round(4),
            "probability_of_predicted": mean.max(1)[order].round(4),
        }
    )
    with store.atomic(path, "w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, lineterminator="\n")
    return len(frame), len(sound)


def verify(runs, folder, quiet):
    """Compute every stored figure of the runs again; a Problem names the first that differs."""
    for run in runs:
        config, name, count = run["config"], run["folder"], len(run["config"]["classes"])
        for file in config["contents"]:
            store.check_content(name / file, config)
        features = store.features_of(config, folder)
        titles, labels = features.titles()
        if [config["classes"][i] for i in run["labels"]] != labels:
            raise cli.Problem(f"{name}/labels.npy: not the labels of the features")
        figures = metrics.score(run["labels"], run["predictions"], run["folds"], count)
        if "baseline" in config:
            again = baseline_probabilities(config["baseline"], titles, run["labels"], run["folds"], count)
        else:
            import model  # brings torch, which nothing else here needs

            forward, state = model.read_heads(name, config)
            again = model.held_out_probabilities(forward, state, model.stack_columns(config, features), run["folds"])
            figures["layer_weights"] = model.layer_weights(state)
        off = float(np.abs(again - run["probabilities"]).max())
        if not off < 1e-4:
            raise cli.Problem(f"{name}/probabilities.npy: up to {off:.2g} away from what the heads and features give")
        if "columns" in config:
            history = pd.read_csv(name / "history.csv")
            last = history[history.epoch == config["options"]["epochs"]].macro_f1.tolist()
            if last != figures["fold_macro_f1"]:
                raise cli.Problem(
                    f"{name}/history.csv: the last epoch has {last}, computed again it is {figures['fold_macro_f1']}"
                )
        for key, value in figures.items():
            if value != config["results"][key]:
                raise cli.Problem(
                    f"{name}/config.json: {key} is {config['results'][key]}, computed again it is {value}"
                )
        cli.say(f"{name.name}: verified", quiet)


def draw(path, trained, baselines, best):
    """Draw macro-F1 by layer with intervals, and the confusion matrix of the best row, to a .png or .svg file."""
    try:
        import matplotlib
    except ImportError:
        raise cli.Problem("--plot needs matplotlib; install it with: pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "layers",
            "font.size": 10,
            "font.family": "sans-serif",
            "text.parse_math": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5.2), width_ratios=(1.75, 1), layout="constrained")
    sets = sorted({tuple(layers_of(run)) for run in trained}, key=lambda layers: (len(layers) > 1, len(layers), layers))
    place = {layers: i + 0.6 * (len(layers) > 1) for i, layers in enumerate(sets)}
    kinds = sorted({head_label(run["config"]) for run in trained}, key=lambda kind: (kind != "report's head", kind))
    score = lambda run: run["config"]["results"]["macro_f1"]
    floor = 0.85 * score(best)
    low = min(run["interval"][0] for run in trained if score(run) >= floor)
    low -= 0.12 * (1 - low)
    present = {
        layers: [
            k for k in kinds if any(head_label(r["config"]) == k and tuple(layers_of(r)) == layers for r in trained)
        ]
        for layers in sets
    }

    def position(run):
        """The place of a run on the x axis: those of the same layers stand side by side."""
        beside = present[tuple(layers_of(run))]
        return place[tuple(layers_of(run))] + 0.6 * (
            (beside.index(head_label(run["config"])) + 0.5) / len(beside) - 0.5
        )

    colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe & Ito
    for index, kind in enumerate(kinds):
        rows = sorted((run for run in trained if head_label(run["config"]) == kind), key=position)
        color, marker = colors[index % len(colors)], "osD^vPX*"[index % 8]
        shown = [run for run in rows if score(run) >= floor]
        x = np.array([position(run) for run in shown])
        y = np.array([score(run) for run in shown])
        ends = np.array([run["interval"] for run in shown]).reshape(-1, 2)
        left.errorbar(
            x,
            y,
            yerr=[np.maximum(y - ends[:, 0], 0), np.maximum(ends[:, 1] - y, 0)],
            fmt=marker,
            color=color,
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=kind,
        )
        single = [len(layers_of(run)) == 1 for run in shown]
        left.plot(x[single], y[single], color=color, linewidth=1, alpha=0.5)
        for run in rows:
            if score(run) < floor:  # far below all others: an arrow at the edge with its value
                left.annotate(
                    f"{score(run):.2f}",
                    (position(run), low),
                    (position(run), low + 0.07 * (1 - low)),
                    color=color,
                    fontsize=8,
                    ha="center",
                    arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0},
                )
    for run, style in zip(baselines, ("--", ":")):
        if score(run) >= floor:
            left.axhline(
                score(run),
                color="#555555",
                linestyle=style,
                linewidth=1,
                label=f"{BASELINES[run['config']['baseline']]} ({score(run):.3f})",
            )
    left.set_xticks(list(place.values()), [layer_range(layers) for layers in sets])
    left.set(
        xlabel="layers (last = top)".replace("last", str(trained[0]["config"]["encoder"]["layers"])),
        ylim=(low, None),
        ylabel="macro-F1, out of fold, 95% interval",
    )
    left.grid(axis="y", color="#dddddd", linewidth=0.6)
    left.set_axisbelow(True)
    handles, labels = left.get_legend_handles_labels()
    last = sorted(range(len(labels)), key=lambda i: labels[i] not in kinds)  # the rows first, then the baselines
    left.legend(
        [handles[i] for i in last],
        [labels[i] for i in last],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    classes, labels = best["config"]["classes"], best["labels"]
    shown = np.sort(
        np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:20]
    )  # the commonest classes
    index = np.full(len(classes), len(shown))
    index[shown] = np.arange(len(shown))
    matrix = metrics.confusion_matrix(index[labels], index[best["predictions"]], len(shown) + 1)[:-1, :-1]
    share = matrix / np.maximum(np.bincount(labels, minlength=len(classes))[shown, None], 1)
    right.imshow(share, cmap="Blues", vmin=0, vmax=1)
    right.spines[:].set_visible(False)
    some = f"\n{len(shown)} commonest of {len(classes):,} categories" if len(shown) < len(classes) else ""
    right.set(title=f"Best row: {row_label(best)}{some}".replace(" (", "\n("), xlabel="predicted", ylabel="labelled")
    right.title.set_fontsize(10)
    names = [cli.one_line(classes[i]) for i in shown]
    names = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    right.set_xticks(range(len(names)), names, rotation=35, ha="right")
    right.set_yticks(range(len(names)), names)
    for i, j in np.ndindex(*matrix.shape) if len(names) <= 12 else ():
        right.text(
            j,
            i,
            f"{matrix[i, j]:,}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share[i, j] > 0.5 else "black",
        )
    name = cli.one_line(Path(trained[0]["config"]["encoder"]["name"]).name)
    figure.suptitle(f"{name} on {cli.one_line(trained[0]['config']['data']['name'])}: which layers?", fontsize=12)
    kind = Path(path).suffix.lower().lstrip(".")
    with store.atomic(path) as file:
        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def layer_range(layers):
    """Layers as a short label: single ones, lists, and runs of neighbours as a range."""
    whole = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] - 1, -1))
    return f"{layers[0]}–{layers[-1]}" if whole else ", ".join(map(str, layers))


def numbered_path(path, index):
    """`path` for the first table, and the same name with -2, -3 … for the others."""
    path = Path(path)
    return path if index == 0 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def main(args):
    started, results = time.time(), Path(args.results)
    if args.plot and Path(args.plot).suffix.lower() not in (".png", ".svg"):
        raise cli.Problem(f"--plot {args.plot}: the name must end in .png or .svg")
    for option, path in (("--plot", args.plot), ("--suspects", args.suspects)):
        if path:
            cli.check_output(option, path)
    runs = read_runs(results, args.quiet)
    tables = make_tables(runs)
    if not tables:
        raise cli.Problem(f"{results}: no runs are there; train some first: python train.py")
    if args.verify:
        verify(runs, args.features, args.quiet)
    if args.baselines:
        with store.locked(results, "a training"):
            for trained, baselines in tables:
                if len(baselines) < len(BASELINES):
                    add_baselines(trained, results, args.features, args.quiet)
        tables = make_tables(read_runs(results, True))
    for index, (trained, baselines) in enumerate(tables):
        best = print_table(trained, sorted(baselines, key=lambda run: list(BASELINES).index(run["config"]["baseline"])))
        if args.plot:
            draw(numbered_path(args.plot, index), trained, baselines, best)
            cli.say(f"{numbered_path(args.plot, index)}: drawn", args.quiet)
        if args.suspects:
            count, rows = write_suspects(numbered_path(args.suspects, index), trained, args.features)
            cli.say(
                f"{numbered_path(args.suspects, index)}: {count:,} titles whose label the average of {rows} rows "
                "contradicts",
                args.quiet,
            )
    count = sum(len(trained) for trained, _ in tables)
    cli.say(
        f"{results}: {count} run{'s' * (count != 1)} in {len(tables)} table{'s' * (len(tables) > 1)}, "
        f'{time.time() - started:.1f} s. Next: python predict.py --run {results}/{best["folder"].name} "a title"',
        args.quiet,
    )


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

"""Print what has been trained as a markdown table: macro-F1 with its uncertainty, rows compared, and what they cost.

    python evaluate.py
    python evaluate.py --baselines --plot layers.png --suspects suspects.csv

The last sentence recommends a row, or says why none.
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--results", default="results", metavar="FOLDER", help="where train.py put the runs")
    features = "the runs' features, for --suspects, --baselines and --verify (default: those each run was trained from)"
    add("--features", metavar="FOLDER", help=features)
    margin = "the loss of macro-F1 that a cheaper row may have at most to be recommended"
    add("--margin", type=cli.number(float, 0, 1), default=0.01, help=margin)
    plot = "draw macro-F1 by layer, the recommended row's confusion matrix and its calibration to a .png or .svg file"
    add("--plot", metavar="FILE", help=plot)
    add("--suspects", metavar="FILE.csv", help="list the titles whose own label is least likely, out of fold")
    words = "add the majority class, TF-IDF with logistic regression and its average with the best row; kept for later"
    add("--baselines", action="store_true", help=words)
    verify = "compute every stored figure again from the heads and the features, and fail where one differs"
    add("--verify", action="store_true", help=verify)
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import time
from pathlib import Path

import numpy as np
import pandas as pd

import baselines
import metrics
import report
import runs
import store

# --- reading the runs ---------------------------------------------------------------------------------------------


def protocol(config):
    """What two runs must share to stand in one table, besides the encoder: the titles and how they were split."""
    return config["data"]["titles"], *(config["options"][key] for key in baselines.PROTOCOL)


def read_tables(results):
    """The runs below a folder as tables, one for each encoder and protocol; leftovers are mentioned, not read.

    A table is a dictionary: "config" (of its first run), "labels" and "groups" (titles,), "folds" (repeats, titles);
    "rows", "few" and "baselines": dictionaries of runs trained on all titles, on --labels, and of baselines.
    """
    if not results.is_dir():
        raise cli.Problem(f"{results}: there is no such folder; train something first: python train.py")
    found, plain = {}, []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            cli.say(f"{folder}: a training that was stopped, or still runs; ignored")
        elif (folder / "config.json").exists():
            config = runs.open_(folder)
            run = {"folder": folder, "config": config}
            if "baseline" in config:
                plain.append(run)
            else:
                found.setdefault((config["encoder"]["weights"], *protocol(config)), []).append(run)
    tables = []
    for key, trained in sorted(found.items(), key=lambda item: item[1][0]["folder"].name):
        first = trained[0]
        arrays = {name: runs.array(first["folder"], first["config"], name) for name in ("labels", "groups", "folds")}
        table = {"config": first["config"], **{name: np.asarray(array) for name, array in arrays.items()}}
        trained.sort(key=report.row_order)
        table["rows"] = [run for run in trained if not run["config"]["options"]["labels"]]
        table["few"] = [run for run in trained if run["config"]["options"]["labels"]]
        table["baselines"] = [run for run in plain if protocol(run["config"]) == key[1:]]
        for run in trained + table["baselines"]:
            add_predictions(run, table)
        tables.append(table)
    return tables


def add_predictions(run, table, values=None):
    """Keep of a run's probabilities what a table needs: the predictions, their influences and the interval."""
    classes = len(table["config"]["classes"])
    if values is None:
        for name in ("labels", "groups", "folds"):
            if run["config"]["contents"].get(f"{name}.npy") != table["config"]["contents"].get(f"{name}.npy"):
                raise cli.Problem(f"{run['folder']}: its {name} are not those of {table['config']['made']['command']}")
        values = runs.array(run["folder"], run["config"], "probabilities")
    kind = np.int16 if classes < 1 << 15 else np.int32
    run["predictions"] = np.stack([repeat.argmax(1).astype(kind) for repeat in values])
    run["influences"] = metrics.influences(table["labels"], run["predictions"], classes, table["groups"])
    run["interval"] = metrics.interval(run["influences"])


# --- comparing them -----------------------------------------------------------------------------------------------


def compare(table, margin):
    """Compare all rows of a table; adds "best", "choice" (the recommended row or None), "compared" and "plain".

    plain: the baselines that are compared, the average of TF-IDF's probabilities and the best row's among them.
    """
    rows, labels, classes = table["rows"], table["labels"], len(table["config"]["classes"])
    best = max(rows, key=lambda run: run["influences"]["value"])
    order = list(baselines.NAMES)
    plain = [run for run in table["baselines"] if not run["config"]["options"]["labels"]]
    plain.sort(key=lambda run: order.index(run["config"]["baseline"]))
    if words := next((run for run in plain if run["config"]["baseline"] == "tfidf"), None):
        values = sum(runs.array(run["folder"], run["config"], "probabilities") for run in (words, best)) / 2
        figures = runs.figures(labels, values, table["folds"], classes)
        average = {"config": {**words["config"], "baseline": "average", "results": figures}, "probabilities": values}
        add_predictions(average, table, values)
        plain.append(average)
    everything = rows + plain
    candidates = np.arange(len(everything)) < len(rows)
    place = next(i for i, run in enumerate(rows) if run is best)
    compared = metrics.compare([run["influences"] for run in everything], place, candidates)
    for i, run in enumerate(everything):
        run |= {key: compared[key][i] for key in ("difference", "low", "high", "told", "border", "loss_bound")}
        run["index"] = i
    majority = metrics.majority(labels, classes)
    known = []
    for run in rows:
        floor = max(majority, metrics.chance(labels, run["predictions"], classes))
        if metrics.shown_to_beat(run["influences"], floor, 1 - 0.05 / len(rows)):  # each has a chance to be lucky
            known.append(run)
    close = [run for run in known if run is best or run["loss_bound"] <= margin]
    table |= {
        "best": best,
        "plain": plain,
        "compared": compared,
        "choice": min(close, key=report.cost) if close else None,
    }


# --- what else people look at -------------------------------------------------------------------------------------


def opinion(table):
    """What is known of the titles' categories: calibrated probabilities, (titles, classes) float64, and whose they are.

    They are the average of all rows that did not collapse, or the best row's, and either of them averaged with TF-IDF's
    where computed: of these, what has the lowest log loss. Weak layers, and words that say little, would blur it.
    """
    rows = table["rows"] or table["few"]
    sound = [run for run in rows if not run["config"]["results"]["collapsed"]] or rows
    best = min(sound, key=lambda run: run["config"]["results"]["log_loss"])
    found = {report.row_label(best): runs.mean_probabilities(best)}
    if len(sound) > 1:
        found[f"the average of {len(sound)} rows"] = sum(map(runs.mean_probabilities, sound)) / len(sound)
    for run in table.get("plain", []):
        if run["config"]["baseline"] == "tfidf":
            words = runs.mean_probabilities(run)
            found |= {f"{name} with TF-IDF": (values + words) / 2 for name, values in found.items()}
    source = min(found, key=lambda name: metrics.log_loss(table["labels"], found[name]))
    return found[source], source


def write_suspects(path, table, features):
    """Write the titles that the opinion contradicts, the least likely labels first; returns (titles, whose it is)."""
    mean, source = opinion(table)
    classes, labels = table["config"]["classes"], table["labels"]
    own, predicted = mean[np.arange(len(labels)), labels], mean.argmax(1)
    titles, _ = runs.features_of(table["config"], features).titles()
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
    return len(frame), source


def verify(table, features):
    """Compute every stored figure of a table's runs again; a Problem names the first that differs."""
    labels, folds, groups, drawn = table["labels"], table["folds"], table["groups"], {}
    for run in table["rows"] + table["few"] + table["baselines"]:
        config, folder, classes = run["config"], run["folder"], len(run["config"]["classes"])
        for file in config["contents"]:
            runs.check_content(folder / file, config)
        opened = runs.features_of(config, features)
        titles, names = opened.titles()
        if [config["classes"][i] for i in labels] != names:
            raise cli.Problem(f"{folder}/labels.npy: not the labels of the features")
        stored = runs.array(folder, config, "probabilities")
        figures = runs.figures(labels, stored, folds, classes)
        if "baseline" in config:
            size, seed = config["options"]["labels"], config["options"]["seed"]
            drawn[size] = drawn.get(size) or baselines.splits.draw_titles(labels, groups, folds, seed, size)
            again = baselines.probabilities(config["baseline"], titles, labels, folds, drawn[size], classes)
        else:
            import torch  # nothing else here needs it

            import model

            head, state = model.read_heads(folder, config)
            x = torch.from_numpy(opened.stack([tuple(column) for column in config["columns"]]))
            again = model.held_out_probabilities(head, state, x, folds)
            figures |= {"layer_weights": model.layer_weights(state)} if config["options"]["head"] == "mlp" else {}
        off = float(np.abs(again - stored).max())
        if not off < 1e-4:
            raise cli.Problem(f"{folder}/probabilities.npy: up to {off:.2g} away from what heads and features give")
        if (folder / "history.csv").exists():
            history = pd.read_csv(folder / "history.csv")
            last = history[history.epoch == config["options"]["epochs"]].macro_f1.tolist()
            if last != np.ravel(figures["fold_macro_f1"]).tolist():
                raise cli.Problem(f"{folder}/history.csv: the last epoch is not what the heads and features give")
        for key, value in figures.items():
            old = config["results"].get(key)
            if np.shape(old) != np.shape(value) or value is not None and not np.allclose(old, value, rtol=0, atol=1e-6):
                raise cli.Problem(f"{folder}/config.json: {key} is {old}, computed again it is {value}")
        cli.say(f"{folder.name}: verified")


def numbered_path(path, index):
    """`path` for the first table, and the same name with -2, -3 … for the others."""
    path = Path(path)
    return path if index == 0 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def main(args):
    started, results = time.time(), Path(args.results)
    if args.plot and Path(args.plot).suffix.lower() not in (".png", ".svg"):
        raise cli.Problem(f"--plot {args.plot}: the name must end in .png or .svg")
    tables = read_tables(results)
    if not tables:
        raise cli.Problem(f"{results}: no runs are there; train some first: python train.py")
    for index in range(len(tables)):  # what cannot be written is said before anything is computed
        if args.plot:
            import plot

            plot.library()
            cli.check_output("--plot", numbered_path(args.plot, index))
            cli.check_output("--plot", plot.labels_path(numbered_path(args.plot, index)))
        if args.suspects:
            cli.check_output("--suspects", numbered_path(args.suspects, index))
    if args.baselines:
        with store.locked(results, "a training"):
            for table in tables:
                baselines.add(table, results, args.features)
        tables = read_tables(results)
    for table in tables if args.verify else ():
        verify(table, args.features)
    pictures = []
    for index, table in enumerate(tables):
        if table["rows"]:
            compare(table, args.margin)
        report.print_table(table, args.margin)
        if args.plot:
            pictures += plot.draw(numbered_path(args.plot, index), table)
        if args.suspects:
            path = numbered_path(args.suspects, index)
            count, source = write_suspects(path, table, args.features)
            cli.say(f"{path}: {cli.count(count, 'title')} with a label that {source} contradicts")
    counts = cli.count(sum(len(t["rows"] + t["few"]) for t in tables), "run"), cli.count(len(tables), "table")
    cli.say(f"{results}: {' in '.join(counts)}, {time.time() - started:.1f} s")
    choices = [table["choice"]["folder"] for table in tables if table.get("choice")]
    following = [f"Next: {cli.command('predict.py', '--run', choice, 'a title of your own')}" for choice in choices]
    for line in following + [f"Picture: {path}" for path in pictures]:
        cli.say(line)


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

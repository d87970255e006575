"""Print what has been trained as a markdown table: macro-F1 with its uncertainty, rows compared, and what they cost.

    python evaluate.py
    python evaluate.py --baselines --plot layers.png --suspects suspects.csv

The last sentence recommends a row, or says why none.
"""

from pathlib import Path

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--results", type=Path, default="results", metavar="FOLDER", help="where train.py put the runs")
    features = "the runs' features, for --suspects, --baselines and --verify (default: those each run was trained from)"
    add("--features", metavar="FOLDER", help=features)
    margin = "the loss of macro-F1 that a cheaper row may have at most to be recommended"
    add("--margin", type=cli.number(float, 0, 1), default=0.01, help=margin)
    plot = "draw macro-F1 by layer, the recommended row's confusion matrix and its calibration to a .png or .svg file"
    add("--plot", type=Path, metavar="FILE", help=plot)
    suspects = "list the titles whose own label is least likely, out of fold"
    add("--suspects", type=Path, metavar="FILE.csv", help=suspects)
    words = "add the majority class, TF-IDF with logistic regression and its average with the best row; kept for later"
    add("--baselines", action="store_true", help=words)
    verify = "compute every stored figure again from the heads and the features, and fail where one differs"
    add("--verify", action="store_true", help=verify)
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import time

import numpy as np
import pandas as pd

import baselines
import metrics
import report
import runs
import store

ARRAYS = ("labels", "groups", "folds")  # (titles,), (titles,) and (repeats, titles) int: one each for all of a table


def read_tables(results):
    """The runs below a folder as tables, one for each encoder and protocol; leftovers are mentioned, not read.

    A table is a dictionary: "config" (of its first run) and the ARRAYS; "rows", "few" and "baselines": lists of runs
    trained on all titles, on --labels, and of baselines. A run is a dictionary, see `report.describe`.
    """
    for folder in sorted(results.glob(".*/")):
        cli.say(f"{folder}: a training that was stopped, or still runs; ignored")
    tables, plain = {}, []
    for path in sorted(results.glob("[!.]*/config.json")):
        run = report.describe({"folder": path.parent, "config": runs.open_(path.parent)})
        config = run["config"]
        protocol = config["data"]["titles"], *(config["options"][key] for key in baselines.PROTOCOL)
        if run["kind"]:
            plain.append((protocol, run))
            continue
        key = protocol, config["encoder"]["weights"]
        if key not in tables:
            tables[key] = {"config": config, "rows": [], "few": [], "plain": {}, "choice": None}
            tables[key] |= {name: np.asarray(runs.array(path.parent, config, name)) for name in ARRAYS}
        tables[key]["few" if run["size"] else "rows"].append(run)
    for (protocol, _), table in tables.items():
        table["baselines"] = [run for shared, run in plain if shared == protocol]
        for part in ("rows", "few"):
            table[part].sort(key=lambda run: run["order"])
        for run in table["rows"] + table["few"] + table["baselines"]:
            there, here = (part["config"]["contents"] for part in (table, run))
            if any(there.get(f"{name}.npy") != here.get(f"{name}.npy") for name in ARRAYS):
                others = table["config"]["made"]["command"]
                raise cli.Problem(f"{run['folder']}: its labels, groups or folds are not those of {others}")
            add_predictions(run, table, runs.array(run["folder"], run["config"], "probabilities"))
    return list(tables.values())


def add_predictions(run, table, probabilities):
    """Keep of a run's probabilities what a table needs: the predictions, their influences, macro-F1, the interval."""
    classes = len(table["config"]["classes"])
    kind = np.min_scalar_type(classes)  # a table of a million titles holds those of many runs
    run["predictions"] = np.stack([repeat.argmax(1).astype(kind) for repeat in probabilities])
    run["influences"] = metrics.influences(table["labels"], run["predictions"], classes, table["groups"])
    run["value"], run["interval"] = run["influences"]["value"], metrics.interval(run["influences"])


def compare(table, margin):
    """Compare all rows of a table; adds "best", "corrected", "choice" (the recommended row or None) and "plain".

    plain: the baselines that are compared, by kind; with TF-IDF, the average of its probabilities and the best row's.
    """
    rows = table["rows"]
    place = int(np.argmax([run["value"] for run in rows]))
    best, there = rows[place], {run["kind"]: run for run in table["baselines"] if not run["size"]}
    plain = {kind: there[kind] for kind in baselines.NAMES if kind in there}
    if words := plain.get("tfidf"):
        values = sum(runs.array(run["folder"], run["config"], "probabilities") for run in (words, best)) / 2
        figures = runs.figures(table["labels"], values, table["folds"], values.shape[2])
        config = {**words["config"], "baseline": "average", "results": figures}
        plain["average"] = report.describe({"config": config, "probabilities": values})
        add_predictions(plain["average"], table, values)
    everything = [*rows, *plain.values()]
    candidates = np.arange(len(everything)) < len(rows)
    compared = metrics.compare([run["influences"] for run in everything], place, candidates)
    table |= {"best": best, "plain": plain, "corrected": compared.pop("corrected")}
    for i, run in enumerate(everything):
        run |= {key: values[i] for key, values in compared.items()}
    level = 1 - 0.1 / len(rows)  # one-sided 95% for all rows together: each has a chance to be lucky
    known = [run for run in rows if metrics.interval(run["influences"], level)[0] > run["influences"]["chance"]]
    close = [run for run in known if run is best or run["loss_bound"] <= margin]
    table["choice"] = min(close, key=report.cost, default=None)


def opinion(table):
    """What is known of the titles' categories: calibrated probabilities, (titles, classes) float64, and whose they are.

    They are the average of all rows that did not collapse, or the best row's, and either of them averaged with TF-IDF's
    where computed: of these, what has the lowest log loss. Weak layers, and words that say little, would blur it.
    """
    rows = table["rows"] or table["few"]
    sound = [run for run in rows if not run["config"]["results"]["collapsed"]] or rows
    best = min(sound, key=lambda run: run["config"]["results"]["log_loss"])
    found = {best["name"]: runs.mean_probabilities(best)}
    if len(sound) > 1:
        found[f"the average of {len(sound)} rows"] = sum(map(runs.mean_probabilities, sound)) / len(sound)
    if "tfidf" in table["plain"]:
        words = runs.mean_probabilities(table["plain"]["tfidf"])
        found |= {f"{name} with TF-IDF": (values + words) / 2 for name, values in found.items()}
    source = min(found, key=lambda name: metrics.log_loss(table["labels"], found[name]))
    return found[source], source


def write_suspects(path, table, features):
    """Write the titles that the opinion contradicts, the least likely labels first; says how many, and whose it is."""
    mean, source = opinion(table)
    titles, names = runs.features_of(table["config"], features).titles()
    labels, predicted = table["labels"], mean.argmax(1)
    frame = pd.DataFrame(
        {
            "row": np.arange(1, len(labels) + 1),
            "title": titles,
            "label": names,
            "predicted": np.array(table["config"]["classes"], dtype=object)[predicted],
            "probability_of_label": mean[np.arange(len(labels)), labels],
            "probability_of_predicted": mean.max(1),
        }
    )
    frame = frame[predicted != labels].sort_values("probability_of_label", kind="stable").round(4)
    for column in ("title", "label", "predicted"):
        frame[column] = frame[column].map(cli.escape_cell)
    with store.atomic(path, "w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, lineterminator="\n")
    cli.say(f"{path}: {cli.count(len(frame), 'title')} with a label that {source} contradicts")


def verify(table, features):
    """Compute every stored figure of a table's runs again; a Problem names the first that differs."""
    labels, folds = table["labels"], table["folds"]
    for run in table["rows"] + table["few"] + table["baselines"]:
        config, folder = run["config"], run["folder"]
        for file in config["contents"]:
            runs.check_content(folder / file, config)
        opened = runs.features_of(config, features)
        titles, names = opened.titles()
        if [config["classes"][i] for i in labels] != names:
            raise cli.Problem(f"{folder}/labels.npy: not the labels of the features")
        stored = runs.array(folder, config, "probabilities")
        figures = runs.figures(labels, stored, folds, len(config["classes"]))
        if run["kind"]:
            again = baselines.probabilities(run["kind"], run["size"], titles, table)
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
        written = dict(config["results"])
        if (folder / "history.csv").exists():
            history = pd.read_csv(folder / "history.csv")
            last = history.epoch == config["options"]["epochs"]
            written["last epoch in history.csv"] = history[last].macro_f1.tolist()
            figures["last epoch in history.csv"] = np.ravel(figures["fold_macro_f1"])
        for key, value in figures.items():
            old = written.get(key)
            if np.shape(old) != np.shape(value) or value is not None and not np.allclose(old, value, rtol=0, atol=1e-6):
                raise cli.Problem(f"{folder}: its {key} is {old}, computed again it is {value}")
        cli.say(f"{folder.name}: verified")


def numbered(path, index):
    """`path` for the first table, and the same name with -2, -3 … for the others."""
    return path.with_stem(f"{path.stem}-{index + 1}") if index else path


def main(args):
    started, results, pictures = time.time(), args.results, []
    if args.plot:
        import plot  # matplotlib is loaded where it is asked for

        plot.library()
        if args.plot.suffix.lower() not in (".png", ".svg"):
            raise cli.Problem(f"--plot {args.plot}: the name must end in .png or .svg")
    if args.plot and args.plot == args.suspects:
        raise cli.Problem(f"--plot and --suspects: both name {args.plot}; name two files")
    tables = read_tables(results)
    if not tables:
        following = cli.command("train.py", results=(results, "results"))
        raise cli.Problem(f"{results}: no runs are there; train some first: {following}")
    for index in range(len(tables)):  # what cannot be written is said before anything is computed
        for path in plot.paths(numbered(args.plot, index)) if args.plot else ():
            cli.check_output("--plot", path)
        if args.suspects:
            runs.features_of(tables[index]["config"], args.features)
            cli.check_output("--suspects", numbered(args.suspects, index), named=index == 0)
    if args.baselines:
        with store.locked(results, "a training"):
            for table in tables:
                baselines.add(table, results, args.features)
        tables = read_tables(results)
    for table in tables if args.verify else ():
        verify(table, args.features)
    for index, table in enumerate(tables):
        if table["rows"]:
            compare(table, args.margin)
        print(report.page(table, args.margin), end="\n\n", flush=True)
        if args.plot:
            pictures += plot.draw(numbered(args.plot, index), table)
        if args.suspects:
            write_suspects(numbered(args.suspects, index), table, args.features)
    counts = cli.count(sum(len(t["rows"] + t["few"]) for t in tables), "run"), cli.count(len(tables), "table")
    cli.say(f"{results}: {' in '.join(counts)}, {time.time() - started:.1f} s")
    for table in tables:
        if table["choice"]:
            run = table["choice"]["folder"], None
            cli.say(f"Next: {cli.command('predict.py', 'a title of your own', run=run)}")
    for path in pictures:
        cli.say(f"Picture: {path}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)

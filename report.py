"""What evaluate.py says: rows in words, the tables, the sentences under them, and the recommendation."""

from pathlib import Path

import numpy as np

import baselines
import cli
import data
import metrics
import runs

# Macro-F1 of the last epoch in the report, for bert-base-uncased, by the layers' distance from the top
REPORT = {(0,): 0.9565, (1,): 0.9032, (2,): 0.9034, (3,): 0.9023, (0, 1): 0.9546, (0, 1, 2, 3): 0.9114}
REPORT_MODELS = ("bert-base-uncased", "google-bert/bert-base-uncased")
SHOWN = 20  # categories in the table of categories


def layers_of(run):
    """The layers of a run, top first."""
    return list(dict.fromkeys(layer for _, layer in run["config"]["columns"]))


def row_order(run):
    """The report's rows come first, in its order; then one kind of head after the other."""
    label = head_label(run["config"])
    return label != "report's head", label.count(","), label, len(layers_of(run)), [-n for n in layers_of(run)]


def head_label(config):
    """The head of a run, and in what it differs from the report's, in a few words."""
    if "baseline" in config:
        return baselines.NAMES[config["baseline"]]
    options, poolings = config["options"], sorted({pooling for pooling, _ in config["columns"]})
    parts = ["linear probe"] if options["head"] == "linear" else []
    parts += [] if poolings == ["cls"] else ["mean pooling" if poolings == ["mean"] else "[CLS] and mean pooling"]
    words = {"standardize": "standardised", "reduction": "no reduction", "fusion": f"fusion {options.get('fusion')}"}
    protocols = ("head", "labels", "folds", "repeats", "split", "seed")
    for key, value in options.items():
        if value != cli.OPTIONS[key] and key not in protocols and not (key == "fusion" and len(config["columns"]) == 1):
            parts.append(words.get(key) or f"{key.replace('_', ' ')} {value}")
    return ", ".join(parts) or "report's head"


def row_label(run):
    """A row in words, for sentences."""
    if "baseline" in run["config"]:
        return head_label(run["config"])
    layers = layers_of(run)
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} ({head_label(run['config'])})"


def depth_share(run):
    """The share of the encoder's layers that must run for a row; nothing of it for a baseline."""
    return max(layers_of(run)) / run["config"]["encoder"]["layers"] if "columns" in run["config"] else 0.0


def cost(run):
    """What a row costs, to be compared: depth first, then the number of columns; a better row wins a tie."""
    return depth_share(run), len(run["config"]["columns"]), -run["influences"]["value"]


def report_figure(run):
    """The report's macro-F1 for the layers at the same distance from the top, or None where it has no such row."""
    config = run["config"]
    if config["data"]["sha256"] != data.YOUTUBE_SHA256 or head_label(config) != "report's head":
        return None
    return REPORT.get(tuple(config["encoder"]["layers"] - layer for layer in layers_of(run)))


def print_table(table, margin):
    """Print one table with its heading, the tables under it, what they say and, last, the recommendation."""
    config, rows = table["config"], table["rows"] or table["few"]
    options, titles, encoder = config["options"], config["data"], config["encoder"]
    name = Path(encoder["name"]).name if Path(encoder["name"]).is_absolute() else encoder["name"]
    dtypes = sorted({run["config"]["settings"]["dtype"] for run in rows})
    protocol = f"{options['folds']} {options['split']} folds, {cli.count(options['repeats'], 'repeat')}"
    print(f"## {cli.escape_markdown(name)} on {cli.escape_markdown(titles['name'])}\n")
    about = f"{titles['rows']:,} titles in {len(config['classes'])} categories, {protocol}, seed {options['seed']}."
    print(f"{about} The encoder has {encoder['layers']} layers, computed in {' and '.join(dtypes)}.\n")
    if table["rows"]:
        reported = any(report_figure(run) for run in rows)
        own = encoder["name"] in REPORT_MODELS
        columns = ["Layers", ":Head", "F1-macro, last epoch", "95% interval", "Folds", "Against the best", "Log loss"]
        columns += ["Depth"] + ["The report" if own else "The report, with bert-base-uncased"] * reported
        print(cli.markdown(columns, [cells(run, table, reported) for run in rows + table["plain"]]))
        print(f"\n{notes(table, reported and not own)}\n")
    if table["few"]:
        print_few(table)
    if not table["rows"]:
        print("Nothing here was trained on all titles: `--labels all` adds that, for the comparison.\n", flush=True)
        return
    if table["choice"]:
        print_classes(table, table["choice"])
        print(confidence(table, table["choice"]) + "\n")
    print(words_sentence(table) + "\n")
    print(recommendation(table, margin) + "\n", flush=True)


def cells(run, table, reported):
    """The cells of one row of the table."""
    config, result = run["config"], run["config"]["results"]
    label = head_label(config)
    if "columns" in config and (fault := runs.collapse(config)):
        label += "; " + ", try ".join(fault)
    difference = f"{run['difference']:+.4f}"
    figure = report_figure(run) if reported and "columns" in config else None
    row = [
        ", ".join(map(str, layers_of(run))) if "columns" in config else "none",
        label,
        f"{result['macro_f1']:.4f}",
        "{:.4f} to {:.4f}".format(*run["interval"]),
        f"{result['fold_mean']:.4f} ± {result['fold_deviation']:.4f}",
        "**best**" if run is table["best"] else difference if run["told"] else f"({difference})",
        f"{result['log_loss']:.4f}",
        f"{depth_share(run):.0%}",
    ]
    row[5] += " at the border" if run["border"] else ""
    return row + [f"{figure:.4f}" if figure else ""] * reported


def notes(table, other):
    """What the columns mean, and what they do not cover."""
    repeats = table["config"]["options"]["repeats"]
    covers = "the choice of titles and of repeats" if repeats > 1 else "the choice of titles, not of folds and weights"
    text = (
        f"F1-macro is over all out-of-fold predictions, the mean of {cli.count(repeats, 'repeat')}; its interval "
        f"covers {covers}. Folds: mean ± deviation over all. Differences in brackets are not told from 0 when all rows "
        "are compared at once (95%), which does not make the rows equal. Log loss is after temperature. Depth is the "
        "share of the encoder that has to run."
    )
    if few := metrics.too_few(table["best"]["influences"]):
        names = ", ".join(cli.escape_markdown(table["config"]["classes"][i]) for i in few[:5])
        text += f" Too few titles for intervals that hold: {names}{', …' if len(few) > 5 else ''}."
    if other:
        text += " The report's figures are another encoder's, for layers as far from the top, on a split of its own."
    return text


def print_few(table):
    """Print the table of --labels: a line for each layer and head, a column for each size, and what it says."""
    lines, words = few_lines(table)
    sizes = sorted({size for line in lines.values() for size in line if size}) + [None]
    named = {size: f"{size:,}" if size else "all" for size in sizes}
    rows = [
        [name, *(f"{line[size]['influences']['value']:.4f}" if size in line else "" for size in sizes)]
        for name, line in [*lines.items(), *([(baselines.NAMES["tfidf"], words)] if words else [])]
    ]
    print(cli.markdown([":Labels a category", *named.values()], rows) + "\n")
    name, best = max(lines.items(), key=lambda item: max(run["influences"]["value"] for run in item[1].values()))
    text, steps = [], [size for size in sizes if size in best]
    if shared := [size for size in steps if size in words]:
        pairs = {size: metrics.compare([run[size]["influences"] for run in (words, best)], 0) for size in shared}
        ahead = [size for size in shared if pairs[size]["low"][1] > 0]
        caught = shared[shared.index(ahead[-1]) + 1 :] if ahead else shared
        where = f"from {named[caught[0]]} labels a category on it is not shown to be ahead" if caught else "not here"
        text.append(f"Where do plain words (TF-IDF) catch up with {name}? {where[0].upper()}{where[1:]}.")
    if len(steps) > 1:
        change = metrics.compare([best[size]["influences"] for size in steps[-2:]], 0)
        gain, low, high = (change[key][1] for key in ("difference", "low", "high"))
        verdict = "it still rises" if low > 0 else "it falls" if high < 0 else "that it still rises is not shown"
        step = f"from {named[steps[-2]]} to {named[steps[-1]]} labels"
        text.append(f"The last step, {step}, brought {gain:+.4f} (95% interval {low:+.4f} to {high:+.4f}): {verdict}.")
    print(" ".join(text) + "\n")


def few_lines(table):
    """The runs of --labels as {label of the row: {size: run}}, and TF-IDF's as {size: run}; the size None is all."""
    lines = {}
    for run in table["few"] + table["rows"]:
        if run["config"]["options"]["labels"] or row_label(run) in lines:
            lines.setdefault(row_label(run), {})[run["config"]["options"]["labels"]] = run
    words = [run for run in table["baselines"] if run["config"]["baseline"] == "tfidf"]
    return lines, {run["config"]["options"]["labels"]: run for run in words}


def print_classes(table, run):
    """Print precision, recall and F1 of each category for one row, the worst ones where they are many."""
    classes = table["config"]["classes"]
    scores = metrics.class_scores(table["labels"], run["predictions"], len(classes))
    worst = np.argsort(scores["f1"], kind="stable")[:SHOWN]
    keys = ("f1", "precision", "recall")
    rows = [
        [cli.escape_markdown(classes[i]), *(f"{scores[k][i]:.4f}" for k in keys), f"{scores['titles'][i]:,}"]
        for i in worst
    ]
    print(cli.markdown([f":Category, {row_label(run)}", "F1", "Precision", "Recall", "Titles"], rows))
    rest = f"\nand {len(classes) - SHOWN:,} more categories with higher F1" if len(classes) > SHOWN else ""
    print(rest + "\n" if rest else "")


def confidence(table, run, level=0.9):
    """How often a row is right where it is sure."""
    values, name = runs.mean_probabilities(run), row_label(run)
    sure = values.max(1) >= level
    right = (values.argmax(1) == table["labels"])[sure]
    name = name[:1].upper() + name[1:]
    if not len(right):
        return f"{name} is nowhere {level:.0%} sure."
    text = f"{name} is at least {level:.0%} sure of {sure.mean():.0%} of the titles"
    return f"{text}, and right in {right.mean():.1%} of those."


def words_sentence(table):
    """Whether the best row beats the words alone, and whether it knows something that they do not."""
    found = {run["config"]["baseline"]: run for run in table["plain"]}
    if "tfidf" not in found:
        return "How far do plain words get? `--baselines` adds TF-IDF on the same folds."
    words, both = found["tfidf"], found["average"]
    low, high = -words["high"], -words["low"]
    verdict = "neither is shown to be better"
    verdict = "the encoder earns its place" if low > 0 else "plain words do better" if high < 0 else verdict
    text = f"TF-IDF with logistic regression reaches {words['influences']['value']:.4f}; the best row differs from it "
    text += f"by {-words['difference']:+.4f} ({low:+.4f} to {high:+.4f}): {verdict}. Averaged with the best row's, its "
    against = metrics.compare([words["influences"], both["influences"]], 0)
    gain, low, high = (against[key][1] for key in ("difference", "low", "high"))
    knows = "that the encoder adds something to words is not shown"
    knows = "the encoder knows something that words do not" if low > 0 else knows
    text += f"probabilities reach {both['influences']['value']:.4f}, {gain:+.4f} ({low:+.4f} to {high:+.4f}) on words "
    return f"{text}alone: {knows}."


def recommendation(table, margin):
    """The cheapest row that is shown to lose at most the margin, or the best one and what is missing, in words."""
    best, choice, compared, rows = table["best"], table["choice"], table["compared"], table["rows"]
    words = next((run for run in table["plain"] if run["config"]["baseline"] == "tfidf"), None)
    text = "Plain words do better than every row here: take TF-IDF. Of the rows: " if words and words["low"] > 0 else ""
    if not choice:
        return f"{text}**Recommended: none.** No row is shown to know more of the categories than chance does."
    text += f"**Recommended: {row_label(choice)}**, macro-F1 {choice['influences']['value']:.4f}: "
    if choice is not best:
        depth, whole, bound = depth_share(choice), depth_share(best), max(choice["loss_bound"], 0)
        text += f"the cheapest row that is shown to lose at most {margin:g} to the best, {row_label(best)}. It takes "
        text += f"{depth:.0%} of the encoder instead of {whole:.0%}" if depth < whole else "as much of the encoder"
        text += f" and loses {-choice['difference']:.4f}, with 95% confidence at most {bound:.4f}."
    else:
        text += f"the best row; no cheaper one is shown to lose at most {margin:g}."
        titles = table["config"]["data"]["rows"]
        cheaper = [run for run in rows if cost(run) < cost(best) and -run["difference"] < margin]
        needed = [(metrics.titles_needed(compared, run["index"], margin, titles), row_label(run)) for run in cheaper]
        if needed := [pair for pair in needed if pair[0]]:
            text += " About {:,} titles would settle whether {} loses less.".format(*min(needed))
    if len(rows) > 1:
        text += f" The best of {len(rows)} rows is flattered by the choice; "
        text += f"corrected for it: {compared['corrected']:.4f}."
    return text

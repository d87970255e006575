"""What evaluate.py says: runs in words, the tables, the sentences under them, and the recommendation."""

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


def describe(run):
    """Add to a run, a dictionary with its "config", what the tables say of it; returns it.

    "kind" of baseline, or None; "size", --labels; "layers", top first; "depth", the share of the encoder's layers that
    must run; "head" and "name", of head and row in words; "order", to sort rows; "report", its macro-F1 there, or None.
    """
    config, options = run["config"], run["config"]["options"]
    run |= {"kind": config.get("baseline"), "size": options["labels"], "layers": [], "depth": 0.0, "report": None}
    if run["kind"]:
        return run | dict.fromkeys(("head", "name"), baselines.NAMES[run["kind"]])
    depth, (layers, poolings) = config["encoder"]["layers"], runs.layers_of(config)
    parts = ["linear probe"] * (options["head"] == "linear")
    if "mean" in poolings:
        parts.append("[CLS] and mean pooling" if "cls" in poolings else "mean pooling")
    words = {"standardize": "standardised", "reduction": "no reduction", "fusion": f"fusion {options.get('fusion')}"}
    protocols = ("head", "labels", *baselines.PROTOCOL)
    for key, value in options.items():
        if value != cli.OPTIONS[key] and key not in protocols and not (key == "fusion" and len(config["columns"]) == 1):
            parts.append(words.get(key) or f"{key.replace('_', ' ')} {value}")
    head = ", ".join(parts) or "report's head"
    if config["data"]["sha256"] == data.YOUTUBE_SHA256 and not parts:
        run["report"] = REPORT.get(tuple(depth - layer for layer in layers))
    name = runs.in_words(config, head)
    # the report's rows come first, in its order; then one kind of head after the other
    order = bool(parts), head.count(","), head, len(layers), [-layer for layer in layers]
    return run | {"layers": layers, "depth": max(layers) / depth, "head": head, "name": name, "order": order}


def cost(run):
    """What a row costs, to be compared: depth first, then the number of columns; a better row wins a tie."""
    return run["depth"], len(run["config"]["columns"]), -run["value"]


def page(table, margin):
    """One table with its heading, the tables under it, what they say and, last, the recommendation, as markdown."""
    config, rows = table["config"], table["rows"] or table["few"]
    options, titles, encoder = config["options"], config["data"], config["encoder"]
    name = Path(encoder["name"]).name if Path(encoder["name"]).is_absolute() else encoder["name"]
    dtypes = sorted({run["config"]["settings"]["dtype"] for run in rows})
    protocol = f"{options['folds']} {options['split']} folds, {cli.count(options['repeats'], 'repeat')}"
    parts = [
        f"## {cli.escape_markdown(name)} on {cli.escape_markdown(titles['name'])}",
        f"{titles['rows']:,} titles in {len(config['classes'])} categories, {protocol}, seed {options['seed']}. "
        f"The encoder has {encoder['layers']} layers, computed in {' and '.join(dtypes)}.",
    ]
    if table["rows"]:
        parts += main_table(table)
    if table["few"]:
        parts += few_table(table)
    if not table["rows"]:
        nothing = "Nothing here was trained on all titles: `--labels all` adds that, for the comparison."
        return "\n\n".join([*parts, nothing])
    if table["choice"]:
        parts += choice_table(table)
    return "\n\n".join([*parts, words_sentence(table), recommendation(table, margin)])


def main_table(table):
    """The table of rows and baselines, and what the columns mean and do not cover."""
    config, best, lines = table["config"], table["best"], []
    reported = any(run["report"] for run in table["rows"])
    own = config["encoder"]["name"] in REPORT_MODELS
    for run in [*table["rows"], *table["plain"].values()]:
        result, label, difference = run["config"]["results"], run["head"], f"{run['difference']:+.4f}"
        if not run["kind"] and (fault := runs.collapse(run["config"])):
            label += "; " + ", try ".join(fault)
        if not run["told"]:
            difference = "**best**" if run is best else f"({difference})"
        line = {
            "Layers": runs.spell(run["layers"]) or "none",
            ":Head": label,
            "F1-macro, last epoch": f"{result['macro_f1']:.4f}",
            "95% interval": "{:.4f} to {:.4f}".format(*run["interval"]),
            "Folds": f"{result['fold_mean']:.4f} ± {result['fold_deviation']:.4f}",
            "Against the best": difference + " at the border" * bool(run["border"]),
            "Log loss": f"{result['log_loss']:.4f}",
            "Depth": f"{run['depth']:.0%}",
        }
        if reported:
            figure = f"{run['report']:.4f}" if run["report"] else ""
            line["The report" if own else "The report, with bert-base-uncased"] = figure
        lines.append(line)
    repeats = config["options"]["repeats"]
    covers = "the choice of titles and of repeats" if repeats > 1 else "the choice of titles, not of folds and weights"
    notes = (
        f"F1-macro is over all out-of-fold predictions, the mean of {cli.count(repeats, 'repeat')}; its interval "
        f"covers {covers}. Folds: mean ± deviation over all. Differences in brackets are not told from 0 when all rows "
        "are compared at once (95%), which does not make the rows equal. Log loss is after temperature. Depth is the "
        "share of the encoder that has to run."
    )
    if few := [cli.escape_markdown(config["classes"][i]) for i in best["influences"]["too_few"]]:
        notes += f" Too few titles for intervals that hold: {', '.join(few[:5])}{', …' if len(few) > 5 else ''}."
    if reported and not own:
        notes += " The report's figures are another encoder's, for layers as far from the top, on a split of its own."
    return cli.markdown(list(line), [line.values() for line in lines]), notes


def few_lines(table):
    """The runs of --labels as {name of the row: {size: run}}, TF-IDF's last; the size None is all titles."""
    lines, words = {}, [run for run in table["baselines"] if run["kind"] == "tfidf"]
    for run in table["few"] + table["rows"] + words:
        if run["size"] or run["kind"] or run["name"] in lines:
            lines.setdefault(run["name"], {})[run["size"]] = run
    return lines


def few_table(table):
    """The table of --labels, a line for each layer and head and a column for each size, and what it says."""
    lines, said = few_lines(table), []
    sizes = sorted({size for line in lines.values() for size in line if size}) + [None]
    named = {size: f"{size:,}" if size else "all" for size in sizes}
    rows = []
    for name, line in lines.items():
        rows.append([name, *(f"{line[size]['value']:.4f}" if size in line else "" for size in sizes)])
    tables = [cli.markdown([":Labels a category", *named.values()], rows)]
    words = lines.pop(baselines.NAMES["tfidf"], {})
    name, best = max(lines.items(), key=lambda item: max(run["value"] for run in item[1].values()))
    steps = [size for size in sizes if size in best]
    if shared := [size for size in steps if size in words]:
        ahead = [i for i, size in enumerate(shared, 1) if gain(words[size], best[size])[1] > 0]
        text = f"Plain words (TF-IDF) do not catch up with {name} here."
        if caught := shared[max(ahead, default=0) :]:
            text = (
                f"From {named[caught[0]]} labels a category on, plain words (TF-IDF) are not shown to be behind {name}."
            )
        said.append(text)
    if len(steps) > 1:
        before, after = steps[-2:]
        more, low, high = gain(best[before], best[after])
        verdict = told(low, high, "it still rises", "it falls", "that it still rises is not shown")
        step = f"from {named[before]} to {named[after]} labels"
        said.append(f"The last step, {step}, brought {more:+.4f} (95% interval {low:+.4f} to {high:+.4f}): {verdict}.")
    return tables + ([" ".join(said)] if said else [])


def gain(first, second):
    """How much more macro-F1 the second run has than the first, and the 95% interval of that: (gain, low, high)."""
    compared = metrics.compare([first["influences"], second["influences"]], 0)
    return [compared[key][1] for key in ("difference", "low", "high")]


def told(low, high, above, below, neither):
    """The words for an interval that lies above 0, below it, or around it."""
    return above if low > 0 else below if high < 0 else neither


def choice_table(table, level=0.9):
    """Precision, recall and F1 of each category for the recommended row, and how often it is right where it is sure."""
    run, classes, lines = table["choice"], table["config"]["classes"], []
    scores, titles = run["influences"]["scores"], np.bincount(table["labels"])
    for i in np.argsort(scores[0], kind="stable")[:SHOWN]:  # the worst ones
        lines.append([cli.escape_markdown(classes[i]), *(f"{x:.4f}" for x in scores[:, i]), f"{titles[i]:,}"])
    parts = [cli.markdown([f":Category, {run['name']}", "F1", "Precision", "Recall", "Titles"], lines)]
    if len(classes) > SHOWN:
        parts.append(f"and {len(classes) - SHOWN:,} more categories with higher F1")
    values, name = runs.mean_probabilities(run), run["name"][0].upper() + run["name"][1:]
    sure, right = values.max(1) >= level, values.argmax(1) == table["labels"]
    if not sure.any():
        return [*parts, f"{name} is nowhere {level:.0%} sure."]
    said = f"{name} is at least {level:.0%} sure of {sure.mean():.0%} of the titles"
    return [*parts, f"{said}, and right in {right[sure].mean():.1%} of those."]


def words_sentence(table):
    """Whether the best row beats the words alone, and whether it knows something that they do not."""
    if "tfidf" not in table["plain"]:
        return "How far do plain words get? `--baselines` adds TF-IDF on the same folds."
    words, both = table["plain"]["tfidf"], table["plain"]["average"]
    low, high = -words["high"], -words["low"]
    better = told(low, high, "the encoder earns its place", "plain words do better", "neither is shown to be better")
    more, least, most = gain(words, both)
    unknown = "that the encoder adds something to words is not shown"
    adds = told(least, most, "the encoder knows something that words do not", unknown, unknown)
    return (
        f"TF-IDF with logistic regression reaches {words['value']:.4f}; the best row differs from it by "
        f"{-words['difference']:+.4f} ({low:+.4f} to {high:+.4f}): {better}. Averaged with the best row's, its "
        f"probabilities reach {both['value']:.4f}, {more:+.4f} ({least:+.4f} to {most:+.4f}) on words alone: {adds}."
    )


def recommendation(table, margin):
    """The cheapest row that is shown to lose at most the margin, or the best one and what is missing, in words."""
    best, choice, rows, words = table["best"], table["choice"], table["rows"], table["plain"].get("tfidf")
    text = "Plain words do better than every row here: take TF-IDF. Of the rows: " if words and words["low"] > 0 else ""
    if not choice:
        return f"{text}**Recommended: none.** No row is shown to know more of the categories than chance does."
    text += f"**Recommended: {choice['name']}**, macro-F1 {choice['value']:.4f}: "
    if choice is best:
        text += f"the best row; no cheaper one is shown to lose at most {margin:g}."
        titles = table["config"]["data"]["rows"]
        cheaper = [run for run in rows if cost(run) < cost(best) and -run["difference"] < margin]
        needed = [(metrics.titles_needed(run["settle"], margin, titles), run["name"]) for run in cheaper]
        if needed := [pair for pair in needed if pair[0]]:
            text += " About {:,} titles would settle whether {} loses less.".format(*min(needed))
    else:
        fewer, more = (len(run["config"]["columns"]) for run in (choice, best))
        takes = f"as much of the encoder, {cli.count(fewer, 'embedding')} a title instead of {more},"
        if choice["depth"] < best["depth"]:
            takes = f"{choice['depth']:.0%} of the encoder instead of {best['depth']:.0%}"
        text += (
            f"the cheapest row that is shown to lose at most {margin:g} to the best, {best['name']}. It takes "
            f"{takes} and loses "
            f"{-choice['difference']:.4f}, with 95% confidence at most {max(choice['loss_bound'], 0):.4f}."
        )
    if len(rows) > 1:
        text += f" The best of {len(rows)} rows is flattered by the choice; corrected for it: {table['corrected']:.4f}."
    return text

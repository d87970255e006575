"""What evaluate.py recommends: which row to take, what that costs, and how far words alone get."""

from whichlayer.common import cli
from whichlayer.scores import comparison

# --- the sentences, as they are printed -----------------------------------------------------------

NO_PROBE = (
    "**First try the linear probe**, which costs little and often beats the report's head on the same features. Run "
    "this, and then this page again:"
)
NONE = "**Recommended: none.** No row is shown to beat chance."
RECOMMENDED = "**Recommended: {row.name}**, macro-F1 {row.value:.4f}: {why}."
NONE_INFERIOR = "the best row; no cheaper one is shown to be non-inferior within {answer.margin:g}"
CHEAPER = (
    "the cheapest row that is non-inferior within {answer.margin:g} to the best one, {answer.best.name}. It loses "
    "{loss:.4f}, with 95% confidence at most {bound:.4f}, and takes {share:.0%} of the encoder's work"
)
TITLES_NEEDED = "About {titles:,} titles would show whether {name} is."
USUAL = "Against {name}, which needs no survey, it has {difference}."
LEFT_OUT = "Not shown to beat chance, and left out: {row.name}, macro-F1 {row.value:.4f}."
CORRECTED = "The best of {answer.competing} rows, optimism-corrected: {answer.comparison.corrected:.4f}."
WORDS = (
    "Words alone (TF-IDF) reach {answer.words.value:.4f}; against them, {answer.best_of_encoder.name} has {difference}."
)
WORDS_UNKNOWN = "How far do words alone get? `--baselines` adds them."
DIFFERENCE = "{found.difference[1]:+.4f} ({found.low[1]:+.4f} to {found.high[1]:+.4f}; {verdict})"


def paragraph(table, answer):
    """The row to take, and what else a user decides by, as a paragraph."""
    if not answer.recommended:
        return NONE
    row = answer.recommended
    sentences = [RECOMMENDED.format(row=row, why=reason(answer))]
    if row is answer.best:
        sentences += titles_needed(table, answer)
    for each in answer.compared:
        if is_usual(each) and each is not row:
            sentences.append(USUAL.format(name=each.name, difference=difference(each, row)))
    for each in table.rows:
        if each.value > answer.best_of_encoder.value:
            sentences.append(LEFT_OUT.format(row=each))
    if answer.competing > 1:
        sentences.append(CORRECTED.format(answer=answer))
    sentences.append(words(answer))
    return " ".join(sentences)


def no_probe(table):
    """What to do first where no row has the linear probe: a list of paragraphs."""
    if any(row.run.options.head == "linear" for row in table.trained):
        return []
    run = table.trained[0].run
    places = {"features": (run.made.features, "features"), "results": (run.folder.parent, "results")}
    return [NO_PROBE, f"    {cli.command('train.py', '--survey', **places)}"]


def reason(answer):
    """Why a row is recommended, in words."""
    row = answer.recommended
    if row is not answer.best:
        number = answer.compared.index(row)
        return CHEAPER.format(
            answer=answer,
            loss=answer.best.value - row.value,
            bound=max(answer.comparison.loss_bound[number], 0),
            share=row.expense / max(answer.best.expense, 1),
        )
    return NONE_INFERIOR.format(answer=answer)


def titles_needed(table, answer):
    """A sentence, in a list, on the cheaper row that the fewest titles would show to be
    non-inferior; or none.
    """
    needed = []
    for number, row in enumerate(answer.compared):
        is_close = answer.best.value - row.value < answer.margin
        if is_close and row.cost < answer.best.cost and row.run.baseline != "majority":
            titles = answer.comparison.titles_needed(number, answer.margin, table.data.rows)
            needed += [(titles, row.name)] if titles else []
    return [TITLES_NEEDED.format(titles=titles, name=name) for titles, name in sorted(needed)[:1]]


def is_usual(row):
    """Whether a row is what to take without a survey: the mean of the last four layers, with words."""
    last = [("mean", row.run.encoder.layers - back) for back in range(4)] if len(row.runs) > 1 else None
    return row.run.columns == last


def words(answer):
    """How the best row of an encoder differs from words alone: a sentence."""
    if not answer.words:
        return WORDS_UNKNOWN
    return WORDS.format(answer=answer, difference=difference(answer.words, answer.best_of_encoder))


def difference(first, second):
    """How much more macro-F1 the second row has than the first, with its 95% interval and a verdict."""
    found = comparison.compare([first.influence, second.influence], 0)
    verdict = "not significant"
    if found.significant[1]:
        verdict = "significantly better" if found.low[1] > 0 else "significantly worse"
    return DIFFERENCE.format(found=found, verdict=verdict)

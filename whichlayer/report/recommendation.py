"""What evaluate.py recommends: which row to take, what it costs, and how far words alone get."""

from whichlayer.common import cli
from whichlayer.heads import runs
from whichlayer.report import answer as answers

# --- the sentences, as they are printed -----------------------------------------------------------

RECOMMENDED_ONLY = "**Recommended: {name}**, macro-F1 {value:.4f}: the only row."
RECOMMENDED_KNOWING = (
    "**Recommended: {name}**, macro-F1 {value:.4f}: the only row that is shown to know more of the "
    "categories than chance does."
)
RECOMMENDED_CHEAPEST = "**Recommended: {name}**, macro-F1 {value:.4f}: the best row, and no row is cheaper."
RECOMMENDED_BEST = (
    "**Recommended: {name}**, macro-F1 {value:.4f}: the best row. "
    "No cheaper one is shown to be non-inferior within {margin:g}."
)
RECOMMENDED_CHEAPER = (
    "**Recommended: {name}**, macro-F1 {value:.4f}: the cheapest row that is non-inferior within {margin:g} "
    "to the best one, {best}. It loses {loss:.4f}, with 95% confidence at most {bound:.4f}, and takes {saving}."
)
RECOMMENDED_NONE = "**Recommended: none.** No row is shown to know more of the categories than chance does."
TITLES_NEEDED = "About {titles:,} titles would show whether {name} is non-inferior."
LESS_WORK = "{less:.3g} GFLOP a title instead of {more:.3g}"
SHARE_OF_WORK = "about {share:.0%} of its encoder's work"
SHALLOWER = "{less:.0%} of the encoder instead of {more:.0%}"
FEWER_EMBEDDINGS = "as much of the encoder, but {fewer} a title instead of {more}"
NO_ENCODER = "no encoder at all"
NO_WORDS = "as much of the encoder, but no words beside it"
CORRECTED = "The figure of the best of {rows} rows is optimistic, as it was chosen; optimism-corrected: {value:.4f}."
AVERAGE = (
    "Averaged with {others}, its probabilities reach {value:.4f}, {gain:+.4f} "
    "(95% interval {low:+.4f} to {high:+.4f}): {verdict}."
)
AVERAGE_COMMAND = "That is `predict.py --run {folders}`."

WORDS_UNKNOWN = "How far do words alone get? `--baselines` adds TF-IDF of words and characters, on the same folds."
NO_PROBE = "The linear probe has not been tried here: `train.py --survey` adds it, on all that is worth comparing."
WORDS = (
    "Words alone (TF-IDF of words and characters) reach {value:.4f}; the best row of an encoder, {name}, differs from "
    "that by {difference:+.4f} (95% interval {low:+.4f} to {high:+.4f}): {verdict}."
)
LEFT_OUT = (
    "Left out of the comparison for the best row, as not shown to know more than chance does: {name}, "
    "macro-F1 {value:.4f} ({low:.4f} to {high:.4f})."
)
ONE_REPEAT = "With one repeat, the choice of folds and first weights is not in this: `--repeats 3` adds it."


# --- the recommendation ---------------------------------------------------------------------------


def paragraph(table, answer):
    """The row to take and what it costs against the best one, or why there is none: a paragraph."""
    if not answer.recommended:
        return RECOMMENDED_NONE
    sentences = [recommended(table, answer)]
    if answer.recommended is answer.best:
        sentences += titles_needed(table, answer)
    elif table.options.repeats == 1:
        sentences.append(ONE_REPEAT)
    for row in answer.left_out:
        low, high = row.interval
        sentences.append(LEFT_OUT.format(name=row.name, value=row.value, low=low, high=high))
    if not any(row.run.options.head == "linear" for row in table.rows):
        sentences.append(NO_PROBE)
    if answer.competing > 1:
        sentences.append(CORRECTED.format(rows=answer.competing, value=answer.comparison.corrected))
    if answer.average and answer.average is not answer.recommended:
        sentences += averaging(answer)
    return " ".join(sentences)


def recommended(table, answer):
    """The sentence that names the recommended row."""
    row = answer.recommended
    best = answer.best
    if answer.competing == 1:
        alone = all(each is row or each.run.baseline == "majority" for each in answer.compared)
        sentence = RECOMMENDED_ONLY if alone else RECOMMENDED_KNOWING
        return sentence.format(name=row.name, value=row.value)
    if row is not best:
        number = answer.number(row)
        return RECOMMENDED_CHEAPER.format(
            name=row.name,
            value=row.value,
            margin=answer.margin,
            best=best.name,
            loss=abs(answer.comparison.difference[number]),
            bound=max(answer.comparison.loss_bound[number], 0),
            saving=saving(table, row, best),
        )
    usable = [each for each in answer.compared if each.run.baseline != "majority"]
    if row.cost == min(each.cost for each in usable):
        return RECOMMENDED_CHEAPEST.format(name=row.name, value=row.value)
    return RECOMMENDED_BEST.format(name=row.name, value=row.value, margin=answer.margin)


def saving(table, row, best):
    """What a row takes of its encoder, and what the best one does."""
    if not row.run.columns:
        return NO_ENCODER
    if row.expense < best.expense:
        if len(table.encoders) > 1 and table.has_flop:
            return LESS_WORK.format(less=row.expense / 1e9, more=best.expense / 1e9)
        if len(table.encoders) > 1:
            return SHARE_OF_WORK.format(share=row.expense / best.expense)
        return SHALLOWER.format(less=row.depth, more=best.depth)
    if len(row.run.columns) == len(best.run.columns):
        return NO_WORDS
    fewer = cli.count(len(row.run.columns), "embedding")
    return FEWER_EMBEDDINGS.format(fewer=fewer, more=len(best.run.columns))


def titles_needed(table, answer):
    """A sentence, in a list, on the cheaper row that the fewest titles would show to be
    non-inferior; or none.
    """
    needed = []
    for number, row in enumerate(answer.compared):
        if row.run.baseline == "majority":
            continue
        close = -answer.comparison.difference[number] < answer.margin
        if close and row.cost < answer.best.cost:
            titles = answer.comparison.titles_needed(number, answer.margin, table.data.rows)
            if titles:
                needed.append((titles, row.name))
    if not needed:
        return []
    titles, name = min(needed)
    return [TITLES_NEEDED.format(titles=titles, name=name)]


def verdict(low, high, above, below, neither):
    """The words for an interval that lies above 0, below it, or around it."""
    if low > 0:
        return above
    return below if high < 0 else neither


# --- words ----------------------------------------------------------------------------------------


def averaging(answer):
    """What averaging the recommended row, or the best one where words are recommended, with words
    would bring: sentences.
    """
    average = answer.average
    own, words = average.run.parts
    gain, low, high = answers.gain(answer.recommended, average)
    nothing = "not significantly different"
    others = runs.BASELINES["tfidf"]
    if answer.recommended is answer.words:
        others = answer.best_of_encoder.name
    sentences = [
        AVERAGE.format(
            others=others,
            value=average.value,
            gain=gain,
            low=low,
            high=high,
            verdict=verdict(low, high, "significantly better", "significantly worse", nothing),
        )
    ]
    # a command for what is no better would be noise
    if gain > 0:
        sentences.append(AVERAGE_COMMAND.format(folders=f"{own.folder} {words.folder}"))
    return sentences


def words(answer):
    """Whether the best row of an encoder beats words alone: a sentence."""
    if not answer.words:
        return WORDS_UNKNOWN
    best = answer.best_of_encoder
    difference, low, high = answers.gain(answer.words, best)
    better = "the encoder is significantly better"
    worse = "words are significantly better"
    return WORDS.format(
        value=answer.words.value,
        name=best.name,
        difference=difference,
        low=low,
        high=high,
        verdict=verdict(low, high, better, worse, "not significantly different"),
    )

"""What one would write without this project: the contenders of the benchmarks.

Plain PyTorch, transformers, sentence-transformers and scikit-learn, used as they are documented.
"""

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from whichlayer.common import cli
from whichlayer.heads import mlp
from whichlayer.scores import metrics


def load(folder):
    """A model in float32 and its tokenizer."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def extract(model, tokenizer, titles):
    """{(pooling, layer): (titles, hidden) array} of all layers, 32 titles at a time."""
    found = {}
    for start in range(0, len(titles), 32):
        batch = titles[start : start + 32]
        tokens = tokenizer(batch, truncation=True, max_length=128, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"][..., None]
        for layer, state in enumerate(states[1:], 1):
            mean = (state * mask).sum(1) / mask.sum(1)
            found.setdefault(("cls", layer), []).append(state[:, 0].numpy())
            found.setdefault(("mean", layer), []).append(mean.numpy())
    return {column: np.concatenate(parts) for column, parts in found.items()}


def sentence_encoder(folder, dtype):
    """A SentenceTransformer, or None where that is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        remedy = "pip install -r requirements-bench.txt"
        return cli.say(f"sentence-transformers is missing, its row is left out; {remedy}")
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})


def train_heads(x, labels, folds, options, classes):
    """Out-of-fold probabilities of the report's heads, (repeats, titles, classes).

    One after another, as modules. Arguments and first weights are those of mlp.train_heads.
    """
    targets = torch.from_numpy(labels)
    heads = mlp.new_heads(options, *x.shape[1:], classes)
    probabilities = np.empty((len(folds), len(x), classes), np.float32)
    places = np.ndindex(options.repeats, options.folds)
    for (repeat, fold), head in zip(places, heads, strict=True):
        held_out = torch.from_numpy(folds[repeat] == fold)
        training = TensorDataset(x[~held_out], targets[~held_out])
        optimizer = torch.optim.Adam(head.parameters(), lr=options.lr)
        for _ in range(options.epochs):
            for inputs, wanted in DataLoader(training, options.batch_size, shuffle=True):
                optimizer.zero_grad()
                logits = head.mlp(head.reduce(inputs).squeeze(1))
                cross_entropy(logits, wanted).backward()
                optimizer.step()
            with torch.inference_mode():
                logits = head.mlp(head.reduce(x[held_out]).squeeze(1))
            values = logits.softmax(-1).numpy()
            # as here
            metrics.macro_f1(labels[held_out], values.argmax(1), classes)
        probabilities[repeat, held_out] = values
    return probabilities


def train_probes(x, labels, folds):
    """Out-of-fold probabilities of logistic regressions with C = 1, (repeats, titles, classes)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    found = []
    for repeat in folds:
        cv = PredefinedSplit(repeat)
        found.append(cross_val_predict(pipeline, x, labels, cv=cv, method="predict_proba"))
    return np.stack(found)


def choose_probes(x, labels, folds, draws, penalties, few):
    """What train_probes returns, with a C for each head, chosen among penalties by log loss.

    draws: what each head learns from, and in which parts it is held out; of more titles than `few`
    the last part only.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    options = {"max_iter": 10_000, "l1_ratios": (0,), "use_legacy_attributes": False}
    found = np.empty((len(folds), len(x), int(labels.max()) + 1))
    for (repeat, fold), draw in zip(np.ndindex(len(folds), len(draws) // len(folds)), draws, strict=True):
        parts = draw.parts
        if len(parts) > few:
            parts = np.where(parts == parts.max(), 0, -1)
        solver = LogisticRegressionCV(Cs=penalties, cv=PredefinedSplit(parts), scoring="neg_log_loss", **options)
        pipeline = make_pipeline(StandardScaler(), solver)
        pipeline.fit(x[draw.rows], labels[draw.rows])
        held_out = folds[repeat] == fold
        found[repeat, held_out] = pipeline.predict_proba(x[held_out])
    return found


# answers each line of standard input; its arguments: a folder and a file of fit_classifier
PREDICT = """
import sys
import numpy
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
encoder = SentenceTransformer(sys.argv[1], device="cpu")
kept = numpy.load(sys.argv[2])
classifier = LogisticRegression()
classifier.coef_, classifier.intercept_, classifier.classes_ = kept["coef"], kept["intercept"], kept["classes"]
for line in sys.stdin:
    found = classifier.predict(encoder.encode([line.strip()], show_progress_bar=False))
    print(found[0], flush=True)
"""


def fit_classifier(folder, titles, labels, path):
    """Fit and save what PREDICT applies; returns a function that answers for one title, or None
    where sentence-transformers is missing.
    """
    encoder = sentence_encoder(folder, torch.float32)
    if encoder is None:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x = encoder.encode(titles, show_progress_bar=False)
    scaler = StandardScaler().fit(x)
    classifier = LogisticRegression(max_iter=10_000).fit(scaler.transform(x), labels)
    # of features as they come, and kept without a pickle
    classifier.coef_ = classifier.coef_ / scaler.scale_
    classifier.intercept_ = classifier.intercept_ - classifier.coef_ @ scaler.mean_
    np.savez(path, coef=classifier.coef_, intercept=classifier.intercept_, classes=classifier.classes_)
    return lambda title: classifier.predict(encoder.encode([title], show_progress_bar=False))


def warm_up():
    """Import what train_probes needs, so that this is not timed."""
    train_probes(np.eye(4), np.arange(4) % 2, np.arange(4)[None] // 2)

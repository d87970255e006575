"""What one would write without this project: the contenders of the benchmarks.

Plain PyTorch, transformers, sentence-transformers and scikit-learn, used as they are documented.
"""

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from whichlayer.common import cli

# penalties that are chosen among, as this project does
GRID = [float(f"{10.0**power:.1e}") for power in np.arange(-5, 2.1, 0.5)]
EPOCHS = 30


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
        remedy = "pip install -r bench/requirements.txt"
        return cli.say(f"sentence-transformers is missing, its row is left out; {remedy}")
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})


def train_heads(x, labels, folds):
    """Out-of-fold probabilities of the report's heads, (repeats, titles, classes), one after another.

    x: (titles, hidden) float32; labels: (titles,) int; folds: (repeats, titles) int.
    """
    inputs = torch.from_numpy(x)[:, None]
    targets = torch.from_numpy(labels).long()
    classes = int(labels.max()) + 1
    probabilities = np.empty((*folds.shape, classes), np.float32)
    for repeat, fold in np.ndindex(len(folds), int(folds.max()) + 1):
        held_out = torch.from_numpy(folds[repeat] == fold)
        training = TensorDataset(inputs[~held_out], targets[~held_out])
        layers = (nn.Linear(x.shape[1] // 3, 512), nn.ReLU(), nn.Linear(512, classes))
        head = nn.Sequential(nn.Conv1d(1, 1, kernel_size=3, stride=3), nn.Flatten(), *layers)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for batch, wanted in DataLoader(training, 64, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(batch), wanted).backward()
                optimizer.step()
            with torch.inference_mode():
                values = head(inputs[held_out]).softmax(-1).numpy()
        probabilities[repeat, held_out] = values
    return probabilities


def train_probes(x, labels, folds, is_chosen):
    """Out-of-fold probabilities of logistic regressions, (repeats, titles, classes).

    is_chosen: whether C is, by log loss on a fifth of what a head learns from; else it is 1.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit, StratifiedShuffleSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    solver = LogisticRegression(max_iter=10_000)
    if is_chosen:
        parts = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
        options = {"max_iter": 10_000, "l1_ratios": (0,), "use_legacy_attributes": False}
        solver = LogisticRegressionCV(Cs=GRID, cv=parts, scoring="neg_log_loss", **options)
    pipeline = make_pipeline(StandardScaler(), solver)
    splits = map(PredefinedSplit, folds)
    return np.stack([cross_val_predict(pipeline, x, labels, cv=cv, method="predict_proba") for cv in splits])


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
    train_probes(np.eye(4), np.arange(4) % 2, np.arange(4)[None] // 2, is_chosen=False)

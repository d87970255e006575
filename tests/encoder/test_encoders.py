"""Encoders of many kinds: their features are transformers' own, whatever the batching, the depth or the tokenizer."""

import functools
import json
import shutil
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
from tokenizers import decoders, pre_tokenizers, processors, trainers

import predict
from whichlayer.apply import frozen
from whichlayer.common import cli
from whichlayer.encoder import embedding, loading, store
from whichlayer.encoder import encoder as encoders
from whichlayer.heads import runs

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
    words = dict.fromkeys(["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS])
    tokenizer = transformers.MPNetTokenizer(vocab={token: i for i, token in enumerate(words)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def trained(folder, kind, template, **names):
    """A tokenizer trained on a few sentences, with the template's tokens around each title, saved to `folder`.

    kind: bytes (byte-level BPE, as RoBERTa and GPT-2 have it) or unigram (SentencePiece's kind, with ▁ for spaces).
    """
    special = list(dict.fromkeys(names.values()))
    shown = {"show_progress": False}
    if kind == "bytes":
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters, **shown)
    else:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        unknown = names["unk_token"]
        trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token=unknown, **shown)
    tokenizer.train_from_iterator([line.lower() for line in TITLES] * 4, trainer)
    around = [(token, tokenizer.token_to_id(token)) for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return fast


def named(tokens, roles="cls pad sep unk mask"):
    """{"cls_token": "<s>", …}: the names of the special tokens, whose ids are 0, 1, 2 … in this order."""
    return {f"{role}_token": token for role, token in zip(roles.split(), tokens.split(), strict=True)}


ROBERTA = named("<s> <pad> </s> <unk> <mask>")
ALBERT = named("<pad> <unk> [CLS] [SEP] [MASK]", "pad unk cls sep mask")
DEBERTA = named("[PAD] [CLS] [SEP] [UNK] [MASK]", "pad cls sep unk mask")
byte_level = functools.partial(trained, kind="bytes", template="<s> $A </s>", **ROBERTA)
generative = functools.partial(trained, kind="bytes", template="$A", **named("<end> <end>", "bos eos"))
unigram = functools.partial(trained, kind="unigram", template="<s> $A </s>", **ROBERTA)
unigram_of_albert = functools.partial(trained, kind="unigram", template="[CLS] $A [SEP]", **ALBERT)
unigram_of_deberta = functools.partial(trained, kind="unigram", template="[CLS] $A [SEP]", **DEBERTA)
unigram_of_xlnet = functools.partial(trained, kind="unigram", template="$A [SEP] [CLS]", padding_side="left", **ALBERT)

SIZE = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
SIZE |= {"max_position_embeddings": 40, "initializer_range": 0.2}
ENDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
RELATIVE = {"relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "type_vocab_size": 0}
RELATIVE |= {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm"}
LOCAL = {"cls_token_id": 0, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 6}
KINDS = {  # name: (kind of transformers, tokenizer, what the configuration has besides SIZE)
    "bert": ("bert", wordpiece, {}),
    "bert-odd": ("bert", wordpiece, {"hidden_size": 20, "num_hidden_layers": 5}),
    "roberta": ("roberta", byte_level, ENDS),
    "xlm-roberta": ("xlm-roberta", unigram, ENDS),
    "distilbert": ("distilbert", wordpiece, {}),
    "electra": ("electra", wordpiece, {"embedding_size": 12}),
    "albert": ("albert", unigram_of_albert, {"embedding_size": 12}),
    "mpnet": ("mpnet", wordpiece_of_mpnet, ENDS),
    "deberta-v2": ("deberta-v2", unigram_of_deberta, {**RELATIVE, "position_biased_input": False}),
    "modernbert": ("modernbert", byte_level, {**ENDS, **LOCAL}),
    "longformer": ("longformer", byte_level, {"pad_token_id": 1, "attention_window": [8] * 4}),
    "fnet": ("fnet", unigram_of_albert, {}),
    "gpt2": ("gpt2", generative, {"bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("llama", generative, {"bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": 2}),
    "xlnet": ("xlnet", unigram_of_xlnet, {"d_model": 24, "n_layer": 4, "n_head": 4, "d_inner": 48, "pad_token_id": 0}),
}
LIMITS = {"roberta": 38, "xlm-roberta": 38, "mpnet": 38, "xlnet": None}  # 40 for the others
NO_CLS = ("gpt2", "llama", "xlnet")  # the last one has it at the end
UNPADDED = ("fnet",)  # it mixes tokens by a Fourier transform that heeds no mask
# one block called again and again; blocks given padding, or axes, of their own
WHOLE = ("albert", "longformer", "xlnet")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """folder_of(name): a folder with a random encoder of one of the KINDS and its tokenizer, made once."""

    @functools.cache
    def get(name):
        folder = tmp_path_factory.mktemp(name)
        kind, tokenizer, options = KINDS[name]
        torch.manual_seed(1)
        size = {"initializer_range": 0.2} if kind == "xlnet" else SIZE
        config = transformers.AutoConfig.for_model(kind, **{**size, **options, "vocab_size": len(tokenizer(folder))})
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        return str(folder)

    return get


def poolings_of(name):
    return ("mean",) if name in NO_CLS else ("cls", "mean")


@pytest.fixture(scope="module")
def load(folder_of):
    """load(name): one of the KINDS, loaded once in float32, for the mean only where it has no [CLS]."""
    return functools.cache(lambda name: encoders.load_encoder(folder_of(name), "cpu", "float32", 32, poolings_of(name)))


@pytest.fixture
def batches(monkeypatch):
    """The lengths in each batch that is computed."""
    seen = []
    original = embedding.embed_batch

    def watch(encoder, batch, *rest):
        seen.append([len(tokens) for tokens in batch])
        return original(encoder, batch, *rest)

    monkeypatch.setattr(embedding, "embed_batch", watch)
    return seen


def close(got, wanted, tolerance=1e-5):
    """True where all values are within `tolerance` of the largest one wanted."""
    return got.shape == wanted.shape and np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def features(encoder, titles, layers=None, poolings=("mean",)):
    if layers is None:
        layers = range(encoder.info.layers + 1)
    return embedding.embed(encoder, embedding.tokenise(encoder, titles), layers, poolings)


# --- values -------------------------------------------------------------------------------------------------------


def check_values(name, folder_of, encoder):
    got = features(encoder, TITLES, poolings=poolings_of(name))
    wanted = truth(folder_of(name), TITLES, truncation=True, max_length=32)
    assert sorted(got) == sorted(key for key in wanted if key[0] in poolings_of(name))
    for key in got:
        assert close(got[key], wanted[key]), key


@pytest.mark.parametrize("name", KINDS)
def test_every_layer_equals_transformers(name, folder_of, load, batches, monkeypatch):
    encoder = load(name)
    batches.clear()
    monkeypatch.setattr(encoder, "batching", embedding.Batching(10**6, 10**6))
    check_values(name, folder_of, encoder)
    assert len(batches) == 1 or name in UNPADDED  # padded together, but where that changes the values
    assert name not in UNPADDED or all(len(set(batch)) == 1 for batch in batches)


@pytest.mark.parametrize("least, budget", [(1, 10**6), (1, 1)], ids=["one length a batch", "one title a batch"])
def test_other_batches_have_the_same_values(folder_of, load, batches, monkeypatch, least, budget):
    encoder = load("bert")
    batches.clear()
    monkeypatch.setattr(encoder, "batching", embedding.Batching(budget, least))
    check_values("bert", folder_of, encoder)
    assert all(len(set(batch)) == 1 for batch in batches)
    assert any(len(batch) > 1 for batch in batches) == (budget > 1)


@pytest.mark.parametrize("name", KINDS)
def test_one_layer_alone_is_the_same_and_runs_no_deeper(name, load):
    encoder = load(name)
    assert (encoder.blocks is None) == (name in WHOLE)
    full = features(encoder, TITLES)
    calls = []
    hooks = [block.register_forward_hook(lambda *_: calls.append(1)) for block in encoder.blocks or ()]
    for layer in range(encoder.info.layers + 1):
        calls.clear()
        alone = features(encoder, TITLES[:1], [layer])
        assert list(alone) == [("mean", layer)]
        assert close(alone["mean", layer], full["mean", layer][:1])
        assert len(calls) == (layer if encoder.blocks else 0)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", NO_CLS)
def test_cls_is_refused_where_there_is_none(name, folder_of):
    with pytest.raises(cli.Problem, match="--pooling cls: .*decoder-only.*use --pooling mean"):
        encoders.load_encoder(folder_of(name), "cpu", "float32", 32, ("cls",))


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_padding_side_of_the_tokenizer_does_not_matter(name, load, monkeypatch):
    encoder = load(name)
    found = {}
    monkeypatch.setattr(encoder, "batching", embedding.Batching(2048, 2048))
    for side in ("left", "right"):
        monkeypatch.setattr(encoder.tokenizer, "padding_side", side)
        found[side] = features(encoder, TITLES)
    assert all(np.array_equal(found["left"][key], found["right"][key]) for key in found["left"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("instructions", [True, False], ids=["as it is", "without instructions"])
def test_half_precision_is_close(dtype, instructions, folder_of, load, monkeypatch):
    """What oneDNN says where the processor lacks them is said here for all but float32."""
    product = torch.ops.mkldnn._linear_pointwise

    def refuse(x, **options):
        if x.dtype != torch.float32:
            raise RuntimeError("could not create a primitive descriptor")
        return product(x, **options)

    if not instructions:
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, size: weight)
    encoder = encoders.load_encoder(folder_of("bert"), "cpu", dtype, 32, ("cls", "mean"))
    exact = features(load("bert"), TITLES, poolings=("cls", "mean"))
    rough = features(encoder, TITLES, poolings=("cls", "mean"))
    assert all(close(rough[key], exact[key], 0.05) for key in exact)
    assert not np.array_equal(rough["mean", 4], exact["mean", 4])  # the weights have fewer digits
    assert encoder.dtype == getattr(torch, dtype) and (instructions or encoder.model.dtype == torch.float32)


def test_a_model_that_reads_its_weights_itself_keeps_them(folder_of, monkeypatch):
    """Linear layers are packed for oneDNN and their own weights emptied, but not where something else needs those."""

    def forward(self, states):
        return self.intermediate_act_fn(torch.nn.functional.linear(states, self.dense.weight, self.dense.bias))

    monkeypatch.setattr(transformers.models.bert.modeling_bert.BertIntermediate, "forward", forward)
    check_values("bert", folder_of, encoders.load_encoder(folder_of("bert"), "cpu", "float32", 32, ("cls", "mean")))


def fused_into(encoder):
    """How many products apply a GELU."""
    found = [module.__dict__.get("forward") for module in encoder.model.modules()]
    return sum(getattr(forward, "keywords", {}).get("attr") == "gelu" for forward in found)


EXACT_GELU = ["bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "longformer", "xlnet"]


@pytest.mark.parametrize("name", [*EXACT_GELU, "gpt2", "modernbert", "albert", "llama"])
def test_products_that_apply_the_exact_gelu_give_the_same_states(name, folder_of):
    """Others have another activation, or none that follows a product alone."""
    encoder = encoders.load_encoder(folder_of(name), "cpu", "float32", 32, poolings_of(name))
    encoders.fuse_activations(encoder)
    assert fused_into(encoder) == (encoder.info.layers if name in EXACT_GELU else 0)
    check_values(name, folder_of, encoder)


def test_products_leave_the_gelu_where_their_outcome_is_used_without_it(folder_of, monkeypatch):
    def forward(self, states):
        linear = self.dense(states)
        return self.intermediate_act_fn(linear) - 2 * linear

    monkeypatch.setattr(transformers.models.bert.modeling_bert.BertIntermediate, "forward", forward)
    encoder = encoders.load_encoder(folder_of("bert"), "cpu", "float32", 32, ("cls", "mean"))
    encoders.fuse_activations(encoder)
    assert fused_into(encoder) == 0
    check_values("bert", folder_of, encoder)


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_batches_are_chosen_by_what_the_processor_has(has_amx, dtype, folder_of, monkeypatch, load):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    encoder = encoders.load_encoder(folder_of("bert"), "cpu", dtype, 32, ("cls", "mean"))
    # float32 is multiplied without AMX, also where there are no instructions for bfloat16
    large = has_amx and encoder.model.dtype == torch.bfloat16
    assert encoder.batching.budget == (4096 if large else 2048)
    assert fused_into(encoder) == (4 if large else 0)
    exact = features(load("bert"), TITLES, poolings=("cls", "mean"))
    found = features(encoder, TITLES, poolings=("cls", "mean"))
    assert all(close(found[key], exact[key], 0.05) for key in exact)


# --- lengths, copies ----------------------------------------------------------------------------------------------


POSITIONS = ["bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "deberta-v2", "gpt2", "xlnet"]


@pytest.mark.parametrize("name", POSITIONS)
def test_titles_may_fill_all_positions_and_no_more(name, folder_of):
    limit = LIMITS.get(name, 40)
    length = limit or 90
    encoder = encoders.load_encoder(folder_of(name), "cpu", "float32", length, poolings_of(name))
    long = ["rome pasta " * 60, "rome"]
    tokenised = embedding.tokenise(encoder, long)
    assert len(tokenised.ids[0]) == length
    assert tokenised.cut == 1
    got = embedding.embed(encoder, tokenised, range(5), poolings_of(name))
    wanted = truth(folder_of(name), long, truncation=True, max_length=length)
    assert all(close(got[key], wanted[key]) for key in got)
    if limit:
        with pytest.raises(cli.Problem, match=f"--max-length {limit + 1}: .* at most {limit} tokens"):
            encoders.load_encoder(folder_of(name), "cpu", "float32", limit + 1, poolings_of(name))


def test_copies_are_computed_once_and_get_the_same_features(load, batches):
    encoder = load("bert")
    batches.clear()
    got = features(encoder, TITLES, [1, 4], ("cls", "mean"))
    copies = [i for i, title in enumerate(TITLES) if title == TITLES[0]]
    assert len(copies) == 3
    for value in got.values():
        assert (value[copies] == value[0]).all() and not (value[1] == value[0]).all()
    assert sum(map(len, batches)) == len(set(TITLES))


# --- cost ---------------------------------------------------------------------------------------------------------


def operations_by_hand(name, model, tokens):
    """Operations until each layer comes out, from the shapes of what transformers loads, for hidden states of 24."""
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 4)
    attention = 4 * tokens**2 * 24
    if name == "deberta-v2":  # words with 16 distances, and distances with words
        attention += 2 * 2 * tokens * 16 * 24
    below = 0
    if name == "electra":  # embeddings of 12
        below = 2 * 12 * 24 * tokens
    layers = [below]
    for block in blocks:
        weights = sum(weight.numel() for weight in block.parameters() if weight.dim() == 2)
        layers.append(layers[-1] + 2 * weights * tokens + attention)
    return layers


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert", "llama"]
)
@pytest.mark.parametrize("tokens", [3, 18.5])
def test_operations_grow_from_layer_to_layer_by_its_weights_and_attention(name, tokens, folder_of, load):
    model = transformers.AutoModel.from_pretrained(folder_of(name))
    cost = encoders.cost(load(name), tokens)
    assert cost.tokens == tokens
    assert np.allclose(cost.flop, operations_by_hand(name, model, tokens), rtol=0, atol=1)
    assert all(np.diff(cost.flop) > 0)


def test_each_layer_of_an_encoder_that_is_not_left_early_takes_all_operations(load):
    """ALBERT: its wider embedding, one block again and again, and a pooler of one token."""
    weights = 4 * 24 * 24 + 2 * 24 * 48
    whole = 2 * 12 * 24 * 10 + 4 * (2 * weights * 10 + 4 * 10**2 * 24) + 2 * 24 * 24
    assert np.allclose(encoders.cost(load("albert"), 10).flop, [whole] * 5, rtol=0, atol=1)


@pytest.mark.parametrize("name", KINDS)
def test_operations_are_counted_for_every_kind(name, folder_of):
    encoder = encoders.load_encoder(folder_of(name), "cpu", "float32", 32, poolings_of(name))
    flop = encoders.cost(encoder, 9).flop
    assert len(flop) == encoder.info.layers + 1 and flop[-1] > 0 and (np.diff(flop) >= 0).all()


def test_there_is_no_cost_where_the_operations_or_the_length_are_unknown(load, monkeypatch):
    encoder = load("bert")
    assert encoders.cost(encoder, None) is None
    monkeypatch.setattr(encoder, "operations", None)
    assert encoders.cost(encoder, 10) is None


def test_tokens_are_those_of_every_title_after_cutting(load):
    encoder = load("bert")
    tokenised = embedding.tokenise(encoder, TITLES)
    single = [min(len(encoder.tokenizer(title).input_ids), 32) for title in TITLES]
    assert tokenised.cut == single.count(32) == 1
    assert tokenised.tokens == sum(single)


# --- memory -------------------------------------------------------------------------------------------------------


def short_of_memory(encoder, monkeypatch, most):
    """Make the encoder fail as a GPU does on batches of more than `most` tokens; returns the sizes that it got."""
    given = []
    original = encoder.model.forward

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
    monkeypatch.setattr(encoder, "batching", embedding.Batching(512, 512))
    given = short_of_memory(encoder, monkeypatch, 100)
    got = features(encoder, titles)
    assert all(close(got[key], wanted[key]) for key in wanted)
    assert 32 <= encoder.batching.budget <= 100
    failed = [size for size in given if size > 100]
    assert 1 <= len(failed) <= 4 and failed == sorted(failed, reverse=True)  # each failure halves what is tried next


def test_a_title_that_does_not_fit_into_memory_is_one_line(load, monkeypatch):
    encoder = load("bert")
    monkeypatch.setattr(encoder, "batching", embedding.Batching(512, 256))
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
    assert (again.weights, again.tokenizer) == (bert.weights, bert.tokenizer)
    assert info(change_weights(folder_of("bert"), tmp_path / "nudged", nudge)).weights != bert.weights
    headless = change_weights(folder_of("bert"), tmp_path / "headless", behead)
    torch.manual_seed(5)
    first = info(headless).weights
    torch.manual_seed(6)  # the pooler is filled with other random numbers, and nothing uses it
    assert info(headless).weights == first


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda weights, key: weights.pop(key), "encoder.layer.2.output.dense.bias.*not a trained encoder"),
        (lambda weights, key: weights.update({key: weights[key][:-1].clone()}), "another shape|not a usable encoder"),
    ],
    ids=["missing", "another shape"],
)
def test_weights_that_do_not_fit_are_refused(folder_of, tmp_path, change, words):
    def edit(weights):
        change(weights, "encoder.layer.2.output.dense.bias")

    broken = change_weights(folder_of("bert"), tmp_path / "b", edit)
    with pytest.raises(cli.Problem, match=words):
        encoders.load_encoder(broken, "cpu", "float32", 32)


def test_what_a_folder_is_not_is_said_in_plain_words(folder_of, tmp_path):
    whole = folder_of("bert")
    with pytest.raises(cli.Problem, match=r"is a folder, which has no revisions; name it alone"):
        encoders.load_encoder(f"{whole}@main", "cpu", "float32", 32)
    with pytest.raises(cli.Problem, match="reads at most 40 tokens; pass --max-length 40$"):
        encoders.load_encoder(whole, "cpu", "float32", 128)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"
    for name in ("model.safetensors", "tokenizer.json"):
        folder = shutil.copytree(whole, tmp_path / name)
        (folder / name).write_bytes(pointer)
        with pytest.raises(cli.Problem, match=f"its {name} is a pointer of Git LFS.*git lfs pull"):
            encoders.load_encoder(str(folder), "cpu", "float32", 32)
    folder = shutil.copytree(whole, tmp_path / "sizes")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48, "intermediate_size": 96}))
    with pytest.raises(cli.Problem, match="other sizes than its config.json says"):
        encoders.load_encoder(str(folder), "cpu", "float32", 32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["encoder.layer.2.output.dense.bias", "embeddings.LayerNorm.weight"])
@pytest.mark.filterwarnings("error")
def test_weights_that_are_not_finite_are_refused_as_that(folder_of, tmp_path, value, key):
    broken = change_weights(folder_of("bert"), tmp_path / "b", lambda weights: weights[key].fill_(value))
    with pytest.raises(cli.Problem, match="not finite numbers, though computed in float32; its weights are damaged"):
        encoders.load_encoder(broken, "cpu", "float32", 32, ("mean",))


def test_tokenizer_of_another_encoder_is_refused(folder_of, tmp_path):
    folder = write_bert(tmp_path / "bert")
    encoders.load_encoder(folder, "cpu", "float32", 32)
    byte_level(folder)
    with pytest.raises(cli.Problem, match="tokenizer knows .* tokens that its weights do not"):
        encoders.load_encoder(folder, "cpu", "float32", 32)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "deberta-v2", "mpnet", "modernbert", "gpt2"])
@pytest.mark.parametrize("further", [(), ("tokenizer_config.json",)])
def test_an_encoder_without_the_words_of_its_tokenizer_is_refused(folder_of, kind, further, tmp_path):
    """transformers makes up a tokenizer that knows no words for most kinds, and fails in many ways for others."""
    for name in ("config.json", "model.safetensors", *further):
        shutil.copy(Path(folder_of(kind), name), tmp_path)
    with pytest.raises(cli.Problem, match=r"holds no tokenizer \(tokenizer.json, vocab.txt …\); copy"):
        encoders.load_encoder(str(tmp_path), "cpu", "float32", 32, ("mean",))


def test_loading_prints_nothing(tmp_path):
    """Heads that are not used, a pooler that is missing, a folder without a tokenizer's configuration: no report."""
    folder = write_bert(tmp_path / "bert")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    code = f"from whichlayer.encoder import encoder; encoder.load_encoder({folder!r}, max_length=100)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_causal_model_is_refused_with_cls_though_its_tokenizer_puts_that_token_first(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=4)
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    with pytest.raises(cli.Problem, match="--pooling cls.*use --pooling mean"):
        encoders.load_encoder(str(tmp_path), "cpu", "float32", 64, ("cls",))
    assert encoders.load_encoder(str(tmp_path), "cpu", "float32", 64, ("mean",)).info.layers == 2


def test_a_first_token_of_any_name_sums_up_a_title_where_it_knows_the_rest(tmp_path):
    """A tokenizer as RoBERTa's that calls its first token the beginning, and one that does not name it at all."""
    for number, names in enumerate([named("<s> <pad> </s> <unk>", "bos pad eos unk"), named("<pad> <unk>", "pad unk")]):
        folder = tmp_path / str(number)
        special = {"first": "<s>", "last": "</s>", **names}
        trained(folder, "bytes", "<s> $A </s>", **special)
        config = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=config.backend_tokenizer, **names)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(1)
        config = transformers.AutoConfig.for_model("roberta", **SIZE, **ENDS, vocab_size=len(tokenizer))
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        encoder = encoders.load_encoder(str(folder), "cpu", "float32", 32, ("cls",))
        assert encoder.tokenizer.cls_token_id is None
        got = features(encoder, TITLES, poolings=("cls",))
        wanted = truth(folder, TITLES, truncation=True, max_length=32)
        assert all(close(got[key], wanted[key]) for key in got)


def test_a_title_that_begins_with_the_same_word_has_no_summary(tmp_path, folder_of):
    """Without tokens around it, every title here begins with the same letter: that is none that sums it up."""
    folder = change_weights(folder_of("roberta"), tmp_path / "bare", lambda weights: None)
    bare = functools.partial(trained, kind="bytes", template="$A", **ROBERTA)
    bare(folder)
    with pytest.raises(cli.Problem, match="--pooling cls: .*use --pooling mean"):
        encoders.load_encoder(folder, "cpu", "float32", 32, ("cls",))


def test_layers_that_have_no_state_for_each_token_are_one_line(tmp_path):
    """CANINE computes on four letters at once, and gives more states than it has layers."""
    size = {**SIZE, "local_transformer_stride": 8, "max_position_embeddings": 256}
    transformers.CanineModel(transformers.CanineConfig(**size)).save_pretrained(tmp_path)
    transformers.CanineTokenizer().save_pretrained(tmp_path)
    for poolings in (("cls",), ("mean",)):
        with pytest.raises(cli.Problem, match="canine model.*a hidden state for each layer and token.*another encoder"):
            encoders.load_encoder(str(tmp_path), "cpu", "float32", 32, poolings)


def test_an_encoder_that_fails_on_short_titles_is_one_line(folder_of, monkeypatch):
    forward = transformers.BertModel.forward

    def needs_four(self, input_ids, **options):
        if input_ids.shape[1] < 4:
            raise RuntimeError("max_pool1d() Invalid computed output size: 0")
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.BertModel, "forward", needs_four)
    with pytest.raises(cli.Problem, match="cannot be run on titles .*output size: 0"):
        encoders.load_encoder(folder_of("bert"), "cpu", "float32", 32)


# --- folders as other programs leave them -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("alone", [False, True], ids=["beside its model", "alone"])
def test_an_adapter_is_refused(tmp_path, name, alone):
    folder = tmp_path / "a"
    if alone:
        folder.mkdir()
    else:
        write_bert(folder)
    (folder / name).write_text("{}")
    with pytest.raises(cli.Problem, match=f"--model .*: {name} is an adapter.*merge it into its model first"):
        encoders.load_encoder(str(folder), "cpu", "float32", 32)


def older_sentence_transformer(folder, part="0_Transformer", kind="Transformer"):
    """A folder as versions before 2 of sentence-transformers saved it, with a BERT of two layers in it."""
    write_bert(folder / part)
    kind = f"sentence_transformers.models.{kind}"
    modules = [{"idx": 0, "name": "0", "path": part, "type": kind}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config.json").write_text('{"__version__": "0.3.2"}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("part, kind", [("0_Transformer", "Transformer"), ("0_BERT", "BERT")])
def test_an_older_folder_of_sentence_transformers_is_read_where_it_says(tmp_path, part, kind):
    folder = older_sentence_transformer(tmp_path / "old", part, kind)
    encoder = encoders.load_encoder(str(folder), "cpu", "float32", 32)
    got = features(encoder, TITLES, poolings=("cls",))
    wanted = truth(folder / part, TITLES, truncation=True, max_length=32)
    assert all(close(got[key], wanted[key]) for key in got)
    assert encoder.info.name == str(folder)


def test_faults_in_an_older_folder_name_its_part(tmp_path):
    folder = older_sentence_transformer(tmp_path / "old")
    weights = folder / "0_Transformer" / "model.safetensors"
    (folder / "0_Transformer" / "adapter_config.json").write_text("{}")
    with pytest.raises(cli.Problem, match="adapter_config.json is an adapter"):
        encoders.load_encoder(str(folder), "cpu", "float32", 32)
    (folder / "0_Transformer" / "adapter_config.json").unlink()
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(cli.Problem, match="0_Transformer in it holds no weights as safetensors.*convert it"):
        encoders.load_encoder(str(folder), "cpu", "float32", 32)


@pytest.mark.parametrize(
    "modules",
    ["", "{}", "[]", "[1]", '[{"path": 1}]', '[{"path": ".."}]', '[{"path": "../other"}]', '[{"path": "gone"}]'],
)
def test_modules_that_lead_nowhere_or_elsewhere_are_not_followed(tmp_path, modules):
    write_bert(tmp_path / "other", layers=3)
    folder = Path(write_bert(tmp_path / "bert"))
    (folder / "modules.json").write_text(modules)
    assert encoders.load_encoder(str(folder), "cpu", "float32", 32).info.layers == 2


def test_a_tokenizer_of_sentencepiece_names_what_to_install(tmp_path, monkeypatch):
    """DeBERTa-v3 has no other file of its tokenizer."""
    folder = Path(write_bert(tmp_path / "bert"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    kind = {"tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    for missing in ("sentencepiece", "google"):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(cli.Problem, match="pip install sentencepiece protobuf$"):
            encoders.load_encoder(str(folder), "cpu", "float32", 32)
        monkeypatch.undo()


def test_a_folder_called_minilm_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bert(Path("minilm"))
    assert loading.find_model("minilm")[0] != str(tmp_path / "minilm")
    assert "that pip installs; for the folder of that name: --model ./minilm" in capsys.readouterr().err
    assert encoders.load_encoder("./minilm", "cpu", "float32", 32).info.name == str(tmp_path / "minilm")
    assert capsys.readouterr().err == ""


# --- huge texts, and prefixes -------------------------------------------------------------------------------------


class Watched:
    """A tokenizer, and the number of characters that it was given in all."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.characters = 0

    def __call__(self, texts, **options):
        given = [texts] if isinstance(texts, str) else texts
        self.characters += sum(map(len, given))
        return self.tokenizer(texts, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def odd_texts():
    """Texts of all lengths in which a character is anything from no token to many, and words are long or short."""
    draw = np.random.default_rng(5)
    parts = ["rome ", "the best ", " " * 70, "x" * 300, "x" * 300 + " ", "東京", "東京 ", "\n", "\t", "é ", "e\u0301 "]
    parts += [
        "\u200b" * 50,
        "\x00" * 50,
        "\u00ad" * 90 + " ",
        "!!!",
        "! ",
        "\U0001fae9 ",
        "Überraschung ",
        "ﷺ ",
        "-" * 200,
    ]
    parts += ["\u0301" * 40 + " ", "\u3000", "\u00a0" * 99, "[SEP] ", "</s>", "Σ ", "İ "]
    for length in (1, 3, 10, 40, 160):
        for _ in range(40):
            kinds = draw.choice(len(parts), 4)
            yield "".join(parts[kind] for kind in draw.choice(kinds, length))


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "albert", "deberta-v2", "gpt2", "xlnet"])
@pytest.mark.parametrize("characters", [1, 4])
def test_texts_that_are_not_read_to_their_end_have_the_same_tokens(name, characters, load, monkeypatch):
    encoder = load(name)
    monkeypatch.setattr(embedding, "CHARACTERS", characters)
    monkeypatch.setattr(encoder, "max_length", 20)
    texts = list(dict.fromkeys(odd_texts()))
    found = embedding.tokenise(encoder, texts)
    wanted = encoder.tokenizer(texts, truncation=True, max_length=20).input_ids
    unknown = [encoder.tokenizer.unk_token_id or encoder.tokenizer.pad_token_id or 0]
    assert found.ids == [ids or unknown for ids in wanted]
    assert found.cut == sum(len(ids) > 20 for ids in encoder.tokenizer(texts).input_ids)
    kept = [embedding.beginning(encoder, text) for text in texts]
    assert sum(len(one) < len(text) for one, text in zip(kept, texts, strict=True)) > 20  # it does leave some out


def test_a_huge_text_costs_what_is_kept_of_it(load, monkeypatch):
    encoder = load("bert")
    watched = Watched(encoder.tokenizer)
    monkeypatch.setattr(encoder, "tokenizer", watched)
    huge = "the best street food in rome " * 100_000
    tokenised = embedding.tokenise(encoder, [huge, "rome", huge])
    assert (tokenised.cut, len(tokenised.ids[0])) == (2, 32)
    assert watched.characters < 4 * 64 * 32


def test_a_prefix_stands_before_every_title_and_counts_as_tokens(folder_of):
    prefixed = encoders.load_encoder(folder_of("bert"), "cpu", "float32", 32, ("cls", "mean"), "query: ")
    whole = [f"query: {title}" for title in TITLES]
    got = features(prefixed, TITLES, poolings=("cls", "mean"))
    wanted = truth(folder_of("bert"), whole, truncation=True, max_length=32)
    assert all(close(got[key], wanted[key]) for key in got)
    tokenised = embedding.tokenise(prefixed, TITLES)
    lengths = [len(prefixed.tokenizer(title).input_ids) for title in whole]
    assert tokenised.tokens == sum(min(length, 32) for length in lengths)
    assert tokenised.cut == sum(length > 32 for length in lengths)
    with pytest.raises(cli.Problem, match="--max-length 9: the prefix alone"):
        encoders.load_encoder(folder_of("bert"), "cpu", "float32", 9, ("cls",), "the best street food in rome, the ")


def test_a_prefix_is_kept_with_features_and_run_and_used_for_new_titles(tmp_path, folder_of):
    titles = write_titles(tmp_path / "titles.csv")
    plain, prefixed = tmp_path / "plain", tmp_path / "prefixed"
    kind = ["--layers", "2", "--dtype", "float32", "--max-length", "32"]
    asked = ["--data", titles, "--model", folder_of("bert"), *kind]
    assert call("extract", *asked, "--out", plain).code == 0
    assert call("extract", *asked, "--prefix", "query: ", "--out", prefixed).code == 0
    # features without one are what they were before there were prefixes
    assert '"prefix"' not in (plain / "manifest.json").read_text()
    assert "prefix" not in store.identity(store.open_features(plain).manifest)
    features = store.open_features(prefixed)
    wanted = truth(folder_of("bert"), [f"query: {title}" for title in features.titles()[0]])["cls", 2]
    assert close(features.read("cls", 2), wanted)
    refused(call("extract", *asked, "--out", prefixed), "another prefix (query: , now none)")
    refused(call("extract", *asked, "--prefix", "query: ", "--out", plain), "another prefix (none, now query: )")
    assert "--prefix 'query: '" in store.extract_command(features, titles)

    # both encoders at once: each run has its own prefix
    found = {}
    for folder in (plain, prefixed):
        results = tmp_path / f"results-{folder.name}"
        train = ["--features", folder, "--results", results, "--head", "linear", "--layers", "2", "--repeats", "1"]
        assert call("train", *train).code == 0
        (found[folder.name],) = (path.parent for path in results.glob("*/config.json"))
    assert runs.differing(runs.find(found["plain"]), store.open_features(plain).manifest) is None
    assert runs.differing(runs.find(found["plain"]), features.manifest) == "encoder or settings"
    new = ["best pasta", "cheap flights"]
    answers = []
    for chosen in (["plain"], ["prefixed"], ["plain", "prefixed"]):
        classifier = predict.load([found[name] for name in chosen])
        answers.append(predict.table(classifier, new).iloc[:, 3:].to_numpy())
    assert not np.allclose(answers[0], answers[1])
    assert np.allclose(answers[2], (answers[0] + answers[1]) / 2, rtol=0, atol=1e-6)
    run = runs.find(found["prefixed"])
    without = frozen.load([run], None, "cpu", None)
    without.encoder.prefix = ""
    prepare, judge = frozen.steps(without)
    wanted, _ = judge(prepare([f"query: {title}" for title in new]))
    assert np.allclose(answers[1], wanted[0], rtol=0, atol=1e-6)

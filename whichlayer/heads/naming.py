"""What runs are called: layers and heads in words, and the names of folders in results/."""

from pathlib import Path

from whichlayer.common import disk
from whichlayer.heads.options import DECISIONS, Options

REPORTS_HEAD = "report's head"


def head_in_words(columns, options):
    """The head of a run with these (pooling, layer) columns: its kind, pooling and unusual options."""
    # its kind and pooling
    poolings = {pooling for pooling, _ in columns}
    parts = []
    if options.head == "linear":
        parts.append("linear probe")
    if poolings == {"cls", "mean"}:
        parts.append("[CLS] and mean")
    elif poolings == {"mean"}:
        parts.append("mean pooling")
    elif options.head == "linear":
        parts.append("[CLS]")
    # what differs from the defaults
    if options.decide != DECISIONS[options.head]:
        parts.append(options.decide)
    if options.standardize:
        parts.append("standardised")
    if options.fusion != Options.fusion and len(columns) > 1:
        parts.append(f"fusion {options.fusion}")
    if options.reduction != Options.reduction:
        parts.append("no reduction")
    for name in ("hidden", "epochs", "batch_size", "lr"):
        value = getattr(options, name)
        if value != getattr(Options, name):
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts) or REPORTS_HEAD


def short_encoder(name):
    """The name of an encoder without the folders that it lies in; names on the hub stay whole."""
    return Path(name).name if Path(name).is_absolute() else name


def spell(layers):
    """Layers, top first, as text; many that follow one another as 12 to 1."""
    if len(layers) > 4 and layers == list(range(layers[0], layers[-1] - 1, -1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def layers_in_words(columns, more=None):
    """Layers in words, with their poolings in brackets, or with what else is to be said there."""
    layers = list(dict.fromkeys(layer for _, layer in columns))
    poolings = list(dict.fromkeys(pooling for pooling, _ in columns))
    noun = "layers" if len(layers) > 1 else "layer"
    return f"{noun} {spell(layers)} ({more or ' and '.join(poolings)})"


def run_name(config, tell_apart=False):
    """The name of a run's folder: encoder, data, layers, and every option that is not the default.

    tell_apart: whether to name the encoder's weights, since another encoder has the same name.
    """
    poolings = list(dict.fromkeys(pooling for pooling, _ in config.columns))
    layers = list(dict.fromkeys(layer for _, layer in config.columns))
    parts = [disk.slug(Path(config.encoder.name).name)]
    if tell_apart:
        parts.append(config.encoder.weights[:8])
    parts += [disk.slug(config.data.name), "layers", *layers]
    if poolings != ["cls"]:
        parts.append("and".join(poolings))
    for option, value in vars(config.options).items():
        usual = DECISIONS[config.options.head] if option == "decide" else getattr(Options, option)
        if value == usual or (option == "fusion" and len(config.columns) == 1):
            continue
        if value is True:
            parts.append(option)
        elif option in ("head", "fusion", "split"):
            parts.append(value)
        else:
            parts.append(f"{option.replace('_', '-')}-{value}")
    name = "-".join(map(str, parts))
    if len(name.encode()) > 200:
        return f"{disk.slug(name, 180)}-{disk.digest(name)[:12]}"
    return name

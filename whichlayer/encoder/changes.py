"""Which runs are of the earlier titles of features."""

from whichlayer.common import cli


def find_outdated(own, every):
    """Those of some runs that were trained on some store.Features before their titles changed."""
    now = {str(features.folder.resolve()): features.manifest for features in every}
    found = []
    for run in own:
        manifest = now.get(run.config.made.features)
        if manifest and is_earlier(run, manifest):
            found.append(run)
    return found


def is_earlier(run, manifest):
    """Whether a run is of the same encoder and the same file of titles as features, but of other
    titles or labels.
    """
    if run.baseline or run.encoder.weights != manifest.encoder.weights:
        return False
    data = run.config.data
    return data.name == manifest.data.name and data.titles != manifest.data.titles


def out_of_date(outdated):
    """How many runs are of earlier titles, in words."""
    number = cli.count(len(outdated), "run")
    return f"{number} of an earlier state of {outdated[0].config.data.name}: out of date"

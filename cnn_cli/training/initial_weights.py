"""What a run takes over from its initial weights: input size, preprocessing, and the tensors that fit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cnn_cli.checkpoints.checkpoint import Weights, find_weights
from cnn_cli.checkpoints.transfer import Transfer
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.language.plan import Plan
from cnn_cli.settings import Setting


def find_initial_weights(settings: Mapping[str, Setting], plan: Plan) -> Weights | None:
    """The weights that the setting `weights` names, or None; CnnError or UsageError where they are not to be had."""
    text = settings["weights"].value
    return find_weights(text, plan.network) if text else None


def full_path(setting: Setting) -> Setting:
    """A file or folder by its full path, so that it means the same from everywhere; other text as it is."""
    path = Path(str(setting.value)).expanduser()
    return Setting(str(path.resolve()), setting.source) if setting.value and path.exists() else setting


def prepared(
    settings: dict[str, Setting], plan: Plan, weights: Weights | None
) -> tuple[dict[str, Setting], Preprocessing]:
    """The settings of the images, and what they come to for the plan's input.

    What nobody has set comes from the weights, where these know it; what is set stays as it is.
    """
    channels, height, width = plan.input
    size = (channels, height, width)
    theirs = weights.preprocessing.with_input(size) if weights and weights.preprocessing else None
    if theirs is None:
        return settings, Preprocessing.from_settings(size, settings["resize"].value, settings["normalize"].value)
    normalize = {"mean": list(theirs.mean), "std": list(theirs.std)} if theirs.mean else None
    taken = {"resize": theirs.resize, "normalize": normalize}
    inherited = {k: Setting(v, "weights") for k, v in taken.items() if settings[k].source == "default"}
    settings = settings | inherited
    how = Preprocessing.from_settings(size, settings["resize"].value, settings["normalize"].value)
    if "resize" in inherited:
        how = replace(how, resize_size=theirs.resize_size, interpolation=theirs.interpolation)
    return settings, how


def remarks(weights: Weights | None, moved: Transfer | None, how: Preprocessing, classes: tuple[str, ...]) -> list[str]:
    """For the start of a run: the weights, what of them was copied, how images are prepared, and what they expect."""
    if weights is None:
        return []
    lines = [str(weights), str(moved), f"images: {how}"]
    if moved and not moved.new and weights.classes and set(weights.classes) != set(classes):
        lines.insert(2, f"the head is copied too; it was for other classes: {', '.join(weights.classes[:3])}, …")
    if weights.preprocessing is None:
        lines[-1] += "; the file does not say what it was trained with"
    elif how != weights.preprocessing:
        lines.append(f"they were trained with {weights.preprocessing}")
    return lines

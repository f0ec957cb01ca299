"""Initial weights of a run: the input size, preprocessing and tensors that are taken from them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import Weights, find_weights
from cnn_cli.checkpoints.transfer import Transfer, fit, fit_part, fit_partially
from cnn_cli.data.preprocessing import Preprocessing
from cnn_cli.errors import UsageError, closest, listed
from cnn_cli.language.plan import Plan
from cnn_cli.settings import Setting


def find_initial_weights(settings: Mapping[str, Setting], plan: Plan) -> Weights | None:
    """The weights that the setting `weights` names, or None; CnnError or UsageError where they are not available.

    `backbone=SOURCE` names weights for the part `backbone` of this network.
    """
    text = settings["weights"].value
    part, equals, source = (text or "").partition("=")
    if equals and not source:
        raise UsageError(f"--weights {text} names no weights; write {text}torchvision, {text}FILE or {text}RUN")
    if equals and part in plan.parts:
        return replace(find_weights(source, plan.parts[part]), part=part)
    if equals and not Path(text).exists():
        known = f"its parts are {listed(list(plan.parts))}" if plan.parts else "it has no parts"
        raise UsageError(f"--weights {text}: {plan.network} has no part {part!r}.{closest(part, plan.parts)} ({known})")
    return find_weights(text, plan.network) if text else None


def fitting(plan: Plan, weights: Weights, partial: bool) -> Transfer:
    """The weights to copy into the network, or into one of its parts: all but the head, or with `partial` those that
    match by name and shape."""
    origin = str(weights)
    if partial:
        under = f"{weights.part}." if weights.part else ""
        return fit_partially(plan, {f"{under}{name}": tensor for name, tensor in weights.tensors.items()}, origin)
    try:
        if weights.part:
            return fit_part(plan, weights.part, weights.tensors, origin)
        return fit(plan, weights.tensors, origin)
    except UsageError as error:
        hint = "to copy only the tensors that match by name and shape, add --weights-partial"
        raise UsageError(f"{error}\n{hint}") from None


def full_path(setting: Setting) -> Setting:
    """A file or folder by its full path, so that it is valid in any working directory; other text unchanged."""
    part, _, source = str(setting.value or "").partition("=")
    for before, text in (("", str(setting.value)), (f"{part}=", source)):
        path = Path(text).expanduser()
        if setting.value and text and path.exists():
            return Setting(f"{before}{path.resolve()}", setting.source)
    return setting


def prepared(
    settings: dict[str, Setting], plan: Plan, weights: Weights | None
) -> tuple[dict[str, Setting], Preprocessing]:
    """The settings of the preprocessing, and the preprocessing for the plan's input.

    Settings at their defaults are taken from the weights, if these record them.
    """
    size = plan.image
    theirs = weights.preprocessing.with_input(size) if weights and weights.preprocessing else None
    if theirs is None:
        return settings, Preprocessing.from_settings(size, settings["resize"].value, settings["normalize"].value)
    normalize = {"mean": list(theirs.mean), "std": list(theirs.std)} if theirs.mean else None
    taken: dict[str, Any] = {"normalize": normalize}
    if weights and not weights.part:  # for a part, images are resized as for the whole network
        taken["resize"] = theirs.resize
    inherited = {k: Setting(v, "weights") for k, v in taken.items() if settings[k].source == "default"}
    settings = settings | inherited
    preprocessing = Preprocessing.from_settings(size, settings["resize"].value, settings["normalize"].value)
    if "resize" in inherited:
        preprocessing = replace(preprocessing, resize_size=theirs.resize_size, interpolation=theirs.interpolation)
    return settings, preprocessing


def remarks(
    weights: Weights | None, moved: Transfer | None, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> list[str]:
    """Lines for the header of a run: the weights, what was copied of them, and the preprocessing of images."""
    if weights is None:
        return []
    renamed = moved.renamed if moved else ""
    lines = [str(weights), *filter(None, (weights.inside, renamed)), str(moved), f"images: {preprocessing}"]
    if moved and not moved.new and weights.classes and set(weights.classes) != set(classes):
        lines.insert(
            -1,
            f"the head is copied too, although it was trained for other classes: {', '.join(weights.classes[:3])}, …",
        )
    if weights.preprocessing is None:
        lines[-1] += "; the file does not record how images were prepared in training"
    elif preprocessing != weights.preprocessing:
        lines.append(f"the weights were trained with: {weights.preprocessing}")
    return lines

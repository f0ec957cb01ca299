"""`cnn predict`."""

from typing import TYPE_CHECKING

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Data, Format, Images, Network, Picture, Spec, Weights, flag, option
from cnn_cli.cli.output import note, note_weights
from cnn_cli.errors import UsageError

if TYPE_CHECKING:
    from cnn_cli.checkpoints.checkpoint import LoadedNetwork
    from cnn_cli.interpret.inputs import ImageSelection
    from cnn_cli.interpret.mask_prediction import MaskPredictions
    from cnn_cli.interpret.pictured import Pictured
    from cnn_cli.interpret.prediction import Predictions


@command("predict", "Training")
def predict_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
    top: int | None = option("Output", "N", "Classification: classes to show per image [5]."),
    tiles: bool = flag("Data", "Segmentation: predict at the full resolution of images, in overlapping tiles."),
) -> None:
    """Predict the classes of images or pixels.

    With -o, also draws a contact sheet (PNG). Segmentation writes masks, overlays and a contact sheet to predictions/
    in the run folder, or to -o.
    """
    from cnn_cli.data.dataset import SEGMENTATION
    from cnn_cli.tasks.selection import task_of

    format.check()
    loaded = weights.load(network, spec)
    selection = images.selection(data)
    result: MaskPredictions | Predictions | Pictured[Predictions]
    if task_of(loaded.plan) == SEGMENTATION:
        from cnn_cli.interpret.mask_prediction import predict_masks

        if top is not None:
            raise UsageError("--top is for classification; leave it out")
        result = predict_masks(loaded, selection, picture.target, tiles, weights.torch_device)
        picture.preview(result.sheet)
        skipped = result.skipped
    else:
        if tiles:
            raise UsageError("--tiles is for segmentation; leave it out")
        result, skipped = _classes(loaded, selection, picture, 5 if top is None else top, weights)
    heading = [f"{len(skipped):,} unreadable image{'s' * (len(skipped) > 1)} skipped:"] * bool(skipped)
    note_weights(network, loaded)
    for line in (*heading, *skipped):
        note(line)
    format.emit(result)


def _classes(
    loaded: "LoadedNetwork", selection: "ImageSelection", picture: Picture, top: int, weights: Weights
) -> "tuple[Predictions | Pictured[Predictions], tuple[str, ...]]":
    """The predicted classes, as a picture if one is requested, and the errors of skipped images."""
    from cnn_cli.interpret.pictured import write_page
    from cnn_cli.interpret.prediction import draw_predictions, predict_images

    path = picture.target.path(loaded, "predictions") if picture.output else None
    predictions = predict_images(loaded, selection, top, weights.torch_device)
    if not path:
        return predictions, predictions.skipped
    pictured = write_page(loaded, predictions, draw_predictions(predictions), path)
    picture.preview(path, pictured.body)
    return pictured, predictions.skipped

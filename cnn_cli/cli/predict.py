"""`cnn predict`."""

from typing import TYPE_CHECKING

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Data, Format, Images, Network, Picture, Spec, Weights, flag, option
from cnn_cli.cli.output import note, note_weights
from cnn_cli.errors import UsageError
from cnn_cli.tables import counted

if TYPE_CHECKING:
    from cnn_cli.checkpoints.checkpoint import LoadedNetwork
    from cnn_cli.interpret.box_prediction import BoxPredictions
    from cnn_cli.interpret.inputs import ImageSelection
    from cnn_cli.interpret.mask_prediction import MaskPredictions
    from cnn_cli.interpret.pictured import Pictured
    from cnn_cli.interpret.prediction import Predictions


@command("predict")
def predict_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
    top: int | None = option("Output", "N", "Classification: classes to show per image [5]."),
    min_score: float | None = option("Output", "NUMBER", "Detection: lowest score of boxes to show [0.4]."),
    tiles: bool = flag("Data", "Segmentation: predict at the full resolution of images, in overlapping tiles."),
) -> None:
    """Predict the classes of images or pixels, or detect objects.

    With -o, also draws a contact sheet (PNG). Segmentation writes masks, overlays and a contact sheet to predictions/
    in the run folder, or to -o; detection writes images with boxes, and label files in YOLO format.
    """
    from cnn_cli.data.dataset import CLASSIFICATION, DETECTION, SEGMENTATION
    from cnn_cli.tasks.selection import task_of

    format.check()
    loaded = weights.load(network, spec)
    selection = images.selection(data)
    result: BoxPredictions | MaskPredictions | Predictions | Pictured[Predictions]
    task = task_of(loaded.plan)
    for name, is_set, meant in (
        ("--top", top is not None, CLASSIFICATION),
        ("--tiles", tiles, SEGMENTATION),
        ("--min-score", min_score is not None, DETECTION),
    ):
        if is_set and task != meant:
            raise UsageError(f"{name} is for {meant}; leave it out")
    if task == DETECTION:
        from cnn_cli.interpret.box_prediction import LEAST_SCORE, predict_boxes

        least = LEAST_SCORE if min_score is None else min_score
        result = predict_boxes(loaded, selection, picture.target, least, weights.torch_device)
        picture.preview(result.sheet)
        skipped = result.skipped
    elif task == SEGMENTATION:
        from cnn_cli.interpret.mask_prediction import predict_masks

        result = predict_masks(loaded, selection, picture.target, tiles, weights.torch_device)
        picture.preview(result.sheet)
        skipped = result.skipped
    else:
        result, skipped = _classes(loaded, selection, picture, 5 if top is None else top, weights)
    heading = [f"{counted(len(skipped), 'unreadable image')} skipped:"] * bool(skipped)
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

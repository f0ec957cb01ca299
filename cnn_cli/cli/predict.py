"""`cnn predict`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Data, Format, Images, Network, Picture, Spec, Weights, option
from cnn_cli.cli.output import note_weights


@command("predict", "Training")
def predict_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
    top: int = option("Output", "N", "Number of classes to show per image.", default=5),
) -> None:
    """Predict the classes of images.

    With -o also as a contact sheet (PNG).
    """
    from cnn_cli.interpret.pictured import Pictured, write_page
    from cnn_cli.interpret.prediction import Predictions, draw_predictions, predict_images
    from cnn_cli.training.eval_report import trained_network

    format.check()
    loaded = trained_network(network, spec.files, weights.weights, spec.args, spec.size)
    path = picture.target.path(loaded, "predictions") if picture.output else None
    result: Predictions | Pictured[Predictions]
    result = predictions = predict_images(loaded, images.selection(data), top, weights.torch_device)
    if path:
        result = write_page(loaded, predictions, draw_predictions(predictions), path)
        picture.preview(path, result.body)
    skipped = predictions.skipped
    heading = [f"{len(skipped):,} unreadable image{'s' * (len(skipped) > 1)} skipped:"] * bool(skipped)
    note_weights(network, loaded.weights, [*loaded.notes, *heading, *skipped])
    format.emit(result)

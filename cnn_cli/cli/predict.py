"""`cnn predict`."""

from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Data, Format, Images, Network, Spec, Weights, option
from cnn_cli.cli.output import emit, emit_json, note_weights

Top = Annotated[int, option("--top", panel="Output", metavar="N", help="Number of classes to show per image.")]


@command("predict", "Training")
def predict_command(
    network: Network, images: Images, spec: Spec, data: Data, weights: Weights, format: Format, top: Top = 5
) -> None:
    """Predict the classes of images."""
    from cnn_cli.interpret import predict as prediction
    from cnn_cli.training.eval_report import trained_network

    format.check()
    loaded = trained_network(network, spec.files, weights.weights, spec.args, spec.size)
    document = prediction.predict(
        loaded,
        images.images or [],
        index=images.numbers,
        split=images.split or "test",
        data=data.data,
        data_dir=data.data_dir,
        top=top,
        device=weights.torch_device,
    )
    note_weights(network, loaded.weights, loaded.notes)
    if format.json:
        emit_json(document)
    else:
        emit(prediction.report(document, format.style))

"""`cnn visualize-features`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.options import JSON, Data, Images, Network, Picture, Spec, Untrained, Weights, flag, option
from cnn_cli.cli.output import emit_result


@command("visualize-features")
def visualize_features_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    untrained: Untrained,
    picture: Picture,
    layer: list[str] | None = option("Feature maps", "NAME", "Layer to draw; may be repeated [all]."),
    box: int | None = option(
        "Feature maps", "N", "Detection: mark the cell of box N, highest score first [off].", min=0
    ),
    per_channel: bool = flag("Feature maps", "Scale the colors of each channel separately."),
    json: bool = JSON,
) -> None:
    """Draw the feature maps (activations) of images."""
    from cnn_cli.interpret.features import show_features

    loaded = untrained.load(network, spec, weights)
    inputs = images.load(loaded, data, limit=64)
    seed, device = untrained.seed or 0, weights.torch_device
    result = show_features(loaded, inputs, layer or (), picture.target, seed, per_channel, device, box)
    emit_result(result, json)
    for image in result.images:
        picture.preview(image.path, image.drawing.page.body)

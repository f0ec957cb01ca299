"""`cnn visualize-features`."""

from typing import Annotated

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Data, Images, Json, Network, Picture, Spec, Untrained, Weights, option
from cnn_cli.cli.output import emit, emit_json

Layers = Annotated[
    list[str] | None,
    option("--layer", panel="Feature maps", metavar="NAME", help="Layer to draw; may be repeated [all]."),
]
PerChannel = Annotated[
    bool, option("--per-channel", panel="Feature maps", help="Scale the colors of each channel separately.")
]


@command("visualize-features", "Interpretation")
def visualize_features_command(
    network: Network,
    images: Images,
    spec: Spec,
    data: Data,
    weights: Weights,
    untrained: Untrained,
    picture: Picture,
    layer: Layers = None,
    per_channel: PerChannel = False,
    json: Json = False,
) -> None:
    """Draw the feature maps (activations) of images."""
    from cnn_cli.interpret import features

    loaded = untrained.load(network, spec, weights)
    inputs = images.load(loaded, data, limit=64)
    document = features.show_features(
        loaded,
        inputs,
        layer or (),
        picture.output,
        seed=untrained.seed or 0,
        per_channel=per_channel,
        force=picture.force,
        device=weights.torch_device,
    )
    emit_json(document) if json else emit(features.report(document))
    for drawn in document["pictures"]:
        picture.preview(drawn["picture"], drawn["body"])

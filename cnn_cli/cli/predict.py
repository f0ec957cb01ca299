"""The command that answers: predict."""

from typing import Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import style
from cnn_cli.cli.output import emit, emit_json, note_weights

Images = Annotated[list[str] | None, typer.Argument(help="Image files, folders of them, or patterns such as '*.png'.")]
Index = Annotated[
    list[int] | None,
    typer.Option("--index", metavar="N", help="An image of the data set by its number, from 0; may be repeated."),
]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Where --index counts: test, val or train.")]


@app.command()
def predict(
    network: options.Network,
    images: Images = None,
    index: Index = None,
    split: Split = "test",
    top: Annotated[int, typer.Option("--top", metavar="N", help="How many classes of each image.")] = 5,
    weights: options.Weights = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """The likeliest classes of images. With their probabilities, by a trained network."""
    from cnn_cli.device import pick
    from cnn_cli.interpret import predict as p
    from cnn_cli.training.eval_report import trained_network

    form, loaded = style(csv, markdown, json), trained_network(network, tuple(models or ()), weights)
    document = p.predict(
        loaded, images or [], index=index or (), split=split, data=data, data_dir=data_dir, top=top, device=pick(device)
    )
    note_weights(network, loaded.weights, loaded.notes)
    if json:
        emit_json(document)
    else:
        emit(p.report(document, form))

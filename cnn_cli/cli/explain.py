"""Commands that ask a trained network why: visualize-saliency, attack and synthesize."""

from typing import Annotated

import typer

from cnn_cli.cli import options
from cnn_cli.cli.app import app
from cnn_cli.cli.options import style
from cnn_cli.cli.output import emit, emit_json, note, note_weights
from cnn_cli.cli.predict import Images, Index, Split
from cnn_cli.cli.visualize import Force, Show, open_for_picture, show_picture
from cnn_cli.errors import UsageError
from cnn_cli.values import LARGE

_MOST = 16  # images on one picture


AttackSplit = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Attack all of test, val or train; or where --index counts."),
]
Epsilon = Annotated[
    list[float] | None,
    typer.Option(
        "--epsilon",
        metavar="E",
        help="How far an image may be changed, in pixels of [0, 1]; may be repeated [linf: 0.1, colour 8/255; "
        "l2: 1.5, colour 0.5; for a split also parts of it].",
    ),
]
AttackMethod = Annotated[str, typer.Option("--method", metavar="NAME", help="pgd or fgsm.")]
Norm = Annotated[str, typer.Option("--norm", metavar="NAME", help="linf or l2.")]
OFFER = "or take weights from elsewhere with --weights"
PgdSteps = Annotated[int | None, typer.Option("--steps", help="Steps of PGD [10].")]
StepSize = Annotated[float | None, typer.Option("--step-size", help="Length of a step of PGD [2.5 epsilon / steps].")]
Target = Annotated[
    str | None, typer.Option("--target", metavar="CLASS", help="The class to be taken for [any wrong one].")
]
AttackSeed = Annotated[int, typer.Option("--seed", min=0, max=LARGE, help="Of PGD's random start, and of --limit.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="With --split: only N images, drawn at random.")
]


@app.command("visualize-saliency")
def visualize_saliency(
    network: options.Network,
    images: Images = None,
    index: Index = None,
    split: Split = "test",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="gradient, smoothgrad, integrated-gradients, guided-backprop, grad-cam or occlusion; may be repeated "
            "[all of them].",
        ),
    ] = None,
    wanted: Annotated[
        str | None, typer.Option("--class", metavar="NAME|INDEX", help="The class to ask about [the predicted one].")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Grad-CAM's layer [the last convolution].")] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Add the maps of random weights, and deletion and insertion scores.")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGE, help="Of SmoothGrad's noise and of what --sanity draws.")
    ] = 0,
    weights: options.Weights = None,
    device: options.Device = "auto",
    data: options.Data = None,
    data_dir: options.DataDir = None,
    input: options.Input = None,
    output: options.Output = None,
    force: Force = False,
    show: Show = False,
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """Which pixels a class hangs on. By several methods side by side (PNG); needs the extra `explain`."""
    from cnn_cli.device import pick
    from cnn_cli.interpret import saliency_page as s
    from cnn_cli.interpret.inputs import load_inputs
    from cnn_cli.interpret.saliency import need_captum

    form, where = style(csv, markdown, json), pick(device)
    need_captum()
    loaded = open_for_picture(network, False, None, input, None, models, weights, OFFER)
    inputs = load_inputs(
        loaded, images or [], index=index or (), split=split, data=data, data_dir=data_dir, limit=_MOST
    )
    document = s.show_saliency(loaded, inputs, method or (), wanted, layer, sanity, seed, where, output, force)
    for remark in document["notes"]:
        note(remark)
    if json:
        emit_json(document)
    else:
        emit(s.report(document, form) + (f"\n\n{document['picture']}" if form == "text" else ""))
    if show:
        show_picture(document["picture"], document["body"])


@app.command()
def attack(
    network: options.Network,
    images: Images = None,
    index: Index = None,
    split: AttackSplit = None,
    method: AttackMethod = "pgd",
    norm: Norm = "linf",
    epsilon: Epsilon = None,
    steps: PgdSteps = None,
    step_size: StepSize = None,
    target: Target = None,
    seed: AttackSeed = 0,
    limit: Limit = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    data: options.Data = None,
    data_dir: options.DataDir = None,
    input: options.Input = None,
    output: options.Output = None,
    force: Force = False,
    show: Show = False,
    models: options.Models = None,
    json: options.Json = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
) -> None:
    """Small changes that fool a network. For images a picture, for a split accuracy against epsilon."""
    from cnn_cli.device import pick
    from cnn_cli.interpret import attack_page as a
    from cnn_cli.interpret.inputs import load_inputs

    some = bool(images or index)
    if not some and split is None:
        raise UsageError("name images, take some of the data set with --index 0, or attack a whole split: --split test")
    if some and limit is not None:
        raise UsageError("--limit is for a whole split; leave it out, or leave the images out")
    form, where = style(csv, markdown, json), pick(device)
    loaded = open_for_picture(network, False, None, input, None, models, weights, OFFER)
    how = a.attack_of(loaded, method, norm, steps, step_size, target, seed)
    if some:
        inputs = load_inputs(
            loaded, images or [], index=index or (), split=split or "test", data=data, data_dir=data_dir, limit=_MOST
        )
        document = a.show_attack(loaded, inputs, epsilon or (), how, where, output, force)
    else:
        source = a.source_of(loaded, split or "test", data, data_dir, limit)
        document = a.show_robustness(loaded, source, split or "test", epsilon or (), how, where, limit, output, force)
    note_weights(network, loaded.weights)
    if json:
        emit_json(document)
    else:
        emit(a.report(document, how, form))
    if show:
        show_picture(document["picture"], document.get("body"))


@app.command()
def synthesize(
    network: options.Network,
    wanted: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME|INDEX", help="A class; may be repeated.")
    ] = None,
    all_classes: Annotated[bool, typer.Option("--all-classes", help="Every class.")] = False,
    layer: Annotated[str | None, typer.Option("--layer", help="A layer by its name (`cnn summary`).")] = None,
    channels: Annotated[
        str | None, typer.Option("--channel", "--channels", metavar="NUMBERS", help="Of --layer: 3, 0-15 or 3,5,8-10.")
    ] = None,
    parametrization: Annotated[
        str, typer.Option("--parametrization", metavar="NAME", help="fourier (smooth) or pixels.")
    ] = "fourier",
    transforms: Annotated[
        str, typer.Option("--transforms", metavar="LIST", help="What must not matter; or none.")
    ] = "jitter,scale,rotate,blur",
    steps: Annotated[int, typer.Option("--steps", help="Steps of gradient ascent.")] = 256,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Side of the images in px [the network's].")] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGE, help="Of the noise to start from and of the transforms.")
    ] = 0,
    weights: options.Weights = None,
    device: options.Device = "auto",
    output: options.Output = None,
    force: Force = False,
    show: Show = False,
    models: options.Models = None,
    json: options.Json = False,
) -> None:
    """The image that a class or channel likes best. Found by gradient ascent (PNG)."""
    from cnn_cli.device import pick
    from cnn_cli.interpret import synthesize_page as s
    from cnn_cli.interpret.synthesize import Ascent, transforms_of

    how, where = Ascent(parametrization, transforms_of(transforms), steps, seed), pick(device)
    loaded = open_for_picture(network, False, None, None, None, models, weights, OFFER)
    document = s.show_synthesis(loaded, how, wanted or (), all_classes, layer, channels, size, where, output, force)
    if json:
        emit_json(document)
    else:
        emit(s.report(document))
    if show:
        show_picture(document["picture"], document["body"])

"""`cnn convolve`."""

from dataclasses import replace
from pathlib import Path

from cnn_cli.cli.app import command
from cnn_cli.cli.options import Format, Network, Spec, Weights, argument, flag, option
from cnn_cli.cli.output import note, note_weights

_IMAGES_HELP = "Images at least as large as the network's input: files, folders, or patterns such as '*.png'."


@command("convolve")
def convolve_command(
    network: Network,
    spec: Spec,
    weights: Weights,
    format: Format,
    images: list[str] | None = argument("[IMAGE]...", _IMAGES_HELP),
    size: int | None = option("Data", "N", "Longer side of the images in pixels [original size].", min=1, max=10_000),
    windows: bool = flag("Data", "Classify every window separately: slow, but exact for networks with padding."),
    output: Path | None = option("Output", "FOLDER", "Folder to write to [convolved/ in the run].", "-o", "--output"),
    force: bool = flag("Output", "Overwrite existing files outside the run folder."),
) -> None:
    """Turn a classifier into a fully convolutional network.

    Writes a network with the same weights that accepts any larger image and outputs a map of class scores (a sliding
    window in one pass), as a YAML file and a checkpoint. Given images, also draws heat maps and lists the best
    windows.
    """
    from cnn_cli.checkpoints.checkpoint import load_network
    from cnn_cli.errors import UsageError
    from cnn_cli.interpret.heat_maps import draw_score_map
    from cnn_cli.interpret.inputs import files_of
    from cnn_cli.interpret.pictured import distinct_words
    from cnn_cli.interpret.score_maps import convolve, write_network
    from cnn_cli.pictures.image import check_target, file_name, save

    format.check()
    files = files_of(images or ())
    if windows and not files:
        raise UsageError("--windows needs images; name some, or leave it out")
    if files:
        loaded = weights.load(network, spec)
    else:
        loaded = load_network(network, models=spec.files, args=spec.args, input=spec.size, weights=weights.weights)
    folder = output or (loaded.run or Path()) / ("convolved" if loaded.run else f"{loaded.plan.network}-convolved")
    result = convolve(loaded, files, size, windows, weights.torch_device)
    text = folder / f"{result.conversion.after.network}.yaml"
    pages = [folder / file_name("scores", word) for word in distinct_words([str(path) for path in files])]
    for path, kind in [
        (text, ".yaml"),
        (text.with_suffix(".safetensors"), ".safetensors"),
        *((p, ".png") for p in pages),
    ]:
        check_target(path, force or (not output and loaded.run is not None), (kind,))
    result = write_network(result, text)
    for path, score_map in zip(pages, result.maps, strict=True):
        save(draw_score_map(result, score_map).image, path)
    for line in () if files else loaded.notes:
        note(line)
    note_weights(network, loaded)
    if loaded.weights is None:
        note("no trained weights, so no checkpoint is written; train the network, or load --weights")
    format.emit(replace(result, files=(*result.files, *pages)))

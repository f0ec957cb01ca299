"""`cnn errors`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.options import SPLIT, Data, Format, Network, Picture, Spec, Weights, option
from cnn_cli.cli.output import note_weights


@command("errors")
def errors_command(
    network: Network,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
    split: str | None = SPLIT,
    limit: int = option("Output", "N", "Number of entries in each list and on the sheet.", default=20, min=1, max=200),
) -> None:
    """Show what a trained network gets wrong: the worst mistakes, and the classes that it confuses.

    Lists images by loss and by confidence, confused pairs of classes, and mistakes per class; draws a sheet of
    predictions with their true classes. --json and --csv print all mistakes. Segmentation: lists images by mean IoU.
    Detection: lists missed objects and wrong detections by type of error, and draws them.
    """
    from cnn_cli.interpret.box_mistakes import BoxMistakes, draw_box_mistakes
    from cnn_cli.interpret.mask_mistakes import MaskMistakes, draw_mask_mistakes
    from cnn_cli.interpret.mistakes import Mistakes, draw_mistakes
    from cnn_cli.interpret.pictured import Pictured, write_page
    from cnn_cli.training.eval_report import EvaluationRequest
    from cnn_cli.training.outcomes import ClassOutcomes, MaskOutcomes, compute_outcomes

    format.check()
    request = EvaluationRequest(data.data, data.data_dir, split)
    loaded = weights.load(network, spec)
    path = picture.target.path(loaded, "errors")
    outcomes = compute_outcomes(loaded, request, weights.torch_device)
    pictured: Pictured[Mistakes] | Pictured[MaskMistakes] | Pictured[BoxMistakes]
    if isinstance(outcomes, ClassOutcomes):
        mistakes = Mistakes(loaded, outcomes, limit)
        pictured = write_page(loaded, mistakes, draw_mistakes(mistakes), path)
    elif isinstance(outcomes, MaskOutcomes):
        masks = MaskMistakes(loaded, outcomes, limit)
        pictured = write_page(loaded, masks, draw_mask_mistakes(masks), path)
    else:
        boxes = BoxMistakes(loaded, outcomes, limit)
        pictured = write_page(loaded, boxes, draw_box_mistakes(boxes), path)
    picture.preview(path, pictured.body)
    note_weights(network, loaded)
    format.emit(pictured)

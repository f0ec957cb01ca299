"""The calibration of a network's probabilities."""

from cnn_cli.pictures.charts import reliability_chart
from cnn_cli.pictures.html import Section, element
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import percent
from cnn_cli.tasks.classification_result import ClassificationResult
from cnn_cli.tasks.segmentation_result import SegmentationResult


def calibration_section(facts: RunFacts) -> Section | None:
    """A reliability diagram, and a second one at the checkpoint's temperature; None if the result has none."""
    result = facts.result
    if not isinstance(result, ClassificationResult | SegmentationResult) or result.calibration is None:
        return None
    plain, tempered = result.calibration.plain, result.calibration.tempered
    error = plain.error
    charts = [reliability_chart("Reliability diagram", plain.document(), percent)]
    words = f"Expected calibration error {percent(error, 2)}: the mean difference between confidence and accuracy."
    if tempered:
        title = f"At the calibrated temperature {result.calibration.temperature:.3f}"
        charts.append(reliability_chart(title, tempered.document(), percent))
        words += f" At the temperature of the checkpoint: {percent(tempered.error, 2)}."
    elif error > 0.01:
        words += f" cnn eval {facts.name} --calibrate fits a temperature on the validation split, which lowers it."
    count = max(1, sum(plain.counts))
    mean, accuracy = sum(plain.confidences) / count, sum(plain.correct) / count
    if abs(mean - accuracy) > 0.005:
        more = "over" if mean > accuracy else "under"
        words += (
            f" The network is {more}confident: mean confidence {percent(mean, 2)}, accuracy {percent(accuracy, 2)}."
        )
    return Section(
        facts.id("calibration"), "Calibration", [element("p", words), element("div", charts, class_="charts")]
    )

"""How far the probabilities of a classifier can be trusted."""

from cnn_cli.pictures.charts import reliability_chart
from cnn_cli.pictures.html import Section, element
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.tables import percent
from cnn_cli.tasks.classification_result import ClassificationResult


def calibration_section(facts: RunFacts) -> Section | None:
    """A reliability diagram, and a second one at the temperature of the checkpoint; None where there is no such
    result."""
    result = facts.result
    if not isinstance(result, ClassificationResult) or result.reliability is None:
        return None
    error = result.reliability.error
    charts = [reliability_chart("Reliability diagram", result.reliability.document(), percent)]
    words = f"Expected calibration error {percent(error, 2)}: the mean difference between confidence and accuracy."
    if result.calibrated:
        title = f"At the calibrated temperature {result.temperature:.3f}"
        charts.append(reliability_chart(title, result.calibrated.document(), percent))
        words += f" At the temperature of the checkpoint: {percent(result.calibrated.error, 2)}."
    elif error > 0.01:
        words += f" cnn eval {facts.name} --calibrate fits a temperature on the validation split, which lowers it."
    mean = sum(result.reliability.confidences) / max(1, result.n)
    if abs(mean - result.score) > 0.005:
        more = "over" if mean > result.score else "under"
        words += (
            f" The network is {more}confident: mean confidence {percent(mean, 2)}, accuracy {percent(result.score, 2)}."
        )
    return Section(
        facts.id("calibration"), "Calibration", [element("p", words), element("div", charts, class_="charts")]
    )

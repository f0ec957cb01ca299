"""What each type of layer does and how its numbers come about, in words and symbols. A lesson is a few headed lines.

The general formula comes first, then the same with numbers: `⌊(28 + 2·1 − 1·(3 − 1) − 1)/2⌋ + 1 = 14`.
"""

from cnn_cli.analysis.lessons.base import Lesson, Make, alike
from cnn_cli.analysis.lessons.moving import MOVING
from cnn_cli.analysis.lessons.values import VALUES
from cnn_cli.analysis.lessons.windows import WINDOWS
from cnn_cli.language.plan import Layer

__all__ = ["LESSONS", "Lesson", "alike", "lesson"]

LESSONS: dict[str, Make] = {**WINDOWS, **VALUES, **MOVING}


def lesson(layer: Layer) -> Lesson:
    """The lesson of any layer of the table, join or parameter."""
    return LESSONS[layer.type](layer)

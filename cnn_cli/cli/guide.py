"""`cnn guide`: the documentation that ships with the tool, in the terminal."""

import sys
from pathlib import Path

from cnn_cli.cli.app import command
from cnn_cli.cli.options import argument
from cnn_cli.cli.output import emit
from cnn_cli.errors import UsageError, closest
from cnn_cli.tables import Column, Table, render, terminal_width

PAGES = Path(__file__).parents[1] / "guide"


@command("guide")
def guide_command(topic: str | None = argument("[TOPIC]", "Page to read [the list of pages].")) -> None:
    """Read the guide; without a topic, list its pages."""
    pages = {path.stem: path for path in sorted(PAGES.glob("*.md"))}
    if topic is None:
        rows = [{"topic": name, "title": path.read_text().partition("\n")[0][2:]} for name, path in pages.items()]
        emit(render(Table((Column("topic", "topic"), Column("title", "title", wraps=True)), rows)))
    elif topic not in pages:
        raise UsageError(f"the guide has no page {topic!r}.{closest(topic, pages)} Its pages: {', '.join(pages)}")
    elif sys.stdout.isatty():
        _page_through(pages[topic].read_text())
    else:
        emit(pages[topic].read_text().rstrip())


def _page_through(text: str) -> None:
    """Show the rendered text in the user's pager."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(terminal_width(), 100))
    with console.pager(styles=True):
        console.print(Markdown(text))

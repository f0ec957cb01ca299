"""`cnn schema`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.output import emit_json


@command("schema", "Networks")
def schema() -> None:
    """Print the JSON Schema of the language, for completion and checks in editors."""
    from cnn_cli.language.schema import spec_schema

    emit_json(spec_schema())

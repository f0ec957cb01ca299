"""`cnn schema`."""

from cnn_cli.cli.app import command
from cnn_cli.cli.output import emit_json


@command("schema")
def schema_command() -> None:
    """Print the JSON Schema of specs, for editors."""
    from cnn_cli.language.schema import spec_schema

    emit_json(spec_schema())

"""The settings of a run with their sources, its speed, and the machine and versions of the training."""

from pathlib import Path
from typing import Any

from cnn_cli.analysis.summary import estimates, setup
from cnn_cli.pictures.html import Html, Section, element, folded, table
from cnn_cli.report.run_facts import RunFacts
from cnn_cli.settings import SETTINGS, as_typed
from cnn_cli.tables import Column, Table, TableRow, counted, format_bytes, format_count
from cnn_cli.training.epoch_log import clock

_SOURCES = {
    "option": "command line",
    "recipe": "recipe",
    "spec": "spec",
    "weights": "initial weights",
    "default": "default",
}


def settings_section(facts: RunFacts) -> Section:
    """The settings that differ from their defaults, then all settings by group."""
    rows = setting_rows(facts)
    if not rows:
        return Section(facts.id("settings"), "Settings", element("p", "The run has no settings.", class_="soft"))
    changed = [row for row in [*_argument_rows(facts), *rows] if row["source"] not in ("default", "")]
    columns = [
        Column("name", "setting"),
        Column("value", "value", wraps=True),
        Column("default", "default"),
        Column("source", "source"),
    ]
    groups = dict.fromkeys(row["group"] for row in rows)
    everything = [
        table(
            Table((*columns, Column("help", "meaning", wraps=True)), [row for row in rows if row["group"] == group]),
            group,
        )
        for group in groups
    ]
    short = table(Table(tuple(columns), changed), "Settings that were given")
    return Section(facts.id("settings"), "Settings", [short, folded(f"All {len(rows)} settings", *everything)])


def setting_rows(facts: RunFacts) -> list[TableRow]:
    """All settings with value, default and source, in the order of the table of settings."""
    stored = facts.config.get("settings")
    if not isinstance(stored, dict):
        values = facts.loaded.metadata.facts.get("settings", {}) if facts.loaded.metadata else {}
        stored = {name: {"value": value, "source": ""} for name, value in values.items()}
    rows = []
    for name, field in SETTINGS.items():
        entry = stored.get(name)
        if isinstance(entry, dict) and "value" in entry:
            source = str(entry.get("source", ""))
            value = entry["value"]
            if name == "data":
                value = Path(str(value)).name
            value = as_typed(None if value == [] else value)
            rows.append(
                {
                    "group": field.group,
                    "name": name.replace("_", " "),
                    "value": value,
                    "default": as_typed(field.default),
                    "source": _SOURCES.get(source, source),
                    "help": field.help,
                }
            )
    return rows


def _argument_rows(facts: RunFacts) -> list[TableRow]:
    """The arguments of the network that --set gave."""
    given = facts.config.get("args")
    return [
        {"name": name, "value": as_typed(value), "default": "", "source": "--set"}
        for name, value in (given.items() if isinstance(given, dict) else ())
    ]


def speed_section(facts: RunFacts) -> Section:
    """Training time and throughput, and computation and memory per image."""
    plan, history = facts.loaded.plan, facts.history
    rows: dict[str, str] = {}
    if history:
        seconds = [row["seconds"] for row in history if isinstance(row.get("seconds"), int | float)]
        rates = [row["images_per_second"] for row in history if isinstance(row.get("images_per_second"), int | float)]
        if seconds:
            rows["training time"] = f"{clock(sum(seconds))}; {clock(sum(seconds) / len(seconds))} per epoch"
        if rates:
            rows["training throughput"] = f"{sorted(rates)[len(rates) // 2]:,.0f} images/s (median over epochs)"
    if facts.seconds and facts.result:
        rate = facts.result.n / facts.seconds
        rows["evaluation for this report"] = (
            f"{counted(facts.result.n, 'image')} in {clock(facts.seconds)}: {rate:,.0f} images/s, data loading included"
        )
    rows["parameters"] = f"{plan.params:,}"
    rows["computation per image"] = f"{format_count(plan.macs, 'MACs')} = {format_count(2 * plan.macs, 'FLOPs')}"
    inference, training = estimates(plan, setup(plan))
    rows["memory (estimate)"] = (
        f"{format_bytes(inference.total)} for inference, {format_bytes(training.total)} for training"
    )
    return Section(facts.id("speed"), "Speed", facts_table(rows, "Time, computation and memory"))


def environment_section(facts: RunFacts) -> Section:
    """Command line, device and versions of the training."""
    config, metadata = facts.config, facts.loaded.metadata
    recorded: dict[str, Any] = {**(metadata.facts if metadata else {}), **config}
    rows: dict[str, str] = {}
    if command := recorded.get("command"):
        rows["command"] = str(command)
    for number, command in enumerate(recorded.get("resumed_by") or [], 1):
        rows[f"resumed by ({number})"] = str(command)
    for key, name in (("started", "started"), ("device", "device of the training")):
        if recorded.get(key):
            rows[name] = str(recorded[key])
    if isinstance(versions := recorded.get("versions"), dict):
        rows["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if metadata:
        rows["data set"] = facts.data
        if fingerprint := metadata.data.get("fingerprint"):
            rows["fingerprint of the data"] = str(fingerprint)
        rows["preprocessing"] = str(facts.loaded.preprocessing)
    if isinstance(data := config.get("data"), dict) and isinstance(data.get("images"), dict):
        rows["images"] = ", ".join(f"{count:,} {name}" for name, count in data["images"].items())
    if facts.loaded.weights:
        epoch = metadata.facts.get("epoch") if metadata else None
        rows["weights"] = facts.loaded.weights.name + (f", of epoch {epoch}" if epoch else "")
    return Section(facts.id("environment"), "Environment", facts_table(rows, "How the run was made"))


def facts_table(rows: dict[str, str], caption: str) -> Html:
    columns = (Column("name", ""), Column("value", "", wraps=True))
    return table(Table(columns, [{"name": name, "value": value} for name, value in rows.items()]), caption)

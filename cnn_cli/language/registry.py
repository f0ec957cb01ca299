"""Names to plans: the shipped models.yaml, files that override it, and files named directly."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cnn_cli.errors import CnnError, SpecError, UsageError, closest
from cnn_cli.language.expansion import expand
from cnn_cli.language.freezing import freeze_problems
from cnn_cli.language.plan import Plan
from cnn_cli.language.shipped import network_names, network_text, shipped_path
from cnn_cli.language.spec import Spec, SpecFile, parse, read_input, words
from cnn_cli.language.yaml_nodes import MOST_BYTES, Node, read_yaml


def find(
    network: str,
    *,
    models: Sequence[Path] = (),
    args: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
) -> Plan:
    """The plan of NAME, FILE.yaml or FILE.yaml:NAME, without errors; UsageError or SpecError otherwise."""
    return draft(network, models=models, args=args, input=input).checked()


def draft(
    network: str,
    *,
    models: Sequence[Path] = (),
    args: Mapping[str, Any] | None = None,
    input: Sequence[int] | None = None,
) -> Plan:
    """The same with its mistakes in `problems`, for commands that show the valid part of a network."""
    return plan_spec(find_spec(network, models), args, input)


def plan_document(
    document: Mapping[str, Any], origin: str, args: Mapping[str, Any] | None = None, input: Sequence[int] | None = None
) -> Plan:
    """The way back from Plan.document(): a checkpoint's own spec, checked like any other."""
    return draft_document(document, origin, input, args).checked()


def draft_document(
    document: Mapping[str, Any], origin: str, input: Sequence[int] | None = None, args: Mapping[str, Any] | None = None
) -> Plan:
    """The same with its mistakes in `problems`."""
    networks = _usable(parse(json.dumps(document), origin)).networks
    if not networks:
        raise CnnError(f"{origin} contains no networks")
    return plan_spec(next(iter(networks.values())), args, input)


def plan_spec(spec: Spec, args: Mapping[str, Any] | None, input: Sequence[int] | None) -> Plan:
    nodes = {}
    for name, value in (args or {}).items():
        if name not in spec.args:
            known = ", ".join(spec.args) or "none"
            raise UsageError(f"{spec.name} has no argument {name!r}.{closest(name, spec.args)} Known: {known}")
        nodes[name] = _argument(name, value)
    try:
        shape = read_input(list(input)) if input is not None else None
    except ValueError as error:
        raise UsageError(f"--input {error}") from None
    plan = expand(spec, nodes, shape)
    return replace(plan, problems=(*plan.problems, *freeze_problems(plan)))


def _argument(name: str, value: Any) -> Node:
    """A value from the command line (text, read as YAML) or from Python."""
    return read_yaml(value if isinstance(value, str) else json.dumps(value), f"--set {name}")


def find_spec(network: str, models: Sequence[Path] = ()) -> Spec:
    """The spec of NAME, FILE.yaml or FILE.yaml:NAME."""
    path, _, name = network.rpartition(":") if ".yaml:" in network or ".yml:" in network else (network, "", "")
    if path.endswith((".yaml", ".yml")):
        file = with_registry(read_file(Path(path)), models)
        return _named(file, name) if name else _only(file)
    specs = load_registry(models)
    if network not in specs and "/" in network and not Path(network).exists():
        raise UsageError(f"{network}: no such file or folder; `cnn runs` lists the runs, `cnn list` the networks")
    if network not in specs:
        raise UsageError(
            f"unknown network {network!r}.{closest(network, specs)} `cnn list` shows all; for a file, write FILE.yaml"
        )
    return specs[network]


class Registry(Mapping[str, Spec]):
    """Every network by name: the shipped ones, read when they are asked for, and `others`, which override them."""

    def __init__(self, others: Mapping[str, Spec]) -> None:
        self.others = others

    def __getitem__(self, name: str) -> Spec:
        return replace(self.others[name] if name in self.others else _shipped_network(name), networks=self)

    def __contains__(self, name: object) -> bool:
        return name in self.others or name in network_names()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*network_names(), *self.others]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _shipped_network(name: str) -> Spec:
    if name not in network_names():
        raise KeyError(name)
    return parse(network_text(name), "models.yaml").networks[name]


def load_registry(models: Sequence[Path] = ()) -> Registry:
    """Every network by name: the shipped ones, overridden by those of each further file in turn."""
    others: dict[str, Spec] = {}
    for path in models:
        others |= _usable(read_file(path)).networks
    return Registry(others)


def with_registry(file: SpecFile, models: Sequence[Path]) -> SpecFile:
    """The file, whose networks may use each other and those of the registry as parts."""
    if not any("Network" in words(spec.layers) for spec in file.networks.values()):
        return file
    known = Registry({**load_registry(models).others, **file.networks})
    return replace(file, networks={name: replace(spec, networks=known) for name, spec in file.networks.items()})


@cache
def shipped() -> SpecFile:
    """The networks that ship with the tool."""
    return parse(shipped_path().read_bytes(), "models.yaml")


def read_file(path: Path) -> SpecFile:
    """A file of networks; CnnError if it cannot be read."""
    try:
        with path.open("rb") as file:  # one byte over the limit: an endless device is not read on
            return parse(file.read(MOST_BYTES + 1), str(path))
    except OSError as error:
        raise CnnError(f"cannot read {path}: {error.strerror}; looked in {path.absolute().parent}") from None


def _usable(file: SpecFile) -> SpecFile:
    if file.problems:
        raise SpecError(file.problems)
    return file


def _named(file: SpecFile, name: str) -> Spec:
    if name not in _usable(file).networks:
        raise UsageError(
            f"{file.origin} has no network {name!r}.{closest(name, file.networks)} It has: {', '.join(file.networks)}"
        )
    return file.networks[name]


def _only(file: SpecFile) -> Spec:
    networks = _usable(file).networks
    if len(networks) != 1:
        raise UsageError(
            f"{file.origin} has {len(networks)} networks ({', '.join(networks)}); write {file.origin}:NAME"
        )
    return next(iter(networks.values()))

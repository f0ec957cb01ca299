"""`cnn list`: the networks that ship with the tool, and those of further files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_cli.analysis.answer_cache import cached_answer
from cnn_cli.errors import Problem
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, format_count, render


@dataclass(frozen=True)
class NetworkList:
    """The networks without mistakes, as plain data, and the mistakes of those that are left out."""

    networks: tuple[dict[str, Any], ...]
    problems: tuple[Problem, ...] = ()

    def document(self) -> list[dict[str, Any]]:
        return list(self.networks)

    def table(self) -> Table:
        columns = (
            Column("name", "name"),
            Column("input", "input"),
            Column("params", "parameters", number=True, brief=format_count),
            Column("description", "description", wraps=True),
        )
        keys = {"name": "network", "params": "params", "description": "description"}
        rows = [
            {k: network[v] for k, v in keys.items()} | {"input": "x".join(map(str, network["input"]))}
            for network in self.networks
        ]
        return Table(columns, rows)

    def text(self) -> str:
        return render(self.table())


def list_networks(models: Sequence[Path] = ()) -> NetworkList:
    """Every network by name; those of each further file in turn override earlier ones."""
    if models:
        return _planned(models)
    networks, problems = cached_answer("list", _shipped)
    return NetworkList(tuple(networks), tuple(Problem(**problem) for problem in problems))


def _shipped() -> Any:
    result = _planned(())
    return result.networks, [asdict(problem) for problem in result.problems]


def _planned(models: Sequence[Path]) -> NetworkList:
    from cnn_cli.language.registry import plan_spec, read_file, shipped

    files = [shipped(), *(read_file(path) for path in models)]
    specs = {name: spec for file in files for name, spec in file.networks.items()}
    bar = progress_bar(specs.values(), len(specs), "reading specs")
    plans = [plan_spec(spec, None, None) for spec in bar]
    problems = [p for file in files for p in file.problems if not p.warning]
    problems += [problem for plan in plans for problem in plan.errors]
    keys = ("network", "input", "params", "description", "reference", "args")
    networks = [{key: getattr(plan, key) for key in keys} for plan in plans if not plan.errors]
    return NetworkList(tuple(networks), tuple(dict.fromkeys(problems)))

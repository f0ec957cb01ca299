"""`cnn list`: the networks that ship with the tool, and those of further files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_cli.errors import Problem
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_spec, read_file, shipped
from cnn_cli.layers import sizes
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, format_count, render


@dataclass(frozen=True)
class NetworkList:
    """Plans without mistakes, and the mistakes of the networks that are left out."""

    plans: tuple[Plan, ...]
    problems: tuple[Problem, ...] = ()

    def document(self) -> list[dict[str, Any]]:
        keys = ("network", "input", "params", "description", "reference", "args")
        return [{key: getattr(plan, key) for key in keys} for plan in self.plans]

    def table(self) -> Table:
        columns = (
            Column("name", "name"),
            Column("input", "input"),
            Column("params", "parameters", number=True, brief=format_count),
            Column("description", "description", wraps=True),
        )
        keys = {"name": "network", "params": "params", "description": "description"}
        rows = [{k: getattr(p, v) for k, v in keys.items()} | {"input": sizes(p.input)} for p in self.plans]
        return Table(columns, rows)

    def text(self) -> str:
        return render(self.table())


def list_networks(models: Sequence[Path] = ()) -> NetworkList:
    """Every network by name; those of each further file in turn override earlier ones."""
    files = [shipped(), *(read_file(path) for path in models)]
    specs = {name: spec for file in files for name, spec in file.networks.items()}
    bar = progress_bar(specs.values(), len(specs), "reading specs")
    plans = [plan_spec(spec, None, None) for spec in bar]
    problems = [p for file in files for p in file.problems if not p.warning]
    problems += [problem for plan in plans for problem in plan.errors]
    return NetworkList(tuple(plan for plan in plans if not plan.errors), tuple(dict.fromkeys(problems)))

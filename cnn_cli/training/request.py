"""What `cnn train` was asked for, and the network and recipe that it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.header import SUFFIXES
from cnn_cli.errors import UsageError, closest
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find


@dataclass(frozen=True)
class Request:
    """`options` holds the settings that were given, None for the others; `say` shows a note to the user."""

    network: str
    options: Mapping[str, Any]
    data_dir: Path | None = None
    device: str = "auto"
    models: tuple[Path, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    input: tuple[int, ...] | None = None
    output: Path | None = None
    recipe: str = ""
    film: bool = False  # whether to keep the first convolution's filters of every epoch
    command: str = ""
    verbose: bool = False  # whether the header shows the settings at their defaults too
    say: Callable[[str], None] = print

    def plan(self) -> Plan:
        """The network's plan; UsageError for a run or checkpoint, which --resume and --weights are for."""
        path = Path(self.network)
        if path.is_dir() or path.suffix in SUFFIXES:
            raise UsageError(
                f"{path} is a run or checkpoint; add --resume to resume a run, or name a network and add "
                f"--weights {path} to start a new run from its weights"
            )
        return find(self.network, models=self.models, args=self.args, input=self.input)

    def plan_for(self, classes: int) -> Plan:
        """The plan whose argument `classes` follows the data set, unless the user has set it."""
        plan = self.plan()
        if "classes" in self.args or plan.args.get("classes", classes) == classes:
            return plan
        return find(self.network, models=self.models, args={**self.args, "classes": classes}, input=self.input)


def recipe_of(plan: Plan, name: str) -> dict[str, Any]:
    """The settings of a recipe of the network; UsageError where it has none of that name."""
    if name and name not in plan.recipes:
        known = f"its recipes are {', '.join(plan.recipes)}" if plan.recipes else "it has none: leave out --recipe"
        raise UsageError(f"{plan.network} has no recipe {name!r}.{closest(name, plan.recipes)} ({known})")
    return plan.recipes[name] if name else {}

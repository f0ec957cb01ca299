"""`cnn check`: all mistakes and warnings in files and networks, found without running anything."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_cli.analysis.answer_cache import cached_answer
from cnn_cli.analysis.design import design_warnings
from cnn_cli.checkpoints.run_folder import find_run, is_stored
from cnn_cli.checkpoints.stored_network import read_plan
from cnn_cli.data.catalog import DATASETS
from cnn_cli.errors import Problem, SpecError, UsageError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find_spec, plan_spec, read_file, shipped, with_registry
from cnn_cli.language.spec import Block, SpecFile, words
from cnn_cli.tables import counted

MOST_LAYERS = 100_000  # in one file: five times what ships with this tool
ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Diagnostics:
    """How many networks were checked, and their mistakes and warnings."""

    networks: int
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if not p.warning)

    def verdict(self) -> str:
        warnings = len(self.problems) - len(self.errors)
        parts = [counted(len(self.errors), "mistake") if self.errors else "no mistakes"]
        parts += [counted(warnings, "warning")] * bool(warnings)
        return f"{counted(self.networks, 'network')} checked: {', '.join(parts)}"

    def text(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    def document(self) -> dict[str, Any]:
        keys = ("file", "line", "column", "where", "message", "warning")
        return {"networks": self.networks, "problems": [{k: getattr(p, k) for k in keys} for p in self.problems]}


def diagnose(
    sources: Sequence[str], models: Sequence[Path], args: dict[str, Any], input: Sequence[int] | None
) -> Diagnostics:
    """Check files (all networks in them), networks as other commands name them, or, with no source, all known ones."""
    problems: list[Problem] = []
    networks = 0
    if not all(source.strip() for source in sources):
        raise UsageError("a file or network name is empty; name one, or leave it out to check all networks")
    if not (sources or models or args or input):
        count, answers = cached_answer("check", _shipped_problems)
        return Diagnostics(count, tuple(Problem(**problem) for problem in answers))
    for source in sources or ("",):
        try:
            for file in _files(source, models):
                problems += _file(file, args, input)
                networks += len(file.networks)
            if source and not source.endswith(ENDINGS):
                problems += _network(source, models, args, input)
                networks += 1
        except SpecError as error:
            problems += error.problems
    return Diagnostics(networks, tuple(sorted(set(problems))))


def _shipped_problems() -> Any:
    file = shipped()
    return len(file.networks), [asdict(problem) for problem in sorted(set(_file(file, {}, None)))]


def _network(source: str, models: Sequence[Path], args: dict[str, Any], input: Sequence[int] | None) -> list[Problem]:
    """The problems of a name, FILE.yaml:NAME, run folder or checkpoint."""
    source = find_run(source, models)
    if is_stored(source):
        return list(read_plan(source, args, input).problems)
    plan = plan_spec(find_spec(source, models), args, input)
    return [*plan.problems, *_data_problems(plan, args), *design_warnings(plan)]


def _files(source: str, models: Sequence[Path]) -> list[SpecFile]:
    """The file that `source` names, or all files if it is empty."""
    if not source:
        return [shipped(), *(with_registry(read_file(path), models) for path in models)]
    return [with_registry(read_file(Path(source)), models)] if source.endswith(ENDINGS) else []


def _file(file: SpecFile, args: dict[str, Any], input: Sequence[int] | None) -> list[Problem]:
    """All networks of a file, each with those of `args` that it has, and the blocks that none of them uses."""
    problems = list(file.problems)
    used: set[str] = set()
    for name in args:
        if not any(name in spec.args for spec in file.networks.values()):
            raise UsageError(f"no network of {file.origin} has an argument {name!r}; remove --set {name}")
    layers = 0
    for spec in file.networks.values():
        if layers > MOST_LAYERS:
            message = f"the networks before this one have more than {MOST_LAYERS:,} layers in total; split the file"
            return [*problems, Problem(file.origin, spec.node.line, 1, spec.name, message)]
        plan = plan_spec(spec, {k: v for k, v in args.items() if k in spec.args}, input)
        problems += [*plan.problems, *_data_problems(plan, args), *design_warnings(plan)]
        used |= plan.blocks
        layers += len(plan.layers)
        own = {n: b for n, b in spec.blocks.items() if n not in file.blocks or file.blocks[n] is not b}
        problems += _unused(file, f"{spec.name}, ", own, plan.blocks | _named(own))
    if all(p.warning for p in problems):
        problems += _unused(file, "", file.blocks, used | _named(file.blocks))
    return problems


def _data_problems(plan: Plan, args: Collection[str]) -> list[Problem]:
    """The network's outputs against the classes of the named data sets that its spec trains on; args are those of the
    command line, which may be for other data."""
    spec, problems = plan.spec, []
    settings = {"train": spec.train} | {f"recipes.{name}": recipe for name, recipe in spec.recipes.items()}
    for where, values in settings.items():
        dataset = DATASETS.get(str(values.get("data")))
        if dataset is None or plan.errors or args or plan.named_outputs or len(plan.output) != 1:
            continue  # the language warns about maps and several outputs
        count, outputs = dataset.class_count, plan.output[0]
        if outputs != count and (outputs, count) != (1, 2):
            node = spec.node
            for key in (*where.split("."), "data"):
                node = node.value[key]
            numbers = f"{dataset.name} has {count} classes, but the network has {outputs} outputs"
            message = f"{numbers}; change one of them"
            problems.append(Problem(spec.origin, node.line, node.column, f"{spec.name}, {where}.data", message))
    return problems


def _named(blocks: Mapping[str, Block]) -> set[str]:
    """The words in the bodies of blocks: a block that another one names is used, though it may be repeated 0 times."""
    bodies = [node for b in blocks.values() for node in (b.layers, *b.args.values())]
    return {word for body in bodies for word in words(body)}


def _unused(file: SpecFile, where: str, blocks: Mapping[str, Block], used: Collection[str]) -> list[Problem]:
    message = "unused block; use it or remove it"
    return [
        Problem(file.origin, b.line, b.column, f"{where}blocks.{name}", message, True)
        for name, b in blocks.items()
        if name not in used
    ]

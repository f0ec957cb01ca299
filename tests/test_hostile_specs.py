"""Specs as hostile input: one error, exit 2, under a second, under 100 MB more memory, the terminal left alone.

The cases run in one process that is limited in memory; a sample goes through the installed command.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_cli.analysis import diagnostics
from cnn_cli.analysis.diagnostics import diagnose
from cnn_cli.cli.output import clean
from cnn_cli.errors import SpecError, UsageError
from cnn_cli.language.registry import draft

SECONDS = 2.0  # of CPU time; half of that on an idle machine
MEGABYTES = 100


def net(layers: str, head: str = "", input: str = "[3, 8, 8]") -> str:
    return f"n:\n  input: {input}\n{head}  layers: {layers}\n"


def blocks(count: int) -> str:
    """Blocks that use the one before twice: 2^count layers."""
    each = "".join(f"  B{i}: {{layers: [B{i - 1}, B{i - 1}]}}\n" for i in range(1, count))
    return f"blocks:\n  B0: {{layers: [ReLU]}}\n{each}" + net(f"[B{count - 1}]")


def laughs(count: int) -> str:
    """Arguments that hold the one before ten times, as a setting: 10^count values."""
    each = ", ".join(f"a{i}: [{', '.join([f'$a{i - 1}'] * 10)}]" for i in range(1, count))
    return net(f"[{{Flatten: $a{count - 1}}}]", f"  args: {{a0: 1, {each}}}\n")


def chain(count: int) -> str:
    """Arguments that hold the one before: a list nested `count` levels deep, on one level of text."""
    each = ", ".join(f"a{i}: [$a{i - 1}]" for i in range(1, count))
    return net(f"[{{Flatten: $a{count - 1}}}]", f"  args: {{a0: 1, {each}}}\n")


MANY = "\n".join(f"n{i}: {{input: [1, 2, 2], layers: [{{ReLU: , repeat: 1000}}]}}" for i in range(5_000))

# name: (text, a part of the answer)
CASES: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30)), "anchors and aliases"),
    "merge bomb": ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "anchors and aliases"),
    "alias to itself": ("a: &a [*a]\n", "anchors and aliases"),
    "merge key": ("a: {<<: {input: [1, 2, 2]}}\n", "merge keys (<<) are not supported"),
    "100,000 brackets": ("[" * 100_000, "more than 40 levels deep"),
    "100,000 braces": ("a: " + "{a: " * 100_000, "more than 40 levels deep"),
    "100,000 levels of indentation": ("\n".join(" " * i + "a:" for i in range(1_300)), "more than 40 levels deep"),
    "100,000 dashes": ("- " * 100_000 + "a", "more than 40 levels deep"),
    "python object": (net("[!!python/object/apply:os.system ['true']]"), "the tag"),
    "python name": ("!!python/name:os.system", "the tag"),
    "own tag": (net("!x [ReLU]"), "the tag"),
    "binary": (net("!!binary aGVsbG8="), "the tag"),
    "5,000 digits": (net("[{Linear: " + "9" * 5_000 + "}]"), "too large or has too many digits"),
    "5,000 digits behind the point": (net("[{Dropout: 0." + "9" * 5_000 + "}]"), "too large or has too many digits"),
    "5,000 digits in arithmetic": (net("[{Linear: '${" + "9" * 5_000 + "}'}]"), "at most 200 characters"),
    "100 digits in arithmetic": (net("[{Linear: '${" + "9" * 100 + " * 9}'}]"), "too large"),
    "towers in arithmetic": (net("[{Linear: '${" + "*".join(["999999999"] * 18) + "}'}]"), "too large"),
    "parentheses": (net("[{Linear: '${" + "(" * 190 + "}'}]"), "is not valid; write numbers"),
    "minus signs": (net("[{Linear: '${" + "-" * 191 + "1}'}]"), "must be an integer of at least 1, not -1"),
    "1e39": (net("[{Hardtanh: {max_val: 1e39}}]"), "max_val must be a number below 3e+38, not 1e+39"),
    "1e999": (net("[{Dropout: 1e999}]"), "too large or has too many digits"),
    ".nan": (net("[{Dropout: .nan}]"), "p must be a number from 0 to 1, not '.nan'"),
    ".inf": (net("[{Dropout: -.inf}]"), "p must be a number from 0 to 1, not '-.inf'"),
    "a bad date": (net("[{Linear: 2001-99-99}]"), "must be an integer"),
    "a sexagesimal number": (net("[{Linear: 190:20:30}]"), "must be an integer"),
    "an octal number": (net("[{Linear: 010}]"), "must be an integer of at least 1, not '010'; write 10"),
    "true for 1": (net("[{Conv2d: {in_channels: true, out_channels: 1, kernel_size: 1}}]"), "must be an integer"),
    "a million copies": (net("[{ReLU: , repeat: 1000000}]"), "from 0 to 1000"),
    "copies of copies": (
        net("[{repeat: 1000, layers: [{repeat: 1000, layers: [{ReLU: , repeat: 1000}]}]}]"),
        "more than 20,000 parts",
    ),
    "copies of nothing": (
        net("[{repeat: 1000, layers: [{repeat: 1000, layers: [{repeat: 1000, layers: []}]}]}]"),
        "more than 20,000 parts",
    ),
    "copies of copies by name": (
        net('{"a{0}": {repeat: 1000, layers: {"b{0}": {repeat: 1000, layers: []}}}}'),
        "more than 20,000 parts",
    ),
    "a block that uses itself": ("blocks: {A: {layers: [A]}}\n" + net("[A]"), "let no block contain itself"),
    "two blocks that use each other": (
        "blocks: {A: {layers: B}, B: {layers: A}}\n" + net("A"),
        "let no block contain itself",
    ),
    "a block that gives itself": ("blocks: {A: {args: {x: }, layers: $x}}\n" + net("[{A: {x: A}}]"), "x is missing"),
    "blocks of blocks": (blocks(28), "more than 20,000 parts"),
    "arguments of arguments": (laughs(30), "more than 20,000 parts"),
    "an argument that holds itself": (
        net("[{Flatten: $a}]", "  args: {a: [$a]}\n"),
        "$a is not an argument of the network",
    ),
    "arguments in arguments": (chain(500), "nested more than 64 levels deep"),
    "an argument of itself": (net("[{Linear: $a}]", "  args: {a: $a}\n"), "$a is not an argument of the network"),
    "10^15 features": (net("[Flatten, {Linear: 1000000000000000}]"), "parameters, more than the limit of 1e+12"),
    "10^15 features, 20 times": (
        net("[Flatten, {Linear: 1000000000000000, repeat: 20}]"),
        "more than the limit of 1e+12",
    ),
    "128 TB of activations": (
        net("[{Conv2d: {out_channels: 8, kernel_size: 3, padding: 1000000}}]"),
        "3.2e+13 activation values for one image",
    ),
    "paddings beyond 32 bits": (net("[{ZeroPad2d: 99999999999}]"), "of at most 2147483647"),
    "an input of 10^10 pixels": (
        net("[{Conv2d: {out_channels: 512, kernel_size: 1}}]", "", "[3, 100000, 100000]"),
        "5.12e+12",
    ),
    "an input beyond all": (net("[ReLU]", "", "[3, 1e9, 1000000000000]"), "must be an integer from 1 to 100000"),
    "2 MB": ("a: b\n" * 400_001, "the file has more than 1,000,000 bytes"),
    "100,000 values": (net("[" + "a," * 120_000 + "]"), "more than 100,000 values"),
    "5,000 networks": (MANY, "more than the 500 that a file may have"),
    "NUL": ("n: \0\n", "invalid character U+0000"),
    "UTF-16": (net("[ReLU]").encode("utf-16"), "the file is not encoded as UTF-8; save it as UTF-8"),
    "UTF-32": (net("[ReLU]").encode("utf-32"), "the file is not encoded as UTF-8"),
    "latin-1": ("n: {description: café}\n".encode("latin-1"), "the file is not encoded as UTF-8"),
    "random bytes": (bytes(range(256)), "UTF-8"),
    "empty": ("", "the file is empty"),
    "only a comment": ("# nothing\n", "the file is empty"),
    "a word": ("ReLU", "must be a mapping of networks by name"),
    "a list": ("[ReLU]", "must be a mapping of networks by name"),
    "two documents": (net("[ReLU]") + "---\n" + net("[ReLU]"), "a second YAML document starts here"),
    "directives": ("%YAML 9.9\n---\n" + net("[ReLU]"), "invalid YAML"),
    "a key twice": (net("[ReLU]") + "n: 1\n", "duplicate key 'n'"),
    "a list for a key": ("? [a]\n: b\n", "a key must be text"),
    "escape sequences": (net('["\\e[31mred\\e[0m"]'), "unknown layer"),
    "a raw escape": ("n: \x1b]0;title\x07\n", "invalid character U+001B"),
    "markup": (net("['[bold red]x[/bold red]']"), "unknown layer"),
    "turned text": (net('{"\\u202edessap": ReLU}'), "invalid layer name"),
    "a lone surrogate": (net('["\\ud800"]'), "invalid YAML"),
    "a name that climbs": ("../../x: {input: [1, 2, 2], layers: ReLU}\n", "invalid network name '../../x'"),
    "a name from the root": ("/etc/x: {input: [1, 2, 2], layers: ReLU}\n", "invalid network name '/etc/x'"),
    "a device's name": ("CON: {input: [1, 2, 2], layers: ReLU}\n", "'CON' is a reserved file name on Windows"),
    "300 characters": ("x" * 300 + ": {input: [1, 2, 2], layers: ReLU}\n", "invalid network name"),
    "an empty name": ("'': {input: [1, 2, 2], layers: ReLU}\n", "invalid network name ''"),
    "a newline in a name": ('"a\\nb": {input: [1, 2, 2], layers: ReLU}\n', "invalid network name 'a\\nb'"),
    "a child called forward": (net("{forward: ReLU}"), "already an attribute of the PyTorch module"),
    "a child called __class__": (net("{__class__: ReLU}"), "invalid layer name"),
    "a layer of another module": (net("[os.system, {torch.load: x}]"), "unknown layer"),
    "a long word": (net("[R" + "e" * 500_000 + "]"), "unknown layer 'Reee"),
    "a long word for a value": (net("[{Linear: " + "e" * 500_000 + "}]"), "must be an integer of at least 1, not 'eee"),
    "a long list for a value": (
        net("[{Linear: [" + "1," * 3_000 + "]}]"),
        "must be an integer of at least 1, not [1,",
    ),
}


def peak() -> int:
    """The most memory that this process has had since the last reset, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) // 1024 if status.exists() else 0


def reset_peak() -> None:
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.parametrize("name", CASES)
def test_one_error_soon_and_small(name: str, tmp_path: Path) -> None:
    text, answer = CASES[name]
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    reset_peak()
    memory, start = peak(), time.process_time()  # of this process: another test beside it does not count
    with pytest.raises((SpecError, UsageError)) as caught:
        draft(str(path)).checked()
    seconds = time.process_time() - start
    assert peak() - memory < MEGABYTES
    assert seconds < SECONDS
    assert answer in str(caught.value)
    assert caught.value.exit_code == 2
    lines = clean(str(caught.value)).split("\n")
    assert len(lines) <= 2
    assert all(len(line) < 500 + len(str(path)) and line.isprintable() for line in lines)
    if isinstance(caught.value, SpecError):
        assert all(p.file == str(path) and p.line >= 1 and p.column >= 1 for p in caught.value.problems)


def test_thousands_of_mistakes_are_told_in_time(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(net("[" + "{Linear: x}, relu, " * 3_000 + "]"))
    start = time.process_time()
    result = diagnose([str(path)], (), {}, None)
    assert time.process_time() - start < 2 * SECONDS
    assert len(result.errors) == 6_000


def test_networks_that_are_large_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "MOST_LAYERS", 10_000)
    path = tmp_path / "x.yaml"
    large = "{input: [1, 2, 2], layers: [{repeat: 100, layers: [ReLU, ReLU, ReLU, ReLU, ReLU, ReLU]}]}"
    path.write_text("".join(f"n{i}: {large}\n" for i in range(400)))
    result = diagnose([str(path)], (), {}, None)
    message = "the networks before this one have more than 10,000 layers in total; split the file"
    assert [(p.line, p.column, p.where, p.message) for p in result.problems] == [(18, 1, "n17", message)]


COMMANDS = ["check", "summary", "shapes"]
SAMPLE = ["alias bomb", "copies of copies", "10^15 features", "2 MB", "UTF-16", "a raw escape", "python object"]
LIMITED = f"""
import re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
from cnn_cli.cli import main
{inspect.getsource(peak)}
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code
print(peak(), file=sys.stderr)
sys.exit(code)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, timeout=60, env=environment)


@pytest.mark.parametrize("name", SAMPLE)
def test_through_the_command(name: str, tmp_path: Path) -> None:
    text, answer = CASES[name]
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = COMMANDS[SAMPLE.index(name) % 3]
    result = run(command, str(path))
    output = result.stdout + result.stderr
    assert result.returncode == 2, output
    assert answer in output.decode()
    assert b"Traceback" not in output
    assert not {byte for byte in output if byte < 0x20} - {0x0A}
    assert output.decode().replace("\n", "").isprintable()
    assert int(result.stderr.split()[-1]) < 40 + MEGABYTES  # MB; Python with our modules takes 40


def test_names_reach_json_as_they_are_and_the_terminal_written_out(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    title = "\x1b]0;owned\x07\u202e[red]<script>"
    path.write_text(f"n: {{description: {json.dumps(title)}, input: [1, 2, 2], layers: ReLU}}\n")
    shown = run("summary", str(path))
    assert b"\x1b" not in shown.stdout
    assert b"\\x1b]0;owned\\x07\\u202e[red]<script>" in shown.stdout
    told = run("summary", str(path), "--json")
    assert told.stdout.isascii()
    assert json.loads(told.stdout)["description"] == title


@pytest.mark.parametrize("value", ["\udcff", "\x1b[31m", "[", "&a", "!!python/name:os", "{a: b", "9" * 5_000, "$x"])
def test_hostile_arguments(value: str) -> None:
    with pytest.raises(UsageError):
        draft("fashion-convnet", args={"classes": value}).checked()


@pytest.mark.parametrize("name", ["\udcff", "../x", "a\x1b", "x" * 10_000, "no.yaml:../x", "", ".yaml"])
def test_hostile_names_of_networks(name: str) -> None:
    with pytest.raises(Exception, match=r"unknown network|cannot read|no such file"):
        draft(name)

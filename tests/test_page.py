"""`cnn page`: what is in the file, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from pictures import cnn, make_run

PLAIN = "net:\n  input: {input}\n  layers: [Flatten, {{Linear: 3}}]\n"


def content_of(path: Path) -> dict:
    match = re.search(r'id="content">(.*?)</script>', path.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1])


def test_the_page_of_a_run_has_its_classes_its_data_and_its_epochs(workspace: Path) -> None:
    make_run(Path("runs/tiny-cnn-1"), "tiny-cnn")
    epoch = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "test_loss": 1.9, "test_accuracy": 0.6}
    Path("runs/tiny-cnn-1/metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    assert cnn("page", "tiny-cnn") == 0
    content = content_of(Path("runs/tiny-cnn-1/page.html"))
    assert content["classes"] == list("0123456789")
    assert content["history"] == [epoch]
    assert content["gallery"]["source"] == "test images of digits"
    assert content["gallery"]["labels"][:12] == [*range(10), 0, 1]
    assert content["digits"]["side"] == 8
    assert str(workspace) not in Path("runs/tiny-cnn-1/page.html").read_text()


def test_chosen_images_fill_the_gallery(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("runs/tiny-cnn-1"), "tiny-cnn")
    assert cnn("page", "tiny-cnn", "--index", "3,5", "-o", "a.html", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    assert len(content_of(Path("a.html"))["gallery"]["names"]) == 2


def test_nothing_in_the_file_points_elsewhere(workspace: Path) -> None:
    assert cnn("page", "tiny-cnn", "--untrained", "-o", "a.html") == 0
    text = Path("a.html").read_text()
    assert set(re.findall(r"https?://[^\"' )]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not a request
    assert not re.search(r"<(link|img|iframe)|src=|@import|url\(", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg16"], "138,357,544 parameters, more than the 100,000,000"),
        (["tiny-cnn", "-o", "a.pdf"], "a page must end in .html"),
        (["net.yaml"], "takes 5 channels"),
        (["tiny-cnn", "--seed", "1"], "add --untrained"),
    ],
    ids=["large", "suffix", "channels", "seed"],
)
def test_what_no_page_shows_is_refused(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.yaml").write_text(PLAIN.format(input="[5, 8, 8]"))
    assert cnn("page", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.html"))


def test_a_page_is_overwritten_only_by_force(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.html").write_text("mine")
    assert cnn("page", "tiny-cnn", "--untrained", "-o", "a.html") == 2
    assert "--force overwrites it" in capsys.readouterr().err
    assert cnn("page", "tiny-cnn", "--untrained", "-o", "a.html", "--force") == 0

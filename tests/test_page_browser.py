"""`cnn page` in a real browser: Chromium without a window. Skipped, with the reason, where there is none."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import cnn
from PIL import Image

selenium = pytest.importorskip("selenium", reason="needs selenium, to drive a browser")
pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Chromium and chromedriver")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    assert cnn("page", "fashion-convnet", "--untrained", "-o", str(folder / "net.html")) == 0
    return folder / "net.html"


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of `check`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := check():
            return value
        time.sleep(0.05)
    raise AssertionError("the page did not get there in time")


def opened(driver: Any, page: Path, state: str = "") -> Any:
    driver.get("about:blank")
    driver.get(f"file://{page}{state}")
    until(lambda: driver.execute_script("return document.body.dataset.ready"))
    return driver


def text(driver: Any, query: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0])?.innerText || ''", query))


def test_the_page_opens_without_a_request_or_an_error(driver: Any, page: Path) -> None:
    opened(driver, page)
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert not {url for url in asked if not url.startswith(("file:", "blob:", "data:", "about:"))}
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert page.stat().st_size <= 1_500_000
    assert "%" in text(driver, "#bars")


def test_a_value_is_explained_by_the_sum_that_makes_it(driver: Any, page: Path) -> None:
    opened(driver, page, "#image=2")
    driver.find_element(By.CSS_SELECTOR, ".map[data-channel='1']").click()
    until(lambda: "bias" in text(driver, "#value"))
    heading, *_, last = text(driver, "#value").splitlines()
    assert heading.startswith("The value at 1, ")
    assert last.endswith(f"= {heading.rpartition(' ')[2]}")
    place = heading.removeprefix("The value at ").partition(":")[0].replace(" ", "")
    assert driver.execute_script("return location.hash") == f"#image=2&layer=0&at={place}"
    assert not driver.find_element(By.ID, "field").get_attribute("hidden")
    assert text(driver, "#value").count("\n") > 20  # window, kernel and products are there as numbers
    opened(driver, page, "#image=1&layer=3&at=2,5,5")  # a link shows the same
    assert not driver.find_element(By.ID, "field").get_attribute("hidden")


def test_a_drawing_is_predicted(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.execute_script("document.querySelector('#draw').open = true")
    pad = driver.find_element(By.ID, "pad")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    ActionChains(driver).move_to_element(pad).click_and_hold().move_by_offset(30, 60).release().perform()
    until(lambda: text(driver, "#caption") == "Your drawing")
    assert "center of mass" in text(driver, "#draw-note")


def test_channels_are_switched_off(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.find_element(By.ID, "tab-off").click()
    until(lambda: driver.find_elements(By.CSS_SELECTOR, ".switch"))
    before = text(driver, "#bars")
    for channel in range(0, 32, 2):
        driver.find_elements(By.CSS_SELECTOR, ".switch")[channel].click()
        chosen = f".switch[aria-label='channel {channel}'][aria-pressed='false']"
        until(lambda chosen=chosen: driver.find_elements(By.CSS_SELECTOR, chosen))
    until(lambda: text(driver, "#bars") != before)
    assert "turned off" in text(driver, "#timing")
    pressed = driver.execute_script("return document.querySelectorAll('.switch[aria-pressed=false]').length")
    assert pressed == 16


def test_a_probability_is_explained_by_the_scores(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.find_elements(By.CSS_SELECTOR, ".bars button")[2].click()
    until(lambda: "Softmax" in text(driver, "#score"))
    shown = driver.execute_script("return document.querySelectorAll('.bars button')[2].lastChild.innerText")
    quotient, _, result = text(driver, "#score").splitlines()[-1].partition(" = ")
    part, whole = (float(number) for number in quotient.split(" / "))
    assert result == shown
    assert 100 * part / whole == pytest.approx(float(shown.rstrip("%")), abs=0.1)  # four digits of each
    assert driver.find_elements(By.CSS_SELECTOR, ".node[data-key=softmax]")


def test_the_tour_shows_what_it_says(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.find_element(By.ID, "start-tour").click()
    for step in range(1, 11):
        until(lambda step=step: text(driver, "#tour").startswith(f"{step}. "))
        until(lambda: driver.execute_script("return document.querySelector('.toured')"))
        if step == 4:
            until(lambda: "(bias)" in text(driver, "#value"))
        if step == 5:
            assert "fits 26 times in a row of 28 values, so the output is 26x26" in text(driver, "#tour")
        if step == 10:
            until(lambda: driver.find_element(By.ID, "tab-train").get_attribute("aria-selected") == "true")
        driver.execute_script("document.querySelectorAll('#tour button')[1].click()")
    until(lambda: driver.find_element(By.ID, "tour").get_attribute("hidden"))


def test_the_network_trains_in_the_page(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.find_element(By.ID, "tab-train").click()
    step = driver.find_element(By.XPATH, "//button[text()='One step']")
    for n in range(1, 4):
        step.click()
        until(lambda n=n: f"Step {n}," in text(driver, "#tool"))
    assert "test accuracy" in text(driver, "#tool")
    driver.find_element(By.XPATH, "//button[text()='Reset']").click()
    until(lambda: "reset to those in the file" in text(driver, "#tool"))


def test_reset_while_training_ends_it_first(driver: Any, page: Path) -> None:
    opened(driver, page)
    driver.find_element(By.ID, "tab-train").click()
    driver.find_element(By.XPATH, "//button[text()='Start']").click()
    until(lambda: "Step " in text(driver, "#tool"))
    driver.find_element(By.XPATH, "//button[text()='Reset']").click()
    until(lambda: "reset to those in the file" in text(driver, "#tool"))
    assert driver.find_elements(By.XPATH, "//button[text()='Start']")
    assert not driver.find_elements(By.CSS_SELECTOR, "#tool svg")


def test_a_file_that_is_no_image_is_refused(driver: Any, page: Path, tmp_path: Path) -> None:
    opened(driver, page)
    (tmp_path / "words.png").write_text("no image")
    driver.find_element(By.ID, "file").send_keys(str(tmp_path / "words.png"))
    until(lambda: "is not an image that this browser can open" in text(driver, "#image-note"))


@pytest.mark.parametrize(
    ("size", "mode"), [((1, 1), "RGB"), ((3000, 2), "L"), ((2, 999), "RGBA"), ((30, 20), "1"), ((40, 40), "P")], ids=str
)
def test_images_of_any_size_and_mode_are_predicted(
    size: tuple[int, int], mode: str, driver: Any, page: Path, tmp_path: Path
) -> None:
    opened(driver, page)
    Image.new(mode, size).save(tmp_path / "odd.png")
    driver.find_element(By.ID, "file").send_keys(str(tmp_path / "odd.png"))
    until(lambda: text(driver, "#caption") == "odd.png")
    assert f"odd.png, {size[0]}x{size[1]}: " in driver.execute_script(
        "return document.querySelector('#image-note').textContent"
    )
    assert "NaN" not in text(driver, "#bars")


def test_a_browser_without_workers_and_webassembly_predicts_the_same(driver: Any, page: Path) -> None:
    opened(driver, page, "#image=4")
    expected = text(driver, "#bars")
    script = "Object.defineProperty(window, 'Worker', {value: undefined}); delete window.WebAssembly;"
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        opened(driver, page, "#image=4")
        assert driver.execute_script("return matmul === multiplyPlain && !window.Worker")
        assert text(driver, "#bars") == expected
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1280)])
def test_the_page_is_accessible(scheme: str, width: int, driver: Any, page: Path) -> None:
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core")
    script = Path(axe.__file__).with_name("axe.min.js").read_text()
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    opened(driver, page, "#image=1&layer=3&at=2,5,5")
    driver.execute_script(script)
    for tab in ("saliency", "attack", "cover", "off", "train"):
        driver.execute_script(f"document.querySelector('#tab-{tab}').click()")
        until(lambda tab=tab: driver.execute_script(f"return document.querySelector('#tab-{tab}').ariaSelected"))
    found = driver.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")

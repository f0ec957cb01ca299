"""`cnn report` in a real browser: Chromium without a window. Skipped, with the reason, where there is none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pictures import cnn
from small_runs import begin, without_pictures

selenium = pytest.importorskip("selenium", reason="needs selenium, to drive a browser")
pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Chromium and chromedriver")

from selenium.webdriver.common.by import By  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, compared."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        patch.setattr("cnn_cli.report.document._IMAGES", 60)  # axe-core takes long over many
        runs = [str(begin(folder, name, epochs=epochs)) for name, epochs in (("one", 1), ("two", 2))]
        assert cnn("report", *runs, "-o", str(folder / "both.html")) == 0
    return folder / "both.html"


def test_a_cell_opens_its_images_without_a_script_or_a_request(driver: Any, page: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.get(f"file://{page}")
    panel = driver.find_element(By.CSS_SELECTOR, ".cell")
    link = driver.find_element(By.CSS_SELECTOR, f"a[href='#{panel.get_attribute('id')}']")
    assert not panel.is_displayed()
    link.send_keys("\n")
    assert panel.is_displayed() and panel.find_element(By.TAG_NAME, "img").is_displayed()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert not {url for url in asked if not url.startswith(("file:", "data:", "about:"))}
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_scheme_can_be_chosen(driver: Any, page: Path) -> None:
    driver.get(f"file://{page}")
    colors = []
    for name in ("light", "dark"):
        driver.find_element(By.CSS_SELECTOR, f"label[for='scheme-{name}']").click()
        colors.append(driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert colors[0] != colors[1]


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1280)])
def test_the_report_is_accessible(scheme: str, width: int, driver: Any, page: Path) -> None:
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core")
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get(f"file://{page}")
    driver.execute_script(Path(axe.__file__).with_name("axe.min.js").read_text())
    run = "axe.run(document, {resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
    found = driver.execute_async_script(run)
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")

"""A figure's page in a browser without a network: it draws, tells its numbers, and runs nothing that names hold."""

import functools
import json
import shutil
from dataclasses import replace

import pytest

from compbench.report.figures import as_html, make_figures
from compbench.report.figures.style import DARK_CONFIG, LIGHT_CONFIG
from tests.report.figures.stores import NASTY, store

pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not shutil.which("chromedriver"), reason="needs Chromium and its driver"
)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=800,1200"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


NAMES = (
    "memory_by_depth",
    "pareto_depth_4",
    "accuracy_by_seed_token_accuracy",
    "validation_solved",
    "training_loss",
    "rank_and_fidelity_of_arms",
    "rank_and_fidelity_of_sites_script-alert-1-script",
    "rank_by_depth",
    "gradient_by_depth",
    "rank_by_depth_of_sites_script-alert-1-script",
    "saved_bytes_by_site",
)


@functools.cache
def figures():
    made = make_figures(store(NASTY[:5], seeds=(0, 1, 2)))
    return {figure.name: replace(figure, caption="A caption with <b>no markup</b>.") for figure in made}


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """Opens the page of a figure, and waits until it is drawn."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    folder = tmp_path_factory.mktemp("pages")

    def open_page(name, scheme="light"):
        path = folder / f"{name}.html"
        path.write_text(as_html(figures()[name]))
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        WebDriverWait(browser, 60).until(
            lambda b: b.find_elements(By.CSS_SELECTOR, "#figure svg .role-axis-label text")
        )
        return browser

    return open_page


def requests(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_drawn_offline_without_a_word_of_complaint(opened, name):
    browser = opened(name)
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []
    caption = browser.execute_script("return document.querySelector('figcaption').textContent")
    assert caption == "A caption with <b>no markup</b>."
    assert browser.execute_script("return document.querySelectorAll('#figure script, #figure img').length") == 0


@pytest.mark.parametrize(("scheme", "config"), [("light", LIGHT_CONFIG), ("dark", DARK_CONFIG)])
def test_it_follows_the_colours_of_the_page(opened, scheme, config):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.getAttribute('fill'))"
    browser = opened("memory_by_depth", scheme)
    assert set(browser.execute_script(script, ".role-axis-label text")) == {config["axis"]["labelColor"]}
    marks = browser.execute_script(script, "path[aria-roledescription=point]")
    assert marks
    assert set(marks) <= set(config["range"]["category"])


def test_it_fills_the_width_of_the_page(opened):
    browser = opened("memory_by_depth")
    width = "return document.querySelector(arguments[0]).getBoundingClientRect().width"
    assert browser.execute_script(width, "#figure svg") == browser.execute_script(width, "#figure") > 600


def test_pointing_at_a_mark_tells_its_numbers_and_names_are_text_there_too(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    browser = opened("memory_by_depth")
    browser.execute_script("window.alert = () => { window.alerted = true }")
    points = browser.find_elements(By.CSS_SELECTOR, "path[aria-roledescription=point]")
    ActionChains(browser).move_to_element(points[2]).perform()
    tooltip = browser.find_element(By.CSS_SELECTOR, "#vg-tooltip-element")
    assert "<script>alert(1)</script>" in tooltip.text
    assert "median, MB" in tooltip.text
    assert tooltip.find_elements(By.CSS_SELECTOR, "script, img") == []
    assert browser.execute_script("return window.alerted") is None


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("accuracy")])
def test_a_click_in_the_legend_brings_out_an_arm(opened, name):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    browser = opened(name)
    faint = "return [...document.querySelectorAll('#figure [opacity=\"0.12\"]')].length"
    assert browser.execute_script(faint) == 0
    label = browser.find_elements(By.CSS_SELECTOR, ".role-legend-label text")[1]
    ActionChains(browser).move_to_element(label).click().perform()
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(faint) > 0)

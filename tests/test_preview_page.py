"""The preview page in a real browser, from disk: looked at wide and narrow, and used by keyboard alone."""

from __future__ import annotations

import json

import browser as browsers
import cv2
import numpy as np
import pytest

import augstream as A
from augstream.testing import make_shards
from augstream.tools.preview import Place, choose, write_page

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(browsers.missing() is not None, reason=f"no browser: {browsers.missing()}"),
]

NUM_EPOCHS = 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_shards(folder / "shards", num_samples=12, num_shards=2)
    transform = A.Compose(
        [A.RandomResizedCrop(size=(24, 32)), A.HorizontalFlip(p=0.5), A.OneOf([A.GaussNoise(p=1), A.Blur(p=1)], p=0.6),
         A.Rotate(p=0.5), A.Normalize()],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=[]),
    )  # fmt: skip
    fields = {"image": "jpg", "label": "cls", "bboxes": "json:boxes"}
    dataset = A.StreamDataset(str(folder / "shards"), transform, batch_size=4, seed=137, fields=fields)
    places = [Place(epoch, shard, key) for epoch in range(NUM_EPOCHS) for shard, key in choose(dataset, 12)]
    write_page(dataset, places, folder / "preview.html")
    return folder / "preview.html"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browsers.browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def page(window, path):
    window.resize(1400, 1000)
    window.open(path)
    yield window
    assert window.complaints() == [], "no script fails, and nothing is asked for in vain"


def chosen(page):
    """The address of the chosen sample, as the page says it."""
    return page.run("return document.querySelector('#chosen code').textContent")


def focused(page):
    return page.run(
        "const at = document.activeElement; return at.id || (at.entry && at.entry.address) || at.tagName"
    )


def test_it_asks_the_network_for_nothing(page):
    asked = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []
    assert page.run("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.run("return document.querySelectorAll('.card').length") == 12 * NUM_EPOCHS


@pytest.mark.parametrize("width", [1400, 800, 500])
def test_it_fits_and_is_legible(page, width):
    """Nothing sticks out, texts stand out from what is behind them, in both views; and a screenshot shows pictures."""
    page.resize(width, 1000)
    for tab in ("to-samples", "to-statistics"):
        page.run(f"document.getElementById('{tab}').click()")
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.run(FAINT) == []
        seen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert seen.shape[1] == page.run("return window.innerWidth")
        assert len(np.unique(seen[::7, ::7].reshape(-1, 3), axis=0)) > 100, "it is not a blank page"


# Texts whose contrast to what is behind them is below 4.5, as WCAG 2 counts.
FAINT = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = numbers(colour).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const found = numbers(getComputedStyle(node).backgroundColor);
    if (found.length < 4 || found[3] > 0) return getComputedStyle(node).backgroundColor;
  }
  return "rgb(255, 255, 255)";
};
const faint = [];
for (const node of document.body.querySelectorAll("*")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || !node.offsetParent || ["SCRIPT", "OPTION"].includes(node.tagName)) continue;
  const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < 4.5) faint.push(`${node.tagName} ${node.textContent.slice(0, 30)} ${contrast.toFixed(2)}`);
}
return faint;
"""


def test_all_of_it_is_reached_by_keyboard(page):
    order = []
    for _ in range(6):
        page.press("Tab")
        order.append(focused(page))
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid", order[-1]
    first = chosen(page)
    assert order == ["key", "shard", "epoch", "to-samples", first, "chosen"]


def test_arrows_go_from_sample_to_sample(page):
    for _ in range(5):
        page.press("Tab")
    addresses = page.run("return [...document.querySelectorAll('.card')].map((card) => card.entry.address)")
    top = page.run("return [...document.querySelectorAll('.card')].map((card) => card.offsetTop)")
    columns = top.count(top[0])
    assert columns == 3
    at = 0
    for key, step in (
        ("Right", 1),
        ("Right", 1),
        ("Down", columns),
        ("Left", -1),
        ("Up", -columns),
        ("Up", 0),
        ("End", None),
    ):
        page.press(key)
        at = len(addresses) - 1 if step is None else at + step
        assert (chosen(page), focused(page)) == (addresses[at], addresses[at])
    page.press("Home", "Left")
    assert chosen(page) == addresses[0]


def test_what_is_said_of_a_sample_is_what_was_drawn(page, path):
    text = path.read_text()
    start = text.index('type="application/json">') + len('type="application/json">')
    data = json.loads(text[start : text.index("</script>", start)])
    page.run("document.querySelectorAll('.card')[5].click()")
    entry = data["entries"][5]
    said = page.run("return document.getElementById('chosen').innerText")
    assert entry["address"] in said
    assert f"{entry['sizes'][0]} → 32 x 24" in said
    for step in entry["steps"]:
        assert step["name"] in said
        if step["p"] < 1:
            assert f"drew {step['gate']:.3f} {'<' if step['applied'] else '≥'} {step['p']}" in said
    assert ", ".join(map(str, entry["steps"][0]["applied"][0]["params"]["crop_coords"])) in said


def test_shards_epochs_and_keys_are_browsed(page):
    choose_ = "const it = document.getElementById('{}'); it.value = '{}'; it.dispatchEvent(new Event('{}'));"
    cards = "return [...document.querySelectorAll('.card .name')].map((name) => name.textContent)"
    page.run(choose_.format("epoch", "1", "change"))
    page.run(choose_.format("shard", "train-000001.tar", "change"))
    names = page.run(cards)
    assert len(names) == 6
    assert all(name.endswith("train-000001.tar · epoch 1") for name in names)
    page.run(choose_.format("key", "000007", "input"))
    assert page.run(cards) == ["000007 · train-000001.tar · epoch 1"]
    page.run(choose_.format("key", "nobody", "input"))
    assert page.run(cards) == []
    assert "No sample fits" in page.run("return document.getElementById('hint').textContent")


def test_on_a_narrow_screen_details_follow_their_sample(page):
    page.resize(500, 1000)
    page.run("document.querySelectorAll('.card')[3].click()")
    assert page.run(
        "return document.getElementById('chosen').previousElementSibling.entry.address"
    ) == chosen(page)
    page.resize(1400, 1000)
    assert page.run("return document.getElementById('chosen').parentElement.id") == "samples"


def test_statistics_are_there(page):
    page.run("document.getElementById('to-samples').focus()")
    page.press("Right")
    assert focused(page) == "to-statistics"
    said = page.run("return document.getElementById('statistics').innerText")
    for text in (
        "1 HorizontalFlip",
        "(p 0.5)",
        "brightness",
        "width in pixels",
        "number of bboxes",
        "before: mean",
        "3 Rotate.rotate",
    ):
        assert text in said
    assert page.run("return document.querySelectorAll('#measures svg').length") >= 5
    assert page.run(
        "return [...document.querySelectorAll('#statistics svg')].every((svg) => svg.getAttribute('aria-label'))"
    )

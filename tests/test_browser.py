"""The report in a real browser: quiet console, no request, tips, sorting, dark, a telephone's width, hostile names."""

import pytest

from plots.output import write_report

from .browser import Browser
from .synthetic import HOSTILE, write_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    plain, _ = write_report(write_study(root / "plain"))
    hostile, _ = write_report(
        write_study(root / "hostile", title=HOSTILE, rename=lambda name: HOSTILE + name)
    )
    return {"plain": plain.as_uri(), "hostile": hostile.as_uri()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 380])
def test_nothing_overflows_and_the_console_is_quiet(browser, pages, name, dark, width):
    browser.open(pages[name], width=width, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    wide = browser.run(
        """return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
             && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
    )
    assert wide == []
    assert browser.errors() == []
    requested = [url for url in browser.requests() if not url.startswith("data:")]
    assert set(requested) <= {pages[name]}


def test_dark_is_dark_and_text_stands_out_in_both(browser, pages):
    colours = {}
    for dark in (False, True):
        browser.open(pages["plain"], dark=dark)
        colours[dark] = browser.run(
            """const c = e => getComputedStyle(e);
               return [c(document.body).backgroundColor, c(document.body).color,
                       c(document.querySelector('svg text')).fill, c(document.querySelector('.about')).color]"""
        )
        paper, *inks = (_luminance(colour) for colour in colours[dark])
        for ink in inks:
            assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5, "WCAG 2.1, 1.4.3"
    assert _luminance(colours[True][0]) < 0.05 < 0.9 < _luminance(colours[False][0])


def _luminance(colour):
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_picture_has_a_text(browser, pages):
    browser.open(pages["plain"])
    nameless = browser.run(
        "return [...document.querySelectorAll('svg, img')].filter(e => !e.getAttribute('aria-label')).length"
    )
    assert nameless == 0
    assert browser.run("return document.querySelectorAll('svg[role=img]').length") == 9


def test_a_point_tells_its_run_on_hover_click_and_focus(browser, pages):
    browser.open(pages["plain"])
    text = browser.run(
        """const point = document.querySelector('#figure-frontier .pt'), tip = document.getElementById('tip');
           const seen = [tip.hidden];
           point.dispatchEvent(new PointerEvent('pointerenter', {clientX: 50, clientY: 50})); seen.push(tip.textContent);
           point.dispatchEvent(new PointerEvent('pointerleave')); seen.push(tip.hidden);
           point.dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: 50, clientY: 50})); seen.push(tip.textContent);
           document.body.click(); seen.push(tip.hidden);
           point.focus(); seen.push(tip.hidden);
           document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'})); seen.push(tip.hidden);
           return seen"""
    )
    assert text[0] is True
    assert text[1].startswith("gpt2-d48-s0\nN ")
    assert text[2:] == [True, text[1], True, False, True]


def test_a_real_mouse_over_a_point_shows_the_tip(browser, pages):
    browser.open(pages["plain"])
    where = browser.run(
        """const point = document.querySelector('#figure-predicted .pt');
           point.scrollIntoView({block: 'center', behavior: 'instant'});
           const box = point.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]"""
    )
    browser.cdp("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    assert "Predicted" in browser.run(
        "const t = document.getElementById('tip'); return t.hidden ? '' : t.textContent"
    )


def test_tables_sort_by_number_both_ways(browser, pages):
    browser.open(pages["plain"])
    script = """const table = [...document.querySelectorAll('section:last-of-type table.sort')].pop();
        const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === 'loss');
        const head = table.tHead.rows[0].cells[column];
        head.querySelector('button').click();
        return [head.getAttribute('aria-sort'), [...table.tBodies[0].rows].map(r => +r.cells[column].dataset.v)]"""
    order, up = browser.run(script)
    assert (order, up) == ("ascending", sorted(up))
    order, down = browser.run(script)
    assert (order, down) == ("descending", sorted(up, reverse=True))


def test_hostile_names_stay_text(browser, pages):
    browser.open(pages["hostile"])
    assert browser.run("return document.querySelectorAll('script').length") == 1
    assert browser.run("return document.querySelectorAll('img, iframe, object').length") == 0
    assert browser.run("return document.querySelector('h1').textContent") == HOSTILE
    tips = browser.run("return [...document.querySelectorAll('.pt')].map(p => p.getAttribute('aria-label'))")
    assert any(HOSTILE in tip for tip in tips)


def test_what_somebody_adds_to_the_page_is_neither_fetched_nor_run(browser, pages, tmp_path):
    from pathlib import Path
    from urllib.parse import urlparse

    page = Path(urlparse(pages["plain"]).path).read_text()
    added = '<img src="http://127.0.0.1:9/x.png" alt="x"><script>document.title = "owned"</script></main>'
    (tmp_path / "added.html").write_text(page.replace("</main>", added))
    browser.open((tmp_path / "added.html").as_uri())
    assert len(browser.errors()) >= 2, "the page's policy speaks up"
    assert browser.run("return document.title") != "owned"

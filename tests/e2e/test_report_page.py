# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""`forge report`: the page of a build, in a real browser."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.browser import Browser
from tests.e2e.conftest import Project, until

ODD = "<_script><img src=x onerror=alert(1)>&\"'"
LINES = (
    'suite = forge.option("suite", "one")',
    'words = forge.source("words.txt")',
    'root = forge.target("rootfs", Empty(word="a" * 3000))',
    'top = forge.target("system", Change(base=root, line="mkdir -p $OUT/var/lib/dpkg; printf \'Package: vim<b>\\\\nStatus: install ok installed\\\\nVersion: 9\\\\nInstalled-Size: 9000\\\\n\' > $OUT/var/lib/dpkg/status"))',
    'slow = forge.target("first", Shell(line=f"echo W: a warning from {suite} >&2; sleep 0.2; cat $1", inputs=(words,)))',
    'other = forge.target("second", Shell(line="sleep 0.1; cat $1", inputs=(slow,)))',
    'disk = forge.target("images/disk.img", Shell(line="cat $1 $2; ls $3", inputs=(slow, other, top)))',
    f"odd = forge.target({ODD!r}, Noisy(line='printf \"<b>bold</b> \\\\033[31mred \\\\377 \\\\0 </pre><script>alert(2)</script>\\\\n\"; echo > $OUT', inputs=(slow,)))",
    'forge.target("bad", Noisy(line="echo \'<i>oh no</i>\'; exit 3", inputs=(odd,)))',
    'forge.target("endless", Shell(line="echo begun >&2; sleep 60", inputs=(slow,)))',
    "forge.default(disk, odd)",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a build of all, one of an edit, and one that failed; `page-1.html` to `page-3.html` tell of them."""
    if os.geteuid():
        pytest.skip("forge needs root for now")
    project = Project(tmp_path_factory.mktemp("report") / "a <project> & more")
    project.forgefile(*LINES)
    project.write("words.txt", "words\n")
    project.forge()
    project.write("words.txt", "other words\n")
    project.forge()
    project.forge("bad", status=1)
    for number in (1, 2, 3):
        project.forge("report", f"page-{number}.html", "--build", str(number))
    return project


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def page(built: Project, number: int) -> Path:
    return built / f"page-{number}.html"


def anew(project: Project, *words: str) -> Path:
    """Return a page that is written now."""
    project.forge("report", "page.html", *words)
    return project / "page.html"


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.value(f"[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).map(e => e.textContent.trim())")


def shown_rows(browser: Browser) -> set[str]:
    return set(texts(browser, ".row summary .name"))


def sight(browser: Browser) -> list[float]:
    return [float(each) for each in browser.value("document.getElementById('board').getAttribute('viewBox')").split()]


def test_it_renders_without_a_complaint_and_asks_for_nothing(built, browser):
    for number in (1, 2, 3):
        at = page(built, number)
        for width, dark in ((1280, False), (390, True)):
            browser.open(at, width=width, dark=dark)
            assert browser.errors == []
            assert [url for url in browser.asked if not url.startswith("data:")] == [at.as_uri()]
    text = built.read("page-1.html")
    assert re.findall(r"(?:src|href)=\"(?!#|data:)", text) == []
    assert set(re.findall(r"https?://[^'\"]*", text)) == {"http://www.w3.org/2000/svg"}


def test_it_tells_what_ran_and_why_and_what_was_saved(built, browser):
    browser.open(page(built, 2))
    assert texts(browser, "h1") == ["Build 2 done"]
    assert texts(browser, ".brand") == ["a <project> & more"]
    ran = dict(zip(texts(browser, ".row.built .name"), texts(browser, ".row.built .why"), strict=True))
    assert ran["first"] == "words.txt: content changed"
    assert ran["images/disk.img"].startswith("first: content changed")
    assert set(texts(browser, ".row.current summary .name")) == {"rootfs", "system"}
    assert "Change" in texts(browser, ".row .rule")
    assert texts(browser, "#time .on-way") == ["first", "second", "images/disk.img"]
    assert set(texts(browser, ".warnings .said")) == {"W: a warning from one"}
    assert set(texts(browser, ".lane h3")) <= {"worker 1", "worker 2"}
    browser.open(page(built, 1))
    assert texts(browser, ".row.built .why") == ["never built"] * 6
    browser.open(page(built, 3))
    assert texts(browser, ".tile.saved span") == ["saved by the cache"]
    assert texts(browser, "#cache tbody th")[0] == "first"


def test_sizes_are_told_by_layer_and_by_package(built, browser):
    browser.open(page(built, 1))
    assert texts(browser, ".stack h3 .name") == ["system"]
    assert texts(browser, ".stack tbody th .name")[:2] == ["rootfs", "system"]
    assert "2.9 KiB" in texts(browser, ".stack td.n")
    browser.click(".packages summary")
    assert texts(browser, ".packages tbody th") == ["vim<b>"]
    assert "8.8 MiB" in texts(browser, ".packages td.n")


def test_what_others_wrote_stays_text(built, browser):
    """Names of targets, what programs print, and the folder's name are no markup."""
    browser.open(page(built, 1))
    assert browser.value("document.images.length + document.scripts.length + document.querySelectorAll('.row b, .row i').length") == 1
    assert ODD in shown_rows(browser)
    row = browser.value(f"[...document.querySelectorAll('.row')].find(e => e.querySelector('.name').textContent === {ODD!r}).id")
    browser.click(f"#{row} summary")
    (log,) = texts(browser, f"#{row} pre.log")
    assert log.endswith("\n<b>bold</b> red \ufffd  </pre><script>alert(2)</script>")
    browser.open(page(built, 3))
    assert texts(browser, ".failure .log") == ["<i>oh no</i>"]
    assert texts(browser, ".failure .message") == ["exit status 3"]
    assert browser.errors == []


def test_the_pages_own_policy_lets_nothing_else_run(built, browser):
    browser.open(page(built, 1))
    browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    browser.value("{ const s = document.createElement('script'); s.textContent = 'window.ran = 2'; document.body.append(s); }")
    assert browser.value("new Promise(done => setTimeout(() => done(window.ran ?? 0), 50))") == 0


def test_a_search_finds_targets_everywhere(built, browser):
    browser.open(page(built, 1))
    before = sight(browser)
    browser.press("/")
    browser.type("disk")
    assert shown_rows(browser) == {"images/disk.img"}
    assert texts(browser, "#found") == ["1 of 6"]
    assert browser.value("[...document.querySelectorAll('.node.hit title')].map(e => e.textContent.split(':')[0])") == ["images/disk.img"]
    assert browser.value("document.querySelectorAll('.bar.hit').length") == 1
    browser.press("Enter")
    assert sight(browser) != before
    browser.press("Escape")
    assert len(shown_rows(browser)) == 6
    browser.press("/")
    browser.type("no such thing")
    assert (shown_rows(browser), texts(browser, "#none")) == (set(), ["Nothing of that name."])


def test_rows_are_chosen_by_how_they_ended(built, browser):
    browser.open(page(built, 2))
    browser.click(".chips [data-end=current]")
    assert shown_rows(browser) == {"rootfs", "system"}
    browser.click(".chips [data-end='']")
    assert len(shown_rows(browser)) == 6


def test_the_graph_is_zoomed_and_moved(built, browser):
    browser.open(page(built, 1))
    whole = sight(browser)
    browser.click("[data-zoom=in]")
    near = sight(browser)
    assert near[2] < whole[2]
    assert near[0] + near[2] / 2 == pytest.approx(whole[0] + whole[2] / 2)
    x, y, width, height = browser.value("(({x, y, width, height}) => [x, y, width, height])(document.getElementById('board').getBoundingClientRect())")
    at = (x + width / 2, y + height - 5)
    browser.mouse("mouseWheel", *at, deltaX=0, deltaY=-200, modifiers=2)
    until(lambda: sight(browser)[2] < near[2])
    before = sight(browser)
    browser.mouse("mousePressed", *at, button="left", clickCount=1)
    for step in (10, 30, 60):
        browser.mouse("mouseMoved", at[0] - step, at[1], button="left", buttons=1)
    browser.mouse("mouseReleased", at[0] - 60, at[1], button="left", clickCount=1)
    assert sight(browser)[0] > before[0]
    assert sight(browser)[2] == before[2]
    browser.click("[data-zoom=fit]")
    assert sight(browser) == whole
    browser.value("document.getElementById('board').focus()")
    browser.press("+")
    assert sight(browser)[2] < whole[2]
    browser.press("0")
    assert sight(browser) == whole


def test_a_box_leads_to_its_target(built, browser):
    browser.open(page(built, 1))
    row = browser.value("document.querySelector('.node.critical').dataset.of")
    browser.click(f".node[data-of={row}] rect")
    until(lambda: browser.value(f"document.getElementById('{row}').open"))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("width", [320, 390, 820])
def test_nothing_is_wider_than_the_screen(built, browser, number, width):
    browser.open(page(built, number), width=width)
    browser.value("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("[...document.querySelectorAll('button, input')].filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 32).length") == 0


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(built, browser, dark):
    """The contrast of text is that of WCAG 2.1, 1.4.3: 4.5 to 1."""
    browser.open(page(built, 3), dark=dark)

    def shade(selector: str, what: str) -> float:
        return luminance(browser.value(f"getComputedStyle(document.querySelector({selector!r})).{what}"))

    ground, card, bar = (shade(each, "backgroundColor") for each in ("body", ".card", ".bar.failed"))
    assert (ground < 0.05) is dark
    for selector, behind in (("body", ground), (".top dt", ground), (".row .why", card), (".state.failed", card),
                             (".state.current", card), (".failure h2", card), (".bar.failed", bar)):  # fmt: skip
        text = shade(selector, "color")
        assert (max(text, behind) + 0.05) / (min(text, behind) + 0.05) >= 4.5, selector


def test_on_paper_it_is_light_and_whole(built, browser):
    browser.open(page(built, 3), dark=True, media="print")
    assert luminance(browser.value("getComputedStyle(document.body).backgroundColor")) == pytest.approx(1)
    assert browser.value("document.getElementById('tools').checkVisibility()") is False
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("[...document.querySelectorAll('details')].every(e => e.open)")
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert not browser.value("[...document.querySelectorAll('.row')].some(e => e.open)")


def test_it_is_read_without_scripts(built, browser):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page(built, 1))
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert not browser.value("document.getElementById('tools').checkVisibility()")
    assert len(shown_rows(browser)) == 6


def test_what_can_be_reached_has_a_name(built, browser):
    browser.open(page(built, 3))
    roles = ("button", "link", "searchbox", "image", "heading")
    found = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [(each["role"]["value"], each.get("name", {}).get("value")) for each in found if not each["ignored"]]
    assert {role for role, _ in named} >= {"button", "link", "searchbox", "heading", "main", "banner"}
    assert [role for role, name in named if role in roles and not name] == []


# The command


def test_a_killed_build_is_told_as_far_as_it_came(machine, browser):
    machine.forgefile(*LINES)
    machine.write("words.txt", "words\n")
    process = machine.start("--json", "endless")
    until(lambda: "begun" in process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    browser.open(anew(machine))
    assert (texts(browser, "h1"), shown_rows(browser), browser.errors) == (["Build 1 killed"], {"first"}, [])


def test_logs_that_are_gone_are_told_as_that(built, browser):
    built.forge("gc")
    browser.open(anew(built, "--build", "1"))
    browser.value("document.querySelectorAll('.row').forEach(e => { e.open = true; })")
    assert "The log is no longer in the store." in texts(browser, ".logged .aside")


def test_a_page_is_written_over_a_page_alone(project):
    project.forgefile('forge.target("a", Shell(line="echo"))')
    assert "no build was noted yet" in project.forge("report", status=2).err
    project.forge()
    project.write("disk.img", "precious")
    (project / "folder").mkdir()
    os.mkfifo(project / "pipe")
    for words, said in (
        (("disk.img",), "disk.img exists and is no page of forge's"),
        (("pipe",), "pipe exists and is no page of forge's"),
        (("folder",), "folder is a folder"),
        (("nowhere/page.html",), "cannot write nowhere/page.html"),
        (("--build", "7"), "there is no build 7: 1 to 1 are kept"),
        (("--build", "0"), "expected a number from 1, got '0'"),
        (("one", "two"), "unrecognized arguments: two"),
    ):  # fmt: skip
        assert said in project.forge("report", *words, status=2).err
    assert project.read("disk.img") == "precious"
    assert sorted(each.name for each in project.root.iterdir()) == [".forge", "Forgefile.py", "a", "disk.img", "folder", "pipe"]
    assert "is told in forge-report.html" in project.forge("report").out
    project.forge("report")
    assert project.forge("report", "-").out == project.read("forge-report.html")


def test_an_ordinary_user_gets_the_page_of_trees_too(users, browser):
    users.forgefile(*LINES[:4], 'forge.target("third", Change(base=top, line="mkdir $OUT/root; chown 7:7 $OUT/root; chmod 0700 $OUT/root"))')
    users.write("words.txt", "words\n")
    users.forge("third")
    browser.open(anew(users))
    assert browser.errors == []
    browser.click(".packages summary")
    assert texts(browser, ".packages tbody th") == ["vim<b>"]

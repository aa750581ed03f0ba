"""The page to teach from, built afresh, and used in a real browser as a reader would."""

import itertools
import re
import sys

import pytest
import torch
from browser import CHROMIUM, Page, chromium
from conftest import FORMS, ROOT, VARIANTS, load, script

sys.path += [str(ROOT / folder) for folder in ("page", "rules", "tools", "shapes")]

import build
import insert
import listing
import markers
import slide

PAGE = ROOT / "docs" / "index.html"
RULES = [*insert.names(), *insert.exercises()]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


def text_of(name: str) -> str:
    """The script of that name."""
    return script(name).read_text() if name in VARIANTS else insert.compose(name)


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page):
    """The browser at 1280 x 900; afterwards it must have complained of nothing and asked no one."""
    browser.errors.clear()
    browser.size(1280, 900)
    browser.media()
    yield browser
    assert browser.errors == []
    assert set(browser.requests) <= {"about:blank", PAGE.as_uri()}


def shown(selector: str) -> str:
    """JavaScript: the elements of that selector that can be seen."""
    return f"all({selector!r}).filter((e) => e.checkVisibility())"


def address(page: Page) -> str:
    """The state in the address."""
    return page.js("location.hash")


# --- the files ---


def test_page_is_not_stale():
    """Mend with: python page/build.py"""
    for name, text in build.build().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


def test_page_is_one_small_file():
    html = PAGE.read_text(encoding="utf-8")
    assert len(html.encode()) < 1_000_000
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {
        "data:,",
        "https://arxiv.org/abs/2606.23932",
    }
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) == {"#${chart.svg.id}-frame"}


def test_lines_keep_their_text():
    source = (
        'def f(x):\n    y = (x - 1) * 2  # why\n\n    """two\n  lines"""\n    return f"{y} <b>"\n'
    )
    lines = [re.sub("<.*?>", "", line).rstrip("\n") for line in listing.code_lines(source)]
    assert (
        lines
        == source.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;").split("\n")[:-1]
    )
    assert '<span class="string">' in listing.code_lines(source)[5]


def test_every_line_of_the_slide_fits_its_width():
    svg = (ROOT / "docs" / "slide.svg").read_text(encoding="utf-8")
    widths = [float(width) for width in re.findall(r'textLength="(\d+)"', svg)]
    assert len(widths) == 5  # one line of code, and twice two
    assert slide.LEFT + max(widths) < slide.WIDTH


def test_tokens_in_columns():
    aligned = listing.align(["a = min(x * y, z)", "a = x * y + b", "a = x * y"])
    assert aligned == ["a = min(x * y, z)", "a =     x * y + b", "a =     x * y"]


# --- part 1: the code ---


@needs_browser
def test_shown_script_is_the_file(page):
    page.open(PAGE)
    for name in (*VARIANTS, *RULES):
        page.js(f"choose({{ form: {name!r} }})")
        lines = page.js("shownLines().map((line) => line.textContent.trimEnd())")
        assert "\n".join(lines) + "\n" == text_of(name)
        assert page.js("shownLines().at(-1).dataset.number") == str(len(lines))


@needs_browser
def test_keys_exchange_the_block(page):
    page.open(PAGE)
    block = "shownLines().filter((line) => line.closest('.block')).map((line) => line.textContent)"
    assert page.js(block) == []  # at first all four, one above the other
    assert page.js(f"{shown('#aligned .form')}.length") == 4
    for key, name in zip("1234", VARIANTS, strict=True):
        page.press(key)
        assert "\n".join(page.js(block)) + "\n" == markers.policy_loss(text_of(name))
        assert address(page) == f"#form={name}"
    page.press("r")
    assert address(page) == f"#form={insert.names()[0]}"
    page.press("0")
    assert address(page) == ""


@needs_browser
def test_whole_file_unfolds(page):
    page.open(PAGE, "form=klip")
    code = f"{shown('#listing .line')}.length"
    before = page.js(code)
    page.press("f")
    assert page.js(code) == len(text_of("klip").splitlines()) > before
    page.press("f")
    assert page.js(code) == before


@needs_browser
def test_same_tokens_stand_in_columns(page):
    """The left edges of `ratio` in the last lines of the four blocks."""
    edges = """all("#aligned .form").map((form) => {
      const line = form.lastElementChild;
      const node = textNodes(line).find((part) => /\\bratio/.test(part.data));
      const range = document.createRange();
      range.setStart(node, node.data.search(/\\bratio/));
      range.setEnd(node, node.data.length);
      return Math.round(range.getBoundingClientRect().left);
    })"""
    page.open(PAGE)
    found = page.js(edges)
    assert len(found) == 4
    assert len(set(found)) == 1


# --- part 2: a sample ---


def one_sample(module, ratio: float, advantage: float, epsilon: float) -> dict[str, float]:
    """Objective and coefficient of a sample by the script's own agent, whose log pi_old is -1.

    The policy is N(0, e^-1), and d log pi / d mean = action / variance.
    """
    agent = module.Agent(1, 1).double()
    head = agent.actor_mean[-1]
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(agent.actor_logstd, -1.0)
    at_mean = agent.logprob(torch.zeros(1, 1), torch.zeros(1, 1)).item()
    logprob = torch.tensor(ratio).double().log() - 1
    action = (2 * (at_mean - logprob)).sqrt() * 0.36787944117144233
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = module.Batch(
        obs=one,
        actions=one * action,
        old_logprob=-one[0],
        old_mean=one,
        old_logstd=-one,
        old_value=one[0],
        advantages=one[0] * advantage,
        returns=one[0],
    )
    args = module.Args(clip_coef=epsilon, vf_coef=0.0)
    loss, _ = module.ppo_loss(agent, args, batch)
    (slope,) = torch.autograd.grad(loss, head.bias)
    score = action.item() / 0.1353352832366127
    return {"objective": -loss.item(), "coefficient": -slope.item() / score}


@needs_browser
@pytest.mark.parametrize("name", [*FORMS, "spo", "rollback", "dpo"])
def test_numbers_are_the_scripts(page, name):
    module = load(
        "klip", (markers.policy_loss(text_of("klip")), markers.policy_loss(text_of(name)))
    )
    page.open(PAGE)
    for w, advantage, epsilon in itertools.product((0.3, 0.94, 1.5), (-1.25, 0.5), (0.1, 0.35)):
        page.js(f"choose({{ w: {w}, A: {advantage}, epsilon: {epsilon} }})")
        for quantity, value in one_sample(module, w, advantage, epsilon).items():
            on_page = page.js(f"valueOf({name!r}, {quantity!r}, samplePlaces())")
            assert on_page == pytest.approx(value, abs=2e-4)


def reading(page: Page) -> tuple[str, str]:
    """The line of numbers and the set."""
    return page.js("byId('sum').innerText"), page.js("byId('why').firstChild.innerText")


@needs_browser
def test_line_of_numbers(page):
    page.open(PAGE)
    assert reading(page) == ("w A + βt = 1.50 − 1.50 = 0", "kill")
    page.open(PAGE, "w=1.1")
    assert reading(page) == ("w A + βt = 1.10 − 0 = 1.10", "in")
    page.open(PAGE, "w=1.5&A=-1")
    assert reading(page) == ("w A + βt = −1.50 − 0 = −1.50", "pass")
    page.open(PAGE, "w=0.6&A=-1")
    assert reading(page) == ("w A + βt = −0.60 + 0.60 = 0", "kill")
    page.open(PAGE, "w=1.2")
    assert reading(page)[1] == "in"  # the edge belongs to the band


def place_in_plane(page: Page, w: float, advantage: float) -> tuple[float, float]:
    """Pixels of a sample."""
    page.js("byId('plane').scrollIntoView({ block: 'center' })")
    point = f"new DOMPoint(planeFrame.toX({w}), planeFrame.toY({advantage}))"
    pixels = f"{point}.matrixTransform(byId('plane').getScreenCTM())"
    place = page.js(f"(({{ x, y }}) => ({{ x, y }}))({pixels})")
    return place["x"], place["y"]


@needs_browser
def test_dragging_by_mouse(page):
    page.open(PAGE)
    page.mouse("mousePressed", *place_in_plane(page, 1.5, 1.0))
    page.mouse("mouseMoved", *place_in_plane(page, 1.5, -0.5))
    assert reading(page)[1] == "pass"
    curve = page.js("document.querySelector('#objective .klip').getAttribute('d')")
    page.mouse("mouseMoved", *place_in_plane(page, 0.4, -1.25))
    page.mouse("mouseReleased", *place_in_plane(page, 0.4, -1.25))
    assert reading(page) == ("w A + βt = −0.50 + 0.50 = 0", "kill")
    assert address(page) == "#w=0.4&A=-1.25"
    assert curve != page.js("document.querySelector('#objective .klip').getAttribute('d')")
    page.mouse("mouseMoved", *place_in_plane(page, 1.0, 1.0))  # released: nothing moves
    assert address(page) == "#w=0.4&A=-1.25"


@needs_browser
def test_dragging_by_touch(page):
    page.size(390, 844, is_phone=True)
    page.open(PAGE)
    page.touch("touchStart", place_in_plane(page, 1.5, 1.0))
    page.touch("touchMove", place_in_plane(page, 0.5, 0.75))
    page.touch("touchEnd")
    assert address(page) == "#w=0.5&A=0.75"
    assert page.js("document.documentElement.scrollWidth") == 390


@needs_browser
def test_arrow_keys_and_epsilon(page):
    page.open(PAGE)
    page.js("byId('plane').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.press(key)
    assert address(page) == "#w=1.52&A=0.5"
    assert reading(page)[1] == "kill"
    page.js("byId('epsilon').focus()")
    for _ in range(4):
        page.press("ArrowRight")
    page.js("choose({ w: 1.38 })")
    assert address(page) == "#w=1.38&A=0.5&epsilon=0.4"
    assert reading(page)[1] == "in"  # the band is wider now


@needs_browser
def test_chosen_forms_are_drawn(page):
    page.open(PAGE, "show=klip&other=spo")
    curves = page.js("all('#objective .curve').map((curve) => curve.classList.item(1))")
    assert curves == ["klip", "other"]
    marks = page.js("all('#coefficient .mark').length")
    assert marks == 2
    assert "spo −2.25" in page.js("byId('coefficient').getAttribute('aria-label')")


# --- part 3: predict ---


@needs_browser
def test_six_cases(page):
    """Each case's truth by definition, told only after the reader's answer."""
    page.open(PAGE)
    for i, (advantage, w) in enumerate(itertools.product((1, -1), (0.6, 1.1, 1.5))):
        outside = abs(w - 1) > 0.2
        kills = outside and (w - 1) * advantage > 0
        name = "kill" if kills else "pass" if outside else "in"
        push = 0 if kills else advantage
        assert page.js(f"cases[{i}].w == {w} && cases[{i}].A == {advantage}")
        page.js(f"document.querySelector('[data-case=\"{i}\"]').click()")
        assert page.js("byId('answer').innerText") == ""
        page.js(f"document.querySelector('[name=set][value={name[0]}]').click()")
        page.js(f"document.querySelector('[name=push][value=\"{push}\"]').click()")
        page.js("document.querySelector('#question [type=submit]').click()")
        answer = page.js("byId('answer').innerText")
        assert answer.startswith("✓ The set is right. ✓ The gradient is right.")
        assert name in answer
    page.js("document.querySelector('[name=set][value=i]').click()")
    page.js("document.querySelector('#question [type=submit]').click()")
    assert page.js("byId('answer').innerText").startswith("✗ The set is another. ✓")


# --- part 4: one scalar ---


@needs_browser
def test_beta_t_cancels_the_killed_and_no_scalar_does(page):
    page.open(PAGE)
    cloud = page.js("data.cloud")
    plain = cloud["scalar"][0]
    assert cloud["betas"][0] == 0
    assert {*cloud["sets"]} == {"i", "k", "p"}
    for letter, before, after in zip(cloud["sets"], plain, cloud["betaT"], strict=True):
        assert after == ([0, 0] if letter == "k" else before)
    killed = cloud["sets"].count("k")
    for beta in cloud["betas"]:
        page.js(f"choose({{ beta: {beta} }})")
        text = page.js("byId('count').innerText")
        assert f"{killed} of {killed} by βt, 0 of {killed} by the scalar" in text
    bends = [
        [a - b for a, b in zip(x, y, strict=True)]
        for x, y in zip(plain, cloud["scalar"][4], strict=True)
    ]
    assert max(abs(bend[0] - bends[0][0]) for bend in bends) < 3e-4
    assert abs(bends[0][0]) > 0.1


# --- part 5: side by side ---


@needs_browser
def test_only_the_blocks_differ(page):
    page.open(PAGE, "part=5&left=phi&right=klip")
    pairs = page.js("all('#diff .differs').map((line) => line.textContent)")
    blocks = [markers.policy_loss(text_of(name)).splitlines() for name in ("phi", "klip")]
    sides = [pairs[::2], pairs[1::2]]  # "" where a line has no partner
    assert [[line for line in side if line] for side in sides] == blocks
    assert page.js("all('#diff mark').slice(0, 3).map((mark) => mark.textContent)") == [
        "phi",
        "(",
        "-",
    ]
    page.js("all('#diff .equal').forEach((button) => button.click())")
    for side, name in (("odd", "phi"), ("even", "klip")):
        cells = f"all('#diff .line:nth-child({side} of .line):not(.missing)')"
        lines = page.js(f"{cells}.map((line) => line.textContent.trimEnd())")
        assert "\n".join(lines) + "\n" == text_of(name)


@needs_browser
def test_scalar_script_has_regions_of_its_own(page):
    page.open(PAGE, "part=5&left=klip&right=kl_scalar")
    right = page.js("all('#diff .scalar.differs:not(.missing)').map((line) => line.textContent)")
    regions = markers.SCALAR_BETA.findall(text_of("kl_scalar"))
    assert "\n".join(right) + "\n" == "".join(regions)
    page.js("byId('swap').click()")
    assert address(page) == "#part=5&left=kl_scalar"  # right is klip, as it is by default


# --- the whole page ---


def assert_nothing_is_cut(page: Page) -> None:
    """The view fits the window, its lines fit the view, and all letters are large."""
    size = page.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [1280, 720], address(page)
    seen = shown("main .line, main p, main label, main td, main figcaption, main svg text")
    wide = f"{seen}.filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    sizes = f"{seen}.map((e) => parseFloat(getComputedStyle(e).fontSize))"
    assert page.js(wide) == 0, address(page)
    assert min(page.js(sizes)) >= 28, address(page)


@needs_browser
def test_projector_cuts_nothing(page):
    page.size(1280, 720)
    page.open(PAGE, "projector=1")
    for form in ("all", *VARIANTS, *RULES):
        page.js(f"choose({{ form: {form!r} }})")
        assert_nothing_is_cut(page)
    for left, right in itertools.combinations(VARIANTS, 2):
        page.js(f"choose({{ part: 5, left: {left!r}, right: {right!r} }})")
        assert_nothing_is_cut(page)
    for part in (2, 3, 4):
        page.js(f"choose({{ part: {part}, other: 'dppo' }})")
        assert_nothing_is_cut(page)


@needs_browser
def test_projector_keys(page):
    page.open(PAGE)
    page.press("p")
    assert page.js(f"{shown('main section')}.map((section) => section.id)") == ["part-1"]
    for key, part in (("PageDown", "2"), ("PageDown", "3"), ("PageUp", "2")):
        page.press(key)
        assert page.js(f"{shown('main section')}.map((section) => section.id)") == [f"part-{part}"]
    page.press("Escape")
    assert page.js(f"{shown('main section')}.length") == 5
    assert address(page) == "#part=2"


@needs_browser
def test_address_restores_the_view(page):
    state = "part=4&form=spo&w=0.7&A=-0.5&epsilon=0.3&show=clip&other=spo&case=4&beta=2.5&right=phi"
    page.open(PAGE, state)
    page.js("choose({})")
    assert address(page) == f"#{state}"
    page.open(PAGE, "form=nonsense&w=abc&part=9&left=%3Cb%3E&theme=pink&epsilon=99")
    assert page.js("[state.form, state.w, state.part, state.left, state.theme]") == [
        "all",
        "1.5",
        "1",
        "clip",
        "",
    ]
    assert page.js("byId('epsilon').nextElementSibling.textContent") == "0.40"  # the nearest


@needs_browser
def test_dark_mode(page):
    background = "getComputedStyle(document.body).backgroundColor"
    page.open(PAGE)
    light = page.js(background)
    page.media(scheme="dark")
    dark = page.js(background)
    assert light != dark
    page.press("d")
    assert page.js(background) == light
    assert address(page) == "#theme=light"


@needs_browser
def test_print_has_all_blocks(page):
    page.open(PAGE, "form=klip")
    page.media("print")
    assert page.js(f"{shown('#aligned .form')}.length") == 4
    assert page.js(f"{shown('nav, button, input, select')}.length") == 0
    assert page.js(f"{shown('svg')}.length") == 6


@needs_browser
def test_readable_without_javascript(page):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(PAGE)
        visible = "Array.from(document.querySelectorAll(SELECTOR)).filter((e) => e.checkVisibility()).length"
        assert page.js(visible.replace("SELECTOR", "'#aligned .form'")) == 4
        assert page.js(visible.replace("SELECTOR", "'noscript svg'")) == 1
        assert page.js(visible.replace("SELECTOR", "'button, select, input, .needs-js'")) == 0
        blocks = "document.querySelectorAll('#all-blocks .block').length"
        assert page.js(blocks) == len(VARIANTS) + len(RULES)
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


@needs_browser
def test_controls_have_names(page):
    page.open(PAGE)
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "checkbox", "radio", "combobox", "image", "application"}
    found = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(found) > 40
    assert [node for node in found if not node["name"]["value"].strip()] == []

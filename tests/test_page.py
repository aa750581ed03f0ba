"""The page to teach from, built afresh, and used in a real browser as a reader would."""

import itertools
import json
import math

import build
import draw
import evidence
import insert
import markers
import pytest
import record
import torch
from browser import CHROMIUM, Page, chromium
from conftest import FORMS, ROOT, VARIANTS, script, start

PAGE = ROOT / "docs" / "index.html"
RULES = [*insert.names(), *insert.exercises()]
REPLAY = json.loads((ROOT / "page" / "replay.json").read_text())


def text_of(name: str) -> str:
    """The script of that name."""
    return script(name).read_text() if name in VARIANTS else insert.compose(name)


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium")
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page):
    """The browser at 1280 x 720; afterwards it must have complained of nothing and asked no one."""
    browser.errors.clear()
    browser.size(1280, 720)
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.open(PAGE)
    yield browser
    assert browser.errors == []
    assert set(browser.requests) <= {"about:blank", PAGE.as_uri()}


def shown(selector: str) -> str:
    """JavaScript: the elements of that selector that can be seen."""
    return f"all({selector!r}).filter((e) => e.checkVisibility())"


def address(page: Page) -> str:
    """The state in the address, which is written a little later than it is chosen."""
    return page.js("writeAddress(), location.hash")


def is_in_view(page: Page, selector: str) -> bool:
    """Whether the whole of an element is in the window, below the tabs."""
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    return page.js(f"(({{ top, bottom }}) => top >= 40 && bottom <= innerHeight)({box})")


# --- the files ---


@pytest.mark.slow
def test_page_is_not_stale():
    """Mend with: python page/build.py"""
    for name, text in build.build().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_recording_is_repeated(tmp_path):
    """Mend with: python page/record.py, then python page/build.py"""
    ran = start(["page/record.py", "--small", tmp_path / "small.json"], ROOT)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "small.json").read_text()) == REPLAY["small"]


def test_learning_curves_are_the_table(tmp_path):
    path = tmp_path / "curves.csv"
    assert evidence.learning_curves(path) == ""  # before the benchmark has run
    lines = ["env_id,arm,seed,step,return", "Hopper-v4,clip,0,750,"]  # there no episode ended
    for seed, run in enumerate(["clip,{},{},4", "clip,{},{},8", "kl_fixed,{},{},3", "spo,{},{},1"]):
        lines += ["Hopper-v4," + run.format(seed, step) for step in (500, 1000)]
    lines += ["Hopper-v4,clip,11,500,9"]  # of the tuning
    path.write_text("\n".join(lines))
    curves = evidence.read_curves(path)["Hopper-v4"]
    found = {arm: [sorted(values) for _, values in points] for arm, points in curves.items()}
    assert found == {"clip": [[4, 8], [4, 8]], "kl_fixed": [[3], [3]]}
    assert "min = Φ = β per sample ends at 6; one β = 1 ends at 3" in evidence.learning_curves(path)


# --- the parts of the page ---


def test_play_and_slider(page):
    tally = "all('.tally').map((p) => p.querySelector('b').textContent)"
    assert page.js(tally) == ["0 %"] * 3
    assert all(is_in_view(page, part) for part in (".replays", ".player", "#hero-sum", "#play"))
    still = page.js("document.querySelector('#replay-none .dots.in').getAttribute('d')")
    page.js("byId('play').click()")
    page.wait(lambda: page.js("shownEpoch") > 0.3)
    moved = page.js("document.querySelector('#replay-none .dots.in').getAttribute('d')")
    assert moved != still
    page.js("byId('play').click()")  # pause
    page.js("byId('epoch').focus(), choose({ epoch: 9 })")
    page.press("ArrowRight")
    page.wait(lambda: page.js("shownEpoch") == 10)
    for arm, text in zip(("klip", "kl_scalar", "none"), page.js(tally), strict=True):
        assert text == f"{100 * REPLAY['arms'][arm]['kill'][-1]:.0f} %"
    assert address(page) == "#epoch=10"


def test_drawn_sets_are_those_recorded(page):
    """The drawn samples are a fair share of all, whose share in the kill set the record has."""
    for arm in ("klip", "kl_scalar", "none"):
        sets = f"samplesOf.{arm}[10].map((x, i) => setOfRecorded(x, advantagesDrawn[i]))"
        letters = page.js(sets)
        assert len(letters) == record.NUM_DRAWN
        share = letters.count("k") / len(letters)
        assert share == pytest.approx(REPLAY["arms"][arm]["kill"][-1], abs=0.05)


def test_shown_script_is_the_file(page):
    for name in (*VARIANTS, *RULES):
        page.js(f"choose({{ form: {name!r} }})")
        lines = page.js("shownLines().map((line) => line.textContent.trimEnd())")
        assert "\n".join(lines) + "\n" == text_of(name)
        assert page.js("shownLines().at(-1).dataset.number") == str(len(lines))


def test_keys_exchange_the_block_in_view(page):
    block = "shownLines().filter((line) => line.closest('.block')).map((line) => line.textContent)"
    for key, name in zip("mHbs", VARIANTS, strict=True):  # H: with Caps Lock
        page.press(key)
        assert "\n".join(page.js(block)) + "\n" == markers.policy_loss(text_of(name))
        assert is_in_view(page, "#slot")
        assert address(page) == f"#part=2&form={name}"
    page.press("r")
    assert page.js("state.form") == insert.names()[0]
    page.press("a")
    assert page.js(f"{shown('#aligned .form')}.length") == 4
    assert page.js(f"{shown('#aligned .comment')}.length") == 0
    assert is_in_view(page, "#slot")
    page.press("b")
    page.press("f")
    lines = page.js(f"{shown('#listing .line')}.length")
    assert lines == len(text_of("klip").splitlines())


def one_sample(module, w: float, advantage: float, epsilon: float) -> dict[str, float]:
    """Objective and coefficient of a sample by a script's ppo_loss; its log pi_old is -1."""
    one = torch.ones(1, dtype=torch.float64)
    logprob = (one * (math.log(w) - 1)).requires_grad_()
    loss, _ = draw.sample_loss(module, epsilon, logprob, -one, one * advantage)
    (slope,) = torch.autograd.grad(loss, logprob)
    return {"objective": -loss.item(), "coefficient": -slope.item()}


@pytest.mark.parametrize("name", [*FORMS, "spo", "rollback", "dpo"])
def test_numbers_are_the_scripts(page, name):
    module = draw.load(text_of(name))
    for w, advantage, epsilon in itertools.product((0.3, 0.94, 1.5), (-1.25, 0.55), (0.1, 0.35)):
        page.js(f"choose({{ w: {w}, A: {advantage}, epsilon: {epsilon} }})")
        for quantity, value in one_sample(module, w, advantage, epsilon).items():
            on_page = page.js(f"valueOf({name!r}, {quantity!r}, samplePlaces())")
            assert on_page == pytest.approx(value, abs=2e-4)


def test_proof_is_lit_by_the_sample(page):
    page.open(PAGE, "part=3&w=1.5")
    lit = "all('#proof b').map((b) => b.innerText), all('#proof b').map((b) => b.className)"
    killed = ["−log 1.50 = −0.405", "−w A = −1.50", "(1.50 − 1.50) ∇log π = 0"]
    assert page.js(f"[{lit}].flat()") == [*killed, "kill", "kill", "kill"]
    page.js("choose({ A: -0.7 })")
    passed = ["−log 1.50 = −0.405", "0", "(−1.05 − 0) ∇log π = −1.05 ∇log π"]
    assert page.js(f"[{lit}].flat()") == [*passed, "pass", "pass", "pass"]
    assert all(is_in_view(page, part) for part in ("#plane", "#coefficient", "#proof", "#w"))


def place_in(page: Page, chart: str, x: float, y: float) -> tuple[float, float]:
    """Pixels of a point of a chart."""
    point = f"new DOMPoint({chart}.toX({x}), {chart}.toY({y}))"
    pixels = f"{point}.matrixTransform({chart}.svg.getScreenCTM())"
    place = page.js(f"(({{ x, y }}) => ({{ x, y }}))({pixels})")
    return place["x"], place["y"]


def test_dragging_by_mouse(page):
    page.open(PAGE, "part=3")
    page.js("history.replaceState = () => { throw new Error('too often') }")  # as Safari does
    page.mouse("mousePressed", *place_in(page, "planeFrame", 1.5, 1.0))
    page.mouse("mouseMoved", *place_in(page, "planeFrame", 1.5, -0.55))
    name = page.js("byId('why').firstChild.innerText")
    assert (page.js("[state.w, state.A]"), name) == (["1.5", "-0.55"], "pass")
    page.mouse("mouseMoved", *place_in(page, "planeFrame", 0.4, -1.25))
    page.mouse("mouseReleased", *place_in(page, "planeFrame", 0.4, -1.25))
    page.mouse("mouseMoved", *place_in(page, "planeFrame", 1.0, 1.0))  # released: nothing moves
    address(page)
    assert page.js("[state.w, state.A]") == ["0.4", "-1.25"]


def test_moving_the_cross_by_key(page):
    page.open(PAGE, "w=0.6&A=0.75")
    page.js("byId('replay-klip').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    said = "w = 0.62, A = 0.70: w A + βt = 0.434 − 0 = 0.434 pass"
    assert page.js("byId('hero-sum').innerText") == said


def test_quiz_of_one_tap(page):
    assert sorted(page.js("quiz.order")) == [0, 1, 2, 3, 4, 5]
    for place in range(6):
        sample = page.js("cases[quiz.order[quiz.place]]")
        outside = abs(sample["w"] - 1) > 0.2
        kills = outside and (sample["w"] - 1) * sample["A"] > 0
        letter = "k" if kills else "p" if outside else "i"
        if place == 0:  # a wrong answer
            letter = "i" if kills else "k"
        page.js(f"document.querySelector('[data-answer={letter}]').click()")
        assert page.js("byId('answer').innerText").startswith("✓" if place else "✗")
        score = f"{place} of {place + 1} right, {5 - place} to go"
        assert page.js("byId('score').innerText") == score
        page.js("byId('next-case').click()")
    assert page.js("byId('score').innerText") == "0 of 0 right, 6 to go"


def test_beta_t_cancels_the_killed_and_no_scalar_does(page):
    cloud = page.js("data.cloud")
    plain = cloud["scalar"][0]
    assert {*cloud["sets"]} == {"i", "k", "p"}
    for letter, before, after in zip(cloud["sets"], plain, cloud["betaT"], strict=True):
        assert after == ([0, 0] if letter == "k" else before)
    killed = cloud["sets"].count("k")
    for beta in cloud["betas"]:
        page.js(f"choose({{ beta: {beta} }})")
        text = page.js("byId('count').innerText")
        assert f"{killed} of {killed} by βt, 0 of {killed} by the scalar" in text
    assert page.js("all('#part-5 .mean').map((mark) => mark.tagName)") == ["path", "circle", "path"]


def test_only_the_blocks_differ(page):
    page.open(PAGE, "part=7&left=phi&right=klip")
    pairs = page.js("all('#diff .differs').map((line) => line.textContent)")
    blocks = [markers.policy_loss(text_of(name)).splitlines() for name in ("phi", "klip")]
    sides = [pairs[::2], pairs[1::2]]  # "" where a line has no partner
    assert [[line for line in side if line] for side in sides] == blocks
    page.js("all('#diff .equal').forEach((button) => button.click())")
    for side, name in (("odd", "phi"), ("even", "klip")):
        cells = f"all('#diff .line:nth-child({side} of .line):not(.missing)')"
        lines = page.js(f"{cells}.map((line) => line.textContent.trimEnd())")
        assert "\n".join(lines) + "\n" == text_of(name)
    page.js("choose({ left: 'klip' })")  # against itself
    assert page.js("all('#diff .differs').length") == 0


# --- the whole page ---


def assert_nothing_is_cut(page: Page, width: int, height: int) -> None:
    """The view fits the window, its lines fit the view, and all letters are large."""
    size = page.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [width, height], address(page)
    seen = shown("main .line, main p, main li, main label, main td, main figcaption, main svg text")
    wide = f"{seen}.filter((e) => e.scrollWidth > e.clientWidth + 1 && !e.ownerSVGElement).length"
    scale = "(e.ownerSVGElement ? e.getScreenCTM().a : 1)"
    sizes = f"{seen}.map((e) => parseFloat(getComputedStyle(e).fontSize) * {scale})"
    assert page.js(wide) == 0, address(page)
    assert min(page.js(sizes), default=28) >= 0.99 * 28 * min(1, width / 1280), address(page)


@pytest.mark.parametrize("width, height", [(1280, 720), (1024, 768)])
def test_projector_cuts_nothing(page, width, height):
    page.size(width, height)
    page.open(PAGE, "projector=1&epoch=10")
    for part in (1, 3, 4, 5, 6):
        page.js(f"choose({{ part: {part}, other: 'dppo' }})")
        assert_nothing_is_cut(page, width, height)
    page.js("choose({ part: 2 })")
    for form in ("all", *VARIANTS, *(RULES if width == 1280 else ())):
        page.js(f"choose({{ form: {form!r} }})")
        assert_nothing_is_cut(page, width, height)
    for left, right in itertools.combinations(VARIANTS, 2):
        page.js(f"choose({{ part: 7, left: {left!r}, right: {right!r} }})")
        assert_nothing_is_cut(page, width, height)


def test_projector_keys(page):
    page.press("p")
    turns = (("PageDown", 2), ("ArrowRight", 3), ("PageUp", 2), ("ArrowLeft", 1), ("5", 5))
    for key, part in turns:
        page.press(key)
        assert page.js(f"{shown('main section')}.map((section) => section.id)") == [f"part-{part}"]
        current = "all('[data-part][aria-current=true]').map((button) => button.dataset.part)"
        assert page.js(current) == [str(part)]
    assert page.js(f"{shown('#part-5 .key-line, #part-5 .in')}.length") > 1
    page.press("1")
    page.press(" ")
    page.wait(lambda: page.js("shownEpoch") > 0.1)
    page.press("Escape")
    assert page.js(f"{shown('main section')}.length") == 7


def test_a_phone_shows_all_and_leaves_the_projector(page):
    page.size(320, 640, is_phone=True)
    for state in ("", "projector=1&part=3", "projector=1&part=6"):
        page.open(PAGE, state)
        assert page.js("document.documentElement.scrollWidth") <= 320
    page.js("byId('projector').click()")
    assert page.js("state.projector") == ""


def test_address_restores_the_view(page):
    state = "part=5&epoch=4&form=spo&w=0.7&A=-0.55&epsilon=0.3&show=clip&beta=2.5&right=phi"
    page.open(PAGE, state)
    page.js("choose({})")
    assert address(page) == f"#{state}"
    page.open(PAGE, "form=nonsense&w=abc&part=9&left=%3Cb%3E&theme=pink&epoch=11&epsilon=99")
    chosen = page.js("[state.form, state.w, state.part, state.left, state.theme, state.epoch]")
    assert chosen == ["all", "1.5", "1", "clip", "", "0"]
    assert page.js("byId('epsilon').nextElementSibling.textContent") == "0.40"  # the nearest


def test_print(page):
    page.press("b")
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.js(f"{shown('#aligned .form')}.length") == 4
    assert page.js(f"{shown('nav, button, input, select')}.length") == 0
    assert page.js(f"{shown('main figure svg')}.length") == 9  # replay, sample, scalar

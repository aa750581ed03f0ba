"""Build the page to teach from, docs/index.html, and docs/slide.svg.

    python page/build.py [FOLDER]

All code on the page is that of the four scripts and of rules/, all numbers are from their
ppo_loss. page/source holds the page's words, style and JavaScript.
"""

import html
import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent
ROOT = PAGE.parent
DOCS = ROOT / "docs"
SOURCE = PAGE / "source"
sys.path += [str(ROOT / folder) for folder in ("rules", "tools")]

import curves
import evidence
import insert
import listing
import markers
import slide
from draw import describe, load, output_folder

FORMS = {"clip": "min", "phi": "Φ", "klip": "β<sub>t</sub>", "kl_scalar": "scalar β"}
KEYS = {"clip": "m", "phi": "h", "klip": "b", "kl_scalar": "s"}
JAVASCRIPT = (
    "state",
    "chart",
    "replay",
    "script",
    "sample",
    "predict",
    "scalar",
    "compare",
    "main",
)


def script_names() -> list[str]:
    """The four scripts, then those with a block of rules/."""
    return [*FORMS, *insert.names(), *insert.exercises()]


def script_text(name: str) -> str:
    """A script's whole text: one of the four, or KLip's with another block."""
    if name in FORMS:
        return (ROOT / f"ppo_{name}_continuous.py").read_text(encoding="utf-8")
    return insert.compose(name)


def block_rows(text: str) -> range:
    """The rows of a script, counted from 0, between the markers of its policy loss."""
    block = markers.policy_loss(text)
    start = text[: text.index(block)].count("\n")
    return range(start, start + block.count("\n"))


def scalar_rows(text: str) -> set[int]:
    """The rows of the scalar script that no other has, its policy loss aside."""
    rows = set()
    for region in markers.SCALAR_BETA.finditer(text):
        first = text[: region.start()].count("\n")
        rows.update(range(first, first + region.group().count("\n")))
    return rows


def file_parts() -> dict[str, str]:
    """The scalar script, which contains all others but their policy losses, cut into its parts:
    above, head and tail of ppo_loss, below."""
    text = script_text("kl_scalar")
    lines = listing.code_lines(text)
    for row in scalar_rows(text):
        lines[row] = lines[row].replace('class="line"', 'class="line only-scalar"')
    block = block_rows(text)
    loss = text[: text.index("\ndef ppo_loss(")].count("\n") + 1
    after = re.compile(r"\n\n\n").search(text, text.index("# --- end of policy loss ---"))
    end = text[: after.start()].count("\n") + 1
    return {
        "ABOVE": "".join(lines[:loss]),
        "HEAD": "".join(lines[loss : block.start]),
        "TAIL": "".join(lines[block.stop : end]),
        "BELOW": "".join(lines[end:]),
    }


def block_html(name: str) -> str:
    """The policy loss of a script, with its name for JavaScript to find."""
    lines = listing.code_lines(markers.policy_loss(script_text(name)))
    return f'<div class="block" data-name="{name}">{"".join(lines)}</div>\n'


def aligned_blocks() -> dict[str, list[str]]:
    """The four policy losses, corresponding tokens in columns."""
    blocks = {name: markers.policy_loss(script_text(name)).splitlines() for name in FORMS}
    objectives = listing.align([lines[-1] for lines in blocks.values()])
    for lines, objective in zip(blocks.values(), objectives, strict=True):
        lines[-1] = objective
    penalties = listing.align([blocks["phi"][-2], blocks["klip"][-2]])
    blocks["phi"][-2] = penalties[0]
    blocks["klip"][-2] = penalties[1]
    return blocks


def without_comments(block: list[str]) -> list[str]:
    """The lines of code of a policy loss, not indented."""
    lines = [line.strip() for line in block]
    return [line for line in lines if not line.startswith("#")]


def aligned_html() -> str:
    """The four policy losses, stacked, without their comments."""
    parts = []
    for name, lines in aligned_blocks().items():
        divs = "".join(listing.code_lines("\n".join(without_comments(lines))))
        title = f"<b>{FORMS[name]}</b> ppo_{name}_continuous.py"
        parts.append(
            f'<div class="form"><p class="form-name"><kbd>{KEYS[name]}</kbd> {title}</p>{divs}'
        )
        parts.append("</div>\n")
    return "".join(parts)


def option(name: str) -> str:
    """A rule as an option of a select."""
    title, formula, _ = describe(name)
    return f'<option value="{name}">{html.escape(f"{title}: {formula}")}</option>\n'


def rule_options() -> str:
    """All rules, grouped."""
    rules = "".join(option(name) for name in insert.names())
    exercises = "".join(option(name) for name in insert.exercises())
    return (
        f'<optgroup label="rules">\n{rules}</optgroup>\n'
        f'<optgroup label="exercises: what breaks">\n{exercises}</optgroup>\n'
    )


def form_options() -> str:
    """The four scripts as options."""
    names = {name: re.sub("<sub>(.*)</sub>", r"_\1", title) for name, title in FORMS.items()}
    return "".join(
        f'<option value="{name}">ppo_{name}_continuous.py ({title})</option>\n'
        for name, title in names.items()
    )


def numbers() -> dict:
    """The page's data."""
    scripts = {name: load(script_text(name)) for name in script_names()}
    scalar = scripts.pop("kl_scalar")  # its penalty is no multiple of grad log pi
    replay = json.loads((PAGE / "replay.json").read_text(encoding="utf-8"))
    del replay["small"]  # for a test
    cloud = curves.cloud(scripts["klip"], scalar)
    return curves.tables(scripts) | {"cloud": cloud, "replay": replay}


def fill(template: str, parts: dict[str, str]) -> str:
    """The template with every {{NAME}} replaced; KeyError if one has no part."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def build() -> dict[str, str]:
    """The text of every file that is built, by name."""
    data = numbers()
    blocks = aligned_blocks()
    beta_t = 'β<tspan font-size="18" dy="5">t</tspan>'
    titles = {"clip": "min", "phi": "Φ", "klip": beta_t}
    forms = [(title, without_comments(blocks[name])) for name, title in titles.items()]
    svg = slide.draw(forms, data)
    javascript = [(SOURCE / f"{name}.js").read_text(encoding="utf-8") for name in JAVASCRIPT]
    checks = json.loads((PAGE / "hashes.json").read_text(encoding="utf-8"))
    parts = file_parts() | {
        "STYLE": (SOURCE / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join(javascript),
        "DATA": json.dumps(data, separators=(",", ":")),
        "ALIGNED": aligned_html(),
        "BLOCKS": "".join(block_html(name) for name in script_names()),
        "FORM_OPTIONS": form_options(),
        "RULE_OPTIONS": rule_options(),
        "SLIDE": svg,
        "TERMINALS": evidence.terminals(checks),
        "LEARNING_CURVES": evidence.learning_curves(ROOT / "benchmark/results/curves.csv"),
    }
    page = fill((SOURCE / "page.html").read_text(encoding="utf-8"), parts)
    return {"index.html": page, "slide.svg": svg}


if __name__ == "__main__":
    folder = output_folder("Write index.html and slide.svg into FOLDER.", DOCS)
    for name, text in build().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(text.encode()):,} bytes")

"""The arms of a comparison: what is trained, by which script and with which of its settings.

An arm is written NAME or NAME=VALUE. NAME is one of FAMILIES, a rule of rules/ or a block of
rules/mechanism, a kl_* block also with _adaptive behind it. VALUE is epsilon of all but the arms of
the scalar script: beta of a fixed one, the target of the KL of an adaptive one. A rule in which
epsilon has no part takes no VALUE.
"""

import ast
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "rules"))
import insert

FORMS = ("clip", "phi", "klip")  # one gradient, and so one run, written in three ways
PAPER = (*FORMS, "kl_fixed", "kl_adaptive")  # the arms of the paper's comparison
FROM_EPSILON = ("clip_coef", "clipped_ratio", "kill_set", "pass_set")  # names that a rule may use


@dataclass(frozen=True)
class Family:
    """The arms of one name: a script, and the one setting in which they differ."""

    script: str
    setting: str  # of the script
    default: float  # an arm with this value is written without it
    label: str  # of the arm with the default
    label_of_value: str  # of the others
    most: float = float("inf")  # values are above 0 and below this
    fixed: tuple[tuple[str, float | None], ...] = ()  # other settings that make the arm what it is


def clipped(name: str, label: str) -> Family:
    """A family whose value is epsilon."""
    script = f"ppo_{name}_continuous.py"
    return Family(script, "clip_coef", 0.2, label, f"{label}, ε = {{}}", most=1.0)


def fixed(name: str, label: str) -> Family:
    """A family whose value is the one beta."""
    script = f"ppo_{name}_continuous.py"
    none = (("kl_target", None),)
    return Family(script, "kl_coef", 1.0, f"{label} β = 1", f"{label} β = {{}}", fixed=none)


def adaptive(name: str, label: str) -> Family:
    """A family whose value is the target of the adaptive beta."""
    script = f"ppo_{name}_continuous.py"
    first = (("kl_coef", 1.0),)
    return Family(script, "kl_target", 0.02, label, f"{label}, target {{}}", fixed=first)


FAMILIES = {
    "clip": clipped("clip", "PPO-Clip"),
    "phi": clipped("phi", "Φ"),
    "klip": clipped("klip", "β_t (KLip)"),
    "kl_fixed": fixed("kl_scalar", "fixed"),
    "kl_adaptive": adaptive("kl_scalar", "adaptive β"),
}


@dataclass(frozen=True)
class Arm:
    """One arm. `settings` are what its runs must have in their result.json."""

    name: str  # the one way to write it: clip rather than clip=0.20, kl_fixed=3 rather than =3.0
    base: str  # the name without the value
    value: float
    label: str  # in tables and figures
    script: str  # its file name
    flags: tuple[str, ...]
    settings: dict[str, float | None]

    @property
    def block(self) -> str | None:
        """The name of the block in rules/ that its script is composed with."""
        return None if self.base in FAMILIES else self.base.removesuffix("_adaptive")

    def source(self) -> str:
        """The text of its script; ValueError if it cannot be composed."""
        if self.block:
            return insert.compose(self.block)
        return (ROOT / self.script).read_text(encoding="utf-8")

    @property
    def rank(self) -> tuple:
        """Sorts the paper's arms first, then the others by name, and each by its value."""
        place = PAPER.index(self.base) if self.base in PAPER else len(PAPER)
        return (place, self.base, self.value)


def family(base: str) -> Family:
    """What the arms called `base` share; ValueError if there are none."""
    block = base.removesuffix("_adaptive")
    if base in FAMILIES:
        return FAMILIES[base]
    if base in insert.names() or base in insert.mechanism() and base.startswith("clip_"):
        return clipped(base, base)
    if block in insert.mechanism() and block.startswith("kl_"):
        return (fixed if base == block else adaptive)(block, base)
    known = ", ".join([*FAMILIES, *insert.names(), *insert.mechanism()])
    raise ValueError(f"{base or 'an empty name'} is no arm; there are {known}")


def has_value(base: str) -> bool:
    """Whether an arm of that name may have a value, which does something."""
    rule = base in insert.names()
    return not rule or any(name in insert.block(base) for name in FROM_EPSILON)


def shortest(value: float) -> str:
    """A number as a person writes it: 3 rather than 3.0."""
    return repr(value).removesuffix(".0")


def parse(text: str) -> Arm:
    """The arm written as `text`; ValueError, in one line, if it is none."""
    base, separator, number = text.partition("=")
    kind = family(base)
    value = kind.default
    if separator:
        if not has_value(base):
            raise ValueError(f"{text} has a value, but epsilon has no part in {base}")
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"{text} needs a number after the =") from None
    if not 0 < value < kind.most:
        raise ValueError(f"{text} is outside (0, {shortest(kind.most)})")
    given = shortest(value)
    is_default = value == kind.default
    return Arm(
        name=base if is_default else f"{base}={given}",
        base=base,
        value=value,
        label=kind.label if is_default else kind.label_of_value.format(given),
        script=kind.script,
        flags=(f"--{kind.setting.replace('_', '-')}", given),
        settings={kind.setting: value} | dict(kind.fixed),
    )


def code_hash(source: str) -> str:
    """SHA-256, 16 digits of it, of a script's code without its comments and docstrings.

    The same under every version of Python, which ast.dump is not: later ones have more empty fields.
    """

    def code(node: object) -> object:
        if isinstance(node, list):
            return [code(part) for part in node if not is_text(part)]
        if isinstance(node, ast.AST):
            fields = [(name, code(x)) for name, x in ast.iter_fields(node) if x not in (None, [])]
            return (type(node).__name__, fields)
        return node

    def is_text(node: object) -> bool:
        text = isinstance(node, ast.Expr) and getattr(node.value, "value", None)
        return isinstance(text, str)

    return hashlib.sha256(repr(code(ast.parse(source))).encode()).hexdigest()[:16]

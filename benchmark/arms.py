"""The arms of a comparison: what is trained, by which script and with which of its settings.

An arm is written NAME or NAME=VALUE. NAME is one of PAPER or FORMS, a rule of rules/ or a block of
rules/mechanism, a kl_* block also with _adaptive behind it. VALUE is epsilon of all but the arms of
the scalar script: beta of a fixed one, the target of the KL of an adaptive one. A rule in which
epsilon has no part takes no VALUE.
"""

import ast
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "rules"))
import insert

FORMS = ("clip", "phi", "klip")  # one gradient, and so one run, written in three ways
PAPER = (*FORMS, "kl_fixed", "kl_adaptive")  # the arms of the paper's comparison
LABELS = {"clip": "PPO-Clip", "phi": "Φ", "klip": "β_t (KLip)"}
LABELS |= {"kl_fixed": "fixed", "kl_adaptive": "adaptive β"}
FROM_EPSILON = ("clip_coef", "clipped_ratio", "kill_set", "pass_set")  # names that a rule may use


@dataclass(frozen=True)
class Kind:
    """What the number of an arm sets."""

    setting: str  # of the script
    default: float  # an arm with this value is written without it
    label: str  # of the value
    most: float = float("inf")  # values are above 0 and below this
    fixed: dict[str, float | None] = field(default_factory=dict)  # the arm's other settings


EPSILON = Kind("clip_coef", 0.2, ", ε = {}", most=1)
BETA = Kind("kl_coef", 1.0, " β = {}", fixed={"kl_target": None})
TARGET = Kind("kl_target", 0.02, ", target {}", fixed={"kl_coef": 1.0})


@dataclass(frozen=True)
class Arm:
    """One arm. `settings` are what its runs must have in their result.json."""

    name: str  # the one way to write it: clip rather than clip=0.20, kl_fixed=3 rather than =3.0
    base: str  # the name without the value
    value: float
    label: str  # in tables and figures
    script: str  # its file name
    flags: tuple[str, str]
    settings: dict[str, float | None]

    @property
    def block(self) -> str | None:
        """The name of the block in rules/ that its script is composed with."""
        return None if self.base in PAPER else self.base.removesuffix("_adaptive")

    def source(self) -> str:
        """The text of its script; ValueError if it cannot be composed."""
        if self.block:
            return insert.compose(self.block)
        return (ROOT / self.script).read_text(encoding="utf-8")


def names() -> dict[str, tuple[Kind, str]]:
    """Every NAME, with what its VALUE sets and the middle part of its script's file name."""
    found = {name: (EPSILON, name) for name in [*FORMS, *insert.names()]}
    found |= {"kl_fixed": (BETA, "kl_scalar"), "kl_adaptive": (TARGET, "kl_scalar")}
    for block in insert.mechanism():
        if block.startswith("clip_"):
            found[block] = (EPSILON, block)
        else:
            found[block] = (BETA, block)
            found[f"{block}_adaptive"] = (TARGET, block)
    return found


def has_value(base: str) -> bool:
    """Whether a VALUE would do something in an arm of that name."""
    return base not in insert.names() or any(name in insert.block(base) for name in FROM_EPSILON)


def parse(text: str) -> Arm:
    """The arm written as `text`; ValueError, in one line, if it is none."""
    base, separator, number = text.partition("=")
    known = names()
    if base not in known:
        raise ValueError(f"{base or 'an empty name'} is no arm; there are {', '.join(known)}")
    if separator and not has_value(base):
        raise ValueError(f"{text} has a value, but epsilon has no part in {base}")
    kind, script = known[base]
    try:
        value = float(number) if separator else kind.default
    except ValueError:
        raise ValueError(f"{text} needs a number after the =") from None
    if not 0 < value < kind.most:
        raise ValueError(f"{text} is outside (0, {kind.most})")
    given = repr(value).removesuffix(".0")  # 3 rather than 3.0
    is_default = value == kind.default
    label = LABELS.get(base, base)
    if not is_default or kind is BETA:
        label += kind.label.format(given)
    return Arm(
        name=base if is_default else f"{base}={given}",
        base=base,
        value=value,
        label=label,
        script=f"ppo_{script}_continuous.py",
        flags=(f"--{kind.setting.replace('_', '-')}", given),
        settings={kind.setting: value, **kind.fixed},
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

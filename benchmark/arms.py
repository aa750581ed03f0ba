"""The arms of a comparison: what is trained, by which script and with which of its settings.

An arm is written NAME or NAME=VALUE. NAME is one of FAMILIES or a rule in shapes/rules; VALUE is
epsilon for all but kl_fixed (beta) and kl_adaptive (the target of its KL). A rule in which epsilon
has no part takes no VALUE.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "shapes"))
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


SCALAR = "ppo_kl_scalar_continuous.py"
FAMILIES = {
    "clip": clipped("clip", "PPO-Clip"),
    "phi": clipped("phi", "Φ"),
    "klip": clipped("klip", "β_t (KLip)"),
    "kl_fixed": Family(
        SCALAR, "kl_coef", 1.0, "fixed β = 1", "fixed β = {}", fixed=(("kl_target", None),)
    ),
    "kl_adaptive": Family(
        SCALAR, "kl_target", 0.02, "adaptive β", "adaptive β, target {}", fixed=(("kl_coef", 1.0),)
    ),
}


@dataclass(frozen=True)
class Arm:
    """One arm. `settings` are what its runs must have in their result.json."""

    name: str  # the one way to write it: clip rather than clip=0.20, kl_fixed=3 rather than =3.0
    base: str  # the name without the value
    value: float
    label: str  # in tables and figures
    script: str  # of the repository; a shape's is composed into the folder of the runs
    flags: list[str]
    settings: dict[str, float | None]

    @property
    def is_shape(self) -> bool:
        """Whether its script has to be composed from shapes/rules first."""
        return self.base not in FAMILIES

    def source(self) -> str:
        """The text of its script."""
        if self.is_shape:
            return insert.compose(self.base)
        return (ROOT / self.script).read_text(encoding="utf-8")

    @property
    def rank(self) -> tuple:
        """Sorts the paper's arms first, then the shapes by name, and each by its value."""
        place = len(PAPER) if self.is_shape else PAPER.index(self.base)
        return (place, self.base, self.value)


def family(base: str) -> Family:
    """What the arms called `base` share; raises ValueError if there are none."""
    if base in FAMILIES:
        return FAMILIES[base]
    if base in insert.names():
        return clipped(base, base)
    known = ", ".join([*FAMILIES, *insert.names()])
    raise ValueError(f"{base or 'an empty name'} is no arm; there are {known}")


def has_value(base: str) -> bool:
    """Whether an arm of that name may have a value, which does something."""
    return base in FAMILIES or any(name in insert.block(base) for name in FROM_EPSILON)


def shortest(value: float) -> str:
    """A number as a person writes it: 3 rather than 3.0."""
    return repr(value).removesuffix(".0")


def parse(text: str) -> Arm:
    """The arm written as `text`; raises ValueError, in one line, if it is none."""
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
        flags=[f"--{kind.setting.replace('_', '-')}", given],
        settings={kind.setting: value} | dict(kind.fixed),
    )

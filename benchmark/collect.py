"""Finished runs, read from run folders and from the CSV files of earlier reports, as one list.

returns.csv has a line per run. curves.csv has some 122 points of each run: means over a few
iterations of what its event file holds. failed.csv, if there is one, has a line per run that ended
without a result, such as one whose weights became NaN.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import arms
import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

ENVS = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")  # the paper's
POINTS = 122  # in a curve, as in the paper's figures
EPISODIC = ("charts/episodic_return", "charts/episodic_length")  # only where an episode ended
LOGGED = (
    "losses/kl",
    "losses/approx_kl",
    "losses/entropy",
    "partition/kill",
    "partition/pass",
    "charts/SPS",
)
QUANTILES = ("q01", "q10", "q50", "q90", "q99")
RATIOS = tuple(f"ratio/{quantile}" for quantile in QUANTILES)  # all or, in old runs, none
CURVES = {  # column of curves.csv: scalar of the event file, significant digits
    "return": ("charts/episodic_return", 5),
    "length": ("charts/episodic_length", 4),
    "entropy": ("losses/entropy", 5),
    "kl": ("losses/kl", 5),
    "kill": ("partition/kill", 5),
    "pass": ("partition/pass", 5),
    "approx_kl": ("losses/approx_kl", 4),
    **{quantile: (f"ratio/{quantile}", 4) for quantile in QUANTILES},
}
PLACE = ("cpu", "script")  # the kind of processor, and the hash of the script
LATER = ("length", "entropy", *PLACE)  # columns that the CSV files of earlier versions lack
NUMBERS = ("episodic_return", "kill_fraction", "sps", "wall_time_s")
VERSIONS = ("torch", "gymnasium", "mujoco", "numpy", "python")
SETUP = ("global_step", "compile", "device", *VERSIONS)
RETURNS = ("env_id", "arm", "seed", *NUMBERS, "weights_sha256", *SETUP, "settings", *PLACE)
FAILED = ("env_id", "arm", "seed", "reason")
# In a result.json, but no setting in which runs must agree. An arm decides the last three.
OWN = {"env_id", "seed", "exp_name", "run_dir", "cuda", "versions", "weights_sha256"}
OWN |= {"track", "wandb_project_name", "wandb_entity", "clip_coef", "kl_coef", "kl_target"}
NOT_FINISHED = "not finished"


class Unusable(Exception):
    """A folder or file that the report cannot take in; the text says why."""


@dataclass
class Run:
    """One finished run."""

    env_id: str
    arm: str
    seed: int
    episodic_return: float  # NaN if no episode ended in time
    kill_fraction: float
    sps: float
    wall_time_s: float
    weights_sha256: str
    setup: dict[str, str]  # what it was run with: SETUP and every setting
    curve: dict[str, np.ndarray]  # [points] of "step" and of each of CURVES
    cpu: str = ""  # this and the next are "" where a run did not say
    script: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed, which name a run."""
        return (self.env_id, self.arm, self.seed)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return folder_name(self.key)

    @property
    def median_kl(self) -> float:
        """The median over training of the KL."""
        return float(np.nanmedian(self.curve["kl"]))

    @property
    def median_length(self) -> float:
        """The median over training of the episodes' length; NaN where it is not known."""
        known = self.curve["length"][~np.isnan(self.curve["length"])]
        return float(np.median(known)) if len(known) else np.nan


@dataclass
class Failure:
    """A run that ended without a result."""

    env_id: str
    arm: str
    seed: int
    reason: str
    setup: dict[str, str]  # what it was run with

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed, which name a run."""
        return (self.env_id, self.arm, self.seed)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return folder_name(self.key)


def folder_name(key: tuple[str, str, int]) -> str:
    """Name of the folder of a run, as benchmark.sh gives it."""
    env_id, arm, seed = key
    return f"{env_id.replace('/', '_').replace(':', '_')}__{arm}__{seed}"


def text(value: object) -> str:
    """A setting as one word."""
    return "_".join(str(value).split())


# ---- numbers, as the CSV files hold them


def number(field: str) -> float:
    """A number of a CSV file, NaN for an empty field."""
    return float(field) if field else np.nan


def in_digits(value: float, digits: int) -> str:
    """A number in so many significant digits, nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.{digits}g}"


# ---- from a run folder


def read_scalars(path: Path) -> dict[str, dict[int, float]]:
    """Every scalar of an event file: value by step, by name. Raises Unusable if it is cut."""
    scalars: dict[str, dict[int, float]] = {}
    size = 0
    try:
        for record in RawEventFileLoader(str(path)).Load():  # ends at the first that is damaged
            size += len(record) + 16  # a length and two checksums
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, {})[event.step] = value.simple_value
        total = path.stat().st_size
    except (OSError, DecodeError) as error:
        raise Unusable(f"event file cannot be read: {error}") from None
    if size != total:
        raise Unusable(f"event file cut or damaged: {size} of {total} bytes can be read")
    return scalars


def check_result(result: object) -> None:
    """Raise Unusable unless a result.json has what a finished run writes."""
    if not isinstance(result, dict):
        raise Unusable("result.json is not that of a run")
    for name in ("env_id", "exp_name", "weights_sha256", "device"):
        if not isinstance(result.get(name), str):
            raise Unusable(f"result.json has {name} {result.get(name)!r}, which is no text")
    for name in ("seed", "num_envs", "num_steps", "total_timesteps", "global_step"):
        value = result.get(name)
        if type(value) is not int or not 0 <= value < 1e12:
            raise Unusable(f"result.json has {name} {value!r}, which is no whole number")
    for name in NUMBERS:
        value = result.get(name)
        absent = name == "episodic_return" and name in result and value is None
        finite = type(value) in (int, float) and abs(value) < 1e300
        if not absent and not finite:
            raise Unusable(f"result.json has {name} {value!r}, which is no finite number")
    if not isinstance(result.get("versions"), dict):
        raise Unusable("result.json names no versions")


def check_arm(result: dict) -> None:
    """Raise Unusable unless a run's settings are those of the arm that it is named after."""
    try:
        arm = arms.parse(result["exp_name"])
    except ValueError as error:
        raise Unusable(f"foreign run: {error}") from None
    if arm.name != result["exp_name"]:
        raise Unusable(f"foreign run: {result['exp_name']} is written {arm.name}")
    for name, value in ({"clip_coef": 0.2} | arm.settings).items():
        if result.get(name) != value:
            raise Unusable(f"foreign run: {name} {result.get(name)} is not that of {arm.name}")


def check_scalars(scalars: dict[str, dict[int, float]], result: dict, steps: range) -> None:
    """Raise Unusable unless an event file is whole and of the run that wrote result.json."""
    tags = LOGGED
    if scalars.keys() & set(RATIOS):
        tags += RATIOS
    for tag in tags:
        found = list(scalars.get(tag, ()))
        if found != list(steps[: len(found) + 1]):
            last = found[-1] if found else 0
            raise Unusable(f"event file incomplete: {tag} up to step {last} of {steps[-1]}")
    returns, lengths = (scalars.get(tag, {}) for tag in EPISODIC)
    if returns.keys() != lengths.keys():
        raise Unusable("event file incomplete: not as many episodic returns as lengths")
    if not returns.keys() <= set(steps):
        raise Unusable("event file of another run: its episodes ended at other steps")
    # A time measured to 24 bits: no other run has the same.
    speed = scalars["charts/SPS"][steps[-1]]
    if np.float32(result["sps"]) != np.float32(speed):
        raise Unusable(
            f"event file of another run: it ends at {speed:.6g} steps/s, "
            f"result.json says {result['sps']:.6g}"
        )


def rounded(value: float, digits: int) -> float:
    """A number as the CSV files hold it, so that a report can be made from them alone."""
    return number(in_digits(value, digits))


def bin_width(steps: range) -> int:
    """Iterations in a point of a curve."""
    return max(1, len(steps) // POINTS)


def binned(values: np.ndarray, width: int) -> np.ndarray:
    """Means [bins] of each `width` of the values, without those that are NaN."""
    padded = np.pad(values, (0, -len(values) % width), constant_values=np.nan)
    bins = padded.reshape(-1, width)
    count = (~np.isnan(bins)).sum(1)
    total = np.nansum(bins, axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def bin_ends(steps: range) -> list[int]:
    """The last step of each point of a curve."""
    width = bin_width(steps)
    ends = list(steps[width - 1 :: width])
    if len(steps) % width:
        ends.append(steps[-1])
    return ends


def to_curve(scalars: dict[str, dict[int, float]], steps: range) -> dict[str, np.ndarray]:
    """The curve of a run; NaN where no episode ended, or where a run did not log a scalar."""
    curve = {"step": np.array(bin_ends(steps))}
    for column, (tag, digits) in CURVES.items():
        found = scalars.get(tag, {})
        values = np.array([found.get(step, np.nan) for step in steps])
        points = binned(values, bin_width(steps))
        curve[column] = np.array([rounded(point, digits) for point in points])
    return curve


def to_setup(result: dict) -> dict[str, str]:
    """What a run was run with, in words, from its result.json."""
    own = OWN | set(NUMBERS)
    settings = {name: text(value) for name, value in result.items() if name not in own}
    versions = {name: text(result["versions"].get(name)) for name in VERSIONS}
    return settings | versions


def read_run(folder: Path) -> Run:
    """The run in a folder of benchmark.sh; raises Unusable if there is no finished one."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        raise Unusable(NOT_FINISHED) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"result.json cannot be read: {error}") from None
    check_result(result)
    check_arm(result)
    batch = result["num_envs"] * result["num_steps"]
    if not 0 < batch <= result["global_step"]:
        raise Unusable("result.json is of a run without a single iteration")
    steps = range(batch, result["global_step"] + 1, batch)
    files = list(folder.glob("events.out.tfevents.*"))
    if len(files) != 1:
        raise Unusable(f"{len(files)} event files, where one was expected")
    scalars = read_scalars(files[0])
    check_scalars(scalars, result, steps)
    if result["episodic_return"] is None:
        result["episodic_return"] = np.nan
    run = Run(
        env_id=result["env_id"],
        arm=result["exp_name"],
        seed=result["seed"],
        **{name: rounded(result[name], 6) for name in NUMBERS},
        weights_sha256=result["weights_sha256"],
        setup=to_setup(result),
        curve=to_curve(scalars, steps),
        **{name: text(result["versions"].get(name, "")) for name in PLACE},
    )
    if folder.name != run.name:
        raise Unusable(f"foreign run: the folder holds {run.name}")
    return run


def read_folders(root: Path) -> tuple[list[Run], list[str]]:
    """The finished runs in the folders of `root`, and a line for each folder left out."""
    runs = []
    left_out = []
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and folder.name != "results":
            try:
                runs.append(read_run(folder))
            except Unusable as reason:
                left_out.append(f"{folder.name}: {reason}")
    return runs, left_out


def read_failure(folder: Path) -> Failure | None:
    """The run in a folder of benchmark.sh, if its log says that it ended without a result."""
    log = folder.with_name(f"{folder.name}.log")
    try:
        config = json.loads((folder / "config.json").read_text())
        arm = arms.parse(config["exp_name"])
        lines = log.read_text().splitlines()
        _, failed, reason = lines[-1].partition(": error: ")
        if failed and not (folder / "result.json").exists():
            batch = config["num_envs"] * config["num_steps"]
            config["global_step"] = config["total_timesteps"] // batch * batch
            setup = to_setup(config)
            return Failure(config["env_id"], arm.name, int(config["seed"]), reason, setup)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError):
        pass  # no run of ours
    return None


def read_failures(root: Path) -> list[Failure]:
    """The runs in the folders of `root` that ended without a result."""
    found = [read_failure(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]
    return [failure for failure in found if failure]


# ---- from, and to, the CSV files


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without its lines of comment."""
    with open(path, newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file; raises Unusable unless each has all of `columns`. Those of LATER are
    empty where the file has none."""
    try:
        rows = read_csv(path)
    except (OSError, ValueError, csv.Error) as error:
        raise Unusable(f"{path} cannot be read: {error}") from None
    if not rows:
        raise Unusable(f"{path} holds no row")
    for number, row in enumerate(rows, 2):
        for column in LATER:
            row.setdefault(column, "")
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise Unusable(f"{path}, line {number}: no {', '.join(missing)}")
    return rows


def from_rows(row: dict[str, str], points: list[dict[str, str]]) -> Run:
    """A run from its row of returns.csv and its points of curves.csv; ValueError if they are bad."""
    arms.parse(row["arm"])
    setup = {column: row[column] for column in SETUP}
    setup |= dict(item.split("=", 1) for item in row["settings"].split(" "))
    batch = int(setup["num_envs"]) * int(setup["num_steps"])
    steps = range(batch, int(setup["global_step"]) + 1, batch)
    curve = {"step": np.array([int(point["step"]) for point in points])}
    if curve["step"].tolist() != bin_ends(steps):
        raise ValueError("its points in curves.csv are not those of such a run")
    for column in CURVES:
        curve[column] = np.array([number(point[column]) for point in points])
    return Run(
        env_id=row["env_id"],
        arm=row["arm"],
        seed=int(row["seed"]),
        **{column: number(row[column]) for column in NUMBERS},
        weights_sha256=row["weights_sha256"],
        setup=setup,
        curve=curve,
        **{column: row[column] for column in PLACE},
    )


def read_results(folder: Path) -> list[Run]:
    """The runs of the two CSV files of an earlier report. Raises Unusable if anything is amiss:
    the files will be written anew, and what was left out now would be lost."""
    points: dict[tuple[str, ...], list] = {}
    for point in read_table(folder / "curves.csv", ("env_id", "arm", "seed", "step", *CURVES)):
        key = (point["env_id"], point["arm"], point["seed"])
        points.setdefault(key, []).append(point)
    runs = []
    for line, row in enumerate(read_table(folder / "returns.csv", RETURNS), 2):
        key = (row["env_id"], row["arm"], row["seed"])
        if key not in points:
            raise Unusable(f"{folder}/curves.csv has no point of {'__'.join(key)}")
        try:
            runs.append(from_rows(row, points[key]))
        except (KeyError, ValueError) as error:
            raise Unusable(f"{folder}/returns.csv, line {line}: {error}") from None
    return runs


def read_failed(folder: Path, setup: dict[str, str]) -> list[Failure]:
    """The runs of failed.csv, if an earlier report has one, whose runs were all made with this
    setup. Raises Unusable if it cannot be read."""
    path = folder / "failed.csv"
    if not path.exists():
        return []
    failures = []
    for line, row in enumerate(read_table(path, FAILED), 2):
        try:
            arm = arms.parse(row["arm"]).name
            failures.append(Failure(row["env_id"], arm, int(row["seed"]), row["reason"], setup))
        except ValueError as error:
            raise Unusable(f"{path}, line {line}: {error}") from None
    return failures


def to_csv(header: tuple[str, ...], rows: list[list]) -> bytes:
    """A CSV file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()


def returns_csv(runs: list[Run]) -> bytes:
    """returns.csv: a line per run."""
    rows = []
    for run in runs:
        numbers = [in_digits(getattr(run, column), 6) for column in NUMBERS]
        setup = [run.setup[column] for column in SETUP]
        settings = [f"{k}={v}" for k, v in run.setup.items() if k not in SETUP]
        words = " ".join(sorted(settings))
        numbers.append(run.weights_sha256)
        rows.append([*run.key, *numbers, *setup, words, run.cpu, run.script])
    return to_csv(RETURNS, rows)


def failed_csv(failures: list[Failure]) -> bytes:
    """failed.csv: a line per run."""
    return to_csv(FAILED, [[*failure.key, failure.reason] for failure in failures])


def curves_csv(runs: list[Run]) -> bytes:
    """curves.csv: a line per run and point."""
    rows = []
    for run in runs:
        for i, step in enumerate(run.curve["step"]):
            row = [*run.key, step]
            for column, (_, digits) in CURVES.items():
                row.append(in_digits(run.curve[column][i], digits))
            rows.append(row)
    return to_csv(("env_id", "arm", "seed", "step", *CURVES), rows)


# ---- together


def common_setup(runs: list[Run]) -> dict[str, str]:
    """The setup that most of the runs were made with."""
    setups = Counter(tuple(sorted(run.setup.items())) for run in runs)
    return dict(setups.most_common(1)[0][0])


def oddities(run: Run | Failure, setup: dict[str, str]) -> str:
    """Where a run was made otherwise, in words, and nothing if nowhere."""
    odd = []
    for name in sorted(setup | run.setup):
        ours = run.setup.get(name, "absent")
        common = setup.get(name, "absent")
        if ours != common:
            odd.append(f"{name} {ours} instead of {common}")
    return ", ".join(odd)


def agree(runs: list, setup: dict[str, str]) -> tuple[list, list[str]]:
    """The runs, or failures, that were made with this setup, and a line for each of the others."""
    kept = []
    left_out = []
    for run in runs:
        odd = oddities(run, setup)
        if odd:
            left_out.append(f"{run.name}: {odd}")
        else:
            kept.append(run)
    return kept, left_out


def merge(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """One run per task, arm and seed, the last of each, and a line where others had other weights."""
    merged: dict[tuple[str, str, int], Run] = {}
    replaced = []
    for run in runs:
        earlier = merged.get(run.key, run)
        if earlier.weights_sha256 != run.weights_sha256:
            replaced.append(f"{run.name}: an earlier row of it, which has other weights")
        merged[run.key] = run
    return list(merged.values()), replaced


class Results:
    """Runs, to be asked for by task and arm."""

    def __init__(self, runs: list[Run]):
        self.runs = sorted(runs, key=rank)
        self.envs = list(dict.fromkeys(run.env_id for run in self.runs))
        names = {run.arm for run in runs}
        self.arms = sorted(names, key=lambda name: arms.parse(name).rank)

    def only(self, keep: Callable[[Run], bool]) -> "Results":
        """Those of the runs for which `keep` is true."""
        return Results([run for run in self.runs if keep(run)])

    def cell(self, env_id: str, arm: str) -> list[Run]:
        """The runs of one task and arm, by seed."""
        return [run for run in self.runs if (run.env_id, run.arm) == (env_id, arm)]

    def returns(self, env_id: str, arm: str) -> dict[int, float]:
        """Final return by seed, of the runs that have one."""
        cell = self.cell(env_id, arm)
        return {run.seed: run.episodic_return for run in cell if not np.isnan(run.episodic_return)}

    def values(self, env_id: str, arm: str) -> np.ndarray:
        """The same without the seeds."""
        return np.array(list(self.returns(env_id, arm).values()))

    def curves(self, env_id: str, arm: str, column: str) -> np.ndarray:
        """One column of the curves, [seeds, points]."""
        return np.array([run.curve[column] for run in self.cell(env_id, arm)])


def rank(run: Run) -> tuple:
    """Sorts runs: the paper's tasks and arms first, then seeds."""
    place = ENVS.index(run.env_id) if run.env_id in ENVS else len(ENVS)
    return (place, run.env_id, arms.parse(run.arm).rank, run.seed)

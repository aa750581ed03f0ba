"""Add the finished runs of a folder of benchmark.sh to the two tables of a folder of results.

    python benchmark/runs.py runs/benchmark benchmark/results

runs.csv has a row a run, curves.csv its course, a row for each mean over some iterations (8 in a run
of a million steps). Rows already there stay, those of runs in the folder are added or replaced, and
all are sorted. A run that broke, as when its weights became NaN, has a row that says so, and no
return. Exits with one line, and writes nothing, if a run's script is not the one at hand or its
settings are not those of its arm.
"""

import io
import json
import sys
from pathlib import Path

import arms
import pandas as pd

POINTS = 61  # in a curve: of 488 iterations a point for every 8
KEY = ["env_id", "arm", "seed"]
VERSIONS = ["torch", "gymnasium", "mujoco", "numpy", "python"]
COLUMNS = [*KEY, "episodic_return", "kill_fraction", "weights_sha256", "failed", "steps", "flags"]
COLUMNS += ["code", *VERSIONS, "sps", "wall_time_s"]
SCALARS = {
    "return": "charts/episodic_return",
    "length": "charts/episodic_length",
    "entropy": "losses/entropy",
    "kl": "losses/kl",
    "kill": "partition/kill",
    "pass": "partition/pass",
    "q99": "ratio/q99",
    "kl_coef": "charts/kl_coef",
}


def read_curve(folder: Path, last_step: int) -> pd.DataFrame:
    """The course of a run, from its event file: a row a point, the columns step and SCALARS."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    logged = events.Tags()["scalars"]
    values = {
        name: {event.step: event.value for event in events.Scalars(tag)} if tag in logged else {}
        for name, tag in SCALARS.items()
    }
    curve = pd.DataFrame(values, index=sorted(values["kl"]), columns=list(SCALARS))
    if curve.index.max() != last_step:
        raise ValueError(f"{folder}: its event file ends at step {curve.index.max()}")
    point = pd.RangeIndex(len(curve)) // max(1, len(curve) // POINTS)
    means = curve.groupby(point).mean()
    means.insert(0, "step", pd.Series(curve.index).groupby(point).last())
    return means


def why_it_broke(folder: Path) -> str | None:
    """The last line of the log of a run that ended with an error; None if it did not."""
    log = folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")
    _, error, message = log.strip().rpartition(".py: error: ")
    return message if error and "\n" not in message else None


def read_run(folder: Path, flags: str) -> tuple[dict, pd.DataFrame | None] | None:
    """The row of a run and its curve, None if it broke; None for both if it is under way."""
    file, broke = folder / "result.json", None
    if not file.exists():
        file, broke = folder / "config.json", why_it_broke(folder)
        if broke is None:
            return None
    result = json.loads(file.read_text())
    arm = arms.parse(result["exp_name"])
    code = arms.code_hash((folder.parent / arm.script).read_text(encoding="utf-8"))
    if code != arms.code_hash(arm.source()):
        raise ValueError(f"{folder}: {arm.script} has changed since this run")
    for name, value in arm.settings.items():
        if result[name] != value:
            raise ValueError(f"{folder}: {name} is {result[name]}, of {arm.name} it is {value}")
    row = {"arm": arm.name, "code": code, "flags": flags, "failed": broke}
    row |= {"steps": result["total_timesteps"]} | result["versions"] | result
    curve = None if broke else read_curve(folder, result["global_step"])
    return {name: row.get(name) for name in COLUMNS}, curve


def read_folder(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of the runs in a folder that have finished or broken."""
    _steps, _number, *flags = (root / "settings").read_text().strip().split(" ", 2)
    folders = sorted(file.parent for file in root.glob("*/config.json"))
    found = [run for folder in folders if (run := read_run(folder, "".join(flags)))]
    runs = pd.DataFrame([row for row, _ in found], columns=COLUMNS)
    curves = [
        curve.assign(**{name: row[name] for name in KEY})
        for row, curve in found
        if row["failed"] is None
    ]
    columns = [*KEY, "step", *SCALARS]
    return runs, pd.concat(curves)[columns] if curves else pd.DataFrame(columns=columns)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its numbers as they are written: five digits, whole numbers whole."""
    file = io.StringIO(table.to_csv(index=False, float_format="%.5g"))
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def merge(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The rows of both, of one run only the new ones; sorted by run, of a run as they were."""
    kept = old[~pd.MultiIndex.from_frame(old[KEY]).isin(pd.MultiIndex.from_frame(new[KEY]))]
    return pd.concat([kept, new]).sort_values(
        KEY,
        kind="stable",
        key=lambda column: column.astype(int) if column.name == "seed" else column,
    )


def main(source: Path, target: Path) -> None:
    """See the module."""
    runs, curves = map(as_text, read_folder(source))
    target.mkdir(parents=True, exist_ok=True)
    for file, new in ((target / "curves.csv", curves), (target / "runs.csv", runs)):
        old = new.iloc[:0]
        if file.exists():
            old = pd.read_csv(file, dtype=str, keep_default_na=False)
        table = merge(old, new)
        table.to_csv(file, index=False)
    print(f"{target}: {len(runs)} runs of {source}, {len(table)} in all")


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise ValueError("usage: python benchmark/runs.py FOLDER RESULTS")
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (ValueError, OSError) as error:
        print(f"runs.py: error: {error}", file=sys.stderr)
        sys.exit(2)

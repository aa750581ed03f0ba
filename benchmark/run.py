"""benchmark.sh: tasks x seeds x arms, and a report on them

  ./benchmark.sh                      run the grid here, then write the report
  ./benchmark.sh --quick              a miniature of it, in minutes
  ./benchmark.sh --list               print one command per run, and run nothing
  ./benchmark.sh --report             only write the report on the runs that have finished
  ./benchmark.sh --verify Hopper-v4,clip,1
                                      train a run of benchmark/results anew, and say whether it ends
                                      in the same weights (exit status 0) or not (1)
  sbatch --array=0-124 benchmark.sh   on Slurm, from this folder: task 0 does the first line of
                                      --list, and so on; when all are done, --report

Start it again after any interruption: finished runs (those with a result.json) are skipped,
unfinished ones start over. Two copies, also on two machines with one file system, share the
work: a run holds a lock on its log file for as long as it lives.

  --envs A,B   tasks                                (HalfCheetah-v4,Hopper-v4,Walker2d-v4,
                                                     Ant-v4,Humanoid-v4)
  --seeds 1,2  all of the first seed runs first     (1,2,3,4,5)
  --arms A,B   variants                             (clip,phi,klip,kl_fixed,kl_adaptive)
               kl_fixed is ppo_kl_scalar with one beta, kl_adaptive the same with --kl-target;
               any rule in rules/ and any block in rules/mechanism is an arm, too.
               An arm may have a value, as in clip=0.1,kl_fixed=3,kl_adaptive=0.05,spo=0.3:
               beta of kl_fixed (1), target of kl_adaptive (0.02), epsilon of the others (0.2).
  --steps N    environment steps in each run        (1000000)
  --jobs N     runs at a time, one thread each      (one per core)
  --out DIR    has a folder {env}__{arm}__{seed} and a log file for each run, and the scripts they
               were started from  (runs/benchmark)
               The report goes to DIR/results. benchmark/results is left alone: to add these runs to
               it, python benchmark/runs.py DIR benchmark/results
  -- FLAGS     all that follows goes to every script, as in: -- --compile
               One DIR holds runs of one --steps and FLAGS, and of one version of each script. As
               long as none has finished and none is running, others may be given.

Arguments that a run would refuse are refused before any run starts.
The variable PYTHON names the interpreter (python). Options for Slurm, such as --time or
--partition, go before benchmark.sh. Exit status: 0 all runs finished, 1 some failed, 2 bad
arguments.
"""

import argparse
import contextlib
import csv
import fcntl
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TextIO

import arms

ENVS = "HalfCheetah-v4,Hopper-v4,Walker2d-v4,Ant-v4,Humanoid-v4"
PACKAGES = ("torch", "gymnasium", "mujoco", "tyro", "tensorboard")
PACKAGES += ("pandas", "scipy", "matplotlib")  # of the report
SET_HERE = {"--env-id", "--seed", "--total-timesteps", "--exp-name", "--run-dir"}
SET_BY_ARM = {"--clip-coef", "--kl-coef", "--kl-target"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESULTS = arms.ROOT / "benchmark" / "results"
# Leads the process group of all runs. Its standard input closes when this program ends, whichever
# way, kill -9 included; then it ends the group, unless all was done.
KEEPER = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.read():
    os.killpg(0, signal.SIGTERM)
    time.sleep(4)
    os.killpg(0, signal.SIGKILL)
"""


def fail(message: object) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"benchmark.sh: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def say(text: str, end: str = "\n") -> None:
    """Print a line; if whoever read the output has gone, go on in silence."""
    try:
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{clear}{text}", end=end, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open until the end


# --- which runs


class Run:
    """One run, in the folder `out` of all."""

    def __init__(self, arm: arms.Arm, env_id: str, seed: str, out: Path, flags: tuple[str, ...]):
        self.arm, self.env_id, self.seed, self.out = arm, env_id, int(seed), out
        self.name = f"{re.sub('[/:]', '_', env_id)}__{arm.name}__{seed}"
        self.folder = out / self.name
        self.log = out / f"{self.name}.log"
        self.script = out / arm.script  # the copy that it is started from
        own = ["--env-id", env_id, "--seed", seed, "--exp-name", arm.name]
        self.arguments = [*own, "--run-dir", str(self.folder), *arm.flags, *flags]
        self.command = [sys.executable, str(self.script), *self.arguments]

    def is_finished(self) -> bool:
        return (self.folder / "result.json").exists()


def items(option: str, text: str, pattern: str) -> list[str]:
    """The parts of a list with commas, each once; exits if one does not match the pattern."""
    parts = text.split(",")
    for part in parts:
        if not re.fullmatch(pattern, part):
            fail(f"{option} cannot be {part!r}")
    return list(dict.fromkeys(parts))


def grid(args: argparse.Namespace) -> list[Run]:
    """All runs, those of the first seed first; within a Slurm array the one of this task."""
    for flag in args.flags[2:]:
        if flag.partition("=")[0].replace("_", "-") in SET_HERE | SET_BY_ARM:
            fail(f"{flag} after -- is benchmark.sh's to set, by --envs, --seeds, --steps or --arms")
    try:
        found = {arm.name: arm for arm in map(arms.parse, args.arms.split(","))}.values()
    except ValueError as error:
        fail(f"--arms: {error}")
    env_ids = items("--envs", args.envs, "[A-Za-z0-9_][A-Za-z0-9_./:-]*")
    seeds = items("--seeds", args.seeds, "0|[1-9][0-9]*")
    runs = [
        Run(arm, env_id, seed, args.out, args.flags)
        for seed, env_id, arm in itertools.product(seeds, env_ids, found)
    ]
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is None or args.list or args.report:
        return runs
    if int(task) >= len(runs):
        fail(f"--array must lie within 0-{len(runs) - 1}")
    return [runs[int(task)]]


# --- what must hold before they start


def load(arm: arms.Arm) -> ModuleType:
    """The script of an arm as a module; ValueError if it cannot be composed."""
    source = arm.source()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, arm.script)
        file.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # where dataclasses and tyro look for it
        spec.loader.exec_module(module)
        return module


def reason(output: str) -> str:
    """Why a script refused its flags, in one line and by the names of benchmark.sh's options."""
    sections = re.split(r"\n *-{5,} *\n", output)  # tyro prints a title, a rule, the reason, a rule
    text = " ".join(sections[min(1, len(sections) - 1)].split())
    for theirs, ours in (("total-timesteps", "steps"), ("seed", "seeds"), ("env-id", "envs")):
        text = re.sub(rf"--{theirs}\b", f"--{ours}", text)
    return text.removeprefix("benchmark.sh: error: ") or "the flags after -- end a run at once"


def check(runs: list[Run]) -> None:
    """Exit if a script would refuse its flags, or a task cannot be made."""
    import tyro

    sys.argv = ["benchmark.sh"]  # by which name the scripts complain
    output = io.StringIO()
    of_arm = {run.arm.name: run for run in sorted(runs, key=lambda run: run.seed)}
    modules = {}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(output):
            for run in of_arm.values():
                if run.script not in modules:
                    modules[run.script] = load(run.arm)
                module = modules[run.script]
                module.check(tyro.cli(module.Args, args=[*run.arguments, "--run-dir", "None"]))
            for env_id in dict.fromkeys(run.env_id for run in runs):
                module.make_env(env_id).close()
    except SystemExit:
        fail(reason(output.getvalue()))
    except ValueError as error:
        fail(reason(str(error)))


def in_a_process(function, *args) -> None:
    """Call the function in a process of its own, whose memory is given back; exit as it does."""
    if (pid := os.fork()) == 0:
        try:
            function(*args)
        except SystemExit as stop:
            os._exit(stop.code)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))


def claim(out: Path, settings: str) -> tuple[TextIO, bool]:
    """The file out/settings, with a shared lock on it, and whether its runs may be of other scripts
    than those that are here; exit if the folder holds other runs.

    Who is alone, and finds no finished run, may write the settings anew.
    """
    file = open(out / "settings", "a+")  # noqa: SIM115, its lock lasts until the end
    unused = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unused = not any(out.glob("*/result.json"))
        if unused:
            file.truncate(0)
            file.write(f"{settings}\n")
            file.flush()
    except BlockingIOError:
        pass  # others are at work
    fcntl.flock(file, fcntl.LOCK_SH)
    held = (out / "settings").read_text().strip()
    if held != settings:
        held = held or "other settings"
        fail(f"--out {out} holds runs with {held}, not {settings}: name another folder")
    return file, unused


def write_scripts(runs: list[Run], unused: bool) -> None:
    """Copy the scripts to where they are started from, so that to edit one harms no run to come;
    exit if one was other code before, unless the folder is unused."""
    for file, arm in {run.script: run.arm for run in runs}.items():
        source = arm.source()
        here = file.read_text(encoding="utf-8") if file.exists() else source
        if not unused and arms.code_hash(here) != arms.code_hash(source):
            fail(f"{file} has changed since its runs in --out began: name another folder")
        draft = file.with_suffix(f".{os.uname().nodename}.{os.getpid()}")
        draft.write_text(source, encoding="utf-8")
        draft.rename(file)


# --- their supervision


class Grid:
    """The runs of this program, at most `jobs` at a time."""

    def __init__(self, runs: list[Run], args: argparse.Namespace, settings: TextIO):
        self.runs, self.out, self.steps, self.jobs = runs, args.out, args.steps, args.jobs
        self.settings, self.expected = settings, (args.out / "settings").read_text()
        self.queue = list(runs)
        self.running: dict[subprocess.Popen, Run] = {}
        self.failed: list[Run] = []
        self.held: list[Run] = []  # by another copy
        self.mine = 0  # finished here
        self.began = time.monotonic()
        self.keeper = subprocess.Popen(
            [sys.executable, "-S", "-c", KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # whoever reads ours need not wait for the keeper
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def look(self) -> None:
        """Stop unless the folder is still ours and can be written."""
        try:
            if (self.out / "settings").read_text() != self.expected:
                raise FileNotFoundError
            probe = self.out / f"probe.{os.getpid()}"
            probe.write_text("\n")
            probe.unlink()
        except FileNotFoundError:
            self.stop(1, f"{self.out} was deleted or belongs to other runs")
        except OSError as error:
            self.stop(1, f"{self.out} cannot be written: {error.strerror}")

    def start(self, run: Run) -> None:
        """Start a run, unless it is finished or another copy has it."""
        with open(run.log, "a") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.held.append(run)
                return
            if run.is_finished():
                return
            log.truncate(0)
            shutil.rmtree(run.folder, ignore_errors=True)
            process = subprocess.Popen(  # it inherits the lock, which dies with it
                run.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.settings.fileno()],
                process_group=self.keeper.pid,
            )
        self.running[process] = run

    def end(self, process: subprocess.Popen) -> None:
        """Take note of a run that has ended."""
        run = self.running.pop(process)
        if run.is_finished():
            self.mine += 1
            say(f"{run.name} finished: {self.progress()}")
        else:
            self.look()
            self.failed.append(run)
            say(f"{run.name} FAILED with exit status {process.returncode}; the end of {run.log}:")
            for line in run.log.read_text(errors="replace").splitlines()[-15:]:
                say(f"    {line}")

    def progress(self) -> str:
        """One line: what has finished, what runs, how long the rest will take."""
        finished = sum(run.is_finished() for run in self.runs)
        partial = 0
        for run in self.running.values():
            with contextlib.suppress(OSError):
                last = run.log.read_text(errors="replace").splitlines()[-1:]
                if last and (steps := re.match(r"(\d+)/", last[0])):
                    partial += int(steps[1])
        text = f"{finished}/{len(self.runs)} runs finished, {len(self.running)} running"
        text += f", {len(self.failed)} failed" * bool(self.failed)
        text += f", {len(self.held)} with another copy" * bool(self.held)
        done = self.mine * self.steps + partial
        left = (len(self.runs) - finished - len(self.failed)) * self.steps - partial
        if done and left:
            minutes = int(left * (time.monotonic() - self.began) / done / 60) + 1
            text += f", {minutes // 60} h {minutes % 60} min left"
        return text

    def stop(self, code: int, why: str = "") -> NoReturn:
        """End all runs, and exit."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        because = f": {why}" if why else ""
        say(f"stopping {len(self.running)} runs{because}; the same command goes on from here")
        self.keeper.stdin.close()
        for process in self.running:
            process.wait()
        raise SystemExit(code)

    def work(self) -> list[Run]:
        """Run all, and return those that failed."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(number, lambda number, _: self.stop(128 + number))
        say(f"{self.progress()}; up to {self.jobs} at a time, logs in {self.out}")
        next_try = 0.0
        while self.queue or self.running or self.held:
            for process in [process for process in self.running if process.poll() is not None]:
                self.end(process)
            while self.queue and len(self.running) < self.jobs:
                run = self.queue.pop(0)
                if not run.is_finished():
                    self.look()
                    self.start(run)
            if time.monotonic() > next_try:  # perhaps another copy has ended a run, or died
                next_try = time.monotonic() + 3
                self.queue, self.held = self.queue + self.held, []
                if sys.stdout.isatty():
                    say(self.progress(), end="")
            time.sleep(0.1)
        self.keeper.communicate(b"done")
        say(self.progress())
        return self.failed


# --- a committed run again


def verify(cell: str, args: argparse.Namespace) -> int:
    """Train a run of benchmark/results anew; 0 if it ends in the weights of its row, else 1."""
    wanted = [*cell.split(","), str(args.steps)]
    rows = []
    for file in sorted(RESULTS.rglob("runs.csv")):
        with open(file, encoding="utf-8") as table:
            rows += list(csv.DictReader(table))
    key = ("env_id", "arm", "seed", "steps")
    row = next((row for row in rows if [row[name] for name in key] == wanted), None)
    if row is None:
        fail(f"--verify: benchmark/results has no run {cell} of {args.steps} steps")
    arm = arms.parse(row["arm"])
    flags = ("--total-timesteps", row["steps"], *shlex.split(row["flags"]))
    run = Run(arm, row["env_id"], row["seed"], Path("runs/verify"), flags)
    if arms.code_hash(arm.source()) != row["code"]:
        fail(f"--verify: {arm.script} has changed since the committed run")
    run.out.mkdir(parents=True, exist_ok=True)
    run.script.write_text(arm.source(), encoding="utf-8")
    shutil.rmtree(run.folder, ignore_errors=True)
    if subprocess.call(run.command, stdout=sys.stderr):
        return 1
    found = json.loads((run.folder / "result.json").read_text())["weights_sha256"]
    same = found == row["weights_sha256"]
    say(f"{cell}: weights_sha256 {found} is {'' if same else 'NOT '}that of benchmark/results")
    return 0 if same else 1


# --- the command line


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message.replace('argument ', '', 1)}: see --help")


def cores() -> int:
    """The processors this program may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of benchmark.sh; `flags` are those of every script."""
    if any("\n" in argument for argument in argv):
        fail("an argument holds a line break")
    at = argv.index("--") if "--" in argv else len(argv)
    parser = Parser("benchmark.sh", allow_abbrev=False, add_help=False)
    quick = "--quick" in argv[:at]
    defaults = {
        "envs": "HalfCheetah-v4,Hopper-v4" if quick else ENVS,
        "seeds": "1,2" if quick else "1,2,3,4,5",
        "arms": ",".join(arms.PAPER),
        "steps": "20480" if quick else "1000000",
        "jobs": str(cores()),
        "out": str(arms.ROOT / ("runs/quick" if quick else "runs/benchmark")),
        "verify": None,
    }
    for option, default in defaults.items():
        parser.add_argument(f"--{option}", default=default)
    for option in ("list", "report", "quick", "help"):
        parser.add_argument(f"--{option}", action="store_true")
    parser.add_argument("-h", action="store_true", dest="help")
    args = parser.parse_args(argv[:at])
    for option in ("steps", "jobs"):
        if not re.fullmatch("[1-9][0-9]{0,9}", getattr(args, option)):
            fail(f"--{option} must be a positive whole number, not {getattr(args, option)}")
        setattr(args, option, int(getattr(args, option)))
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        args.jobs = 1
    if not args.out:
        fail("--out must not be empty")
    # Paths are the caller's until here, and the repository's from here on.
    out = Path(args.out).absolute()
    os.chdir(arms.ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    args.out = out.relative_to(arms.ROOT) if out.is_relative_to(arms.ROOT) else out
    args.flags = ("--total-timesteps", str(args.steps), *argv[at + 1 :])
    return args


def write_report(out: Path) -> int:
    """Gather the finished runs and write the report on them; 0 if that went well."""
    results = str(out / "results")
    gather = [sys.executable, "benchmark/runs.py", str(out), results]
    return subprocess.call(gather) or subprocess.call(
        [sys.executable, "benchmark/report.py", results]
    )


def main(argv: list[str]) -> int:
    """See the module."""
    args = parse(argv)
    if args.help:
        print(__doc__.strip())
        return 0
    runs = grid(args)
    if args.list:
        for run in runs:  # a composed script is made when it is run
            script = run.script if run.arm.block else run.arm.script
            print(shlex.join(["python", str(script), *run.arguments]))
        return 0
    missing = [package for package in PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        lacks = f"{sys.executable} lacks {', '.join(missing)}"
        fail(f"{lacks}: pip install -r requirements.txt, or set PYTHON")
    if args.verify is not None:
        return verify(args.verify, args)
    if args.report:
        return write_report(args.out)
    in_a_process(check, runs)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        settings, unused = claim(args.out, shlex.join(args.flags))
        write_scripts(runs, unused)
    except OSError as error:
        fail(f"--out {args.out} cannot be written: {error.strerror}")
    failed = Grid(runs, args, settings).work()
    for run in failed:
        say(f"failed: {run.name}")
    if "SLURM_ARRAY_TASK_ID" not in os.environ and write_report(args.out):
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it in silence until runs start
    if "--list" in sys.argv or "--help" in sys.argv:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when head has enough
    raise SystemExit(main(sys.argv[1:]))

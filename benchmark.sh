#!/usr/bin/env bash
#SBATCH --job-name=klip
#SBATCH --cpus-per-task=1
# tasks x seeds x arms, and a report on them: --help says how. benchmark/run.py does the work.

fail() {
  echo "benchmark.sh: error: $*" >&2
  exit 2
}

repo=$(cd "$(dirname "$0")" && pwd)
[ -e "$repo/benchmark/run.py" ] || repo=$SLURM_SUBMIT_DIR  # Slurm runs a copy of this file
[ -e "$repo/benchmark/run.py" ] || fail "call sbatch in the folder of benchmark.sh"
PYTHON=${PYTHON:-$(command -v python > /dev/null && echo python || echo python3)}
command -v "$PYTHON" > /dev/null || fail "$PYTHON is missing: set PYTHON to an interpreter"
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}  # for --envs my_tasks:Task-v0, with my_tasks.py here
exec "$PYTHON" "$repo/benchmark/run.py" "$@"

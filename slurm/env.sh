# Sourced by every batch file: says what runs where, finds this project's Python, hands signals on.
cd "${CROSSSUCK_ROOT:=$(pwd)}"
export CROSSSUCK_ROOT
printf '%s  host %s  commit %s  job %s  restart %s\n' "$(date -Is)" "$(hostname)" \
  "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "${SLURM_JOB_ID:-none}" "${SLURM_RESTART_COUNT:-0}"

for name in ${CROSSSUCK_MODULES:-}; do module load "$name"; done
if [ -n "${CROSSSUCK_ACTIVATE:-}" ]; then
  set +u # activate scripts of older tools use unset variables
  # shellcheck disable=SC1090
  source "$CROSSSUCK_ACTIVATE"
  set -u
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# run_of FILE: the run folder of this array task, a line each
run_of() {
  local run
  run=$(sed -n "$((${SLURM_ARRAY_TASK_ID:-0} + 1))p" "$1")
  [ -n "$run" ] || { echo "no run in line $((${SLURM_ARRAY_TASK_ID:-0} + 1)) of $1" >&2; return 1; }
  printf '%s\n' "$run"
}

# forward COMMAND…: run it, hand USR1 and TERM on to it, and put this job back into the queue where it asks for that (75)
forward() {
  local child code signals=0 seen=-1
  "$@" &
  child=$!
  trap 'signals=$((signals + 1)); kill -TERM "$child" 2>/dev/null || true' USR1 TERM
  while [ "$seen" -ne "$signals" ]; do # a signal ends `wait` early: wait on, the command is saving
    seen=$signals code=0
    wait "$child" || code=$?
  done
  # it was told to end before it could listen, and ended: nothing is lost, so it may come back
  if [ "$code" -eq 143 ] && [ "$signals" -gt 0 ]; then code=75; fi
  if [ "$code" -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    # only a job that is still running asks for the queue: a cancelled one is ending, and must stay cancelled
    if [ "$(squeue --noheader --job "$SLURM_JOB_ID" --format %T 2>/dev/null || echo RUNNING)" = RUNNING ]; then
      echo "$(date -Is)  saved; back into the queue"
      scontrol requeue "$SLURM_JOB_ID" || true # refused where the scheduler has done so itself
    else
      echo "$(date -Is)  saved; the job is being ended, so it does not ask for the queue"
    fi
  fi
  return "$code"
}

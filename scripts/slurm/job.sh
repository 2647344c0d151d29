# Sourced by batch scripts, once they run: the environment, and a function for what they carry out.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}"
[ -f .venv/bin/activate ] && source .venv/bin/activate
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Runs a command and hands on to it what SLURM tells this script (--signal=B:...). Preempted or out of time, the command
# saves and ends with status 75; then the job is queued again, and goes on where it was.
carry_out() {
    "$@" &
    local child=$! job="${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}" signalled=yes status
    trap 'signalled=yes; kill -USR1 "$child" 2>/dev/null || true' USR1 TERM
    while [ -n "$signalled" ]; do  # a signal ends `wait` early
        signalled= status=0
        wait "$child" || status=$?
    done
    case "$status" in
        75 | 138 | 143)  # the last two: ended by USR1 or TERM itself, while Python was still starting
            [ -z "$job" ] || scontrol requeue "$job${SLURM_ARRAY_JOB_ID:+_$SLURM_ARRAY_TASK_ID}" ;;
    esac
    exit "$status"
}

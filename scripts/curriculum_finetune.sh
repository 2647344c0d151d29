#!/usr/bin/env bash
# Fine-tunes on a curriculum of moduli under SLURM: one array task for each learning rate and weight decay.
#
#   sbatch scripts/curriculum_finetune.sh                                        # all combinations
#   SLURM_ARRAY_TASK_ID=2 bash scripts/curriculum_finetune.sh --print            # what task 2 would run, without a cluster
#   PRETRAINED=results/train/RUN/best LRS="1e-4 3e-4" sbatch --array=0-3 scripts/curriculum_finetune.sh
#
# Preempted or out of time, a task saves, is queued again, and goes on where it was, with the same result.
#SBATCH --job-name=prng-curriculum
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=18:00:00
#SBATCH --array=0-3
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x_%A_%a.log
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}/scripts/slurm/job.sh"

if (( $# > 1 )) || [ "${1:---print}" != --print ]; then
    echo "error: $*: only --print is known here; keys stand in the file that CONFIG names" >&2
    exit 2
fi
read -ra lrs <<< "${LRS:-1e-4 5e-4}"
read -ra decays <<< "${WEIGHT_DECAYS:-0 0.1}"
config="${CONFIG:-configs/curriculum.yaml}"
results="${RESULTS_DIR:-results/FT}"
combinations=$(( ${#lrs[@]} * ${#decays[@]} ))
task="${SLURM_ARRAY_TASK_ID:-0}"
if ! [[ "$task" =~ ^[0-9]+$ ]] || (( task >= combinations )); then
    echo "error: SLURM_ARRAY_TASK_ID is $task; ${#lrs[@]} learning rates and ${#decays[@]} weight decays are tasks 0 to $((combinations - 1))" >&2
    exit 2
fi
lr="${lrs[$(( task / ${#decays[@]} ))]}"
decay="${decays[$(( task % ${#decays[@]} ))]}"
name="finetune_lr${lr}_wd${decay}"

overrides=(--lr_trgt "$lr" --weight_decay "$decay" --results_dir "$results" --experiment_name "$name"
           --save_checkpoints true --resume true)
[ -n "${PRETRAINED:-}" ] && overrides+=(--pretrained_path "$PRETRAINED")
yaml="$results/$name.yaml"
# One process for each GPU; core.distributed reads what torchrun would set.
as_rank='RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'
command=(srun bash -c "$as_rank" rank python prng/curriculum_lowmem.py --config "$yaml")
export MASTER_ADDR="${MASTER_ADDR:-$(hostname)}" MASTER_PORT="${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}"

if [ "${1:-}" = --print ]; then
    echo "# task $task of 0 to $((combinations - 1)): $yaml"
    python prng/curriculum_lowmem.py --config "$config" "${overrides[@]}" --print_config
    printf '# '; printf '%q ' "${command[@]}"; echo
    exit
fi
mkdir -p "$results"
python prng/curriculum_lowmem.py --config "$config" "${overrides[@]}" --print_config > "$yaml"

carry_out "${command[@]}"  # srun hands a signal on to every process of the run

#!/bin/bash
# One sweep on four machines, as a job array:
#
#     sbatch examples/slurm.sh sweep.yaml /shared/runs/NAME
#
# All tasks of the array share one run folder; each runs its shard. The last one to end writes the tables and the report.
# A task that is preempted, or whose node fails, is put into the queue again and goes on where it was. One that failed or
# ran out of time is not: run it again, and say how many shards there are, since Slurm counts the tasks of this array:
#
#     sbatch --array=3 examples/slurm.sh sweep.yaml /shared/runs/NAME 4
#
#SBATCH --job-name=ttc
#SBATCH --array=1-4
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=ttc-%A-%a.log
set -eu
exec ttc sweep "$1" --out "$2" --shard "$SLURM_ARRAY_TASK_ID/${3:-$SLURM_ARRAY_TASK_COUNT}" --display plain

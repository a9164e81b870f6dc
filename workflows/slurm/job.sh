#!/usr/bin/env bash
# A SLURM job of several nodes:  sbatch --nodes=4 workflows/slurm/job.sh SCENE... -o DIR [options of `geoseg run`]
#
# A Dask scheduler and the workers live inside the allocation. DIR and the scenes must lie on a file system that all nodes
# share. The job may be requeued, preempted or submitted again: it goes on where it was stopped.
#SBATCH --job-name=geoseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=geoseg-%j.log
set -euo pipefail

per_node=${GEOSEG_WORKERS_PER_NODE:-${SLURM_CPUS_PER_TASK:-4}}
shared=${GEOSEG_SHARED:-$PWD} # where the scheduler's file goes; all nodes see it
address=$shared/.geoseg-scheduler-${SLURM_JOB_ID:?run this with sbatch}.json

dask scheduler --scheduler-file "$address" --port 0 --dashboard-address :0 &
scheduler=$!
close() { # workers first, so that they need not look for a scheduler that is gone
  for process in ${run:-} ${workers:-} "$scheduler"; do kill "$process" 2>/dev/null && wait "$process" || true; done
  rm -f "$address"
}
trap close EXIT
trap 'kill -TERM "${run:-}" 2>/dev/null || true' TERM # a clean stop before the time limit

for _ in $(seq 120); do [ -s "$address" ] && break; sleep 0.5; done

# one thread each: the networks and kernels use the cores, and no chunk waits for another's memory
srun --ntasks-per-node=1 dask worker --scheduler-file "$address" --nworkers "$per_node" --nthreads 1 \
  --no-dashboard --death-timeout 120 &
workers=$!

python -c 'import sys; from distributed import Client; Client(scheduler_file=sys.argv[1]).wait_for_workers(1, 300)' "$address"

geoseg run "$@" --scheduler "$address" &
run=$!
code=0
wait "$run" || code=$?
wait "$run" 2>/dev/null || true # after TERM it still tells how to go on
exit "$code"

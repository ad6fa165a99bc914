#!/bin/bash
# One allocation that runs a grid on Ray, started in the root of the repository; the same command continues it:
#   sbatch --nodes=2 --gpus-per-node=1 scripts/slurm.sh experiment=table2 profile=quick
#SBATCH --ntasks-per-node=1 --cpus-per-task=4 --exclusive --requeue
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | sha256sum | cut -c 1-64)  # of this allocation
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ray symmetric-run --address="$head:6379" \
    --min-nodes="$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=100000000 -- \
    python -m benchmark.run -m launcher=ray "$@"

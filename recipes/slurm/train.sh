#!/usr/bin/env bash
# One recipe on several machines under Slurm; stopped five minutes before its time limit, it requeues itself and resumes
# from its checkpoint. Run in the root of the checkout, on storage that all machines see:
#
#   sbatch recipes/slurm/train.sh recipes/grft.py --config recipes/llama-7b/grft.yaml
#
#SBATCH --job-name=rm_toolkit
#SBATCH --nodes=2 # EDIT: machines
#SBATCH --gpus-per-node=8 # EDIT: GPUs of each
#SBATCH --cpus-per-task=64 # EDIT: its cores
#SBATCH --mem=0 # EDIT: 0 is all memory of each machine; `rm-toolkit plan` shows what is needed
#SBATCH --time=24:00:00 # EDIT
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

launch_config=${LAUNCH_CONFIG:-accelerate_configs/multi_node_zero3_offload.yaml}

if [[ ${1:-} == --on-this-machine ]]; then # started by srun on each machine
  shift
  accelerate launch --config_file "$launch_config" \
    --num_machines "$SLURM_NNODES" --num_processes "$NUM_PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT" \
    "$@" --resume_from_checkpoint auto &
  launcher=$! stopped=
  trap 'stopped=1; kill -TERM "$launcher" 2>/dev/null || true' TERM
  status=0
  wait "$launcher" || status=$?
  while kill -0 "$launcher" 2>/dev/null; do # a signal ended the wait, not the launcher
    status=0
    wait "$launcher" || status=$?
  done
  # The launcher exits with 1 both for a stopped and for a failed run.
  if [[ -n $stopped ]]; then exit 143; fi
  exit "$status"
fi

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch $0 recipes/grft.py --config FILE [--SETTING VALUE …]" >&2
  exit 2
fi

# All processes rendezvous on the first machine; the port depends on the job, so that two jobs on a machine do not clash.
read -r MAIN_ADDRESS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000))
NUM_PROCESSES=$((SLURM_NNODES * ${PROCESSES_PER_MACHINE:-${SLURM_GPUS_ON_NODE:-8}}))
# Time for a step and a checkpoint before the launcher kills its processes: less than Slurm's 300 seconds.
TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280}
export MAIN_ADDRESS MAIN_PORT NUM_PROCESSES TORCH_ELASTIC_SHUTDOWN_TIMEOUT

# Slurm runs a copy of this file, which the other machines do not have.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')

status=0
srun --kill-on-bad-exit=0 --wait=300 bash "${script:-$0}" --on-this-machine "$@" || status=$?
if [[ $status -eq 143 ]]; then
  echo "Stopped by SIGTERM; the job is queued again."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

#!/bin/bash
# Sixteen workers on a Slurm cluster with a shared file system and a database that every node can reach.
#   export WASTETUNE_STORAGE='postgresql+psycopg://USER:PASSWORD@HOST/studies'
#   sbatch deploy/slurm.sh mobilenet_small_trashnet
#   wastetune run --study mobilenet_small_trashnet --workers 0   # on the login node: waits, mirrors, retrains
#SBATCH --job-name=wastetune
#SBATCH --array=1-16
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@30
# exec: Slurm's signal before the time limit reaches the worker itself, which releases its trial.
exec srun wastetune worker --study "$1"

#!/usr/bin/env bash
# Whether a run under SLURM that is interrupted, requeued and continued ends like one that was not, to the last bit.
#
# Starts a cluster of one node on this machine, which ends with the script and leaves nothing behind, and submits the
# same run twice, on two tasks: one is let alone, the other gets SIGUSR1 on the way, as SLURM sends it before the time
# limit. Needs root and Debian's packages: apt-get install slurm-wlm munge
#
#   PYTHON=.venv/bin/python tools/slurm_check.sh | tee results/slurm/record.txt
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-python}")
[[ $python == /* ]] || python=$PWD/$python
for program in slurmctld slurmd sbatch munged; do
  command -v $program >/dev/null || { echo "error: there is no $program: apt-get install slurm-wlm munge" >&2; exit 1; }
done
[[ $EUID == 0 ]] || { echo "error: a cluster of one's own needs root" >&2; exit 1; }

work=$(mktemp -d)
daemons=()
finish() {
  ((${#daemons[@]})) && kill "${daemons[@]}" 2>/dev/null && wait "${daemons[@]}" 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT
mkdir "$work/state" "$work/spool" "$work/munge" "$work/runs"

# The cluster. A job that is requeued waits until its credential has expired: two minutes, were it not for cred_expire.
cat >"$work/slurm.conf" <<CONF
ClusterName=check
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthInfo=socket=$work/munge/socket,cred_expire=5
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
echo "CgroupPlugin=cgroup/v1" >"$work/cgroup.conf"
export SLURM_CONF=$work/slurm.conf
(umask 077 && head -c 1024 /dev/urandom >"$work/munge/key")
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge/socket" \
  --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" >"$work/munged.out" 2>&1 &
daemons+=($!)
sleep 1
slurmctld -D -c >"$work/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -c >"$work/slurmd.log" 2>&1 &
daemons+=($!)
for _ in $(seq 60); do
  [[ $(sinfo -h -o %t 2>/dev/null) == idle ]] && break
  sleep 1
done
if [[ $(sinfo -h -o %t 2>/dev/null) != idle ]]; then
  echo "error: the node did not come up" >&2
  tail -n 20 "$work/slurmctld.log" "$work/slurmd.log" "$work/munged.out" >&2
  exit 1
fi
slurmctld -V

# The job, as a user writes it, but for a GPU.
cat >"$work/job.sh" <<JOB
#!/bin/bash
#SBATCH --ntasks=2 --requeue --open-mode=append --output=$work/job-%j.txt
export OMP_NUM_THREADS=1 PYTHONPATH=$repository
srun $python $repository/train.py trainer=slurm trainer.accelerator=cpu trainer.devices=2 \\
  data.source.num_train=48 data.source.num_test=32 data.batch_size=8 trainer.max_epochs=20 \\
  trainer.log_every_n_steps=1 evaluation=none report=none
JOB
cd "$work/runs"

submit() { sbatch --parsable "$work/job.sh"; }
said() { sed -e "s#$work/runs/##g; s#$work/##g; s#$repository/##g; s#$python#python#g" -e "s/^/  /" "$work/job-$1.txt"; }
ended() { # waits; squeue does not list a job that has ended
  for _ in $(seq 300); do
    [[ -z $(squeue -h -j "$1" -t PD,R,CG,CF 2>/dev/null) ]] && return
    sleep 1
  done
  echo "error: job $1 has not ended" >&2
  said "$1" >&2
  exit 1
}

whole=$(submit)
ended "$whole"
echo "job $whole, let alone:"
said "$whole"
[[ -s outputs/simclr/shapes/slurm-$whole/result.json ]] || { echo "error: it came to no result" >&2; exit 1; }

parts=$(submit)
metrics=outputs/simclr/shapes/slurm-$parts/metrics.csv
for _ in $(seq 1200); do
  [[ -s $metrics ]] && break
  sleep 0.1
done
scancel --signal=USR1 "$parts"
ended "$parts"
echo "job $parts, which gets SIGUSR1 on the way:"
said "$parts"
grep -q "stopped by SIGUSR1" "$work/job-$parts.txt" || { echo "error: it was not stopped" >&2; exit 1; }

PYTHONPATH=$repository $python - "outputs/simclr/shapes/slurm-$whole" "outputs/simclr/shapes/slurm-$parts" <<'COMPARE'
import sys
from pathlib import Path

import torch

from ssl_framework.models.weights import load_checkpoint

whole, parts = (Path(folder) for folder in sys.argv[1:])
first, second = (load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, parts))
assert first["global_step"] == second["global_step"] == 120
assert first["state_dict"].keys() == second["state_dict"].keys()
different = [key for key, value in first["state_dict"].items() if not torch.equal(value, second["state_dict"][key])]
assert not different, different
print(f"equal to the last bit: the {len(first['state_dict'])} tensors of both after step 120")
COMPARE

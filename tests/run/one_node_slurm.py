"""A Slurm cluster of one node on this machine, from Debian's packages, in a folder of its own; it has to be root."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=60 State=UP
"""


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "slurmd has to be root"


@contextlib.contextmanager
def one_node_slurm(folder: Path):
    """Starts the cluster, gives the path of its configuration, and ends it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(2)
    text = CONFIGURATION.format(folder=folder, host=host, ports=ports, cores=os.cpu_count())
    configuration.write_text(text)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration), "-N", host],
    )
    environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(configuration)}
    started = []
    with (folder / "output").open("wb") as output:
        try:
            for command in commands:
                started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
                time.sleep(0.5)
            _wait_until_idle(environment, folder)
            yield configuration
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()


def _wait_until_idle(environment, folder, seconds=60.0):
    deadline = time.monotonic() + seconds
    asked = ["sinfo", "--noheader", "--format=%T"]
    while True:
        told = subprocess.run(asked, env=environment, capture_output=True, text=True)
        if told.stdout.strip() == "idle":
            return
        logs = [path.read_text(errors="replace")[-1500:] for path in folder.glob("slurm*.log")]
        assert time.monotonic() < deadline, [told, (folder / "output").read_text()[-1500:], *logs]
        time.sleep(0.2)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _path():
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

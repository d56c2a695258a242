"""A Slurm cluster of one node with two GPUs that are none, up in a second and down again with the test.

It needs root (Slurm starts jobs, and its clients look for their configuration in one place alone) and Debian's packages
`slurm-wlm` and `munge`, which it installs where they are not. There is no systemd, accounting database or cgroup in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: Jobs lose SLURM_CONF, which the executor plugin takes from their environment: only this place is always looked at.
CONFIGURATION = Path("/etc/slurm")
MARK = "# written by histostudy's tests, process "
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "munged")
GPUS = 2


def why_not() -> str | None:
    """Say why there can be no cluster here, after installing what is missing; None where there can be one."""
    if os.geteuid() != 0:
        return "a Slurm node is run by root"
    there = CONFIGURATION / "slurm.conf"
    if there.exists():
        first = there.read_text().splitlines()[0]
        if not first.startswith(MARK):
            return f"this machine has a Slurm configuration of its own ({there})"
        if psutil.pid_exists(int(first.removeprefix(MARK))):
            return f"another run of the tests has its cluster up ({there})"
    if all(map(shutil.which, PROGRAMS)):
        return None
    if shutil.which("apt-get") is None:
        return "Slurm is not installed, and there is no apt-get to install it with"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, **quiet)
    packages = ["slurm-wlm", "munge"]
    subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], env=environment, **quiet)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"Debian's packages did not bring {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Step:
    """Beginning (`began`) or end (`ended`) of a step: the rule and wildcards of its job, the devices it was given."""

    word: str
    job: str
    devices: tuple[str, ...]


@dataclass
class Cluster:
    """A running cluster.

    Parameters
    ----------
    folder : Path
        Configuration, state and logs.
    seconds : float
        How long it took to come up.
    """

    folder: Path
    seconds: float = 0.0
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs in these states (RUNNING, PENDING, ...)."""
        return _ask("squeue", "--noheader", "--format=%A", f"--states={','.join(states)}").split()

    def steps(self) -> list[Step]:
        """What each step of a job saw, in the order in which they began and ended."""
        lines = [line.split("\t") for line in (self.folder / "steps").read_text().splitlines()]
        return [Step(word, job, tuple(filter(None, devices.split(",")))) for word, job, devices in lines]

    def start(self, name: str, *command: str) -> None:
        """Start a daemon that ends with this process, however it ends."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log, start_new_session=True
            )

    def start_node(self) -> None:
        """Start the node, and wait until it takes jobs."""
        self.start("slurmd", "slurmd", "-D")
        self.wait(lambda: _ask("sinfo", "--noheader", "--format=%t").strip() in ("idle", "mix", "alloc"))

    def lose_node(self) -> None:
        """Let the node and all that runs on it vanish, as in a power cut, and wait until the controller misses it."""
        listed = [line.split()[0] for line in _ask("scontrol", "listpids").splitlines()[1:]]
        victims = set()
        for job in (psutil.Process(int(word)) for word in listed if word.isdigit() and psutil.pid_exists(int(word))):
            victims |= {job, *(parent for parent in job.parents() if parent.name() == "slurmstepd")}
        self.daemons["slurmd"].kill()
        self.daemons.pop("slurmd").wait()
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        self.wait(lambda: "down" in _ask("sinfo", "--noheader", "--format=%t"), 180)

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for something to come true.

        Raises
        ------
        TimeoutError
            With the ends of the daemons' logs.
        """
        limit = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > limit:
                logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log"))]
                raise TimeoutError("\n".join(logs))
            time.sleep(0.05)

    def stop(self) -> None:
        """End its jobs, then its daemons."""
        if "slurmctld" in self.daemons:
            with suppress(subprocess.TimeoutExpired, TimeoutError):
                _ask("scancel", "--user=root")
                self.wait(lambda: not self.jobs("RUNNING", "COMPLETING"), 20)
        for name in ("slurmd", "slurmctld", "munged"):
            if (daemon := self.daemons.pop(name, None)) is not None:
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Bring a cluster up in a folder, and down again."""
    folder.mkdir(parents=True, exist_ok=True)
    up = Cluster(folder)
    began = time.monotonic()
    try:
        _configure(folder)
        up.start("munged", "munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}",
                 f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}",
                 f"--log-file={folder / 'munged.log'}", f"--seed-file={folder / 'munged.seed'}")  # fmt: skip
        up.wait((folder / "munge.socket").exists)
        up.start("slurmctld", "slurmctld", "-D")
        up.wait(lambda: "is UP" in _ask("scontrol", "ping"))
        up.start_node()
        up.seconds = time.monotonic() - began
        yield up
    finally:
        up.stop()
        for name in ("slurm.conf", "gres.conf"):
            (CONFIGURATION / name).unlink(missing_ok=True)


def _configure(folder: Path) -> None:
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "steps").touch()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    for i in range(GPUS):  # Slurm gives CUDA_VISIBLE_DEVICES for character devices alone; these are twins of /dev/null
        os.mknod(folder / f"gpu{i}", 0o666 | 0o020000, os.makedev(1, 3))
    for word in ("began", "ended"):
        script = folder / word
        # a step, not the script of the batch around it
        script.write_text(
            "#!/bin/sh\n"
            'case "$SLURM_STEP_ID" in 429496*|"") exit 0;; esac\n'
            f'job=$(squeue --noheader --format=%k --jobs="$SLURM_JOB_ID")\n'
            f'printf "{word}\\t%s\\t%s\\n" "$job" "$CUDA_VISIBLE_DEVICES" >> {folder / "steps"}\n'
        )
        script.chmod(0o755)
    controller, node = _free_ports(2)
    lines = {
        "ClusterName": "tests", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmctldPort": controller, "SlurmdPort": node,
        "AuthType": "auth/munge", "AuthInfo": f"socket={folder / 'munge.socket'}",
        "SlurmUser": "root", "SlurmdUser": "root",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "MpiDefault": "none",
        # no cgroups: what a job uses is looked up every second, and too much kills it
        "JobAcctGatherType": "jobacct_gather/linux", "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill", "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides", "ReturnToService": 2, "MinJobAge": 300, "KillWait": 2,
        "SlurmdTimeout": 30,
        "GresTypes": "gpu",
        "TaskProlog": folder / "began", "TaskEpilog": folder / "ended",
        # as large as a small node is, whatever this machine is
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:fake:{GPUS} State=UNKNOWN",
        "PartitionName": f"main Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    }  # fmt: skip
    gres = f"NodeName={host} Name=gpu Type=fake File={folder}/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env"
    CONFIGURATION.mkdir(exist_ok=True)
    first = f"{MARK}{os.getpid()}"
    (CONFIGURATION / "slurm.conf").write_text("\n".join([first, *(f"{k}={v}" for k, v in lines.items())]) + "\n")
    (CONFIGURATION / "gres.conf").write_text(f"{first}\n{gres}\n")


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports

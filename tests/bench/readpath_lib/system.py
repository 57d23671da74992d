"""What is asked of the machine: commands, mounts, loop devices, processes, caches,
counters, control groups. All that is started here is ended by its own id, whatever
ends the run."""
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time


class Failure(Exception):
    """Something that ends the run, in one line for the user."""


def run(*command, seconds=1800):
    """The output of a command that must succeed, and end in time."""
    try:
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Failure("%s: no end in %d s" % (command[0], seconds)) from None
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise Failure("%s: status %d: %s" % (" ".join(str(w) for w in command[:4]),
                                             done.returncode, why[-1] if why else "no message"))
    return done.stdout


class Signals:
    """SIGTERM, SIGHUP and SIGINT as exceptions, so that everything is cleaned up."""
    holding = 0
    waiting = None

    @classmethod
    def handle(cls, number, _frame):
        if not cls.holding:
            raise SystemExit(128 + number)
        cls.waiting = number


def end_on_signals():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, Signals.handle)


@contextlib.contextmanager
def held_back():
    """Signals wait while something is done or undone that must not be left half way."""
    Signals.holding += 1
    try:
        yield
    finally:
        Signals.holding -= 1
        number = Signals.waiting
        if number and not Signals.holding:
            Signals.waiting = None
            raise SystemExit(128 + number)


class Turns:
    """A lock file for machines where others measure as well. It is held over several
    measurements, but not much longer than SECONDS. Without a path: nothing."""
    SECONDS = 45

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8") if path else None
        self.since = None

    def give_up(self):
        if self.since is not None:
            fcntl.flock(self.file, fcntl.LOCK_UN)
            self.since = None

    @contextlib.contextmanager
    def taken(self):
        if self.file and self.since is None:
            fcntl.flock(self.file, fcntl.LOCK_EX)
            self.since = time.monotonic()
        try:
            yield
        finally:
            if self.since is not None and time.monotonic() - self.since > self.SECONDS:
                self.give_up()
                time.sleep(0.1)  # who waits comes first


def wait_until(seconds, condition, pause=0.005):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
    return True


def is_mounted(directory):
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return any(line.split()[4] == directory for line in file)


def unmount(directory):
    """At once, or else lazily: nothing may stay."""
    for _ in range(50):
        if not is_mounted(directory):
            return
        if subprocess.run(["umount", directory], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", directory], check=False)


def end_process(process, seconds=10):
    """Waits for a process that should end by itself, then asks, then insists."""
    for stop in (None, process.terminate, process.kill):
        if stop and process.poll() is None:
            stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds if stop is None else 5)
            return


@contextlib.contextmanager
def process(command, log=None, group=None):
    """A process in the background, in the control group `group` if one is given."""
    command = [str(word) for word in command]
    if group:
        command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', group.procs] + command
    child = None
    try:
        with open(log or os.devnull, "wb") as output, held_back():
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                     stderr=subprocess.STDOUT)
        yield child
    finally:
        if child:
            with held_back():
                child.terminate()
                end_process(child)


@contextlib.contextmanager
def mounted(directory, *arguments):
    os.makedirs(directory, exist_ok=True)
    try:
        with held_back():
            run("mount", *arguments, directory)
        yield directory
    finally:
        with held_back():
            unmount(directory)


def status_text(child):
    """How a process ended: one that its memory group killed says nothing itself."""
    status = child.poll()
    return "killed by signal %d" % -status if status and status < 0 else "status %s" % status


@contextlib.contextmanager
def daemon(command, directory, log, group=None):
    """A FUSE daemon that stays in the foreground and mounts `directory`."""
    os.makedirs(directory, exist_ok=True)
    with process(command, log, group) as child:
        def started():
            return is_mounted(directory) or child.poll() is not None

        try:
            wait_until(20, started)
            if not is_mounted(directory):
                with open(log, encoding="utf-8", errors="replace") as file:
                    why = file.read().strip().splitlines()
                raise Failure("%s: did not mount: %s" % (command[0], why[-1] if why else status_text(child)))
            yield child
        finally:
            with held_back():
                wait_until(5, started)  # what mounts later would leave its mount behind
                unmount(directory)
                end_process(child)
                unmount(directory)


@contextlib.contextmanager
def loop_device(path, read_only=True):
    """A loop device over `path` that does not cache it a second time."""
    mode = ["-r"] if read_only else []
    device = None
    try:
        with held_back():
            device = run("losetup", *mode, "--direct-io=on", "-f", "--show", path).strip()
        # Loop devices read 2560 KiB ahead; SD cards, sticks and SSDs get this.
        with open("/sys/block/%s/queue/read_ahead_kb" % os.path.basename(device), "w",
                  encoding="ascii") as file:
            file.write("128")
        yield device
    finally:
        if device:
            with held_back():
                subprocess.run(["losetup", "-d", device], check=False)


def drop_caches():
    """Clean memory pages only: what is read here was never written here."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")


def bytes_read(device):
    """What a block device has read since it was made."""
    with open("/sys/block/%s/stat" % os.path.basename(device), encoding="ascii") as file:
        return 512 * int(file.read().split()[2])


def process_cpu(pid):
    """CPU seconds of a process's threads, to the nanosecond where the kernel has it."""
    total = 0
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/schedstat" % (pid, task), encoding="ascii") as file:
                total += int(file.read().split()[0])
    except OSError:
        return 0.0
    return total / 1e9


def machine_cpu():
    """CPU seconds that the whole machine has worked, and those of them in programs
    (the kernel's own threads are not)."""
    with open("/proc/stat", encoding="ascii") as file:
        numbers = [int(n) / os.sysconf("SC_CLK_TCK") for n in file.readline().split()[1:8]]
    return sum(numbers) - numbers[3] - numbers[4], numbers[0] + numbers[1]


def peak_memory(pid):
    """The most memory a process has had resident, in bytes."""
    with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as file:
        found = re.search(r"^VmHWM:\s*(\d+) kB", file.read(), re.M)
    return 1024 * int(found.group(1)) if found else 0


class MemoryGroup:
    """A control group with a memory limit; `procs` is the file that processes enter by."""

    def __init__(self, directory):
        self.directory = directory
        self.procs = os.path.join(directory, "cgroup.procs")

    def set_limit(self, size):
        for name, value in (("memory.limit_in_bytes", size), ("memory.max", size),
                            ("memory.swap.max", 0)):
            with contextlib.suppress(OSError):
                with open(os.path.join(self.directory, name), "w", encoding="ascii") as file:
                    file.write(str(value))


def memory_hierarchy():
    """Where groups with a memory limit can be made, or None. Version 1 or 2."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split(" - ") for line in file]
    for left, right in lines:
        kind, _, options = right.split()[:3]
        directory = left.split()[4]
        if kind == "cgroup" and "memory" in options.split(","):
            return directory
        if kind == "cgroup2":
            with open(os.path.join(directory, "cgroup.subtree_control"), encoding="ascii") as control:
                if "memory" in control.read().split():
                    return directory
    return None


@contextlib.contextmanager
def memory_group(limit):
    """A group of `limit` bytes, or None where the kernel has no such thing."""
    hierarchy = memory_hierarchy()
    if not hierarchy:
        yield None
        return
    group = MemoryGroup(os.path.join(hierarchy, "modelfs-bench-%d" % os.getpid()))
    os.mkdir(group.directory)
    try:
        group.set_limit(limit)
        yield group
    finally:
        with held_back():
            def removed():
                with contextlib.suppress(OSError):
                    os.rmdir(group.directory)
                return not os.path.exists(group.directory)
            wait_until(10, removed, 0.05)

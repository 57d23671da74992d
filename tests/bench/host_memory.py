"""Memory that a virtual machine has from its host, and keeps while something is measured."""
import contextlib
import mmap

REPORTING = "/sys/module/page_reporting/parameters/page_reporting_order"


def set_order(order):
    try:
        with open(REPORTING, "w", encoding="ascii") as file:
            file.write(order)
    except OSError:
        return False
    return True


def available():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvail"))


@contextlib.contextmanager
def kept(size):
    """A virtual machine may give free memory back to its host every few seconds (free page
    reporting). What touches it next then pays for a fault of the host at each memory page,
    and the slower a medium the more of it has gone: up to 2.6 CPU s/GB were seen. So
    nothing is given back meanwhile, as far as root may tell the kernel, and `size` bytes
    (at most half of what there is) are had from the host beforehand."""
    try:
        with open(REPORTING, encoding="ascii") as file:
            before = file.read().strip()
    except OSError:  # no such machine
        yield
        return
    # Blocks of 2^order memory pages are given back, and there are none of 2^11.
    if not set_order("11") and not set_order("10"):
        yield
        return
    try:
        with mmap.mmap(-1, min(size, available() // 2),
                       flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
            pass
        yield
    finally:
        set_order(before)

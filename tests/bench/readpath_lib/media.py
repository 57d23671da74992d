"""Slow media: an image in memory, behind a FUSE file with a timing model, behind a
loop device that reads it directly."""
import collections
import contextlib
import json
import os

from . import system

Preset = collections.namedtuple("Preset", "latency_us mbps channels profile")

# Of the profile: what containers for this medium are packed for.
PRESETS = {
    "sd25": Preset(800, 25, 1, "sd"),
    "sd90": Preset(500, 90, 1, "sd"),
    "usb100": Preset(600, 100, 1, "usb"),
    "sata500": Preset(80, 500, 32, "sata"),
    "nvme3000": Preset(60, 3000, 64, "nvme"),
    "none": None,
}
REQUESTS = ("128k", "256k", "512k", "1m", "2m", "4m")
DEPTHS = (1, 2, 4, 8)


def profile_of(medium):
    return PRESETS[medium].profile if PRESETS[medium] else "nvme"


class Medium:
    """A block device with an image on it; `emulator` is the process behind it or None."""

    def __init__(self, device, emulator):
        self.device = device
        self.emulator = emulator

    def emulator_cpu(self):
        return system.process_cpu(self.emulator.pid) if self.emulator else 0.0


@contextlib.contextmanager
def opened(preset, image, place, slowfile):
    """`image` on a medium; `place` is a directory for what that takes."""
    with contextlib.ExitStack() as stack:
        emulator = None
        if preset:
            directory = os.path.join(place, "medium")
            emulator = stack.enter_context(system.daemon(
                [slowfile, "--latency-us", preset.latency_us, "--mbps", preset.mbps,
                 "--channels", preset.channels, image, directory],
                directory, os.path.join(place, "slowfile.log")))
            image = os.path.join(directory, "medium")
        yield Medium(stack.enter_context(system.loop_device(image)), emulator)


def fio_rates(device, settings, seconds):
    """{(request, depth): MB/s} of sequential O_DIRECT reads, one setting after another."""
    words = ["fio", "--filename=" + device, "--readonly", "--rw=read", "--direct=1",
             "--ioengine=libaio", "--thread", "--time_based",
             "--runtime=%dms" % round(1000 * seconds),
             "--ramp_time=%dms" % round(1000 * min(seconds, 0.2)), "--output-format=json"]
    for request, depth in settings:
        words += ["--name=%s-%d" % (request, depth), "--stonewall", "--bs=" + request,
                  "--iodepth=%d" % depth]
    output = system.run(*words)
    jobs = json.loads(output[output.index("{"):])["jobs"]
    return {setting: job["read"]["bw_bytes"] / 1e6 for setting, job in zip(settings, jobs)}


def fio_sweep(preset, image, place, slowfile, seconds):
    """{(request, depth): MB/s} of a medium."""
    settings = [(request, depth) for request in REQUESTS for depth in DEPTHS]
    with opened(preset, image, place, slowfile) as medium:
        return fio_rates(medium.device, settings, seconds)


def emulator_limit(image, place, slowfile, seconds):
    """MB/s that the emulation reaches without any limit: it must not be what is measured."""
    with opened(Preset(0, 0, 256, None), image, place, slowfile) as medium:
        return max(fio_rates(medium.device, [("1m", 4), ("512k", 8)], seconds).values())

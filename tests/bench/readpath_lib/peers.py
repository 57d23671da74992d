"""What is compared: how each makes an image of a model, and how it is mounted."""
import collections
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

from . import media, system


SYSTEM_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


class Missing(Exception):
    """A peer's program is not there. The run goes on and fails at its end."""


# The file that is read, the daemon or None, and where that one is mounted.
Mounted = collections.namedtuple("Mounted", "path daemon root", defaults=(None,))


class Peer:
    """`key` tells apart images of the same model. `prepare` raises Missing."""
    name = None
    optional = False
    scenarios = None   # None: all but those of runs.SPECIAL
    also = ()          # of runs.SPECIAL
    only_media = None  # None: all

    def __init__(self, bench):
        self.bench = bench

    def prepare(self, medium):
        """What must be there; returns the version for the report."""
        return ""

    def key(self, medium):
        return self.name

    def make(self, model, image, medium):
        """Writes `image`, returns the bytes that the model takes in it."""
        raise NotImplementedError

    def beside(self, path):
        """What runs beside the client, a command or None."""
        return None

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        raise NotImplementedError
        yield


def need_program(name):
    found = shutil.which(name, path=SYSTEM_PATH)
    if not found:
        raise Missing("%s is not installed" % name)
    return found


def ext4_image(image, files):
    """An ext4 of just the size for `files` (name -> path), without a journal."""
    size = sum(os.path.getsize(path) for path in files.values())
    with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
        for name, path in files.items():
            os.link(path, os.path.join(directory, name))
        system.run(need_program("mke2fs"), "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
                   "-d", directory, image, "%dk" % ((size + size // 16) // 1024 + (32 << 10)))


class Plain(Peer):
    name = "plain"
    also = ("tokens", "order", "moe")

    def make(self, model, image, medium):
        ext4_image(image, {"model.gguf": model})
        return os.path.getsize(model)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        directory = os.path.join(place, "mnt")
        with system.mounted(directory, "-t", "ext4", "-o", "ro", device):
            yield Mounted(os.path.join(directory, "model.gguf"), None)


class PlainCat(Plain):
    """The rival that users know: `cat model >/dev/null &` during the load."""
    name = "plain+cat"
    scenarios = ("mmap", "load")
    also = ()

    def key(self, medium):
        return "plain"

    def beside(self, path):
        return ["cat", path]


class Erofs(Peer):
    cluster = None

    def program(self):
        """The user's own, the system's, or one that is built: the first that knows zstd."""
        built = os.path.join(self.bench.options.work, "erofs", "mkfs.erofs")
        known = [os.environ.get("MKFS_EROFS"), shutil.which("mkfs.erofs", path=SYSTEM_PATH), built]
        for program in filter(None, known):
            if self.has_zstd(program):
                return program
        done = subprocess.run([os.path.join(os.path.dirname(__file__), "..", "mkfs-erofs.sh"),
                               os.path.dirname(built)], stdout=sys.stderr, check=False)
        if done.returncode or not self.has_zstd(built):
            raise Missing("no mkfs.erofs with zstd (erofs-utils >= 1.8); MKFS_EROFS=PATH names one")
        return built

    @staticmethod
    def has_zstd(program):
        try:
            return "zstd" in subprocess.run([program, "--help"], capture_output=True, text=True,
                                            check=False).stdout
        except OSError:
            return False

    def prepare(self, medium):
        first = subprocess.run([self.program(), "-V"], capture_output=True, text=True,
                               check=False).stdout.splitlines()
        return first[0].strip() if first else ""

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            os.link(model, os.path.join(directory, "model.gguf"))
            # mkfs.erofs 1.9.3 compresses nothing unless it is told a level.
            system.run(self.program(), "-zzstd,level=3", "-C%d" % self.cluster, "-T0", image, directory)
        return os.path.getsize(image)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        directory = os.path.join(place, "mnt")
        with system.mounted(directory, "-t", "erofs", "-o", "ro", device):
            yield Mounted(os.path.join(directory, "model.gguf"), None)


class Erofs64K(Erofs):
    name = "erofs-64k"
    cluster = 65536


class Erofs1M(Erofs):
    name = "erofs-1m"
    cluster = 1 << 20


class Squashfs(Peer):
    name = "squashfs"

    def prepare(self, medium):
        text = subprocess.run([need_program("mksquashfs"), "-version"], capture_output=True,
                              text=True, check=False).stdout
        return text.splitlines()[0] if text else ""

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            os.link(model, os.path.join(directory, "model.gguf"))
            system.run(need_program("mksquashfs"), directory, image, "-comp", "zstd", "-b", "128K",
                       "-noappend", "-quiet", "-no-progress")
        return os.path.getsize(image)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        directory = os.path.join(place, "mnt")
        with system.mounted(directory, "-t", "squashfs", "-o", "ro", device):
            yield Mounted(os.path.join(directory, "model.gguf"), None)


class Btrfs(Peer):
    name = "btrfs"

    def prepare(self, medium):
        return system.run(need_program("mkfs.btrfs"), "--version").strip()

    def make(self, model, image, medium):
        size = os.path.getsize(model)
        with open(image, "wb") as file:
            file.truncate(size + size // 4 + (256 << 20))
        system.run(need_program("mkfs.btrfs"), "-q", "-m", "single", "-d", "single", image)
        directory = image + ".mnt"
        with system.loop_device(image, read_only=False) as device:
            with system.mounted(directory, "-t", "btrfs", "-o", "compress-force=zstd", device):
                before = self.used(directory)
                shutil.copyfile(model, os.path.join(directory, "model.gguf"))
                system.run("sync", "-f", directory)
                stored = self.used(directory) - before
        os.rmdir(directory)
        return stored

    @staticmethod
    def used(directory):
        system.run("sync", "-f", directory)
        text = system.run(need_program("btrfs"), "filesystem", "df", "-b", directory)
        return sum(int(n) for n in re.findall(r"^(?:Data|Metadata).*used=(\d+)", text, re.M))

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        directory = os.path.join(place, "mnt")
        with system.mounted(directory, "-t", "btrfs", "-o", "ro", device):
            yield Mounted(os.path.join(directory, "model.gguf"), None)


class Dwarfs(Peer):
    name = "dwarfs"
    optional = True

    def prepare(self, medium):
        need_program("dwarfs")
        need_program("mkdwarfs")
        return "dwarfs"

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            os.mkdir(os.path.join(directory, "in"))
            os.link(model, os.path.join(directory, "in", "model.gguf"))
            packed = os.path.join(directory, "model.dwarfs")
            system.run(need_program("mkdwarfs"), "-i", os.path.join(directory, "in"), "-o", packed)
            ext4_image(image, {"model.dwarfs": packed})
            return os.path.getsize(packed)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        lower, upper = os.path.join(place, "lower"), os.path.join(place, "mnt")
        with system.mounted(lower, "-t", "ext4", "-o", "ro", device):
            command = ["dwarfs", os.path.join(lower, "model.dwarfs"), upper, "-f"]
            with system.daemon(command, upper, os.path.join(place, "dwarfs.log"), group) as child:
                yield Mounted(os.path.join(upper, "model.gguf"), child)


class FuseOnly(Plain):
    """What FUSE itself reaches: a daemon that answers from memory, over the same
    connection as modelfs, no faster than the medium allows modelfs to be."""
    name = "fuse-only"
    scenarios = ("mmap", "load", "direct", "threads", "warm")
    also = ("tokens",)

    def key(self, medium):
        return "plain"

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        directory = os.path.join(place, "mnt")
        command = [self.bench.programs["fuse_alone"], self.bench.model(model), directory]
        if medium in self.bench.rates:
            _, stored = self.bench.image(Modelfs(self.bench), model, medium)
            ratio = os.path.getsize(self.bench.model(model)) / stored
            command.append(ratio * self.bench.rates[medium])
        with system.daemon(command, directory, os.path.join(place, "fuse.log")) as child:
            yield Mounted(os.path.join(directory, "model"), child)


class Modelfs(Peer):
    """Packed with the profile of the medium, or with one that is given."""
    name = "modelfs"
    profile = None
    pack_options = ()
    also = ("tokens", "order", "moe")

    def programs(self):
        return self.bench.programs

    def prepare(self, medium):
        return system.run(self.programs()["modelfs"], "--version").strip()

    def profile_for(self, medium):
        return self.profile or media.profile_of(medium)

    def daemon_option(self, kind):
        """What this peer tells the daemon after -o, or None."""
        return None

    def key(self, medium):
        with open(self.programs()["mkmodelfs"], "rb") as file:
            packer = hashlib.sha256(file.read()).hexdigest()[:12]
        return "-".join(("modelfs", self.profile_for(medium), *self.pack_options, packer)).replace(
            "--", "").replace("=", "")

    def order_options(self, model):
        """What tells mkmodelfs in which order to store this model."""
        return []

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            container = os.path.join(directory, "model.mfs")
            system.run(self.programs()["mkmodelfs"], "--quiet", "--profile",
                       self.profile_for(medium), *self.pack_options, *self.order_options(model),
                       container, "model.gguf=" + model)
            ext4_image(image, {"model.mfs": container})
            return os.path.getsize(container)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        lower, upper = os.path.join(place, "lower"), os.path.join(place, "mnt")
        with system.mounted(lower, "-t", "ext4", "-o", "ro", device):
            options = [o for o in (self.bench.options.modelfs_options, extra,
                                   self.daemon_option(model)) if o]
            command = [self.programs()["modelfs"], "-f"]
            command += ["-o", ",".join(options)] if options else []
            command += [os.path.join(lower, "model.mfs"), upper]
            with system.daemon(command, upper, os.path.join(place, "modelfs.log"), group) as child:
                yield Mounted(os.path.join(upper, "model.gguf"), child)


class ModelfsSd(Modelfs):
    """An SD container where there is no slow medium: the codecs at full speed."""
    name = "modelfs-sd"
    also = ()
    profile = "sd"
    only_media = ("none",)


class ModelfsPlain(Modelfs):
    """Stored as it is: what serving costs without decoding."""
    name = "modelfs-plain"
    pack_options = ("--codec=plain",)
    scenarios = ("mmap",)
    also = ()
    only_media = ("nvme3000", "none")


def framed(size):
    """Modelfs with frames of this size: what they cost in ratio and in latency."""
    class Framed(Modelfs):
        name = "modelfs-" + size
        pack_options = ("--frame-size=" + size,)
        scenarios = ("frames",)
        also = ()
        only_media = ("sd90", "none")
    return Framed


class Modelfs64K(Modelfs):
    name = "modelfs-64k"
    pack_options = ("--frame-size=64K",)
    scenarios = ("random",)
    also = ()


class ModelfsNoPrefetch(Modelfs):
    """Reads what is asked for: what fetching ahead in the order of execution, and whole
    experts, is worth."""
    name = "modelfs-noprefetch"
    scenarios = ("order", "moe")
    also = ()

    def daemon_option(self, kind):
        return "noprefetch"


class ModelfsReplay(Modelfs):
    """Fetches ahead by what an earlier mount recorded."""
    name = "modelfs-replay"
    scenarios = ("order", "moe")
    also = ()

    def daemon_option(self, kind):
        return "replay=" + self.bench.trace_of(kind)


class ModelfsOrder(ModelfsReplay):
    """And the container is stored in that order."""
    name = "modelfs-order"

    def key(self, medium):
        return super().key(medium) + "-order"

    def order_options(self, model):
        return ["--order", self.bench.trace_of(self.bench.kind_of(model))]


class ModelfsView(Modelfs):
    """A model with an adapter; what is read is the merged model, computed meanwhile."""
    name = "modelfs-view"
    scenarios = ("view",)
    also = ()
    view = os.path.join("merged", "x.f16.gguf")

    def key(self, medium):
        return super().key(medium) + "-view"

    def pack(self, model, directory, medium):
        """The path of a container with the model, an adapter and their view."""
        adapter = os.path.join(directory, "x.gguf")
        container = os.path.join(directory, "model.mfs")
        self.bench.write_adapter(model, adapter)
        system.run(self.programs()["mkmodelfs"], "--quiet", "--profile",
                   self.profile_for(medium), "--views", "f16", container, "model.gguf=" + model,
                   "--lora", "x=" + adapter)
        return container

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            container = self.pack(model, directory, medium)
            ext4_image(image, {"model.mfs": container})
            return os.path.getsize(container)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        with super().mount(device, place, model, medium, group, extra) as mounted:
            root = os.path.dirname(mounted.path)
            yield Mounted(os.path.join(root, self.view), mounted.daemon, root)


class PlainView(ModelfsView):
    """The merged model as a plain file: what a view saves reading."""
    name = "plain-view"

    def key(self, medium):
        return "plain-view"

    def make(self, model, image, medium):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as directory:
            container = self.pack(model, directory, medium)
            system.run(self.programs()["modelfs-extract"], "-C", directory, container, self.view)
            merged = os.path.join(directory, self.view)
            ext4_image(image, {"model.gguf": merged})
            return os.path.getsize(merged)

    @contextlib.contextmanager
    def mount(self, device, place, model, medium, group, extra):
        with Plain.mount(self, device, place, model, medium, group, extra) as mounted:
            yield mounted

ALL = (Plain, PlainCat, Erofs64K, Erofs1M, Squashfs, Btrfs, Dwarfs, FuseOnly, Modelfs,
       ModelfsSd, ModelfsPlain, Modelfs64K, PlainView, ModelfsView, ModelfsNoPrefetch,
       ModelfsReplay, ModelfsOrder)
FRAMES = tuple(framed(size) for size in ("16K", "32K", "64K", "128K", "256K", "512K", "1M"))


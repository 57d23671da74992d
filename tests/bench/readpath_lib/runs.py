"""One cell of the table: a peer, a model, a medium and a pattern, measured cold."""
import contextlib
import json
import os
import shlex
import shutil
import tempfile
import time

from . import media, system

MIB = 1 << 20

# What each scenario asks of the client, and what it is called in tables.
SCENARIOS = {
    "mmap": "sequential mmap, one byte of each memory page",
    "load": "llama.cpp's load: header, MAP_POPULATE, WILLNEED, then mmap",
    "direct": "O_DIRECT reads of 1 MiB",
    "random": "random 4 KiB faults, MADV_RANDOM",
    "warm": "warm: touching cached memory pages through new mappings",
    "threads": "8 readers, each its eighth, mmap",
    "frames": "frame size against ratio and latency: random 4 KiB faults",
    "small-ram": "larger than RAM: passes over a model of twice the memory limit",
    "tokens": "llama.cpp generates, the model in memory: tokens a second",
    "view": "merged F16 view of model and adapter, sequential mmap",
    "order": "the first token of a model that llama-quantize sorted, in order of execution",
    "moe": "the first four tokens of a mixture of 8 experts, each of two in a layer",
}
# Only peers that name them take part in these, and only on these media.
SPECIAL = {"frames": ("sd90", "none"), "tokens": ("none",), "view": ("sd90", "none"),
           "order": ("sd90",), "moe": ("sd90",)}
# Scenarios with models of their own, and how mkllama makes those.
VARIANTS = {"order": "sorted", "moe": "experts"}
VARIANT_OPTIONS = {"sorted": ["--sorted"], "experts": ["--sorted", "--experts", "8"]}
TOKENS = {"sorted": 1, "experts": 4}
HERE = os.path.dirname(os.path.abspath(__file__))


class Bench:
    """Options, programs and places of a run."""

    def __init__(self, options, programs):
        self.options = options
        self.programs = programs
        self.images = os.path.join(options.work, "images")
        self.turns = system.Turns(options.lock)
        self.ram = None  # directory in memory, while running
        self.rates = {}  # medium, if it has a limit -> the best MB/s that fio reached
        self.failed = {}  # image -> why it could not be made
        self.help = system.run(programs["modelfs"], "--help")
        self.client = None  # words that start a script with llama.cpp

    def cache_option(self, limit):
        """What tells modelfs to keep compressed chunks when memory is limited."""
        return "cache=auto" if limit and "cache=" in self.help else None

    def llama_client(self):
        """How to run tokens.mjs; Failure where llama.cpp cannot be had."""
        if not self.client:
            self.turns.give_up()
            text = system.run(os.path.join(HERE, "..", "..", "..", "scripts", "llama-client.sh"))
            found = dict(word.split("=", 1) for word in shlex.split(text))
            self.client = ["env", "MFS_NODE_MODULES=" + found["MFS_NODE_MODULES"],
                           found["MFS_NODE"], os.path.join(HERE, "tokens.mjs")]
        return self.client

    # ---- models and images ----

    def model_bytes(self):
        """How large models are, about."""
        digits = self.options.size.rstrip("KMG")
        return int(digits) << {"": 0, "K": 10, "M": 20, "G": 30}[self.options.size[len(digits):]]

    def model(self, kind):
        """The path of a model of this kind (TYPE or TYPE-VARIANT), made if need be."""
        directory = os.path.join(self.options.work, "models")
        path = os.path.join(directory, "%s-%s.gguf" % (kind, self.options.size))
        if not os.path.exists(path):
            self.turns.give_up()
            os.makedirs(directory, exist_ok=True)
            system.run(*self.mkllama(kind), path + ".part")
            os.rename(path + ".part", path)
        return path

    def mkllama(self, kind):
        quantization, _, variant = kind.partition("-")
        return ([self.programs["mkllama"], "--type", quantization, "--size", self.options.size,
                 "--seed", 4] + VARIANT_OPTIONS.get(variant, []))

    def kind_of(self, model):
        """What model() made the file of."""
        return os.path.basename(model)[:-len("-%s.gguf" % self.options.size)]

    def write_adapter(self, model, path):
        """Writes an adapter for one of the models that model() makes."""
        system.run(*self.mkllama(self.kind_of(model)), "--lora", path, path + ".model")
        os.unlink(path + ".model")

    def map_of(self, kind):
        """A container that tells where the tensors of a model lie."""
        path = os.path.join(self.images, "%s-%s.map.mfs" % (kind, self.options.size))
        if not os.path.exists(path):
            self.turns.give_up()
            os.makedirs(self.images, exist_ok=True)
            system.run(self.programs["mkmodelfs"], "--quiet", "--force", "--codec=plain",
                       path + ".part", "model.gguf=" + self.model(kind))
            os.rename(path + ".part", path)
        return path

    def trace_of(self, kind):
        """What modelfs records while the tokens of this kind of model are computed."""
        path = os.path.join(self.images, "%s-%s.trace" % (kind, self.options.size))
        if not os.path.exists(path):
            with tempfile.TemporaryDirectory(prefix="modelfs-readpath-") as place:
                upper, kept = os.path.join(place, "mnt"), os.path.join(place, "trace")
                command = [self.programs["modelfs"], "-f", "-o", "record=" + kept,
                           self.map_of(kind), upper]
                with system.daemon(command, upper, os.path.join(place, "modelfs.log")):
                    system.run(*self.tokenpass(kind, os.path.join(upper, "model.gguf")))
                shutil.copyfile(kept, path + ".part")
            os.rename(path + ".part", path)
        return path

    def tokenpass(self, kind, path):
        """The client that touches a model as llama.cpp does; the same tokens each time."""
        return [self.programs["tokenpass"], "-j", "-t", os.cpu_count(), "-s", 5, "-n",
                TOKENS[kind.partition("-")[2]], self.map_of(kind), "model.gguf", path]

    def image(self, peer, kind, medium):
        """(image file, bytes that the model takes in it); both are kept."""
        name = "%s-%s-%s" % (kind, self.options.size, peer.key(medium))
        path = os.path.join(self.images, name)
        if path in self.failed:
            raise self.failed[path]
        if not os.path.exists(path + ".json"):
            self.turns.give_up()
            try:
                self.make_image(peer, kind, medium, path)
            except system.Failure as failure:
                self.failed[path] = failure
                raise
        with open(path + ".json", encoding="ascii") as file:
            stored = json.load(file)["stored"]
        return path, stored

    def make_image(self, peer, kind, medium, path):
        os.makedirs(self.images, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".part")
        stored = peer.make(self.model(kind), path + ".part", medium)
        os.rename(path + ".part", path)
        with open(path + ".json", "w", encoding="ascii") as file:
            json.dump({"stored": stored}, file)

    def in_memory(self, path):
        """A copy of an image that no disk slows down."""
        copy = os.path.join(self.ram, os.path.basename(path))
        if not os.path.exists(copy):
            system.run("cp", "--sparse=always", path, copy + ".part")
            os.rename(copy + ".part", copy)
        return copy

    def forget_images(self, kind):
        for name in os.listdir(self.ram):
            if name.startswith(kind + "-"):
                os.unlink(os.path.join(self.ram, name))


def client_command(bench, kind, scenario, path, device):
    if scenario == "tokens":
        return bench.llama_client() + [path]
    if scenario in VARIANTS:
        return bench.tokenpass(kind, path)
    words = [bench.programs["loadpattern"]]
    pattern = scenario
    if scenario == "small-ram":
        pattern = "passes"
        words += ["--passes", bench.options.passes, "--counter",
                  "/sys/block/%s/stat" % os.path.basename(device)]
    elif scenario in ("random", "frames"):
        pattern = "random"
        words += ["--faults", bench.options.faults, "--seconds", bench.options.random_seconds]
    elif scenario == "warm":
        words += ["--passes", 4]
    elif scenario == "view":
        pattern = "mmap"
    return words + [pattern, path]


def daemon_stats(mounted):
    """What a modelfs daemon counts itself; empty for others."""
    directory = mounted.root or os.path.dirname(mounted.path)
    try:
        with open(os.path.join(directory, ".modelfs", "stats.json"), encoding="utf-8") as file:
            return json.load(file)
    except OSError:
        return {}


def daemon_figures(mounted):
    """Peak memory, and what of it is more than was asked for."""
    if not mounted.daemon:
        return {}
    figures = {"peak_memory": system.peak_memory(mounted.daemon.pid)}
    stats = daemon_stats(mounted)
    if stats:
        figures["stats"] = stats
        figures["cache_bytes"] = stats["cache_used_bytes"]
        figures["beyond_memory"] = (figures["peak_memory"] - stats["arena_bytes"] -
                                    stats["index_loaded_bytes"] - figures["cache_bytes"])
    return figures


def run_client(bench, medium, mounted, beside, kind, scenario, group):
    """The client's own figures, and CPU seconds of all that took part."""
    daemon = mounted.daemon
    daemon_cpu = system.process_cpu(daemon.pid) if daemon else 0.0
    emulator_cpu = medium.emulator_cpu()
    before = system.bytes_read(medium.device)
    command = client_command(bench, kind, scenario, mounted.path, medium.device)
    if group:
        command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', group.procs] + command
    with contextlib.ExitStack() as stack:
        start = system.machine_cpu()
        other = stack.enter_context(system.process(beside)) if beside else None
        result = json.loads(system.run(*command))
        worked = [after - at for after, at in zip(system.machine_cpu(), start)]
        result["beside_cpu"] = system.process_cpu(other.pid) if other else 0.0
    result["daemon_cpu"] = (system.process_cpu(daemon.pid) - daemon_cpu) if daemon else 0.0
    emulator_cpu = medium.emulator_cpu() - emulator_cpu
    result["machine_cpu"] = worked[0] - emulator_cpu
    result["cores_busy"] = worked[0] / result["seconds"]
    # At least: some of what is taken away was the kernel's work.
    result["others_cpu"] = max(0.0, worked[1] - emulator_cpu - result["cpu_seconds"] -
                               result["daemon_cpu"] - result["beside_cpu"])
    result["medium_bytes"] = system.bytes_read(medium.device) - before
    return result


def run_warm(bench, medium, mounted):
    """The same for a file that is cached, and how many READs reached the daemon then."""
    system.run(bench.programs["loadpattern"], "mmap", mounted.path)
    before = daemon_stats(mounted)
    result = run_client(bench, medium, mounted, None, None, "warm", None)
    if before:
        result["warm_reads"] = daemon_stats(mounted)["reads"] - before["reads"]
    return result


def prepare(bench, kind, peer, medium_name, scenario):
    """Makes what a measurement needs: the kind of its model, its image, bytes stored."""
    if scenario == "tokens":
        bench.llama_client()
    if scenario in VARIANTS:
        kind = "%s-%s" % (kind, VARIANTS[scenario])
        bench.map_of(kind)
        bench.trace_of(kind)
    return kind, *bench.image(peer, kind, medium_name)


def measure(bench, medium_name, kind, peer, scenario):
    """A cold run; the dictionary of its figures. MB are 10^6 bytes of the model."""
    kind, image, stored = prepare(bench, kind, peer, medium_name, scenario)
    in_memory = bench.in_memory(image)
    model_size = os.path.getsize(bench.model(kind))
    limit = model_size // 2 if scenario == "small-ram" else None
    extra = bench.cache_option(limit) if limit else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.turns.taken())
        start = time.monotonic()
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="modelfs-readpath-"))
        group = stack.enter_context(system.memory_group(limit)) if limit else None
        if limit and not group:
            return {"missing": "no memory control group"}
        medium = stack.enter_context(media.opened(media.PRESETS[medium_name], in_memory, place,
                                                  bench.programs["slowfile"]))
        mounted = stack.enter_context(peer.mount(medium.device, place, kind, medium_name, group,
                                                 extra))
        # Device and mount are new, so nothing of them is cached but their heads.
        if not bench.options.keep_caches:
            system.drop_caches()
        try:
            if scenario == "warm":
                result = run_warm(bench, medium, mounted)
            else:
                result = run_client(bench, medium, mounted, peer.beside(mounted.path), kind,
                                    scenario, group)
        except system.Failure as failure:
            if scenario == "direct" and "Invalid argument" in str(failure):
                return {"refused": "no O_DIRECT"}
            raise
        result.update(daemon_figures(mounted), took=time.monotonic() - start)
    original = result["bytes"] if scenario == "view" else model_size
    result.update(stored=stored, original=original, limit=limit)
    add_figures(result)
    if scenario == "tokens":  # loading lies outside of the time measured
        result.update(others=None, machine_cpu_per_gb=None, cores_busy=None)
    if result.get("faults", bench.options.faults) < bench.options.faults:
        del result["sum"]  # the time was over: a sum over other places
    return result


def add_figures(result):
    """Figures that follow from others. A pass counts from the second one on."""
    gigabytes = result["bytes"] / 1e9
    result["rate"] = 1000 * gigabytes / result["seconds"]
    result["medium_mb"] = result["medium_bytes"] / 1e6
    result["cpu_per_gb"] = (result["cpu_seconds"] + result["daemon_cpu"] +
                            result["beside_cpu"]) / gigabytes
    result["others"] = result["others_cpu"] / result["seconds"] / os.cpu_count()
    result["machine_cpu_per_gb"] = result["machine_cpu"] / gigabytes
    later = result.get("passes", [])[1:]
    if later:
        result["pass_seconds"] = sum(one["seconds"] for one in later) / len(later)
        result["pass_bytes"] = sum(one["medium_bytes"] for one in later) / len(later)
        result["pass_mb"] = result["pass_bytes"] / 1e6
        result["pass_share"] = result["pass_bytes"] / max(1, result["stored"] -
                                                          result.get("cache_bytes", 0))
    if "stats" in result:
        result["decode_per_gb"] = result["stats"]["decoding_us"] / 1e6 / gigabytes

"""A second reader of modelfs containers, written from spec/modelfs-format.md alone.

second_reader.py CONTAINER DIRECTORY    verifies everything, extracts all files
second_reader.py --list CONTAINER       verifies everything, prints it as JSON

Exit status 77: python3-zstandard or python3-xxhash is not installed. 1: the
container is refused, or damaged. It is slow and meant to be read.
"""
import hashlib
import json
import operator
import os
import struct
import sys
from collections import namedtuple

try:
    import xxhash
    import zstandard
except ImportError as missing:
    print(f"SKIP: {missing}", file=sys.stderr)
    sys.exit(77)

KIB, MIB = 1 << 10, 1 << 20
MAX_SIZE = 1 << 62
NOR = 6
NO_TABLES = 0xFFFFFFFF
WEIGHTS, CONSTANTS, PLAIN = 0, 1, 3
CLASSES = ("weights", "constants", "adapter", "plain", "metadata")
CODINGS = ("raw", "zero", "zstd", "literals", "shared")
PROFILES = ("sd", "emmc", "usb", "sata", "nvme", "nand", "nor")
FORMATS = ("opaque", "gguf", "safetensors")


class Damaged(Exception):
    """The container, or a part of it, breaks a rule."""


class Unsupported(Damaged):
    """Made by newer software."""


def require(condition, rule):
    if not condition:
        raise Damaged(rule)


def xxh3_128(data):
    return xxhash.xxh3_128_digest(data)


def ceil_div(a, b):
    return -(-a // b)


# Section 4

Superblock = namedtuple("Superblock", "magic own_offset version profile page_size feature_compat "
                        "feature_incompat generation container_size root_offset1 root_offset2 "
                        "root_size frame_size root_hash uuid")
SUPERBLOCK = struct.Struct("<QQHHIIIQQQQII16s16s")


def superblock(data, offset):
    data = data[offset:offset + 4096]
    require(len(data) == 4096, "no superblock here")
    sb = Superblock._make(SUPERBLOCK.unpack_from(data))
    require(sb.magic == 0x0A1A53464C444F4D, "no magic")
    require(xxhash.xxh3_64_intdigest(data[:4088]) == struct.unpack_from("<Q", data, 4088)[0],
            "superblock hash")
    require(sb.own_offset == offset, "own offset")
    if sb.version != 1 or sb.feature_incompat:
        raise Unsupported("made by newer software")
    require(512 <= sb.page_size <= MIB and not sb.page_size & (sb.page_size - 1), "page size")
    require(sb.container_size <= MAX_SIZE and not sb.container_size % sb.page_size and
            not sb.container_size % 4096, "container size")
    require(104 <= sb.root_size <= 16 * MIB, "root size")
    for root in (sb.root_offset1, sb.root_offset2):
        require(root + sb.root_size <= sb.container_size, "root outside of the container")
    return sb


# Section 6 to 10

Layout = namedtuple("Layout", "name_offset name_length field_count first_field block_bytes "
                    "block_weights type_id")
Field = namedtuple("Field", "name_offset name_length cls transform width bits reserved offset size")
File = namedtuple("File", "name_offset name_length format size first_extent extent_count "
                  "mtime_seconds mtime_nanoseconds flags hash")
Extent = namedtuple("Extent", "file_offset length source_offset tensor kind reserved")
Tensor = namedtuple("Tensor", "name_offset name_length cls flags layout file first_dim dim_count "
                    "file_offset size slice_blocks span_blocks reserved hash slots")
Slot = namedtuple("Slot", "first base tables reserved")
Tables = namedtuple("Tables", "offset size reserved hash")
Segment = namedtuple("Segment", "offset1 offset2 size kind reserved hash")
Chunk = namedtuple("Chunk", "offset decoded_size stored_size frames cls codec reserved reserved2")

SECTIONS = (("layouts", Layout, "<IHHIIII"), ("fields", Field, "<IHBBBBHII"),
            ("files", File, "<IHHQQQqII16s"), ("extents", Extent, "<QQQIHH"),
            ("tensors", Tensor, "<IHBBIIIIQQQII16s48s"), ("dims", None, "<Q"),
            ("tables", Tables, "<QIIQ"), ("segments", Segment, "<QQIHH16s"), ("names", None, "<c"))
CHUNK = struct.Struct("<QQIIBBHI")


class Root:
    def __init__(self, data, sb):
        self.container_size = sb.container_size
        magic, reserved, generation, self.frames, self.chunks = struct.unpack_from("<IIQQQ", data)
        require(magic == 0x5253464D and reserved == 0, "root magic")
        require(generation == sb.generation, "root of another generation")
        end = 104
        for i, (name, kind, form) in enumerate(SECTIONS):
            offset, count = struct.unpack_from("<II", data, 32 + 8 * i)
            form = struct.Struct(form)
            require(offset % 8 == 0 and offset >= end, f"section {name}")
            end = offset + count * form.size
            require(end <= len(data), f"section {name} outside of the root")
            if name == "names":
                self.names = data[offset:end]
                continue
            records = [form.unpack_from(data, offset + k * form.size) for k in range(count)]
            setattr(self, name, [kind._make(r) for r in records] if kind else
                    [r[0] for r in records])
        self.tensors = [t._replace(slots=[Slot._make(struct.unpack_from("<QQII", t.slots, 24 * s))
                                          for s in range(2)]) for t in self.tensors]
        self.check()

    def raw_name(self, record):
        require(record.name_offset + record.name_length <= len(self.names), "name outside")
        return self.names[record.name_offset:record.name_offset + record.name_length]

    def name(self, record):
        raw = self.raw_name(record)
        require(b"\0" not in raw, "NUL in a name")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("name is not UTF-8") from None

    def check(self):
        require(len(self.layouts) <= 256, "too many layouts")
        named = self.layouts + self.files + self.tensors
        require(sum(r.name_length + 1 for r in named) <= 64 * MIB, "names too long")
        self.cuts = [Cut(self, layout) for layout in self.layouts]
        for tables in self.tables:
            require(1 <= tables.size <= MIB and not tables.reserved and
                    tables.offset + tables.size <= self.container_size, "tables")
        self.check_files()
        file = 0
        for tensor in self.tensors:
            self.check_tensor(tensor)
            require(tensor.file >= file, "tensors out of the order of their files")
            file = tensor.file
        self.check_extents()
        self.check_segments()

    def check_files(self):
        for file in self.files:
            name = self.name(file)
            require(1 <= file.name_length <= 255 and "/" not in name and name not in (".", ".."),
                    "file name")
            require(file.size <= MAX_SIZE and file.mtime_nanoseconds <= 999999999 and
                    not file.flags, "file record")
        names = [self.raw_name(file) for file in self.files]
        require(all(a < b for a, b in zip(names, names[1:])), "files not sorted")

    def check_extents(self):
        next_extent = 0
        for file in self.files:
            require(file.first_extent == next_extent, "first extent")
            next_extent += file.extent_count
            require(next_extent <= len(self.extents), "extents of a file")
            at = 0
            for extent in self.extents[file.first_extent:next_extent]:
                require(extent.file_offset == at and extent.length and not extent.reserved,
                        "extents do not follow each other")
                at += extent.length
                if extent.kind == 1:
                    require(not extent.tensor and not extent.source_offset, "extent of zeros")
                    continue
                require(extent.kind == 0 and extent.tensor < len(self.tensors), "extent kind")
                require(extent.source_offset + extent.length <= self.tensors[extent.tensor].size,
                        "extent outside of its tensor")
            require(at == file.size, "extents do not cover the file")
        require(next_extent == len(self.extents), "extent without a file")

    def check_tensor(self, t):
        self.name(t)
        require(t.cls in (0, 2, 3, 4) and t.flags in (0, 1) and not t.reserved, "tensor record")
        require(t.layout < len(self.layouts) and t.file < len(self.files), "tensor refers outside")
        require(t.dim_count <= 8 and t.first_dim + t.dim_count <= len(self.dims), "dimensions")
        require(t.file_offset + t.size <= self.files[t.file].size, "tensor outside of its file")
        cut = self.cuts[t.layout]
        require(1 <= t.size <= MAX_SIZE and t.size % cut.block_bytes == 0, "tensor size")
        require(t.slice_blocks and t.size // cut.block_bytes % t.slice_blocks == 0, "slices")
        require(1 <= t.span_blocks <= t.slice_blocks and
                t.span_blocks * cut.block_bytes <= 4 * MIB, "spans")
        for s, slot in enumerate(t.slots):
            require(not slot.reserved, "slot reserved")
            if not self.has_slot(t, s):
                require(slot[:3] == (0, 0, NO_TABLES), "slot without streams")
                continue
            require(slot.first + self.spans(t) <= self.frames, "frames outside of their table")
            require(slot.base <= self.container_size, "base")
            require(slot.tables == NO_TABLES or
                    (slot.tables < len(self.tables) and t.cls != PLAIN), "tables of a slot")

    def check_segments(self):
        left = [self.frames, self.chunks]
        sizes = (16, 32)
        kind, total = 0, 0
        for s in self.segments:
            require(s.kind in (0, 1) and s.kind >= kind and not s.reserved, "segment")
            kind = s.kind
            records = min(left[kind], 64 * KIB // sizes[kind])
            require(records and s.size == records * sizes[kind], "segment size")
            left[kind] -= records
            total += s.size
            for offset in (s.offset1, s.offset2):
                require(offset + s.size <= self.container_size, "segment outside")
        require(left == [0, 0] and total <= self.container_size, "segments")

    def has_slot(self, t, s):
        if t.cls == PLAIN:
            return s == 0
        return bool(self.cuts[t.layout].streams[s])

    # Section 9
    def spans(self, t):
        blocks = t.size // self.cuts[t.layout].block_bytes
        return blocks // t.slice_blocks * ceil_div(t.slice_blocks, t.span_blocks)

    @staticmethod
    def span_blocks(t, i):
        per_slice = ceil_div(t.slice_blocks, t.span_blocks)
        return min(t.span_blocks, t.slice_blocks - i % per_slice * t.span_blocks)


# Section 7

Stream = namedtuple("Stream", "field plane per_block")


class Cut:
    """A layout with its fields and streams."""

    def __init__(self, root, layout):
        self.name = root.name(layout)
        require(1 <= layout.field_count <= 32 and
                layout.first_field + layout.field_count <= len(root.fields), "fields")
        require(1 <= layout.block_bytes <= 64 * KIB, "block size")
        self.block_bytes = layout.block_bytes
        self.fields = root.fields[layout.first_field:layout.first_field + layout.field_count]
        self.streams = [[], []]
        end = 0
        for f in self.fields:
            root.raw_name(f)
            require(f.cls in (0, 1) and f.transform in (0, 1, 2) and f.width in (1, 2, 4, 8) and
                    not f.reserved, "field")
            require(f.transform or f.width == 1, "width of a field of bytes")
            require(f.offset == end and f.size and f.size % f.width == 0, "fields do not tile")
            end += f.size
            planes = f.width if f.transform else 1
            self.streams[f.cls] += [Stream(f, k, f.size // planes) for k in range(planes)]
        require(end == self.block_bytes, "fields do not fill the block")
        require(len(self.streams[0]) + len(self.streams[1]) <= 32, "too many streams")

    def slot_bytes(self, slot):
        return sum(stream.per_block for stream in self.streams[slot])

    def join(self, blocks, decoded):
        """decoded: for each slot, the bytes of its streams."""
        out = bytearray(blocks * self.block_bytes)
        numbers = [0, 0]
        for f in self.fields:
            planes = f.width if f.transform else 1
            got = decoded[f.cls][numbers[f.cls]:numbers[f.cls] + planes]
            numbers[f.cls] += planes
            if f.transform == 2:
                got = rotate_back(got)
            # Byte j of the field in every block: of word j / planes, from plane j % planes.
            for j in range(f.size):
                out[f.offset + j::self.block_bytes] = got[j % planes][j // planes::f.size // planes]
        return bytes(out)


HALVED = bytes(x >> 1 for x in range(256))
LOWEST_BIT_ON_TOP = bytes(x << 7 & 255 for x in range(256))


def rotate_back(planes):
    """W = R >> 1 | (R mod 2) << (8w - 1): each byte takes its top bit from the next one, the
    highest byte from the lowest."""
    above = planes[1:] + planes[:1]
    return [bytes(map(operator.or_, low.translate(HALVED), high.translate(LOWEST_BIT_ON_TOP)))
            for low, high in zip(planes, above)]


class Container:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.sb, self.root = self.open()
        self.frame_table = self.load_table(0)
        self.chunk_table = self.load_table(1)
        self.dictionaries = {}

    # Section 5
    def open(self):
        unsupported = False
        good = []

        def look(offset, allowed):
            nonlocal unsupported
            try:
                sb = superblock(self.data, offset)
            except Unsupported:
                unsupported = True
            except Damaged:
                pass
            else:
                if allowed(sb):
                    good.append(sb)

        look(0, lambda sb: True)
        first = good[0] if good else None
        if not first or first.profile != NOR:
            look(65536, lambda sb: sb.profile != NOR)
        if not first or first.profile == NOR:
            look(4096, lambda sb: sb.profile == NOR)
        for sb in sorted(good, key=lambda sb: -sb.generation):
            root = self.find_root(sb)
            if root:
                return sb, root
        if unsupported:
            raise Unsupported("made by newer software")
        end = len(self.data) // 4096 * 4096
        for offset in range(end - 4096, max(0, end - 64 * MIB) - 1, -4096):
            good.clear()
            look(offset, lambda sb: True)
            root = self.find_root(good[0]) if good else None
            if root:
                return good[0], root
        raise Damaged("no superblock serves")

    def find_root(self, sb):
        if sb.container_size > len(self.data):
            return None
        for offset in (sb.root_offset1, sb.root_offset2):
            data = self.data[offset:offset + sb.root_size]
            if xxh3_128(data) == sb.root_hash:
                try:
                    return Root(data, sb)
                except Damaged:
                    pass
        return None

    def stored(self, offset, size):
        require(offset + size <= self.sb.container_size, "outside of the container")
        return self.data[offset:offset + size]

    # Section 10
    def load_table(self, kind):
        table = b""
        for s in self.root.segments:
            if s.kind != kind:
                continue
            copies = [self.stored(offset, s.size) for offset in (s.offset1, s.offset2)]
            good = [copy for copy in copies if xxh3_128(copy) == s.hash]
            require(good, "both copies of a segment are damaged")
            table += good[0]
        return table

    def frame(self, slot, span, size):
        """The stored bytes of a frame that decodes to `size` bytes."""
        number = slot.first + span
        place, expected = struct.unpack_from("<QQ", self.frame_table, 16 * number)
        stored_size = place >> 40
        require(stored_size <= size, "frame is larger than its streams")
        stored = self.stored(slot.base + place % (1 << 40), stored_size)
        require(xxhash.xxh3_64_intdigest(stored, number) == expected, f"hash of frame {number}")
        return stored

    # Section 12
    def slot_dictionaries(self, number, streams):
        if number == NO_TABLES:
            return [None] * streams
        if number not in self.dictionaries:
            about = self.root.tables[number]
            stored = self.stored(about.offset, about.size)
            require(xxhash.xxh3_64_intdigest(stored) == about.hash, "hash of tables")
            require(len(stored) >= 4 * streams, "tables")
            at, found = 4 * streams, []
            for length in struct.unpack_from(f"<{streams}I", stored):
                raw = stored[at:at + length]
                at += length
                require(len(raw) == length, "tables")
                found.append(zstandard.ZstdCompressionDict(
                    raw, dict_type=zstandard.DICT_TYPE_FULLDICT) if length else None)
            require(at == len(stored), "tables")
            self.dictionaries[number] = found
        return self.dictionaries[number]

    # Section 11
    @staticmethod
    def decode_zstd(stored, size, dictionary):
        require(4 <= len(stored) < size, "size of a coded stream")
        require(stored[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()
        try:
            out = decoder.decompress(stored)
        except zstandard.ZstdError as error:
            raise Damaged(f"zstd: {error}") from None
        require(decoder.eof and not decoder.unused_data, "not exactly one zstd frame")
        require(len(out) == size, "stream decodes to another size")
        return out

    def decode_frame(self, stored, sizes, dictionaries):
        """One frame: a list of streams of these sizes."""
        total, header = sum(sizes), 4 * len(sizes)
        if not stored:
            return [bytes(size) for size in sizes]
        if len(stored) == total:
            words = [size for size in sizes]
            at = 0
        else:
            require(len(stored) >= header, "frame is shorter than its headers")
            words = struct.unpack_from(f"<{len(sizes)}I", stored)
            at = header
        out = []
        for size, word, dictionary in zip(sizes, words, dictionaries):
            coding, length = word >> 28, word % (1 << 28)
            raw = stored[at:at + length]
            require(len(raw) == length, "stream outside of its frame")
            at += length
            if coding == 0:
                require(length == size, "raw stream")
                out.append(raw)
            elif coding == 1:
                require(length == 0, "zero stream")
                out.append(bytes(size))
            elif coding in (2, 3):
                out.append(self.decode_zstd(raw, size, None))
            else:
                require(coding == 4 and dictionary, "coding")
                out.append(self.decode_zstd(raw, size, dictionary))
        require(at == len(stored), "frame is longer than its streams")
        return out

    def span(self, t, i):
        cut = self.root.cuts[t.layout]
        blocks = self.root.span_blocks(t, i)
        if t.cls == PLAIN:
            size = blocks * cut.block_bytes
            stored = self.frame(t.slots[0], i, size)
            require(len(stored) in (0, size), "plain frame")
            return stored or bytes(size)
        decoded = [[], []]
        for s, slot in enumerate(t.slots):
            streams = cut.streams[s]
            if not streams:
                continue
            stored = self.frame(slot, i, blocks * cut.slot_bytes(s))
            decoded[s] = self.decode_frame(stored, [blocks * x.per_block for x in streams],
                                           self.slot_dictionaries(slot.tables, len(streams)))
        return cut.join(blocks, decoded)

    def tensor(self, t):
        data = b"".join(self.span(t, i) for i in range(self.root.spans(t)))
        require(len(data) == t.size, "spans do not add up")
        require(xxh3_128(data) == t.hash, "hash of a tensor")
        return data

    # Section 8
    def file(self, file):
        data = b""
        for e in self.root.extents[file.first_extent:file.first_extent + file.extent_count]:
            if e.kind == 1:
                data += bytes(e.length)
            else:
                tensor = self.tensor(self.root.tensors[e.tensor])
                data += tensor[e.source_offset:e.source_offset + e.length]
        require(xxh3_128(data) == file.hash, "hash of a file")
        return data

    def chunks(self):
        end = 0
        for i in range(self.root.chunks):
            chunk = Chunk._make(CHUNK.unpack_from(self.chunk_table, 32 * i))
            require(chunk.offset % self.sb.page_size == 0 and chunk.offset >= end, "chunk offset")
            end = chunk.offset + chunk.stored_size
            require(end <= self.sb.container_size and chunk.cls <= 4 and not chunk.reserved and
                    not chunk.reserved2, "chunk")
            yield chunk

    def uuid(self):
        return xxh3_128(b"".join(self.root.raw_name(f) + b"\0" + f.hash for f in self.root.files))


def name_of(names, number):
    return names[number] if number < len(names) else str(number)


def frames_stored(container, t):
    """Bytes of a tensor's frames and tables."""
    total = 0
    for s, slot in enumerate(t.slots):
        if not container.root.has_slot(t, s):
            continue
        for i in range(container.root.spans(t)):
            total += struct.unpack_from("<Q", container.frame_table, 16 * (slot.first + i))[0] >> 40
        if slot.tables != NO_TABLES:
            total += container.root.tables[slot.tables].size
    return total


def hashes(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "xxh3_128": xxh3_128(data).hex()}


def describe(container):
    """What describe.py says of a vector, as far as a container tells."""
    root, sb = container.root, container.sb
    tensors = []
    for t in root.tensors:
        if t.flags & 1:
            continue
        tensors.append({
            "name": root.name(t), "file": root.name(root.files[t.file]),
            "type": root.cuts[t.layout].name,
            # No weights at all: the main frames are those of the constants.
            "class": CLASSES[t.cls if root.has_slot(t, 0) else 1],
            "shape": root.dims[t.first_dim:t.first_dim + t.dim_count],
            "offset": t.file_offset, "size": t.size,
            "stored_size": frames_stored(container, t)} | hashes(container.tensor(t)))
    uuid = sb.uuid.hex()
    return {
        "container": {
            "size": len(container.data), "sha256": hashlib.sha256(container.data).hexdigest(),
            "version": sb.version, "generation": sb.generation,
            "profile": name_of(PROFILES, sb.profile), "page_size": sb.page_size,
            "frame_size": sb.frame_size,
            "uuid": "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))},
        "files": [{"name": root.name(f), "format": name_of(FORMATS, f.format), "size": f.size} |
                  hashes(container.file(f)) for f in root.files],
        "tensors": tensors,
        "chunks": [{"offset": c.offset, "stored_size": c.stored_size,
                    "decoded_size": c.decoded_size, "class": CLASSES[c.cls],
                    "codec": name_of(CODINGS, c.codec), "frames": c.frames}
                   for c in container.chunks()]}


def extract(container, directory):
    for file in container.root.files:
        with open(os.path.join(directory, container.root.name(file)), "wb") as out:
            out.write(container.file(file))
    for t in container.root.tensors:
        container.tensor(t)
    for _ in container.chunks():
        pass
    require(container.sb.generation > 1 or container.uuid() == container.sb.uuid, "UUID")


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    try:
        if arguments[0] == "--list":
            json.dump(describe(Container(arguments[1])), sys.stdout, indent=1, ensure_ascii=False)
            print()
        else:
            extract(Container(arguments[0]), arguments[1])
    except Damaged as why:
        sys.exit(f"{arguments[-1]}: {why}")


if __name__ == "__main__":
    main(sys.argv[1:])

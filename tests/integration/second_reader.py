"""A second reader of modelfs containers, written from spec/modelfs-format.md alone.

second_reader.py CONTAINER DIRECTORY    verifies everything, extracts all files
second_reader.py --list CONTAINER       verifies everything, prints it as JSON

Exit status 77: python3-zstandard or python3-xxhash is not installed. 1: the
container is refused, or damaged. It is slow and meant to be read.
"""
import hashlib
import json
import math
import operator
import os
import struct
import sys
from collections import namedtuple
from itertools import accumulate

try:
    import xxhash
    import zstandard
except ImportError as missing:
    print(f"SKIP: {missing}", file=sys.stderr)
    sys.exit(77)

KIB, MIB = 1 << 10, 1 << 20
MAX_SIZE = 1 << 62
NOR = 6
COLUMNS, MARKED = 1, 2  # feature_incompat
NO_TABLES = NO_TENSOR = NO_FILE = 0xFFFFFFFF
LITERAL, DELTA, DERIVED, INTEGER = 1, 2, 4, 8
LORA, NF4 = 0, 1
WEIGHTS, CONSTANTS, PLAIN = 0, 1, 3
PLANES, ROTATE, SYMBOLS, EXTEND, FLOAT = 1, 2, 3, 4, 5
RATIO, HALF, EXPONENT, HALF_BYTES, HALF_SIX, RATIO_NIBBLES, RATIO_HALVES = range(1, 8)
CLASSES = ("weights", "constants", "adapter", "plain", "metadata")
CODINGS = ("raw", "zero", "zstd", "literals", "shared", "buckets", "sparse", "packed",
           "marked")
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
    if sb.version != 1 or sb.feature_incompat & ~(COLUMNS | MARKED):
        raise Unsupported("made by newer software")
    require(512 <= sb.page_size <= MIB and not sb.page_size & (sb.page_size - 1), "page size")
    require(sb.container_size <= MAX_SIZE and not sb.container_size % sb.page_size and
            not sb.container_size % 4096, "container size")
    require(112 <= sb.root_size <= 16 * MIB, "root size")
    for root in (sb.root_offset1, sb.root_offset2):
        require(root + sb.root_size <= sb.container_size, "root outside of the container")
    return sb


# Section 6 to 10

Layout = namedtuple("Layout", "name_offset name_length field_count first_field block_bytes "
                    "block_weights type_id context reserved place0 place1 place2")
Field = namedtuple("Field", "name_offset name_length cls transform width bits run offset size")
File = namedtuple("File", "name_offset name_length format size first_extent extent_count "
                  "mtime_seconds mtime_nanoseconds kind flags hash base note_offset "
                  "note_length reserved reserved2")
Extent = namedtuple("Extent", "file_offset length source_offset tensor kind reserved")
Tensor = namedtuple("Tensor", "name_offset name_length cls flags layout file first_dim dim_count "
                    "file_offset size slice_blocks span_blocks base hash slots")
Term = namedtuple("Term", "tensor kind flags operand0 operand1 operand2 scale rank reserved")
Slot = namedtuple("Slot", "first base tables reserved")
Tables = namedtuple("Tables", "offset size reserved hash")
Segment = namedtuple("Segment", "offset1 offset2 size kind reserved hash")
Chunk = namedtuple("Chunk", "offset decoded_size stored_size frames cls codec reserved reserved2")

SECTIONS = (("layouts", Layout, "<IHHIIIIBBHHH"), ("fields", Field, "<IHBBBBHII"),
            ("files", File, "<IHHQQQqIHH16sIIHHI"), ("extents", Extent, "<QQQIHH"),
            ("tensors", Tensor, "<IHBBIIIIQQQII16s48s"), ("dims", None, "<Q"), ("terms", Term, "<IHHIIIfII"),
            ("tables", Tables, "<QIIQ"), ("segments", Segment, "<QQIHH16s"), ("names", None, "<c"))
CHUNK = struct.Struct("<QQIIBBHI")


def root_of_columns(stored):
    """The root that is stored in columns."""
    end, total, places = 112, 0, list(struct.iter_unpack("<II", stored[32:112]))
    sizes = [struct.calcsize(form) for _, _, form in SECTIONS]
    for (offset, count), size in zip(places, sizes):
        require(offset % 8 == 0 and offset >= end, "section of a root in columns")
        end = offset + count * size
        total += count * size
    require(end <= 16 * MIB, "size of a root in columns")
    columns, rest = Container.decode_zstd(stored[112:], total, None)
    require(not rest, "bytes behind the columns")
    root = bytearray(stored[:112]) + bytes(end - 112)
    for (offset, count), size in zip(places, sizes):
        mine, columns = columns[:count * size], columns[count * size:]
        if size == 1:
            root[offset:offset + count] = mine
            continue
        for word in range(0, size, 4):
            bytes_of = [mine[(word + k) * count:(word + k + 1) * count] for k in range(4)]
            value = 0
            for i, difference in enumerate(zip(*bytes_of)):
                value = (value + int.from_bytes(difference, "little")) % (1 << 32)
                struct.pack_into("<I", root, offset + i * size + word, value)
    return bytes(root)


class Root:
    def __init__(self, data, sb):
        self.container_size = sb.container_size
        magic, reserved, generation, self.frames, self.chunks = struct.unpack_from("<IIQQQ", data)
        require(magic == 0x5253464D and reserved == 0, "root magic")
        require(generation == sb.generation, "root of another generation")
        end = 112
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

    def raw_note(self, file):
        require(file.note_offset + file.note_length <= len(self.names), "note outside")
        return self.names[file.note_offset:file.note_offset + file.note_length]

    def name(self, record):
        raw = self.raw_name(record)
        require(b"\0" not in raw, "NUL in a name")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("name is not UTF-8") from None

    def note(self, file):
        return self.name(file._replace(name_offset=file.note_offset,
                                       name_length=file.note_length))

    def check(self):
        require(len(self.layouts) <= 256, "too many layouts")
        named = self.layouts + self.files + self.tensors
        require(sum(r.name_length + 1 for r in named) +
                sum(f.note_length for f in self.files) <= 64 * MIB, "names too long")
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
        self.check_terms()
        for i, tensor in enumerate(self.tensors):
            if tensor.base != NO_TENSOR:
                self.check_base(i, tensor)
        self.check_extents()
        self.check_segments()

    def check_files(self):
        for file in self.files:
            name = self.name(file)
            parts = name.split("/")
            require(1 <= file.name_length <= 255 and len(parts) <= 4 and
                    all(part not in ("", ".", "..") for part in parts), "file name")
            require(file.size <= MAX_SIZE and file.mtime_nanoseconds <= 999999999 and
                    file.kind <= 2 and file.flags <= 1 and not file.reserved and
                    not file.reserved2 and
                    (file.base == NO_FILE or file.base < len(self.files)), "file record")
            self.note(file)
        names = [self.raw_name(file) for file in self.files]
        require(not any(name[:i] in set(names) for name in names
                        for i in range(len(name)) if name[i] == ord("/")), "file and directory")
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
        require(t.cls in (0, 2, 3, 4) and t.flags in (0, LITERAL, DELTA, DERIVED, DELTA | INTEGER),
                "tensor record")
        computed = bool(t.flags & (DELTA | DERIVED))
        require(computed == (t.base != NO_TENSOR) and (not computed or t.cls == 0), "base")
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

    # Section 13
    def weights(self, t):
        cut = self.cuts[t.layout]
        return t.size // cut.block_bytes * cut.block_weights

    def check_terms(self):
        self.terms_of, shapes = {}, {}
        previous = 0
        for term in self.terms:
            require(previous <= term.tensor < len(self.tensors), "order of the terms")
            previous = term.tensor
            require(term.kind <= NF4 and term.flags <= 4 and not term.reserved and
                    math.isfinite(term.scale), "term")
            t = self.tensors[term.tensor]
            others = self.terms_of.setdefault(term.tensor, [])
            others.append(term)
            require(len(others) <= 64 and t.flags == DERIVED, "term of a tensor")
            operands = [None if n == NO_TENSOR else n for n in term[3:6]]
            require(all(n is None or (n < len(self.tensors) and not self.tensors[n].flags)
                        for n in operands) and operands[0] is not None, "operands")
            if term.kind == NF4:
                require(not term.rank and not term.flags and len(others) == 1 and
                        (operands[1] is None) == (operands[2] is None), "constants of NF4")
                continue
            require(operands[1] is not None and term.rank, "matrices")
            a, b = (self.weights(self.tensors[n]) for n in operands[:2])
            rows = b // term.rank
            columns = self.weights(t) // rows if rows else 0
            experts = a // (term.rank * columns) if columns else 0
            require(rows * term.rank == b and rows * columns == self.weights(t) and
                    experts * term.rank * columns == a and rows % experts == 0 and
                    (experts > 1) == (term.flags == 4), "matrices")
            seen = shapes.setdefault(term.tensor, (rows, experts))
            require(seen == (rows, experts), "matrices of two terms")
            require(operands[2] is None or
                    self.weights(self.tensors[operands[2]]) == b // term.rank, "gains")

    def check_base(self, i, t):
        require(t.base < len(self.tensors), "base")
        base = self.tensors[t.base]
        require(not base.flags & (LITERAL | DERIVED), "base")
        if t.flags & DELTA:
            require(not base.flags and
                    (t.layout, t.size, t.slice_blocks, t.span_blocks) ==
                    (base.layout, base.size, base.slice_blocks, base.span_blocks), "delta")
            return
        have, spare = self.weights(base), self.cuts[base.layout].block_weights
        if self.terms_of.get(i, [None])[0] and self.terms_of[i][0].kind == NF4:
            have, spare = 2 * base.size, 2 * self.cuts[base.layout].block_bytes
        want = self.weights(t)
        require(want and 0 <= have - want < spare, "base")
        own = self.cuts[t.layout].block_weights
        slices = [x.size // self.cuts[x.layout].block_bytes // x.slice_blocks for x in (t, base)]
        require(slices[0] == slices[1] and
                (slices[0] == 1 or t.slice_blocks * own == base.slice_blocks * spare) and
                t.span_blocks * own == min(base.span_blocks * spare, t.slice_blocks * own), "spans")

    def has_slot(self, t, s):
        if t.flags & DERIVED:
            return False
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
        self.block_bytes, self.block_weights = layout.block_bytes, layout.block_weights
        self.fields = root.fields[layout.first_field:layout.first_field + layout.field_count]
        self.streams = [[], []]
        end = 0
        for f in self.fields:
            root.raw_name(f)
            require(f.cls in (0, 1) and f.transform <= FLOAT, "field")
            if f.transform in (SYMBOLS, EXTEND):
                require(f.cls == WEIGHTS and f.bits in (1, 2, 4, 8) and f.run and
                        f.size % f.run == 0 and f.width, "field of symbols")
                require(f.transform == SYMBOLS or f.width == 1, "width of extending bits")
            else:
                require(f.width in (1, 2, 4, 8) and f.size % f.width == 0 and not f.run, "field")
                require(f.transform or f.width == 1, "width of a field of bytes")
            require(f.offset == end and f.size, "fields do not tile")
            end += f.size
            planes = planes_of(f)
            self.streams[f.cls] += [Stream(f, k, f.size // planes) for k in range(planes)]
        require(end == self.block_bytes, "fields do not fill the block")
        require(len(self.streams[0]) + len(self.streams[1]) <= 32, "too many streams")
        self.check_symbols()
        self.check_context(layout)

    def check_symbols(self):
        low = [f for f in self.fields if f.transform == SYMBOLS]
        high = [f for f in self.fields if f.transform == EXTEND]
        require(len(low) <= 1 and len(high) <= len(low), "more than one field of symbols")
        self.low, self.high = (low + [None])[0], (high + [None])[0]
        self.groups = self.group_bytes = 0
        if not self.low:
            return
        weights = self.low.size * 8 // self.low.bits
        require(weights % self.low.width == 0 and self.low.width * self.low.bits % 8 == 0,
                "groups of symbols")
        self.groups = weights // self.low.width
        self.group_bytes = self.low.width * self.low.bits // 8
        require(not self.high or (self.high.size * 8 // self.high.bits == weights and
                                  self.low.bits + self.high.bits <= 8), "extending bits")
        self.place_symbols(weights)

    def place_symbols(self, weights):
        """Where each weight's bits lie: (byte, shift) in the fields and in the symbols."""
        def packed(f, j):
            n = 8 // f.bits
            return j // (f.run * n) * f.run + j % f.run, f.bits * (j // f.run % n)

        def grouped(j):
            g, r = divmod(j, self.low.width)
            return (g * self.group_bytes + r % self.group_bytes,
                    self.low.bits * (r // self.group_bytes))

        self.places = [(packed(self.low, j), grouped(j),
                        packed(self.high, j) if self.high else (0, 0)) for j in range(weights)]

    def check_context(self, layout):
        self.context = layout.context
        self.context_places = places = layout[-3:]
        require(self.context <= RATIO_HALVES and not layout.reserved, "context")
        require(not self.context or (self.low and self.group_bytes >= 4), "context without groups")
        require(self.context != RATIO or self.groups == 8, "context of eight groups")
        require(self.context != HALF_SIX or self.groups % 4 == 0, "context of four groups")
        needs = {RATIO: (2, 2, 12), HALF: (2, 0, 0), EXPONENT: (1, 0, 0),
                 HALF_BYTES: (2, self.groups, 0), RATIO_NIBBLES: (2, 2, self.groups),
                 HALF_SIX: (2, self.groups // 2, self.groups // 4),
                 RATIO_HALVES: (2, 2, 0)}.get(self.context, (0, 0, 0))
        for place, size in zip(places, needs):
            require(place == 0 or size, "place without use")
            require(place + size <= self.block_bytes, "context outside of the block")
            for f in self.fields:
                require(f.cls == CONSTANTS or f.offset >= place + size or
                        place >= f.offset + f.size, "context of weights")

    def slot_bytes(self, slot):
        return sum(stream.per_block for stream in self.streams[slot])

    def join(self, blocks, decoded):
        """decoded: for each slot, the bytes of its streams."""
        out = bytearray(blocks * self.block_bytes)
        numbers = [0, 0]
        packed = {}
        for f in self.fields:
            planes = planes_of(f)
            got = decoded[f.cls][numbers[f.cls]:numbers[f.cls] + planes]
            numbers[f.cls] += planes
            if not got:
                continue
            if f.transform in (SYMBOLS, EXTEND):
                packed[f.transform] = got[0]
                continue
            if f.transform in (ROTATE, FLOAT):
                got = rotate_back(got, 1 if f.transform == ROTATE else 3)
            if f.transform == FLOAT:
                got = got[:-1] + [got[-1].translate(FLOAT_TOP)]
            # Byte j of the field in every block: of word j / planes, from plane j % planes.
            for j in range(f.size):
                out[f.offset + j::self.block_bytes] = got[j % planes][j // planes::f.size // planes]
        if packed:
            self.join_symbols(out, blocks, packed[SYMBOLS], packed.get(EXTEND, b""))
        return bytes(out)

    def join_symbols(self, out, blocks, upper, rest):
        low, high = self.low, self.high
        low_mask = (1 << low.bits) - 1
        high_bits = high.bits if high else 0
        for b in range(blocks):
            at, upper_at = b * self.block_bytes, b * low.size
            low_at, rest_at = at + low.offset, b * high.size if high else 0
            for (byte, shift), (u_byte, u_shift), (h_byte, h_shift) in self.places:
                symbol = upper[upper_at + u_byte] >> u_shift & low_mask
                if high:
                    symbol = (symbol << high_bits |
                              rest[rest_at + h_byte] >> h_shift & (1 << high_bits) - 1)
                    out[at + high.offset + h_byte] |= symbol >> low.bits << h_shift
                out[low_at + byte] |= (symbol & low_mask) << shift

    # Section 12
    def values(self, blocks, constants, window):
        """The value of the context for each group of a span, given its constants put back."""
        block = [constants[b * self.block_bytes:(b + 1) * self.block_bytes] for b in range(blocks)]
        p0, p1, p2 = self.context_places
        if self.context in (RATIO, RATIO_NIBBLES, RATIO_HALVES):
            return [v for x in block
                    for v in ratios(half(x, p0), half(x, p1), self.pairs(x[p2:p2 + 16]))]
        out = []
        for first in range(0, blocks, window or blocks):
            logs = [log for x in block[first:first + (window or blocks)]
                    for log in self.scale_logs(x, p0, p1, p2)]
            mean = sum(logs) // len(logs)
            out += [clamp(log - mean + 128) for log in logs]
        return out

    def pairs(self, packed):
        """Scale and minimum of each group, in units of those of the block."""
        if self.context == RATIO_HALVES:
            return [(1, 1)] * self.groups
        if self.context == RATIO_NIBBLES:
            return [(x & 15, x >> 4) for x in packed[:self.groups]]
        return [(packed[g] & 63, packed[4 + g] & 63) for g in range(4)] + [
            (packed[8 + g] & 15 | packed[g] >> 6 << 4, packed[8 + g] >> 4 | packed[4 + g] >> 6 << 4)
            for g in range(4)]

    def scale_logs(self, block, p0, p1, p2):
        base = 32 * block[p0] if self.context == EXPONENT else log_of_half(half(block, p0))
        if self.context == HALF_SIX:
            codes = [block[p1 + g // 2] >> 4 * (g % 2) & 15 |
                     (block[p2 + g // 4] >> 2 * (g % 4) & 3) << 4 for g in range(self.groups)]
            return [base + log_of(abs(code - 32)) for code in codes]
        if self.context != HALF_BYTES:
            return [base] * self.groups
        signed = struct.unpack_from(f"<{self.groups}b", block, p1)
        return [base + log_of(abs(s)) for s in signed]


def planes_of(field):
    return field.width if field.transform in (1, ROTATE, FLOAT) else 1


def half(block, place):
    return struct.unpack_from("<H", block, place)[0]


FRACTION = (1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
            19, 20, 21, 22, 23, 24, 25, 25, 26, 27, 28, 29, 29, 30, 31, 32)


def log_of(value):
    if value == 0:
        return 0
    exponent = value.bit_length() - 1
    return 32 * exponent + FRACTION[(value << 5 >> exponent) - 32]


def log_of_half(bits):
    exponent, mantissa = bits >> 10 & 31, bits & 1023
    return log_of((1024 + mantissa) << (exponent - 1) if exponent else mantissa)


def clamp(value):
    return min(max(value, 0), 255)


def ratios(scale_half, minimum_half, pairs):
    base = 32 + log_of_half(minimum_half) - log_of_half(scale_half)
    for scale, minimum in pairs:
        if not minimum_half & 0x7FFF or not minimum:
            yield 0
        elif not scale_half & 0x7FFF or not scale:
            yield 255
        else:
            yield clamp(base + log_of(minimum) - log_of(scale))


FLOAT_TOP = bytes((x ^ 0xF8) + 8 & 255 for x in range(256))


def rotate_back(planes, n):
    """A word is rotated right by n bits: each byte takes its top bits from the next one, the
    highest byte from the lowest."""
    lower = bytes(x >> n for x in range(256))
    upper = bytes(x << 8 - n & 255 for x in range(256))
    above = planes[1:] + planes[:1]
    return [bytes(map(operator.or_, low.translate(lower), high.translate(upper)))
            for low, high in zip(planes, above)]


# Section 11

def runs_of(mask):
    """Runs of 4, 2 or 1 set bits, from the lowest on: (first bit, bits)."""
    bit, runs = 0, []
    while mask >> bit:
        n = next((n for n in (4, 2, 1) if mask >> bit & (1 << n) - 1 == (1 << n) - 1), 0)
        if n:
            runs.append((bit, n))
        bit += n or 1
    return runs


def decode_packed(stored, size):
    require(len(stored) >= 4, "packed stream")
    mask, value, count = struct.unpack_from("<BBH", stored)
    require(mask < 255 and not mask & value, "mask of a packed stream")
    at = 4 + 4 * count
    require(len(stored) >= at, "exceptions")
    exceptions = [(word % (1 << 24), word >> 24)
                  for word in struct.unpack_from(f"<{count}I", stored, 4)]
    out = bytearray([value]) * size
    for shift, n in runs_of(mask):
        part = stored[at:at + ceil_div(size * n, 8)]
        require(len(part) == ceil_div(size * n, 8), "part of a packed stream")
        at += len(part)
        for i in range(size):
            out[i] |= (part[i % len(part)] >> n * (i // len(part)) & (1 << n) - 1) << shift
    require(at == len(stored), "bytes behind the parts")
    places = [-1] + [place for place, _ in exceptions]
    require(all(a < b for a, b in zip(places, places[1:])) and places[-1] < size, "exceptions")
    for place, byte in exceptions:
        out[place] = byte
    return bytes(out)


# Section 12

DICTIONARY_TAIL = bytes.fromhex("e00fe00fe00f 010000000400000008000000 0000000000000000")


def dictionary_of(tree):
    """zstd takes a tree in a dictionary only; what else that holds is always the same."""
    return zstandard.ZstdCompressionDict(struct.pack("<II", 0xEC30A437, 32768) + tree +
                                         DICTIONARY_TAIL, dict_type=zstandard.DICT_TYPE_FULLDICT)


def tree_size(part):
    require(part, "a tree is missing")
    first = part[0]
    size = 1 + (first if first < 128 else (first - 127 + 1) // 2)
    require(size <= len(part), "a tree is cut short")
    return size


class Shared:
    """What the tables hold for one stream."""

    def __init__(self, kind, part):
        require(kind in (4, 5, 8), "kind of tables")
        self.kind, self.bounds, self.window, self.group, count = kind, None, 0, 0, 1
        if kind == 5:
            require(len(part) >= 4, "header of buckets")
            count, reserved, self.window = struct.unpack_from("<BBH", part)
            require(2 <= count <= 16 and not reserved, "header of buckets")
            self.bounds = part[4:4 + count - 1]
            require(len(self.bounds) == count - 1 and
                    all(a < b for a, b in zip(b"\0" + self.bounds, self.bounds)), "bounds")
            part = part[4 + count - 1:]
        if kind == 8:
            require(len(part) >= 4, "header of marked buckets")
            count, self.group, reserved = struct.unpack_from("<BBH", part)
            require(2 <= count <= 16 and 4 <= self.group <= 128 and not reserved,
                    "header of marked buckets")
            part = part[4:]
        self.dictionaries = []
        for _ in range(count):
            size = tree_size(part)
            none = kind != 4 and part[0] == 0
            self.dictionaries.append(None if none else dictionary_of(part[:size]))
            part = part[size:]
        require(not part, "bytes behind the trees")

    def bucket(self, value):
        return sum(value >= bound for bound in self.bounds)


class Container:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.sb, self.root = self.open()
        self.frame_table = self.load_table(0)
        self.chunk_table = self.load_table(1)
        self.tables = {}

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
                    return Root(root_of_columns(data) if sb.feature_incompat & COLUMNS else data,
                                sb)
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
    def slot_tables(self, number, streams):
        if number == NO_TABLES:
            return [None] * streams
        if number not in self.tables:
            about = self.root.tables[number]
            stored = self.stored(about.offset, about.size)
            require(xxhash.xxh3_64_intdigest(stored) == about.hash, "hash of tables")
            require(len(stored) >= 4 * streams, "tables")
            at, found = 4 * streams, []
            for word in struct.unpack_from(f"<{streams}I", stored):
                part = stored[at:at + word % (1 << 28)]
                at += word % (1 << 28)
                require(at <= len(stored), "tables")
                found.append(Shared(word >> 28, part) if word else None)
            require(at == len(stored), "tables")
            self.tables[number] = found
        return self.tables[number]

    # Section 11
    @staticmethod
    def decode_zstd(stored, size, dictionary):
        """One zstd frame that decodes to `size` bytes, and what lies behind it."""
        require(stored[:4] == b"\x28\xb5\x2f\xfd", "not a zstd frame")
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()
        try:
            out = decoder.decompress(stored)
        except zstandard.ZstdError as error:
            raise Damaged(f"zstd: {error}") from None
        require(decoder.eof, "a zstd frame is cut short")
        require(len(out) == size, "stream decodes to another size")
        return out, decoder.unused_data

    def decode_buckets(self, stored, shared, span):
        """Symbols that are sorted by bucket, put back into the order of the blocks."""
        cut, blocks, constants = span
        bucket = [shared.bucket(v) for v in cut.values(blocks, constants, shared.window)]
        out, stored = self.decode_groups(stored, shared, bucket, cut.group_bytes)
        require(not stored, "bytes behind the last bucket")
        return out

    def decode_marked(self, stored, size, shared):
        """Groups whose buckets are stored, then the bytes that fill no group."""
        count, buckets = size // shared.group, len(shared.dictionaries)
        require(count and len(stored) >= 4, "marks")
        bits = 1 if buckets == 2 else 2 if buckets <= 4 else 4
        length, = struct.unpack_from("<I", stored)
        marks, stored, raw = stored[4:4 + length], stored[4 + length:], ceil_div(count * bits, 8)
        require(len(marks) == length <= raw, "marks")
        if length < raw:
            marks, rest = self.decode_zstd(marks, raw, None)
            require(not rest, "not exactly one zstd frame")
        bucket = [marks[i * bits // 8] >> i * bits % 8 & (1 << bits) - 1 for i in range(count)]
        require(max(bucket) < buckets, "mark")
        out, stored = self.decode_groups(stored, shared, bucket, shared.group)
        require(len(stored) == size % shared.group, "bytes behind the last bucket")
        return out + stored

    def decode_groups(self, stored, shared, bucket, size):
        """Groups of `size` bytes by their buckets, and what is stored behind them."""
        groups = [b""] * len(bucket)
        for b, dictionary in enumerate(shared.dictionaries):
            members = [i for i, of in enumerate(bucket) if of == b]
            if not members:
                continue
            symbols, stored = self.decode_zstd(stored, len(members) * size, dictionary)
            for k, i in enumerate(members):
                groups[i] = symbols[k * size:(k + 1) * size]
        return b"".join(groups), stored

    def decode_stream(self, coding, raw, size, shared, span):
        if coding == 0:
            require(len(raw) == size, "raw stream")
            return raw
        require(len(raw) < size, "size of a coded stream")
        if coding == 1:
            require(not raw, "zero stream")
            return bytes(size)
        if coding == 7:
            return decode_packed(raw, size)
        if coding == 5:
            require(span and shared and shared.bounds is not None, "coding")
            return self.decode_buckets(raw, shared, span)
        if coding == 8:
            require(shared and shared.kind == 8, "coding")
            return self.decode_marked(raw, size, shared)
        require(coding in (2, 3) or (coding == 4 and shared and shared.kind == 4), "coding")
        out, rest = self.decode_zstd(raw, size, shared.dictionaries[0] if coding == 4 else None)
        require(not rest, "not exactly one zstd frame")
        return out

    def decode_frame(self, stored, streams, tables, span):
        """One frame: a list of its streams. `span` is (cut, blocks, constants)."""
        cut, blocks, _ = span
        sizes = [blocks * stream.per_block for stream in streams]
        if not stored:
            return [bytes(size) for size in sizes]
        if len(stored) == sum(sizes):
            return [stored[end - size:end] for end, size in zip(accumulate(sizes), sizes)]
        require(len(stored) >= 4, "frame is shorter than its headers")
        word = struct.unpack_from("<I", stored)[0]
        if word >> 28 != 6:
            return self.decode_streams(stored, streams, sizes, tables, span)
        require(len(cut.fields) == 1 and streams[0].field.cls == WEIGHTS and len(streams) > 1,
                "sparse frame")
        return self.decode_sparse(stored, word % (1 << 28), streams, sizes[0], tables, span)

    def decode_sparse(self, stored, length, streams, words, tables, span):
        at, size = 4 + 4 * len(streams), (words + 7) // 8
        mask = stored[at:at + length]
        require(len(mask) == length and length <= size, "mask")
        if length < size:
            mask, rest = self.decode_zstd(mask, size, None)
            require(not rest, "mask")
        bits = [mask[i // 8] >> i % 8 & 1 for i in range(words)]
        values = self.decode_streams(stored[4:at] + stored[at + length:], streams,
                                     [sum(bits)] * len(streams), tables, span)
        return [bytes(next(value) if bit else 0 for bit in bits) for value in map(iter, values)]

    def decode_streams(self, stored, streams, sizes, tables, span):
        """Stream headers and the streams behind them."""
        cut, header = span[0], 4 * len(sizes)
        require(len(stored) >= header, "frame is shorter than its headers")
        words, at = struct.unpack_from(f"<{len(sizes)}I", stored), header
        out = []
        for stream, size, word, shared in zip(streams, sizes, words, tables):
            coding, length = word >> 28, word % (1 << 28)
            raw = stored[at:at + length]
            require(len(raw) == length, "stream outside of its frame")
            at += length
            has_context = cut.context and stream.field.transform == SYMBOLS
            out.append(self.decode_stream(coding, raw, size, shared, span if has_context else None))
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
        constants = b""
        for s in (1, 0):
            slot, streams = t.slots[s], cut.streams[s]
            if streams:
                stored = self.frame(slot, i, blocks * cut.slot_bytes(s))
                tables = self.slot_tables(slot.tables, len(streams))
                decoded[s] = self.decode_frame(stored, streams, tables, (cut, blocks, constants))
            if s == 1:
                constants = cut.join(blocks, decoded)
        return cut.join(blocks, decoded)

    # Section 13
    def floats(self, t):
        import merge1
        kinds = {name: kind for kind, name in merge1.NAMES.items()}
        name = self.root.cuts[t.layout].name
        require(name in kinds, f"this reader does not know the weights of {name}")
        return merge1.decode(kinds[name], self.tensor(t))

    def codes(self, base, term, count):
        """Section 13.3"""
        import merge1
        import numpy as np
        data = [None if n == NO_TENSOR else self.tensor(self.root.tensors[n]) for n in term[3:6]]
        blocks = ceil_div(count, 64)
        if data[1] is None:
            scales = np.frombuffer(data[0], "<f4")[:blocks]
        else:
            scales = merge1.nf4_scales(np.frombuffer(data[0], np.uint8)[:blocks],
                                       np.frombuffer(data[1], "<f4"),
                                       np.frombuffer(data[2], "<f4"), term.scale)
        return merge1.decode_nf4(self.tensor(base), scales, count)

    def derived(self, t):
        import merge1
        root = self.root
        terms = list(root.terms_of.get(root.tensors.index(t), []))
        if terms and terms[0].kind == NF4:
            weights = self.codes(root.tensors[t.base], terms.pop(0), root.weights(t))
        else:
            weights = self.floats(root.tensors[t.base])
        rows = len(self.floats(root.tensors[terms[0].operand1])) // terms[0].rank if terms else 1
        adapters = []
        for term in terms:
            a, b = (self.floats(root.tensors[i]) for i in (term.operand0, term.operand1))
            if term.flags & 4:
                a = a.reshape(-1, term.rank, root.weights(t) // rows)
            else:
                a = a.reshape(-1, term.rank).T if term.flags & 1 else a.reshape(term.rank, -1)
            gain = term.operand2
            b = b.reshape(term.rank, rows).T if term.flags & 2 else b.reshape(rows, term.rank)
            adapters.append((a, b, term.scale,
                             None if gain == NO_TENSOR else self.floats(root.tensors[gain])))
        merged = merge1.merge(weights.reshape(rows, -1), adapters)
        kinds = {name: kind for kind, name in merge1.NAMES.items()}
        return merge1.store(kinds[root.cuts[t.layout].name], merged)

    def tensor(self, t):
        if t.flags & DERIVED:
            data = self.derived(t)
            require(len(data) == t.size and not any(t.hash), "derived tensor")
            return data
        data = b"".join(self.span(t, i) for i in range(self.root.spans(t)))
        require(len(data) == t.size, "spans do not add up")
        if t.flags & DELTA:
            base = self.tensor(self.root.tensors[t.base])
            data = add_difference(self.root.cuts[t.layout], t.flags & INTEGER, base, data)
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
        require(not any(file.hash) or xxh3_128(data) == file.hash, "hash of a file")
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
        return xxh3_128(b"".join(self.root.raw_name(f) + b"\0" + f.hash + self.root.raw_note(f)
                                 for f in self.root.files))


# Section 13
def add_difference(cut, integer, base, difference):
    out = bytearray(a ^ b for a, b in zip(base, difference))
    for f in cut.fields if integer else ():
        words = f.width if f.transform in (PLANES, ROTATE, FLOAT) else 1
        lanes = 8 if f.transform in (PLANES, ROTATE, FLOAT) else f.bits
        if words == 1 and lanes not in (8, 4, 2):
            continue
        for block in range(0, len(base), cut.block_bytes):
            for at in range(block + f.offset, block + f.offset + f.size, words):
                b = int.from_bytes(base[at:at + words], "little")
                d = int.from_bytes(difference[at:at + words], "little")
                out[at:at + words] = (add_folded(b, d, 8 * words) if words > 1 else
                                      add_lanes(b, d, lanes)).to_bytes(words, "little")
    return bytes(out)


def add_folded(base, folded, bits):
    n = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
    return (base + n) % (1 << bits)


def add_lanes(base, difference, bits):
    mask = (1 << bits) - 1
    return sum(((base >> s & mask) + (difference >> s & mask) & mask) << s
               for s in range(0, 8, bits))


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
        path = os.path.join(directory, container.root.name(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
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

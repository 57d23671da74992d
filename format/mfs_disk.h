/*
 * The container as it lies on the medium, version 1. Every structure here is
 * described in spec/modelfs-format.md; all integers are little-endian.
 *
 *   +------+---------+ - - - +------+--------+--------+- - -+---------+------+
 *   | sb 0 | index   |       | sb 1 | chunk  | chunk  |     | index   | sb 2 |
 *   | 0    | copy 1  |       | 64K  | const. | weights|     | copy 2  | tail |
 *   +------+---------+ - - - +------+--------+--------+- - -+---------+------+
 *
 * Small index parts and small chunks fill the room between superblocks 0 and 1.
 */
#ifndef MFS_DISK_H
#define MFS_DISK_H

#include <assert.h>
#include <stdint.h>

#include "mfs_endian.h"

#define MFS_MAGIC	   UINT64_C(0x0a1a53464c444f4d) /* "MODLFS\x1a\n" */
#define MFS_FORMAT_VERSION 1

/* Superblock places. Slot 1 lies at MFS_SB_SLOT1, or at MFS_SB_SLOT1_NOR in
 * profile nor; the tail copy is the last MFS_SB_SIZE bytes of the container. */
#define MFS_SB_SIZE	   4096
#define MFS_SB_HASHED	   (MFS_SB_SIZE - 8)
#define MFS_SB_SLOT1	   65536
#define MFS_SB_SLOT1_NOR   4096
#define MFS_SB_SEARCH_STEP 4096
#define MFS_SB_SEARCH_MAX  (64u << 20)

/* Limits that a reader enforces before it allocates or computes anything. */
#define MFS_PAGE_MIN	    512
#define MFS_PAGE_MAX	    (1u << 20)
#define MFS_ROOT_MAX	    (16u << 20)
#define MFS_SEGMENT_MAX	    (64u << 10)
#define MFS_FRAME_MIN	    4096 /* original bytes of a span that the packer may be asked for */
#define MFS_FRAME_MAX	    (4u << 20)	/* original bytes of a span */
#define MFS_CHUNK_MAX	    (4u << 20)	/* stored bytes of a chunk, unless one frame is larger */
#define MFS_BLOCK_MAX	    (64u << 10) /* bytes of a quantization block */
#define MFS_TABLES_MAX	    (1u << 20)	/* stored bytes of one tensor's tables of one class */
#define MFS_STREAMS_MAX	    32		/* streams of one layout, both classes together */
#define MFS_LAYOUTS_MAX	    256		/* layouts of one container */
#define MFS_NAMES_MAX	    (64u << 20) /* bytes of all names together */
#define MFS_DIMS_MAX	    8
#define MFS_NAME_MAX	    255 /* bytes of a file name */
#define MFS_TENSOR_NAME_MAX 65535
#define MFS_FILE_MAX	    (UINT64_C(1) << 62) /* bytes of a virtual file or of a container */

/* Feature words. A reader refuses unknown incompatible bits and ignores unknown
 * compatible ones. */
#define MFS_INCOMPAT_COLUMNS 1u /* the root is stored in columns (root_columns.h) */
#define MFS_INCOMPAT_MARKED  2u /* some tables have marked buckets */
#define MFS_INCOMPAT_KNOWN   (MFS_INCOMPAT_COLUMNS | MFS_INCOMPAT_MARKED)

enum mfs_disk_class {
	MFS_DISK_WEIGHTS = 0,
	MFS_DISK_CONSTANTS = 1,
	MFS_DISK_ADAPTER = 2,
	MFS_DISK_PLAIN = 3,
	MFS_DISK_METADATA = 4,
	MFS_DISK_CLASSES
};

struct mfs_disk_superblock {
	le64 magic;
	le64 own_offset; /* where this copy lies; the tail copy of generation g too */
	le16 version;
	le16 profile; /* enum mfs_profile_id; a hint */
	le32 page_size;
	le32 feature_compat;
	le32 feature_incompat;
	le64 generation;
	le64 container_size; /* a multiple of page_size and of 4096; bytes past it are ignored */
	le64 root_offset[2];
	le32 root_size;
	le32 frame_size;       /* what the packer was asked for; informative */
	uint8_t root_hash[16]; /* XXH3-128, canonical (big-endian) form */
	uint8_t uuid[16];
	uint8_t unused[MFS_SB_HASHED - 104];
	le64 hash; /* XXH3-64 of all bytes before it */
};
static_assert(sizeof(struct mfs_disk_superblock) == MFS_SB_SIZE, "superblock size");

/* The root: this header, then the sections, each 8-byte aligned, in this order
 * and without overlap. */
enum mfs_root_section {
	MFS_SEC_LAYOUTS,
	MFS_SEC_FIELDS,
	MFS_SEC_FILES,
	MFS_SEC_EXTENTS,
	MFS_SEC_TENSORS,
	MFS_SEC_DIMS,
	MFS_SEC_TERMS,
	MFS_SEC_TABLES,
	MFS_SEC_SEGMENTS,
	MFS_SEC_NAMES,
	MFS_SECTIONS
};

struct mfs_disk_section {
	le32 offset; /* from the start of the root */
	le32 count;  /* records; bytes for names */
};

#define MFS_ROOT_MAGIC 0x5253464du /* "MFSR" */

struct mfs_disk_root {
	le32 magic;
	le32 reserved;
	le64 generation;
	le64 frames; /* entries of the frame table, over all its segments */
	le64 chunks; /* entries of the chunk table, over all its segments */
	struct mfs_disk_section section[MFS_SECTIONS];
};
static_assert(sizeof(struct mfs_disk_root) == 112, "root header size");

/* How the blocks of one tensor type are cut into fields. */
struct mfs_disk_layout {
	le32 name_offset; /* in names */
	le16 name_length;
	le16 field_count;
	le32 first_field;
	le32 block_bytes;
	le32 block_weights; /* elements of a block; informative */
	le32 type_id;	    /* number of the type in its source format; informative */
	uint8_t context;    /* enum mfs_context: what predicts a group of symbols */
	uint8_t reserved;
	le16 context_offset[3]; /* in the block; 0 where the context needs none */
};
static_assert(sizeof(struct mfs_disk_layout) == 32, "layout size");

/* Fields lie in the order of their offsets and tile the block exactly. */
struct mfs_disk_field {
	le32 name_offset;
	le16 name_length;
	uint8_t cls;	   /* MFS_DISK_WEIGHTS or MFS_DISK_CONSTANTS */
	uint8_t transform; /* enum mfs_transform */
	uint8_t width;	   /* bytes of a word; weights of a group for symbols; else 1 */
	uint8_t bits;	   /* bits of one quant or constant; informative but for symbols */
	le16 run;	   /* for symbols; else 0 */
	le32 offset;	   /* in the block */
	le32 size;
};
static_assert(sizeof(struct mfs_disk_field) == 20, "field size");

/* Files are sorted by name (bytewise), and no name stands twice. A name may have
 * directories; none of them is a file. */
#define MFS_NO_FILE    0xffffffffu
#define MFS_PATH_DEPTH 4 /* components of a name */

enum mfs_file_kind {
	MFS_FILE_PACKED = 0, /* a source, byte for byte */
	MFS_FILE_ADAPTER = 1,
	MFS_FILE_VIEW = 2, /* merged, or of another precision */
	MFS_FILE_KINDS
};

/* What it holds was changed on purpose (quantized, pruned): not the source's bytes. */
#define MFS_FILE_LOSSY 1u

struct mfs_disk_file {
	le32 name_offset;
	le16 name_length;
	le16 format; /* enum mfs_disk_format; informative */
	le64 size;
	le64 first_extent;
	le64 extent_count;
	le64 mtime_seconds; /* of the source, two's complement */
	le32 mtime_nanoseconds;
	le16 kind; /* enum mfs_file_kind */
	le16 flags;
	uint8_t hash[16]; /* XXH3-128 of the original bytes; zeros where it was not computed */
	le32 base;	  /* of an adapter or view: the file that it belongs to, or MFS_NO_FILE */
	le32 note_offset; /* in names: how it came to be, such as "fr@0.7+de@0.3"; informative */
	le16 note_length;
	le16 reserved;
	le32 reserved2;
};
static_assert(sizeof(struct mfs_disk_file) == 80, "file size");

enum mfs_disk_format { MFS_FORMAT_OPAQUE = 0, MFS_FORMAT_GGUF = 1, MFS_FORMAT_SAFETENSORS = 2 };

/* A run of a file's bytes. Extents of a file are sorted and cover it exactly. */
enum mfs_extent_kind { MFS_EXTENT_TENSOR = 0, MFS_EXTENT_ZEROS = 1, MFS_EXTENT_KINDS };

struct mfs_disk_extent {
	le64 file_offset;
	le64 length;	    /* never 0 */
	le64 source_offset; /* in the tensor; 0 for zeros */
	le32 tensor;	    /* 0 for zeros */
	le16 kind;
	le16 reserved;
};
static_assert(sizeof(struct mfs_disk_extent) == 32, "extent size");

#define MFS_NO_TABLES 0xffffffffu

/* Two runs of the frame table at the most: slot 0 holds the weights (or the
 * plain, adapter or metadata frames), slot 1 the constants. */
#define MFS_SLOTS 2

struct mfs_disk_frames {
	le64 first;  /* first frame number */
	le64 base;   /* container offset that the frames' places count from */
	le32 tables; /* index into section tables, or MFS_NO_TABLES */
	le32 reserved;
};

/* A tensor, or a run of literal bytes (flag MFS_TENSOR_LITERAL). The frames of a
 * delta hold differences to the blocks of its base: exclusive or, or integer
 * differences (delta.h). A derived tensor has no frames: it is computed from its
 * base and its terms (merge.h). */
#define MFS_TENSOR_LITERAL 1u
#define MFS_TENSOR_DELTA   2u
#define MFS_TENSOR_DERIVED 4u
#define MFS_TENSOR_INTEGER 8u /* of a delta: integer differences */
#define MFS_NO_TENSOR	   0xffffffffu

struct mfs_disk_tensor {
	le32 name_offset;
	le16 name_length; /* 0 for literal bytes */
	uint8_t cls;	  /* class of the frames in slot 0 */
	uint8_t flags;
	le32 layout;
	le32 file; /* the file that brought it */
	le32 first_dim;
	le32 dim_count;
	le64 file_offset;
	le64 size;	   /* original bytes, a multiple of the block */
	le64 slice_blocks; /* blocks of one slice of the outermost dimension; spans end there */
	le32 span_blocks;  /* blocks of a span, except the last of a slice */
	le32 base;	   /* of a delta or derived tensor; else MFS_NO_TENSOR */
	uint8_t hash[16];  /* XXH3-128 of the original bytes; zeros where it was not computed */
	struct mfs_disk_frames slot[MFS_SLOTS];
};
static_assert(sizeof(struct mfs_disk_tensor) == 120, "tensor size");

/* What is added to the base of a derived tensor, or what it takes to decode it.
 * Sorted by `tensor`, then in the order in which they are applied. */
enum mfs_term_kind {
	MFS_TERM_LORA = 0, /* A (rank x columns), B (rows x rank), gains of the rows or none */
	MFS_TERM_NF4 = 1,  /* absmax, nested absmax or none, nested map or none; scale: offset */
	MFS_TERM_KINDS
};

#define MFS_TERM_TRANSPOSED   1u /* A is stored columns x rank */
#define MFS_TERM_B_TRANSPOSED 2u /* B is stored rank x rows */
#define MFS_TERM_EXPERTS      4u /* a pair of matrices for each of several parts of the rows */
#define MFS_TERM_OPERANDS     3
#define MFS_TERMS_MAX	      64u	 /* of one tensor */
#define MFS_OPERAND_MAX	      (1u << 26) /* numbers of one operand */

struct mfs_disk_term {
	le32 tensor;
	le16 kind;
	le16 flags;
	le32 operand[MFS_TERM_OPERANDS]; /* tensors, or MFS_NO_TENSOR */
	le32 scale;			 /* bits of a finite binary32 */
	le32 rank;			 /* of kind LORA; else 0 */
	le32 reserved;
};
static_assert(sizeof(struct mfs_disk_term) == 32, "term size");

/* What the frames of one tensor and class share. Stored: for each stream of
 * the class a le32 (enum mfs_coding << 28 | length), 0 where the stream has
 * nothing, then the streams' parts back to back:
 *   MFS_CODING_SHARED   a Huffman tree as zstd stores it
 *   MFS_CODING_BUCKETS  struct mfs_disk_buckets, a byte for each bucket but the
 *                       first: the least value of the context that it takes, then
 *                       for each bucket a tree, or a byte 0 where it has none
 *   MFS_CODING_MARKED   struct mfs_disk_marked, then for each bucket the same */
struct mfs_disk_buckets {
	uint8_t count; /* 2 .. MFS_BUCKETS_MAX */
	uint8_t reserved;
	le16 window; /* blocks over which a scale is compared; 0: those of the span */
};
static_assert(sizeof(struct mfs_disk_buckets) == 4, "buckets size");
#define MFS_BUCKETS_MAX 16

struct mfs_disk_marked {
	uint8_t count; /* 2 .. MFS_BUCKETS_MAX */
	uint8_t group; /* bytes: MFS_GROUP_MIN .. MFS_GROUP_MAX */
	le16 reserved;
};
static_assert(sizeof(struct mfs_disk_marked) == 4, "marked size");
#define MFS_GROUP_MIN 4
#define MFS_GROUP_MAX 128

struct mfs_disk_tables {
	le64 offset;
	le32 size;
	le32 reserved;
	le64 hash; /* XXH3-64 of the stored bytes */
};
static_assert(sizeof(struct mfs_disk_tables) == 24, "tables size");

enum mfs_segment_kind { MFS_SEGMENT_FRAMES = 0, MFS_SEGMENT_CHUNKS = 1, MFS_SEGMENT_KINDS };

/* A piece of the index. Segments of a kind hold the same number of records
 * each, except the last, and lie in the order of their records. */
struct mfs_disk_segment {
	le64 offset[2]; /* both copies */
	le32 size;
	le16 kind;
	le16 reserved;
	uint8_t hash[16];
};
static_assert(sizeof(struct mfs_disk_segment) == 40, "segment size");

/* One frame: place = offset from the base of its run | stored size << 40.
 * Size 0 means: all original bytes of this class are zero. Size = size of the
 * class's streams means: they are stored as they are, back to back. Else the
 * stored bytes begin with a le32 per stream (enum mfs_coding << 28 | length). */
#define MFS_FRAME_OFFSET_BITS 40
#define MFS_FRAME_STORED_MAX  ((1u << 24) - 1)

struct mfs_disk_frame {
	le64 place;
	le64 hash; /* XXH3-64 of the stored bytes, seeded with the frame's number */
};
static_assert(sizeof(struct mfs_disk_frame) == 16, "frame size");
#define MFS_SEGMENT_FRAME_COUNT (MFS_SEGMENT_MAX / sizeof(struct mfs_disk_frame))

/* Chunks of the chunk table are sorted by offset. */
struct mfs_disk_chunk {
	le64 offset; /* a multiple of the page size */
	le64 decoded_size;
	le32 stored_size; /* frames and tables, without the padding behind them */
	le32 frames;
	uint8_t cls;
	uint8_t codec; /* enum mfs_coding that holds most of its bytes; informative */
	le16 reserved;
	le32 reserved2;
};
static_assert(sizeof(struct mfs_disk_chunk) == 32, "chunk size");
#define MFS_SEGMENT_CHUNK_COUNT (MFS_SEGMENT_MAX / sizeof(struct mfs_disk_chunk))

#endif

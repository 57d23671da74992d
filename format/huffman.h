/* Huffman coding of literals with a tree that the tensor's tables hold: what
 * zstd would write, without its search for a tree. Pure functions. */
#ifndef MFS_HUFFMAN_H
#define MFS_HUFFMAN_H

#include <stddef.h>
#include <stdint.h>

#define MFS_TREE_MAX	  129 /* bytes of a stored tree */
#define MFS_CODE_BITS_MAX 11  /* of a code */
#define MFS_CODE_MISSING  (1u << 31)

/* For each byte its code in bits 0 to 15 and the code's length in bits 16 to 23;
 * MFS_CODE_MISSING where the tree has none. */
typedef struct {
	uint32_t code[256];
} mfs_codes;

/* The bytes that have a code: those with the longest first, equal lengths in their own
 * order. Codes count up in this order, so it says all of a tree. */
typedef struct {
	uint8_t byte[256];
	uint16_t number[MFS_CODE_BITS_MAX + 1]; /* of codes of each length */
	unsigned longest;
} mfs_ranks;

/* Reads a tree in zstd's form, which is the first bytes at `tree`. Returns its
 * size, or 0 if these bytes are no tree; a tree that is read is complete. */
size_t mfs_ranks_read(mfs_ranks *ranks, const uint8_t *tree, size_t size);

void mfs_codes_make(mfs_codes *codes, const mfs_ranks *ranks);

/* Mean bits of a byte that is distributed as the codes want it, in 1/256. */
uint32_t mfs_ranks_mean(const mfs_ranks *ranks);
/* The mean from which on one code is looked up at a time: zstd finds two shorter ones
 * at once. */
#define MFS_LONG_CODES (5 * 256 / 2)

/* Codes, and how zstd stores them. */
typedef struct {
	mfs_codes codes;
	uint8_t bytes[MFS_TREE_MAX];
	size_t size; /* 0: there are none */
} mfs_tree;

/* The best codes for bytes distributed like the histogram, whose sum is below 2^32.
 * Returns the tree's size; 0 if fewer than two values occur, or if zstd has no form
 * for the tree. */
size_t mfs_tree_make(mfs_tree *tree, const uint32_t histogram[256]);

/* The lengths of the best codes of at most `limit` bits (up to MFS_CODE_BITS_MAX), 0
 * where a value does not occur. Returns the longest, 0 if fewer than two values
 * occur or more than there can be codes. */
unsigned mfs_code_lengths(const uint32_t histogram[256], unsigned limit, uint8_t length[256]);

/* Bits of bytes distributed like the histogram; UINT64_MAX if a code is missing. */
uint64_t mfs_codes_bits(const mfs_codes *codes, const uint32_t histogram[256]);

/* Room that mfs_codes_encode() and mfs_literals_encode() want for `size` bytes. */
size_t mfs_codes_bound(size_t size);

/* Writes a zstd frame whose blocks hold literals coded with the tables'
 * tree, or are raw where that is smaller. `all`: bytes that are decoded together,
 * these among them; so that most of them take turns, large blocks become two.
 * Returns its size; 0 if a code is missing. */
size_t mfs_codes_encode(const mfs_codes *codes, const uint8_t *in, size_t size, size_t all,
			uint8_t *out);

/* Whether mfs_literals_encode() would use several trees for these bytes. */
int mfs_literals_change(const uint8_t *in, size_t size);

/* The same with trees of its own; any bytes can be coded so, at least as raw blocks.
 * `tree`: that of all the bytes, for whom it has a code, or NULL. */
size_t mfs_literals_encode(const mfs_tree *tree, const uint8_t *in, size_t size, uint8_t *out);

/* The same codes by the next MFS_LOOKUP_BITS bits: byte << 8 | length. */
#define MFS_LOOKUP_BITS 11
typedef struct {
	uint16_t entry[1 << MFS_LOOKUP_BITS];
} mfs_lookup;

void mfs_lookup_make(mfs_lookup *lookup, const mfs_ranks *ranks);

/* One block of literals: four streams that are decoded side by side. */
typedef struct {
	const uint8_t *start[4];
	const uint8_t *at[4]; /* of the word that is being used up */
	uint64_t bits[4];     /* its rest */
	const uint8_t *floor; /* from here on bytes may be read */
	uint8_t *begin, *out; /* first stream: start of its bytes, the next one */
	const uint8_t *end;   /* of all streams' bytes */
	const uint16_t *entry;
} mfs_literals_job;

/* Blocks that wait to be decoded, and lookups of the trees that some of them brought. */
#define MFS_JOBS_MAX	128
#define MFS_LOOKUPS_MAX 16
typedef struct {
	uint32_t count, lookup_count;
	/* The caller's: bytes from here to those that are taken apart may be read too, which
	 * is faster. NULL: none. */
	const uint8_t *floor;
	mfs_literals_job job[MFS_JOBS_MAX];
	mfs_lookup lookup[MFS_LOOKUPS_MAX];
} mfs_literals_queue;

/* Takes apart a frame as mfs_codes_encode() writes it, or one whose blocks bring
 * their trees (`lookup`: that of the tables, or NULL): copies raw blocks, and adds
 * the others to the queue. 0, and nothing added, where the frame is of another form,
 * damaged, has more blocks than there is room for, or codes so short that zstd is
 * faster: then zstd has to decode it. */
int mfs_literals_parse(const mfs_lookup *lookup, const uint8_t *in, size_t size, uint8_t *out,
		       size_t out_size, mfs_literals_queue *queue);

/* Decodes what waits in the queue, two blocks at a time, and empties it. 0 if one of
 * them is damaged. */
int mfs_literals_run(mfs_literals_queue *queue);

#endif

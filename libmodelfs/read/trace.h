/*
 * Traces: the order in which the spans of a container were first touched, as
 * text, so that it can be kept, read by people, and used again on any container
 * that holds the same files, whatever its frames are.
 *
 *   modelfs-trace 1
 *   model.gguf<TAB>token_embd.weight<TAB>131072-262144
 *   model.gguf<TAB>blk.0.attn_q.weight<TAB>0-524288
 *   model.gguf<TAB><TAB>0-65536
 *
 * A line is a file, a tensor and the bytes of the tensor from the first number up
 * to, without, the second. An empty tensor stands for the file itself: bytes of
 * it that belong to no tensor. In names, '\\' is a backslash, '\t' a tabulator,
 * '\n' a newline and '\xHH' any byte. Empty lines and lines that begin with '#'
 * mean nothing.
 */
#ifndef MFS_TRACE_H
#define MFS_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "modelfs_error.h"

/* A trace is refused beyond these. */
#define MFS_TRACE_BYTES_MAX   (64u << 20)
#define MFS_TRACE_ENTRIES_MAX (1u << 20)

/* What a line may name. */
typedef struct {
	const char *file, *tensor; /* terminated; an empty tensor: the whole file */
	uint64_t bytes;
	uint32_t number; /* the caller's: what the entries refer to */
} mfs_trace_name;

typedef struct {
	uint32_t number; /* of the name */
	uint64_t from, to;
} mfs_trace_entry;

typedef struct {
	mfs_trace_entry *entries;
	uint32_t count, room;
} mfs_trace;

void mfs_trace_free(mfs_trace *trace); /* what it holds, not the struct itself */

/* Adds an entry, or makes the last one longer if it follows that directly. 0,
 * MFS_E_MEMORY, or MFS_E_LIMIT with MFS_TRACE_ENTRIES_MAX. */
int mfs_trace_add(mfs_trace *trace, uint32_t number, uint64_t from, uint64_t to);

/* Reads the trace at `path`. Sorts `names`. MFS_E_INVALID: a line is not valid or
 * names what is not there; `why` has its number. */
int mfs_trace_read(mfs_trace *out, const char *path, mfs_trace_name names[], uint32_t count,
		   mfs_problem *why);
/* The same for text in memory; `path` is for messages. */
int mfs_trace_parse(mfs_trace *out, const char *path, const char *text, size_t length,
		    mfs_trace_name names[], uint32_t count, mfs_problem *why);

/* Writes the trace to `path` through a temporary file beside it. names[i] is the
 * one of entries with number i. */
int mfs_trace_write(const mfs_trace *trace, const char *path, const mfs_trace_name names[],
		    mfs_problem *why);

#endif

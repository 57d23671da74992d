/*
 * libmodelfs, reading: open a container, look inside, read the virtual files.
 *
 *   mfs_container *c;
 *   mfs_problem why = {0};
 *   if (mfs_open(&c, "model.mfs", NULL, &why) < 0)
 *           errx(1, "%s", why.text);
 *   int64_t file = mfs_file_find(c, "model.gguf");
 *   int64_t got = mfs_read(c, (uint32_t)file, 0, buffer, sizeof(buffer));
 *   mfs_close(c);
 *
 * Every function may be called from any thread at the same time, except
 * mfs_open() and mfs_close() of one container. Strings and structs handed out
 * belong to the container and live until mfs_close(). Structs that begin with
 * `size_t size` are filled by the caller with their sizeof first, so that they
 * can grow.
 */
#ifndef MODELFS_H
#define MODELFS_H

#include <stddef.h>
#include <stdint.h>

#include "modelfs_error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MODELFS_VERSION "0.1.0"

typedef struct mfs_container mfs_container;

/* What a medium wants: layout when packing, queueing when reading. */
typedef enum {
	MFS_PROFILE_SD = 0,
	MFS_PROFILE_EMMC,
	MFS_PROFILE_USB,
	MFS_PROFILE_SATA,
	MFS_PROFILE_NVME,
	MFS_PROFILE_NAND,
	MFS_PROFILE_NOR,
	MFS_PROFILES
} mfs_profile_id;

typedef struct {
	size_t size;
	const char *name;
	uint32_t page_bytes;
	uint32_t frame_bytes;	/* original bytes of a span */
	uint32_t request_bytes; /* largest read from the medium */
	uint32_t depth;		/* reads in flight */
	/* The same as frame_bytes, of tensors with constants: a random read takes two
	 * frames of these. */
	uint32_t quantized_frame_bytes;
} mfs_profile;

/* Fills `out` (its size set) with profile `id`; MFS_E_ARGUMENT if there is none. */
MFS_API int mfs_profile_get(mfs_profile_id id, mfs_profile *out);
/* The id of a name such as "sd", or MFS_E_NOT_FOUND. */
MFS_API int mfs_profile_find(const char *name);

/* ---- opening ---- */

typedef struct {
	size_t size;
	const char *engine;   /* "uring", "pool", "pread"; NULL: the first of these that works */
	unsigned decoders;    /* threads; 0: one a core */
	uint64_t arena_bytes; /* memory for reads and decoded spans; 0: 64 MiB */
	int buffered;	      /* 1: never O_DIRECT */
	int no_prefetch;      /* 1: only what is asked for */
	int profile;	      /* mfs_profile_id for queueing, -1: by the medium */
	uint64_t cache_bytes; /* memory for stored bytes that are read again and again; 0: none,
			       * MFS_CACHE_AUTO: as the memory of this machine or cgroup allows */
	int record;	      /* 1: keep the order of first touches for mfs_trace_save() */
	const char *replay;   /* a saved trace to prefetch by, or NULL; read by mfs_open() */
	/* Memory for the matrices that are merged into one tensor of a view; 0: 16 MiB, or
	 * a 64th of what this machine or cgroup has. A tensor that needs more is not read. */
	uint64_t matrices_bytes;
} mfs_open_options;

/* A cache for models that are larger than the page cache can hold: none while the
 * files being read fit there, else most of the memory that is not in use. */
#define MFS_CACHE_AUTO UINT64_MAX

#define MFS_OPEN_OPTIONS_INIT                                                                      \
	{                                                                                          \
		sizeof(mfs_open_options), NULL, 0, 0, 0, 0, -1, 0, 0, NULL, 0                      \
	}

/* Opens the container at `path` (a file or a block device) read-only and checks
 * superblock and root. `options` may be NULL. On failure *out is NULL, `why`
 * (if not NULL) has the line to print. Threads are not started before the first
 * read: a program may fork between the two. */
MFS_API int mfs_open(mfs_container **out, const char *path, const mfs_open_options *options,
		     mfs_problem *why);
/* Waits for reads under way. NULL is fine. */
MFS_API void mfs_close(mfs_container *container);
/* Starts engine and threads now rather than at the first read; and where the
 * system does not know what the medium is, measures it with a few reads, for 50 ms
 * at most. Call it before the first read or not at all. What fails to start, here or at
 * the first read, has failed for good: close the container and open it again. */
MFS_API int mfs_start(mfs_container *container, mfs_problem *why);

/* What the container lies on, and how reads are queued for it. */
typedef struct {
	size_t size;
	const char *kind;   /* "sd", "emmc", "usb" (a stick: one read at a time), "uas",
			       "ssd", "hdd", "nvme", "nand", "nor", "memory"; or, where the
			       system does not know what is behind: "virtual", "network",
			       "fuse", "unknown" */
	const char *source; /* what the queueing follows: "sysfs" (the kind), "probe" (what
			       was measured), "option", "profile" (the container's) */
	const char *queue;  /* name of the medium that reads are queued as for */
	char name[32];	    /* of the device or file system: "mmcblk0", "nfs"; may be empty */
	char model[64];	    /* as the device says, printable ASCII; may be empty */
	int rotational;	    /* as the kernel says (often wrong); -1: unknown */
	int command_queue;  /* 1: an SD or eMMC card takes several reads at a time */
	uint32_t usb_mbits; /* of the bus that was negotiated; 0: not USB */
	uint32_t members;   /* devices under a RAID or a mapping; else 1; 0: unknown */
	uint32_t optimal_io_bytes; /* as the device says; 0: nothing */
	uint32_t latency_us;	   /* of a read of 4 KiB, measured; 0: not measured */
	uint32_t channels;	   /* such reads that go on at the same time, up to 4 */
	uint64_t bytes_per_second; /* of reads of 512 KiB, up to 4 at a time */
	uint32_t request_bytes;	   /* largest read */
	uint32_t depth;		   /* reads in flight ahead of demand */
	uint64_t window_bytes;	   /* how far a sequential stream is fetched ahead */
	uint32_t read_ahead_bytes; /* how far the kernel should read ahead in a mount: up to
				      MFS_READ_AHEAD_MAX, less for mixtures of experts on
				      a slow medium; known once the container was started */
} mfs_medium;

#define MFS_READ_AHEAD_MAX (1u << 20)

MFS_API int mfs_medium_get(mfs_container *container, mfs_medium *out);

/* ---- looking inside ---- */

typedef struct {
	size_t size;
	uint32_t version;
	uint32_t page_bytes;
	uint32_t frame_bytes; /* what was asked for; of tensors with constants it may be less */
	mfs_profile_id profile;
	uint64_t generation;
	uint64_t container_bytes;
	uint8_t uuid[16];
	uint32_t files, tensors, chunks, layouts;
	uint64_t original_bytes;     /* all files but views */
	uint64_t frame_bytes_stored; /* all frames */
	uint64_t tables_bytes;
	uint64_t superblock_bytes, index_bytes,
	    padding_bytes;	  /* the rest: everything adds up to container_bytes */
	int superblock_copy;	  /* which one served: 0, 1, 2 (tail) */
	uint64_t shared_bytes;	  /* stored bytes that more than one tensor has, counted
				   * once for each tensor but the first */
	uint32_t adapters, views; /* of the files */
	uint64_t view_bytes;	  /* all views */
	uint64_t unused_bytes;	  /* what compacting gives back, part of the above: frames and
				   * tables that no tensor has, and indexes of older
				   * generations */
} mfs_container_info;

/* What the container was packed for. Reads nothing. */
MFS_API mfs_profile_id mfs_container_profile(const mfs_container *container);
/* Reads the chunk table, so it may fail as a read may. */
MFS_API int mfs_info(mfs_container *container, mfs_container_info *out);

typedef struct {
	size_t size;
	const char *name;
	const char *format; /* "gguf", "safetensors", "opaque" */
	uint64_t file_bytes;
	uint64_t stored_bytes; /* frames and tables of its tensors and literal bytes */
	int64_t mtime_seconds;
	uint32_t mtime_nanoseconds;
	uint32_t first_tensor, tensors; /* its tensors: a run of the tensor numbers */
	uint8_t hash[16];	/* XXH3-128 of its bytes, canonical form; zeros: not known */
	const char *kind;	/* "packed", "adapter", "view" */
	const char *base;	/* of an adapter or view: the file that it belongs to, or NULL */
	const char *note;	/* of a view: how it came to be, "fr@0.7+de@0.3"; may be empty */
	uint64_t derived_bytes; /* of a view: computed while they are read */
	int lossy;		/* 1: not what the source had, because it was asked for */
} mfs_file_info;

MFS_API uint32_t mfs_file_count(const mfs_container *container);
/* stored_bytes needs the frame tables, so this may fail as a read may; with
 * mfs_file_stat() it is 0 and nothing is read. */
MFS_API int mfs_file_get(mfs_container *container, uint32_t file, mfs_file_info *out);
MFS_API int mfs_file_stat(const mfs_container *container, uint32_t file, mfs_file_info *out);
/* The number of the file with this name, or MFS_E_NOT_FOUND. */
MFS_API int64_t mfs_file_find(const mfs_container *container, const char *name);

typedef struct {
	size_t size;
	const char *name;
	const char *type; /* such as "Q4_K" */
	const char *cls;  /* "weights", "constants", "plain": class of its main frames */
	uint32_t file;
	uint32_t dim_count;
	uint64_t dims[8]; /* in the order of the source file: GGUF has the fastest first */
	uint64_t file_offset;
	uint64_t tensor_bytes;
	uint64_t stored_bytes;		 /* frames and tables, all classes */
	uint64_t constants_bytes;	 /* original bytes of class constants */
	uint64_t constants_stored_bytes; /* stored ones: 0 where the tensor is plain */
	uint64_t tables_bytes;
	uint64_t spans;
	uint32_t span_bytes; /* original bytes of a full span */
	uint8_t hash[16];
	int derived;	   /* 1: computed from a tensor of the base; nothing is stored */
	uint32_t adapters; /* that are merged into a derived one */
} mfs_tensor_info;

MFS_API uint32_t mfs_tensor_count(const mfs_container *container);
MFS_API int mfs_tensor_get(mfs_container *container, uint32_t tensor, mfs_tensor_info *out);

typedef struct {
	size_t size;
	uint64_t offset; /* a multiple of the page size */
	uint64_t decoded_bytes;
	uint32_t stored_bytes; /* frames and tables, without padding */
	uint32_t frames;
	const char *cls;   /* "weights", "constants", "adapter", "plain", "metadata" */
	const char *codec; /* what holds most of its bytes: "raw", "zstd", "literals", ... */
} mfs_chunk_info;

MFS_API int mfs_chunk_get(mfs_container *container, uint32_t chunk, mfs_chunk_info *out);

/* ---- reading ---- */

/* Like pread(2): returns bytes copied, short only at end of file, 0 past it, or
 * a negative mfs_error. */
MFS_API int64_t mfs_read(mfs_container *container, uint32_t file, uint64_t offset, void *buffer,
			 size_t length);

struct iovec;

/* Called once when a read has ended, from a thread of the container's or from
 * inside mfs_read_async(). `result` is the byte count or a negative mfs_error;
 * the bytes are in the `count` pieces, which may be used until it returns. It
 * must not block and must not call mfs_read(). */
typedef void mfs_read_done(void *user, int64_t result, const struct iovec *pieces, int count);

#define MFS_READ_MAX (1u << 20) /* bytes of one mfs_read_async() */

/* The same without waiting; `length` at most MFS_READ_MAX. Never blocks on the
 * medium or on memory. 0, or a negative mfs_error (then `done` is not called). */
MFS_API int mfs_read_async(mfs_container *container, uint32_t file, uint64_t offset, size_t length,
			   mfs_read_done *done, void *user);

/* Why the last read of this container failed, or why reading could not start, for
 * messages: names file, tensor and place. Empty text if none did. */
MFS_API void mfs_last_problem(mfs_container *container, mfs_problem *out);

/* Advice: fetch these bytes soon. May do nothing. */
MFS_API void mfs_prefetch(mfs_container *container, uint32_t file, uint64_t offset,
			  uint64_t length);

/* Writes the order in which reads first touched the spans of the container, as
 * text (modelfs(1), TRACES), to `path`, through a temporary file beside it. It
 * must have been opened with `record`. */
MFS_API int mfs_trace_save(mfs_container *container, const char *path, mfs_problem *why);

typedef struct {
	size_t size;
	const char *engine; /* "uring", "pool", "pread"; "none" before the first read */
	int direct;	    /* 1: O_DIRECT, 0: buffered */
	int registered;	    /* 1: io_uring with registered buffers */
	uint32_t request_bytes, depth, decoders;
	uint64_t arena_bytes, arena_used_bytes;
	uint64_t index_loaded_bytes;
	uint64_t reads;	       /* calls */
	uint64_t served_bytes; /* to callers */
	uint64_t medium_reads; /* requests to the medium */
	uint64_t medium_bytes; /* read from it */
	uint64_t decoded_spans, decoded_bytes;
	uint64_t span_hits; /* spans found decoded, or being decoded */
	uint64_t span_misses;
	uint64_t prefetch_bytes; /* read from the medium ahead of demand */
	/* Stored bytes of spans made ahead, also of those whose bytes were in memory already:
	 * asked for since then; and dropped unasked. */
	uint64_t prefetch_used_bytes, prefetch_wasted_bytes;
	uint64_t errors_io, errors_corrupt;
	uint64_t busy_us;		/* time with at least one request at the medium */
	uint64_t decoding_us;		/* time of all decoders at work, added up */
	uint64_t container_bytes;	/* size of the container */
	uint64_t cache_bytes;		/* that the cache may take now */
	uint64_t cache_used_bytes;	/* that it takes */
	uint64_t cache_weights_bytes;	/* stored bytes that it holds: of all classes but */
	uint64_t cache_constants_bytes; /* of class constants, and tables */
	uint64_t cache_hit_bytes;	/* stored bytes taken from it */
	uint64_t cache_miss_bytes;	/* taken from the medium instead */
	uint64_t cache_returned_bytes;	/* given back because memory was short */
} mfs_stats;

MFS_API int mfs_stats_get(mfs_container *container, mfs_stats *out);

/* Bytes of a file that reads have been given since the container was opened, each
 * counted once; in steps of 64 KiB, or larger ones in very large files. */
MFS_API uint64_t mfs_touched_bytes(mfs_container *container, uint32_t file);

/* ---- checking ---- */

/* Called for each piece of damage found: why->text names it. Return non-zero to
 * stop. */
typedef int mfs_check_report(void *user, const mfs_problem *why);
/* Called as the check goes on; both counts in original bytes. Return non-zero to
 * give up: the check then ends with MFS_E_CANCELLED. */
typedef int mfs_progress(void *user, uint64_t done_bytes, uint64_t total_bytes);

/* Verifies everything: all superblocks, both copies of the index, every frame,
 * every table, padding, and the original hash of every tensor and file. Returns
 * the number of problems reported, or a negative mfs_error if it could not go on. */
MFS_API int64_t mfs_check(mfs_container *container, mfs_check_report *report,
			  mfs_progress *progress, void *user);

#ifdef __cplusplus
}
#endif
#endif

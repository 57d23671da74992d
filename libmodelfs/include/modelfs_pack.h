/*
 * libmodelfs, writing: pack model files into a container.
 *
 * Packing runs in three steps: plan (import the sources, choose layouts and
 * codecs from samples; every offset of the index is known after it), write
 * (stream the spans through the coders), commit (sync, verify, rename). Memory
 * stays under MFS_PACK_MEMORY plus MFS_PACK_THREAD_MEMORY a thread, plus the
 * index itself (16 bytes a frame) and what the reader takes for verifying (after
 * the coders are gone), whatever the model's size. Frame sizes over 1 MiB take
 * twice the frame size for each thread in addition, and so does quantizing.
 *
 * A packer is for one thread, except mfs_packer_cancel().
 */
#ifndef MODELFS_PACK_H
#define MODELFS_PACK_H

#include "modelfs.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MFS_PACK_MEMORY	       (80u << 20)
#define MFS_PACK_THREAD_MEMORY (12u << 20)

typedef struct mfs_packer mfs_packer;

typedef struct {
	size_t size;
	mfs_profile_id profile;
	uint32_t page_bytes;  /* 0: the profile's */
	uint32_t frame_bytes; /* 0: the profile's */
	unsigned threads;     /* 0: one a core; output does not depend on it */
	int opaque;	      /* 1: pack sources that fail validation as opaque bytes */
	int no_verify;	      /* 1: neither decode what was coded nor read back what was written */
	int force;	      /* 1: replace an existing container */
	const char *codec;    /* the only coding to use on tensors, such as "literals", or "plain";
			       * NULL: for each tensor what is smallest among those that the
			       * profile's decode budget allows */
	int explain;	      /* 1: keep what was tried for mfs_packer_choice() */
	const char *order;    /* a trace (mfs_trace_save()): what it names is stored in its
			       * order, the rest behind that in the order of the files; NULL:
			       * all in the order of the files */
	int compact;	      /* 1: mfs_packer_open() is for compacting */
	const char *views;    /* types of the merged views of each adapter, such as
			       * "f16,q8_0", or "all" (NULL) or "none" */
	const char *quantize; /* the type that the weights of models get: "q8_0", "q4_0",
			       * "q4_k" or "q6_k"; NULL: their own */
	const char *prune;    /* "0.5": this share of each tensor's weights, the least ones,
			       * becomes 0; "2:4": the lesser two of each four; NULL: none.
			       * Both are lossy: the virtual file is another model than the
			       * source, marked so in the container; see mfs_packer_loss().
			       * GGUF models of F32, F16 and BF16 only */
} mfs_pack_options;

#define MFS_PACK_OPTIONS_INIT                                                                      \
	{                                                                                          \
		sizeof(mfs_pack_options), MFS_PROFILE_SD, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, 0,      \
		    NULL, NULL, NULL                                                               \
	}

/* Stages of a pack, for progress. */
typedef enum { MFS_PACK_PLAN, MFS_PACK_WRITE, MFS_PACK_VERIFY } mfs_pack_stage;

/* `original` and `total` count original bytes, `stored` container bytes so far.
 * Return non-zero to stop: mfs_packer_write() cleans up and returns
 * MFS_E_CANCELLED. */
typedef int mfs_pack_progress(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			      uint64_t stored);

MFS_API int mfs_packer_new(mfs_packer **out, const mfs_pack_options *options, mfs_problem *why);
MFS_API void mfs_packer_free(mfs_packer *packer); /* NULL is fine; removes a temporary file */

/* A packer that changes the container at `path`, which keeps its profile and page
 * size: added files become a new generation behind the one that is there, which all
 * who have it open go on reading; removed ones are left out of it, and nothing of
 * theirs is overwritten. With option `compact` a new container takes its place that
 * holds only what is still referred to. The container is locked until
 * mfs_packer_write() has ended: MFS_E_BUSY if another writer has it. */
MFS_API int mfs_packer_open(mfs_packer **out, const char *path, const mfs_pack_options *options,
			    mfs_problem *why);

/* Leaves out a file of the opened container, or a directory with all that is in it:
 * `name` as the mount shows it; or the name of an adapter, with which the views of it
 * alone go. mfs_packer_write() refuses (MFS_E_ARGUMENT) if another file depends on it. */
MFS_API int mfs_packer_remove(mfs_packer *packer, const char *name, mfs_problem *why);

/* Adds the file at `path` under `name` (NULL: its base name). Opens and imports
 * it now; refuses bad names, collisions and, unless `opaque`, files of a known
 * format that fail validation, in `why`.
 *
 * Of a directory (`name` must be NULL) all regular files are added, under their
 * base names; symbolic links are followed, subdirectories and names that begin
 * with a dot are left out. Where it holds NAME.safetensors.index.json, the shards
 * and tensors that this names must be there. */
MFS_API int mfs_packer_add(mfs_packer *packer, const char *path, const char *name,
			   mfs_problem *why);

/* Adds the low-rank adapter at `path`, a GGUF file or a directory as PEFT writes it
 * (which is converted), as "adapters/NAME.gguf", and
 * for each type of options.views the model with it merged in, "merged/NAME.TYPE.gguf".
 * Of a DoRA there is no adapter of GGUF, only what is merged. On a safetensors model an
 * adapter of PEFT stays as it is, "adapters/NAME/...", and "merged/NAME/..." is the model.
 * Its base, the added file named `base` or (NULL) the only model, must have been
 * added before; an adapter that does not fit it is refused in `why`. */
MFS_API int mfs_packer_add_adapter(mfs_packer *packer, const char *path, const char *name,
				   const char *base, mfs_problem *why);

/* Adds views with several adapters of one base, merged in this order: `mixture` is
 * such as "fr@0.7+de@0.3"; a scale that is not given is 1. */
MFS_API int mfs_packer_add_merge(mfs_packer *packer, const char *name, const char *mixture,
				 mfs_problem *why);

/* Adds "merged/NAME.TYPE.gguf": the base with adapters merged in before it was
 * quantized, stored as its difference to the base. `mixture` is as above, or NULL: the
 * adapter `name`, which is there already. `source` is the GGUF model of F32, F16 or
 * BF16 that the base was quantized from, or NULL where option `quantize` makes the
 * base. What does not fit is refused in `why`; see mfs_packer_loss(). */
MFS_API int mfs_packer_add_premerge(mfs_packer *packer, const char *name, const char *mixture,
				    const char *source, mfs_problem *why);

/* Adds a fine-tune of the file that was or will be added under the name `base`:
 * each of its tensors is stored as nothing where it is equal to that of the base, as
 * a difference to it, or alone, whichever is smallest. */
MFS_API int mfs_packer_add_delta(mfs_packer *packer, const char *path, const char *name,
				 const char *base, mfs_problem *why);

typedef struct {
	const char *type; /* tensor type, or "metadata" for literal and opaque bytes */
	uint64_t tensors;
	uint64_t original_bytes;
	uint64_t stored_bytes;
} mfs_pack_type;

typedef struct {
	size_t size;
	uint64_t original_bytes; /* of the files that were added */
	uint64_t stored_bytes;	 /* container size; what it would be after a dry run */
	/* Of what was written. */
	uint64_t frame_bytes, tables_bytes, superblock_bytes, index_bytes, padding_bytes;
	uint32_t files, tensors, chunks;
	const mfs_pack_type *types; /* the packer's, until it is freed */
	uint32_t type_count;
	double seconds_write, seconds_verify;
	uint64_t generation;
	uint64_t written_bytes; /* by how much the container grew, or its size if it is new */
	uint32_t files_added, files_removed;
	uint32_t adapters, views; /* of the files */
} mfs_pack_summary;

/* How a tensor came to be stored as it is: the sizes of its sample. */
#define MFS_PACK_CODINGS_MAX 16
typedef struct {
	size_t size;
	const char *file, *tensor, *type; /* the packer's, until it is freed */
	const char *cls;		  /* "weights", "plain", ... */
	const char *reason;
	uint64_t sample_bytes; /* original */
	uint64_t chosen_bytes; /* as it will be stored */
	uint32_t coding_count;
	struct {
		const char *coding;
		uint64_t stored_bytes; /* with this coding alone, without tables */
	} tried[MFS_PACK_CODINGS_MAX];
} mfs_pack_choice;

/* After mfs_packer_write() with option `explain`: the choice for part `i` of the
 * files, in the order of files and offsets; `tensor` is NULL for literal bytes.
 * MFS_E_NOT_FOUND past the last. */
MFS_API int mfs_packer_choice(mfs_packer *packer, uint32_t i, mfs_pack_choice *out);

/* What a tensor lost by `quantize` and `prune`, or by quantizing a premerged model. */
typedef struct {
	size_t size;
	const char *file, *tensor;   /* the packer's, until it is freed */
	const char *type, *new_type; /* before and after */
	double rmse;		     /* root of the mean squared error of its weights */
	double most;		     /* the largest error */
	uint64_t weights, zeros;     /* zeros: of the weights as they are now */
	/* Of a premerged model: its blocks, and how many are those of its base. */
	uint64_t blocks, equal_blocks;
} mfs_pack_loss;

/* After mfs_packer_write(): the loss of changed tensor `i`, over all files.
 * MFS_E_NOT_FOUND past the last. */
MFS_API int mfs_packer_loss(mfs_packer *packer, uint32_t i, mfs_pack_loss *out);

/* Remark `i` on what was added, such as that no view of a model can be made; a line of
 * text that is the packer's, until it is freed. NULL past the last. */
MFS_API const char *mfs_packer_remark(const mfs_packer *packer, uint32_t i);

/* Of a premerged model: how much of its base modelfs's own quantizers make from the
 * source, in a sample of its blocks. Where that is little, another quantizer made the
 * base, and the difference that is stored is larger than it could be. */
typedef struct {
	size_t size;
	const char *file, *base; /* the packer's, until it is freed */
	uint64_t sample_blocks, sample_equal;
} mfs_pack_premerged;

/* Premerged model `i`, in the order of the files once they are written.
 * MFS_E_NOT_FOUND past the last. */
MFS_API int mfs_packer_premerged(mfs_packer *packer, uint32_t i, mfs_pack_premerged *out);

/* Writes the container to `path` through a temporary file beside it; or changes the
 * container that was opened, whose path it must be. With
 * `path` NULL (dry run) everything is coded and nothing written. Once for each
 * packer. On failure nothing is left behind and an existing container is as it
 * was (MFS_E_EXISTS: there is one, and `force` was not given). */
MFS_API int mfs_packer_write(mfs_packer *packer, const char *path, mfs_pack_progress *progress,
			     void *user, mfs_pack_summary *out, mfs_problem *why);

/* Makes mfs_packer_write() stop soon, clean up and return MFS_E_CANCELLED. May be
 * called from any thread and from a signal handler. */
MFS_API void mfs_packer_cancel(mfs_packer *packer);

#ifdef __cplusplus
}
#endif
#endif

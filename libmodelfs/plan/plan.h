/*
 * The plan of a container: which files, cut into which extents, tensors, spans
 * and frames. Sources are added one by one, then mfs_plan_build() numbers
 * everything; codecs are chosen later from samples (sample.h). All that decides
 * the size of the index is known once the plan stands.
 *
 * Used by one thread, except that sampling fills different tensors from several.
 */
#ifndef MFS_PLAN_H
#define MFS_PLAN_H

#include <stdbool.h>
#include <sys/stat.h>

#include "../../format/frame.h"
#include "../../format/root.h"
#include "adapter.h"
#include "bnb.h"
#include "gains.h"
#include "import.h"
#include "import_peft.h"
#include "modelfs_pack.h"
#include "requantize.h"

/* Original bytes of a group: consecutive spans whose chunks lie together, so
 * that a sequential read stays sequential and a packer holds one group only. */
#define MFS_GROUP_BYTES	    (32u << 20)
#define MFS_GROUP_CONSTANTS (2u << 20)
#define MFS_GROUP_SPANS	    65536u

/* Codes of 4 bits are cut into spans that may become F32. */
#define MFS_PLAN_CODES_MAX (MFS_FRAME_MAX / 8)

/* Up to this many original bytes the room between the superblocks counts, so
 * one small tensor, or the head of an opaque file, is cut into frames that fit. */
#define MFS_PLAN_SMALL	    (16u << 20)
#define MFS_PLAN_LEAD_FRAME (16u << 10)

/* Holes of a source smaller than this are stored as the zeros they read as. */
#define MFS_PLAN_HOLE_MIN (256u << 10)

typedef struct mfs_view mfs_view; /* view.h */

typedef struct {
	char *path;
	char *name;
	mfs_source source;
	struct stat found; /* when the plan was made: a source must not change */
	mfs_import import;
	/* A file of the container that is appended to: its source is the container,
	 * its import empty until mfs_plan_import_carried(). */
	bool carried;
	uint32_t carried_number; /* in that container */
	mfs_root_file record;	 /* extents from mfs_plan_build(), hash from writing */
	uint64_t literal_bytes;
	uint64_t dropped; /* its memory pages up to here are not kept: packing is past them */
	char *delta_of;	  /* name of the file that it is a fine-tune of, or NULL */
	/* Of adapters and views. */
	const char *base; /* name of the file that they belong to */
	char *note;
	mfs_adapter *adapter;
	mfs_peft *peft; /* what the source of a converted adapter reads */
	mfs_view *view;
	/* What computes the source; else NULL. */
	mfs_requantized *requantized;
	struct mfs_premerged *premerged;
	mfs_gains *gains;
	mfs_bnb *bnb;	       /* of a model with 4-bit weights of bitsandbytes */
	bool models_opened;    /* `bnb` is known: mfs_plan_open_models() */
	float *nested_offsets; /* of carried NF4, by tensor of the import; else NULL */
	char *remark;	       /* what the user should know about how it is packed, or NULL */
} mfs_plan_file;

/* What a tensor's sample came to with each coding, for those who ask why. */
typedef struct {
	uint64_t sample_bytes;
	uint64_t stored[MFS_CODINGS]; /* with this coding alone; 0 if it was not tried */
	uint64_t chosen;	      /* with what was chosen */
	const char *reason;	      /* a constant string */
} mfs_plan_choice;

/* Where the frames of a span come from, if not from its own tensor. */
typedef struct {
	uint32_t tensor; /* MFS_NO_TENSOR: its own */
	uint32_t index;	 /* of the span there */
} mfs_plan_owner;

typedef struct {
	mfs_root_tensor record; /* hash, bases and tables numbers come from writing */
	const mfs_layout *layout;
	const uint64_t *dims; /* the import's */
	uint32_t delta_base;  /* a tensor that it may be stored as a difference to, or
			       * MFS_NO_TENSOR; record.base if it is */
	uint32_t twin; /* a tensor with the same bytes, stored or earlier; MFS_NO_TENSOR: none */
	/* Whose class and tables it takes, and what its places count from, to have spans in
	 * common (share.h); MFS_NO_TENSOR: nobody's. A leader has none itself. */
	uint32_t leader;
	mfs_plan_owner *owners; /* by span; NULL: all are its own */
	bool stored;		/* carried over: its frames lie in the container already */
	uint64_t row_bytes;
	uint64_t base_block_weights; /* of a derived one: weights in a block of its base */
	uint64_t spans;
	/* Spans of its own: before and behind all others of it. UINT64_MAX: none. */
	uint64_t first_stored, last_stored;
	mfs_coding_rules rules;
	mfs_plan_choice choice;	    /* if the plan is to explain itself */
	uint8_t *tables[MFS_SLOTS]; /* stored tables, or NULL */
	uint32_t tables_bytes[MFS_SLOTS];
	mfs_tables *open_tables[MFS_SLOTS]; /* while its spans are being coded */
} mfs_plan_tensor;

/* Spans of a tensor that are stored one after another. */
typedef struct {
	uint32_t tensor;
	uint64_t first, count;
} mfs_plan_run;

/* A span whose frames are those of another one. */
typedef struct {
	uint32_t owner, owner_index; /* tensor and span whose frames are stored */
	uint32_t tensor, index;
} mfs_plan_alias;

typedef struct mfs_carried mfs_carried;

#define MFS_PLAN_AUTO  -1
#define MFS_PLAN_PLAIN -2

typedef struct {
	/* What was asked for. */
	mfs_profile_id profile;
	uint32_t page_bytes;
	uint32_t frame_bytes;
	uint32_t quantized_frame_bytes; /* of tensors with constants */
	bool opaque;
	bool explain;
	unsigned views;	   /* the types that merged views have: see view.h */
	mfs_recipe recipe; /* for the models that are added */
	int codec; /* enum mfs_coding that alone may be used, MFS_PLAN_PLAIN, or MFS_PLAN_AUTO */
	mfs_carried *carried; /* what an append carries over (carried.h); NULL: nothing */

	mfs_plan_file *files; /* sorted by name once built */
	uint32_t file_count;
	mfs_plan_tensor *tensors; /* in the order of files and offsets */
	uint32_t tensor_count;
	mfs_root_extent *extents;
	uint32_t extent_count;
	mfs_plan_run *runs; /* all spans in the order in which they are stored */
	uint32_t run_count;
	bool reordered;	      /* that is not the order of the files */
	mfs_root_term *terms; /* sorted by tensor */
	uint32_t term_count;
	mfs_plan_alias *aliases; /* sorted by owner */
	uint64_t alias_count;
	const mfs_layout **layouts;
	uint32_t layout_count;
	uint64_t original_bytes; /* of the files that are new */
	uint64_t span_max;	 /* bytes of the largest span */
	bool wants_lead;	 /* the next long run of literal bytes is cut */
	/* Room of the arrays above. */
	uint32_t tensor_room, extent_room, term_room;

	/* From mfs_plan_number(). */
	uint64_t frames;
	uint64_t chunks_max;
	uint64_t group_max; /* bytes of the largest group: spans and tables */
	uint32_t tables_count;
} mfs_plan;

/* ---- making a plan (plan.c, plan_build.c) ---- */

/* Opens and imports the file at `path` under `name` (NULL: its base name). */
int mfs_plan_add(mfs_plan *plan, const char *path, const char *name, mfs_problem *why);

/* Sorts the files and cuts them into extents and tensors, once all are added. */
int mfs_plan_build(mfs_plan *plan, mfs_problem *why);

void mfs_plan_free(mfs_plan *plan); /* what it holds, not the struct itself */

/* ---- models of several files (plan_directory.c, plan_models.c) ---- */

/* Adds the regular files of a directory under their base names and checks its
 * index of shards, if it has one. On failure none of them is added. */
int mfs_plan_add_directory(mfs_plan *plan, const char *path, mfs_problem *why);
bool mfs_is_directory(const char *path);

/* Once the files of a model are added: finds its 4-bit weights of bitsandbytes and adds
 * views of them. What cannot be decoded gets a remark. For who needs models whole, and
 * when all files are there; a model that was opened stays as it is. */
int mfs_plan_open_models(mfs_plan *plan, mfs_problem *why);

/* ---- adapters (plan_adapters.c) ---- */

/* Adds the adapter at `path` as "adapters/LABEL.gguf", and its merged views. It is
 * checked against its base: the file named `base`, or (NULL) the only model. */
int mfs_plan_add_adapter(mfs_plan *plan, const char *path, const char *label, const char *base,
			 mfs_problem *why);
/* Adds views in which several adapters are merged: `mixture` is their labels with
 * scales, in the order in which they are added: "fr@0.7+de@0.3". */
int mfs_plan_add_merge(mfs_plan *plan, const char *label, const char *mixture, mfs_problem *why);

/* Adds a model into which adapters were merged before it was quantized (premerge.h),
 * "merged/LABEL.TYPE.gguf", as a delta of their base. `mixture` as above, or NULL:
 * the adapter `label`. `path` is the model that the base was quantized from, or NULL
 * where it is quantized on its way in. */
int mfs_plan_add_premerge(mfs_plan *plan, const char *label, const char *mixture, const char *path,
			  mfs_problem *why);

/* ---- adapters of PEFT on safetensors models (plan_peft.c) ---- */

/* The first file of the model that `name` is a file of: itself, or shard 1. The pointer
 * lasts as that of mfs_plan_find(). */
const mfs_plan_file *mfs_plan_first_shard(const mfs_plan *plan, const char *name);
/* The weights of a file of a model, as long as the plan lives. */
mfs_base_model mfs_plan_model(const mfs_plan_file *file);
/* Adds the files of the adapter in directory `path` as "adapters/LABEL/...", as they
 * are, and its merged model "merged/LABEL/...". `base` is the model's first file. */
int mfs_plan_add_peft(mfs_plan *plan, const char *path, const char *label, const char *base,
		      mfs_problem *why);
/* The file NAME in the directory of another, or NULL. */
mfs_plan_file *mfs_plan_find_beside(const mfs_plan *plan, const mfs_plan_file *file,
				    const char *name);
/* Pairs an adapter that is carried over, as if it had just been added. */
int mfs_plan_open_carried_peft(mfs_plan *plan, mfs_plan_file *file, mfs_problem *why);

/* ---- models that are changed on their way in (plan_changed.c) ---- */

/* Puts the changed model in the place of a source that is not added yet, as the recipe
 * says; what is no model stays as it is. The file is closed after a failure. */
int mfs_plan_change(const mfs_plan *plan, mfs_plan_file *file, mfs_problem *why);
/* Whether reading the file computes it, which takes time and goes on many threads. */
bool mfs_plan_computes(const mfs_plan_file *file);

/* From here on what is read of changed files is counted as lost. */
void mfs_plan_measure_losses(mfs_plan *plan);
/* What changed tensor `i` of the file lost; false past the last. */
bool mfs_plan_loss(const mfs_plan_file *file, uint32_t i, mfs_loss *out);
/* Writes down what a changed file lost; it is right once all of it was read, its length
 * always. */
void mfs_plan_note_loss(mfs_plan_file *file);
void mfs_plan_note_losses(mfs_plan *plan); /* of all files */
/* Gives the terms of NF4 tensors their nested offsets, which are known by then too. */
void mfs_plan_set_offsets(mfs_plan *plan);
/* Where a weight could not be changed, that is what went wrong: its error with
 * `why`, else `error`. */
int mfs_plan_loss_problem(mfs_plan *plan, int error, mfs_problem *why);

/* ---- for what adds files (plan.c) ---- */

/* Opens and imports a file that is not in the plan yet. */
int mfs_plan_open(mfs_plan_file *out, mfs_plan *plan, const char *path, mfs_problem *why);
/* Adds a file whose source is open under `name`, which may have directories: it
 * is the plan's then, or closed after a failure. */
int mfs_plan_append(mfs_plan *plan, mfs_plan_file *file, const char *name, mfs_problem *why);
/* Closes a file that was opened and not added. */
void mfs_plan_discard(mfs_plan_file *file);
/* Makes room for one more file at the end of plan->files; NULL without memory. */
mfs_plan_file *mfs_plan_new_file(mfs_plan *plan);
/* Imports a carried file through the container, for those who need its header.
 * carried.c */
int mfs_plan_import_carried(mfs_plan_file *file, mfs_problem *why);

/* The file with this name, or NULL. The pointer lasts until a file is added. */
mfs_plan_file *mfs_plan_find(const mfs_plan *plan, const char *name);
/* Closes a file and frees what it holds. */
void mfs_plan_free_file(mfs_plan *plan, mfs_plan_file *file);
/* Closes and forgets the files added since there were `count`. */
void mfs_plan_forget(mfs_plan *plan, uint32_t count);

/* A known format that breaks its own rules, as opposed to a medium that fails. */
bool mfs_plan_is_refusal(int error);
/* A source must still be what it was; else the container would hold a mixture. */
int mfs_plan_file_unchanged(const mfs_plan_file *file, mfs_problem *why);

/* ---- for what cuts files into extents and tensors (plan_tensors.c) ---- */

/* The number of a layout in the container; it is added if it is not there yet. The
 * plan refers to it. */
int mfs_plan_layout(mfs_plan *plan, const mfs_layout *layout, uint32_t *out, mfs_problem *why);

/* Adds an extent, or a tensor without one, to the file that is being built. */
int mfs_plan_add_extent(mfs_plan *plan, const mfs_root_extent *extent, mfs_problem *why);
int mfs_plan_add_tensor(mfs_plan *plan, const mfs_plan_tensor *tensor, mfs_problem *why);

/* Each adds an extent to the file that is being built, and all but the first a tensor
 * for it. */
int mfs_plan_add_zeros(mfs_plan *plan, uint64_t offset, uint64_t end, mfs_problem *why);
int mfs_plan_add_literal(mfs_plan *plan, uint32_t file, uint64_t offset, uint64_t end,
			 mfs_problem *why);
/* Tensor `number` of the file's import. */
int mfs_plan_add_imported(mfs_plan *plan, uint32_t file, uint32_t number, mfs_problem *why);
/* The tensor `from` of the base in another layout: derived from tensor `base` of
 * the plan. Its spans come later, from mfs_views_cut(). */
int mfs_plan_add_derived(mfs_plan *plan, uint32_t file, const mfs_import_tensor *from,
			 const mfs_layout *layout, uint32_t base, uint64_t offset, uint64_t size,
			 mfs_problem *why);
/* Terms are added in the order of their tensors. */
int mfs_plan_add_term(mfs_plan *plan, const mfs_root_term *term, mfs_problem *why);

/* For a small container: the smallest tensor that is large enough gets frames that fit
 * between the superblocks. Where there is no tensor at all, plan->wants_lead makes
 * mfs_plan_add_literal() cut a head off. */
void mfs_plan_choose_lead(mfs_plan *plan);
/* Sees to it that buffers have room for the spans of a tensor. */
void mfs_plan_note_span(mfs_plan *plan, const mfs_plan_tensor *tensor);

/* ---- the order in which spans are stored (plan_order.c) ---- */

/* Stores the spans in the order of the trace at `path` (trace.h), the rest behind
 * them in the order of the files; after mfs_plan_build(). */
int mfs_plan_order(mfs_plan *plan, const char *path, mfs_problem *why);
/* In the order of the files, once it is known who owns which span. */
int mfs_plan_order_by_file(mfs_plan *plan, mfs_problem *why);

/* ---- what is stored of a tensor (plan_groups.c) ---- */

/* Whether frames of the tensor are written: not where they lie in the container
 * already, where a twin has them, or where there are none. */
bool mfs_plan_writes(const mfs_plan_tensor *tensor);
/* Whether the tensor has frames of its own for a span. */
bool mfs_plan_owns(const mfs_plan_tensor *tensor, uint64_t span);
/* Makes all spans of a tensor that is no leader and no owner its own again. */
void mfs_plan_unshare(mfs_plan_tensor *tensor);
/* The aliases of a span: NULL or the first of them; they follow each other. */
const mfs_plan_alias *mfs_plan_aliases(const mfs_plan *plan, uint32_t tensor, uint64_t span,
				       uint64_t *count);
/* Whether `slot` of the tensor has frames, and its bytes in a span of `blocks`. */
bool mfs_plan_has_slot(const mfs_plan_tensor *tensor, unsigned slot);
uint32_t mfs_plan_slot_bytes(const mfs_plan_tensor *tensor, unsigned slot, uint32_t blocks);
unsigned mfs_plan_slot_class(const mfs_plan_tensor *tensor, unsigned slot);

/* Opens the tables that `of`, the tensor itself or its leader, has for a tensor, and
 * closes them. */
int mfs_plan_open_tables(mfs_plan_tensor *tensor, const mfs_plan_tensor *of,
			 enum mfs_tables_use use);
void mfs_plan_close_tables(mfs_plan_tensor *tensor);
/* Forgets the tables of a tensor that is stored plain. */
void mfs_plan_drop_tables(mfs_plan_tensor *tensor);

/* Numbers the frames and bounds the chunks, once classes and tables are chosen. */
void mfs_plan_number(mfs_plan *plan);

/* A group of spans while it is being filled: the planner and the writer count alike. */
typedef struct {
	uint64_t bytes; /* spans and tables */
	uint64_t constants;
	uint32_t spans;
	uint64_t by_class[MFS_DISK_CLASSES];
} mfs_group;

/* True if the span still belongs to the group; an empty group takes any span. */
bool mfs_group_takes(const mfs_group *group, const mfs_plan_tensor *tensor, const mfs_span *span);
void mfs_group_add(mfs_group *group, const mfs_plan_tensor *tensor, const mfs_span *span);

#endif

/*
 * Views: virtual files that are the base in another type, or with adapters merged
 * into it. What stays as it is are extents over the base's tensors, all else are
 * derived tensors (derive.c computes them) and a header that is made when packing.
 * view_gguf.c and view_safetensors.c know the formats.
 */
#ifndef MFS_VIEW_H
#define MFS_VIEW_H

#include "plan.h"

#define MFS_VIEW_TYPES	     4
#define MFS_VIEW_KEEP	     UINT32_MAX
#define MFS_VIEW_ADAPTER_MAX MFS_TERMS_MAX

/* Adapters of one view, in the order in which they are added. */
typedef struct {
	const mfs_adapter *adapter; /* its file's; lives as long as the plan */
	const char *file;	    /* name of that file */
	const char *gains;	    /* name of the file with the gains of its rows, or NULL */
	float scale;
} mfs_view_part;

struct mfs_view {
	uint32_t ggml_type; /* MFS_VIEW_KEEP: each tensor has the type that it had */
	uint32_t part_count;
	mfs_view_part *parts;
	/* The first bytes of the view, of safetensors its header; all of it if `text`,
	 * which is a changed copy of the base. */
	uint8_t *head;
	size_t head_size;
	bool text;
	/* Of GGUF: what differs from the base's header: the value of general.file_type, and
	 * the descriptions of the tensors. The source of the view reads them. */
	uint64_t file_type_at; /* 0: none */
	uint8_t file_type[4];
	uint64_t infos_at;
	uint8_t *infos;
	size_t infos_size;
};

/* The types of views: bit i of a set stands for type i. */
#define MFS_VIEWS_ALL ((1u << MFS_VIEW_TYPES) - 1)
const char *mfs_view_type_name(unsigned i); /* as in names: "f16" */

/* Parses "f16,q8_0", "all" or "none". MFS_E_ARGUMENT with `why`. */
int mfs_views_parse(const char *text, unsigned *out, mfs_problem *why);

/* Adds the views of `label` to the plan, one for each type that is asked for. The
 * parts are copied. `note` says how they came to be. */
int mfs_views_add(mfs_plan *plan, const char *label, const char *base, const mfs_view_part *parts,
		  uint32_t count, const char *note, mfs_problem *why);

/* Adds file NAME of the merged model "merged/LABEL/" as a view of the file `base` of a
 * safetensors model: with the parts merged into it, or without parts a copy of any
 * file. The parts are copied; each is of this file of the base alone. */
int mfs_views_add_file(mfs_plan *plan, const char *label, const char *name, const char *base,
		       const mfs_view_part *parts, uint32_t count, const char *note,
		       mfs_problem *why);
/* The same with other bytes in the place of the base's; takes them over, to be freed. */
int mfs_views_add_text(mfs_plan *plan, const char *label, const char *name, const char *base,
		       char *text, const char *note, mfs_problem *why);

/* Adds all files of the merged model "merged/LABEL/": those of the safetensors model that
 * `base` is the first file of, and the configurations beside them; nothing where no
 * views are asked for (plan_peft.c). */
int mfs_plan_add_merged_model(mfs_plan *plan, const char *label, const char *base,
			      const mfs_view_part *parts, uint32_t count, const char *note,
			      mfs_problem *why);

/* Adds the views of `base` that bitsandbytes' NF4 is in: "views/LABEL.bf16.safetensors" and
 * f16. The other tensors stay as they are. */
int mfs_views_add_bnb(mfs_plan *plan, const char *label, const char *base, mfs_problem *why);

/* Adds the views of the NF4 model `base` (a name of the plan's): "views/LABEL.bf16.gguf"
 * and f16. */
int mfs_views_add_nf4(mfs_plan *plan, const char *label, const char *base, mfs_problem *why);

/* Cuts a view into extents and derived tensors, behind those of all other files,
 * which are cut already. */
int mfs_view_build(mfs_plan *plan, uint32_t file, mfs_problem *why);

/* Gives derived tensors the spans of their bases, once these stand. */
int mfs_views_cut(mfs_plan *plan, mfs_problem *why);

/* Where reading a new view takes more memory than the smallest machines allow for it, a
 * file gets a remark that says so. The terms are sorted by then. */
int mfs_views_remark_memory(mfs_plan *plan, mfs_problem *why);

void mfs_view_free(mfs_view *view); /* NULL is fine */

#endif

#include "mkmodelfs_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "json.h"

static void print_types(const mfs_pack_summary *s)
{
	char original[TOOL_SIZE_TEXT], stored[TOOL_SIZE_TEXT], ratio[TOOL_SIZE_TEXT];
	tool_table table;

	tool_table_init(&table, "lrrrr");
	tool_table_add(&table, "type");
	tool_table_add(&table, "tensors");
	tool_table_add(&table, "original");
	tool_table_add(&table, "stored");
	tool_table_add(&table, "ratio");
	for (uint32_t i = 0; i < s->type_count; i++) {
		const mfs_pack_type *t = &s->types[i];

		tool_table_add(&table, t->type);
		tool_table_addf(&table, "%" PRIu64, t->tensors);
		tool_table_add(&table, tool_size(original, t->original_bytes));
		tool_table_add(&table, tool_size(stored, t->stored_bytes));
		tool_table_add(&table, tool_ratio(ratio, t->original_bytes, t->stored_bytes));
	}
	tool_table_print(&table, stdout, 0);
}

/* What the container measures, or would: after a dry run nobody counted it. */
static uint64_t container_bytes(const mfs_pack_summary *s)
{
	if (s->stored_bytes)
		return s->stored_bytes;
	return s->frame_bytes + s->tables_bytes + s->superblock_bytes + s->index_bytes +
	       s->padding_bytes;
}

static void print_overhead(const mfs_pack_summary *s)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];

	printf("frames %s, tables %s\n", tool_size(a, s->frame_bytes),
	       tool_size(b, s->tables_bytes));
	printf("overhead: superblock %s, index %s, padding %s\n", tool_size(a, s->superblock_bytes),
	       tool_size(b, s->index_bytes), tool_size(c, s->padding_bytes));
}

static void print_times(const mkmodelfs_options *o, const mfs_pack_summary *s)
{
	if (s->seconds_verify > 0)
		printf("written in %.1f s, verified in %.1f s\n", s->seconds_write,
		       s->seconds_verify);
	else
		printf("%s in %.1f s\n", o->dry_run ? "coded" : "written", s->seconds_write);
}

/* Of an append or a removal. */
static void print_change(const mkmodelfs_options *o, const mfs_pack_summary *s)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];
	char *name = tool_clean(o->container);

	if (s->files_added)
		print_types(s);
	printf("%s%s: generation %" PRIu64 ", %" PRIu32 " added, %" PRIu32 " removed, %" PRIu32
	       " %s now%s\n",
	       s->files_added ? "\n" : "", name, s->generation, s->files_added, s->files_removed,
	       s->files, s->files == 1 ? "file" : "files",
	       o->dry_run ? " (dry run: not written)" : "");
	printf("%s -> %s more, container %s\n", tool_size(a, s->original_bytes),
	       tool_size(b, s->written_bytes), tool_size(c, s->stored_bytes));
	print_overhead(s);
	print_times(o, s);
	free(name);
}

static void print_summary(const mkmodelfs_options *o, const mfs_pack_summary *s)
{
	uint64_t stored = container_bytes(s);
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];
	char *name = tool_clean(o->container);

	print_types(s);
	printf("\n%s: %" PRIu32 " %s, %" PRIu32 " tensors, %" PRIu32 " chunks%s\n", name, s->files,
	       s->files == 1 ? "file" : "files", s->tensors, s->chunks,
	       o->dry_run ? " (dry run: not written)" : "");
	printf("%s -> %s, ratio %s\n", tool_size(a, s->original_bytes), tool_size(b, stored),
	       tool_ratio(c, s->original_bytes, stored));
	print_overhead(s);
	print_times(o, s);
	free(name);
}

/* ---- --explain ---- */

static void add_choice(tool_table *table, const mfs_pack_choice *c)
{
	char *name = tool_clean(c->tensor);
	char ratio[TOOL_SIZE_TEXT];

	tool_table_add(table, name);
	tool_table_add(table, c->type);
	for (uint32_t i = 0; i < c->coding_count; i++)
		tool_table_add(table, tool_ratio(ratio, c->sample_bytes, c->tried[i].stored_bytes));
	tool_table_add(table, tool_ratio(ratio, c->sample_bytes, c->chosen_bytes));
	tool_table_add(table, c->cls);
	tool_table_add(table, c->reason);
	free(name);
}

/* Ratios of the sample with each coding alone, and with what was chosen. */
static void print_choices(mfs_packer *packer)
{
	mfs_pack_choice c = {.size = sizeof(c)};
	char align[MFS_PACK_CODINGS_MAX + 6] = "ll"; /* as long as the table */
	bool begun = false;
	tool_table table;

	for (uint32_t i = 0; mfs_packer_choice(packer, i, &c) == 0; i++) {
		if (!c.tensor)
			continue;
		if (!begun) {
			memset(align + 2, 'r', c.coding_count + 1);
			strcpy(align + 3 + c.coding_count, "ll");
			tool_table_init(&table, align);
			tool_table_add(&table, "tensor");
			tool_table_add(&table, "type");
			for (uint32_t k = 0; k < c.coding_count; k++)
				tool_table_add(&table, c.tried[k].coding);
			tool_table_add(&table, "chosen");
			tool_table_add(&table, "class");
			tool_table_add(&table, "why");
			begun = true;
		}
		add_choice(&table, &c);
	}
	if (!begun)
		return;
	puts("ratio of a sample of each tensor, with each coding alone and as chosen");
	tool_table_print(&table, stdout, 0);
	puts("");
}

static json_t *choices_to_json(mfs_packer *packer)
{
	mfs_pack_choice c = {.size = sizeof(c)};
	json_t *choices = json_array();

	for (uint32_t i = 0; mfs_packer_choice(packer, i, &c) == 0; i++) {
		json_t *choice, *tried;

		if (!c.tensor)
			continue;
		choice = json_object();
		tried = json_object();
		json_set_text(choice, "file", c.file);
		json_set_text(choice, "tensor", c.tensor);
		json_set_text(choice, "type", c.type);
		json_set_text(choice, "class", c.cls);
		json_set_text(choice, "why", c.reason);
		json_set_number(choice, "sample_size", c.sample_bytes);
		json_set_number(choice, "chosen_size", c.chosen_bytes);
		for (uint32_t k = 0; k < c.coding_count; k++)
			json_set_number(tried, c.tried[k].coding, c.tried[k].stored_bytes);
		json_set(choice, "tried", tried);
		json_append(choices, choice);
	}
	return choices;
}

/* ---- --quantize, --prune and --premerge ---- */

static void begin_losses(tool_table *table, bool premerged)
{
	tool_table_init(table, premerged ? "lllrrrr" : "lllrrr");
	tool_table_add(table, "tensor");
	tool_table_add(table, "type");
	tool_table_add(table, "now");
	tool_table_add(table, "rmse");
	tool_table_add(table, "max");
	tool_table_add(table, "zeros");
	if (premerged)
		tool_table_add(table, "as base");
}

static void add_percent(tool_table *table, uint64_t part, uint64_t whole)
{
	tool_table_addf(table, "%.1f%%", whole ? 100.0 * (double)part / (double)whole : 0.0);
}

static void add_loss(tool_table *table, const mfs_pack_loss *loss)
{
	char *name = tool_clean(loss->tensor);

	tool_table_add(table, name);
	tool_table_add(table, loss->type);
	tool_table_add(table, loss->new_type);
	tool_table_addf(table, "%.3e", loss->rmse);
	tool_table_addf(table, "%.3e", loss->most);
	add_percent(table, loss->zeros, loss->weights);
	if (loss->blocks)
		add_percent(table, loss->equal_blocks, loss->blocks);
	free(name);
}

static void end_losses(tool_table *table, const char *file)
{
	char *name = tool_clean(file);

	printf("%s: errors of the weights that were changed\n", name);
	tool_table_print(table, stdout, 0);
	puts("");
	free(name);
}

/* A table for each file. */
static void print_losses(mfs_packer *packer)
{
	mfs_pack_loss loss = {.size = sizeof(loss)};
	const char *file = NULL;
	tool_table table;

	for (uint32_t i = 0; mfs_packer_loss(packer, i, &loss) == 0; i++) {
		if (file && file != loss.file)
			end_losses(&table, file);
		if (file != loss.file)
			begin_losses(&table, loss.blocks);
		file = loss.file;
		add_loss(&table, &loss);
	}
	if (file)
		end_losses(&table, file);
}

/* A difference to what another quantizer made is larger than it could be. */
#define SAME_QUANTIZER 0.99

static double own_share(const mfs_pack_premerged *p)
{
	return p->sample_blocks ? (double)p->sample_equal / (double)p->sample_blocks : 1;
}

static void print_premerged(mfs_packer *packer)
{
	mfs_pack_premerged p = {.size = sizeof(p)};

	for (uint32_t i = 0; mfs_packer_premerged(packer, i, &p) == 0; i++) {
		char *base = tool_clean(p.base), *name = tool_clean(p.file);

		if (own_share(&p) < SAME_QUANTIZER)
			printf("%s: another quantizer made %s (%.1f%% of its blocks are those that "
			       "modelfs makes): what is stored is larger than it could be\n\n",
			       name, base, 100 * own_share(&p));
		free(base);
		free(name);
	}
}

static json_t *premerged_to_json(mfs_packer *packer)
{
	mfs_pack_premerged p = {.size = sizeof(p)};
	json_t *files = json_array();

	for (uint32_t i = 0; mfs_packer_premerged(packer, i, &p) == 0; i++) {
		json_t *file = json_object();

		json_set_text(file, "file", p.file);
		json_set_text(file, "base", p.base);
		json_set(file, "own_blocks_of_base", json_real(own_share(&p)));
		json_append(files, file);
	}
	return files;
}

static json_t *losses_to_json(mfs_packer *packer)
{
	mfs_pack_loss loss = {.size = sizeof(loss)};
	json_t *losses = json_array();

	for (uint32_t i = 0; mfs_packer_loss(packer, i, &loss) == 0; i++) {
		json_t *item = json_object();

		json_set_text(item, "file", loss.file);
		json_set_text(item, "tensor", loss.tensor);
		json_set_text(item, "type", loss.type);
		json_set_text(item, "new_type", loss.new_type);
		json_set(item, "rmse", json_real(loss.rmse));
		json_set(item, "max", json_real(loss.most));
		json_set_number(item, "weights", loss.weights);
		json_set_number(item, "zeros", loss.zeros);
		if (loss.blocks) {
			json_set_number(item, "blocks", loss.blocks);
			json_set_number(item, "blocks_as_base", loss.equal_blocks);
		}
		json_append(losses, item);
	}
	return losses;
}

/* ---- remarks ---- */

static json_t *remarks_to_json(const mfs_packer *packer)
{
	json_t *remarks = json_array();
	const char *text;

	for (uint32_t i = 0; (text = mfs_packer_remark(packer, i)); i++)
		json_append(remarks, json_string(text));
	return remarks;
}

static void print_remarks(const mfs_packer *packer)
{
	const char *text;

	for (uint32_t i = 0; (text = mfs_packer_remark(packer, i)); i++)
		tool_error("note: %s", text);
}

static json_t *types_to_json(const mfs_pack_summary *s)
{
	json_t *types = json_array();

	for (uint32_t i = 0; i < s->type_count; i++) {
		const mfs_pack_type *t = &s->types[i];
		json_t *type = json_object();

		json_set_text(type, "type", t->type);
		json_set_number(type, "tensors", t->tensors);
		json_set_number(type, "original_size", t->original_bytes);
		json_set_number(type, "stored_size", t->stored_bytes);
		json_set_ratio(type, "ratio", t->original_bytes, t->stored_bytes);
		json_append(types, type);
	}
	return types;
}

static int print_json(mfs_packer *packer, const mkmodelfs_options *o, const mfs_pack_summary *s)
{
	json_t *root = json_object();

	json_set_number(root, "original_size", s->original_bytes);
	json_set_number(root, "stored_size", s->stored_bytes);
	json_set_ratio(root, "ratio", s->original_bytes,
		       o->append ? s->written_bytes : container_bytes(s));
	json_set_number(root, "generation", s->generation);
	json_set_number(root, "written_size", s->written_bytes);
	json_set_number(root, "files_added", s->files_added);
	json_set_number(root, "files_removed", s->files_removed);
	json_set_number(root, "frames_size", s->frame_bytes);
	json_set_number(root, "tables_size", s->tables_bytes);
	json_set(root, "overhead",
		 json_overhead(s->superblock_bytes, s->index_bytes, s->padding_bytes));
	json_set_number(root, "files", s->files);
	json_set_number(root, "adapters", s->adapters);
	json_set_number(root, "views", s->views);
	json_set_number(root, "tensors", s->tensors);
	json_set_number(root, "chunks", s->chunks);
	json_set(root, "types", types_to_json(s));
	if (mkmodelfs_options_lossy(o))
		json_set(root, "losses", losses_to_json(packer));
	if (mkmodelfs_options_lossy(o))
		json_set(root, "premerged", premerged_to_json(packer));
	if (o->pack.explain)
		json_set(root, "choices", choices_to_json(packer));
	json_set(root, "remarks", remarks_to_json(packer));
	json_set(root, "seconds_write", json_real(s->seconds_write));
	json_set(root, "seconds_verify", json_real(s->seconds_verify));
	return json_print(root);
}

int mkmodelfs_report(mfs_packer *packer, const mkmodelfs_options *o, const mfs_pack_summary *s)
{
	if (o->json)
		return tool_finish(print_json(packer, o, s));
	if (!o->quiet)
		print_remarks(packer);
	if (o->pack.explain)
		print_choices(packer);
	if (mkmodelfs_options_lossy(o) && !o->quiet)
		print_losses(packer);
	if (!o->quiet)
		print_premerged(packer);
	if (!o->quiet && mkmodelfs_options_change(o) && !o->compact)
		print_change(o, s);
	else if (!o->quiet)
		print_summary(o, s);
	return tool_finish(TOOL_OK);
}

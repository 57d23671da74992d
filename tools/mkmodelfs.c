/* mkmodelfs: packs files into a container. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "json.h"
#include "modelfs_pack.h"

#define JOBS_MAX 1024

struct adapter;

typedef struct {
	mfs_pack_options pack;
	bool json, quiet, dry_run, append, compact, profile_given;
	char **removed; /* names; of the command line */
	int removed_count;
	const char *container;
	char **sources;
	int source_count;
	const char *base;    /* the model of deltas and of the adapters that follow, or NULL */
	const char **deltas; /* [NAME=]SOURCE */
	int delta_count;
	struct adapter *adapters; /* --lora and --merge, in their order */
	int adapter_count;
} options;

/* An option --lora or --merge, whose text is NAME=VALUE. */
struct adapter {
	bool merge;
	const char *text;
	const char *base; /* what --base said before it, or NULL */
};

static void print_help(void)
{
	fputs(
	    "Usage: mkmodelfs [OPTIONS] CONTAINER [NAME=]SOURCE...\n"
	    "       mkmodelfs --append [--remove=NAME]... [OPTIONS] CONTAINER [NAME=]SOURCE...\n"
	    "       mkmodelfs --remove=NAME... | --compact [OPTIONS] CONTAINER\n"
	    "Packs each SOURCE into the new container CONTAINER, as NAME or its base name;\n"
	    "of a directory the files in it, each as its base name.\n"
	    "An argument that is the path of an existing file is a path, '=' or not.\n"
	    "\n"
	    "      --profile=NAME     lay out for sd (default), emmc, usb, sata, nvme, nand, nor\n"
	    "      --page-size=SIZE   flash page that chunks start on (the profile's)\n"
	    "      --frame-size=SIZE  original bytes decoded at once (the profile's)\n"
	    "  -j, --jobs=N           threads (one a core); the container does not depend on it\n"
	    "      --codec=NAME       only this coding (raw, zstd, literals, ...; plain); default "
	    "auto:\n"
	    "                         for each tensor the smallest that the profile can decode\n"
	    "      --delta=[NAME=]SOURCE  add a fine-tune of the model, as what differs from it\n"
	    "      --base=NAME        the file that deltas and the adapters that follow are of\n"
	    "      --quantize=TYPE    make the weights of GGUF models q8_0, q4_0, q4_k, q6_k, nf4\n"
	    "      --prune=SHARE      make this share of each tensor's weights 0, the least ones;\n"
	    "                         2:4: two of each four\n"
	    "      --order=FILE       store in the order of a trace (modelfs -o record=FILE)\n"
	    "      --explain          print what was tried on each tensor, and why one won\n"
	    "      --lora=NAME=FILE   add an adapter (GGUF, or PEFT's directory) and merged "
	    "models\n"
	    "      --merge=NAME=A@S+B@S   views with several adapters, each with its scale\n"
	    "      --views=TYPES      of merged models: f32,f16,bf16,q8_0; all (default), none\n"
	    "      --opaque           pack models that fail validation as plain bytes\n"
	    "      --no-verify        do not read back what was written\n"
	    "  -f, --force            replace an existing CONTAINER\n"
	    "      --append           add to CONTAINER; who has it mounted goes on reading\n"
	    "      --remove=NAME      leave out a file, or an adapter with its views\n"
	    "      --compact          write CONTAINER anew, without what was removed\n"
	    "  -n, --dry-run          code everything, write nothing\n"
	    "      --json             print the summary as JSON\n"
	    "  -q, --quiet            no summary and no progress bar\n"
	    "  -h, --help             print this and exit\n"
	    "  -V, --version          print the version and exit\n"
	    "\n"
	    "Sizes take K, M and G.\n",
	    stdout);
}

/* ---- the command line ---- */

enum {
	OPT_PROFILE = 256,
	OPT_PAGE,
	OPT_FRAME,
	OPT_CODEC,
	OPT_QUANTIZE,
	OPT_PRUNE,
	OPT_ORDER,
	OPT_DELTA,
	OPT_BASE,
	OPT_EXPLAIN,
	OPT_LORA,
	OPT_MERGE,
	OPT_VIEWS,
	OPT_OPAQUE,
	OPT_NO_VERIFY,
	OPT_JSON,
	OPT_APPEND,
	OPT_REMOVE,
	OPT_COMPACT
};

static const struct option long_options[] = {
    {"profile", required_argument, NULL, OPT_PROFILE},
    {"page-size", required_argument, NULL, OPT_PAGE},
    {"frame-size", required_argument, NULL, OPT_FRAME},
    {"jobs", required_argument, NULL, 'j'},
    {"codec", required_argument, NULL, OPT_CODEC},
    {"quantize", required_argument, NULL, OPT_QUANTIZE},
    {"prune", required_argument, NULL, OPT_PRUNE},
    {"order", required_argument, NULL, OPT_ORDER},
    {"delta", required_argument, NULL, OPT_DELTA},
    {"base", required_argument, NULL, OPT_BASE},
    {"explain", no_argument, NULL, OPT_EXPLAIN},
    {"lora", required_argument, NULL, OPT_LORA},
    {"merge", required_argument, NULL, OPT_MERGE},
    {"views", required_argument, NULL, OPT_VIEWS},
    {"opaque", no_argument, NULL, OPT_OPAQUE},
    {"no-verify", no_argument, NULL, OPT_NO_VERIFY},
    {"force", no_argument, NULL, 'f'},
    {"append", no_argument, NULL, OPT_APPEND},
    {"remove", required_argument, NULL, OPT_REMOVE},
    {"compact", no_argument, NULL, OPT_COMPACT},
    {"dry-run", no_argument, NULL, 'n'},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static int parse_profile(options *o, const char *text)
{
	int id = mfs_profile_find(text);

	if (id < 0)
		return tool_misuse("there is no profile '%s'", text);
	o->pack.profile = (mfs_profile_id)id;
	o->profile_given = true;
	return 0;
}

static int parse_size_option(const char *what, const char *text, uint32_t *out)
{
	uint64_t bytes;

	if (!tool_parse_size(text, UINT32_MAX, &bytes) || bytes == 0)
		return tool_misuse("%s '%s' is not a size such as 64K", what, text);
	*out = (uint32_t)bytes;
	return 0;
}

static int parse_jobs(options *o, const char *text)
{
	uint64_t jobs;

	if (!tool_parse_number(text, JOBS_MAX, &jobs) || jobs == 0)
		return tool_misuse("jobs '%s' is not a number from 1 to %d", text, JOBS_MAX);
	o->pack.threads = (unsigned)jobs;
	return 0;
}

static int parse_delta(options *o, const char *source)
{
	const char **more = realloc(o->deltas, ((size_t)o->delta_count + 1) * sizeof(*more));

	if (!more)
		return tool_misuse("out of memory");
	o->deltas = more;
	o->deltas[o->delta_count++] = source;
	return 0;
}

static int add_adapter_option(options *o, bool merge, const char *text)
{
	if (!strchr(text, '=') || text[0] == '=')
		return tool_misuse("--%s '%s': NAME=%s is needed", merge ? "merge" : "lora", text,
				   merge ? "ADAPTER@SCALE+..." : "FILE");
	o->adapters = tool_grow(o->adapters, (size_t)o->adapter_count + 1, sizeof(*o->adapters));
	o->adapters[o->adapter_count++] = (struct adapter){merge, text, o->base};
	return 0;
}

static int parse_option(options *o, int option)
{
	switch (option) {
	case OPT_LORA:
	case OPT_MERGE:
		return add_adapter_option(o, option == OPT_MERGE, optarg);
	case OPT_VIEWS:
		o->pack.views = optarg;
		return 0;
	case OPT_PROFILE:
		return parse_profile(o, optarg);
	case OPT_PAGE:
		return parse_size_option("page size", optarg, &o->pack.page_bytes);
	case OPT_FRAME:
		return parse_size_option("frame size", optarg, &o->pack.frame_bytes);
	case 'j':
		return parse_jobs(o, optarg);
	case OPT_CODEC:
		o->pack.codec = optarg;
		return 0;
	case OPT_QUANTIZE:
		o->pack.quantize = optarg;
		return 0;
	case OPT_PRUNE:
		o->pack.prune = optarg;
		return 0;
	case OPT_ORDER:
		o->pack.order = optarg;
		return 0;
	case OPT_DELTA:
		return parse_delta(o, optarg);
	case OPT_BASE:
		o->base = optarg;
		return 0;
	case OPT_EXPLAIN:
		o->pack.explain = 1;
		return 0;
	case OPT_OPAQUE:
		o->pack.opaque = 1;
		return 0;
	case OPT_NO_VERIFY:
		o->pack.no_verify = 1;
		return 0;
	case 'f':
		o->pack.force = 1;
		return 0;
	case OPT_APPEND:
		o->append = true;
		return 0;
	case OPT_REMOVE:
		o->removed[o->removed_count++] = optarg;
		return 0;
	case OPT_COMPACT:
		o->compact = true;
		o->pack.compact = 1;
		return 0;
	case 'n':
		o->dry_run = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	case 'h':
		print_help();
		exit(tool_finish(TOOL_OK));
	case 'V':
		exit(tool_print_version());
	}
	return tool_misuse("the option is not known or lacks its value");
}

/* True if an existing container is changed. */
static bool changes(const options *o)
{
	return o->append || o->compact || o->removed_count;
}

static int check_arguments(const options *o)
{
	if (o->append && o->compact)
		return tool_misuse("--append and --compact do not go together");
	if (o->source_count && !o->append && changes(o))
		return tool_misuse("sources are added with --append");
	if (!o->source_count && !o->removed_count && !o->compact &&
	    !(o->append && (o->delta_count || o->adapter_count)))
		return tool_misuse("a CONTAINER and at least one SOURCE are needed");
	if (changes(o) && (o->profile_given || o->pack.page_bytes))
		return tool_misuse("a container keeps its profile and page size");
	if (changes(o) && o->pack.force)
		return tool_misuse("--force replaces a container, it does not go with --append, "
				   "--remove or --compact");
	return 0;
}

static int parse_options(options *o, int argc, char *argv[])
{
	int option, err;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "j:fnqhV", long_options, NULL)) != -1) {
		if (option == '?')
			return tool_misuse("'%s' is not an option, or lacks its value",
					   argv[optind - 1]);
		err = parse_option(o, option);
		if (err)
			return err;
	}
	if (argc - optind < 1)
		return tool_misuse("a CONTAINER is needed");
	o->container = argv[optind];
	o->sources = &argv[optind + 1];
	o->source_count = argc - optind - 1;
	if (o->delta_count && !o->append && changes(o))
		return tool_misuse("sources are added with --append");
	if (o->delta_count && !o->base && o->source_count != 1)
		return tool_misuse("--delta needs --base=NAME where there are several models");
	return check_arguments(o);
}

/* ---- sources ---- */

/* Splits NAME=SOURCE. A path that exists as a whole is a path, whatever '=' it
 * has; without NAME the library takes the base name, and *name is NULL. */
static int split_source(const char *argument, char **name, const char **path)
{
	const char *equals = strchr(argument, '=');

	*name = NULL;
	*path = argument;
	if (!equals || access(argument, F_OK) == 0)
		return 0;
	*name = strndup(argument, (size_t)(equals - argument));
	if (!*name) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	*path = equals + 1;
	return 0;
}

/* `base`: the file that it is a fine-tune of, or NULL. */
static int add_source(mfs_packer *packer, const char *argument, const char *base)
{
	mfs_problem why = {0};
	const char *path;
	char *name;
	int err = split_source(argument, &name, &path);

	if (err)
		return err;
	err = base ? mfs_packer_add_delta(packer, path, name, base, &why)
		   : mfs_packer_add(packer, path, name, &why);
	if (err < 0)
		tool_problem(path, err, &why);
	free(name);
	return err < 0 ? TOOL_FAILED : 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* NAME=FILE, or NAME=MIXTURE: the option has seen to the '='. */
static int add_adapter(mfs_packer *packer, const struct adapter *adapter)
{
	const char *equals = strchr(adapter->text, '=');
	char *name = strndup(adapter->text, (size_t)(equals - adapter->text));
	mfs_problem why = {0};
	int err;

	if (!name) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	if (adapter->merge)
		err = mfs_packer_add_merge(packer, name, equals + 1, &why);
	else
		err = mfs_packer_add_adapter(packer, equals + 1, name, adapter->base, &why);
	if (err < 0)
		tool_problem(equals + 1, err, &why);
	free(name);
	return err < 0 ? TOOL_FAILED : 0;
}

/* ---- the summary ---- */

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

static void print_times(const options *o, const mfs_pack_summary *s)
{
	if (s->seconds_verify > 0)
		printf("written in %.1f s, verified in %.1f s\n", s->seconds_write,
		       s->seconds_verify);
	else
		printf("%s in %.1f s\n", o->dry_run ? "coded" : "written", s->seconds_write);
}

/* Of an append or a removal. */
static void print_change(const options *o, const mfs_pack_summary *s)
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

static void print_summary(const options *o, const mfs_pack_summary *s)
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
	bool begun = false;
	tool_table table;

	for (uint32_t i = 0; mfs_packer_choice(packer, i, &c) == 0; i++) {
		if (!c.tensor)
			continue;
		if (!begun) {
			char align[MFS_PACK_CODINGS_MAX + 6] = "ll";

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

/* ---- --quantize and --prune ---- */

static bool is_lossy(const options *o)
{
	return o->pack.quantize || o->pack.prune;
}

static void print_losses(mfs_packer *packer)
{
	mfs_pack_loss loss = {.size = sizeof(loss)};
	tool_table table;

	tool_table_init(&table, "lllrrr");
	tool_table_add(&table, "tensor");
	tool_table_add(&table, "type");
	tool_table_add(&table, "now");
	tool_table_add(&table, "rmse");
	tool_table_add(&table, "max");
	tool_table_add(&table, "zeros");
	for (uint32_t i = 0; mfs_packer_loss(packer, i, &loss) == 0; i++) {
		char *name = tool_clean(loss.tensor);

		tool_table_add(&table, name);
		tool_table_add(&table, loss.type);
		tool_table_add(&table, loss.new_type);
		tool_table_addf(&table, "%.3e", loss.rmse);
		tool_table_addf(&table, "%.3e", loss.most);
		tool_table_addf(&table, "%.1f%%",
				100.0 * (double)loss.zeros / (double)loss.weights);
		free(name);
	}
	puts("errors of the weights that were changed");
	tool_table_print(&table, stdout, 0);
	puts("");
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
		json_append(losses, item);
	}
	return losses;
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

static int print_json(mfs_packer *packer, const options *o, const mfs_pack_summary *s)
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
	if (is_lossy(o))
		json_set(root, "losses", losses_to_json(packer));
	if (o->pack.explain)
		json_set(root, "choices", choices_to_json(packer));
	json_set(root, "seconds_write", json_real(s->seconds_write));
	json_set(root, "seconds_verify", json_real(s->seconds_verify));
	return json_print(root);
}

/* ---- packing ---- */

static volatile sig_atomic_t stop_signal;

static void on_stop(int signal)
{
	stop_signal = signal;
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static int show_progress(void *user, mfs_pack_stage stage, uint64_t original, uint64_t total,
			 uint64_t stored)
{
	static const char *const words[] = {"planning", "writing", "verifying"};

	(void)stored;
	tool_progress_show(user, words[stage], original, total);
	return stop_signal;
}

static int write_container(mfs_packer *packer, const options *o, mfs_pack_summary *out)
{
	tool_progress progress;
	mfs_problem why = {0};
	int err;

	tool_progress_init(&progress, o->quiet);
	err = mfs_packer_write(packer, o->dry_run ? NULL : o->container, show_progress, &progress,
			       out, &why);
	tool_progress_end(&progress);
	if (err == MFS_E_CANCELLED)
		return 128 + stop_signal;
	if (err == MFS_E_EXISTS)
		tool_error("%s exists; --force replaces it", o->container);
	else if (err < 0)
		tool_problem(o->container, err, &why);
	return err < 0 ? TOOL_FAILED : 0;
}

static int add_deltas(mfs_packer *packer, const options *o)
{
	const char *path = NULL;
	char *name = NULL;
	int err = o->source_count ? split_source(o->sources[0], &name, &path) : 0;

	for (int i = 0; i < o->delta_count && !err; i++) {
		const char *base = o->base ? o->base : name ? name : base_name(path);

		err = stop_signal ? 128 + stop_signal : add_source(packer, o->deltas[i], base);
	}
	free(name);
	return err;
}

static int remove_files(mfs_packer *packer, const options *o)
{
	for (int i = 0; i < o->removed_count; i++) {
		mfs_problem why = {0};
		int err = mfs_packer_remove(packer, o->removed[i], &why);

		if (err < 0) {
			tool_problem(o->container, err, &why);
			return TOOL_FAILED;
		}
	}
	return 0;
}

static int pack(mfs_packer *packer, const options *o)
{
	mfs_pack_summary summary = {.size = sizeof(summary)};
	int err = remove_files(packer, o);

	for (int i = 0; i < o->source_count && !err; i++)
		err = stop_signal ? 128 + stop_signal : add_source(packer, o->sources[i], NULL);
	if (!err)
		err = add_deltas(packer, o);
	for (int i = 0; i < o->adapter_count && !err; i++)
		err = stop_signal ? 128 + stop_signal : add_adapter(packer, &o->adapters[i]);
	if (!err)
		err = write_container(packer, o, &summary);
	if (err)
		return err;
	if (o->json)
		return tool_finish(print_json(packer, o, &summary));
	if (o->pack.explain)
		print_choices(packer);
	if (is_lossy(o) && !o->quiet)
		print_losses(packer);
	if (!o->quiet && changes(o) && !o->compact)
		print_change(o, &summary);
	else if (!o->quiet)
		print_summary(o, &summary);
	return tool_finish(TOOL_OK);
}

static int run(const options *o)
{
	mfs_packer *packer = NULL;
	mfs_problem why = {0};
	int code;

	catch_signals();
	code = changes(o) ? mfs_packer_open(&packer, o->container, &o->pack, &why)
			  : mfs_packer_new(&packer, &o->pack, &why);
	if (code < 0) {
		tool_problem(o->container, code, &why);
		return code == MFS_E_ARGUMENT ? TOOL_USAGE : TOOL_FAILED;
	}
	code = pack(packer, o);
	mfs_packer_free(packer);
	return code;
}

int main(int argc, char *argv[])
{
	options o = {.pack = MFS_PACK_OPTIONS_INIT};
	int code;

	tool_start("mkmodelfs");
	/* No more names to remove than arguments. */
	o.removed = calloc((size_t)argc, sizeof(*o.removed));
	if (!o.removed) {
		tool_error("out of memory");
		return TOOL_FAILED;
	}
	code = parse_options(&o, argc, argv);
	if (!code)
		code = run(&o);
	free(o.removed);
	free(o.deltas);
	free(o.adapters);
	return code;
}

#include "mkmodelfs_options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define JOBS_MAX 1024

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
	    "      --premerge=NAME    the model with the adapter merged in before it is "
	    "quantized,\n"
	    "                         as what differs from it; also NAME=A@S+B@S\n"
	    "      --source=FILE      the model of F32, F16 or BF16 that --premerge starts from\n"
	    "      --views=TYPES      of merged models: f32,f16,bf16,q8_0; all (default), none\n"
	    "      --opaque           pack models that fail validation as plain bytes\n"
	    "      --no-verify        do not read back what was written\n"
	    "  -f, --force            replace an existing CONTAINER\n"
	    "      --append           add to CONTAINER; who has it mounted goes on reading\n"
	    "      --remove=NAME      leave out a file or directory, or an adapter with its views\n"
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
	OPT_PREMERGE,
	OPT_SOURCE,
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
    {"premerge", required_argument, NULL, OPT_PREMERGE},
    {"source", required_argument, NULL, OPT_SOURCE},
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

static int parse_profile(mkmodelfs_options *o, const char *text)
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

static int parse_jobs(mkmodelfs_options *o, const char *text)
{
	uint64_t jobs;

	if (!tool_parse_number(text, JOBS_MAX, &jobs) || jobs == 0)
		return tool_misuse("jobs '%s' is not a number from 1 to %d", text, JOBS_MAX);
	o->pack.threads = (unsigned)jobs;
	return 0;
}

/* Adds to a list of names or sources. */
static int add_text(const char ***list, int *count, const char *text)
{
	*list = tool_grow(*list, (size_t)*count + 1, sizeof(**list));
	(*list)[(*count)++] = text;
	return 0;
}

static int add_adapter_option(mkmodelfs_options *o, adapter_kind kind, const char *text)
{
	static const char *const name[] = {"lora", "merge", "premerge"};
	static const char *const value[] = {"=FILE", "=ADAPTER@SCALE+...", ""};

	if (text[0] == '=' || !text[0] || (kind != ADAPTER_PREMERGE && !strchr(text, '=')))
		return tool_misuse("--%s '%s': NAME%s is needed", name[kind], text, value[kind]);
	o->adapters = tool_grow(o->adapters, (size_t)o->adapter_count + 1, sizeof(*o->adapters));
	o->adapters[o->adapter_count++] = (adapter_option){kind, text, o->base, o->source};
	return 0;
}

/* For those that follow, and those before it that have none yet. */
static int parse_source(mkmodelfs_options *o, const char *path)
{
	o->source = path;
	for (int i = 0; i < o->adapter_count; i++)
		if (!o->adapters[i].source)
			o->adapters[i].source = path;
	return 0;
}

static int parse_option(mkmodelfs_options *o, int option)
{
	switch (option) {
	case OPT_LORA:
		return add_adapter_option(o, ADAPTER_LORA, optarg);
	case OPT_MERGE:
		return add_adapter_option(o, ADAPTER_MERGE, optarg);
	case OPT_PREMERGE:
		return add_adapter_option(o, ADAPTER_PREMERGE, optarg);
	case OPT_SOURCE:
		return parse_source(o, optarg);
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
		return add_text(&o->deltas, &o->delta_count, optarg);
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
		return add_text(&o->removed, &o->removed_count, optarg);
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
	}
	return TOOL_USAGE; /* tool_option() has said why */
}

bool mkmodelfs_options_change(const mkmodelfs_options *o)
{
	return o->append || o->compact || o->removed_count;
}

static bool premerges(const mkmodelfs_options *o)
{
	for (int i = 0; i < o->adapter_count; i++)
		if (o->adapters[i].kind == ADAPTER_PREMERGE)
			return true;
	return false;
}

bool mkmodelfs_options_lossy(const mkmodelfs_options *o)
{
	return o->pack.quantize || o->pack.prune || premerges(o);
}

/* A NAME=SOURCE that names nothing. */
static int check_paths(const mkmodelfs_options *o)
{
	for (int i = 0; i < o->source_count; i++) {
		size_t length = strlen(o->sources[i]);

		if (o->sources[i][length - 1] == '=')
			return tool_misuse("'%s': NAME=SOURCE or SOURCE is needed", o->sources[i]);
	}
	return 0;
}

static int check_arguments(const mkmodelfs_options *o)
{
	if (o->append && o->compact)
		return tool_misuse("--append and --compact do not go together");
	if ((o->source_count || o->delta_count) && !o->append && mkmodelfs_options_change(o))
		return tool_misuse("sources are added with --append");
	if (!o->source_count && !o->removed_count && !o->compact &&
	    !(o->append && (o->delta_count || o->adapter_count)))
		return tool_misuse("a CONTAINER and at least one SOURCE are needed");
	if (o->delta_count && !o->base && o->source_count != 1)
		return tool_misuse("--delta needs --base=NAME: which model is it of?");
	if (o->source && !premerges(o))
		return tool_misuse("--source is for --premerge");
	if (mkmodelfs_options_change(o) && (o->profile_given || o->pack.page_bytes))
		return tool_misuse("a container keeps its profile and page size");
	if (mkmodelfs_options_change(o) && o->pack.force)
		return tool_misuse("--force replaces a container, it does not go with --append, "
				   "--remove or --compact");
	return 0;
}

int mkmodelfs_options_parse(mkmodelfs_options *o, int argc, char *argv[])
{
	int option, err;

	*o = (mkmodelfs_options){.pack = MFS_PACK_OPTIONS_INIT};
	while ((option = tool_option(argc, argv, "j:fnqhV", long_options, print_help)) != -1) {
		err = parse_option(o, option);
		if (err)
			return err;
	}
	if (argc - optind < 1)
		return tool_misuse("a CONTAINER is needed");
	o->container = argv[optind];
	o->sources = &argv[optind + 1];
	o->source_count = argc - optind - 1;
	err = check_paths(o);
	return err ? err : check_arguments(o);
}

void mkmodelfs_options_free(mkmodelfs_options *o)
{
	free(o->removed);
	free(o->deltas);
	free(o->adapters);
}

#include <inttypes.h>
#include <stdlib.h>

#include "common.h"
#include "live.h"
#include "stat_views.h"

static void print_live_engine(const json_t *stats)
{
	const json_t *how = json_object_get(stats, "medium");
	char *engine = live_text(stats, "engine"), *medium = live_medium(stats);
	char *profile = live_text(stats, "profile"), *queue = live_text(how, "queue");
	char request[TOOL_SIZE_TEXT], window[TOOL_SIZE_TEXT];

	printf("  medium    %s\n", medium);
	printf("  profile   %s, queued as for %s\n", profile, queue);
	printf("  engine    %s, %s%s\n", engine,
	       json_is_true(json_object_get(stats, "direct")) ? "O_DIRECT" : "buffered",
	       json_is_true(json_object_get(stats, "registered")) ? ", registered buffers" : "");
	printf("  requests  up to %s, %" PRIu64 " in flight, %s ahead, %" PRIu64 " decoders\n",
	       tool_size(request, live_number(stats, "request_bytes")), live_number(stats, "depth"),
	       tool_size(window, live_number(how, "window_bytes")), live_number(stats, "decoders"));
	if (json_is_integer(json_object_get(stats, "read_ahead_kb")))
		printf("  kernel    reads ahead %" PRIu64 " KiB\n",
		       live_number(stats, "read_ahead_kb"));
	free(engine);
	free(medium);
	free(profile);
	free(queue);
}

/* The cache of stored bytes; nothing where there is none. */
static void print_live_cache(const json_t *stats)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT];
	uint64_t weights = live_number(stats, "cache_weights_bytes");
	uint64_t constants = live_number(stats, "cache_constants_bytes");
	uint64_t hits = live_number(stats, "cache_hit_bytes");
	uint64_t misses = live_number(stats, "cache_miss_bytes");
	double all = (double)hits + (double)misses;

	if (all <= 0)
		return;
	printf("  cache     %s of %s", tool_size(a, live_number(stats, "cache_used_bytes")),
	       tool_size(b, live_number(stats, "cache_bytes")));
	printf(": %s of constants, %s of the rest\n", tool_size(a, constants),
	       tool_size(b, weights));
	printf("            %s taken from it, %s from the medium (%.1f %% hit)\n",
	       tool_size(a, hits), tool_size(b, misses), 100 * (double)hits / all);
}

static void print_live_work(const json_t *stats)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];
	uint64_t hits = live_number(stats, "span_hits");
	uint64_t misses = live_number(stats, "span_misses");
	double all = (double)hits + (double)misses;

	printf("  served    %s in %" PRIu64 " reads\n",
	       tool_size(a, live_number(stats, "served_bytes")), live_number(stats, "reads"));
	printf("  read      %s in %" PRIu64 " reads of the medium\n",
	       tool_size(a, live_number(stats, "medium_bytes")),
	       live_number(stats, "medium_reads"));
	printf("  decoded   %s in %" PRIu64 " spans\n",
	       tool_size(a, live_number(stats, "decoded_bytes")),
	       live_number(stats, "decoded_spans"));
	printf("  spans     %" PRIu64 " hits, %" PRIu64 " misses (%.1f %% hit)\n", hits, misses,
	       all > 0 ? 100 * (double)hits / all : 0.0);
	print_live_cache(stats);
	printf("  prefetch  %s, %s used, %s wasted\n",
	       tool_size(a, live_number(stats, "prefetch_bytes")),
	       tool_size(b, live_number(stats, "prefetch_used_bytes")),
	       tool_size(c, live_number(stats, "prefetch_wasted_bytes")));
	printf("  memory    %s of %s for reads and spans, index %s\n",
	       tool_size(a, live_number(stats, "arena_used_bytes")),
	       tool_size(b, live_number(stats, "arena_bytes")),
	       tool_size(c, live_number(stats, "index_loaded_bytes")));
	printf("  errors    %" PRIu64 " of the medium, %" PRIu64 " of damage\n",
	       live_number(stats, "errors_io"), live_number(stats, "errors_corrupt"));
}

void stat_print_live(const char *path, const json_t *stats)
{
	char *mountpoint = tool_clean(path);
	char *container = live_text(stats, "container");
	char *version = live_text(stats, "version");
	uint64_t up = live_number(stats, "uptime_seconds");

	printf("%s\n  container %s\n", mountpoint, container);
	printf("  daemon    modelfs %s, process %" PRIu64 ", up %" PRIu64 ":%02u:%02u\n", version,
	       live_number(stats, "pid"), up / 3600, (unsigned)(up / 60 % 60), (unsigned)(up % 60));
	print_live_engine(stats);
	print_live_work(stats);
	free(mountpoint);
	free(container);
	free(version);
}

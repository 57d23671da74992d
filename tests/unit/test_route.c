/* Routes over an engine in memory: order of execution, experts, traces. */
#include "fixture.h"

#include "container.h"
#include "memory_io.h"
#include "quiet.h"
#include "reader.h"

#define KIB  1024u
#define MIB  (1024u * KIB)
#define READ (128 * KIB)

#define LAYERS	      3
#define MATRIX_BYTES  (2 * MIB)
#define EXPERTS_COUNT 8
#define SLICE_BYTES   (512 * KIB)
#define NORM_BYTES    (1 * KIB)

/* In the order of the file: sorted by names, the output first. */
static const char *const layer_names[] = {"attn_k",   "attn_output",   "attn_q",
					  "attn_v",   "ffn_down_exps", "ffn_gate_exps",
					  "ffn_norm", "ffn_up_exps"};
#define NAMES (sizeof(layer_names) / sizeof(layer_names[0]))
#define MOST  (1 + LAYERS * NAMES)

static struct {
	fixture f;
	uint8_t *gguf;
	size_t size;
	char name[MOST][32];
	uint64_t offset[MOST], bytes[MOST]; /* in the file */
	unsigned count;
} model;

static void put_tensor(uint8_t **at, const char *name, uint64_t *data)
{
	bool experts = strstr(name, "exps") != NULL, norm = strstr(name, "norm") != NULL;
	uint64_t bytes = experts ? SLICE_BYTES : norm ? NORM_BYTES : MATRIX_BYTES;
	unsigned i = model.count++;
	size_t length = strlen(name);

	strcpy(model.name[i], name);
	model.bytes[i] = experts ? EXPERTS_COUNT * bytes : bytes;
	model.offset[i] = *data;
	*data += model.bytes[i];
	fixture_put(at, length, 8);
	memcpy(*at, name, length);
	*at += length;
	fixture_put(at, experts ? 3 : 2, 4);
	fixture_put(at, 1024, 8);
	fixture_put(at, bytes / 1024, 8);
	if (experts)
		fixture_put(at, EXPERTS_COUNT, 8);
	fixture_put(at, 24, 4); /* I8 */
	fixture_put(at, model.offset[i], 8);
}

/* Noise under the names of a model with a mixture of experts. */
static void make_model(void)
{
	uint8_t header[8 * KIB] = {0}, *at = header;
	uint64_t data = 0;
	size_t header_bytes;
	char name[32];

	memcpy(at, "GGUF", 4);
	at += 4;
	fixture_put(&at, 3, 4);
	fixture_put(&at, MOST, 8);
	fixture_put(&at, 0, 8);
	put_tensor(&at, "output.weight", &data);
	for (int l = 0; l < LAYERS; l++)
		for (size_t k = 0; k < NAMES; k++) {
			snprintf(name, sizeof(name), "blk.%d.%s.weight", l, layer_names[k]);
			put_tensor(&at, name, &data);
		}
	header_bytes = ((size_t)(at - header) + 31) / 32 * 32;
	model.size = header_bytes + data;
	model.gguf = malloc(model.size);
	memcpy(model.gguf, header, header_bytes);
	fixture_noise(model.gguf + header_bytes, data, 3);
	for (unsigned i = 0; i < model.count; i++)
		model.offset[i] += header_bytes;
}

static int pack(void **state)
{
	(void)state;
	make_model();
	fixture_begin(&model.f, NULL);
	fixture_add(&model.f, "model.gguf", model.gguf, model.size);
	fixture_end(&model.f);
	return 0;
}

static int unpack(void **state)
{
	(void)state;
	free(model.gguf);
	fixture_free(&model.f);
	return 0;
}

struct opened {
	mfs_container *c;
	memory_io *io;
};

static struct opened open_memory(const mfs_open_options *options)
{
	struct opened o = {.io = memory_io_new(model.f.container, model.f.size)};
	mfs_problem why = {0};

	if (mfs_open_io(&o.c, &o.io->head, "memory", options, &why))
		fail_msg("%s", why.text);
	return o;
}

static struct opened open_small(uint64_t arena_bytes)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;

	options.arena_bytes = arena_bytes;
	return open_memory(&options);
}

static mfs_stats stats_of(const struct opened *o)
{
	mfs_stats s = {.size = sizeof(s)};

	assert_int_equal(mfs_stats_get(o->c, &s), 0);
	return s;
}

static void read_at(struct opened *o, uint64_t offset, size_t length)
{
	uint8_t *buffer = malloc(length);

	assert_int_equal(mfs_read(o->c, 0, offset, buffer, length), length);
	assert_memory_equal(buffer, model.gguf + offset, length);
	free(buffer);
}

static unsigned tensor(int layer, const char *role)
{
	char name[32];

	if (layer < 0)
		snprintf(name, sizeof(name), "%s.weight", role);
	else
		snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, role);
	for (unsigned i = 0; i < model.count; i++)
		if (!strcmp(model.name[i], name))
			return i;
	fail_msg("no tensor %s", name);
	return 0;
}

static void read_tensor(struct opened *o, unsigned t)
{
	for (uint64_t at = 0; at < model.bytes[t]; at += READ) {
		read_at(o, model.offset[t] + at, READ);
		wait_until_quiet(o->c, o->io);
	}
}

/* True if what lies there is in memory or on its way: reading it is no miss. */
static bool is_there(struct opened *o, unsigned t, uint64_t at, size_t length)
{
	uint64_t misses = stats_of(o).span_misses;

	wait_until_quiet(o->c, o->io);
	read_at(o, model.offset[t] + at, length);
	return stats_of(o).span_misses == misses;
}

static const char *const order[] = {"attn_q", "attn_k", "attn_v", "attn_output"};

static void read_layer(struct opened *o, int layer)
{
	for (int i = 0; i < 4; i++)
		read_tensor(o, tensor(layer, order[i]));
}

static void the_next_tensors_are_those_of_the_execution(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	read_tensor(&o, tensor(0, "attn_q"));
	read_tensor(&o, tensor(0, "attn_k"));
	read_at(&o, model.offset[tensor(0, "attn_v")], READ);
	assert_true(is_there(&o, tensor(0, "attn_output"), 0, 256 * KIB));
	assert_true(is_there(&o, tensor(1, "attn_q"), 0, 256 * KIB));
	/* Experts and what the file has next are left alone. */
	assert_false(is_there(&o, tensor(0, "ffn_up_exps"), 3 * MIB, 4 * KIB));
	mfs_close(o.c);
}

static void a_walk_fetches_nothing_in_vain(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t read = LAYERS * 4 * MATRIX_BYTES;
	mfs_stats s;

	(void)state;
	for (int l = 0; l < LAYERS; l++)
		read_layer(&o, l);
	s = stats_of(&o);
	/* At the first jump the walk is not known; the last window is the output's. */
	assert_in_range(s.medium_bytes, read, read + 12 * MIB);
	assert_true(s.span_misses < 10);
	mfs_close(o.c);
}

static void the_output_follows_the_last_layer_and_is_followed_by_the_first(void **state)
{
	struct opened o = open_memory(NULL);

	(void)state;
	for (int lap = 0; lap < 2; lap++) {
		for (int l = 0; l < LAYERS; l++)
			read_layer(&o, l);
		assert_true(is_there(&o, tensor(-1, "output"), 0, READ));
		read_tensor(&o, tensor(-1, "output"));
		/* Once it is known that another token follows. */
		if (lap == 1)
			assert_true(is_there(&o, tensor(0, "attn_q"), 0, 256 * KIB));
	}
	mfs_close(o.c);
}

static void threads_with_a_slice_each_are_one_walk(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t slice = MATRIX_BYTES / 4, misses;

	(void)state;
	for (int l = 0; l < 2; l++)
		for (int i = 0; i < 4; i++)
			for (uint64_t at = 0; at < slice; at += READ)
				for (int thread = 0; thread < 4; thread++)
					read_at(&o,
						model.offset[tensor(l, order[i])] +
						    (uint64_t)thread * slice + at,
						READ);
	wait_until_quiet(o.c, o.io);
	misses = stats_of(&o).span_misses;
	for (int thread = 0; thread < 4; thread++)
		read_at(&o, model.offset[tensor(2, "attn_q")] + (uint64_t)thread * slice, READ);
	assert_true(stats_of(&o).span_misses <= misses + 1);
	mfs_close(o.c);
}

static void reading_the_file_in_order_stays_in_order(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t largest = 0;
	mfs_stats s;

	(void)state;
	for (uint64_t at = 0; at + READ <= model.size; at += READ)
		read_at(&o, at, READ);
	wait_until_quiet(o.c, o.io);
	s = stats_of(&o);
	assert_true(s.medium_bytes <= model.f.size + model.f.size / 50);
	/* Requests go up the medium, but for the index and the head of the file. */
	for (unsigned i = 8; i < o.io->records; i++) {
		assert_true(o.io->record[i].offset + 4 * MIB >= largest);
		if (o.io->record[i].offset > largest)
			largest = o.io->record[i].offset;
	}
	mfs_close(o.c);
}

static void a_fault_in_an_expert_fetches_its_slice_and_its_sisters(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t at = 3 * SLICE_BYTES;
	mfs_stats s;

	(void)state;
	read_at(&o, model.offset[tensor(1, "ffn_gate_exps")] + at, READ);
	wait_until_quiet(o.c, o.io);
	s = stats_of(&o);
	assert_in_range(s.prefetch_bytes, 3 * SLICE_BYTES - READ, 3 * SLICE_BYTES + 256 * KIB);
	assert_true(is_there(&o, tensor(1, "ffn_gate_exps"), at + READ, SLICE_BYTES - READ));
	assert_true(is_there(&o, tensor(1, "ffn_up_exps"), at, SLICE_BYTES));
	assert_true(is_there(&o, tensor(1, "ffn_down_exps"), at, SLICE_BYTES));
	assert_false(is_there(&o, tensor(1, "ffn_up_exps"), at + SLICE_BYTES, 4 * KIB));
	assert_false(is_there(&o, tensor(1, "ffn_down_exps"), at - 4 * KIB, 4 * KIB));
	mfs_close(o.c);
}

/* The kernel reads ahead in the order of the file. Meanwhile it keeps that, not the arena. */
static void what_was_read_beside_a_walk_is_not_fetched_again(void **state)
{
	struct opened o = open_small(16 * MIB);
	unsigned later = tensor(1, "attn_v");

	(void)state;
	read_layer(&o, 0);
	read_tensor(&o, tensor(1, "attn_q"));
	for (uint64_t at = 0; at < 512 * KIB; at += READ)
		read_at(&o, model.offset[later] + at, READ);
	read_tensor(&o, tensor(1, "attn_k"));
	assert_true(is_there(&o, later, 512 * KIB, READ));
	assert_true(is_there(&o, later, MATRIX_BYTES - READ, READ));
	assert_false(is_there(&o, later, READ, 4 * KIB));
	mfs_close(o.c);
}

static void a_read_around_a_norm_is_in_no_expert(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t page = model.offset[tensor(1, "ffn_norm")] / (4 * KIB) * (4 * KIB);

	(void)state;
	read_at(&o, page - READ / 2, READ);
	read_at(&o, page + READ / 2, READ); /* the kernel's own */
	wait_until_quiet(o.c, o.io);
	assert_false(is_there(&o, tensor(1, "ffn_up_exps"), SLICE_BYTES - 64 * KIB, 4 * KIB));
	assert_false(is_there(&o, tensor(1, "ffn_down_exps"), 0, 4 * KIB));
	mfs_close(o.c);
}

/* The second of two faults in a slice, with 512 KiB around the first one read already. */
static void a_read_around_that_was_cut_short_is_where_its_fault_was(void **state)
{
	struct opened o = open_memory(NULL);
	unsigned gate = tensor(1, "ffn_gate_exps"), up = tensor(1, "ffn_up_exps");
	uint64_t at = 3 * SLICE_BYTES;

	(void)state;
	read_at(&o, model.offset[gate] + at + 128 * KIB, 512 * KIB);
	read_at(&o, model.offset[gate] + at - 256 * KIB, 384 * KIB);
	wait_until_quiet(o.c, o.io);
	assert_true(is_there(&o, up, at, SLICE_BYTES));
	assert_false(is_there(&o, up, at - SLICE_BYTES + 4 * KIB, 4 * KIB));
	assert_false(is_there(&o, gate, at - SLICE_BYTES + 4 * KIB, 4 * KIB));
	mfs_close(o.c);
}

/* Experts of other layers, so much else that the arena forgets, then one of layer 1. */
static void take_expert(struct opened *o, uint64_t at)
{
	read_at(o, model.offset[tensor(0, "ffn_gate_exps")], READ);
	read_at(o, model.offset[tensor(2, "ffn_gate_exps")], READ);
	for (int l = 0; l < LAYERS; l++)
		read_layer(o, l);
	/* Shorter than spans: what is read again shows at the second one only. */
	for (uint64_t i = at; i < at + SLICE_BYTES; i += READ / 2) {
		read_at(o, model.offset[tensor(1, "ffn_gate_exps")] + i, READ / 2);
		wait_until_quiet(o->c, o->io);
	}
}

static void what_was_read_of_an_expert_is_fetched_again_only_once_it_is_gone(void **state)
{
	struct opened o = open_small(16 * MIB);
	unsigned up = tensor(1, "ffn_up_exps");
	uint64_t at = 3 * SLICE_BYTES;

	(void)state;
	/* The slice before it, and what the kernel reads ahead of it. */
	for (uint64_t i = at - SLICE_BYTES; i < at + 256 * KIB; i += READ)
		read_at(&o, model.offset[up] + i, READ);
	take_expert(&o, at);
	assert_false(is_there(&o, up, at + READ, 4 * KIB));
	assert_true(is_there(&o, up, at + 256 * KIB, 4 * KIB));
	take_expert(&o, at); /* the kernel reads it again, so has not kept it */
	assert_true(is_there(&o, up, at + READ, 4 * KIB));
	mfs_close(o.c);
}

static void a_stream_that_comes_into_experts_ends_there(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t begin = model.offset[tensor(1, "attn_v")] + MATRIX_BYTES / 2;
	uint64_t end = model.offset[tensor(1, "ffn_down_exps")] + 256 * KIB;

	(void)state;
	for (uint64_t at = begin; at < end; at += READ)
		read_at(&o, at, end - at < READ ? end - at : READ);
	assert_false(is_there(&o, tensor(1, "ffn_down_exps"), 256 * KIB + READ, 4 * KIB));
	mfs_close(o.c);
}

/* The kernel reads no further ahead than two of its READs. */
static void one_that_goes_on_there_is_fetched_to_the_end_of_its_slice(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t begin = model.offset[tensor(1, "attn_v")] + MATRIX_BYTES / 2;
	uint64_t end = model.offset[tensor(1, "ffn_down_exps")] + 384 * KIB;

	(void)state;
	for (uint64_t at = begin; at < end; at += READ)
		read_at(&o, at, READ);
	assert_true(is_there(&o, tensor(1, "ffn_down_exps"), 384 * KIB, 4 * KIB));
	assert_false(is_there(&o, tensor(1, "ffn_down_exps"), SLICE_BYTES + READ, 4 * KIB));
	mfs_close(o.c);
}

static void what_was_announced_of_experts_is_fetched(void **state)
{
	struct opened o = open_memory(NULL);
	unsigned up = tensor(1, "ffn_up_exps");

	(void)state;
	assert_int_equal(mfs_start(o.c, NULL), 0);
	mfs_prefetch(o.c, 0, model.offset[up], 2 * MIB);
	wait_until_quiet(o.c, o.io);
	assert_true(is_there(&o, up, 0, 4 * KIB));
	assert_true(is_there(&o, up, MIB + SLICE_BYTES, 4 * KIB));
	mfs_close(o.c);
}

static void one_read_takes_few_requests(void **state)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct opened o;
	unsigned before;

	(void)state;
	options.no_prefetch = 1;
	o = open_memory(&options);
	read_at(&o, model.offset[tensor(0, "attn_q")], MIB); /* and the index */
	wait_until_quiet(o.c, o.io);
	before = o.io->records;
	read_at(&o, model.offset[tensor(0, "attn_v")], MIB);
	assert_in_range(o.io->records - before, 1, 3);
	mfs_close(o.c);
}

static void short_reads_in_experts_fetch_only_their_frames(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 64; i++) {
		seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
		read_at(&o, (seed >> 20) % (model.size - 4 * KIB), 4 * KIB);
	}
	wait_until_quiet(o.c, o.io);
	assert_int_equal(stats_of(&o).prefetch_bytes, 0);
	mfs_close(o.c);
}

/* Faults that the kernel reads around look like streams, a few times. */
static void scattered_long_reads_are_found_out(void **state)
{
	struct opened o = open_memory(NULL);
	uint64_t early = 0, matrix = model.offset[tensor(-1, "output")];

	(void)state;
	for (uint64_t i = 0; i < 80; i++) {
		read_at(&o, matrix + i * 2300 * KIB % (40 * MIB), READ);
		wait_until_quiet(o.c, o.io);
		if (i == 39)
			early = stats_of(&o).prefetch_bytes;
	}
	assert_true(early > 0);
	assert_true(stats_of(&o).prefetch_bytes <= early + early / 4);
	mfs_close(o.c);
}

/* ---- traces ---- */

static void record(const char *path)
{
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	mfs_problem why = {0};
	struct opened o;

	options.record = 1;
	o = open_memory(&options);
	read_tensor(&o, tensor(2, "attn_v"));
	read_at(&o, model.offset[tensor(0, "ffn_up_exps")] + 5 * SLICE_BYTES, SLICE_BYTES);
	read_tensor(&o, tensor(1, "attn_k"));
	read_tensor(&o, tensor(2, "attn_v")); /* a second time: not a first touch */
	if (mfs_trace_save(o.c, path, &why))
		fail_msg("%s", why.text);
	mfs_close(o.c);
}

static void a_trace_holds_first_touches_in_order(void **state)
{
	char path[] = "/tmp/modelfs-route-XXXXXX", text[400];
	FILE *file;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	record(path);
	file = fopen(path, "r");
	assert_non_null(file);
	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	fclose(file);
	unlink(path);
	assert_string_equal(text, "modelfs-trace 1\n"
				  "model.gguf\tblk.2.attn_v.weight\t0-2097152\n"
				  "model.gguf\tblk.0.ffn_up_exps.weight\t2621440-3145728\n"
				  "model.gguf\tblk.1.attn_k.weight\t0-2097152\n");
}

static void a_replay_begins_before_the_first_read_and_goes_on(void **state)
{
	char path[] = "/tmp/modelfs-route-XXXXXX";
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	struct opened o;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	record(path);
	options.replay = path;
	options.profile = MFS_PROFILE_NOR; /* a window of 8 MiB at most */
	o = open_memory(&options);
	unlink(path);
	assert_int_equal(mfs_start(o.c, NULL), 0);
	wait_until_quiet(o.c, o.io);
	assert_true(stats_of(&o).prefetch_bytes >= 4 * MIB);
	assert_true(is_there(&o, tensor(2, "attn_v"), 0, MIB));
	assert_true(is_there(&o, tensor(1, "attn_k"), 0, MIB));
	assert_int_equal(stats_of(&o).span_misses, 0);
	/* The next token may take another expert. */
	assert_false(is_there(&o, tensor(0, "ffn_up_exps"), 5 * SLICE_BYTES, 4 * KIB));
	mfs_close(o.c);
}

static void a_trace_of_something_else_is_refused_at_open(void **state)
{
	char path[] = "/tmp/modelfs-route-XXXXXX";
	static const char text[] = "modelfs-trace 1\nother.gguf\tt\t0-1\n";
	mfs_open_options options = MFS_OPEN_OPTIONS_INIT;
	memory_io *io = memory_io_new(model.f.container, model.f.size);
	mfs_problem why = {0};
	mfs_container *c;
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	options.replay = path;
	assert_int_equal(mfs_open_io(&c, &io->head, "memory", &options, &why), MFS_E_INVALID);
	assert_non_null(strstr(why.text, ": line 2: there is no such file"));
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_tensors_are_those_of_the_execution),
	    cmocka_unit_test(a_walk_fetches_nothing_in_vain),
	    cmocka_unit_test(the_output_follows_the_last_layer_and_is_followed_by_the_first),
	    cmocka_unit_test(threads_with_a_slice_each_are_one_walk),
	    cmocka_unit_test(reading_the_file_in_order_stays_in_order),
	    cmocka_unit_test(a_fault_in_an_expert_fetches_its_slice_and_its_sisters),
	    cmocka_unit_test(what_was_read_beside_a_walk_is_not_fetched_again),
	    cmocka_unit_test(a_read_around_a_norm_is_in_no_expert),
	    cmocka_unit_test(a_read_around_that_was_cut_short_is_where_its_fault_was),
	    cmocka_unit_test(what_was_read_of_an_expert_is_fetched_again_only_once_it_is_gone),
	    cmocka_unit_test(a_stream_that_comes_into_experts_ends_there),
	    cmocka_unit_test(one_that_goes_on_there_is_fetched_to_the_end_of_its_slice),
	    cmocka_unit_test(what_was_announced_of_experts_is_fetched),
	    cmocka_unit_test(one_read_takes_few_requests),
	    cmocka_unit_test(short_reads_in_experts_fetch_only_their_frames),
	    cmocka_unit_test(scattered_long_reads_are_found_out),
	    cmocka_unit_test(a_trace_holds_first_touches_in_order),
	    cmocka_unit_test(a_replay_begins_before_the_first_read_and_goes_on),
	    cmocka_unit_test(a_trace_of_something_else_is_refused_at_open),
	};

	return cmocka_run_group_tests(tests, pack, unpack);
}

#include "sample.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../../format/delta.h"
#include "problem.h"

/* What a profile asks of compression, in 1/1024. Slow media take every gain;
 * fast ones store raw what does not pay for its decoding. */
struct demands {
	uint32_t stream_gain; /* for a stream to be coded */
	uint32_t tensor_gain; /* for a tensor to be split and coded */
	bool constants_split; /* tensors with constants are split in any case */
	uint32_t refused;     /* codings that decode slower than the medium delivers */
};

static struct demands demands_of(mfs_profile_id profile)
{
	if (profile == MFS_PROFILE_NVME)
		return (struct demands){20, 205, false,
					1u << MFS_CODING_BUCKETS | 1u << MFS_CODING_MARKED};
	if (profile == MFS_PROFILE_SATA)
		return (struct demands){10, 20, false, 0};
	return (struct demands){2, 2, true, 0};
}

/* Matches are worth much time for small metadata, which is read at every start, and
 * less for large opaque files. Beside weights they may take about as long as these:
 * a vocabulary is a fiftieth of a small model. (Of 128 KiB of a vocabulary's scores
 * level 15 leaves less than level 19, and less than half of what level 9 does. Of a
 * larger vocabulary level 9 leaves 1 % less than level 6 and takes twice as long.) */
static int match_level(uint64_t literal_bytes, uint64_t file_bytes)
{
	if (literal_bytes <= 16u << 10)
		return 19;
	if (literal_bytes < file_bytes / 2)
		return literal_bytes <= file_bytes / 256 ? 15 : 6;
	if (literal_bytes <= 8u << 20)
		return 19;
	return literal_bytes <= 64u << 20 ? 9 : 5;
}

/* When zstd with matches is tried on weights: nothing is gained by searching more. */
#define MATCH_LEVEL_ASKED 3

/* For masks, tables of positions and the like; and the share of the sample that matches
 * must save, for what is found without them is decoded faster. */
#define MATCH_LEVEL_TENSOR 6
#define MATCH_GAIN	   64

struct sampler {
	mfs_plan *plan;
	const atomic_int *cancel;
	atomic_uint next;     /* tensor to take */
	atomic_ullong done;   /* original bytes */
	atomic_int error;     /* of any thread */
	pthread_mutex_t lock; /* guards why */
	mfs_problem *why;
	size_t sample_max;
};

struct scratch {
	mfs_encoder *encoder;
	uint8_t *sample; /* blocks of the sampled spans, one after the other */
	uint8_t *base;	 /* those of a delta's base */
	uint8_t *out;
	uint8_t *tables;
	uint32_t blocks; /* in the sample */
	uint32_t span_blocks[MFS_SAMPLE_MAX / MFS_FRAME_MIN];
	uint32_t spans;
};

static int fail(struct sampler *s, int error, const mfs_plan_file *file)
{
	pthread_mutex_lock(&s->lock);
	if (!atomic_load(&s->error)) {
		atomic_store(&s->error, error);
		mfs_problem_set(s->why, error, UINT64_MAX, "%s%s%s", file ? file->path : "",
				file ? ": " : "", mfs_error_text(error));
	}
	pthread_mutex_unlock(&s->lock);
	return error;
}

/* Reads spans that lie evenly over the tensor: all of them where it is small. */
static int read_sample(struct sampler *s, struct scratch *w, const mfs_plan_tensor *t, uint8_t *out)
{
	mfs_source source = s->plan->files[t->record.file].source;
	uint64_t bytes = (uint64_t)t->record.span_blocks * t->layout->block_bytes;
	uint64_t count =
	    mfs_sample_bytes(t->record.size) / (bytes < MFS_FRAME_MIN ? MFS_FRAME_MIN : bytes);

	if (!count)
		count = 1;
	if (count > t->spans)
		count = t->spans;
	w->blocks = w->spans = 0;
	for (uint64_t i = 0; i < count; i++) {
		mfs_span span;
		int error;

		/* The middle of the i-th part; without overflow for any tensor. */
		mfs_tensor_span(&t->record, t->layout->block_bytes,
				t->spans / count * i + t->spans / count / 2, &span);
		error =
		    source.read_at(&source, t->record.file_offset + span.offset,
				   out + (size_t)w->blocks * t->layout->block_bytes, span.bytes);
		if (error)
			return error;
		w->span_blocks[w->spans++] = span.blocks;
		w->blocks += span.blocks;
	}
	return 0;
}

/* Stored bytes of the sample if the tensor is split, with its share of the tables. */
static int64_t code_sample(struct scratch *w, const mfs_plan_tensor *t)
{
	const mfs_layout *layout = t->layout;
	const uint8_t *in = w->sample;
	int64_t stored = 0;

	for (uint32_t i = 0; i < w->spans; i++) {
		uint32_t blocks = w->span_blocks[i];
		uint8_t *out[MFS_SLOTS] = {w->out, w->out + (size_t)blocks * layout->slot_bytes[0]};
		mfs_frame_info info[MFS_SLOTS] = {0};
		int error = mfs_span_encode(w->encoder, layout, blocks, in, &t->rules,
					    (const mfs_tables *const *)t->open_tables, out, info);

		if (error)
			return error;
		stored += (int64_t)info[0].stored + info[1].stored;
		in += (size_t)blocks * layout->block_bytes;
	}
	for (unsigned s = 0; s < MFS_SLOTS; s++)
		stored += (int64_t)(t->tables_bytes[s] * (uint64_t)w->spans / t->spans);
	return stored;
}

static mfs_sample sample_of(const struct scratch *w, const mfs_plan_tensor *t, uint64_t *alone)
{
	return (mfs_sample){t->layout, w->sample, w->blocks, t->record.span_blocks,
			    t->spans,  alone};
}

/* *alone becomes what the sample comes to without tables, about. */
static int build_tables(struct scratch *w, mfs_plan_tensor *t, uint64_t *alone)
{
	const mfs_sample sample = sample_of(w, t, alone);

	*alone = 0;
	for (unsigned s = 0; s < MFS_SLOTS; s++) {
		int64_t size;

		if (!mfs_plan_has_slot(t, s))
			continue;
		size =
		    mfs_tables_build(w->encoder, &sample, s, &t->rules, w->tables, MFS_TABLES_MAX);
		if (size <= 0) {
			if (size < 0)
				return (int)size;
			continue;
		}
		t->tables[s] = malloc((size_t)size);
		if (!t->tables[s])
			return MFS_E_MEMORY;
		memcpy(t->tables[s], w->tables, (size_t)size);
		t->tables_bytes[s] = (uint32_t)size;
	}
	return 0;
}

/* Codings that a tensor may use: what the profile allows, or the one asked for. */
static uint32_t refused(const mfs_plan *plan, const struct demands *demands)
{
	if (plan->codec < 0)
		return demands->refused;
	return ~(1u << plan->codec | 1u << MFS_CODING_RAW | 1u << MFS_CODING_ZERO);
}

static void set_rules(const mfs_plan *plan, const struct demands *demands, mfs_plan_tensor *t)
{
	const mfs_plan_file *file = &plan->files[t->record.file];

	t->rules.min_gain = demands->stream_gain;
	t->rules.refused = refused(plan, demands);
	if (t->row_bytes % t->layout->block_bytes == 0 &&
	    t->row_bytes / t->layout->block_bytes <= UINT32_MAX)
		t->rules.row_blocks = (uint32_t)(t->row_bytes / t->layout->block_bytes);
	if (t->record.flags & MFS_TENSOR_LITERAL)
		t->rules.match_level = match_level(file->literal_bytes, file->record.size);
	else if (plan->codec == MFS_CODING_ZSTD)
		t->rules.match_level = MATCH_LEVEL_ASKED;
}

/* What the sample comes to with matches of `level`, and with the tables or without. */
static int64_t code_matched(struct scratch *w, const mfs_plan_tensor *t, int level, bool tables)
{
	mfs_plan_tensor trial = *t;
	int64_t stored = 0;

	trial.rules.match_level = level;
	for (unsigned k = 0; k < MFS_SLOTS; k++) {
		trial.open_tables[k] = NULL;
		if (!tables) {
			trial.tables[k] = NULL;
			trial.tables_bytes[k] = 0;
		}
	}
	stored = mfs_plan_open_tables(&trial, &trial, MFS_TABLES_ENCODE);
	if (!stored)
		stored = code_sample(w, &trial);
	mfs_plan_close_tables(&trial);
	return stored;
}

/* Weights hardly ever repeat: a quick search tells whether coding the sample with
 * matches is worth trying. Where they win, tables are kept only if they still pay. */
static int choose_matches(struct scratch *w, mfs_plan_tensor *t)
{
	const mfs_sample sample = sample_of(w, t, NULL);
	int64_t without, with, alone;

	if (t->rules.match_level || t->rules.refused >> MFS_CODING_ZSTD & 1 ||
	    !mfs_sample_repeats(w->encoder, &sample))
		return 0;
	without = code_matched(w, t, 0, true);
	with = code_matched(w, t, MATCH_LEVEL_TENSOR, true);
	alone = code_matched(w, t, MATCH_LEVEL_TENSOR, false);
	if (without < 0 || with < 0 || alone < 0)
		return (int)(without < 0 ? without : with < 0 ? with : alone);
	if (alone <= with)
		with = alone;
	if (with >= without - without / MATCH_GAIN)
		return 0;
	t->rules.match_level = MATCH_LEVEL_TENSOR;
	if (alone == with)
		mfs_plan_drop_tables(t);
	return 0;
}

static const char *reason_to_split(const struct sampler *s, bool constants_split, bool adapter)
{
	if (s->plan->codec >= 0)
		return "asked for";
	if (adapter)
		return "adapters are kept apart";
	return constants_split ? "the profile keeps constants apart" : "gains enough";
}

/* Estimates are this many times as exact as what the profiles demand. */
#define CLEARLY 8

static bool gains_clearly(int64_t original, uint64_t alone, const struct demands *demands)
{
	return (original - (int64_t)alone) * 1024 >= original * demands->tensor_gain * CLEARLY;
}

/* Plain, unless the profile wants constants apart or the sample gains enough: it is coded
 * where `alone`, an estimate, leaves that open. */
static int choose_class(struct sampler *s, struct scratch *w, const struct demands *demands,
			mfs_plan_tensor *t, uint64_t alone)
{
	bool adapter = t->record.cls == MFS_DISK_ADAPTER;
	/* Matrices of adapters have chunks of their own, which are replaced alone. */
	bool constants_split = (demands->constants_split && mfs_plan_has_slot(t, 1)) || adapter;
	int64_t original = (int64_t)w->blocks * t->layout->block_bytes, stored;

	t->choice.reason = reason_to_split(s, constants_split, adapter);
	/* Then nothing depends on the sample. */
	if (constants_split && (adapter || s->plan->codec != MFS_PLAN_PLAIN) && !s->plan->explain)
		return 0;
	if (s->plan->codec != MFS_PLAN_PLAIN && !s->plan->explain &&
	    gains_clearly(original, alone, demands))
		return 0;
	stored = mfs_plan_open_tables(t, t, MFS_TABLES_ENCODE);
	if (!stored)
		stored = code_sample(w, t);
	if (stored < 0)
		return (int)stored;
	t->choice.sample_bytes = (uint64_t)original;
	t->choice.chosen = (uint64_t)stored;
	if (s->plan->codec == MFS_PLAN_PLAIN && !adapter) {
		t->choice.reason = "asked for";
	} else if (constants_split || s->plan->codec >= 0 ||
		   (original - stored) * 1024 >= original * demands->tensor_gain) {
		return 0;
	} else {
		t->choice.reason = "gains less than the profile asks for";
	}
	t->record.cls = MFS_DISK_PLAIN;
	t->choice.chosen = (uint64_t)original;
	return 0;
}

/* What each coding alone would have made of the sample. */
static int explain(struct scratch *w, mfs_plan_tensor *t)
{
	const mfs_sample sample = sample_of(w, t, NULL);
	mfs_coding_rules rules = t->rules;

	rules.refused = 0;
	rules.match_level = MATCH_LEVEL_ASKED;
	return mfs_sample_estimate(w->encoder, &sample, &rules,
				   (const mfs_tables *const *)t->open_tables, t->choice.stored);
}

/* ---- deltas ---- */

/* What the sample comes to as it is in `w`, with the tables that serve it, which
 * replace those of the tensor if it is smaller than *least. */
static int try_sample(struct scratch *w, mfs_plan_tensor *t, int64_t *least)
{
	mfs_plan_tensor trial = *t;
	uint64_t alone;
	int64_t stored;

	for (unsigned k = 0; k < MFS_SLOTS; k++) {
		trial.tables[k] = NULL;
		trial.tables_bytes[k] = 0;
		trial.open_tables[k] = NULL;
	}
	stored = build_tables(w, &trial, &alone);
	if (!stored)
		stored = mfs_plan_open_tables(&trial, &trial, MFS_TABLES_ENCODE);
	if (!stored)
		stored = code_sample(w, &trial);
	mfs_plan_close_tables(&trial);
	if (stored < 0 || stored >= *least) {
		mfs_plan_drop_tables(&trial);
		return stored < 0 ? (int)stored : 0;
	}
	mfs_plan_drop_tables(t);
	*t = trial;
	*least = stored;
	return 1;
}

/* Differences are mostly zeros in runs, which trees alone take a bit each for. */
#define MATCH_LEVEL_DELTA 6

static uint64_t own_spans(const mfs_plan_tensor *t)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < t->spans; i++)
		n += mfs_plan_owns(t, i);
	return n;
}

/* Alone, but for the spans that it shares, or as a difference of either kind: whichever
 * makes the smallest sample.
 * The sample of the tensor is in `w`. */
static int choose_delta(struct sampler *s, struct scratch *w, mfs_plan_tensor *t)
{
	const mfs_plan_tensor *base = &s->plan->tensors[t->delta_base];
	const int alone_level = t->rules.match_level;
	int64_t least = INT64_MAX;
	int error = read_sample(s, w, base, w->base);

	if (!error)
		error = try_sample(w, t, &least);
	if (error > 0 && t->owners)
		least = (int64_t)((uint64_t)least * own_spans(t) / t->spans);
	t->rules.match_level = MATCH_LEVEL_DELTA;
	for (int integer = 1; integer >= 0 && error >= 0; integer--) {
		if (integer)
			mfs_delta_encode(t->layout, w->blocks, true, w->base, w->sample);
		else
			error = read_sample(s, w, t, w->sample);
		if (error >= 0 && !integer)
			mfs_delta_encode(t->layout, w->blocks, false, w->base, w->sample);
		if (error >= 0)
			error = try_sample(w, t, &least);
		if (error <= 0)
			continue;
		t->record.base = t->delta_base;
		t->record.flags = MFS_TENSOR_DELTA | (integer ? MFS_TENSOR_INTEGER : 0);
		t->choice.reason = integer ? "as an integer difference to its base"
					   : "as a difference to its base";
	}
	if (t->record.flags & MFS_TENSOR_DELTA) {
		mfs_plan_unshare(t);
		t->choice.sample_bytes = (uint64_t)w->blocks * t->layout->block_bytes;
		t->choice.chosen = (uint64_t)least;
	} else {
		t->rules.match_level = alone_level;
	}
	return error < 0 ? error : 0;
}

/* Class, rules and tables of one tensor. */
static int choose(struct sampler *s, struct scratch *w, mfs_plan_tensor *t)
{
	struct demands demands = demands_of(s->plan->profile);
	uint64_t alone;
	int error;

	if (t->stored)
		return 0;
	set_rules(s->plan, &demands, t);
	if (t->twin != MFS_NO_TENSOR)
		t->choice.reason = "stored once with an equal tensor";
	else if (t->leader != MFS_NO_TENSOR)
		t->choice.reason = "stored like the tensor that it shares spans with";
	if ((t->record.flags & (MFS_TENSOR_LITERAL | MFS_TENSOR_DERIVED)) ||
	    t->twin != MFS_NO_TENSOR ||
	    (t->leader != MFS_NO_TENSOR && t->delta_base == MFS_NO_TENSOR))
		return 0;
	error = read_sample(s, w, t, w->sample);
	if (!error && t->delta_base != MFS_NO_TENSOR) {
		error = choose_delta(s, w, t);
		if (error || (t->record.flags & MFS_TENSOR_DELTA))
			return error;
		mfs_plan_drop_tables(t);
		if (t->leader != MFS_NO_TENSOR)
			return 0;
		error = read_sample(s, w, t, w->sample);
	}
	if (!error)
		error = build_tables(w, t, &alone);
	if (!error)
		error = choose_matches(w, t);
	if (!error)
		error = choose_class(s, w, &demands, t, alone);
	if (!error && s->plan->explain)
		error = explain(w, t);
	mfs_plan_close_tables(t);
	if (!error && t->record.cls == MFS_DISK_PLAIN)
		mfs_plan_drop_tables(t);
	return error;
}

static int scratch_open(struct scratch *w, const struct sampler *s)
{
	memset(w, 0, sizeof(*w));
	w->encoder = mfs_encoder_new(s->sample_max);
	w->sample = malloc(s->sample_max);
	w->base = malloc(s->sample_max);
	w->out = malloc(s->sample_max);
	w->tables = malloc(MFS_TABLES_MAX);
	return w->encoder && w->sample && w->base && w->out && w->tables ? 0 : MFS_E_MEMORY;
}

static void scratch_close(struct scratch *w)
{
	mfs_encoder_free(w->encoder);
	free(w->sample);
	free(w->base);
	free(w->out);
	free(w->tables);
}

/* Takes tensors until none is left; reports progress if asked to. */
static void take_tensors(struct sampler *s, mfs_sample_progress *progress, void *user)
{
	mfs_plan *plan = s->plan;
	struct scratch w;

	if (scratch_open(&w, s))
		fail(s, MFS_E_MEMORY, NULL);
	while (!atomic_load(&s->error)) {
		unsigned i = atomic_fetch_add(&s->next, 1);
		mfs_plan_tensor *t;
		int error;

		if (i >= plan->tensor_count)
			break;
		t = &plan->tensors[i];
		error = atomic_load(s->cancel) ? MFS_E_CANCELLED : choose(s, &w, t);
		if (error)
			fail(s, error,
			     error == MFS_E_CANCELLED ? NULL : &plan->files[t->record.file]);
		if (!t->stored)
			atomic_fetch_add(&s->done, t->record.size);
		if (progress)
			progress(user, atomic_load(&s->done));
	}
	scratch_close(&w);
}

static void *sampler_thread(void *arg)
{
	take_tensors(arg, NULL, NULL);
	return NULL;
}

/* Threads beyond the calling one; fewer if the system refuses, down to none. */
static unsigned start_threads(struct sampler *s, pthread_t *ids, unsigned count)
{
	unsigned started = 0;

	while (started < count && !pthread_create(&ids[started], NULL, sampler_thread, s))
		started++;
	return started;
}

int mfs_plan_sample(mfs_plan *plan, unsigned threads, const atomic_int *cancel,
		    mfs_sample_progress *progress, void *user, mfs_problem *why)
{
	struct sampler s = {.plan = plan, .cancel = cancel, .why = why};
	unsigned extra = threads > 1 ? threads - 1 : 0;
	pthread_t *ids = calloc(extra + 1, sizeof(*ids));

	if (!ids)
		return mfs_problem_no_memory(why);
	s.sample_max = plan->span_max > MFS_SAMPLE_MAX ? plan->span_max : MFS_SAMPLE_MAX;
	pthread_mutex_init(&s.lock, NULL);
	if (extra > plan->tensor_count)
		extra = plan->tensor_count;
	extra = start_threads(&s, ids, extra);
	take_tensors(&s, progress, user);
	for (unsigned i = 0; i < extra; i++)
		pthread_join(ids[i], NULL);
	/* The others may have taken every tensor. */
	if (progress)
		progress(user, atomic_load(&s.done));
	pthread_mutex_destroy(&s.lock);
	free(ids);
	return atomic_load(&s.error);
}

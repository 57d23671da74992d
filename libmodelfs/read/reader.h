/*
 * The reader: from a read of a virtual file to the medium and back.
 *
 *   read ──► pieces ──► spans ──► frames ──► runs ──► I/O engine
 *                                               │
 *   done ◄── pieces ◄── decoder ◄── jobs ◄──────┘
 *
 * - A *run* (runs.c) is a piece of the container in memory: whole pages (of scattered
 *   reads less), as they lie on the medium, being read or complete.
 * - A *job* (jobs.c) waits for the stored bytes of one thing, then a decoder
 *   (decoders.c) works on it: a span (spans.c) is decoded; a segment or tables
 *   (index.c) are verified and kept.
 * - A *read* (reads.c) holds the spans of its pieces and ends when all are decoded,
 *   so however many reads want a span, it is decoded once.
 * - Whatever ends, reader.c lets what waited for it go on (reader_pump), then, without
 *   the lock, submits requests and hands out reads (reader_unlock).
 * - A span of a delta or a derived tensor is computed (derive.c) from the frames
 *   of its base and, for adapters, from operands that are kept in memory (operands.h).
 * - How many requests go ahead, and how large they are, follows the medium
 *   (medium.c), which is measured where the system does not know it (probe.c).
 * - Prefetch makes jobs that no read waits for yet: of sequential streams
 *   (prefetch.c), and of other routes through the container (routes.h): order of
 *   execution, experts, a recorded trace.
 * - The cache (cache.c; optional) keeps stored bytes for longer than the runs they
 *   came in. Planning takes from it what it has and reads the rest; bytes that
 *   jobs have used are copied into it when nobody holds their run (caching.c).
 *
 * `lock` guards everything in struct reader. It is never held over I/O, decoding
 * or a callback. Nothing ever waits for memory: a read that finds no room stays
 * in `blocked` and is tried again whenever something ends. Spans and stored
 * bytes have an arena each, and a job takes the runs it needs all at once, so
 * jobs that run always end and free what others wait for. A span's stored bytes
 * are fetched together with the tables it needs; where these find no memory,
 * the span gives its runs back until they are loaded.
 */
#ifndef MFS_READER_H
#define MFS_READER_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "arena.h"
#include "cache.h"
#include "container.h"
#include "frame.h"
#include "routes.h"
#include "simd.h"

/* ---- runs: stored bytes in memory ---- */

enum run_state { RUN_READING, RUN_DONE, RUN_FAILED };

struct run {
	uint64_t offset; /* in the container, a multiple of the request alignment */
	uint32_t length;
	uint32_t consumed; /* bytes that jobs have used */
	uint8_t *data;
	enum run_state state;
	bool indexed;	 /* still in reader.runs, so others may use it */
	bool cached;	 /* lies in the cache: one job's, never indexed */
	bool prefetched; /* read ahead of demand */
	unsigned users;	 /* jobs that hold it */
	uint64_t ended;	 /* when the engine was done, reader_now(); only while probing */
	mfs_io_request request;
	mfs_cache_piece piece; /* if cached */
	struct {
		uint32_t from, to;
	} good[CACHE_RANKS];  /* bytes that proved right and were not offered to the cache yet */
	TAILQ_ENTRY(run) lru; /* while it has no users, or in to_cache */
};
TAILQ_HEAD(run_list, run);

/* ---- jobs ---- */

enum job_kind { JOB_SPAN, JOB_SEGMENT, JOB_TABLES };

enum job_state {
	JOB_NEED,   /* its runs are not there yet */
	JOB_WAIT,   /* they are being read */
	JOB_QUEUED, /* for a decoder, or in one */
	JOB_READY,
	JOB_FAILED
};

struct range {
	uint64_t offset;
	uint32_t length;
};

/* The frames of a span, and of the base of a delta. */
#define JOB_RANGES (2 * MFS_SLOTS)

struct job {
	enum job_kind kind;
	enum job_state state;
	int error;
	bool retried;
	bool starved; /* found no memory, or failed: those who wait for it hold none */
	bool ahead;   /* prefetch: no read waits for it */
	bool wide;    /* what follows is wanted too: runs may reach beyond the ranges, */
	uint64_t reach[JOB_RANGES];	/* but not beyond this; 0: up to the end of the chunk */
	struct range range[JOB_RANGES]; /* stored bytes; length 0: none */
	struct run **runs;		/* held, from JOB_WAIT on */
	unsigned run_count;
	TAILQ_ENTRY(job) link; /* in pending or queue */
};
TAILQ_HEAD(job_list, job);

/* ---- index parts that are loaded on first use (index.c) ---- */

enum part_state { PART_ABSENT, PART_LOADING, PART_READY, PART_FAILED };

struct part {
	struct job job;
	enum part_state state;
	int error;
	uint32_t number; /* of the segment or the tables */
	int copy;	 /* which copy is being loaded */
	uint8_t *bytes;	 /* a ready segment; what is stored of tables that were ready once */
	mfs_tables *tables;
	uint32_t streams; /* of the slot whose frames share the tables */
	unsigned users;	  /* span jobs that decode with these tables */
	uint64_t last_use;
};

/* ---- spans (spans.c) ---- */

/* Stored frames that a span comes from. */
struct source {
	uint32_t tensor;
	const mfs_layout *layout;
	mfs_span place;
	bool present[MFS_SLOTS];
	mfs_frame_place frame[MFS_SLOTS];
	uint64_t number[MFS_SLOTS]; /* frame numbers, for the hash */
	struct part *tables[MFS_SLOTS];
};

/* Of a delta its own, then those of its base. */
#define SPAN_SOURCES 2

/* Of a plain span: a span seldom lies in more. */
#define BACKING_RUNS 2

struct piece;

struct span {
	struct job job;
	uint32_t tensor;
	mfs_span place;
	struct source source[SPAN_SOURCES];
	unsigned sources;
	uint8_t *buffer; /* from the span arena, place.bytes long; NULL if data is in a run */
	uint8_t *data;
	bool unlinked; /* failed: found by nobody any more */
	bool in_place; /* a plain span's bytes are used where they were read: */
	struct run *backing[BACKING_RUNS];
	unsigned users;		      /* pieces that hold it */
	bool prefetched;	      /* no read has asked for it yet */
	uint8_t bad_source, bad_slot; /* whose frame failed */
	bool bad_hash;		      /* its checksum did; else it does not decode */
	bool bad_tables;	      /* it was not even tried: the tables were bad */
	uint32_t served;	      /* bytes handed out */
	struct piece *waiters;
	struct span *next;     /* in its bucket */
	TAILQ_ENTRY(span) lru; /* while it has no users and is ready or failed */
};
TAILQ_HEAD(span_list, span);

#define SPAN_BUCKETS	  1024
#define MFS_ARENA_DEFAULT (64u << 20)

/* ---- reads ---- */

#define READ_PIECES 48

struct read;

struct piece {
	struct span *span; /* NULL: zeros */
	uint32_t from;
	uint32_t length;
	struct read *read;
	struct piece *next_waiter;
};

struct read {
	uint32_t file;
	uint64_t offset;
	size_t length;
	mfs_read_done *done;
	void *user;
	uint8_t *gathered; /* reads of too many pieces are copied together, batch by batch */
	size_t gathered_bytes;
	unsigned pending; /* pieces of the batch not yet decoded */
	int error;
	bool internal; /* of the reader's own: operands */
	bool streamed; /* one of many that follow each other */
	unsigned piece_count;
	struct piece pieces[READ_PIECES];
	TAILQ_ENTRY(read) link; /* in blocked, or ended */
};
TAILQ_HEAD(read_list, read);

/* ---- prefetch ---- */

#define STREAMS 16

struct stream {
	bool used;
	uint32_t file;
	uint64_t origin; /* where its first read began, */
	uint64_t first;	 /* how long that was, */
	uint32_t tensor; /* and what for; MFS_ORDER_NONE: literal bytes */
	uint64_t next;	 /* where the next read of this stream should begin */
	uint64_t ahead;	 /* fetched or being fetched up to here */
	uint64_t limit;	 /* nothing is fetched from here on */
	uint64_t window; /* bytes to stay ahead; 0: not sequential (yet) */
	unsigned hits;
	bool walked; /* on a walk: ends where the tensor ends */
	bool eager;  /* began with a window, before it proved to be a stream */
	uint64_t last_use;
};

/* ---- what was read of each file (touched.c) ---- */

struct touched {
	uint64_t *bits; /* NULL before the first read; a bit for 1 << shift bytes */
	unsigned shift;
	uint64_t bytes; /* of granules that are set */
};

/* ---- the reader ---- */

struct reader {
	mfs_container *c;
	mfs_io *io;
	uint32_t unit;	  /* requests start and end on multiples of this, */
	uint32_t grain;	  /* those of scattered reads on multiples of this */
	uint32_t request; /* largest request */

	pthread_mutex_t lock;
	pthread_cond_t work;  /* decoders are called, or stopping */
	pthread_cond_t ended; /* a part or a read has ended: for those who wait */
	bool stopping;
	bool no_heap; /* set where malloc() fails: nothing that ends later would help, so who
		       * asked fails too, while a full arena is only waited for */
	unsigned active_reads;
	unsigned in_flight; /* requests */
	uint64_t in_flight_bytes;

	mfs_arena run_arena, span_arena;
	struct run **runs; /* indexed by offset, not overlapping */
	size_t run_count, run_capacity;
	struct run_list idle_runs; /* first: evict first */
	struct run **submit;	   /* to be submitted when the lock is dropped */
	size_t submit_count, submit_capacity;

	struct job_list pending; /* JOB_NEED and JOB_WAIT */
	struct job_list queue;	 /* JOB_QUEUED */
	unsigned work_jobs;	 /* in the queue or in a decoder */
	uint64_t work_bytes;	 /* that these decode to */
	/* Those that wait to be called; the others; and those called that still sleep. */
	unsigned decoders_asleep, decoders_awake, calls;

	struct part *segments;
	struct part *tables;
	struct operand *operands; /* by term */
	/* Of all operands together: now, at most so far; of those of one tensor: at most. */
	uint64_t operand_bytes, operand_peak, operand_most;
	unsigned long long operand_needed; /* MiB that would suffice for every tensor */
	uint32_t operand_tensor;	   /* that a read needed last */
	mfs_simd simd;
	uint32_t frame_segments; /* chunk segments follow */
	bool no_chunk_table;	 /* it could not be read: requests stay short */
	size_t tables_bytes;	 /* of open tables */
	size_t tables_stored;	 /* of what is kept of closed ones as well */
	uint64_t tick;

	struct span *buckets[SPAN_BUCKETS];
	struct span_list idle_spans; /* first: evict first */
	unsigned span_count;

	struct read_list blocked;  /* in the order they came */
	struct read_list finished; /* batches complete, to be handed out without the lock */
	size_t gather_bytes;

	struct stream streams[STREAMS];
	unsigned doubt;	     /* rises with each eager stream that nobody followed up */
	uint64_t note_clock; /* reads that prefetch has seen */
	struct routes routes;
	struct recorder *recorder; /* NULL: nothing is recorded */

	mfs_cache cache;
	bool caching;		  /* a thread copies into it: one at a time */
	struct run_list to_cache; /* each held until it is copied */
	pthread_t keeper;
	bool keeper_running;
	pthread_cond_t keep; /* stopping, or a file is read that was not before */

	mfs_stats stats;
	struct touched *touched; /* by file */
	uint64_t busy_since;	 /* when in_flight left 0, reader_now() */
	uint64_t busy;		 /* nanoseconds with requests in flight, until busy_since */
	uint64_t decoding;	 /* nanoseconds that decoders have worked */
	bool probing, probed;

	pthread_t reaper;
	bool reaper_running;
	pthread_t *decoders;
	unsigned decoder_count, decoders_running;
	struct decoder_thread **contexts; /* one a decoder */
	unsigned next_context;
};

/* reader.c */
int reader_new(struct reader **out, mfs_container *c);
void reader_free(struct reader *r);

/* How requests are queued from now on. Lock held, once there are threads. */
void reader_queue_as(struct reader *r, const medium_queue *queue);

/* Nanoseconds on the monotonic clock. */
uint64_t reader_now(void);
/* Nanoseconds with at least one request in flight. Lock held. */
uint64_t reader_busy(const struct reader *r);

/* Drops the lock, submits what was planned and hands out what has ended, until
 * nothing of either is left. */
void reader_unlock(struct reader *r);
/* Tries again whatever waited for memory, index parts or runs. Lock held. */
void reader_pump(struct reader *r);
/* Reports a failed read to mfs_last_problem(). Takes the container's lock. */
void reader_problem(struct reader *r, int error, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* reads.c; without the lock */
int reader_read(struct reader *r, uint32_t file, uint64_t offset, size_t length,
		mfs_read_done *done, void *user);
/* A read of the reader's own, ahead of all that wait. Lock held. */
int reader_read_operand(struct reader *r, uint32_t file, uint64_t offset, size_t length,
			bool streamed, mfs_read_done *done, void *user);
/* Plans those that were blocked, as far as memory goes. Lock held. */
void reads_pump(struct reader *r);
/* Answers a read whose batch is complete. True if it has ended, false if another
 * batch is to follow; either way read_handed_out() is next. */
bool read_hand_out(struct read *read);
/* Frees the read, or plans its next batch. Lock held. */
void read_handed_out(struct reader *r, struct read *read, bool ended);

/* jobs.c; lock held */
/* Gives runs to jobs that need them, in order, and jobs whose runs are complete to
 * the decoders. True if a job has failed for good, which frees memory. */
bool jobs_pump(struct reader *r);
/* A decoder is done with the job. */
void job_worked(struct reader *r, struct job *job);
void jobs_drop(struct reader *r, struct job_list *list);

/* decoders.c; without the lock, unless it says otherwise */
int decoders_new(struct reader *r);
int decoders_start(struct reader *r);
/* Waits for them to end, once the reader is stopping. */
void decoders_join(struct reader *r);
void decoders_free(struct reader *r);
/* The runs of this job are complete. Lock held. */
void decoders_give(struct reader *r, struct job *job);
/* How many sleeping decoders to wake. Lock held; the caller signals `work` without it,
 * or those who wake would have to wait for it. */
unsigned decoders_call(struct reader *r);

/* runs.c; lock held */
bool job_take_runs(struct reader *r, struct job *job);
/* True if all its bytes are in memory or on their way. */
bool job_covered(const struct reader *r, const struct job *job);
void job_drop_runs(struct reader *r, struct job *job, bool failed);
/* Without having used them: the job will take them again. */
void job_give_back_runs(struct reader *r, struct job *job);
/* True if all are read, or one could not be: *error tells, else it is 0. */
bool job_runs_done(const struct job *job, int *error);
void run_release(struct reader *r, struct run *run);
void run_hold(struct reader *r, struct run *run);
/* Starts reading whole units, or with `keep` not set anything the engine can
 * read, with one user; with `keep` jobs find it, as if it had been prefetched.
 * NULL: there is no memory, or some of it is there already. */
struct run *run_begin(struct reader *r, uint64_t offset, uint32_t length, bool keep);
/* The engine has ended the request of this run. */
void run_ended(struct reader *r, struct run *run);
/* The stored bytes of a range of a job whose runs are complete: in place where they
 * lie together, or put together in `scratch`. Needs no lock. */
const uint8_t *job_bytes(const struct job *job, unsigned which, uint8_t *scratch);
void runs_free(struct reader *r);

/* caching.c; lock held, unless it says otherwise */
/* The arena's size where none was asked for. Needs no lock. */
uint64_t caching_arena_bytes(const mfs_container *c);
int caching_open(struct reader *r);
int caching_start(struct reader *r); /* without the lock */
void caching_stop(struct reader *r); /* without the lock */
void caching_close(struct reader *r);
void caching_note_file(struct reader *r, uint32_t file);
/* Bytes [from, to) of the container, in range `which` of the job, proved right. */
void caching_note_use(struct reader *r, struct run *run, const struct job *job, unsigned which,
		      uint64_t from, uint64_t to);
/* True if the run, which has no users, is to be copied: it then has one. */
bool caching_wants(struct reader *r, struct run *run);
/* Copies one run into the cache, if there is one to copy. Drops the lock meanwhile. */
bool caching_fill(struct reader *r);

/* index.c; lock held, except for the first */
int index_new(struct reader *r);
/* True if the part is ready. Else starts loading it; *err is set if that has failed for good. */
bool part_ready(struct reader *r, struct part *part, int *err);
/* Starts loading tables that are not there, also if that has failed before. Not
 * `ahead`: a read waits for them. */
void tables_want(struct reader *r, struct part *tables, uint32_t streams, bool ahead);
struct part *frame_segment(struct reader *r, uint64_t frame);
/* A decoder's work on a part's job, without the lock. */
void part_verify(struct reader *r, struct part *part, uint8_t *scratch);
/* What follows once the lock is taken again. */
void part_done(struct reader *r, struct part *part);
int reader_wait_part(struct reader *r, struct part *part);
/* The end of the chunk that holds container byte `offset`; false until what it
 * takes of the chunk table is loaded, which this starts. */
bool chunk_end_after(struct reader *r, uint64_t offset, uint64_t *end);
void index_free(struct reader *r);

/* spans.c; lock held */
/* Checks that all it takes to begin with this span is loaded. */
bool span_index_ready(struct reader *r, uint32_t tensor, const mfs_span *place, bool ahead,
		      int *err);
struct span *span_find(struct reader *r, uint32_t tensor, uint64_t index);
/* Makes a span and its job; NULL if there is no memory for it now. */
struct span *span_new(struct reader *r, uint32_t tensor, const mfs_span *place, bool prefetch);
void span_hold(struct reader *r, struct span *span);
void span_release(struct reader *r, struct span *span, uint32_t served);
/* What the tables that a span needs are doing. */
enum tables_state { TABLES_READY, TABLES_COMING, TABLES_STARVED, TABLES_BAD };
enum tables_state span_tables(struct span *span);
void span_decode(struct reader *r, struct span *span, mfs_decoder *decoder, uint8_t *scratch);
void span_done(struct reader *r, struct span *span);
/* Makes the failure of a span that a read wanted the last problem. Lock held. */
void span_problem(struct reader *r, const struct span *span);
void spans_free(struct reader *r);
/* Room for `bytes` in the span arena, evicting idle spans. */
void *span_memory(struct reader *r, size_t bytes);
/* Lets go of an idle span whose bytes lie in a run; false if there is none. */
bool span_evict_backed(struct reader *r);
/* Where the frame of a span in `slot` lies. False if it has none, or if that is
 * not loaded. */
bool span_frame_place(struct reader *r, uint32_t tensor, const mfs_span *place, unsigned slot,
		      mfs_frame_place *out);

/* prefetch.c; lock held */
/* True if the read goes on in a stream, so that what follows it is worth reading. */
bool prefetch_note_read(struct reader *r, uint32_t file, uint64_t offset, size_t length);
void prefetch_advise(struct reader *r, uint32_t file, uint64_t offset, uint64_t length);
void prefetch_pump(struct reader *r);
/* Bytes that one stream or route may be ahead: the profile's depth, or its share
 * of the memory. */
uint64_t prefetch_window(const struct reader *r);
/* A stream that has been read from lately. */
bool prefetch_stream_active(const struct reader *r, const struct stream *s);
/* Makes the span that holds byte `at` of the tensor, unless it is there, and
 * sets *behind to the bytes from `at` to its end. False: not now; or never, and
 * then *err is set. *made (if not NULL) is the span if it was made. */
bool prefetch_span(struct reader *r, uint32_t tensor, uint64_t at, uint64_t *behind,
		   struct span **made, int *err);

/* record.c; lock held, except for the first two */
int recorder_new(struct reader *r);
void recorder_free(struct recorder *recorder);
void recorder_note(struct reader *r, uint32_t tensor, const mfs_span *place);

/* touched.c */
int touched_new(struct reader *r);
void touched_free(struct reader *r);
/* A read was given these bytes, which lie inside the file. Lock held. */
void touched_mark(struct reader *r, uint32_t file, uint64_t offset, uint64_t length);

/* probe.c */
#define PROBE_MS 50
/* Measures the medium and sets how reads are queued. Takes the lock; waits at most
 * so long, and does nothing if reads have begun. */
void reader_probe(struct reader *r, unsigned most_ms);

#endif

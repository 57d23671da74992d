/*
 * A slow, stalling or failing medium: a FUSE file system with one file,
 * `medium`, backed by a real file. Containers are mounted from it.
 *
 *   slowfile [OPTIONS] BACKING MOUNTPOINT        (stays in the foreground)
 *
 * Timing model: a read waits for one of CHANNELS channels, then LATENCY, then
 * for a shared bus of MBPS; all of it is computed when the read arrives, and the
 * reply is sent at that time. While the file STALL exists, every read that
 * arrives takes STALL_MS more. EIO percent of the reads fail. The kernel has at
 * most BACKGROUND reads under way and makes who asks for more wait.
 *
 * With --log each read leaves a line in LOG: microseconds at which it arrived and
 * at which it is due, offset, bytes.
 *
 * One thread receives and never waits; repliers take reads in the order of their
 * due times. The counters go to standard output at the end.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_INODE   2
#define FILE_NAME    "medium"
#define CHANNELS_MAX 256
#define WAITING_MAX  4096
#define REPLIERS     4
#define SECOND	     UINT64_C(1000000000)

typedef struct {
	unsigned channels;   /* reads that the medium works on at once */
	uint64_t latency_ns; /* of each */
	uint64_t mbps;	     /* of the bus they share; 0: no limit */
	const char *stall_path;
	uint64_t stall_ns;
	unsigned eio_percent;
	unsigned background;
	uint64_t seed;
	const char *log_path;
} model_options;

/* The timing model. Used by the receiving thread only. */
typedef struct {
	model_options options;
	uint64_t channel_free[CHANNELS_MAX]; /* when each ends its last read */
	uint64_t bus_free;
	uint64_t state; /* of the random numbers */
} model;

typedef struct {
	fuse_req_t request;
	uint64_t offset;
	size_t length;
	uint64_t due; /* CLOCK_MONOTONIC, nanoseconds */
	bool fail;
} read_job;

/* Reads that wait for their time: a heap, earliest first, under `lock`. */
typedef struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	read_job heap[WAITING_MAX];
	size_t count;
	bool closing;
} queue;

typedef struct {
	const uint8_t *mapped; /* the backing file */
	struct stat st;
	model model;
	queue queue;
	uint64_t reads, bytes, failed, stalled; /* receiving thread only, as are these: */
	FILE *log;				/* or NULL */
	uint64_t log_start;
} medium;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the timing model ---- */

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static unsigned free_channel(const model *m)
{
	unsigned best = 0;

	for (unsigned i = 1; i < m->options.channels; i++)
		if (m->channel_free[i] < m->channel_free[best])
			best = i;
	return best;
}

/* When a read of `length` bytes that arrives now will have been answered. */
static uint64_t model_due(model *m, uint64_t now, size_t length)
{
	const model_options *o = &m->options;
	unsigned channel = free_channel(m);
	uint64_t due = later(now, m->channel_free[channel]) + o->latency_ns;

	if (o->mbps) {
		due = later(due, m->bus_free) + length * 1000 / o->mbps;
		m->bus_free = due;
	}
	m->channel_free[channel] = due;
	return due;
}

static bool model_stalls(const model *m)
{
	return m->options.stall_path && access(m->options.stall_path, F_OK) == 0;
}

static bool model_fails(model *m)
{
	return m->options.eio_percent && next_random(&m->state) % 100 < m->options.eio_percent;
}

/* ---- the queue ---- */

static void swap_jobs(read_job *a, read_job *b)
{
	read_job t = *a;

	*a = *b;
	*b = t;
}

static bool queue_put(queue *q, const read_job *job)
{
	size_t i;

	pthread_mutex_lock(&q->lock);
	if (q->count == WAITING_MAX) {
		pthread_mutex_unlock(&q->lock);
		return false;
	}
	i = q->count++;
	q->heap[i] = *job;
	for (; i && q->heap[i].due < q->heap[(i - 1) / 2].due; i = (i - 1) / 2)
		swap_jobs(&q->heap[i], &q->heap[(i - 1) / 2]);
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
	return true;
}

/* Takes the earliest read off the heap. */
static read_job queue_pop(queue *q)
{
	read_job first = q->heap[0];
	size_t i = 0;

	q->heap[0] = q->heap[--q->count];
	for (;;) {
		size_t least = i, left = 2 * i + 1, right = left + 1;

		if (left < q->count && q->heap[left].due < q->heap[least].due)
			least = left;
		if (right < q->count && q->heap[right].due < q->heap[least].due)
			least = right;
		if (least == i)
			return first;
		swap_jobs(&q->heap[i], &q->heap[least]);
		i = least;
	}
}

/* Waits for a read whose time has come. False when closing. */
static bool queue_take(queue *q, read_job *out)
{
	bool taken = false;

	pthread_mutex_lock(&q->lock);
	while (!q->closing) {
		struct timespec until;
		uint64_t due;

		if (!q->count) {
			pthread_cond_wait(&q->changed, &q->lock);
			continue;
		}
		due = q->heap[0].due;
		if (due <= now_ns()) {
			*out = queue_pop(q);
			taken = true;
			break;
		}
		until.tv_sec = (time_t)(due / SECOND);
		until.tv_nsec = (long)(due % SECOND);
		pthread_cond_timedwait(&q->changed, &q->lock, &until);
	}
	pthread_mutex_unlock(&q->lock);
	return taken;
}

static void queue_init(queue *q)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&q->changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

static void queue_close(queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->closing = true;
	for (size_t i = 0; i < q->count; i++)
		fuse_reply_err(q->heap[i].request, EIO);
	q->count = 0;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

/* ---- replies ---- */

/* Straight from the mapping: the kernel copies once, to where the reader wants it. */
static void answer(const medium *m, const read_job *job)
{
	uint64_t size = (uint64_t)m->st.st_size;
	uint64_t left = job->offset < size ? size - job->offset : 0;
	size_t length = job->length < left ? job->length : (size_t)left;

	if (job->fail)
		fuse_reply_err(job->request, EIO);
	else
		fuse_reply_buf(job->request, (const char *)m->mapped + (size - left), length);
}

static void *replier(void *arg)
{
	medium *m = arg;
	read_job job;

	while (queue_take(&m->queue, &job))
		answer(m, &job);
	return NULL;
}

/* ---- the file system ---- */

static void fill_stat(const medium *m, fuse_ino_t inode, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = inode;
	st->st_nlink = 1;
	if (inode == FILE_INODE) {
		st->st_mode = S_IFREG | 0444;
		st->st_size = m->st.st_size;
		return;
	}
	st->st_mode = S_IFDIR | 0555;
}

static void on_init(void *user, struct fuse_conn_info *connection)
{
	const medium *m = user;

	if (connection->capable & FUSE_CAP_ASYNC_DIO)
		connection->want |= FUSE_CAP_ASYNC_DIO;
	connection->max_background = m->model.options.background;
	connection->congestion_threshold = m->model.options.background;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.attr_timeout = 60, .entry_timeout = 60};

	if (parent != FUSE_ROOT_ID || strcmp(name, FILE_NAME)) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	entry.ino = FILE_INODE;
	fill_stat(fuse_req_userdata(request), FILE_INODE, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	struct stat st;

	(void)info;
	if (inode != FUSE_ROOT_ID && inode != FILE_INODE) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	fill_stat(fuse_req_userdata(request), inode, &st);
	fuse_reply_attr(request, &st, 60);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	if (inode != FILE_INODE) {
		fuse_reply_err(request, EISDIR);
		return;
	}
	/* No memory pages in between: every read comes here. */
	info->direct_io = 1;
	fuse_reply_open(request, info);
}

static void log_read(medium *m, uint64_t now, const read_job *job)
{
	if (!m->log)
		return;
	if (!m->log_start)
		m->log_start = now;
	fprintf(m->log, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %zu\n", (now - m->log_start) / 1000,
		(job->due - m->log_start) / 1000, job->offset, job->length);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset,
		    struct fuse_file_info *info)
{
	medium *m = fuse_req_userdata(request);
	read_job job = {.request = request, .offset = (uint64_t)offset, .length = length};
	uint64_t now = now_ns();

	(void)inode;
	(void)info;
	job.due = model_due(&m->model, now, length);
	job.fail = model_fails(&m->model);
	m->reads++;
	m->bytes += length;
	m->failed += job.fail;
	if (model_stalls(&m->model)) {
		job.due += m->model.options.stall_ns;
		m->stalled++;
	}
	log_read(m, now, &job);
	if (!queue_put(&m->queue, &job))
		fuse_reply_err(request, EIO);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
};

/* ---- the program ---- */

/* A medium does not wait for a processor: root gets ahead of all other threads,
 * and timers are exact. Threads that are started later inherit both. */
static void become_prompt(void)
{
	const struct sched_param param = {.sched_priority = 1};

	prctl(PR_SET_TIMERSLACK, 1);
	sched_setscheduler(0, SCHED_FIFO, &param);
}

static bool map_backing(medium *m, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *bytes = MAP_FAILED;

	if (fd >= 0 && fstat(fd, &m->st) == 0)
		bytes = mmap(NULL, (size_t)m->st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		perror(path);
	if (fd >= 0)
		close(fd);
	m->mapped = bytes;
	return bytes != MAP_FAILED;
}

static bool open_log(medium *m)
{
	const char *path = m->model.options.log_path;

	m->log = path ? fopen(path, "we") : NULL;
	if (path && !m->log)
		perror(path);
	return !path || m->log;
}

static int serve(medium *m, const char *mountpoint)
{
	char *argv[] = {(char *)"slowfile", (char *)"-oro,fsname=slowfile"};
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_session *session = fuse_session_new(&args, &operations, sizeof(operations), m);
	pthread_t repliers[REPLIERS];
	int err = 1;

	if (!session)
		return 1;
	if (fuse_set_signal_handlers(session) || fuse_session_mount(session, mountpoint))
		goto end;
	for (int i = 0; i < REPLIERS; i++)
		pthread_create(&repliers[i], NULL, replier, m);
	err = fuse_session_loop(session);
	queue_close(&m->queue);
	for (int i = 0; i < REPLIERS; i++)
		pthread_join(repliers[i], NULL);
	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
end:
	fuse_session_destroy(session);
	return err < 0 || err == 1;
}

static int usage(void)
{
	fputs("usage: slowfile [--channels N] [--latency-us N] [--mbps N] [--stall FILE]\n"
	      "                [--stall-ms N] [--eio PERCENT] [--background N] [--seed N]\n"
	      "                [--log FILE] BACKING MOUNTPOINT\n",
	      stderr);
	return 2;
}

static bool parse(int argc, char **argv, model_options *o)
{
	static const struct option table[] = {
	    {"channels", required_argument, NULL, 'c'},
	    {"latency-us", required_argument, NULL, 'l'},
	    {"mbps", required_argument, NULL, 'm'},
	    {"stall", required_argument, NULL, 's'},
	    {"stall-ms", required_argument, NULL, 't'},
	    {"eio", required_argument, NULL, 'e'},
	    {"background", required_argument, NULL, 'b'},
	    {"seed", required_argument, NULL, 'r'},
	    {"log", required_argument, NULL, 'g'},
	    {NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (option == 'c')
			o->channels = (unsigned)number;
		else if (option == 'l')
			o->latency_ns = number * 1000;
		else if (option == 'm')
			o->mbps = number;
		else if (option == 's')
			o->stall_path = optarg;
		else if (option == 't')
			o->stall_ns = number * 1000000;
		else if (option == 'e')
			o->eio_percent = (unsigned)number;
		else if (option == 'b')
			o->background = (unsigned)number;
		else if (option == 'r')
			o->seed = number;
		else if (option == 'g')
			o->log_path = optarg;
		else
			return false;
	}
	return argc - optind == 2 && o->channels >= 1 && o->channels <= CHANNELS_MAX;
}

int main(int argc, char **argv)
{
	static medium m;
	int err;

	m.model.options =
	    (model_options){.channels = 64, .stall_ns = 5 * SECOND, .background = 64, .seed = 1};
	if (!parse(argc, argv, &m.model.options))
		return usage();
	m.model.state = (m.model.options.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	if (!map_backing(&m, argv[optind]) || !open_log(&m))
		return 1;
	become_prompt();
	queue_init(&m.queue);
	err = serve(&m, argv[optind + 1]);
	printf("reads %" PRIu64 " bytes %" PRIu64 " failed %" PRIu64 " stalled %" PRIu64 "\n",
	       m.reads, m.bytes, m.failed, m.stalled);
	if (m.log && fclose(m.log) != 0)
		err = 1;
	return err;
}

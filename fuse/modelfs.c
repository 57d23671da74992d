/*
 * modelfs: mounts a container.
 *
 * Everything that can fail does so before the shell gets its prompt back: the
 * container is opened first; then a child starts threads, mounts, and tells its
 * waiting parent through a pipe when the kernel has accepted the mount, or why
 * there is none.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tools/common.h"
#include "connection.h"
#include "log.h"
#include "ops.h"
#include "options.h"
#include "readahead.h"

#define TICK_MS	    100
#define CLOSE_TICKS 10 /* how long reads under way may hold up the end */

typedef struct {
	options options;
	mount_state state;
	char *mountpoint; /* absolute: the daemon leaves its directory */
	char *path;	  /* of the container, absolute */
	struct fuse_session *session;
	int report_fd; /* to the waiting parent; -1 in the foreground */
	bool ready;    /* the kernel has accepted the mount */
} modelfs;

/* ---- messages on the way up ---- */

/* libfuse and fusermount3 print their reasons to stderr. While they work it is
 * a file in memory, so that one line of ours can say what they found. */
typedef struct {
	int memory, saved;
} capture;

static void capture_start(capture *c)
{
	fflush(stderr);
	c->saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	c->memory = memfd_create("modelfs-messages", MFD_CLOEXEC);
	if (c->saved >= 0 && c->memory >= 0)
		dup2(c->memory, STDERR_FILENO);
}

/* Puts stderr back; the first line that was printed goes to `out`, without the
 * name of the program that printed it. */
static void capture_end(capture *c, char *out, size_t size)
{
	static const char *const prefixes[] = {"fuse: ", "fusermount3: "};
	ssize_t got = 0;

	fflush(stderr);
	if (c->memory >= 0) {
		got = pread(c->memory, out, size - 1, 0);
		close(c->memory);
	}
	if (c->saved >= 0) {
		dup2(c->saved, STDERR_FILENO);
		close(c->saved);
	}
	out[got > 0 ? got : 0] = '\0';
	out[strcspn(out, "\n")] = '\0';
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		size_t length = strlen(prefixes[i]);

		if (strncmp(out, prefixes[i], length) == 0)
			memmove(out, out + length, strlen(out + length) + 1);
	}
}

/* Says why there is no mount: to the shell, through the parent if there is one. */
static void report_failure(const modelfs *m, const char *reason)
{
	if (m->report_fd < 0)
		tool_error("%s", reason);
	else if (write(m->report_fd, reason, strlen(reason)) < 0)
		return; /* the parent is gone: nobody to tell */
}

static void report_mount_failure(const modelfs *m, const char *reason)
{
	char text[1024];

	snprintf(text, sizeof(text), "%s: cannot mount on %s: %s", m->options.container,
		 m->mountpoint, reason[0] ? reason : "libfuse gives no reason");
	report_failure(m, text);
}

/* ---- signals ---- */

static struct fuse_session *signal_session;
static volatile sig_atomic_t closing, ticks;

static void start_ticking(void)
{
	const struct timeval tick = {0, TICK_MS * 1000};
	const struct itimerval timer = {tick, tick};

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* The ticks that follow wake the main thread again, in case the signal came
 * between its look at the session's flag and its falling asleep. */
static void on_stop(int signal)
{
	(void)signal;
	fuse_session_exit(signal_session);
	start_ticking();
}

/* Once unmounted, nobody can see what a stalled medium still holds up. */
static void on_tick(int signal)
{
	(void)signal;
	if (closing && ++ticks >= CLOSE_TICKS)
		_exit(TOOL_OK);
}

static const int stop_signals[] = {SIGHUP, SIGINT, SIGTERM};

/* Blocks what only the main thread may receive; threads inherit that. */
static void block_signals(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	for (size_t i = 0; i < sizeof(stop_signals) / sizeof(stop_signals[0]); i++)
		sigaddset(&set, stop_signals[i]);
	pthread_sigmask(how, &set, NULL);
}

static void catch_signals(struct fuse_session *session)
{
	struct sigaction stop = {.sa_handler = on_stop}; /* no SA_RESTART: calls must return */
	struct sigaction tick = {.sa_handler = on_tick};
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	signal_session = session;
	for (size_t i = 0; i < sizeof(stop_signals) / sizeof(stop_signals[0]); i++)
		sigaction(stop_signals[i], &stop, NULL);
	sigaction(SIGALRM, &tick, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
}

/* From here on the end is near anyway. */
static void start_closing(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct sigaction tick = {.sa_handler = on_tick, .sa_flags = SA_RESTART};

	for (size_t i = 0; i < sizeof(stop_signals) / sizeof(stop_signals[0]); i++)
		sigaction(stop_signals[i], &ignore, NULL);
	sigaction(SIGALRM, &tick, NULL);
	closing = 1;
	start_ticking();
}

/* ---- serving ---- */

/* Called from op_init(): requests are being answered now. */
static void tell_ready(void *user)
{
	modelfs *m = user;

	m->ready = true;
	if (m->report_fd < 0)
		return;
	if (write(m->report_fd, "", 1) < 0)
		tool_error("%s: nobody waits for the mount", m->options.container);
	close(m->report_fd);
	m->report_fd = -1;
}

static int run_loop(modelfs *m)
{
	return m->options.single ? fuse_session_loop(m->session) : connection_serve(m->session);
}

static int start_threads(modelfs *m)
{
	mfs_problem why = {0};
	int err = worker_start(&m->state.worker);

	if (err) {
		report_mount_failure(m, strerror(err));
		return -1;
	}
	err = mfs_start(m->state.container, &why);
	if (err < 0) {
		char text[sizeof(why.text) + 256];

		tool_problem_text(text, sizeof(text), m->options.container, err, &why);
		report_failure(m, text);
		return -1;
	}
	return 0;
}

static unsigned read_ahead_of(const modelfs *m)
{
	mfs_medium medium = {.size = sizeof(medium)};

	if (m->options.read_ahead_kb >= 0)
		return (unsigned)m->options.read_ahead_kb;
	mfs_medium_get(m->state.container, &medium);
	return medium.read_ahead_bytes / 1024;
}

/* The kernel waits for the answer to its first request, so what is set now holds
 * from the first read on. Less read-ahead is slower and nothing else. */
static void set_read_ahead(modelfs *m)
{
	unsigned kilobytes = read_ahead_of(m);
	int err = ENOENT;

	if (readahead_device(m->mountpoint, m->state.device, sizeof(m->state.device)) && kilobytes)
		err = readahead_set(m->state.device, kilobytes);
	if (!err)
		m->state.read_ahead_bytes = kilobytes * 1024;
	else if (kilobytes && m->options.debug)
		tool_error("%s: read_ahead_kb stays as it is: %s", m->mountpoint, strerror(err));
}

static int mount_session(modelfs *m)
{
	capture messages;
	char reason[512];
	int err;

	capture_start(&messages);
	err = fuse_session_mount(m->session, m->mountpoint);
	capture_end(&messages, reason, sizeof(reason));
	if (err) {
		report_mount_failure(m, reason);
		return err;
	}
	log_start(m->state.worker, m->report_fd >= 0);
	set_read_ahead(m);
	return 0;
}

/* Whoever waits for the trace sees all of it or none. */
static int save_trace(modelfs *m)
{
	mfs_problem why = {0};

	if (!m->options.record || mfs_trace_save(m->state.container, m->options.record, &why) == 0)
		return 0;
	log_message(why.text);
	return -1;
}

/* Mounts, answers until it is over, unmounts. Returns the exit code. */
static int serve(modelfs *m)
{
	bool mounted = false;
	int result = -1;

	block_signals(SIG_BLOCK);
	if (start_threads(m) == 0) {
		catch_signals(m->session);
		block_signals(SIG_UNBLOCK);
		mounted = mount_session(m) == 0;
	}
	if (mounted) {
		result = run_loop(m);
		if (!m->ready && result < 0)
			report_mount_failure(m, "the kernel did not accept the mount");
		ops_stop_replies(&m->state);
		fuse_session_unmount(m->session);
		if (save_trace(m) < 0)
			result = -1;
	}
	start_closing();
	block_signals(SIG_UNBLOCK);
	log_stop();
	worker_stop(m->state.worker);
	mfs_close(m->state.container);
	m->state.container = NULL;
	stats_handles_end(&m->state.stats);
	return result < 0 ? TOOL_FAILED : TOOL_OK;
}

/* ---- the background ---- */

static int leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || setsid() < 0 || chdir("/") < 0)
		return -1;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	return 0;
}

/* Waits for the daemon's report: a byte 0, or the reason why there is no mount. */
static int await_daemon(const modelfs *m, int fd)
{
	char text[1024];
	size_t used = 0;
	ssize_t got;

	while ((got = read(fd, text + used, sizeof(text) - 1 - used)) > 0 ||
	       (got < 0 && errno == EINTR))
		used += got > 0 ? (size_t)got : 0;
	close(fd);
	text[used] = '\0';
	if (used == 1 && text[0] == '\0')
		return TOOL_OK;
	if (used)
		tool_error("%s", text);
	else
		tool_error("%s: the daemon ended before it was mounted", m->options.container);
	return TOOL_FAILED;
}

static int serve_in_background(modelfs *m)
{
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0 || (child = fork()) < 0) {
		report_mount_failure(m, strerror(errno));
		return TOOL_FAILED;
	}
	if (child) {
		close(ends[1]);
		return await_daemon(m, ends[0]);
	}
	close(ends[0]);
	m->report_fd = ends[1];
	if (leave_terminal() < 0) {
		report_mount_failure(m, strerror(errno));
		return TOOL_FAILED;
	}
	return serve(m);
}

/* ---- before anything is started ---- */

static int open_container(modelfs *m)
{
	mfs_problem why = {0};
	int err = mfs_open(&m->state.container, m->options.container, &m->options.open, &why);

	if (err < 0) {
		tool_problem(m->options.container, err, &why);
		return TOOL_FAILED;
	}
	m->path = realpath(m->options.container, NULL);
	err = tree_build(&m->state.tree, m->state.container);
	if (err < 0) {
		tool_error("%s: %s", m->options.container, mfs_error_text(err));
		return TOOL_FAILED;
	}
	return 0;
}

/* What a daemon that was killed leaves behind can be neither used nor removed. */
static const char *mountpoint_hint(int error)
{
	return error == ENOTCONN ? " (a daemon ended there without unmounting: fusermount3 -u)"
				 : "";
}

static int check_mountpoint(modelfs *m)
{
	struct stat st;

	m->mountpoint = realpath(m->options.mountpoint, NULL);
	if (!m->mountpoint || stat(m->mountpoint, &st) < 0) {
		int error = errno;

		tool_error("%s: mount point %s: %s%s", m->options.container, m->options.mountpoint,
			   strerror(error), mountpoint_hint(error));
		return TOOL_FAILED;
	}
	if (!S_ISDIR(st.st_mode)) {
		tool_error("%s: mount point %s: %s", m->options.container, m->options.mountpoint,
			   strerror(ENOTDIR));
		return TOOL_FAILED;
	}
	return 0;
}

/* libfuse looks at the options that are left: what it does not know is misuse. */
static int make_session(modelfs *m)
{
	capture messages;
	char reason[512];

	capture_start(&messages);
	m->session = fuse_session_new(&m->options.args, &ops_table, sizeof(ops_table), &m->state);
	capture_end(&messages, reason, sizeof(reason));
	if (!m->session)
		return tool_misuse("%s", reason[0] ? reason : "libfuse refuses the options");
	return 0;
}

static int run(modelfs *m)
{
	struct timespec t;
	int err = make_session(m);

	if (!err)
		err = open_container(m);
	if (!err)
		err = check_mountpoint(m);
	if (err)
		return err;
	clock_gettime(CLOCK_MONOTONIC, &t);
	m->state.path = m->path ? m->path : m->options.container;
	m->state.uid = getuid();
	m->state.gid = getgid();
	m->state.started = t.tv_sec;
	m->state.ready = tell_ready;
	m->state.ready_user = m;
	return m->options.foreground ? serve(m) : serve_in_background(m);
}

int main(int argc, char *argv[])
{
	modelfs m = {.report_fd = -1,
		     .state.stats.lock = PTHREAD_MUTEX_INITIALIZER,
		     .state.ending = PTHREAD_RWLOCK_INITIALIZER};
	int code;

	tool_start("modelfs");
	code = options_parse(&m.options, argc, argv);
	if (!code && m.options.help) {
		options_print_help();
		code = tool_finish(TOOL_OK);
	} else if (!code && m.options.version) {
		code = tool_print_version();
	} else if (!code) {
		code = run(&m);
	}
	if (m.session)
		fuse_session_destroy(m.session);
	mfs_close(m.state.container);
	tree_free(&m.state.tree);
	options_free(&m.options);
	free(m.mountpoint);
	free(m.path);
	return code;
}

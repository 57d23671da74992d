/* Every engine reads the same bytes from a real file, direct or buffered. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io.h"

#define SIZE	 (1000 * 4096 + 512)
#define REQUESTS 300 /* more than the ring holds */
#define LENGTH	 8192u

static char path[] = "modelfs-test-io-XXXXXX";
static uint8_t *bytes;

static int make_file(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	bytes = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = (uint8_t)(i * 2654435761u >> 13);
	return fd < 0 || write(fd, bytes, SIZE) != SIZE || fsync(fd) || close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	free(bytes);
	return unlink(path);
}

static void check_request(const mfs_io_request *r)
{
	int64_t left = r->offset < SIZE ? (int64_t)(SIZE - r->offset) : 0;
	int64_t expected = left < r->length ? left : r->length;

	assert_int_equal(r->result, expected);
	assert_memory_equal(r->buffer, bytes + r->offset, (size_t)expected);
}

/* Submits REQUESTS reads all over the file and past its end, reaps them all. */
static void run_engine(const char *engine, int buffered)
{
	static mfs_io_request requests[REQUESTS];
	mfs_io_request *pointers[REQUESTS], *done[32];
	mfs_problem why = {0};
	unsigned reaped = 0;
	void *arena = NULL;
	mfs_io *io;

	assert_int_equal(posix_memalign(&arena, 4096, REQUESTS * LENGTH), 0);
	if (mfs_io_open(&io, path, engine, buffered, &why))
		fail_msg("%s", why.text);
	assert_int_equal(io->table->size(io), SIZE);
	if (buffered)
		assert_int_equal(io->direct, 0);
	if (io->table->start(io, arena, REQUESTS * LENGTH, 4)) {
		io->table->close(io);
		free(arena);
		assert_string_equal(engine, "uring"); /* the others cannot be refused */
		print_message("io_uring is refused here\n");
		skip();
		return;
	}
	assert_string_equal(io->table->name, engine);
	for (unsigned i = 0; i < REQUESTS; i++) {
		requests[i] = (mfs_io_request){.offset = (uint64_t)(i * 7 % 505) * LENGTH,
					       .length = LENGTH,
					       .buffer = (uint8_t *)arena + i * LENGTH};
		pointers[i] = &requests[i];
	}
	assert_int_equal(io->table->submit(io, pointers, REQUESTS), 0);
	while (reaped < REQUESTS) {
		int n = io->table->reap(io, done, 32);

		assert_true(n >= 0);
		for (int i = 0; i < n; i++)
			check_request(done[i]);
		reaped += (unsigned)n;
	}
	io->table->wake(io);
	assert_int_equal(io->table->reap(io, done, 32), 0);
	io->table->close(io);
	free(arena);
}

static void uring_reads_what_the_file_holds(void **state)
{
	(void)state;
	run_engine("uring", 0);
	run_engine("uring", 1);
}

static void pool_reads_what_the_file_holds(void **state)
{
	(void)state;
	run_engine("pool", 0);
	run_engine("pool", 1);
}

static void pread_reads_what_the_file_holds(void **state)
{
	(void)state;
	run_engine("pread", 0);
	run_engine("pread", 1);
}

static void unaligned_reads_before_the_start_are_served(void **state)
{
	mfs_problem why = {0};
	uint8_t buffer[10000];
	mfs_io *io;

	(void)state;
	assert_int_equal(mfs_io_open(&io, path, NULL, 0, &why), 0);
	assert_int_equal(io->table->read_at(io, 4090, buffer, 10000), 10000);
	assert_memory_equal(buffer, bytes + 4090, 10000);
	assert_int_equal(io->table->read_at(io, SIZE - 100, buffer, 10000), 100);
	assert_memory_equal(buffer, bytes + SIZE - 100, 100);
	assert_int_equal(io->table->read_at(io, SIZE + 9000, buffer, 10), 0);
	io->table->close(io);
}

static void what_is_no_file_or_device_is_refused(void **state)
{
	char fifo[] = "modelfs-test-fifo";
	mfs_problem why = {0};
	mfs_io *io;

	(void)state;
	assert_int_equal(mfs_io_open(&io, "/nonexistent", NULL, 0, &why), MFS_E_NOT_FOUND);
	assert_non_null(strstr(why.text, "/nonexistent"));
	assert_int_equal(mfs_io_open(&io, "/", NULL, 0, &why), MFS_E_SYSTEM);
	assert_int_equal(mfs_io_open(&io, path, "magic", 0, &why), MFS_E_ARGUMENT);
	unlink(fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(mfs_io_open(&io, fifo, NULL, 0, &why), MFS_E_SYSTEM);
	unlink(fifo);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(uring_reads_what_the_file_holds),
	    cmocka_unit_test(pool_reads_what_the_file_holds),
	    cmocka_unit_test(pread_reads_what_the_file_holds),
	    cmocka_unit_test(unaligned_reads_before_the_start_are_served),
	    cmocka_unit_test(what_is_no_file_or_device_is_refused),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}

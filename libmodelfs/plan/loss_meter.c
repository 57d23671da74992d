#include "loss_meter.h"

#include <stdlib.h>
#include <string.h>

#include "modelfs_error.h"

struct mfs_loss_range {
	uint64_t first, count;
	mfs_loss_sum sum;
};

void mfs_loss_meter_open(mfs_loss_meter *meter)
{
	memset(meter, 0, sizeof(*meter));
	pthread_mutex_init(&meter->lock, NULL);
}

void mfs_loss_meter_close(mfs_loss_meter *meter)
{
	pthread_mutex_destroy(&meter->lock);
	free(meter->early);
}

void mfs_loss_meter_start(mfs_loss_meter *meter)
{
	pthread_mutex_lock(&meter->lock);
	meter->running = true;
	pthread_mutex_unlock(&meter->lock);
}

void mfs_loss_sum_add(mfs_loss_sum *sum, const float *was, const float *now, size_t count)
{
	mfs_quantize_error_add(&sum->error, was, now, count);
	for (size_t i = 0; i < count; i++)
		sum->zeros += now[i] == 0;
}

void mfs_loss_sum_up(mfs_loss_sum *sum, const mfs_loss_sum *more)
{
	sum->error.squares += more->error.squares;
	sum->error.energy += more->error.energy;
	sum->error.count += more->error.count;
	if (more->error.most > sum->error.most)
		sum->error.most = more->error.most;
	sum->zeros += more->zeros;
	sum->blocks += more->blocks;
	sum->equal += more->equal;
}

/* The first early range that begins at `first` or behind it. */
static size_t early_at(const mfs_loss_meter *meter, uint64_t first)
{
	size_t low = 0, high = meter->early_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (meter->early[middle].first < first)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_counted(const mfs_loss_meter *meter, uint64_t first, size_t at)
{
	return first < meter->measured ||
	       (at < meter->early_count && meter->early[at].first == first);
}

bool mfs_loss_meter_wants(mfs_loss_meter *meter, uint64_t first, uint64_t count)
{
	bool wants;

	pthread_mutex_lock(&meter->lock);
	wants = count && meter->running && !is_counted(meter, first, early_at(meter, first));
	pthread_mutex_unlock(&meter->lock);
	return wants;
}

static int keep(mfs_loss_meter *meter, size_t at, const struct mfs_loss_range *range)
{
	if (meter->early_count == meter->early_room) {
		size_t room = meter->early_room ? 2 * meter->early_room : 64;
		struct mfs_loss_range *more = realloc(meter->early, room * sizeof(*more));

		if (!more)
			return MFS_E_MEMORY;
		meter->early = more;
		meter->early_room = room;
	}
	memmove(&meter->early[at + 1], &meter->early[at],
		(meter->early_count - at) * sizeof(*range));
	meter->early[at] = *range;
	meter->early_count++;
	return 0;
}

/* Counts the early ranges that follow what is measured. */
static void take_early(mfs_loss_meter *meter)
{
	size_t n = 0;

	for (; n < meter->early_count && meter->early[n].first == meter->measured; n++) {
		mfs_loss_sum_up(&meter->sum, &meter->early[n].sum);
		meter->measured += meter->early[n].count;
	}
	meter->early_count -= n;
	if (n)
		memmove(meter->early, meter->early + n, meter->early_count * sizeof(*meter->early));
}

int mfs_loss_meter_add(mfs_loss_meter *meter, uint64_t first, uint64_t count,
		       const mfs_loss_sum *sum)
{
	const struct mfs_loss_range range = {first, count, *sum};
	int error = 0;
	size_t at;

	pthread_mutex_lock(&meter->lock);
	at = early_at(meter, first);
	if (count && meter->running && !is_counted(meter, first, at)) {
		error = keep(meter, at, &range);
		take_early(meter);
	}
	pthread_mutex_unlock(&meter->lock);
	return error;
}

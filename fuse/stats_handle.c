#include "stats_handle.h"

#include <stdlib.h>

struct stats_handle {
	stats_handle *next, *previous;
	unsigned references;
	size_t length;
	char *text;
};

static void link_handle(stats_handles *all, stats_handle *handle)
{
	pthread_mutex_lock(&all->lock);
	handle->references = 1;
	handle->previous = NULL;
	handle->next = all->first;
	if (handle->next)
		handle->next->previous = handle;
	all->first = handle;
	pthread_mutex_unlock(&all->lock);
}

stats_handle *stats_handle_open(stats_handles *all, const stats_source *source)
{
	stats_handle *handle = malloc(sizeof(*handle));

	if (!handle)
		return NULL;
	handle->text = stats_file_make(source, &handle->length);
	if (!handle->text) {
		free(handle);
		return NULL;
	}
	link_handle(all, handle);
	return handle;
}

const char *stats_handle_hold(stats_handles *all, stats_handle *handle, size_t *length)
{
	pthread_mutex_lock(&all->lock);
	handle->references++;
	pthread_mutex_unlock(&all->lock);
	*length = handle->length;
	return handle->text;
}

void stats_handle_drop(stats_handles *all, stats_handle *handle)
{
	pthread_mutex_lock(&all->lock);
	if (--handle->references) {
		pthread_mutex_unlock(&all->lock);
		return;
	}
	if (handle->next)
		handle->next->previous = handle->previous;
	if (handle->previous)
		handle->previous->next = handle->next;
	else
		all->first = handle->next;
	pthread_mutex_unlock(&all->lock);
	free(handle->text);
	free(handle);
}

void stats_handles_end(stats_handles *all)
{
	while (all->first)
		stats_handle_drop(all, all->first);
}

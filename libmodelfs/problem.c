#include "problem.h"

#include <stdarg.h>
#include <stdio.h>

static void replace_control_characters(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

int mfs_problem_set(mfs_problem *why, int error, uint64_t offset, const char *format, ...)
{
	va_list arguments;

	if (!why)
		return error;
	why->error = error;
	why->offset = offset;
	va_start(arguments, format);
	vsnprintf(why->text, sizeof(why->text), format, arguments);
	va_end(arguments);
	replace_control_characters(why->text);
	return error;
}

int mfs_problem_about(const char *name, mfs_problem *why, int error, const char *format, ...)
{
	char text[sizeof(why->text)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return mfs_problem_set(why, error, UINT64_MAX, "%s: %s", name, text);
}

const char *mfs_error_text(int error)
{
	if (error >= 0)
		return "no error";
	switch ((mfs_error)error) {
	case MFS_E_IO:
		return "the medium failed";
	case MFS_E_MEMORY:
		return "out of memory";
	case MFS_E_SYSTEM:
		return "a call to the system failed";
	case MFS_E_MAGIC:
		return "not a modelfs container";
	case MFS_E_CORRUPT:
		return "damaged";
	case MFS_E_TRUNCATED:
		return "truncated";
	case MFS_E_UNSUPPORTED:
		return "made by a newer modelfs";
	case MFS_E_INVALID:
		return "breaks the rules of its format";
	case MFS_E_LIMIT:
		return "past a limit of the format";
	case MFS_E_ARGUMENT:
		return "invalid argument";
	case MFS_E_NOT_FOUND:
		return "not found";
	case MFS_E_EXISTS:
		return "exists already";
	case MFS_E_CANCELLED:
		return "cancelled";
	case MFS_E_BUSY:
		return "in use by another writer";
	}
	return "unknown error";
}

int mfs_problem_no_memory(mfs_problem *why)
{
	return mfs_problem_set(why, MFS_E_MEMORY, UINT64_MAX, "%s", mfs_error_text(MFS_E_MEMORY));
}

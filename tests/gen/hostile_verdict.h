/* What an importer must say to a generated file. */
#ifndef HOSTILE_VERDICT_H
#define HOSTILE_VERDICT_H

enum verdict {
	GOOD,
	INVALID,   /* breaks the rules */
	LIMIT,	   /* legal, but past a limit */
	TRUNCATED, /* shorter than it says */
	UNSUPPORTED
};

#endif

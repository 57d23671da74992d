#include "map.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define SUPERBLOCK_BYTES 4096
#define SLOT1		 65536
#define SLOT1_NOR	 4096

static const struct {
	const char *name;
	char letter;
	uint8_t back, ink; /* colours of a terminal with 256 of them */
	const char *fill;  /* in a drawing */
} look[MAP_KINDS] = {
    [MAP_SUPERBLOCK] = {"superblock", 'S', 160, 231, "#d1493f"},
    [MAP_INDEX] = {"index", 'I', 178, 16, "#d9a520"},
    [MAP_CONSTANTS] = {"constants", 'C', 37, 16, "#2aa198"},
    [MAP_WEIGHTS] = {"weights", 'W', 32, 231, "#3b82c4"},
    [MAP_PLAIN] = {"plain", 'P', 97, 231, "#8a63c9"},
    [MAP_METADATA] = {"metadata", 'M', 71, 16, "#5f9e4a"},
    [MAP_ADAPTER] = {"adapter", 'A', 168, 231, "#cc5b9a"},
    [MAP_PADDING] = {"padding", '.', 240, 231, "#9aa3ad"},
};

/* ---- what lies where ---- */

static map_kind kind_of_class(const char *cls)
{
	for (int kind = MAP_CONSTANTS; kind < MAP_PADDING; kind++)
		if (strcmp(cls, look[kind].name) == 0)
			return (map_kind)kind;
	return MAP_METADATA;
}

static void add_region(map *m, uint64_t offset, uint64_t size, map_kind kind, uint32_t chunk)
{
	if (m->regions == m->room) {
		m->room = m->room ? 2 * m->room : 256;
		m->region = tool_grow(m->region, m->room, sizeof(*m->region));
	}
	m->region[m->regions++] = (map_region){offset, size, kind, chunk};
}

static void add_superblocks(map *m)
{
	uint64_t end = m->info.container_bytes;
	uint64_t slot1 = m->info.profile == MFS_PROFILE_NOR ? SLOT1_NOR : SLOT1;

	add_region(m, 0, SUPERBLOCK_BYTES, MAP_SUPERBLOCK, MAP_NO_CHUNK);
	if (end >= slot1 + 2 * SUPERBLOCK_BYTES)
		add_region(m, slot1, SUPERBLOCK_BYTES, MAP_SUPERBLOCK, MAP_NO_CHUNK);
	if (end >= 2 * SUPERBLOCK_BYTES)
		add_region(m, end - SUPERBLOCK_BYTES, SUPERBLOCK_BYTES, MAP_SUPERBLOCK,
			   MAP_NO_CHUNK);
}

static int add_chunks(map *m)
{
	for (uint32_t i = 0; i < m->info.chunks; i++) {
		mfs_chunk_info chunk = {.size = sizeof(chunk)};
		int err = mfs_chunk_get(m->container, i, &chunk);

		if (err < 0)
			return err;
		add_region(m, chunk.offset, chunk.stored_bytes, kind_of_class(chunk.cls), i);
	}
	return 0;
}

static int compare_regions(const void *a, const void *b)
{
	const map_region *left = a, *right = b;

	return (left->offset > right->offset) - (left->offset < right->offset);
}

/* Splits a gap into index and padding: `budget` index bytes are still to come. */
static void fill_gap(map *m, uint64_t offset, uint64_t size, uint64_t *budget)
{
	uint64_t index = size < *budget ? size : *budget;

	if (index)
		add_region(m, offset, index, MAP_INDEX, MAP_NO_CHUNK);
	if (size > index)
		add_region(m, offset + index, size - index, MAP_PADDING, MAP_NO_CHUNK);
	*budget -= index;
}

/* What is neither superblock nor chunk is index and padding. One copy of the
 * index comes first, the other behind the last chunk; the header tells how much
 * there is of both. */
static void fill_gaps(map *m)
{
	uint32_t known = m->regions;
	uint32_t last_chunk = 0;
	uint64_t end = m->info.container_bytes;
	uint64_t budget, at = 0;

	qsort(m->region, known, sizeof(*m->region), compare_regions);
	for (uint32_t i = 0; i < known; i++)
		if (m->region[i].chunk != MAP_NO_CHUNK)
			last_chunk = i;
	budget = last_chunk ? m->info.index_bytes / 2 : 0;
	for (uint32_t i = 0; i < known; i++) {
		map_region r = m->region[i];

		if (i == last_chunk + 1)
			budget += m->info.index_bytes - (last_chunk ? m->info.index_bytes / 2 : 0);
		if (r.offset > at)
			fill_gap(m, at, r.offset - at, &budget);
		if (r.offset + r.size > at)
			at = r.offset + r.size;
	}
	if (end > at)
		fill_gap(m, at, end - at, &budget);
	qsort(m->region, m->regions, sizeof(*m->region), compare_regions);
}

int map_build(map *out, mfs_container *container, const char *name)
{
	int err;

	*out = (map){.container = container, .name = name, .info.size = sizeof(out->info)};
	err = mfs_info(container, &out->info);
	if (err < 0)
		return err;
	add_superblocks(out);
	err = add_chunks(out);
	if (err < 0) {
		map_free(out);
		return err;
	}
	fill_gaps(out);
	for (uint32_t i = 0; i < out->regions; i++) {
		out->bytes[out->region[i].kind] += out->region[i].size;
		out->count[out->region[i].kind]++;
	}
	return 0;
}

void map_free(map *m)
{
	free(m->region);
	*m = (map){0};
}

static double percent(const map *m, map_kind kind)
{
	uint64_t total = m->info.container_bytes;

	return total ? 100.0 * (double)m->bytes[kind] / (double)total : 0;
}

/* ---- on a terminal ---- */

#define ROWS_MAX      32
#define CELL_MIN      512
#define LABEL_COLUMNS 12

/* The smallest power of two that shows the container in `rows` rows. */
static uint64_t row_bytes(const map *m, uint64_t least, uint64_t rows)
{
	while (least < m->info.container_bytes / rows + (m->info.container_bytes % rows != 0))
		least *= 2;
	return least;
}

/* What a cell shows: what most of it is; but a superblock that begins there is
 * always shown, and padding only where there is nothing else. `*first` is the
 * first region that may touch the cell and moves along. */
static map_kind cell_kind(const map *m, uint64_t start, uint64_t end, uint32_t *first)
{
	uint64_t bytes[MAP_KINDS] = {0};
	map_kind most = MAP_PADDING;

	while (*first < m->regions && m->region[*first].offset + m->region[*first].size <= start)
		++*first;
	for (uint32_t i = *first; i < m->regions && m->region[i].offset < end; i++) {
		const map_region *r = &m->region[i];
		uint64_t from = r->offset > start ? r->offset : start;
		uint64_t to = r->offset + r->size < end ? r->offset + r->size : end;

		if (r->kind == MAP_SUPERBLOCK && r->offset >= start)
			return MAP_SUPERBLOCK;
		if (to > from)
			bytes[r->kind] += to - from;
	}
	for (int kind = 0; kind < MAP_PADDING; kind++)
		if (bytes[kind] > bytes[most] || (most == MAP_PADDING && bytes[kind]))
			most = (map_kind)kind;
	return most;
}

static void print_cell(FILE *out, map_kind kind, bool colour)
{
	if (colour)
		fprintf(out, "\033[48;5;%u;38;5;%um%c", look[kind].back, look[kind].ink,
			look[kind].letter);
	else
		putc(look[kind].letter, out);
}

static void print_legend(const map *m, FILE *out, bool colour)
{
	char size[TOOL_SIZE_TEXT];

	for (int kind = 0; kind < MAP_KINDS; kind++) {
		if (!m->count[kind])
			continue;
		fputs("  ", out);
		print_cell(out, (map_kind)kind, colour);
		fprintf(out, "%s %-10s %10s %6.2f %%", colour ? "\033[0m" : "", look[kind].name,
			tool_size(size, m->bytes[kind]), percent(m, (map_kind)kind));
		if (kind >= MAP_CONSTANTS && kind <= MAP_ADAPTER)
			fprintf(out, "  %" PRIu32 " %s", m->count[kind],
				m->count[kind] == 1 ? "chunk" : "chunks");
		putc('\n', out);
	}
}

void map_print(const map *m, FILE *out, unsigned columns, bool colour)
{
	unsigned cells = columns >= 128 + LABEL_COLUMNS	 ? 128
			 : columns >= 64 + LABEL_COLUMNS ? 64
							 : 32;
	uint64_t row = row_bytes(m, (uint64_t)cells * CELL_MIN, ROWS_MAX);
	uint64_t end = m->info.container_bytes;
	char size[TOOL_SIZE_TEXT];
	char *name = tool_clean(m->name);
	uint32_t first = 0;

	fprintf(out, "%s, %s", name, tool_size(size, end));
	fprintf(out, ", a cell is %s\n\n", tool_size(size, row / cells));
	free(name);
	for (uint64_t at = 0; at < end; at += row) {
		fprintf(out, "%*s  ", LABEL_COLUMNS - 2, tool_size(size, at));
		for (unsigned i = 0; i < cells && at + i * (row / cells) < end; i++) {
			uint64_t start = at + i * (row / cells);

			print_cell(out, cell_kind(m, start, start + row / cells, &first), colour);
		}
		fprintf(out, "%s\n", colour ? "\033[0m" : "");
	}
	putc('\n', out);
	print_legend(m, out, colour);
}

/* ---- as a drawing ---- */

#define SVG_WIDTH   1000
#define SVG_LEFT    96
#define SVG_BAR	    (SVG_WIDTH - SVG_LEFT - 24) /* units that a row is long */
#define SVG_TOP	    128
#define SVG_ROW	    22
#define SVG_ROW_BAR 16
#define SVG_ROWS    40
#define SVG_NARROW  2.0 /* what is narrower is drawn together with its neighbours */

typedef struct {
	const map *map;
	FILE *out;
	uint64_t row;	    /* bytes of a row */
	uint64_t row_start; /* of the row being drawn */
	double y;
	/* Narrow regions that wait to be drawn as one. */
	uint64_t narrow_start, narrow_end, narrow_bytes[MAP_KINDS];
	uint32_t narrow_count;
} drawing;

static void print_escaped(FILE *out, const char *text)
{
	char *clean = tool_clean(text);

	for (const char *c = clean; *c; c++) {
		switch (*c) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		default:
			putc(*c, out);
		}
	}
	free(clean);
}

/* Begins a rectangle for bytes [start, end) of the row; its title follows. */
static void open_rectangle(const drawing *d, uint64_t start, uint64_t end, map_kind kind)
{
	double scale = (double)SVG_BAR / (double)d->row;
	double x = SVG_LEFT + (double)(start - d->row_start) * scale;
	double width = (double)(end - start) * scale;

	/* A hairline keeps neighbouring chunks apart. */
	if (width > 4)
		width -= 0.6;
	else if (width < 0.8)
		width = 0.8;
	fprintf(d->out,
		"<rect class=\"%c\" x=\"%.2f\" y=\"%.0f\" width=\"%.2f\" height=\"%d\"><title>",
		look[kind].letter == '.' ? 'N' : look[kind].letter, x, d->y, width, SVG_ROW_BAR);
}

static void close_rectangle(const drawing *d)
{
	fputs("</title></rect>\n", d->out);
}

static void describe_region(const drawing *d, const map_region *r)
{
	mfs_chunk_info chunk = {.size = sizeof(chunk)};
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT];

	if (r->chunk == MAP_NO_CHUNK || mfs_chunk_get(d->map->container, r->chunk, &chunk) < 0) {
		fprintf(d->out, "%s: %s at 0x%" PRIx64, look[r->kind].name, tool_size(a, r->size),
			r->offset);
		return;
	}
	fprintf(d->out,
		"chunk %" PRIu32 " at 0x%" PRIx64 ": %s, %s, %" PRIu32
		" frames, %s stored, %s decoded",
		r->chunk, r->offset, chunk.cls, chunk.codec, chunk.frames,
		tool_size(a, chunk.stored_bytes), tool_size(b, chunk.decoded_bytes));
}

static void draw_narrow(drawing *d)
{
	map_kind most = MAP_PADDING;
	char size[TOOL_SIZE_TEXT];

	if (!d->narrow_count)
		return;
	for (int kind = 0; kind < MAP_PADDING; kind++)
		if (d->narrow_bytes[kind] > d->narrow_bytes[most] ||
		    (most == MAP_PADDING && d->narrow_bytes[kind]))
			most = (map_kind)kind;
	open_rectangle(d, d->narrow_start, d->narrow_end, most);
	fprintf(d->out, "0x%" PRIx64 ":", d->narrow_start);
	for (int kind = 0; kind < MAP_KINDS; kind++)
		if (d->narrow_bytes[kind])
			fprintf(d->out, " %s %s", look[kind].name,
				tool_size(size, d->narrow_bytes[kind]));
	close_rectangle(d);
	memset(d->narrow_bytes, 0, sizeof(d->narrow_bytes));
	d->narrow_count = 0;
}

/* Draws the part [start, end) of a region that lies in the row. */
static void draw_part(drawing *d, const map_region *r, uint64_t start, uint64_t end)
{
	double scale = (double)SVG_BAR / (double)d->row;

	if ((double)(end - start) * scale >= SVG_NARROW) {
		draw_narrow(d);
		open_rectangle(d, start, end, r->kind);
		describe_region(d, r);
		close_rectangle(d);
		return;
	}
	if (!d->narrow_count)
		d->narrow_start = start;
	d->narrow_count++;
	d->narrow_end = end;
	d->narrow_bytes[r->kind] += end - start;
	if ((double)(d->narrow_end - d->narrow_start) * scale >= SVG_NARROW)
		draw_narrow(d);
}

static void draw_rows(drawing *d)
{
	const map *m = d->map;
	uint32_t first = 0;
	char size[TOOL_SIZE_TEXT];

	d->y = SVG_TOP;
	for (d->row_start = 0; d->row_start < m->info.container_bytes; d->row_start += d->row) {
		uint64_t row_end = d->row_start + d->row;

		fprintf(
		    d->out,
		    "<text class=\"t small\" x=\"%d\" y=\"%.0f\" text-anchor=\"end\">%s</text>\n",
		    SVG_LEFT - 8, d->y + 12, tool_size(size, d->row_start));
		while (first < m->regions &&
		       m->region[first].offset + m->region[first].size <= d->row_start)
			first++;
		for (uint32_t i = first; i < m->regions && m->region[i].offset < row_end; i++) {
			const map_region *r = &m->region[i];
			uint64_t start = r->offset > d->row_start ? r->offset : d->row_start;
			uint64_t end =
			    r->offset + r->size < row_end ? r->offset + r->size : row_end;

			if (end > start)
				draw_part(d, r, start, end);
		}
		draw_narrow(d);
		d->y += SVG_ROW;
	}
}

static void draw_style(FILE *out)
{
	fputs("<style>\n"
	      ".b{fill:#ffffff}.t{fill:#1f2328;font-family:system-ui,sans-serif;font-size:13px}\n"
	      ".small{font-size:11px}.big{font-size:17px;font-weight:600}.g{stroke:#8b949e}\n",
	      out);
	for (int kind = 0; kind < MAP_KINDS; kind++)
		fprintf(out, ".%c{fill:%s}\n", kind == MAP_PADDING ? 'N' : look[kind].letter,
			look[kind].fill);
	fputs("@media (prefers-color-scheme:dark){.b{fill:#0d1117}.t{fill:#e6edf3}}\n"
	      "</style>\n",
	      out);
}

static void draw_head(const map *m, FILE *out)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];

	fputs("<text class=\"t big\" x=\"24\" y=\"34\">", out);
	print_escaped(out, m->name);
	fprintf(out,
		"</text>\n<text class=\"t\" x=\"24\" y=\"55\">%s of files in %s, ratio %s; "
		"%" PRIu32 " chunks, pages of %" PRIu32 " bytes</text>\n",
		tool_size(a, m->info.original_bytes), tool_size(b, m->info.container_bytes),
		tool_ratio(c, m->info.original_bytes, m->info.container_bytes), m->info.chunks,
		m->info.page_bytes);
}

static void draw_legend(const map *m, FILE *out)
{
	char size[TOOL_SIZE_TEXT];
	unsigned place = 0;

	for (int kind = 0; kind < MAP_KINDS; kind++) {
		unsigned x = 24 + place % 4 * 240;
		unsigned y = 78 + place / 4 * 20;

		if (!m->count[kind])
			continue;
		fprintf(out,
			"<rect class=\"%c\" x=\"%u\" y=\"%u\" width=\"12\" height=\"12\" rx=\"2\"/>"
			"<text class=\"t small\" x=\"%u\" y=\"%u\">%s %s (%.2f %%)</text>\n",
			kind == MAP_PADDING ? 'N' : look[kind].letter, x, y - 10, x + 18, y,
			look[kind].name, tool_size(size, m->bytes[kind]),
			percent(m, (map_kind)kind));
		place++;
	}
}

/* A ruler under the rows: what a row and its quarters measure. */
static void draw_scale(const drawing *d)
{
	char size[TOOL_SIZE_TEXT];

	fprintf(d->out, "<path class=\"g\" d=\"M%d %.0fh%d\"/>\n", SVG_LEFT, d->y + 6, SVG_BAR);
	for (int i = 0; i <= 4; i++) {
		double x = SVG_LEFT + SVG_BAR * i / 4.0;

		fprintf(d->out,
			"<path class=\"g\" d=\"M%.1f %.0fv6\"/><text class=\"t small\" x=\"%.1f\" "
			"y=\"%.0f\" text-anchor=\"%s\">+%s</text>\n",
			x, d->y + 3, x, d->y + 22, i == 4 ? "end" : "middle",
			tool_size(size, d->row / 4 * (uint64_t)i));
	}
}

void map_print_svg(const map *m, FILE *out)
{
	drawing d = {.map = m, .out = out, .row = row_bytes(m, 65536, SVG_ROWS)};
	uint64_t rows = m->info.container_bytes / d.row + (m->info.container_bytes % d.row != 0);
	unsigned height = SVG_TOP + (unsigned)rows * SVG_ROW + 40;

	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"%d\" height=\"%u\" "
		"viewBox=\"0 0 %d %u\">\n<title>Layout of ",
		SVG_WIDTH, height, SVG_WIDTH, height);
	print_escaped(out, m->name);
	fputs("</title>\n", out);
	draw_style(out);
	fprintf(out, "<rect class=\"b\" width=\"%d\" height=\"%u\"/>\n", SVG_WIDTH, height);
	draw_head(m, out);
	draw_legend(m, out);
	draw_rows(&d);
	draw_scale(&d);
	fputs("</svg>\n", out);
}

#include "medium.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Loop devices, mappings and RAIDs lie on each other; nobody builds more. */
#define NESTING_MAX 8

/* ---- how each kind is queued: the one table ---- */

static const struct {
	const char *name;
	mfs_profile_id like; /* requests as large as this profile's */
	uint32_t depth;
	uint32_t queue_depth; /* with a command queue */
} kinds[MEDIUM_KINDS] = {
    [MEDIUM_UNKNOWN] = {"unknown", MFS_PROFILE_SD, 2, 2},
    [MEDIUM_VIRTUAL] = {"virtual", MFS_PROFILE_SATA, 8, 8},
    [MEDIUM_NETWORK] = {"network", MFS_PROFILE_SD, 8, 8},
    [MEDIUM_FUSE] = {"fuse", MFS_PROFILE_SD, 4, 4},
    [MEDIUM_SD] = {"sd", MFS_PROFILE_SD, 2, 8},
    [MEDIUM_EMMC] = {"emmc", MFS_PROFILE_EMMC, 2, 8},
    /* A stick does one thing at a time; the next request waits in the kernel. */
    [MEDIUM_USB] = {"usb", MFS_PROFILE_USB, 2, 2},
    [MEDIUM_UAS] = {"uas", MFS_PROFILE_SATA, 8, 8},
    [MEDIUM_SSD] = {"ssd", MFS_PROFILE_SATA, 8, 8},
    [MEDIUM_HDD] = {"hdd", MFS_PROFILE_SD, 4, 4},
    [MEDIUM_NVME] = {"nvme", MFS_PROFILE_NVME, 8, 8},
    [MEDIUM_NAND] = {"nand", MFS_PROFILE_NAND, 1, 1},
    [MEDIUM_NOR] = {"nor", MFS_PROFILE_NOR, 1, 1},
    [MEDIUM_MEMORY] = {"memory", MFS_PROFILE_NVME, 4, 4},
};

/* Small windows would let the decoders run dry between two requests. */
#define WINDOW_MIN (8u << 20)

/* Media that want requests this long are as fast as decoders: there fewer, longer READs
 * are worth more than what they bring in vain. */
#define FAST_REQUEST	   (2u << 20)
#define MIXTURE_READ_AHEAD (256u << 10)

static uint64_t window_of(uint32_t request_bytes, uint32_t depth)
{
	uint64_t window = 3 * (uint64_t)request_bytes * depth;

	return window < WINDOW_MIN ? WINDOW_MIN : window;
}

static medium_queue make_queue(const char *name, uint32_t request_bytes, uint32_t depth)
{
	return (medium_queue){
	    .name = name,
	    .request_bytes = request_bytes,
	    .depth = depth,
	    .window_bytes = window_of(request_bytes, depth),
	    .mixture_read_ahead =
		request_bytes < FAST_REQUEST ? MIXTURE_READ_AHEAD : MFS_READ_AHEAD_MAX,
	};
}

void medium_queue_of_profile(medium_queue *out, const mfs_profile *profile)
{
	*out = make_queue(profile->name, profile->request_bytes, profile->depth);
}

void medium_queue_of_kind(medium_queue *out, medium_kind kind, const mfs_medium *medium)
{
	mfs_profile profile = {.size = sizeof(profile)};
	uint32_t depth = medium->command_queue ? kinds[kind].queue_depth : kinds[kind].depth;

	mfs_profile_get(kinds[kind].like, &profile);
	if (medium->members > 1)
		depth *= medium->members;
	if (depth > MEDIUM_DEPTH_MAX)
		depth = MEDIUM_DEPTH_MAX;
	*out = make_queue(kinds[kind].name, profile.request_bytes, depth);
}

/* Which kind of medium behaves like this. */
#define CACHE_LATENCY_US 12	    /* what is faster is memory, not a medium behind a bus */
#define HDD_LATENCY_US	 4000	    /* an arm that moves */
#define NVME_RATE	 700000000u /* bytes a second, more than SATA carries */
#define SERIAL_FAST_RATE 250000000u /* no card or stick that does one thing at a time */

bool medium_queue_of_probe(medium_queue *out, const mfs_medium *medium)
{
	mfs_medium one = {.members = 1};
	medium_kind kind;

	if (medium->latency_us < CACHE_LATENCY_US)
		return false;
	if (medium->bytes_per_second > NVME_RATE)
		kind = MEDIUM_NVME;
	else if (medium->channels > 2 || medium->bytes_per_second > SERIAL_FAST_RATE)
		kind = medium->latency_us >= HDD_LATENCY_US ? MEDIUM_NETWORK : MEDIUM_SSD;
	else
		kind = medium->latency_us >= HDD_LATENCY_US ? MEDIUM_HDD : MEDIUM_SD;
	medium_queue_of_kind(out, kind, &one);
	return true;
}

const char *medium_kind_name(medium_kind kind)
{
	return kinds[kind].name;
}

bool medium_is_silent(medium_kind kind)
{
	return kind <= MEDIUM_FUSE;
}

/* ---- attributes of sysfs ---- */

/* The first line of DIRECTORY/NAME without blanks at its ends. */
static bool read_text(const char *directory, const char *name, char *out, size_t size)
{
	char path[PATH_MAX];
	size_t length = 0;
	FILE *file;

	if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
		return false;
	file = fopen(path, "re");
	if (!file)
		return false;
	if (fgets(out, (int)size, file))
		length = strcspn(out, "\n");
	fclose(file);
	while (length && isspace((unsigned char)out[length - 1]))
		length--;
	out[length] = '\0';
	memmove(out, out + strspn(out, " \t"), strlen(out + strspn(out, " \t")) + 1);
	return out[0] != '\0';
}

/* -1: there is no such number. */
static long read_number(const char *directory, const char *name)
{
	char text[32], *end;
	long value;

	if (!read_text(directory, name, text, sizeof(text)))
		return -1;
	value = strtol(text, &end, 10);
	return end == text || value < 0 ? -1 : value;
}

/* True if the link DIRECTORY/NAME points to something that is called `want`. */
static bool links_to(const char *directory, const char *name, const char *want)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *slash;
	ssize_t length;

	if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
		return false;
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return false;
	target[length] = '\0';
	slash = strrchr(target, '/');
	return !strcmp(slash ? slash + 1 : target, want);
}

static bool exists(const char *directory, const char *name)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/%s", directory, name) < (int)sizeof(path) &&
	       access(path, F_OK) == 0;
}

/* What a device calls itself reaches terminals and JSON. */
static void add_model(mfs_medium *out, const char *directory, const char *attribute)
{
	char text[sizeof(out->model)];
	size_t used = strlen(out->model);

	if (!read_text(directory, attribute, text, sizeof(text)))
		return;
	for (char *c = text; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
	snprintf(out->model + used, sizeof(out->model) - used, "%s%s", used ? " " : "", text);
}

/* ---- devices ---- */

struct search {
	const medium_system *system;
	mfs_medium *out;
	unsigned nesting;
};

static medium_kind find_place(struct search *s, const medium_place *place);
static medium_kind find_disk(struct search *s, char *directory);

/* Takes the last part off a path. False when nothing would be left. */
static bool go_up(char *path)
{
	char *slash = strrchr(path, '/');

	if (!slash || slash == path)
		return false;
	*slash = '\0';
	return true;
}

/* Goes up from a disk to the USB interface that it hangs on. True if there is one. */
static bool find_usb(const struct search *s, const char *disk, bool *uas)
{
	char directory[PATH_MAX];
	long speed;

	snprintf(directory, sizeof(directory), "%s", disk);
	while (!exists(directory, "bInterfaceNumber"))
		if (!go_up(directory))
			return false;
	*uas = links_to(directory, "driver", "uas");
	/* The interface's parent is the device. */
	speed = go_up(directory) ? read_number(directory, "speed") : -1;
	s->out->usb_mbits = speed > 0 ? (uint32_t)speed : 0;
	return true;
}

static medium_kind card(struct search *s, const char *disk)
{
	char type[16];

	add_model(s->out, disk, "device/name");
	s->out->command_queue = read_number(disk, "device/cmdq_en") > 0;
	if (!read_text(disk, "device/type", type, sizeof(type)))
		return MEDIUM_UNKNOWN;
	return !strcmp(type, "SD")    ? MEDIUM_SD
	       : !strcmp(type, "MMC") ? MEDIUM_EMMC
				      : MEDIUM_UNKNOWN;
}

static medium_kind scsi(struct search *s, const char *disk)
{
	bool uas;

	add_model(s->out, disk, "device/vendor");
	add_model(s->out, disk, "device/model");
	/* By the bus first: flash behind USB says that it rotates. */
	if (find_usb(s, disk, &uas))
		return uas ? MEDIUM_UAS : MEDIUM_USB;
	if (strstr(disk, "/virtio") || strstr(disk, "/vmbus") || strstr(disk, "/VMBUS"))
		return MEDIUM_VIRTUAL;
	if (strstr(disk, "/session")) /* iSCSI */
		return MEDIUM_NETWORK;
	return s->out->rotational > 0 ? MEDIUM_HDD : MEDIUM_SSD;
}

static medium_kind nvme(struct search *s, const char *disk)
{
	char transport[16];

	add_model(s->out, disk, "device/model");
	if (read_text(disk, "device/transport", transport, sizeof(transport)) &&
	    (!strcmp(transport, "tcp") || !strcmp(transport, "rdma") || !strcmp(transport, "fc")))
		return MEDIUM_NETWORK;
	return MEDIUM_NVME;
}

static medium_kind mtd(const char *disk)
{
	char type[16];

	if (read_text(disk, "device/type", type, sizeof(type)) && !strcmp(type, "nand"))
		return MEDIUM_NAND;
	return MEDIUM_NOR;
}

/* A loop device is as its file's medium is. */
static medium_kind loop(struct search *s, const char *disk)
{
	char path[PATH_MAX];
	medium_place place;

	if (!read_text(disk, "loop/backing_file", path, sizeof(path)) ||
	    s->system->locate(path, &place))
		return MEDIUM_UNKNOWN;
	return find_place(s, &place);
}

/* The slower of two kinds: a RAID waits for it. What sysfs does not know counts
 * as slowest, and is measured. */
static medium_kind slower(medium_kind a, medium_kind b)
{
	static const uint8_t rank[MEDIUM_KINDS] = {
	    [MEDIUM_MEMORY] = 9, [MEDIUM_NVME] = 8, [MEDIUM_SSD] = 7, [MEDIUM_UAS] = 6,
	    [MEDIUM_EMMC] = 5,	 [MEDIUM_USB] = 4,  [MEDIUM_SD] = 3,  [MEDIUM_HDD] = 2,
	    [MEDIUM_NAND] = 1,	 [MEDIUM_NOR] = 1,
	};

	return rank[a] <= rank[b] ? a : b;
}

/* What lies under a mapping or a RAID. False: nothing does. */
static bool find_slaves(struct search *s, const char *disk, medium_kind *kind)
{
	char path[PATH_MAX], real[PATH_MAX];
	mfs_medium slave = *s->out;
	struct dirent *entry;
	unsigned members = 0;
	DIR *slaves;

	if (snprintf(path, sizeof(path), "%s/slaves", disk) >= (int)sizeof(path) ||
	    !(slaves = opendir(path)))
		return false;
	while ((entry = readdir(slaves))) {
		struct search below = {s->system, &slave, s->nesting + 1};
		medium_kind found;

		if (entry->d_name[0] == '.' ||
		    snprintf(path, sizeof(path), "%s/slaves/%s", disk, entry->d_name) >=
			(int)sizeof(path) ||
		    !realpath(path, real))
			continue;
		slave = (mfs_medium){.rotational = -1};
		found = find_disk(&below, real);
		if (!members || slower(found, *kind) != *kind) {
			memcpy(s->out->model, slave.model, sizeof(slave.model));
			s->out->usb_mbits = slave.usb_mbits;
			s->out->command_queue = slave.command_queue;
			*kind = found;
		}
		members += slave.members ? slave.members : 1;
	}
	closedir(slaves);
	if (members)
		s->out->members = members;
	return members != 0;
}

static medium_kind kind_by_name(struct search *s, const char *name, const char *disk)
{
	static const struct {
		const char *prefix;
		medium_kind kind;
	} rows[] = {
	    {"vd", MEDIUM_VIRTUAL},  {"xvd", MEDIUM_VIRTUAL},  {"nbd", MEDIUM_NETWORK},
	    {"rbd", MEDIUM_NETWORK}, {"drbd", MEDIUM_NETWORK}, {"zram", MEDIUM_MEMORY},
	    {"ram", MEDIUM_MEMORY},  {"pmem", MEDIUM_MEMORY},  {"ubiblock", MEDIUM_NAND},
	};

	if (!strncmp(name, "mmcblk", 6))
		return card(s, disk);
	if (!strncmp(name, "sd", 2))
		return scsi(s, disk);
	if (!strncmp(name, "nvme", 4))
		return nvme(s, disk);
	if (!strncmp(name, "mtdblock", 8))
		return mtd(disk);
	if (!strncmp(name, "loop", 4))
		return loop(s, disk);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!strncmp(name, rows[i].prefix, strlen(rows[i].prefix)))
			return rows[i].kind;
	return MEDIUM_UNKNOWN;
}

/* `directory` is a block device or a partition in sysfs, without links in it. */
static medium_kind find_disk(struct search *s, char *directory)
{
	medium_kind kind = MEDIUM_UNKNOWN;
	const char *name;
	long optimal;

	if (s->nesting > NESTING_MAX || (exists(directory, "partition") && !go_up(directory)))
		return MEDIUM_UNKNOWN;
	name = strrchr(directory, '/') + 1;
	if (!s->out->name[0])
		snprintf(s->out->name, sizeof(s->out->name), "%s", name);
	optimal = read_number(directory, "queue/optimal_io_size");
	s->out->optimal_io_bytes = optimal > 0 && optimal < INT_MAX ? (uint32_t)optimal : 0;
	s->out->rotational = (int)read_number(directory, "queue/rotational");
	s->out->members = 1;
	if (find_slaves(s, directory, &kind))
		return kind;
	return kind_by_name(s, name, directory);
}

/* ---- file systems ---- */

/* What has no block device, by the numbers of statfs(2). */
static medium_kind find_file_system(struct search *s, uint64_t type)
{
	static const struct {
		uint32_t type;
		const char *name;
		medium_kind kind;
	} rows[] = {
	    {TMPFS_MAGIC, "tmpfs", MEDIUM_MEMORY},
	    {RAMFS_MAGIC, "ramfs", MEDIUM_MEMORY},
	    {HUGETLBFS_MAGIC, "hugetlbfs", MEDIUM_MEMORY},
	    {NFS_SUPER_MAGIC, "nfs", MEDIUM_NETWORK},
	    {SMB_SUPER_MAGIC, "smb", MEDIUM_NETWORK},
	    {0xff534d42, "cifs", MEDIUM_NETWORK},
	    {0xfe534d42, "smb2", MEDIUM_NETWORK},
	    {V9FS_MAGIC, "9p", MEDIUM_NETWORK},
	    {AFS_SUPER_MAGIC, "afs", MEDIUM_NETWORK},
	    {CODA_SUPER_MAGIC, "coda", MEDIUM_NETWORK},
	    {0x00c36400, "ceph", MEDIUM_NETWORK},
	    {0x0bd00bd0, "lustre", MEDIUM_NETWORK},
	    {FUSE_SUPER_MAGIC, "fuse", MEDIUM_FUSE},
	    {0x24051905, "ubifs", MEDIUM_NAND},
	    {JFFS2_SUPER_MAGIC, "jffs2", MEDIUM_NAND},
	    {BTRFS_SUPER_MAGIC, "btrfs", MEDIUM_UNKNOWN},
	    {OVERLAYFS_SUPER_MAGIC, "overlay", MEDIUM_UNKNOWN},
	    {0x2fc12fc1, "zfs", MEDIUM_UNKNOWN},
	    {0xca451a4e, "bcachefs", MEDIUM_UNKNOWN},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (rows[i].type != (uint32_t)type)
			continue;
		if (!s->out->name[0])
			snprintf(s->out->name, sizeof(s->out->name), "%s", rows[i].name);
		return rows[i].kind;
	}
	return MEDIUM_UNKNOWN;
}

static medium_kind find_place(struct search *s, const medium_place *place)
{
	char path[PATH_MAX], real[PATH_MAX];

	if (++s->nesting > NESTING_MAX)
		return MEDIUM_UNKNOWN;
	/* Major 0: the file system numbers itself, there is no device. */
	if (!place->major)
		return find_file_system(s, place->fs_type);
	if (snprintf(path, sizeof(path), "%s/sys/dev/block/%u:%u", s->system->sysroot, place->major,
		     place->minor) >= (int)sizeof(path) ||
	    !realpath(path, real))
		return MEDIUM_UNKNOWN;
	return find_disk(s, real);
}

medium_kind medium_find(mfs_medium *out, const medium_system *system, const medium_place *place)
{
	struct search s = {system, out, 0};
	medium_kind kind;

	*out = (mfs_medium){.size = sizeof(*out), .rotational = -1};
	kind = find_place(&s, place);
	out->kind = kinds[kind].name;
	return kind;
}

/* ---- this system ---- */

static int locate(const struct stat *st, const struct statfs *fs, medium_place *out)
{
	bool device = S_ISBLK(st->st_mode);
	dev_t number = device ? st->st_rdev : st->st_dev;

	*out = (medium_place){major(number), minor(number), device ? 0 : (uint64_t)fs->f_type};
	return 0;
}

static int locate_path(const char *path, medium_place *out)
{
	struct statfs fs;
	struct stat st;

	return stat(path, &st) || statfs(path, &fs) ? -1 : locate(&st, &fs, out);
}

static const medium_system this_system = {"", locate_path};

medium_kind medium_find_fd(mfs_medium *out, int fd)
{
	medium_place place = {0};
	struct statfs fs;
	struct stat st;

	if (!fstat(fd, &st) && !fstatfs(fd, &fs))
		locate(&st, &fs, &place);
	return medium_find(out, &this_system, &place);
}

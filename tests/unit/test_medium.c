/* Finding the medium in trees that look like /sys, and queueing for it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/magic.h>

#include "medium.h"

/* ---- a tree ---- */

static char root[64];

static int make_root(void **state)
{
	(void)state;
	strcpy(root, "/tmp/modelfs-sys-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

/* ROOT/sys/PATH with its parents made. */
static const char *in_sys(const char *path)
{
	static char full[1200];

	snprintf(full, sizeof(full), "%s/sys/%s", root, path);
	for (char *c = full + strlen(root) + 1; *c; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
		*c = '/';
	}
	return full;
}

static void put(const char *directory, const char *name, const char *text)
{
	char path[600];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(in_sys(path), "w");
	assert_non_null(file);
	fprintf(file, "%s\n", text);
	fclose(file);
}

/* DIRECTORY/NAME points to TARGET, both below sys/. */
static void put_link(const char *directory, const char *name, const char *target)
{
	char path[600], absolute[600];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	snprintf(absolute, sizeof(absolute), "%s/sys/%s", root, target);
	assert_int_equal(symlink(absolute, in_sys(path)), 0);
}

/* A disk with number MAJOR:MINOR. */
static void put_disk(const char *number, const char *directory, const char *rotational)
{
	put(directory, "queue/rotational", rotational);
	put(directory, "queue/optimal_io_size", "0");
	put_link("dev/block", number, directory);
}

static void put_partition(const char *number, const char *disk, const char *name)
{
	char directory[300];

	snprintf(directory, sizeof(directory), "%s/%s", disk, name);
	put(directory, "partition", "1");
	put_link("dev/block", number, directory);
}

/* What the file that a loop device names lies on. */
static medium_place below;

static int locate(const char *path, medium_place *out)
{
	if (strcmp(path, "/srv/with blank.img"))
		return -1;
	*out = below;
	return 0;
}

static mfs_medium found;

static const char *find(unsigned major, unsigned minor, uint64_t fs_type)
{
	medium_system system = {root, locate};
	medium_place place = {major, minor, fs_type};
	medium_kind kind = medium_find(&found, &system, &place);

	assert_string_equal(found.kind, medium_kind_name(kind));
	return found.kind;
}

#define CARD "devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"
#define USB  "devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0"
#define SCSI "host0/target0:0:0/0:0:0:0/block/sda"
#define SATA "devices/pci0000:00/0000:00:17.0/ata1/" SCSI
#define NVME "devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1"

static void put_card(const char *type)
{
	put_disk("179:0", CARD, "0");
	put(CARD, "device/type", type);
	put(CARD, "device/name", "SC64G");
	put_partition("179:2", CARD, "mmcblk0p2");
}

static void put_usb(const char *driver, const char *speed)
{
	put(USB, "bInterfaceNumber", "00");
	put_link(USB, "driver", driver);
	put("devices/pci0000:00/0000:00:14.0/usb2/2-1", "speed", speed);
	put_disk("8:0", USB "/" SCSI, "1");
	put(USB "/" SCSI, "device/vendor", "SanDisk ");
	put(USB "/" SCSI, "device/model", "Ultra Fit       ");
	put_partition("8:1", USB "/" SCSI, "sda1");
}

static void put_nvme(void)
{
	put_disk("259:0", NVME, "0");
	put(NVME, "device/model", "Samsung SSD 980");
	put(NVME, "device/transport", "pcie");
	put_partition("259:2", NVME, "nvme0n1p2");
}

/* ---- kinds ---- */

static void an_sd_card_of_a_pi_is_sd(void **state)
{
	(void)state;
	put_card("SD");
	assert_string_equal(find(179, 2, EXT4_SUPER_MAGIC), "sd");
	assert_string_equal(found.name, "mmcblk0");
	assert_string_equal(found.model, "SC64G");
	assert_int_equal(found.rotational, 0);
	assert_int_equal(found.command_queue, 0);
	assert_int_equal(found.members, 1);
	assert_int_equal(found.usb_mbits, 0);
}

static void a_command_queue_makes_a_card_deeper(void **state)
{
	medium_queue without, with;

	(void)state;
	put_card("SD");
	find(179, 0, 0);
	medium_queue_of_kind(&without, MEDIUM_SD, &found);
	put(CARD, "device/cmdq_en", "1");
	find(179, 0, 0);
	assert_int_equal(found.command_queue, 1);
	medium_queue_of_kind(&with, MEDIUM_SD, &found);
	assert_int_equal(without.depth, 2);
	assert_int_equal(with.depth, 8);
	assert_int_equal(with.request_bytes, without.request_bytes);
	assert_true(with.window_bytes > without.window_bytes);
}

static void soldered_flash_is_emmc(void **state)
{
	(void)state;
	put_card("MMC");
	assert_string_equal(find(179, 2, 0), "emmc");
}

static void a_card_of_an_unknown_type_is_not_guessed(void **state)
{
	(void)state;
	put_card("SDIO");
	assert_string_equal(find(179, 2, 0), "unknown");
	assert_string_equal(found.name, "mmcblk0");
}

static void a_stick_is_usb_though_it_says_that_it_rotates(void **state)
{
	(void)state;
	put_usb("bus/usb/drivers/usb-storage", "480");
	assert_string_equal(find(8, 1, MSDOS_SUPER_MAGIC), "usb");
	assert_string_equal(found.name, "sda");
	assert_string_equal(found.model, "SanDisk Ultra Fit");
	assert_int_equal(found.usb_mbits, 480);
	assert_int_equal(found.rotational, 1);
}

static void a_usb_ssd_with_uas_takes_many_requests(void **state)
{
	medium_queue queue;

	(void)state;
	put_usb("bus/usb/drivers/uas", "5000");
	assert_string_equal(find(8, 1, 0), "uas");
	assert_int_equal(found.usb_mbits, 5000);
	medium_queue_of_kind(&queue, MEDIUM_UAS, &found);
	assert_int_equal(queue.depth, 8);
}

static void a_sata_disk_is_an_ssd_or_rotates(void **state)
{
	(void)state;
	put_disk("8:0", SATA, "0");
	put(SATA, "device/model", "CT500MX500");
	assert_string_equal(find(8, 0, 0), "ssd");
	assert_string_equal(found.model, "CT500MX500");
	put(SATA, "queue/rotational", "1");
	assert_string_equal(find(8, 0, 0), "hdd");
	assert_int_equal(found.rotational, 1);
}

static void an_nvme_partition_is_nvme(void **state)
{
	(void)state;
	put_nvme();
	put(NVME, "queue/optimal_io_size", "131072");
	assert_string_equal(find(259, 2, 0), "nvme");
	assert_string_equal(found.name, "nvme0n1");
	assert_string_equal(found.model, "Samsung SSD 980");
	assert_int_equal(found.optimal_io_bytes, 131072);
}

static void nvme_over_a_network_is_a_network(void **state)
{
	(void)state;
	put_nvme();
	put(NVME, "device/transport", "tcp");
	assert_string_equal(find(259, 0, 0), "network");
}

static void virtio_and_xen_disks_are_virtual(void **state)
{
	(void)state;
	put_disk("254:1", "devices/pci0000:00/0000:00:02.0/virtio1/block/vda", "1");
	put_disk("202:1", "devices/vbd-51712/block/xvda", "0");
	put_disk("8:32", "devices/pci0000:00/virtio2/host2/target2:0:0/2:0:0:0/block/sdc", "1");
	assert_string_equal(find(254, 1, 0), "virtual");
	assert_string_equal(find(202, 1, 0), "virtual");
	assert_string_equal(find(8, 32, 0), "virtual");
	assert_int_equal(found.members, 1);
}

static void memory_nand_nor_and_network_disks_go_by_their_names(void **state)
{
	(void)state;
	put_disk("253:0", "devices/virtual/block/zram0", "0");
	put_disk("1:0", "devices/virtual/block/ram0", "0");
	put_disk("43:0", "devices/virtual/block/nbd0", "0");
	put_disk("252:0", "devices/virtual/block/ubiblock0_3", "0");
	put_disk("31:0", "devices/platform/spi/mtd/mtd0/mtdblock0", "0");
	put_disk("31:1", "devices/platform/nand/mtd/mtd1/mtdblock1", "0");
	put("devices/platform/spi/mtd/mtd0/mtdblock0", "device/type", "nor");
	put("devices/platform/nand/mtd/mtd1/mtdblock1", "device/type", "nand");
	put_disk("240:0", "devices/virtual/block/whatever0", "0");
	assert_string_equal(find(253, 0, 0), "memory");
	assert_string_equal(find(1, 0, 0), "memory");
	assert_string_equal(find(43, 0, 0), "network");
	assert_string_equal(find(252, 0, 0), "nand");
	assert_string_equal(find(31, 0, 0), "nor");
	assert_string_equal(find(31, 1, 0), "nand");
	assert_string_equal(find(240, 0, 0), "unknown");
}

/* ---- what lies on something else ---- */

static void a_loop_device_is_as_its_file_s_medium(void **state)
{
	(void)state;
	put_card("SD");
	put_disk("7:0", "devices/virtual/block/loop0", "0");
	put("devices/virtual/block/loop0", "loop/backing_file", "/srv/with blank.img");
	put_partition("259:9", "devices/virtual/block/loop0", "loop0p1");
	below = (medium_place){179, 2, EXT4_SUPER_MAGIC};
	assert_string_equal(find(7, 0, 0), "sd");
	assert_string_equal(found.name, "loop0");
	assert_string_equal(found.model, "SC64G");
	assert_string_equal(find(259, 9, 0), "sd");
	below = (medium_place){0, 52, FUSE_SUPER_MAGIC};
	assert_string_equal(find(7, 0, 0), "fuse");
}

static void a_loop_device_whose_file_is_gone_is_unknown(void **state)
{
	(void)state;
	put_disk("7:0", "devices/virtual/block/loop0", "0");
	put("devices/virtual/block/loop0", "loop/backing_file", "/srv/model.img (deleted)");
	assert_string_equal(find(7, 0, 0), "unknown");
}

static void a_loop_device_on_itself_ends(void **state)
{
	(void)state;
	put_disk("7:0", "devices/virtual/block/loop0", "0");
	put("devices/virtual/block/loop0", "loop/backing_file", "/srv/with blank.img");
	below = (medium_place){7, 0, 0};
	assert_string_equal(find(7, 0, 0), "unknown");
}

static void an_encrypted_nvme_is_nvme(void **state)
{
	(void)state;
	put_nvme();
	put_disk("252:0", "devices/virtual/block/dm-0", "0");
	put_link("devices/virtual/block/dm-0/slaves", "nvme0n1p2", NVME "/nvme0n1p2");
	assert_string_equal(find(252, 0, 0), "nvme");
	assert_string_equal(found.name, "dm-0");
	assert_string_equal(found.model, "Samsung SSD 980");
	assert_int_equal(found.members, 1);
}

static void a_raid_is_as_its_slowest_member_and_deeper(void **state)
{
	medium_queue queue;

	(void)state;
	put_nvme();
	put_disk("8:0", SATA, "0");
	put(SATA, "device/model", "CT500MX500");
	put_disk("9:0", "devices/virtual/block/md0", "0");
	put_link("devices/virtual/block/md0/slaves", "nvme0n1", NVME);
	put_link("devices/virtual/block/md0/slaves", "sda", SATA);
	assert_string_equal(find(9, 0, 0), "ssd");
	assert_string_equal(found.name, "md0");
	assert_string_equal(found.model, "CT500MX500");
	assert_int_equal(found.members, 2);
	medium_queue_of_kind(&queue, MEDIUM_SSD, &found);
	assert_int_equal(queue.depth, MEDIUM_DEPTH_MAX);
}

static void mappings_that_go_in_a_circle_end(void **state)
{
	(void)state;
	put_disk("252:0", "devices/virtual/block/dm-0", "0");
	put_disk("252:1", "devices/virtual/block/dm-1", "0");
	put_link("devices/virtual/block/dm-0/slaves", "dm-1", "devices/virtual/block/dm-1");
	put_link("devices/virtual/block/dm-1/slaves", "dm-0", "devices/virtual/block/dm-0");
	assert_string_equal(find(252, 0, 0), "unknown");
}

/* ---- file systems without a device ---- */

static void file_systems_without_a_device_go_by_their_type(void **state)
{
	(void)state;
	assert_string_equal(find(0, 40, TMPFS_MAGIC), "memory");
	assert_string_equal(found.name, "tmpfs");
	assert_string_equal(find(0, 40, NFS_SUPER_MAGIC), "network");
	assert_string_equal(find(0, 40, 0xff534d42), "network");
	/* statfs(2) gives a signed word where words have 32 bits. */
	assert_string_equal(find(0, 40, (uint64_t)(int32_t)0xff534d42), "network");
	assert_string_equal(find(0, 40, FUSE_SUPER_MAGIC), "fuse");
	assert_int_equal(found.rotational, -1);
	assert_int_equal(found.members, 0);
}

static void btrfs_and_overlay_do_not_tell(void **state)
{
	(void)state;
	assert_string_equal(find(0, 31, BTRFS_SUPER_MAGIC), "unknown");
	assert_string_equal(found.name, "btrfs");
	assert_string_equal(find(0, 31, OVERLAYFS_SUPER_MAGIC), "unknown");
	assert_string_equal(find(0, 31, 0x12345678), "unknown");
	assert_string_equal(found.name, "");
}

static void without_sysfs_everything_is_unknown(void **state)
{
	(void)state;
	assert_string_equal(find(8, 1, 0), "unknown");
	assert_true(medium_is_silent(MEDIUM_UNKNOWN));
	assert_string_equal(found.name, "");
	assert_string_equal(found.model, "");
}

static void what_a_device_calls_itself_is_made_printable(void **state)
{
	(void)state;
	put_card("SD");
	put(CARD, "device/name", "\x1b[31mX\xff");
	find(179, 0, 0);
	assert_string_equal(found.model, "?[31mX?");
	put(CARD, "device/name",
	    "a name that goes on and on and on and on and on and on and on and on and on and on");
	find(179, 0, 0);
	assert_int_equal(strlen(found.model), sizeof(found.model) - 1);
}

static void the_file_of_this_test_lies_somewhere(void **state)
{
	FILE *file = fopen("/proc/self/exe", "r");

	(void)state;
	assert_non_null(file);
	medium_find_fd(&found, fileno(file));
	assert_non_null(found.kind);
	fclose(file);
	medium_find_fd(&found, -1);
	assert_string_equal(found.kind, "unknown");
}

/* ---- queueing ---- */

static void every_kind_has_a_queue(void **state)
{
	mfs_medium plain = {.members = 1};
	medium_queue queue;

	(void)state;
	for (int kind = 0; kind < MEDIUM_KINDS; kind++) {
		medium_queue_of_kind(&queue, (medium_kind)kind, &plain);
		assert_string_equal(queue.name, medium_kind_name((medium_kind)kind));
		assert_in_range(queue.depth, 1, MEDIUM_DEPTH_MAX);
		assert_in_range(queue.request_bytes, 64 << 10, 4 << 20);
		assert_true(queue.window_bytes >= (uint64_t)queue.request_bytes * queue.depth);
		assert_int_equal(queue.mixture_read_ahead,
				 kind == MEDIUM_NVME || kind == MEDIUM_MEMORY ? MFS_READ_AHEAD_MAX
									      : 256 << 10);
	}
}

static const char *measured_as(uint32_t latency, uint32_t channels, uint32_t mbytes)
{
	mfs_medium medium = {.latency_us = latency,
			     .channels = channels,
			     .bytes_per_second = (uint64_t)mbytes * 1000000};
	medium_queue queue;

	return medium_queue_of_probe(&queue, &medium) ? queue.name : NULL;
}

static void what_was_measured_is_queued_as_what_is_like_it(void **state)
{
	(void)state;
	assert_string_equal(measured_as(800, 1, 25), "sd");
	assert_string_equal(measured_as(500, 1, 83), "sd");
	assert_string_equal(measured_as(600, 1, 95), "sd");
	assert_string_equal(measured_as(80, 4, 460), "ssd");
	assert_string_equal(measured_as(60, 4, 2200), "nvme");
	assert_string_equal(measured_as(150, 3, 690), "ssd");
	assert_string_equal(measured_as(1200, 2, 70), "sd"); /* on a busy machine */
	assert_string_equal(measured_as(9000, 1, 140), "hdd");
	assert_string_equal(measured_as(12000, 4, 30), "network");
	/* A page cache answers like this, no medium does. */
	assert_null(measured_as(4, 1, 9000));
}

#define ON_A_TREE(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ON_A_TREE(an_sd_card_of_a_pi_is_sd),
	    ON_A_TREE(a_command_queue_makes_a_card_deeper),
	    ON_A_TREE(soldered_flash_is_emmc),
	    ON_A_TREE(a_card_of_an_unknown_type_is_not_guessed),
	    ON_A_TREE(a_stick_is_usb_though_it_says_that_it_rotates),
	    ON_A_TREE(a_usb_ssd_with_uas_takes_many_requests),
	    ON_A_TREE(a_sata_disk_is_an_ssd_or_rotates),
	    ON_A_TREE(an_nvme_partition_is_nvme),
	    ON_A_TREE(nvme_over_a_network_is_a_network),
	    ON_A_TREE(virtio_and_xen_disks_are_virtual),
	    ON_A_TREE(memory_nand_nor_and_network_disks_go_by_their_names),
	    ON_A_TREE(a_loop_device_is_as_its_file_s_medium),
	    ON_A_TREE(a_loop_device_whose_file_is_gone_is_unknown),
	    ON_A_TREE(a_loop_device_on_itself_ends),
	    ON_A_TREE(an_encrypted_nvme_is_nvme),
	    ON_A_TREE(a_raid_is_as_its_slowest_member_and_deeper),
	    ON_A_TREE(mappings_that_go_in_a_circle_end),
	    ON_A_TREE(file_systems_without_a_device_go_by_their_type),
	    ON_A_TREE(btrfs_and_overlay_do_not_tell),
	    ON_A_TREE(without_sysfs_everything_is_unknown),
	    ON_A_TREE(what_a_device_calls_itself_is_made_printable),
	    cmocka_unit_test(the_file_of_this_test_lies_somewhere),
	    cmocka_unit_test(every_kind_has_a_queue),
	    cmocka_unit_test(what_was_measured_is_queued_as_what_is_like_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
